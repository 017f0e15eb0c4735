"""Weights from the files of Keras and torch."""

import functools
import importlib.util
import os
import pathlib
import struct
import subprocess
import sys
import unittest
import zipfile
from unittest import mock

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from safetensors.numpy import save_file

from minec2f_jax.errors import UserError
from minec2f_jax.models import DenseNet
from tests import weights
from tests.oracles import layers
from tests.pretrained_case import WRITERS, PretrainedTestCase

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIX = ("red", "green", "blue", "nir", "swir1", "swir2")
TORCH = importlib.util.find_spec("torch")
KERAS = importlib.util.find_spec("keras")


class LoadTest(PretrainedTestCase):
  @parameterized.parameters(*WRITERS)
  def test_every_tensor_comes_to_its_place(self, kind):
    variables = weights.random_encoder()
    WRITERS[kind](self.path, variables)
    encoder = self._load()
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, variables)
    self.assertTrue(all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(encoder.variables)))

  @parameterized.parameters(2, 3, 4)
  def test_a_safetensors_file_whose_length_begins_as_a_pickle_does_is_none(self, protocol):
    variables = weights.random_encoder()
    weights.write_safetensors(self.path, variables)
    content = self.path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].ljust(0x1_0080 + (protocol << 8))
    self.assertGreater(len(header), length)
    self.path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    jax.tree.map(np.testing.assert_array_equal, self._load().variables, variables)

  def test_what_no_encoder_has_is_told(self):
    weights.write_safetensors(self.path, weights.random_encoder())
    ignored = self._load().ignored
    self.assertContainsSubset({"classifier.weight", "classifier.bias", "features.norm0.num_batches_tracked"}, ignored)
    self.assertLen(ignored, 2 + 13)

  @parameterized.parameters("norm.1", "conv.2")
  def test_the_dotted_names_of_torchvisions_published_file_are_known(self, dotted):
    variables = weights.random_encoder()
    plain = dotted.replace(".", "")
    tensors = {name.replace(f".{plain}.", f".{dotted}."): x for name, x in weights.torch_tensors(variables).items()}
    self.assertIn(f"features.denseblock1.denselayer1.{dotted}.weight", tensors)
    save_file(tensors, self.path)
    jax.tree.map(np.testing.assert_array_equal, self._load().variables, variables)

  def test_half_precision_becomes_float32(self):
    variables = jax.tree.map(lambda x: x.astype(np.float16), weights.random_encoder())
    weights.write_safetensors(self.path, variables)
    jax.tree.map(np.testing.assert_array_equal, self._load().variables, variables)

  def test_without_a_network_it_takes_the_one_in_the_file(self):
    weights.write_keras_3(self.path, weights.random_encoder())
    module = self._load(encoder=None).module
    self.assertEqual(module, DenseNet(block_sizes=(1, 1, 1, 1), growth_rate=4, stem_features=4, bottleneck=4))

  def test_the_hash_is_that_of_the_file(self):
    weights.write_safetensors(self.path, weights.random_encoder())
    expected = subprocess.run(["sha256sum", self.path], capture_output=True, text=True, check=True).stdout.split()[0]
    self.assertEqual(self._load().sha256, expected)


@unittest.skipUnless(KERAS, "keras is not installed")
class KerasTest(PretrainedTestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    from keras.src.applications import densenet  # Public are only 121, 169 and 201.

    rng = np.random.default_rng(0)
    cls.model = densenet.DenseNet([1, 2, 1, 1], include_top=True, weights=None, input_shape=(64, 64, 3), classes=5)
    for weight in cls.model.weights:
      noise = rng.uniform(0.5, 1.5, weight.shape) if len(weight.shape) == 1 else rng.normal(0, 0.1, weight.shape)
      weight.assign(noise.astype(np.float32))
    taps = ["conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv", "relu"]
    cls.taps = keras.Model(cls.model.inputs, [cls.model.get_layer(name).output for name in taps])

  @parameterized.product(name=["NAME.weights.h5", "NAME.h5"], nested=[True, False])
  def test_a_fine_tuned_head_is_named(self, name, nested):
    import keras

    inner = keras.Model(self.model.inputs, self.model.get_layer("relu").output, name="inner")
    pooled = keras.layers.GlobalAveragePooling2D()
    head = keras.layers.Dense(2, name="mine")
    if nested:
      model = keras.Sequential([keras.Input((64, 64, 3)), inner, pooled, head])
    else:
      model = keras.Model(inner.inputs, head(pooled(inner.output)))
    self.path = self.root / name
    model.save_weights(self.path) if ".weights." in name else model.save(self.path)
    self._refused(
      r"holds more than an encoder and classifier \(2 not in a DenseNet: \S*mine/bias, \S*mine/kernel\); "
      "save the encoder alone$",
      encoder=None,
    )

  @parameterized.parameters("NAME.weights.h5", "NAME.h5", "NAME.keras")
  def test_what_keras_saves_gives_the_same_features(self, name):
    path = self.root / name
    self.model.save_weights(path) if ".weights." in name else self.model.save(path)
    if name.endswith(".keras"):
      with self.assertRaisesRegex(UserError, r"take model\.weights\.h5 out of it"):
        self._load(path=path, encoder=None)
      with zipfile.ZipFile(path) as archive:
        path = archive.extract("model.weights.h5", self.root)
    encoder = self._load(path=path, encoder=None)
    self.assertEqual(encoder.module.block_sizes, (1, 2, 1, 1))
    self.assertLen(encoder.ignored, 2)
    image = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    features = layers.apply(encoder.module, encoder.variables, image, train=False)
    for value, expected in zip(features.values(), self.taps(image)):
      np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@unittest.skipUnless(TORCH, "torch is not installed")
class TorchTest(PretrainedTestCase):
  @parameterized.product(zipped=[True, False], wrapped=[True, False])
  def test_what_torch_saves_gives_the_same_features(self, zipped, wrapped):
    import torch

    from tests.oracles import torch_models

    torch.manual_seed(0)
    theirs = torch_models.DenseNet(bands=3, block_sizes=(1, 2, 1), growth=4, stem=6).eval()
    for tensor in theirs.state_dict().values():
      if tensor.ndim == 1:
        tensor.uniform_(0.5, 1.5)
    state = (
      {"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}} if wrapped else theirs.state_dict()
    )
    torch.save(state, self.path, _use_new_zipfile_serialization=zipped)
    encoder = self._load(encoder=None)
    image = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    features = layers.apply(encoder.module, encoder.variables, image, train=False)
    with torch.no_grad():
      expected = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    for level, value in features.items():
      reference = expected[level].numpy().transpose(0, 2, 3, 1)
      np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max(), err_msg=level)

  @parameterized.parameters(0.5, 0.9, 0.99)
  def test_a_truncated_file_of_the_old_kind_is_to_be_downloaded_again(self, share):
    import torch

    torch.save({"a": torch.ones(1000)}, self.path, _use_new_zipfile_serialization=False)
    content = self.path.read_bytes()
    self.path.write_bytes(content[: int(share * len(content))])
    self._refused(r"cut off.*nothing of it was run; download it again, or copy it whole, or take a \.safetensors")

  def test_what_asks_for_code_is_not_to_be_downloaded_again(self):
    import torch

    torch.save({"a": functools.partial(print)}, self.path)
    self.assertNotIn("again", self._refused(r"asks for functools\.partial.*take a \.safetensors of the same weights"))

  def test_a_training_checkpoint_with_more_than_a_state_dict_is_refused(self):
    import torch

    torch.save({"epoch": 3, "net": {"a": torch.ones(2)}}, self.path)
    self._refused("is not a state_dict.*epoch, net")

  def test_a_torch_that_is_not_safe_is_not_used(self):
    import torch

    torch.save({"a": torch.ones(2)}, self.path)
    with mock.patch.object(torch, "__version__", "2.5.1"), mock.patch.object(torch, "load") as load:
      self._refused(r"torch 2\.5\.1 cannot read it safely.*2\.6")
    load.assert_not_called()


class AdapterTest(PretrainedTestCase):
  def setUp(self):
    super().setUp()
    self.variables = weights.random_encoder()
    weights.write_safetensors(self.path, self.variables)
    self.kernel = np.asarray(self.variables["params"]["stem_conv"]["kernel"])

  def _stem(self, bands):
    return self._load(bands=bands).variables["params"]["stem_conv"]["kernel"]

  def test_inflation_puts_each_kernel_to_its_band_and_the_mean_to_the_others(self):
    red, green, blue = np.moveaxis(self.kernel, 2, 0)
    stem = self._stem(("blue", "nir", "red", "green"))
    for band, expected in enumerate((blue, (red + green + blue) / 3, red, green)):
      np.testing.assert_allclose(stem[:, :, band], expected * 3 / 4, rtol=1e-5, atol=1e-7)

  def test_three_bands_in_order_change_nothing(self):
    np.testing.assert_array_equal(self._stem(("red", "green", "blue")), self.kernel)

  @parameterized.parameters([SIX], [SIX[:4]], [("swir2", "blue", "red", "green")])
  def test_an_image_that_is_the_same_in_all_bands_gives_the_features_of_a_grey_one(self, bands):
    grey = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    features = layers.apply(weights.NET, self._load(bands=bands).variables, np.tile(grey, len(bands)), train=False)
    expected = layers.apply(weights.NET, self.variables, np.tile(grey, 3), train=False)
    for level, value in expected.items():
      np.testing.assert_allclose(features[level], value, rtol=1e-4, atol=1e-5, err_msg=level)

  def test_conv1x1_passes_on_red_green_and_blue(self):
    net = weights.NET.clone(input_adapter=True)
    bands = ("nir", "blue", "green", "red", "swir1", "swir2")
    encoder = self._load(bands=bands, adapter="conv1x1", encoder=net)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 6)).astype(np.float32)
    features = layers.apply(net, encoder.variables, image, train=False)
    expected = layers.apply(weights.NET, self.variables, image[..., [3, 2, 1]], train=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), features, expected)

  def test_conv1x1_adds_21_parameters_for_six_bands(self):
    image = jax.ShapeDtypeStruct((1, 32, 32, 6), jnp.float32)
    shapes = layers.init_shapes(weights.NET.clone(input_adapter=True), image, train=False)
    self.assertEqual(sum(x.size for x in jax.tree.leaves(shapes["params"]["input_adapter"])), 21)

  def test_scratch_brings_all_but_the_stem(self):
    params = self._load(bands=SIX, adapter="scratch").variables["params"]
    self.assertEqual(set(self.variables["params"]) - set(params), {"stem_conv", "stem_norm"})

  @parameterized.parameters(
    (dict(adapter="mean"), "'mean' is not known.*inflate"),
    (dict(bands=("red", "rad")), "red,rad"),
    (dict(bands=("red", "red")), "red,red"),
    (dict(bands=("red", "nir"), adapter="conv1x1", encoder=None), "lack.*green"),
    (dict(adapter="conv1x1"), r"input_adapter=False.*True for conv1x1"),
    (dict(encoder=weights.NET.clone(input_adapter=True)), r"input_adapter=True"),
  )
  def test_a_request_that_cannot_be_met_is_named(self, options, pattern):
    with self.assertRaisesRegex(UserError, pattern):
      self._load(**options)


class MergeTest(PretrainedTestCase):
  def test_all_that_does_not_fit_is_listed_in_one_error(self):
    def change(tensors):
      del tensors["features.norm0.running_mean"], tensors["features.transition2.conv.weight"]
      tensors["features.conv9.weight"] = tensors["features.conv9.bias"] = np.zeros(3, np.float32)
      tensors["features.norm5.bias"] = np.zeros(5, np.float32)
      tensors["features.norm5.running_var"] = -tensors["features.norm5.running_var"]
      tensors["features.norm5.weight"] = np.full_like(tensors["features.norm5.weight"], np.nan)
      tensors["module.norm0.weight"] = tensors["features.norm0.weight"]

    self._write(change)
    self._refused(
      r"2 missing: norm0\.running_mean, transition2\.conv\.weight; 2 not in a DenseNet: features\.conv9\.bias, "
      r"features\.conv9\.weight; 1 of another shape: features\.norm5\.bias \(5,\) instead of \(8,\); "
      r"1 not finite numbers: features\.norm5\.weight; 1 given twice: norm0\.weight; "
      r"1 with a negative variance: features\.norm5\.running_var\); give its weights whole and unchanged$"
    )

  @parameterized.parameters("safetensors", "published")
  def test_a_stem_of_other_bands_is_refused_as_the_file_has_it_and_scratch_leaves_it_out(self, kind):
    variables = weights.random_encoder()
    stem = {"kernel": np.zeros((7, 7, 12, 4), np.float32)}
    WRITERS[kind](self.path, {**variables, "params": {**variables["params"], "stem_conv": stem}})
    name, theirs, ours = {
      "safetensors": (r"features\.conv0\.weight", r"\(4, 12, 7, 7\)", r"\(4, 3, 7, 7\)"),
      "published": (r"conv1/conv/conv1/conv/kernel:0", r"\(7, 7, 12, 4\)", r"\(7, 7, 3, 4\)"),
    }[kind]
    self._refused(
      rf"\(1 of another shape: {name} {theirs} instead of {ours}\); it has a stem of 12 bands; "
      r"config\.pretrained_adapter=scratch leaves it out$"
    )
    loaded = self._load(adapter="scratch").variables
    for collection, modules in loaded.items():
      expected = {name: leaves for name, leaves in variables[collection].items() if not name.startswith("stem")}
      jax.tree.map(np.testing.assert_array_equal, modules, expected)

  def test_a_matrix_of_another_size_is_named_as_the_kernel_that_it_is_in_the_file(self):
    name = "features.denseblock1.denselayer1.conv1.weight"
    self._write(lambda tensors: tensors.update({name: np.zeros((16, 5, 1, 1), np.float32)}))
    self._refused(r"denselayer1\.conv1\.weight \(16, 5, 1, 1\) instead of \(16, 4, 1, 1\)\); give its weights whole")

  @parameterized.parameters("safetensors", "keras")
  def test_a_head_of_its_own_alone_is_no_damage(self, kind):
    WRITERS[kind](self.path, weights.random_encoder())
    if kind == "keras":
      with h5py.File(self.path, "a") as file:
        file["dense/dense/kernel:0"], file["dense/dense/bias:0"] = np.zeros((4, 2)), np.zeros(2)
      name = "dense/dense"
    else:
      self._write(lambda tensors: tensors.update({f"head.{leaf}": np.zeros(2, np.float32) for leaf in ("bias", "w")}))
      name = r"head\."
    self._refused(
      rf"some file: holds more than an encoder and classifier \(2 not in a DenseNet: {name}.*, {name}[^,]*\); "
      "save the encoder alone$"
    )

  def test_integers_are_called_so_and_counted_after_eight(self):
    def change(tensors):
      tensors.update({name: array.astype(np.int8) for name, array in tensors.items()})

    self._write(change)
    count = len(jax.tree.leaves(weights.random_encoder()))
    message = self._refused(rf"\({count} integers: features\.conv0\.weight, .*, \.\.\. and {count - 8} more\); give")
    self.assertEqual(message.count("features."), 8)

  @parameterized.parameters(
    "_orig_mod.", "model.", "model.encoder.", "encoder.", "module.", "_orig_mod.module.", "model._orig_mod."
  )
  def test_what_wraps_a_network_may_stand_before_every_name(self, prefix):
    variables = weights.random_encoder()
    save_file({f"{prefix}{name}": array for name, array in weights.torch_tensors(variables).items()}, self.path)
    encoder = self._load(encoder=None)
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, variables)
    self.assertIn(f"{prefix}classifier.weight", encoder.ignored)

  @parameterized.parameters("", "model.")
  def test_a_segmentation_networks_decoder_is_left_out(self, prefix):
    variables = weights.random_encoder()
    tensors = {f"encoder.{name}": array for name, array in weights.torch_tensors(variables).items()}
    others = ("decoder.blocks.0.conv1.0.weight", "segmentation_head.0.bias")
    tensors |= {name: np.zeros(3, np.float32) for name in others}
    save_file({f"{prefix}{name}": array for name, array in tensors.items()}, self.path)
    encoder = self._load()
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, variables)
    self.assertContainsSubset([f"{prefix}{name}" for name in others], encoder.ignored)

  def test_another_size_of_densenet_is_named_by_its_blocks(self):
    self._write(lambda tensors: None)
    self._refused(
      r"block_sizes=\(1, 1, 1, 1\), stem_features=4, growth_rate=4, but config\.model\.encoder has "
      r"block_sizes=\(6, 12, 24, 16\), stem_features=64, growth_rate=32",
      encoder=DenseNet(),
    )

  @parameterized.parameters(
    ("vgg keras", ["block1_conv1/block1_conv1/kernel:0", "block1_conv1/block1_conv1/bias:0", "fc1/fc1/kernel:0"]),
    ("resnet keras", weights.resnet50_names()),
    ("vgg torch", ["features.0.weight", "features.0.bias", "classifier.0.weight"]),
  )
  def test_another_networks_weights_are_refused(self, _, names):
    if "/" in names[0]:
      with h5py.File(self.path, "w") as file:
        for name in names:
          file[name] = np.ones((3, 3, 3, 8), np.float32)
    else:
      save_file({name: np.ones((8, 3, 3, 3), np.float32) for name in names}, self.path)
    self._refused(rf"holds no DenseNet but {len(names)} tensors called {min(names)}")
    self._refused(rf"holds no DenseNet and no Prithvi encoder but {len(names)} tensors", encoder=None)


class CommandTest(PretrainedTestCase):
  def _run(self, *arguments):
    command = [sys.executable, "-m", "minec2f_jax.models.pretrained", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

  def test_it_prints_what_another_implementation_can_be_compared_with(self):
    variables = weights.random_encoder()
    weights.write_safetensors(self.path, variables)
    result = self._run(self.path, f"--bands={','.join(SIX)}")
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertRegex(result.stdout, r"SHA-256 +[0-9a-f]{64}\n")
    self.assertRegex(result.stdout, r"bn_epsilon +1e-05")
    values = np.concatenate([np.ravel(x).astype(float) for x in jax.tree.leaves(variables["params"]["final_norm"])])
    stats = np.concatenate([np.ravel(x).astype(float) for x in jax.tree.leaves(variables["batch_stats"]["final_norm"])])
    values = np.concatenate([values, stats])
    self.assertRegex(result.stdout, rf"final_norm +4 +{values.size} +{values.mean():.6g}\d* +{values.std():.6g}\d*\n")
    image = np.random.default_rng(0).standard_normal((1, 64, 64, 6), np.float32)
    net = weights.NET.clone(bn_epsilon=1e-5)
    features = layers.apply(net, self._load(bands=SIX).variables, image, train=False)
    for level, value in features.items():
      line = next(line for line in result.stdout.splitlines() if line.startswith(level)).split(")")[1].split()
      np.testing.assert_allclose(float(line[0]), np.mean(np.asarray(value), dtype=np.float64), rtol=1e-4, atol=1e-6)
      np.testing.assert_allclose([float(x) for x in line[2:]], np.asarray(value)[0, 0, 0, :4], rtol=1e-3, atol=1e-5)

  def test_a_wrong_file_gets_one_line_and_status_1(self):
    self.path.write_text("<html>")
    result = self._run(self.path)
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, r"^minec2f_jax\.models\.pretrained: .*is a web page.*\n$")


if __name__ == "__main__":
  absltest.main()
