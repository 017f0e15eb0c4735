import importlib.util
import os
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import UNet, UNetHead, count_parameters, factory
from tests import overfit, toy
from tests.oracles import carry, layers, network_parity

needs_keras = unittest.skipUnless(
  importlib.util.find_spec("keras") and os.environ.get("KERAS_BACKEND", "jax") == "jax",
  "keras is not installed (pip install keras), or KERAS_BACKEND is not jax",
)
CHANNELS = (3, 4, 5, 6, 7)
SMALL = dict(features=(6, 5, 4, 3, 4))


def _features(*, size=32, seed=1):
  rng = np.random.default_rng(seed)
  return {
    f"c{n}": rng.normal(size=(2, size // 2**n, size // 2**n, c)).astype(np.float32)
    for n, c in enumerate(CHANNELS, start=1)
  }


def _reference(features, variables, *, train=False):
  """The decoder in NumPy, literally: double, concatenate, convolve twice."""
  params, stats, x = variables["params"], variables["batch_stats"], features["c5"]
  for stage, level in enumerate(("c4", "c3", "c2", "c1", None), start=1):
    x = layers.nearest(x, 2)
    x = x if level is None else np.concatenate([x, features[level]], -1)
    for part in "12":
      x = layers.conv(x, params[f"stage{stage}_conv{part}"]["kernel"])
      norm = f"stage{stage}_norm{part}"
      if train:
        x = layers.relu(layers.batch_norm_in_training(x, params[norm], 1e-3))
      else:
        x = layers.relu(layers.batch_norm(x, params[norm], stats[norm], 1e-3))
  return x


class UNetTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.net, cls.features = UNet(**SMALL), _features()
    cls.variables = carry.random_variables(cls.net, cls.features, train=False)

  def test_map_equals_a_numpy_decoder(self):
    output = layers.apply(self.net, self.variables, self.features, train=False)
    self.assertEqual(output.shape, (2, 32, 32, 4))
    expected = _reference(self.features, self.variables)
    self.assertGreater((expected > 0).mean(), 0.1)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)

  def test_training_normalises_with_the_batch_and_moves_every_statistic(self):
    output, updates = layers.apply(self.net, self.variables, self.features, train=True, mutable=["batch_stats"])
    expected = _reference(self.features, self.variables, train=True)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)  # Ten layers on statistics of few pixels.
    before = self.variables["batch_stats"]
    moved = jax.tree.map(lambda old, new: np.any(old != new), before, dict(updates)["batch_stats"])
    self.assertTrue(all(jax.tree.leaves(moved)))

  def test_bfloat16_stays_near_float32(self):
    output = layers.apply(UNet(**SMALL, dtype=jnp.bfloat16), self.variables, self.features, train=False)
    self.assertEqual(output.dtype, jnp.bfloat16)
    expected = _reference(self.features, self.variables)
    error = np.sqrt(np.mean((np.asarray(output, np.float32) - expected) ** 2) / np.mean(expected**2))
    self.assertLess(error, 2e-2)  # 8 significant bits, ten layers.

  @parameterized.parameters(
    (dict(c2=None), r"the U-Net needs the features c1 to c5; missing: \['c2'\]"),
    (dict(c4=np.zeros((2, 3, 3, 6), np.float32)), "multiple of 32"),
  )
  def test_features_that_do_not_fit_are_refused(self, change, pattern):
    features = {level: x for level, x in {**self.features, **change}.items() if x is not None}
    with self.assertRaisesRegex(ValueError, pattern):
      layers.init_shapes(self.net, features, train=False)

  def test_four_stages_are_refused(self):
    with self.assertRaisesRegex(ValueError, r"features is \(4, 3, 2, 1\); give the channels of 5 stages"):
      layers.init_shapes(UNet(features=(4, 3, 2, 1)), self.features, train=False)


class UNetHeadTest(parameterized.TestCase):
  @parameterized.parameters((1, "float32", 1e-5), (3, "float32", 1e-5), (1, "bfloat16", 5e-2))
  def test_is_a_convolution_with_float32_logits(self, classes, dtype, tolerance):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype(np.float32)
    head = UNetHead(classes=classes, dtype=jnp.dtype(dtype))
    variables = layers.random_variables(head, x)
    logits = layers.apply(head, variables, x)
    self.assertEqual(logits.dtype, jnp.float32)
    expected = layers.conv(x, variables["params"]["kernel"]) + variables["params"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)


class WholeTest(parameterized.TestCase):
  @parameterized.parameters((6, 12_068_753, 12_154_385), (3, 12_059_345, 12_144_977))
  def test_unet_densenet121_has_the_parameters_of_segmentation_models(self, bands, trainable, total):
    net = factory.make_segmenter({"architecture": "unet_densenet"})
    shapes = layers.init_shapes(net, jax.ShapeDtypeStruct((1, 256, 256, bands), jnp.float32))
    self.assertEqual(count_parameters(shapes), {"trainable": trainable, "total": total})
    # Encoder; two convolutions a stage, the first of which sees the one before and a skip; BN; head.
    widths, skips = (1024, 256, 128, 64, 32, 16), (512, 256, 128, 64, 0)
    stages = sum(9 * ((a + skip) * b + b * b) + 4 * b for a, b, skip in zip(widths, widths[1:], skips))
    self.assertEqual(trainable, 6_953_856 + 49 * 64 * (bands - 3) + stages + 9 * 16 + 1)

  @needs_keras
  def test_a_small_one_is_that_of_keras(self):  # In training too: python -m benchmarks.parity
    for row in network_parity.keras_unet_densenet(size=32, blocks=(1, 1, 1, 1), training=False):
      with self.subTest(row.what, worst=row.worst):
        self.assertLessEqual(row.max_rel, 1e-4)

  def test_it_learns_four_images_by_heart(self):
    model = dict(architecture="unet_densenet", encoder=toy.ENCODER)
    model["decoder"] = dict(features=(16, 12, 8, 8, 8), bn_momentum=0.9)
    stage = dict(method="supervised", streams=("fine",), init_from_prior=False, loss=dict(bce=1.0, dice=1.0))
    self.assertGreater(overfit.iou_of_learnt_images({"model": model, "fine": stage}, steps=60), 0.95)


if __name__ == "__main__":
  absltest.main()
