import importlib.util
import re
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax.models import Segmenter, count_parameters, prithvi, vit, weight_check
from tests import prithvi_weights
from tests.oracles import layers
from tests.prithvi_weights import DECODER, ENCODER, WIDTH

if importlib.util.find_spec("torch"):
  import torch

  from tests.oracles import torch_vit, vit_parity
else:
  torch = None

NEEDS_TORCH = unittest.skipIf(torch is None, "torch is not installed")
SMALL = dict(width=WIDTH, depth=2, heads=2)


def _shapes(*, bands=6, **fields):
  image = np.zeros((1, 32, 32, bands), np.float32)
  return layers.init_shapes(vit.ViTEncoder(**{**SMALL, **fields}), image, train=False)


def _load(weights, *, bands=prithvi.BANDS, **fields):
  return prithvi.encoder_params(weights, bands=bands, variables=_shapes(bands=len(bands), **fields))


class EncoderParamsTest(parameterized.TestCase):
  def test_every_parameter_is_filled_in_its_shape_and_what_is_left_out_is_named(self):
    variables, ignored = _load(prithvi_weights.random_weights())
    jax.tree.map(lambda leaf, shape: self.assertEqual(leaf.shape, shape.shape), variables, _shapes())
    self.assertTrue(all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables)))
    self.assertEqual(ignored, tuple(sorted([*DECODER, "pos_embed"])))

  def test_kernels_are_transposed_and_others_are_not(self):
    weights = prithvi_weights.random_weights()
    params = _load(weights)[0]["params"]
    np.testing.assert_array_equal(
      params["block2"]["mlp1"]["kernel"], weights["blocks.1.mlp.fc1.weight"].T.astype(np.float32)
    )
    np.testing.assert_array_equal(
      params["block1"]["norm2"]["scale"], weights["blocks.0.norm2.weight"].astype(np.float32)
    )
    np.testing.assert_array_equal(params["cls_token"], weights["cls_token"].astype(np.float32))
    self.assertEqual(
      params["patch_embed"]["kernel"][3, 5, 1, 7], np.float32(weights["patch_embed.proj.weight"][7, 1, 0, 3, 5])
    )

  def test_the_patch_embedding_follows_our_order_of_bands(self):
    weights = prithvi_weights.random_weights()
    kernel = _load(weights, bands=("red", "green", "blue", "nir", "swir1", "swir2"))[0]["params"]["patch_embed"][
      "kernel"
    ]
    for channel, theirs in enumerate((2, 1, 0, 3, 4, 5)):
      expected = weights["patch_embed.proj.weight"][:, theirs, 0].transpose(1, 2, 0)
      np.testing.assert_array_equal(kernel[:, :, channel], expected.astype(np.float32))

  def test_a_band_left_out_is_one_at_its_mean(self):
    three, six = ("red", "nir", "swir2"), prithvi.BANDS
    image = np.random.default_rng(1).normal(size=(1, 32, 32, 6)).astype(np.float32)
    image[..., [0, 1, 4]] = 0  # Standardised: at the mean.
    outputs = [
      layers.apply(
        vit.ViTEncoder(**SMALL),
        _load(prithvi_weights.random_weights(), bands=bands)[0],
        image[..., list(channels)],
        train=False,
      )["c4"]
      for bands, channels in ((three, (2, 3, 5)), (six, range(6)))
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)

  def test_names_of_the_later_code_are_known_too(self):
    first = prithvi_weights.random_weights()
    (params, ignored), (expected, _) = _load(prithvi_weights.later_names(first)), _load(first)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    self.assertEqual(ignored, tuple(sorted([*(f"decoder.{name}" for name in DECODER), "encoder.pos_embed"])))

  def test_a_file_of_the_encoder_alone_will_do(self):
    weights = {name: array for name, array in prithvi_weights.random_weights().items() if name in ENCODER}
    self.assertEqual(_load(weights)[1], ())

  def test_a_position_table_in_half_precision_will_do(self):
    weights = prithvi_weights.random_weights()
    _load({**weights, "pos_embed": weights["pos_embed"].astype(np.float16)})

  def test_all_that_does_not_fit_is_named_at_once(self):
    weights = prithvi_weights.random_weights()
    del weights["norm.bias"], weights["blocks.1.attn.qkv.bias"]
    weights |= {"head.weight": np.zeros((2, WIDTH)), "blocks.2.norm1.bias": np.zeros(WIDTH)}
    weights["blocks.0.mlp.fc2.weight"] = np.zeros((4 * WIDTH, WIDTH))
    weights["patch_embed.proj.weight"] = np.zeros((WIDTH, 3, 16, 16))
    weights["cls_token"] = np.full((1, 1, WIDTH), np.nan)
    weights["norm.weight"] = np.ones(WIDTH, np.int32)
    weights["encoder.patch_embed.proj.bias"] = weights["patch_embed.proj.bias"]
    weights["pos_embed"] = -weights["pos_embed"]
    message = (
      "does not fit this Prithvi encoder (2 missing: blocks.1.attn.qkv.bias, norm.bias; "
      "2 not in a Prithvi encoder: blocks.2.norm1.bias, head.weight; "
      "2 of another shape: blocks.0.mlp.fc2.weight (128, 32) instead of (32, 128), "
      "patch_embed.proj.weight (32, 3, 16, 16) instead of (32, 6, 1, 16, 16); "
      "1 not finite numbers: cls_token; 1 integers: norm.weight; 1 given twice: patch_embed.proj.bias; "
      "1 not the sines and cosines of a square grid's positions: pos_embed)"
    )
    with self.assertRaisesRegex(weight_check.Misfit, re.escape(message)):
      _load(weights)

  def test_another_depth_or_width_of_the_encoder_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"12 missing: blocks\.2\.attn\.proj\.bias"):
      _load(prithvi_weights.random_weights(), depth=3)
    with self.assertRaisesRegex(ValueError, r"12 not in a Prithvi encoder: blocks\.1\.attn\.proj\.bias"):
      _load(prithvi_weights.random_weights(), depth=1)
    with self.assertRaisesRegex(
      ValueError, r"29 of another shape: blocks\.0\.attn\.proj\.bias \(32,\) instead of \(48,\)"
    ):
      _load(prithvi_weights.random_weights(), width=48)

  @parameterized.parameters("rows first", "class token", "rank", "nothing of it")
  def test_another_position_table_is_refused(self, change):
    weights = prithvi_weights.random_weights()
    table = weights["pos_embed"].copy()
    if change == "rows first":
      parts = np.split(table, [12, 24], axis=-1)
      table = np.concatenate([parts[1], parts[0], parts[2]], axis=-1)
    elif change == "class token":
      table[0, 0, 0] = 0.1
    elif change == "rank":
      table = table[0]
    else:
      table = table[:, :1]
    with self.assertRaisesRegex(ValueError, "grid's positions: pos_embed"):
      _load({**weights, "pos_embed": table})

  @parameterized.parameters((("red", "green", "blue", "nir", "swir1", "thermal"),), (("red", "red", "green"),), ((),))
  def test_bands_that_prithvi_has_not_are_refused(self, bands):
    with self.assertRaisesRegex(ValueError, "give different ones out of"):
      prithvi.encoder_params(prithvi_weights.random_weights(), bands=bands, variables=_shapes())

  def test_an_encoder_of_another_number_of_bands_is_refused(self):
    with self.assertRaisesRegex(ValueError, "takes images of 6 bands, and bands are"):
      prithvi.encoder_params(prithvi_weights.random_weights(), bands=("red", "green", "blue"), variables=_shapes())

  def test_configs_standardise_as_prithvi_expects_it(self):
    data = fine_hybrid.get_config().data
    self.assertEqual(dict(data.mean), prithvi.MEAN)
    self.assertEqual(dict(data.std), prithvi.STD)
    np.testing.assert_allclose(  # As published, in the weights' order, of reflectance x 10,000.
      [1e4 * prithvi.MEAN[band] for band in prithvi.BANDS], [775, 1081, 1229, 2497, 2204, 1611]
    )
    np.testing.assert_allclose(
      [1e4 * prithvi.STD[band] for band in prithvi.BANDS], [1282, 1270, 1399, 1368, 1292, 1155]
    )


class DecoderTest(parameterized.TestCase):
  @NEEDS_TORCH
  def test_map_and_logits_equal_those_of_torch(self):
    oracle = torch_vit.randomize(torch_vit.Decoder(width=16, features=8))
    variables, head = vit_parity.decoder_variables(oracle)
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 16)).astype(np.float32)
    with torch.no_grad():
      maps, logits = (y.permute(0, 2, 3, 1).numpy() for y in oracle(torch.tensor(x.transpose(0, 3, 1, 2))))
    output = layers.apply(prithvi.PrithviDecoder(features=8), variables, {"c4": x}, train=False)
    np.testing.assert_allclose(output, maps, rtol=1e-4, atol=1e-5 * maps.max())
    output = layers.apply(prithvi.PixelHead(classes=2), head, output)
    np.testing.assert_allclose(output, logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())

  def test_neck_and_head_have_their_known_numbers_of_parameters(self):
    x = jax.ShapeDtypeStruct((1, 16, 16, 768), jnp.float32)
    neck = layers.init_shapes(prithvi.Neck(), x)
    decoder = layers.init_shapes(prithvi.PrithviDecoder(), {"c4": x}, train=False)
    head = layers.init_shapes(prithvi.PixelHead(classes=2), jax.ShapeDtypeStruct((1, 256, 256, 256), jnp.float32))
    count = lambda variables: count_parameters(variables)["trainable"]
    self.assertEqual(count(neck), 9_443_328)
    self.assertEqual(count(decoder) - count(neck) + count(head), 1_770_498)

  def test_dropout_drops_whole_channels_in_training_only(self):
    x = {"c4": np.random.default_rng(0).normal(size=(2, 1, 2, 16)).astype(np.float32)}
    net = prithvi.PrithviDecoder(features=64, dropout=0.5)
    variables = layers.random_variables(net, x, train=False)
    variables["params"]["norm"] = {"scale": np.ones(64), "bias": np.full(64, 10.0)}  # Far from the ReLU's corner.
    maps, _ = layers.apply(net, variables, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
    dropped = np.asarray(maps == 0)
    np.testing.assert_array_equal(dropped.all((1, 2)), dropped.any((1, 2)))
    self.assertBetween(dropped.mean(), 0.3, 0.7)
    self.assertFalse(np.any(layers.apply(net, variables, x, train=False) == 0))

  def test_training_moves_the_statistics_by_a_tenth_as_torch_does(self):
    x = {"c4": np.random.default_rng(0).normal(size=(1, 1, 2, 16)).astype(np.float32)}
    net = prithvi.PrithviDecoder(features=8, dropout=0.0)
    variables = layers.random_variables(net, x, train=False)
    variables["batch_stats"]["norm"]["mean"] = np.full(8, 1e4, np.float32)  # What the batch adds does not matter.
    _, updates = layers.apply(net, variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(updates["batch_stats"]["norm"]["mean"], 9e3, rtol=1e-2)

  def test_the_parts_make_a_segmenter_with_logits_of_the_images_size(self):
    net = Segmenter(vit.ViTEncoder(**SMALL), prithvi.PrithviDecoder(features=8), prithvi.PixelHead())
    image = np.zeros((1, 32, 64, 6), np.float32)
    output, variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image))
    self.assertEqual(output["features"]["c4"].shape, (1, 2, 4, WIDTH))
    self.assertEqual(output["decoder"].shape, (1, 32, 64, 8))
    self.assertEqual(output["logits"].shape, (1, 32, 64, 1))
    self.assertEqual(set(variables["params"]), {"encoder", "decoder", "head"})

  def test_logits_are_float32_when_the_network_is_not(self):
    x = {"c4": np.random.default_rng(0).normal(size=(1, 2, 2, 16)).astype(np.float32)}
    exact, coarse = (prithvi.PrithviDecoder(features=8, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = layers.random_variables(exact, x, train=False)
    maps = layers.apply(coarse, variables, x, train=False)
    self.assertEqual(maps.dtype, jnp.bfloat16)
    expected = layers.apply(exact, variables, x, train=False)
    np.testing.assert_allclose(maps.astype(np.float32), expected, atol=5e-2 * np.abs(expected).max())
    head = prithvi.PixelHead(dtype=jnp.bfloat16)
    self.assertEqual(layers.apply(head, layers.random_variables(head, maps), maps).dtype, jnp.float32)


if __name__ == "__main__":
  absltest.main()
