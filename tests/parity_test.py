"""Parity with Keras and torch: full size once, the rest small. `python -m benchmarks.parity` does all at full size.

These tests alone run the optimised programs that users do, see tests/conftest.py.
"""

import importlib.util
import os
import unittest

import jax
import numpy as np
from absl.testing import absltest, parameterized

from tests.oracles import carry, golden, network_parity, parity, precision

needs_keras = unittest.skipUnless(
  importlib.util.find_spec("keras") and os.environ.get("KERAS_BACKEND", "jax") == "jax",
  "keras is not installed (pip install keras), or KERAS_BACKEND is not jax",
)
needs_torch = unittest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed: pip install torch")
SMALL = dict(size=64, blocks=(1, 2, 1, 1))
_FLAG = "jax_disable_most_optimizations"
EXACT = 1e-8  # float64 beside float64; float32 anywhere between would leave 1e-7 and more.


def setUpModule():
  unittest.addModuleCleanup(jax.config.update, _FLAG, jax.config.read(_FLAG))
  jax.config.update(_FLAG, False)
  jax.clear_caches()  # What other tests compiled in this process is not optimised.


class ParityTestCase(parameterized.TestCase):
  def assert_parity(self, rows):
    for row in rows:
      with self.subTest(row.what, worst=row.worst):
        self.assertTrue(row.ok, row)
        self.assertLessEqual(row.max_rel, EXACT if row.what.endswith("float64") else row.tolerance)


@needs_keras
class KerasTest(ParityTestCase):
  def test_five_taps_of_densenet121_at_full_size(self):
    self.assert_parity(network_parity.keras_densenet_eval())

  def test_a_training_step_of_a_shallower_densenet(self):
    self.assert_parity(network_parity.keras_densenet_train(**SMALL))

  def test_fpn_and_head_on_random_features(self):
    self.assert_parity(network_parity.keras_fpn(size=64))

  def test_fpn_densenet_end_to_end(self):
    self.assert_parity(network_parity.keras_fpn_densenet(**SMALL))


@needs_torch
class TorchTest(ParityTestCase):
  def test_densenet_with_torchvisions_names(self):
    self.assert_parity(network_parity.torch_densenet(**SMALL, noise=False))

  def test_cbam_gated_fusion_and_refinement(self):
    self.assert_parity(network_parity.torch_modules(size=64, widths=(64,)))

  def test_minec2fnet_end_to_end(self):
    self.assert_parity(network_parity.torch_minec2fnet(**SMALL, training=False))

  def test_prithvis_encoder_and_its_decoder_with_head(self):
    from tests.oracles import vit_parity

    rows = vit_parity.encoder_rows(size=32, width=64, depth=2, heads=4)
    self.assert_parity(rows + vit_parity.decoder_rows(size=32, width=16, features=8))

  def test_a_swapped_pair_of_weights_is_noticed(self):
    from tests.oracles import torch_models

    net = network_parity.models.CBAM()
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 32)).astype(np.float32)
    variables = carry.random_variables(net, x, train=False)
    theirs = carry.to_torch(torch_models.CBAM(32), variables)
    variables["params"]["spatial_norm"]["bias"] = variables["params"]["spatial_norm"]["bias"] + 1e-2
    rows = [
      parity.row("", "", "", parity.apply(net, variables, x, train=False), {"output": parity.run_torch(theirs, x)})
    ]
    self.assertFalse(rows[0].ok)


class PrecisionTest(ParityTestCase):
  def test_losses_and_gradients_in_float32_are_those_of_float64(self):
    rows = precision.loss_rows(batch=2, size=64)
    self.assertLen({row.what for row in rows}, 2 * len(precision.LOSSES))
    self.assert_parity(rows)

  def test_bfloat16_stays_near_float32(self):
    self.assert_parity(precision.bfloat16_rows(**SMALL, with_student=False))

  def test_bfloat16_is_of_features_alone(self):
    dtypes = precision.bfloat16_dtypes()
    for name in ("params", "batch_stats", "gradients", "logits", "losses"):
      self.assertEqual(dtypes[name], {"float32"}, name)
    self.assertEqual(dtypes["features"] | dtypes["decoder"], {"bfloat16"})


class GoldenTest(parameterized.TestCase):
  @parameterized.parameters("densenet121.txt", "minec2fnet.txt")
  def test_names_shapes_and_counts_are_the_recorded_ones(self, name):
    self.assertEqual(golden.tables()[name], (golden.FOLDER / name).read_text(), "see tests/oracles/golden.py")

  @needs_keras
  def test_every_weight_of_keras_applications_has_its_place(self):
    from tests.oracles import keras_models

    model = keras_models.densenet(64, 6)
    image = jax.ShapeDtypeStruct((1, 64, 64, 6), np.float32)
    shapes = golden.layers.init_shapes(network_parity.models.DenseNet(), image, train=False)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    slots = carry.keras_slots(model, variables, carry.keras_names(network_parity.DENSENET121))
    self.assertLen(slots, len(model.variables))


class RowTest(parameterized.TestCase):
  def test_differences_relate_to_the_largest_value_of_the_same_array(self):
    row = parity.row("", "", "", {"a": [1.0, 4.1], "b": [0.2]}, {"a": [1.0, 4.0], "b": [0.1]})
    np.testing.assert_allclose((row.max_abs, row.max_rel), (0.1, 1.0), rtol=1e-6)
    self.assertEqual(row.worst, "b")

  @parameterized.product(strange=[np.nan, np.inf, -np.inf], at=[0, 1, 2])
  def test_what_is_not_finite_never_passes_wherever_it_stands(self, strange, at):
    arrays = {name: np.ones(2) for name in "abc"}
    other = {**arrays, "abc"[at]: np.array([1.0, strange])}
    for ours, theirs in ((arrays, other), (other, arrays), (other, other)):
      row = parity.row("", "", "", ours, theirs, tolerance=np.inf)
      self.assertEqual((row.max_abs, row.max_rel, row.worst, row.ok), (np.inf, np.inf, "abc"[at], False))
      self.assertFalse(parity.gradient_row("", "", "", ours, theirs).ok)

  @parameterized.parameters(0, 1, 2)
  def test_the_worst_of_rows_is_the_one_with_a_nan_wherever_it_stands(self, at):
    rows = [parity.Row("", "", "", 0.0, 0.0, 1.0, "good")] * 3
    rows[at] = parity.Row("", "", "", np.nan, np.nan, 1.0, "bad")
    worst = parity.worst(rows, "large")
    self.assertEqual((worst.worst, worst.max_abs, worst.size, worst.ok), ("bad", np.inf, "large", False))

  def test_unlike_shapes_and_unlike_names_are_refused(self):
    for other in ({"a": [[1.0]]}, {"b": [1.0]}):
      with self.assertRaises(ValueError):
        parity.row("", "", "", {"a": [1.0]}, other)


if __name__ == "__main__":
  absltest.main()
