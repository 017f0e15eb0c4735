"""Prithvi's weights from files, and files that do not hold them."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import jax
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn

from minec2f_jax.errors import UserError
from minec2f_jax.models import ViTEncoder, pretrained, prithvi
from tests import prithvi_weights, weights
from tests.oracles import layers
from tests.prithvi_weights import DECODER, NET, WIDTH

ROOT = pathlib.Path(__file__).resolve().parent.parent
TORCH = importlib.util.find_spec("torch")


class PrithviTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.root / "some file"
    self.weights = prithvi_weights.random_weights()

  def _write(self, **changes):
    prithvi_weights.write_safetensors(self.path, {**self.weights, **changes})

  def _load(self, *, bands=prithvi.BANDS, adapter="inflate", encoder=NET):
    return pretrained.load(self.path, bands=bands, adapter=adapter, encoder=encoder)

  def _refused(self, pattern, **options):
    with self.assertRaisesRegex(UserError, pattern) as caught:
      self._load(**options)
    self.assertNotIn("\n", str(caught.exception))
    return str(caught.exception)


class LoadTest(PrithviTestCase):
  @parameterized.parameters(False, True)
  def test_the_file_fills_the_whole_encoder_and_nothing_else(self, later):
    if later:
      self.weights = prithvi_weights.later_names(self.weights)
    self._write()
    encoder = self._load()
    shapes = layers.init_shapes(NET, np.zeros((1, 32, 32, 6), np.float32), train=False)
    self.assertEqual(set(encoder.variables), {"params"})
    jax.tree.map(lambda a, b: self.assertEqual((a.shape, a.dtype), (b.shape, b.dtype)), encoder.variables, shapes)
    expected, ignored = prithvi.encoder_params(self.weights, bands=prithvi.BANDS, variables=shapes)
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, expected)
    self.assertEqual(encoder.ignored, ignored)
    self.assertLen(ignored, len(DECODER) + 1)
    self.assertEqual((encoder.module, encoder.format), (NET, "safetensors"))

  @parameterized.parameters([("red", "green", "blue", "nir", "swir1", "swir2")], [("nir", "red")], [("swir2",)])
  def test_each_band_keeps_its_own_kernel_in_any_order(self, bands):
    self._write()
    kernel = self._load(bands=bands).variables["params"]["patch_embed"]["kernel"]
    theirs = self.weights["patch_embed.proj.weight"]
    self.assertEqual(kernel.shape, (16, 16, len(bands), WIDTH))
    for channel, band in enumerate(bands):
      expected = theirs[:, ("blue", "green", "red", "nir", "swir1", "swir2").index(band), 0].transpose(1, 2, 0)
      np.testing.assert_array_equal(kernel[:, :, channel], expected)

  def test_without_a_network_it_takes_the_one_in_the_file(self):
    self._write()
    self.assertEqual(self._load(encoder=None).module, ViTEncoder(width=WIDTH, depth=2, heads=1, mlp_ratio=4))

  @parameterized.parameters((768, 12), (1024, 16), (96, 1))
  def test_heads_are_64_wide_where_they_can_be(self, width, heads):
    block = {"norm1.weight": (width,), "attn.qkv.weight": (3 * width, width), "mlp.fc1.bias": (2 * width,)}
    tensors = {f"encoder.blocks.{n}.{name}": np.zeros(shape) for n in range(3) for name, shape in block.items()}
    family = next(family for family in pretrained.FAMILIES if family.fields(tensors))
    self.assertEqual(family.fields(tensors), {"width": width, "depth": 3, "mlp_ratio": 2})
    self.assertEqual(pretrained.prithvi._heads(width), heads)

  @unittest.skipUnless(TORCH, "torch is not installed")
  @parameterized.parameters(True, False)
  def test_what_torch_saves_gives_the_same_features(self, wrapped):
    import torch

    from tests.oracles import torch_vit

    bands = ("red", "green", "blue", "nir", "swir1", "swir2")
    oracle = torch_vit.randomize(torch_vit.Encoder(grid=(1, 2, 3), width=WIDTH, depth=2, heads=2))
    state = {f"encoder.{name}": tensor for name, tensor in oracle.state_dict().items()}
    state["encoder.pos_embed"] = torch_vit.positions(3, 2, 2, WIDTH)  # The file's grid is another than the image's.
    state["decoder.decoder_embed.weight"] = torch.ones(3, WIDTH)
    torch.save({"model": state} if wrapped else state, self.path)
    encoder = self._load(bands=bands)
    self.assertEqual(encoder.format, "PyTorch")
    self.assertEqual(encoder.ignored, ("decoder.decoder_embed.weight", "encoder.pos_embed"))
    image = np.random.default_rng(1).normal(size=(2, 32, 48, 6)).astype(np.float32)
    with torch.no_grad():
      ordered = image[..., [bands.index(band) for band in prithvi.BANDS]].transpose(0, 3, 1, 2)[:, :, None]
      expected = oracle(torch.from_numpy(np.ascontiguousarray(ordered)))[:, 1:].reshape(2, 2, 3, WIDTH).numpy()
    features = layers.apply(encoder.module, encoder.variables, image, train=False)["c4"]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


class RefusalTest(PrithviTestCase):
  @parameterized.parameters("conv1x1", "scratch")
  def test_there_is_nothing_to_adapt(self, adapter):
    self._write()
    self._refused(
      rf"adapter '{adapter}' \(config\.pretrained_adapter\).*blue, green, red, nir, .*take inflate", adapter=adapter
    )

  def test_all_that_does_not_fit_is_listed_in_one_error_with_the_file(self):
    del self.weights["norm.bias"]
    self._write(
      **{
        "blocks.1.mlp.fc3.weight": np.zeros(3, np.float32),
        "norm.weight": np.full(WIDTH, np.inf, np.float32),
        "blocks.0.norm2.bias": np.zeros(5, np.float32),
      }
    )
    message = (
      f"{self.path}: does not fit this Prithvi encoder (1 missing: norm.bias; 1 not in a Prithvi encoder: "
      "blocks.1.mlp.fc3.weight; 1 of another shape: blocks.0.norm2.bias (5,) instead of (32,); "
      "1 not finite numbers: norm.weight); give its weights whole and unchanged"
    )
    self.assertEqual(self._refused(re.escape(message)), message)

  def test_another_size_is_named(self):
    self._write()
    self._refused(
      r"some file: holds a Prithvi encoder with width=32, depth=2, but config\.model\.encoder has width=768, depth=12;",
      encoder=ViTEncoder(),
    )

  def test_a_densenets_weights_for_prithvi_name_both(self):
    weights.write_safetensors(self.path, weights.random_encoder())
    self._refused(r"holds a DenseNet, but the encoder .* is a Prithvi encoder; give Prithvi_EO_V1_100M\.pt")

  def test_prithvis_weights_for_a_densenet_name_both(self):
    self._write()
    self._refused(
      r"holds a Prithvi encoder, but the encoder .* is a DenseNet; give .*DenseNet-121", encoder=weights.NET
    )

  def test_an_encoder_that_no_file_is_known_of_is_named(self):
    self._write()
    self._refused(
      r"to a DenseNet or a Prithvi encoder, but .* is a Dense; leave out config\.pretrained", encoder=nn.Dense(1)
    )

  def test_a_file_of_something_else_is_refused_by_what_was_looked_for(self):
    prithvi_weights.write_safetensors(self.path, {"blocks.0.conv.weight": np.ones((3, 3), np.float32)})
    self._refused("holds no Prithvi encoder but 1 tensors called blocks.0.conv.weight")
    self._refused("holds no DenseNet and no Prithvi encoder but 1 tensors", encoder=None)

  def test_a_vit_of_ordinary_images_is_refused_by_what_differs(self):
    weights_of_a_vit = {name: array for name, array in self.weights.items() if name not in DECODER}
    self.weights = weights_of_a_vit
    self._write(
      **{
        "patch_embed.proj.weight": np.zeros((WIDTH, 3, 16, 16), np.float32),
        "pos_embed": np.ones((1, 197, WIDTH), np.float32),
        "head.weight": np.zeros((10, WIDTH), np.float32),
      }
    )
    self._refused(
      r"1 not in a Prithvi encoder: head\.weight; 1 of another shape: patch_embed\.proj\.weight \(32, 3, 16, 16\) "
      r"instead of \(32, 6, 1, 16, 16\); 1 not the sines and cosines .*: pos_embed"
    )


class CommandTest(PrithviTestCase):
  def _run(self, *arguments):
    command = [sys.executable, "-m", "minec2f_jax.models.pretrained", str(self.path), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

  def test_it_prints_what_another_implementation_can_be_compared_with(self):
    self._write()
    result = self._run(f"--bands={','.join(prithvi.BANDS)}")
    self.assertEqual(result.returncode, 0, result.stderr)
    encoder = self._load(encoder=None)
    self.assertRegex(result.stdout, r"network +Prithvi encoder, width=32, depth=2, heads=1, mlp_ratio=4")
    total = sum(leaf.size for leaf in jax.tree.leaves(encoder.variables))
    self.assertRegex(result.stdout, rf"mapped +29 tensors, {total:,} numbers \({total:,} parameters\)\n")
    self.assertRegex(result.stdout, rf"ignored +{len(DECODER) + 1} tensors: decoder_blocks")
    parts = [line.split()[0] for line in result.stdout.split("\n\n")[1].splitlines()]
    self.assertEqual(parts, ["part", "cls_token", "patch_embed", "block1", "block2", "final_norm"])
    norm = np.concatenate([self.weights["norm.weight"], self.weights["norm.bias"]]).astype(float)
    printed = next(line for line in result.stdout.splitlines() if line.startswith("final_norm")).split()[1:]
    np.testing.assert_allclose([float(x) for x in printed], [2, norm.size, norm.mean(), norm.std()], rtol=1e-6)
    image = np.random.default_rng(0).standard_normal((1, 64, 64, 6), np.float32)
    value = np.asarray(layers.apply(encoder.module, encoder.variables, image, train=False)["c4"])
    line = next(line for line in result.stdout.splitlines() if line.startswith("c4")).split(")")[1].split()
    np.testing.assert_allclose([float(x) for x in line[2:]], value[0, 0, 0, :4], rtol=1e-3, atol=1e-5)

  def test_an_adapter_gets_one_line_and_status_1(self):
    self._write()
    result = self._run("--adapter=scratch")
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, r"^minec2f_jax\.models\.pretrained: adapter 'scratch' .*\n$")


if __name__ == "__main__":
  absltest.main()
