"""Tests of calibration scores against scikit-learn, arithmetic in many digits, and networks calibrated by design."""

import decimal
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import calibration as sk_calibration
from sklearn import metrics as sk

from minec2f_jax.evaluation import calibration, intervals

RNG = np.random.default_rng(0)
SHAPE = (5, 12, 13)
LOGITS = (3 * RNG.normal(size=SHAPE)).astype(np.float32)
LABEL = (LOGITS + 3 * RNG.normal(size=SHAPE) > 0.5).astype(np.uint8)
VALID = RNG.uniform(size=SHAPE) > 0.2


def evaluate(logits, label, valid=None, **options):
  return calibration.Calibration.from_logits(logits, label, valid, **options)


def one_pixel(logit, label):
  return evaluate(np.full((1, 1, 1), logit), np.full((1, 1, 1), label)).compute()


class OracleTest(parameterized.TestCase):
  def test_brier_and_nll_are_scikit_learns(self):
    result = evaluate(LOGITS, LABEL, VALID).compute()
    truth, probability = LABEL[VALID], special.expit(LOGITS[VALID].astype(np.float64))
    self.assertAlmostEqual(result["brier"], sk.brier_score_loss(truth, probability), delta=1e-9)
    self.assertAlmostEqual(result["nll"], sk.log_loss(truth, probability), delta=1e-9)
    self.assertAlmostEqual(result["mine_share"], truth.mean(), delta=1e-9)
    self.assertAlmostEqual(result["mean_probability"], probability.mean(), delta=1e-9)
    self.assertEqual((result["num_pixels"], result["num_bins"]), (VALID.sum(), calibration.NUM_BINS))

  @parameterized.parameters(2, 10, 20)
  def test_the_reliability_curve_is_scikit_learns(self, num_bins):
    points = evaluate(LOGITS, LABEL, VALID, num_bins=num_bins).reliability()
    probability = special.expit(LOGITS[VALID].astype(np.float64))
    share, mean = sk_calibration.calibration_curve(LABEL[VALID], probability, n_bins=num_bins)
    filled = [point for point in points if point["count"]]
    np.testing.assert_allclose([point["mine_share"] for point in filled], share, atol=1e-9)
    np.testing.assert_allclose([point["mean_probability"] for point in filled], mean, atol=1e-9)
    self.assertEqual(sum(point["count"] for point in points), VALID.sum())
    np.testing.assert_allclose([point["low"] for point in points], np.arange(num_bins) / num_bins, atol=1e-12)

  @parameterized.parameters(2, 10, 20)
  def test_ece_is_the_mean_gap_of_that_curve(self, num_bins):
    result = evaluate(LOGITS, LABEL, VALID, num_bins=num_bins).compute()
    truth, probability = LABEL[VALID], special.expit(LOGITS[VALID].astype(np.float64))
    self.assertAlmostEqual(result["ece"], binned_gap(probability, truth, 0.0, num_bins), delta=1e-9)

  @parameterized.parameters(2, 10, 20)
  def test_ece_of_confidence_is_that_of_the_predicted_class(self, num_bins):
    result = evaluate(LOGITS, LABEL, VALID, num_bins=num_bins).compute()
    truth, probability = LABEL[VALID], special.expit(LOGITS[VALID].astype(np.float64))
    confidence, right = np.maximum(probability, 1 - probability), (probability > 0.5) == truth
    self.assertAlmostEqual(result["ece_confidence"], binned_gap(confidence, right, 0.5, num_bins // 2), delta=1e-9)

  @parameterized.product(logit=[-100.0, -30.0, 0.0, 1e-9, 30.0, 100.0], label=[0, 1])
  def test_single_pixels_in_forty_digits(self, logit, label):
    with decimal.localcontext(prec=80):
      wrong = 1 / (1 + decimal.Decimal(logit if label else -logit).exp())  # Probability of the other class.
      nll, brier = float(-(1 - wrong).ln()), float(wrong**2)
    result = one_pixel(logit, label)
    np.testing.assert_allclose([result["nll"], result["brier"]], [nll, brier], rtol=1e-12)


def binned_gap(probability, truth, low, num_bins):
  """ECE bin by bin, each open below and closed above."""
  edges = np.linspace(low, 1, num_bins + 1)
  edges[0] = -1
  gaps = [
    chosen.sum() * abs(truth[chosen].mean() - probability[chosen].mean())
    for a, b in zip(edges, edges[1:])
    if (chosen := (probability > a) & (probability <= b)).any()
  ]
  return sum(gaps) / len(truth)


class MeaningTest(parameterized.TestCase):
  def test_labels_drawn_with_the_probabilities_are_calibrated(self):
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(4, 256, 256))
    label = rng.uniform(size=logits.shape) < special.expit(logits)
    honest, sure = (evaluate(scale * logits, label).compute() for scale in (1, 3))
    self.assertLess(honest["ece"], 0.005)
    self.assertLess(honest["ece_confidence"], 0.005)
    self.assertGreater(sure["ece_confidence"], 0.05)
    self.assertLess(honest["nll"], sure["nll"])

  def test_ece_of_confidence_forgives_what_ece_does_not(self):
    # Both classes at confidence 0.8: of the mines said 100 % are mines, of the backgrounds 60 % are backgrounds.
    logits = np.float64([math.log(4)] * 10 + [-math.log(4)] * 10).reshape(1, 1, 20)
    label = np.array([1] * 10 + [1] * 4 + [0] * 6).reshape(1, 1, 20)
    result = evaluate(logits, label, num_bins=6).compute()  # 0.8 lies inside a bin.
    self.assertAlmostEqual(result["ece"], 0.2)
    self.assertAlmostEqual(result["ece_confidence"], 0.0)

  def test_undecided_everywhere(self):
    result = evaluate(np.zeros((1, 2, 2)), np.array([[[0, 1], [1, 1]]])).compute()
    self.assertEqual((result["brier"], result["ece"]), (0.25, 0.25))
    self.assertAlmostEqual(result["nll"], math.log(2))

  def test_sure_and_right_is_perfect(self):
    result = evaluate(100.0 * (2.0 * LABEL - 1), LABEL).compute()
    for name in ("ece", "ece_confidence", "brier", "nll"):
      self.assertAlmostEqual(result[name], 0, delta=1e-40 if name in ("brier", "nll") else 1e-15)


class EdgeCaseTest(parameterized.TestCase):
  def test_nan_under_the_mask_counts_nowhere(self):
    logits, label = np.where(VALID, LOGITS, np.nan), np.where(VALID, LABEL, np.nan)
    self.assertEqual(evaluate(logits, label, VALID).compute(), evaluate(LOGITS, LABEL, VALID).compute())

  @parameterized.parameters(jnp.bfloat16, jnp.float16, jnp.float32)
  def test_logits_of_any_float_type_and_device_arrays(self, dtype):
    logits = jnp.asarray(LOGITS, dtype)
    expected = evaluate(np.asarray(logits).astype(np.float64), LABEL, VALID).compute()
    self.assertEqual(evaluate(logits, jnp.asarray(LABEL), jnp.asarray(VALID)).compute(), expected)

  def test_without_valid_pixels_scores_are_undefined_without_warning(self):
    with np.errstate(all="raise"):
      for nothing in (calibration.Calibration.empty(), evaluate(LOGITS, LABEL, np.zeros(SHAPE, bool))):
        result = nothing.compute()
        self.assertEqual((result.pop("num_pixels"), result.pop("num_bins")), (0, 20))
        self.assertTrue(all(math.isnan(value) for value in result.values()))
        self.assertTrue(all(math.isnan(point["mine_share"]) for point in nothing.reliability()))

  def test_what_cannot_be_counted_is_refused(self):
    with self.assertRaisesRegex(ValueError, "1 valid pixels have a logit of NaN"):
      evaluate(np.full((1, 1, 1), np.nan), np.zeros((1, 1, 1)))
    with self.assertRaisesRegex(ValueError, r"must be \[B, H, W\], all alike"):
      evaluate(LOGITS, LABEL[:1])
    with self.assertRaisesRegex(ValueError, "num_bins=15 must be even"):
      evaluate(LOGITS, LABEL, num_bins=15)
    with self.assertRaisesRegex(ValueError, "20 and 10 bins cannot be merged"):
      calibration.Calibration.empty().merge(calibration.Calibration.empty(10))


class MergeTest(parameterized.TestCase):
  @settings(deadline=None, max_examples=25)
  @given(st.permutations(range(SHAPE[0])), st.integers(1, SHAPE[0]))
  def test_result_depends_neither_on_batch_size_nor_on_order(self, order, batch_size):
    total, order = calibration.Calibration.empty(), np.array(order)
    for start in range(0, len(order), batch_size):
      chosen = order[start : start + batch_size]
      total = total.update(LOGITS[chosen], LABEL[chosen], VALID[chosen])
    self.assertEqual(total.compute(), evaluate(LOGITS, LABEL, VALID).compute())  # To the last bit.

  def test_it_is_a_pytree_of_two_leaves(self):
    leaves, structure = jax.tree.flatten(evaluate(LOGITS, LABEL, VALID))
    self.assertLen(leaves, 2)
    self.assertEqual(jax.tree.unflatten(structure, leaves).compute(), evaluate(LOGITS, LABEL, VALID).compute())

  def test_scores_take_sums_for_a_bootstrap(self):
    counted = evaluate(LOGITS, LABEL, VALID)
    for score in (calibration.ece, calibration.ece_confidence):
      interval = intervals.bootstrap(counted.bins, score, seed=0, num_resamples=200)
      self.assertAlmostEqual(interval.value, counted.compute()[score.__name__], delta=1e-12)
      self.assertLess(interval.low, interval.high)


if __name__ == "__main__":
  absltest.main()
