"""Tests of paired comparisons against SciPy, enumeration and the closed testing principle."""

import itertools
import math

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from minec2f_jax import metrics
from minec2f_jax.evaluation import comparisons, intervals

RNG = np.random.default_rng(0)
FIRST = RNG.integers(1, 400, (44, 2, 2)) * RNG.integers(1, 9, (44, 1, 1))
MOVED = (FIRST[:, 1, 1] * RNG.uniform(0, 0.2, 44)).astype(int)
SECOND = FIRST + np.stack([0 * MOVED, 0 * MOVED, MOVED, -MOVED], -1).reshape(-1, 2, 2)  # Misses more of each mine.
SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9)
P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=0, max_size=6)


def iou_mine(sums):
  return metrics.scores(sums)["iou_mine"]


def compare(first, second, **options):
  return comparisons.compare_models(first, second, iou_mine, seed=0, **{"num_resamples": 500, **options})


class CompareModelsTest(parameterized.TestCase):
  def test_difference_is_that_of_the_scores(self):
    got = compare(FIRST, SECOND)
    scores = [metrics.ConfusionMatrix(counts).compute()["iou_mine"] for counts in (FIRST, SECOND)]
    self.assertAlmostEqual(got.difference, scores[0] - scores[1], delta=1e-15)
    self.assertEqual(got.difference, got.interval.value)
    self.assertGreater(got.interval.low, 0)
    self.assertLess(got.p_value, 0.001)

  def test_interval_draws_the_same_images_for_both(self):
    got = compare(FIRST, SECOND, method="percentile")
    places = np.random.default_rng(0).integers(0, 44, (500, 44))
    drawn = iou_mine(FIRST[places].sum(axis=1)) - iou_mine(SECOND[places].sum(axis=1))
    expected = np.quantile(drawn, [0.025, 0.975])
    np.testing.assert_allclose([got.interval.low, got.interval.high], expected, atol=1e-12)
    apart = [intervals.bootstrap(c, iou_mine, seed=0, num_resamples=500) for c in (FIRST, SECOND)]
    self.assertLess(got.interval.high - got.interval.low, 0.5 * (apart[0].high - apart[0].low))

  @parameterized.parameters(*intervals.METHODS)
  def test_exchanging_the_models_negates_the_difference(self, method):
    one, other = compare(FIRST, SECOND, method=method), compare(SECOND, FIRST, method=method)
    self.assertEqual(one.difference, -other.difference)
    self.assertEqual(one.p_value, other.p_value)
    limits = [-other.interval.high, -other.interval.low]
    np.testing.assert_allclose([one.interval.low, one.interval.high], limits, atol=1e-12)

  @parameterized.parameters(1, 2, 5, 8)
  def test_p_of_few_images_is_that_of_all_exchanges(self, count):
    first, second = FIRST[:count], np.concatenate([SECOND[:count]])
    second[::2] = first[::2] + [[0, 0], [-1, 1]]  # Some are better instead.
    got = compare(first, second)
    self.assertTrue(got.exact)
    found = []
    for swaps in itertools.product((False, True), repeat=count):
      where = np.array(swaps)[:, None, None]
      pair = np.where(where, second, first).sum(axis=0), np.where(where, first, second).sum(axis=0)
      found.append(abs(iou_mine(pair[0]) - iou_mine(pair[1])))
    self.assertAlmostEqual(got.p_value, np.mean(np.array(found) >= abs(got.difference) - 1e-12), delta=1e-12)

  def test_random_exchanges_come_near_all_of_them(self):
    first, second = FIRST[:12], SECOND[:12].copy()
    second[:7] = first[:7] + (first[:7] - SECOND[:7])  # As much better in seven as worse in five.
    exact, drawn = compare(first, second), compare(first, second, num_swaps=4000)
    self.assertTrue(exact.exact)
    self.assertFalse(drawn.exact)
    self.assertAlmostEqual(exact.p_value, drawn.p_value, delta=0.03)

  def test_p_of_a_mean_over_images_is_scipys_sign_flip_test(self):
    a, b = RNG.normal(0.7, 0.1, 10), RNG.normal(0.65, 0.1, 10)
    statistics = intervals.mean_statistics(a), intervals.mean_statistics(b)
    got = comparisons.compare_models(*statistics, intervals.ratio, seed=0, num_resamples=100)
    expected = stats.permutation_test(
      (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    self.assertAlmostEqual(got.p_value, expected.pvalue, delta=1e-12)

  def test_models_of_equal_skill_are_rarely_told_apart(self):
    rng, significant = np.random.default_rng(1), 0
    for trial in range(300):
      counts = FIRST[:20] + rng.integers(0, 200, (2, 20, 2, 2)) * (np.array([[0, 1], [1, 0]]))
      result = comparisons.compare_models(*counts, iou_mine, seed=trial, num_resamples=2, num_swaps=400)
      significant += result.p_value <= 0.05
    self.assertBetween(significant, 5, 27)  # 15 expected, +- 3 standard errors of 3.8.

  def test_groups_are_exchanged_together(self):
    moved = np.flatnonzero(MOVED)[:5]
    first, second = np.repeat(FIRST[moved], 3, axis=0), np.repeat(SECOND[moved], 3, axis=0)
    got = compare(first, second, groups=np.repeat(list("abcde"), 3))
    self.assertTrue(got.exact)
    self.assertEqual(got.p_value, 2 / 2**5)  # The first is better in all five.
    self.assertEqual(got.interval.num_units, 5)

  def test_the_same_model_twice(self):
    got = compare(FIRST, FIRST)
    self.assertEqual((got.difference, got.interval.low, got.interval.high, got.p_value), (0, 0, 0, 1))

  def test_work_in_parts_gives_the_same_p(self):
    second = FIRST + RNG.integers(0, 60, (44, 2, 2)) * [[0, 1], [1, 0]]
    whole = compare(FIRST, second, num_swaps=1000)
    chunk, comparisons._CHUNK = comparisons._CHUNK, 44 * 8  # Whole words of the generator.
    self.addCleanup(setattr, comparisons, "_CHUNK", chunk)
    self.assertEqual(compare(FIRST, second, num_swaps=1000).p_value, whole.p_value)

  def test_without_images_or_score_p_is_undefined(self):
    self.assertTrue(math.isnan(compare(FIRST[:0], SECOND[:0]).p_value))
    empty = np.array([[[9, 0], [0, 0]]] * 3)
    self.assertTrue(math.isnan(compare(empty, empty).p_value))

  def test_statistics_of_other_images_are_refused(self):
    with self.assertRaisesRegex(ValueError, "not of the same images"):
      compare(FIRST, SECOND[:-1])


class CompareSeedsTest(parameterized.TestCase):
  @parameterized.parameters(2, 3, 5, 10)
  def test_t_test_is_scipys(self, count):
    first, second = RNG.normal(0.7, 0.02, count), RNG.normal(0.68, 0.02, count)
    got, expected = comparisons.compare_seeds(first, second), stats.ttest_rel(first, second)
    self.assertAlmostEqual(got.p_t, expected.pvalue, delta=1e-12)
    limits = expected.confidence_interval(0.95)
    np.testing.assert_allclose([got.low, got.high], [limits.low, limits.high], atol=1e-12)
    self.assertAlmostEqual(got.difference, np.mean(first - second), delta=1e-15)
    self.assertAlmostEqual(got.sd, np.std(first - second, ddof=1), delta=1e-15)

  @parameterized.parameters(2, 3, 6, 9)
  def test_sign_flip_test_is_scipys(self, count):
    first, second = RNG.normal(0.7, 0.02, count), RNG.normal(0.69, 0.02, count)
    expected = stats.permutation_test(
      (first, second), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    self.assertAlmostEqual(comparisons.compare_seeds(first, second).p_sign_flip, expected.pvalue, delta=1e-12)

  @parameterized.parameters((1, 1.0), (2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125))
  def test_the_smallest_p_of_few_seeds_is_reached_by_a_constant_sign(self, count, smallest):
    first = 0.7 + np.arange(count) / 100
    got = comparisons.compare_seeds(first, first - 0.01 * (1 + np.arange(count)))
    self.assertEqual((got.p_sign_flip, got.smallest_p, got.num_seeds), (smallest, smallest, count))

  @settings(deadline=None, max_examples=50)
  @given(SCORES)
  def test_exchanging_the_rows_negates_the_difference(self, pairs):
    first, second = np.array(pairs).T
    one, other = comparisons.compare_seeds(first, second), comparisons.compare_seeds(second, first)
    self.assertEqual((one.difference, one.p_sign_flip), (-other.difference, other.p_sign_flip))
    np.testing.assert_array_equal([one.p_t, one.low], [other.p_t, -other.high])

  def test_one_seed_tells_no_spread(self):
    for other in (0.6, 0.7):
      got = comparisons.compare_seeds([0.7], [other])
      self.assertAlmostEqual(got.difference, 0.7 - other)
      self.assertTrue(all(math.isnan(value) for value in (got.sd, got.low, got.high, got.p_t)))

  def test_equal_rows_and_rows_at_a_constant_distance(self):
    same = comparisons.compare_seeds([0.5, 0.75, 0.25], [0.5, 0.75, 0.25])
    self.assertEqual((same.difference, same.p_t, same.p_sign_flip, same.low, same.high), (0, 1, 1, 0, 0))
    apart = comparisons.compare_seeds([0.5, 0.75, 0.25], [0.25, 0.5, 0.0])
    self.assertTrue(math.isnan(apart.p_t))  # No spread to judge by.
    self.assertEqual(apart.p_sign_flip, 0.25)
    rounded = comparisons.compare_seeds([0.7, 0.8, 0.4], [0.6, 0.7, 0.3])
    self.assertGreater(rounded.sd, 0)
    self.assertTrue(math.isnan(rounded.p_t))

  def test_an_undefined_score_leaves_the_tests_undefined(self):
    got = comparisons.compare_seeds([0.7, math.nan], [0.6, 0.5])
    self.assertTrue(math.isnan(got.difference) and math.isnan(got.p_t) and math.isnan(got.p_sign_flip))

  def test_rows_of_other_seeds_are_refused(self):
    for first, second in (([0.1], [0.1, 0.2]), ([], [])):
      with self.assertRaisesRegex(ValueError, "no pairs; give one of each a seed"):
        comparisons.compare_seeds(first, second)

  @parameterized.parameters(
    (1, "no test between rows"),
    (2, "2 seeds .* p = 0.5 at best"),
    (3, "p = 0.25 at best, so no difference can be"),
    (6, "0.0312 .*can be reached"),
  )
  def test_the_note_says_what_seeds_can_show(self, count, words):
    self.assertRegex(comparisons.seeds_note(count), words)


class HolmTest(parameterized.TestCase):
  def test_by_hand(self):
    # Smallest first: 4 x 0.01, 3 x 0.015 = 0.045, 2 x 0.03, 1 x 0.04 raised to what stands before it.
    got = comparisons.holm([0.04, 0.01, 0.03, 0.015])
    np.testing.assert_allclose(got, [0.06, 0.04, 0.06, 0.045])

  @settings(deadline=None, max_examples=100)
  @given(P_VALUES)
  def test_it_is_the_closed_test_of_bonferroni(self, p_values):
    # A hypothesis falls if every set of hypotheses that holds it does: the largest Bonferroni p of those sets.
    tests = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    expected = np.full(len(p_values), np.nan)
    for i in tests:
      sets = (s for n in range(1, len(tests) + 1) for s in itertools.combinations(tests, n) if i in s)
      expected[i] = max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets)
    np.testing.assert_allclose(comparisons.holm(p_values), expected, rtol=1e-12)

  @settings(deadline=None, max_examples=50)
  @given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
  def test_the_order_of_tests_changes_nothing(self, p_values, random):
    order = list(range(len(p_values)))
    random.shuffle(order)
    shuffled = comparisons.holm([p_values[i] for i in order])
    np.testing.assert_array_equal(shuffled, comparisons.holm(p_values)[order])

  def test_what_is_no_probability_is_refused(self):
    with self.assertRaisesRegex(ValueError, "must lie in 0..1"):
      comparisons.holm([0.5, 1.5])


if __name__ == "__main__":
  absltest.main()
