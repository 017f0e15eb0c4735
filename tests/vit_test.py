import importlib.util
import unittest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from minec2f_jax.models import count_parameters, prithvi, vit
from tests.oracles import layers

if importlib.util.find_spec("torch"):
  import torch

  from tests.oracles import torch_vit, vit_parity
else:
  torch = None

NEEDS_TORCH = unittest.skipIf(torch is None, "torch is not installed")
SMALL = dict(width=64, depth=2, heads=4)
BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")  # the order that configs have


def _image(height, width, *, batch=2, bands=6, seed=1):
  return np.random.default_rng(seed).normal(size=(batch, height, width, bands)).astype(np.float32)


def _relative_error(output, expected):
  return np.abs(np.asarray(output, np.float64) - expected).max() / np.abs(expected).max()


@NEEDS_TORCH
class ParityTest(parameterized.TestCase):
  @parameterized.parameters(1e-5, 1e-6)
  def test_features_equal_those_of_torch(self, epsilon):
    image = _image(32, 48)
    net, variables, expected = vit_parity.encoder_pair(image, norm_epsilon=epsilon, **SMALL)
    output = layers.apply(net, variables, image, train=False)
    self.assertEqual(list(output), ["c4"])
    self.assertLess(_relative_error(output["c4"], expected), 1e-5)

  def test_an_image_in_our_order_of_bands_gives_what_torch_gives_in_prithvis(self):
    image = _image(32, 32)
    net, variables, expected = vit_parity.encoder_pair(image, bands=BANDS, **SMALL)
    self.assertLess(_relative_error(layers.apply(net, variables, image, train=False)["c4"], expected), 1e-5)
    swapped = layers.apply(net, variables, image[..., [2, 1, 0, 3, 4, 5]], train=False)["c4"]
    self.assertGreater(_relative_error(swapped, expected), 0.1)

  def test_a_faint_image_shows_the_epsilon(self):
    # Of two patches that are as good as equal the first norm keeps what epsilon lets it.
    image = 1e-3 * _image(16, 32)
    _, variables, expected = vit_parity.encoder_pair(image, norm_epsilon=1e-2, **SMALL)
    right, wrong = (
      layers.apply(vit.ViTEncoder(norm_epsilon=epsilon, **SMALL), variables, image, train=False)["c4"]
      for epsilon in (1e-2, 1e-5)
    )
    self.assertLess(_relative_error(right, expected), 1e-5)
    self.assertGreater(_relative_error(wrong, expected), 1e-4)

  def test_tokens_far_from_zero_keep_their_digits(self):
    image = _image(32, 32)
    net, variables, _ = vit_parity.encoder_pair(image, **SMALL)
    variables["params"]["patch_embed"]["bias"] += 1000.0
    oracle = torch_vit.randomize(torch_vit.Encoder(grid=(1, 2, 2), **SMALL))
    with torch.no_grad():
      oracle.patch_embed.proj.bias += 1000.0
      tokens = oracle(torch.tensor(image.transpose(0, 3, 1, 2)[:, :, None]))
    output = layers.apply(net, variables, image, train=False)["c4"]
    self.assertLess(_relative_error(output.reshape(2, 4, 64), tokens[:, 1:].numpy()), 1e-4)

  def test_gradients_equal_those_of_torch(self):
    image, fields = _image(32, 32), dict(width=32, depth=1, heads=2)
    net, variables, _ = vit_parity.encoder_pair(image, **fields)
    oracle = torch_vit.randomize(torch_vit.Encoder(grid=(1, 2, 2), **fields))
    weight = np.random.default_rng(0).normal(size=(2, 2, 2, 32)).astype(np.float32)
    loss = (
      oracle(torch.tensor(image.transpose(0, 3, 1, 2)[:, :, None]))[:, 1:] * torch.tensor(weight.reshape(2, 4, 32))
    ).sum()
    loss.backward()
    gradients = {name: tensor.grad.numpy() for name, tensor in oracle.named_parameters() if tensor.requires_grad}
    expected, _ = prithvi.encoder_params(gradients, bands=prithvi.BANDS, variables=variables)
    ours = jax.jit(jax.grad(lambda v: (weight * net.apply(v, image, train=True)["c4"]).sum()))(variables)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), ours, expected)

  @pytest.mark.slow
  def test_the_full_size_encoder_equals_that_of_torch(self):
    image = _image(256, 256, batch=1)
    net, variables, expected = vit_parity.encoder_pair(image, bands=BANDS)
    self.assertLess(_relative_error(layers.apply(net, variables, image, train=False)["c4"], expected), 1e-4)

  @pytest.mark.slow
  def test_the_position_table_equals_the_oracles_at_the_size_of_prithvi(self):
    expected = torch_vit.positions(1, 14, 14, 768)[0, 1:].reshape(14, 14, 768)
    np.testing.assert_allclose(vit.position_table(14, 14, 768), expected, atol=1e-6)


class PositionTableTest(parameterized.TestCase):
  def test_numbers_by_hand(self):
    # 16 features: 6 of the column, 6 of the row, 4 of the frame, w_k = 10000 ** (-k / 3).
    waves = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    expected = [
      *np.sin(np.multiply(2, waves)),
      *np.cos(np.multiply(2, waves)),
      *np.sin(waves),
      *np.cos(waves),
      0,
      0,
      1,
      1,
    ]
    np.testing.assert_allclose(vit.position_table(3, 4, 16)[1, 2], expected, atol=1e-7)

  def test_prithvis_parts_are_288_of_the_column_288_of_the_row_and_192_of_the_frame(self):
    table = vit.position_table(5, 7, 768)
    column, row, frame = np.split(table, [288, 576], axis=-1)
    self.assertEqual(table.dtype, np.float32)
    np.testing.assert_array_equal(column, np.broadcast_to(column[:1], (5, 7, 288)))
    np.testing.assert_array_equal(row, np.broadcast_to(row[:, :1], (5, 7, 288)))
    np.testing.assert_array_equal(row[:, 0], column[0, :5])
    np.testing.assert_array_equal(frame[..., :96], 0.0)
    np.testing.assert_array_equal(frame[..., 96:], 1.0)

  def test_a_larger_grid_begins_with_the_smaller_one(self):
    np.testing.assert_array_equal(vit.position_table(16, 20, 64)[:14, :14], vit.position_table(14, 14, 64))


class ViTEncoderTest(parameterized.TestCase):
  def test_prithvi_has_its_published_number_of_parameters(self):
    shapes = layers.init_shapes(vit.ViTEncoder(), _image(256, 256, batch=1), train=False)
    self.assertEqual(count_parameters(shapes), {"trainable": 86_237_184, "total": 86_237_184})

  def test_features_have_a_sixteenth_of_the_image(self):
    net, image = vit.ViTEncoder(), _image(256, 224, batch=1)
    shape = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, train=False)[0])
    self.assertEqual(shape["c4"].shape, (1, 16, 14, 768))

  def test_kernels_start_as_in_the_masked_autoencoder(self):
    params = vit.ViTEncoder(**SMALL).init(jax.random.key(0), _image(16, 16), train=False)["params"]
    for kernel, fan in (
      (params["patch_embed"]["kernel"], 6 * 256 + 64),
      (params["block1"]["qkv"]["kernel"], 64 + 3 * 64),
      (params["block2"]["mlp2"]["kernel"], 4 * 64 + 64),
    ):
      limit = np.sqrt(6 / fan)
      self.assertLessEqual(np.abs(kernel).max(), limit)
      np.testing.assert_allclose(np.std(kernel), limit / np.sqrt(3), rtol=0.05)  # That of a uniform distribution.

  def test_patches_that_change_places_are_not_the_same_image(self):
    image, net = _image(16, 32), vit.ViTEncoder(**SMALL)
    variables = layers.random_variables(net, image, train=False)
    output = layers.apply(net, variables, image, train=False)["c4"]
    mirrored = layers.apply(net, variables, np.concatenate([image[:, :, 16:], image[:, :, :16]], 2), train=False)["c4"]
    self.assertGreater(np.abs(output - mirrored[:, :, ::-1]).max(), 1e-2)

  def test_bfloat16_computes_and_returns_bfloat16_with_float32_parameters_and_gradients(self):
    image, net = _image(32, 32), vit.ViTEncoder(**SMALL, dtype=jnp.bfloat16)
    variables = net.init(jax.random.key(0), image, train=False)
    output = layers.apply(net, variables, image, train=False)["c4"]
    self.assertEqual(output.dtype, jnp.bfloat16)
    expected = layers.apply(vit.ViTEncoder(**SMALL), variables, image, train=False)["c4"]
    self.assertLess(_relative_error(output, expected), 2e-2)  # bfloat16 has 8 significant bits.
    loss = lambda v: net.apply(v, image, train=True)["c4"].astype(jnp.float32).var()
    gradients = jax.jit(jax.grad(loss))(variables)
    for leaf in jax.tree.leaves([variables, gradients]):
      self.assertEqual(leaf.dtype, jnp.float32)

  @parameterized.parameters((24, 32), (32, 40), (0, 16))
  def test_an_image_that_is_not_made_of_whole_patches_is_refused(self, height, width):
    with self.assertRaisesRegex(ValueError, "multiple of 16 pixels"):
      layers.init_shapes(vit.ViTEncoder(**SMALL), _image(height, width), train=False)

  @parameterized.parameters((40, 4), (64, 5))
  def test_a_width_that_cannot_be_split_is_refused(self, width, heads):
    with self.assertRaisesRegex(ValueError, f"width is {width}.*heads, {heads}"):
      layers.init_shapes(vit.ViTEncoder(width=width, heads=heads), _image(16, 16), train=False)


if __name__ == "__main__":
  absltest.main()
