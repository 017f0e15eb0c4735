"""Every architecture that a config can name."""

import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from minec2f_jax import methods
from minec2f_jax.methods import base
from minec2f_jax.models import (
  FPN,
  DenseNet,
  Head,
  PixelHead,
  PrithviDecoder,
  Segmenter,
  ViTEncoder,
  factory,
  pretrained,
)
from minec2f_jax.models.padding import pad_image
from tests import toy, weights
from tests.oracles import layers

PRITHVI = dict(architecture="prithvi", encoder=dict(width=32, depth=1, heads=2), decoder=dict(features=8))
UNET = dict(encoder=toy.ENCODER, decoder=dict(features=(8, 8, 6, 6, 4)))
DEEPLAB = dict(
  encoder=dict(**toy.ENCODER, output_stride=16),
  decoder=dict(aspp_features=6, rates=(1, 2, 3), low_level_features=3, features=5),
)
GS_AUFPN = dict(encoder=toy.ENCODER, decoder=dict(features=8, nodes=3, node_features=4, reduction=4))
MODELS = {
  "fpn_densenet": dict(encoder=toy.ENCODER, decoder=toy.DECODER),
  "unet_densenet": UNET,
  "deeplabv3plus_densenet": DEEPLAB,
  "gs_aufpn_densenet": GS_AUFPN,
  "prithvi": PRITHVI,
}


class FactoryTest(parameterized.TestCase):
  def test_without_a_name_it_is_the_papers_network(self):
    self.assertEqual(factory.make_segmenter({}), Segmenter(DenseNet(), FPN(), Head()))
    self.assertEqual(factory.make_segmenter({}), factory.make_segmenter({"architecture": "fpn_densenet"}))

  @parameterized.parameters(("cpu", np.float32), ("gpu", "bfloat16"))
  def test_the_automatic_dtype_is_bfloat16_where_there_is_an_accelerator(self, backend, dtype):
    with mock.patch.object(jax, "default_backend", lambda: backend):
      net = factory.make_segmenter(PRITHVI | {"dtype": "auto"})
    self.assertEqual(np.dtype(net.encoder.dtype), np.dtype(dtype))

  @parameterized.parameters(dict, ConfigDict)
  def test_prithvi_is_made_of_its_parts_in_the_networks_dtype(self, mapping):
    net = factory.make_segmenter(mapping({**PRITHVI, "dtype": "bfloat16"}))
    bf16 = np.dtype("bfloat16")
    encoder = ViTEncoder(width=32, depth=1, heads=2, dtype=bf16)
    self.assertEqual(net, Segmenter(encoder, PrithviDecoder(features=8, dtype=bf16), PixelHead(dtype=bf16)))

  @parameterized.parameters(
    (dict(architecture="unet3"), r"architecture is 'unet3'; it must be one of \('fpn_densenet', 'unet_densenet'"),
    (dict(PRITHVI, fusion=dict(cbam=True)), r"model has no \['fusion'\].*architecture"),
    (dict(PRITHVI, encoder=dict(growth_rate=4)), r"model\.encoder has no \['growth_rate'\].*'depth'"),
    (dict(encoder=dict(depth=4)), r"model\.encoder has no \['depth'\].*growth_rate"),
    (dict(PRITHVI, dtype="float16"), "model.dtype is 'float16'"),
  )
  def test_what_is_not_known_is_named(self, config, pattern):
    with self.assertRaisesRegex(ValueError, pattern):
      factory.make_segmenter(config)

  def test_minec2fnet_is_made_of_the_papers_network_alone(self):
    with self.assertRaisesRegex(ValueError, r"architecture is 'prithvi', and MineC2FNet .* 'fpn_densenet' alone"):
      factory.make_minec2fnet(PRITHVI)

  def test_every_architecture_is_tested_here(self):
    self.assertEqual(set(MODELS), set(factory.ARCHITECTURES))

  @parameterized.product(name=list(MODELS), size=[(37, 50), (16, 1), (64, 32)])
  def test_logits_have_the_images_size_and_are_those_of_the_padded_image(self, name, size):
    net = factory.make_segmenter(MODELS[name] | {"architecture": name})
    image = np.random.default_rng(0).normal(size=(2, *size, 6)).astype(np.float32)
    padded = np.asarray(pad_image(image))
    variables = layers.random_variables(net, padded)
    output = layers.apply(net, variables, image)
    whole = layers.apply(net, variables, padded)
    self.assertEqual(output["logits"].shape, (2, *size, 1))
    self.assertEqual(output["logits"].dtype, np.float32)
    expected = np.asarray(whole["logits"])[:, : size[0], : size[1]]
    np.testing.assert_allclose(output["logits"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())

  @parameterized.parameters(*MODELS)
  def test_bf16_keeps_parameters_statistics_and_logits_in_float32(self, name):
    net = factory.make_segmenter(MODELS[name] | {"architecture": name, "dtype": "bfloat16"})
    image = jax.ShapeDtypeStruct((1, 32, 32, 6), np.float32)
    output, variables = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x), image)
    for leaf in (*jax.tree.leaves(variables), output["logits"]):
      self.assertEqual(leaf.dtype, np.float32)

  @parameterized.parameters("fpn_densenet", "unet_densenet", "deeplabv3plus_densenet", "gs_aufpn_densenet")
  def test_weights_of_a_densenet_start_every_network_that_has_one(self, name):
    config = {"model": MODELS[name] | {"architecture": name}}
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "densenet.safetensors"
      weights.write_safetensors(path, weights.random_encoder())
      encoder = factory.make_segmenter(config["model"]).encoder
      loaded = pretrained.load(path, bands=pretrained.BANDS, encoder=encoder).variables
    stage = dict(streams=("fine",), loss=dict(bce=1.0), init_from_prior=False, method="supervised")
    method = base.with_encoder(methods.make_method(config, stage), loaded)
    started = jax.jit(lambda key: method.init(key, np.zeros((1, 32, 32, 6), np.float32), None))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, started.trainable["encoder"], loaded["params"])
    jax.tree.map(np.testing.assert_array_equal, started.extra["batch_stats"]["encoder"], loaded["batch_stats"])

  def test_the_supervised_method_gives_prithvis_dropout_its_key(self):
    config = {"model": {**PRITHVI, "decoder": dict(features=8, dropout=0.5)}}
    stage = dict(streams=("fine",), loss=dict(bce=1.0), init_from_prior=False, method="supervised")
    method = methods.make_method(config, stage)
    source = toy.ArraySource(2)
    batch = {"fine": {"image": source.image, "label": source.label, "valid": source.valid}}
    variables = jax.jit(method.init)(jax.random.key(0), source.image[:1], None)
    loss = jax.jit(lambda key: method.loss(*variables, batch, key)[0])
    first, again, other = (float(loss(jax.random.key(n))) for n in (0, 0, 1))
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)


if __name__ == "__main__":
  absltest.main()
