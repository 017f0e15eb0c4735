"""Tests of the measures of labels and of how two samples of them compare."""

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats
from skimage import draw, measure

from minec2f_jax.data import label_geometry

SAMPLES = st.lists(st.floats(-1e6, 1e6) | st.just(np.nan), min_size=1, max_size=40).map(np.array)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12))


def disc(size: int, radius: float) -> np.ndarray:
  rows, cols = np.indices((size, size)) - (size - 1) / 2
  return np.hypot(rows, cols) < radius


def polygon(vertices: np.ndarray, size: int) -> np.ndarray:
  """[size, size] bool, the complex vertices' polygon; its centre is the origin."""
  return draw.polygon2mask((size, size), np.stack([vertices.imag, vertices.real], -1) + (size - 1) / 2)


def koch(side: float, iterations: int) -> np.ndarray:
  """Complex vertices of the snowflake around 0."""
  points = side / np.sqrt(3) * np.exp(2j * np.pi * np.arange(3) / 3)
  for _ in range(iterations):
    step = (np.roll(points, -1) - points) / 3
    peak = points + step + step * np.exp(-1j * np.pi / 3)
    points = np.stack([points, points + step, peak, points + 2 * step], -1).ravel()
  return points


def roughness(mask, valid=None):
  return label_geometry.label_statistics(mask[None], valid=None if valid is None else valid[None]).roughness[0]


class PerimeterTest(parameterized.TestCase):
  @settings(deadline=None, max_examples=60)
  @given(MASKS)
  def test_it_is_scikit_images_crofton_perimeter_in_four_directions(self, mask):
    mask = np.pad(mask, 2)  # scikit-image counts the border, we do not.
    want = measure.perimeter_crofton(mask, directions=4)
    np.testing.assert_allclose(label_geometry.perimeter(mask[None]), [want], rtol=1e-12)

  def test_square_and_half_plane_by_hand(self):
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 10:20, 10:20] = True
    masks[1, :, :20] = True
    # Square of side a: 4a pairs along rows and columns, 2 (a**2 - (a - 1)**2) along each diagonal. Half-plane: one
    # inner edge of 40 pairs along rows, 39 along each diagonal; the image border is none.
    want = np.pi / 8 * np.array([40 + 2 * 38 / np.sqrt(2), 40 + 2 * 39 / np.sqrt(2)])
    np.testing.assert_allclose(label_geometry.perimeter(masks), want)

  @parameterized.parameters(10, 20, 40, 120)
  def test_circumference_of_discs(self, radius):
    got = label_geometry.perimeter(disc(2 * radius + 6, radius)[None])[0]
    self.assertAlmostEqual(got / (2 * np.pi * radius), 1.0, delta=0.013)

  @parameterized.parameters(*range(0, 50, 5))
  def test_rotated_square_keeps_its_length_within_the_directions_error(self, degrees):
    corners = 200 / np.sqrt(2) * np.exp(1j * (np.pi / 4 + np.deg2rad(degrees) + np.pi / 2 * np.arange(4)))
    got = label_geometry.perimeter(polygon(corners, 320)[None])[0] / 800
    angle = np.deg2rad(degrees)  # The formula for a straight edge: pi/8 sum |cos| over the four directions.
    want = np.pi / 8 * np.abs(np.cos(angle + np.pi / 4 * np.arange(4))).sum()
    self.assertAlmostEqual(got, want, delta=0.01)
    self.assertBetween(want, 0.948, 1.0263)

  @settings(deadline=None, max_examples=60)
  @given(MASKS)
  def test_complement_flips_and_turns_have_the_same_boundary(self, mask):
    want = label_geometry.perimeter(mask[None])
    for other in (~mask, mask[::-1], mask[:, ::-1], mask.T, np.rot90(mask)):
      np.testing.assert_allclose(label_geometry.perimeter(other[None]), want)

  def test_an_invalid_pixel_is_no_boundary(self):
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 2, 2] = True
    self.assertGreater(label_geometry.perimeter(mask)[0], 0)
    np.testing.assert_array_equal(label_geometry.perimeter(mask, ~mask), [0])


class LabelStatisticsTest(parameterized.TestCase):
  @parameterized.parameters(15, 60, 120)
  def test_disc_has_roughness_one(self, radius):
    self.assertAlmostEqual(roughness(disc(300, radius)), 1.0, delta=0.01)

  def test_n_equal_discs_have_roughness_root_n(self):
    self.assertAlmostEqual(roughness(np.tile(disc(100, 30), (3, 3))), 3.0, delta=0.02)

  def test_koch_snowflake_grows_rougher_by_its_closed_form(self):
    side, got, want = 810.0, [], []
    for k in range(5):
      length, area = 3 * side * (4 / 3) ** k, np.sqrt(3) / 20 * side**2 * (8 - 3 * (4 / 9) ** k)
      want.append(length / (2 * np.sqrt(np.pi * area)))
      got.append(roughness(polygon(koch(side, k), 960)))
    np.testing.assert_allclose(got[:4], want[:4], rtol=0.02)  # Edges of 30 pixels and more.
    np.testing.assert_allclose(got[4], want[4], rtol=0.04)  # 10 pixels: the corners begin to go.
    self.assertTrue((np.diff(got) > 0.15).all())

  def test_details_below_a_pixel_are_not_seen(self):
    coarse, fine = (roughness(polygon(koch(81.0, k), 96)) for k in (4, 6))
    self.assertAlmostEqual(fine / coarse, 1.0, delta=0.1)  # The curve itself grows by 16/9.

  def test_coverage_and_the_half_plane_by_hand(self):
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, :, :20] = 255
    got = label_geometry.label_statistics(mask)
    np.testing.assert_allclose(got.coverage, [0.5])
    np.testing.assert_allclose(
      got.roughness, np.pi / 8 * (40 + 78 / np.sqrt(2)) / (2 * np.sqrt(np.pi * 800)), rtol=1e-12
    )
    self.assertIsNone(got.iou)

  def test_no_boundary_no_roughness_and_two_empty_masks_no_iou(self):
    masks = np.stack([np.zeros((8, 8)), np.ones((8, 8))])
    got = label_geometry.label_statistics(masks, masks)
    np.testing.assert_array_equal(got.roughness, [np.nan, np.nan])
    np.testing.assert_array_equal(got.iou, [np.nan, 1.0])

  def test_iou_by_hand(self):
    coarse, fine = np.zeros((1, 4, 4)), np.zeros((1, 4, 4))
    coarse[0, :2], fine[0, 1:3, :2] = 255, 1
    np.testing.assert_allclose(label_geometry.label_statistics(coarse, fine).iou, [2 / 10])

  @settings(deadline=None, max_examples=40)
  @given(MASKS, st.integers(0, 2**32 - 1))
  def test_invalid_pixels_around_a_window_leave_the_statistics_of_the_window(self, mask, seed):
    rng = np.random.default_rng(seed)
    reference = rng.random(mask.shape) < 0.5
    around, other, valid = (rng.random((20, 20)) < 0.5, rng.random((20, 20)) < 0.5, np.zeros((20, 20), bool))
    window = slice(3, 3 + mask.shape[0]), slice(5, 5 + mask.shape[1])
    around[window], other[window], valid[window] = mask, reference, True
    want = label_geometry.label_statistics(mask[None], reference[None])
    got = label_geometry.label_statistics(around[None], other[None], valid[None])
    for one, two in zip(got, want):
      np.testing.assert_array_equal(one, two)

  def test_without_a_valid_pixel_nothing_is_defined(self):
    ones = np.ones((1, 4, 4))
    got = label_geometry.label_statistics(ones, ones, np.zeros((1, 4, 4), bool))
    np.testing.assert_array_equal(got, [[np.nan]] * 3)

  def test_refuses_masks_that_are_no_pairs(self):
    with self.assertRaisesRegex(ValueError, "reference.*must be pairs"):
      label_geometry.label_statistics(np.zeros((2, 4, 4)), np.zeros((1, 4, 4)))
    with self.assertRaisesRegex(ValueError, r"valid has shape \(4, 4\)"):
      label_geometry.label_statistics(np.zeros((2, 4, 4)), None, np.ones((4, 4)))
    with self.assertRaisesRegex(ValueError, r"\[N, H, W\], got shape \(4, 4\)"):
      label_geometry.label_statistics(np.zeros((4, 4)))


class DistributionTest(parameterized.TestCase):
  @parameterized.parameters(0.5, 1.0, 2.0)
  def test_overlap_of_two_gaussians_is_the_closed_form(self, distance):
    first, second = np.random.default_rng(0).standard_normal((2, 400_000))
    got = label_geometry.distribution_overlap(first, second + distance)
    self.assertAlmostEqual(got, 2 * stats.norm.cdf(-distance / 2), delta=0.006)  # Inman & Bradley, equal variances.

  def test_overlap_is_one_for_the_same_sample_and_zero_for_disjoint_ones(self):
    sample = np.random.default_rng(0).random(100)
    self.assertAlmostEqual(label_geometry.distribution_overlap(sample, np.repeat(sample, 3)), 1.0)
    self.assertEqual(label_geometry.distribution_overlap(sample, sample + 2), 0.0)
    self.assertEqual(label_geometry.distribution_overlap([3.0], [3.0, 3.0]), 1.0)

  def test_overlap_by_hand_with_undefined_values_dropped(self):
    # Four bins over 0..4: shares (1/2, 0, 0, 1/2) and (1/4, 1/2, 0, 1/4).
    got = label_geometry.distribution_overlap([0, 4, np.nan], [0.5, 1, 1, np.inf, 4], bins=4)
    self.assertEqual(got, 0.5)
    self.assertTrue(np.isnan(label_geometry.distribution_overlap([np.nan], [1.0])))

  @settings(deadline=None)
  @given(SAMPLES, SAMPLES)
  def test_overlap_is_symmetric_and_a_share(self, first, second):
    got = label_geometry.distribution_overlap(first, second)
    if np.isnan(first).all() or np.isnan(second).all():
      self.assertTrue(np.isnan(got))
    else:
      self.assertBetween(got, 0.0, 1.0 + 1e-12)
      self.assertEqual(got, label_geometry.distribution_overlap(second, first))

  def test_edges_span_both_samples_and_are_none_too_narrow(self):
    np.testing.assert_allclose(label_geometry.shared_edges([1, np.nan], [5, 3], bins=4), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(label_geometry.shared_edges([2], [2 + 1e-15], bins=2), [1.5, 2, 2.5])
    np.testing.assert_allclose(label_geometry.shared_edges([], [np.nan], bins=2), [0, 0.5, 1])

  def test_summary_by_hand(self):
    got = label_geometry.summarize(np.array([0.1, 1.2, 1.4, 3.0, np.nan]), np.arange(5.0))
    self.assertEqual((got["n"], got["mode"]), (4, 1.5))
    np.testing.assert_allclose([got["mean"], got["median"]], [1.425, 1.3])
    np.testing.assert_allclose([got["p5"], got["p95"]], [0.1 + 0.15 * 1.1, 3.0 - 0.15 * 1.6])

  def test_of_nothing_there_is_no_summary(self):
    got = label_geometry.summarize(np.array([np.nan]), np.arange(3.0))
    self.assertEqual(got.pop("n"), 0)
    np.testing.assert_array_equal(list(got.values()), [np.nan] * 5)

  def test_kolmogorov_smirnov_is_the_largest_gap_of_the_cumulative_shares(self):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=60), rng.normal(0.7, 2, size=45)
    got = label_geometry.compare(np.append(first, np.nan), second)
    grid = np.concatenate([first, second])
    gap = np.abs((first[:, None] <= grid).mean(0) - (second[:, None] <= grid).mean(0)).max()
    self.assertAlmostEqual(got["ks"], gap, places=12)
    self.assertEqual(got["overlap"], label_geometry.distribution_overlap(first, second))
    self.assertEqual((got["first"]["n"], got["second"]["n"]), (60, 45))

  def test_with_an_undefined_sample_nothing_compares(self):
    got = label_geometry.compare(np.array([np.nan]), np.array([1.0]))
    np.testing.assert_array_equal([got["ks"], got["overlap"], got["first"]["mean"]], [np.nan] * 3)
    self.assertEqual(got["second"]["mean"], 1.0)


class SmoothingTest(parameterized.TestCase):
  def test_smoother_outlines_and_fewer_parts_are_less_rough(self):
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((200, 200)), 2)
    values = [roughness(ndimage.gaussian_filter(field, s) > 0) for s in (0, 2, 4, 8)]
    self.assertTrue((np.diff(values) < 0).all(), values)


if __name__ == "__main__":
  absltest.main()
