"""Tests of transfer and forgetting by hand and by the formulas written out."""

import math

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minec2f_jax.evaluation import transfer

SQUARES = st.integers(2, 5).flatmap(lambda n: hnp.arrays(np.float64, (n, n), elements=st.floats(0, 1)))


class TransferTest(parameterized.TestCase):
  def test_the_papers_teacher_and_student(self):
    # mIoU of Table 2 on the coarse set; on the fine one of supplement Table 5 and of Table 1.
    matrix = transfer.score_matrix(
      {
        ("coarse", "coarse"): 0.7249,
        ("coarse", "fine"): 0.4552,
        ("fine", "coarse"): 0.4429,
        ("fine", "fine"): 0.7364,
      },
      ["coarse", "fine"],
    )
    got = transfer.transfer(matrix, untrained=[0.40, 0.35])
    self.assertAlmostEqual(got.backward, -0.2820)
    self.assertAlmostEqual(got.forgetting, 0.2820)
    self.assertAlmostEqual(got.forward, 0.1052)
    self.assertAlmostEqual(got.average, (0.4429 + 0.7364) / 2)

  def test_three_domains_by_hand(self):
    matrix = [[0.8, 0.3, 0.2], [0.9, 0.7, 0.4], [0.6, 0.75, 0.7]]
    got = transfer.transfer(matrix, untrained=[0.1, 0.1, 0.1])
    np.testing.assert_allclose(got.backward_by_domain, [-0.2, 0.05])
    self.assertAlmostEqual(got.backward, -0.075)
    # Best before the last stage: 0.9 on the first domain (after the second stage), 0.7 on the second.
    np.testing.assert_allclose(got.forgetting_by_domain, [0.3, -0.05])
    self.assertAlmostEqual(got.forgetting, 0.125)
    self.assertAlmostEqual(got.forward, ((0.3 - 0.1) + (0.4 - 0.1)) / 2)
    self.assertAlmostEqual(got.average, (0.6 + 0.75 + 0.7) / 3)

  @settings(deadline=None, max_examples=60)
  @given(SQUARES)
  def test_the_formulas_written_out(self, matrix):
    last, start = len(matrix), np.linspace(0, 0.3, len(matrix))
    got = transfer.transfer(matrix, untrained=start)
    r = {(i, j): matrix[i - 1, j - 1] for i in range(1, last + 1) for j in range(1, last + 1)}
    earlier = range(1, last)
    backward = sum(r[last, j] - r[j, j] for j in earlier) / (last - 1)
    forgetting = sum(max(r[l, j] for l in earlier) - r[last, j] for j in earlier) / (last - 1)
    forward = sum(r[j - 1, j] - start[j - 1] for j in range(2, last + 1)) / (last - 1)
    np.testing.assert_allclose([got.backward, got.forgetting, got.forward], [backward, forgetting, forward], atol=1e-12)

  @settings(deadline=None, max_examples=40)
  @given(SQUARES)
  def test_forgetting_is_at_least_minus_backward_transfer_and_equal_for_two_stages(self, matrix):
    got = transfer.transfer(matrix)
    self.assertGreaterEqual(got.forgetting, -got.backward - 1e-12)
    if len(matrix) == 2:
      self.assertAlmostEqual(got.forgetting, -got.backward, delta=1e-12)

  @settings(deadline=None, max_examples=40)
  @given(SQUARES)
  def test_who_keeps_everything_forgets_nothing(self, matrix):
    kept = np.maximum.accumulate(matrix, axis=0)
    got = transfer.transfer(kept)
    self.assertLessEqual(got.forgetting, 0)
    self.assertGreaterEqual(got.backward, 0)

  def test_without_an_untrained_score_forward_transfer_is_undefined(self):
    self.assertTrue(math.isnan(transfer.transfer(np.eye(3)).forward))

  def test_what_was_not_measured_stays_undefined_and_touches_nothing_else(self):
    nan = math.nan
    got = transfer.transfer([[0.8, nan, nan], [nan, 0.7, nan], [0.6, 0.65, 0.7]], untrained=[0, 0, 0])
    self.assertAlmostEqual(got.backward, (-0.2 - 0.05) / 2)
    self.assertAlmostEqual(got.forgetting, (0.2 + 0.05) / 2)  # Of what was measured.
    self.assertTrue(math.isnan(got.forward))
    lost = transfer.transfer([[nan, 0.1], [0.6, 0.7]])
    self.assertTrue(math.isnan(lost.backward) and math.isnan(lost.forgetting))
    self.assertAlmostEqual(lost.average, 0.65)

  def test_one_stage_alone_has_an_average_only(self):
    got = transfer.transfer([[0.7]], untrained=[0.1])
    self.assertEqual((got.average, got.backward_by_domain), (0.7, ()))
    self.assertTrue(math.isnan(got.backward) and math.isnan(got.forgetting) and math.isnan(got.forward))

  def test_a_score_that_is_missing_is_nan_in_the_matrix(self):
    matrix = transfer.score_matrix({("fine", "coarse"): 0.4}, ["coarse", "fine"])
    np.testing.assert_array_equal(matrix, [[np.nan, np.nan], [0.4, np.nan]])

  def test_what_does_not_fit_is_refused(self):
    for matrix in (np.ones((2, 3)), np.ones(4), np.ones((0, 0))):
      with self.assertRaisesRegex(ValueError, r"must be \[T, T\]: one stage a domain"):
        transfer.transfer(matrix)
    with self.assertRaisesRegex(ValueError, "a score for each of 2 domains"):
      transfer.transfer(np.eye(2), untrained=[0.1])


if __name__ == "__main__":
  absltest.main()
