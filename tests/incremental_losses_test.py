"""The losses of MDIL-SS, GSMF-RS-DIL and SPPA against torch, SciPy, NumPy and values by hand."""

import functools
import unittest

import hypothesis
import jax
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from scipy import special

from minec2f_jax import incremental

try:
  import torch
except ImportError:
  torch = None

RNG = np.random.default_rng(0)
SHAPE = (3, 5, 4)
STUDENT, TEACHER = (3 * RNG.normal(size=SHAPE).astype(np.float32) for _ in range(2))
NEW, OLD = (3 * RNG.normal(size=(*SHAPE, 6)).astype(np.float32) for _ in range(2))
VALID = RNG.uniform(size=SHAPE) > 0.3
VALID[2] = False
NAN = np.float32(np.nan)
LOSSES = (
  (incremental.unlogged_divergence_loss, STUDENT, TEACHER),
  (incremental.channel_divergence_loss, NEW, OLD),
  (incremental.alignment_loss, NEW, OLD),
)
needs_torch = unittest.skipUnless(torch, "torch is not installed (pip install torch)")


def value_and_grads(loss, *args, **kwargs):
  return jax.jit(jax.value_and_grad(functools.partial(loss, **kwargs), argnums=(0, 1)))(*args)


def _two_classes(logits):
  return np.stack([special.expit(-logits.astype(np.float64)), special.expit(logits.astype(np.float64))], 1)


class BothTest(parameterized.TestCase):
  @parameterized.parameters(*LOSSES)
  def test_only_the_student_gets_a_gradient(self, loss, student, teacher):
    _, (of_student, of_teacher) = value_and_grads(loss, student, teacher)
    self.assertTrue(np.any(of_student))
    np.testing.assert_array_equal(of_teacher, 0.0)

  @parameterized.parameters(*LOSSES)
  def test_nan_under_the_mask_reaches_neither_value_nor_gradient(self, loss, student, teacher):
    hide = lambda x: np.where(VALID.reshape(VALID.shape + (1,) * (x.ndim - 3)), x, NAN)
    value, (grad, _) = value_and_grads(loss, hide(student), hide(teacher), VALID)
    rows = lambda x: x[VALID][:, None, None] if x.ndim == 3 else x[VALID][:, None, None, :]
    subset, (of_subset, _) = value_and_grads(loss, rows(student), rows(teacher))  # Of the valid pixels alone.
    np.testing.assert_allclose(value, subset, rtol=1e-5)
    np.testing.assert_allclose(rows(np.asarray(grad)), of_subset, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(np.asarray(grad)[~VALID], 0.0)

  @parameterized.parameters(*LOSSES)
  def test_without_a_valid_pixel_it_is_zero(self, loss, student, teacher):
    value, (grad, _) = value_and_grads(loss, student, teacher, np.zeros(SHAPE, bool))
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  @parameterized.product(loss=LOSSES, scale=[50.0, 1e4])
  def test_saturated_networks_give_a_finite_loss_and_gradient(self, loss, scale):
    loss, student, teacher = loss
    for one, other in ((student, teacher), (student, -student)):
      value, (grad, _) = value_and_grads(loss, scale * np.sign(one), scale * np.sign(other))
      self.assertTrue(np.isfinite(value) and np.isfinite(grad).all())


class UnloggedDivergenceTest(parameterized.TestCase):
  @needs_torch
  def test_is_torchs_kldivloss_of_probabilities(self):
    s, t = (torch.from_numpy(_two_classes(z)) for z in (STUDENT, TEACHER))
    value, _ = value_and_grads(incremental.unlogged_divergence_loss, STUDENT, TEACHER)
    np.testing.assert_allclose(value, torch.nn.KLDivLoss()(s, t).item(), rtol=1e-5)

  def test_is_the_mean_over_pixels_and_classes(self):
    s, t = _two_classes(STUDENT), _two_classes(TEACHER)
    value, _ = value_and_grads(incremental.unlogged_divergence_loss, STUDENT, TEACHER)
    np.testing.assert_allclose(value, np.mean(special.xlogy(t, t) - t * s), rtol=1e-5)

  def test_agreement_is_not_its_minimum(self):
    one = np.ones((1, 1, 1), np.float32)
    agree, (grad, _) = value_and_grads(incremental.unlogged_divergence_loss, one, one)
    surer, _ = value_and_grads(incremental.unlogged_divergence_loss, 9 * one, one)
    self.assertLess(float(surer), float(agree))
    t = special.expit(1.0)
    np.testing.assert_allclose(grad, -t * (1 - t) * (2 * t - 1) / 2 * one, rtol=1e-5)  # By hand.

  @hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
  @hypothesis.given(st.floats(-100, 100), st.floats(-100, 100))
  def test_lies_in_its_range(self, student, teacher):
    value = incremental.unlogged_divergence_loss(*(np.full((1, 1, 1), z, np.float32) for z in (student, teacher)))
    self.assertBetween(float(value), -np.log1p(np.e) / 2 - 1e-6, 1e-6)


class ChannelDivergenceTest(parameterized.TestCase):
  def test_is_scipys_kl_of_softmaxes_over_channels(self):
    p, q = (special.softmax(x.astype(np.float64), -1) for x in (OLD, NEW))
    for normalizer, count in (("positions", p[..., 0].size), ("elements", p.size)):
      value, _ = value_and_grads(incremental.channel_divergence_loss, NEW, OLD, normalizer=normalizer)
      np.testing.assert_allclose(value, special.rel_entr(p, q).sum() / count, rtol=1e-5)

  @needs_torch
  def test_is_torchs_element_wise_mean(self):
    new, old = (torch.from_numpy(x.astype(np.float64)) for x in (NEW, OLD))
    expected = torch.nn.functional.kl_div(new.log_softmax(-1), old.softmax(-1), reduction="mean")
    value, _ = value_and_grads(incremental.channel_divergence_loss, NEW, OLD)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)

  def test_features_that_agree_cost_nothing_and_are_not_moved(self):
    value, (grad, _) = value_and_grads(incremental.channel_divergence_loss, OLD, OLD)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_allclose(grad, 0.0, atol=1e-9)

  def test_a_constant_added_to_all_channels_changes_nothing(self):
    value, _ = value_and_grads(incremental.channel_divergence_loss, NEW + 7, OLD)
    np.testing.assert_allclose(value, value_and_grads(incremental.channel_divergence_loss, NEW, OLD)[0], rtol=1e-4)

  def test_the_gradient_is_the_difference_of_the_distributions(self):
    p, q = (special.softmax(x.astype(np.float64), -1) for x in (OLD, NEW))
    _, (grad, _) = value_and_grads(incremental.channel_divergence_loss, NEW, OLD, normalizer="positions")
    np.testing.assert_allclose(grad, (q - p) / p[..., 0].size, rtol=1e-4, atol=1e-7)

  def test_an_unknown_normalizer_is_refused(self):
    with self.assertRaisesRegex(ValueError, "normalizer='all' is unknown; choose one of elements, positions"):
      incremental.channel_divergence_loss(NEW, OLD, normalizer="all")


REGION = np.stack([VALID[0], VALID[1], VALID[2]])  # Of three images, the last without the class.
COVERED = np.where(REGION[..., None], NEW, NAN)


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


class AlignmentTest(parameterized.TestCase):
  def test_is_the_mean_difference_of_directions(self):
    value, _ = value_and_grads(incremental.alignment_loss, NEW, OLD)
    np.testing.assert_allclose(value, np.mean(np.abs(_unit(NEW) - _unit(OLD))), rtol=1e-5)

  def test_features_that_are_only_longer_cost_nothing_and_none_is_no_direction(self):
    longer, still = 2 * OLD, np.array(OLD)
    longer[0, 0], still[0, 0] = 0.0, 0.0
    value, (grad, _) = value_and_grads(incremental.alignment_loss, longer, still)
    self.assertLess(float(value), 1e-7)
    self.assertTrue(np.all(np.isfinite(grad)))


class StructureTest(parameterized.TestCase):
  STRUCTURES = (incremental.intra_class_loss, incremental.inter_class_loss)

  def test_intra_class_is_how_offsets_from_the_means_differ(self):
    offsets = [x[REGION] - x[REGION].mean(0) for x in (NEW.astype(np.float64), OLD.astype(np.float64))]
    expected = np.mean(np.sum((offsets[0] - offsets[1]) ** 2, -1))
    value, (grad, _) = value_and_grads(incremental.intra_class_loss, COVERED, OLD, region=REGION)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(grad)[~REGION], 0.0)
    # By hand, with the means as constants.
    np.testing.assert_allclose(grad[REGION], 2 * (offsets[0] - offsets[1]) / REGION.sum(), rtol=1e-4, atol=1e-6)

  def test_inter_class_is_how_the_cosines_of_the_images_means_differ(self):
    means = lambda x: np.stack([x[n][REGION[n]].mean(0) for n in range(2)]).astype(np.float64)
    cosines = [_unit(means(x)) @ _unit(means(x)).T for x in (NEW, OLD)]
    value, (grad, _) = value_and_grads(incremental.inter_class_loss, COVERED, OLD, region=REGION)
    np.testing.assert_allclose(value, np.mean((cosines[0] - cosines[1]) ** 2), rtol=1e-5)
    self.assertTrue(np.all(np.isfinite(grad)))
    np.testing.assert_array_equal(np.asarray(grad)[~REGION], 0.0)

  @parameterized.parameters(*STRUCTURES)
  def test_only_the_new_network_gets_a_gradient(self, loss):
    _, (of_new, of_old) = value_and_grads(loss, NEW, OLD, region=REGION)
    self.assertTrue(np.any(of_new))
    np.testing.assert_array_equal(of_old, 0.0)

  @parameterized.parameters(*STRUCTURES)
  def test_networks_that_agree_pay_nothing_nor_does_an_empty_region(self, loss):
    for new, region in ((OLD, REGION), (NEW, REGION & False)):
      value, (grad, _) = value_and_grads(loss, new, OLD, region=region)
      self.assertLess(float(value), 1e-9)
      np.testing.assert_allclose(grad, 0.0, atol=1e-6)

  def test_what_each_leaves_free(self):
    moved, _ = value_and_grads(incremental.intra_class_loss, OLD + 7, OLD, region=REGION)
    scaled, _ = value_and_grads(incremental.inter_class_loss, 7 * OLD, OLD, region=REGION)
    one, _ = value_and_grads(incremental.inter_class_loss, NEW, OLD, region=REGION & (np.arange(3) == 0)[:, None, None])
    np.testing.assert_allclose([moved, scaled, one], 0.0, atol=1e-9)


class PrototypeTest(parameterized.TestCase):
  def test_the_first_mean_is_the_prototype_and_later_ones_move_it(self):
    mean = NEW[REGION].mean(0, dtype=np.float64)
    update = jax.jit(functools.partial(incremental.running_prototype, keep=0.9))
    first, seen = update(np.zeros(6, np.float32), np.array(False), COVERED, REGION)
    np.testing.assert_allclose(first, mean, rtol=1e-4, atol=1e-6)
    self.assertTrue(seen)
    second, _ = update(first + 1, seen, COVERED, REGION)
    np.testing.assert_allclose(second, 0.9 * (mean + 1) + 0.1 * mean, rtol=1e-4, atol=1e-6)
    for seen in (True, False):
      kept, still = update(first, np.array(seen), COVERED, REGION & False)
      np.testing.assert_array_equal(kept, first)
      self.assertEqual(bool(still), seen)

  def test_compactness_is_the_mean_square_from_it_and_pulls_features_alone(self):
    prototype = np.arange(6, dtype=np.float32)
    value, (grad, of_prototype) = value_and_grads(incremental.compactness_loss, COVERED, prototype, region=REGION)
    np.testing.assert_allclose(value, np.mean((NEW[REGION].astype(np.float64) - prototype) ** 2), rtol=1e-5)
    np.testing.assert_allclose(grad[REGION], 2 * (NEW[REGION] - prototype) / NEW[REGION].size, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(grad)[~REGION], 0.0)
    np.testing.assert_array_equal(of_prototype, 0.0)
    value, (grad, _) = value_and_grads(incremental.compactness_loss, COVERED, prototype, region=REGION & False)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)


class DoubtTest(parameterized.TestCase):
  def test_is_scipys_entropy_in_bits(self):
    logits = np.float32([-200, -9, -1, 0, 0.3, 30, 1e4])
    p = special.expit(logits.astype(np.float64))
    expected = (special.entr(p) + special.entr(special.expit(-logits.astype(np.float64)))) / np.log(2)
    np.testing.assert_allclose(incremental.doubt_map(logits), expected, rtol=1e-4, atol=1e-30)

  @parameterized.parameters(0.5, 0.8, 1.0)
  def test_thresholds_keep_a_share_of_each_class(self, keep):
    rng = np.random.default_rng(1)
    doubt, mine = rng.random((2, 40, 50)).astype(np.float32) ** 3, rng.random((2, 40, 50)) < 0.3
    region = rng.random(doubt.shape) < 0.9
    counts = sum(incremental.doubt_counts(doubt[n : n + 1], mine[n : n + 1], region[n : n + 1]) for n in range(2))
    found = incremental.doubt_thresholds(counts, keep=keep)
    for threshold, of_class in zip(found, (region & ~mine, region & mine), strict=True):
      exact = np.quantile(doubt[of_class], keep, method="inverted_cdf")
      # The original clips the exact one; ours is the next step between the ends.
      np.testing.assert_allclose(threshold, np.ceil(np.clip(exact, 0.1, 0.5) * 100 - 1e-4) / 100, rtol=1e-5)

  def test_without_a_pixel_of_a_class_nothing_breaks(self):
    none = np.zeros((1, 2, 2), bool)
    counts = incremental.doubt_counts(np.zeros((1, 2, 2), np.float32), none, none)
    np.testing.assert_allclose(incremental.doubt_thresholds(counts), 0.1, rtol=1e-6)


if __name__ == "__main__":
  absltest.main()
