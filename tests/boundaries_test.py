"""Tests of the boundary scores against exact geometry, distance transforms and erosions."""

import math
import time

import numpy as np
import shapely
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import segmentation

from minec2f_jax.evaluation import boundaries

MASKS = hnp.arrays(bool, (3, 7, 6))
SIDES = st.tuples(st.sampled_from([4.0, 10.0, 12.5, 20.0]), st.sampled_from([5.0, 10.0, 17.0]))


def rectangle(top, bottom, left, right, size=40):
  mask = np.zeros((1, size, size), bool)
  mask[0, top:bottom, left:right] = True
  return mask


def blobs(seed, count=4, size=64):
  noise = np.random.default_rng(seed).normal(size=(count, size, size))
  return ndimage.gaussian_filter(noise, (0, 4, 4)) > 0.02


def scores(predicted, label, valid=None, gsd_m=10.0, **options):
  return boundaries.boundary_counts(predicted, label, valid, gsd_m, **options).compute()


def segments(mask, valid, sides):
  """Pixel edges between a mine pixel and another, as (midpoint, line) in metres, found pair by pair."""
  found = []
  for (i, j), inside in np.ndenumerate(mask):
    for k, l in ((i + 1, j), (i, j + 1)):
      if k < mask.shape[0] and l < mask.shape[1] and valid[i, j] and valid[k, l] and inside != mask[k, l]:
        y, x = (i + k) / 2, (j + l) / 2
        ends = ((y, x - 0.5), (y, x + 0.5)) if k > i else ((y - 0.5, x), (y + 0.5, x))
        found.append(shapely.LineString(np.array(ends) * sides))
  return found


def by_geometry(predicted, label, valid, sides, tolerance):
  """Counts of one image by distances between lines and points."""
  predicted, label = predicted & valid, label & valid
  lines = [segments(mask, valid, sides) for mask in (predicted, label)]
  outlines = [shapely.MultiLineString(each) for each in lines]
  reach = tolerance + 1e-6

  def near(point, outline):
    return not outline.is_empty and outline.distance(point) <= reach

  bands = [
    {(i, j) for (i, j), inside in np.ndenumerate(mask) if inside and near(shapely.Point((i, j) * sides), outline)}
    for mask, outline in zip((predicted, label), outlines)
  ]
  matched = [sum(near(line.centroid, other) for line in each) for each, other in zip(lines, outlines[::-1])]
  return [len(bands[0] & bands[1]), len(bands[0] | bands[1]), len(lines[0]), matched[0], len(lines[1]), matched[1]]


def by_distance_transform(predicted, label, gsd, tolerance):
  """(boundary IoU, boundary F1) of one image, from scikit-image's boundaries between pixels and SciPy's distances."""
  lines = [segmentation.find_boundaries(mask, mode="subpixel", background=-1) for mask in (predicted, label)]
  away = [ndimage.distance_transform_edt(~line, sampling=gsd / 2) for line in lines]
  ours, theirs = (mask & (distance[::2, ::2] <= tolerance) for mask, distance in zip((predicted, label), away))
  rows, columns = np.indices(lines[0].shape)
  midpoint = (rows + columns) % 2 == 1
  precision = (away[1][lines[0] & midpoint] <= tolerance).mean()
  recall = (away[0][lines[1] & midpoint] <= tolerance).mean()
  return (ours & theirs).sum() / (ours | theirs).sum(), 2 * precision * recall / (precision + recall)


def by_erosion(predicted, label, pixels):
  """Boundary IoU as its authors' code computes it, of masks that do not touch the border."""
  square = np.ones((3, 3))
  bands = [mask & ~ndimage.binary_erosion(mask, square, iterations=pixels) for mask in (predicted, label)]
  return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


class OracleTest(parameterized.TestCase):
  @settings(deadline=None, max_examples=40)
  @given(MASKS, SIDES, st.sampled_from([10.0, 30.0]))
  def test_counts_are_those_of_exact_geometry(self, masks, sides, tolerance):
    predicted, label, valid = masks
    valid = valid | masks[0] | masks[1]  # Enough of it, yet with holes.
    got = boundaries.boundary_counts(predicted[None], label[None], valid[None], [sides], tolerances_m=[tolerance])
    if got.too_coarse.any():
      self.assertGreater(max(sides), 2 * tolerance)
      return
    np.testing.assert_array_equal(got.counts[0, 0], by_geometry(predicted, label, valid, np.array(sides), tolerance))

  @settings(deadline=None, max_examples=25)
  @given(MASKS)
  def test_counts_with_many_invalid_pixels_are_those_of_exact_geometry(self, masks):
    got = boundaries.boundary_counts(*(mask[None] for mask in masks), 10.0, tolerances_m=[30.0])
    np.testing.assert_array_equal(got.counts[0, 0], by_geometry(*masks, np.array([10.0, 10.0]), 30.0))

  @parameterized.product(gsd=[5.0, 10.0, 15.0], tolerance=[10.0, 30.0, 60.0])
  def test_scores_equal_an_independent_distance_transform(self, gsd, tolerance):
    predicted, label = blobs(0), blobs(0) ^ (blobs(1) & blobs(2))
    expected = [by_distance_transform(p, l, gsd, tolerance) for p, l in zip(predicted, label)]
    counts = boundaries.boundary_counts(predicted, label, None, gsd, tolerances_m=[tolerance])
    found = boundaries.boundary_scores(counts.counts[:, 0])
    np.testing.assert_allclose(np.stack([found["boundary_iou"], found["boundary_f1"]], 1), expected, atol=1e-9)
    means, name = counts.compute(), f"{tolerance:g}m"
    self.assertAlmostEqual(means[f"image_boundary_iou_{name}"], np.mean(expected, 0)[0], delta=1e-9)
    self.assertAlmostEqual(means[f"image_boundary_f1_{name}"], np.mean(expected, 0)[1], delta=1e-9)

  @parameterized.parameters(1, 3, 6)
  def test_on_rectangles_boundary_iou_is_that_of_the_authors_erosions(self, pixels):
    predicted, label = rectangle(5, 30, 6, 31), rectangle(8, 33, 4, 29)
    got = scores(predicted, label, tolerances_m=[10.0 * pixels])[f"boundary_iou_{10 * pixels}m"]
    self.assertAlmostEqual(got, by_erosion(predicted[0], label[0], pixels), delta=1e-12)

  def test_within_a_pixel_it_is_the_authors_erosion_on_any_mask(self):
    inner = np.pad(np.ones((56, 56), bool), 4)
    for predicted, label in zip(blobs(3) & inner, blobs(4) & inner):
      got = scores(predicted[None], label[None], tolerances_m=[10.0])["boundary_iou_10m"]
      self.assertAlmostEqual(got, by_erosion(predicted, label, 1), delta=1e-12)


class ByHandTest(parameterized.TestCase):
  def test_a_square_moved_by_two_pixels(self):
    # 10 x 10 pixels of 10 m, moved by 20 m along its rows.
    result = scores(rectangle(10, 20, 10, 20), rectangle(10, 20, 12, 22))
    # Within 10 m, of 40 edges: of each level side the 8 that lie on the other's and the one whose midpoint is 5 m
    # beyond its end; of the upright side that lies between the other's level ones the first and the last edge.
    self.assertAlmostEqual(result["boundary_f1_10m"], 20 / 40)
    self.assertEqual(result["boundary_f1_30m"], 1.0)
    # Bands one pixel wide, 36 pixels each, which share 8 pixels of each level side.
    self.assertAlmostEqual(result["boundary_iou_10m"], 16 / (36 + 36 - 16))

  def test_pixels_of_different_height_and_width(self):
    # An outline of 10 upright edges; the other is one pixel aside: 8 m along a row, 25 m along a column.
    left = np.zeros((1, 10, 10), bool)
    left[:, :, :5] = True
    aside = np.zeros((1, 10, 10), bool)
    aside[:, :, :6] = True
    sides = np.array([[25.0, 8.0]])
    self.assertEqual(scores(left, aside, None, sides, tolerances_m=[13.0])["boundary_f1_13m"], 1.0)
    turned = left.swapaxes(1, 2), aside.swapaxes(1, 2)
    self.assertEqual(scores(*turned, None, sides, tolerances_m=[13.0])["boundary_f1_13m"], 0.0)
    self.assertEqual(scores(*turned, None, sides, tolerances_m=[25.0])["boundary_f1_25m"], 1.0)

  def test_each_image_has_its_own_pixel_size(self):
    predicted = np.concatenate([rectangle(10, 20, 10, 20)] * 2)
    label = np.concatenate([rectangle(10, 20, 12, 22)] * 2)
    counts = boundaries.boundary_counts(predicted, label, None, [5.0, 10.0], tolerances_m=[10.0])
    self.assertEqual(boundaries.boundary_scores(counts.counts[:, 0])["boundary_f1"].tolist(), [1.0, 20 / 40])

  def test_pooled_weighs_by_length_and_image_mean_does_not(self):
    predicted = np.concatenate([rectangle(10, 20, 10, 20), rectangle(0, 0, 0, 0)])
    label = np.concatenate([rectangle(10, 20, 10, 20), rectangle(5, 10, 5, 10)])
    result = scores(predicted, label)
    self.assertEqual(result["image_boundary_f1_10m"], 0.5)
    self.assertAlmostEqual(result["boundary_f1_10m"], 2 * 40 / (40 + 60))
    self.assertEqual(result["num_boundary_images_10m"], 2)


class EdgeCaseTest(parameterized.TestCase):
  @parameterized.parameters(0, 1)
  def test_without_any_outline_scores_are_undefined(self, value):
    mask = np.full((2, 8, 8), value, bool)
    result = scores(mask, mask)
    self.assertEqual(result["num_boundary_images_30m"], 0)
    for name, score in result.items():
      self.assertTrue(name.startswith("num_") or math.isnan(score), name)

  @parameterized.parameters(False, True)
  def test_an_outline_on_one_side_alone_scores_zero(self, labelled):
    nothing, something = rectangle(0, 0, 0, 0), rectangle(10, 20, 10, 20)
    result = scores(nothing, something) if labelled else scores(something, nothing)
    self.assertEqual((result["boundary_iou_60m"], result["boundary_f1_60m"]), (0.0, 0.0))
    undefined, zero = ("precision", "recall") if labelled else ("recall", "precision")
    self.assertTrue(math.isnan(result[f"boundary_{undefined}_60m"]))
    self.assertEqual(result[f"boundary_{zero}_60m"], 0.0)

  def test_the_image_border_is_no_outline(self):
    whole, cut = np.ones((1, 20, 20), bool), np.ones((1, 20, 20), bool)
    cut[:, :, 10:] = False
    counts = boundaries.boundary_counts(whole, cut, None, 10.0).counts
    self.assertEqual(counts[0, 0, 2], 0)
    self.assertEqual(counts[0, 0, 4], 20)  # The inner side alone.

  def test_pixels_without_data_neither_make_nor_match_outlines(self):
    label, valid = rectangle(10, 20, 10, 20), np.ones((1, 40, 40), bool)
    valid[:, 15:] = False
    counts = boundaries.boundary_counts(label, label, valid, 10.0).counts[0, 0]
    self.assertEqual(counts[2], 10 + 5 + 5)  # The top, and the upper half of both uprights.
    predicted = rectangle(10, 16, 10, 20)  # Ends below the last valid row.
    same = boundaries.boundary_counts(predicted, label, valid, 10.0).counts[0, 0]
    np.testing.assert_array_equal(same, counts)

  def test_what_lies_under_invalid_pixels_changes_nothing(self):
    rng = np.random.default_rng(0)
    predicted, label, valid = blobs(5), blobs(6), rng.uniform(size=(4, 64, 64)) > 0.1
    noise = rng.uniform(size=valid.shape) > 0.5
    got = boundaries.boundary_counts(np.where(valid, predicted, noise), np.where(valid, label, noise), valid, 10.0)
    np.testing.assert_array_equal(got.counts, boundaries.boundary_counts(predicted, label, valid, 10.0).counts)

  def test_images_too_coarse_for_a_tolerance_are_left_out_and_counted(self):
    masks = np.concatenate([rectangle(10, 20, 10, 20)] * 3)
    result = scores(masks, masks, None, [10.0, 20.0, 30.0])
    self.assertEqual((result["num_too_coarse_10m"], result["num_boundary_images_10m"]), (1, 2))
    self.assertEqual((result["num_too_coarse_30m"], result["num_boundary_images_30m"]), (0, 3))

  @parameterized.named_parameters(
    ("missing", [10.0, math.nan], r"1 of 2 images is no pixel size.*image 1: \[nan, nan\].*georeference"),
    ("degrees", 9e-5, "2 of 2 images.*convert degrees to metres"),
    ("negative", [10.0, -10.0], "image 1"),
    ("of other images", [10.0, 10.0, 10.0], r"shape \(3,\) must be a number, \[2\] or \[2, 2\]"),
  )
  def test_what_is_no_pixel_size_is_refused(self, gsd_m, message):
    masks = np.zeros((2, 4, 4), bool)
    with self.assertRaisesRegex(ValueError, message):
      boundaries.boundary_counts(masks, masks, None, gsd_m)

  def test_shapes_and_tolerances_that_do_not_fit_are_refused(self):
    masks = np.zeros((2, 4, 4), bool)
    with self.assertRaisesRegex(ValueError, r"must be \[N, H, W\], all alike"):
      boundaries.boundary_counts(masks, masks[:1], None, 10.0)
    with self.assertRaisesRegex(ValueError, "above 0"):
      boundaries.boundary_counts(masks, masks, None, 10.0, tolerances_m=[0.0])
    with self.assertRaisesRegex(ValueError, "cannot be merged"):
      boundaries.BoundaryCounts.empty().merge(boundaries.BoundaryCounts.empty([5.0]))

  def test_no_images_give_nan(self):
    result = boundaries.BoundaryCounts.empty().compute()
    self.assertTrue(math.isnan(result["boundary_iou_10m"]))
    self.assertTrue(math.isnan(result["image_boundary_f1_60m"]))
    self.assertEmpty(boundaries.boundary_counts(*[np.zeros((0, 4, 4))] * 3, 10.0).counts)


class LawTest(parameterized.TestCase):
  @settings(deadline=None, max_examples=30)
  @given(MASKS)
  def test_a_perfect_prediction_scores_one(self, masks):
    result = scores(masks, masks)
    for name in ("boundary_iou_10m", "boundary_f1_60m", "image_boundary_iou_30m"):
      self.assertTrue(result[name] == 1.0 or math.isnan(result[name]))

  @settings(deadline=None, max_examples=30)
  @given(MASKS, MASKS, MASKS)
  def test_a_larger_tolerance_never_lowers_boundary_f1(self, predicted, label, valid):
    tolerances = [10.0, 15.0, 30.0, 60.0]
    counts = boundaries.boundary_counts(predicted, label, valid, 10.0, tolerances_m=tolerances)
    f1 = boundaries.boundary_scores(counts.counts)["boundary_f1"]
    self.assertFalse((np.diff(f1, axis=1) < 0).any())
    result = counts.compute()
    pooled = [result[f"boundary_f1_{t:g}m"] for t in tolerances]
    self.assertFalse((np.diff(pooled) < 0).any())

  @settings(deadline=None, max_examples=30)
  @given(MASKS, MASKS, MASKS)
  def test_exchanging_prediction_and_label_exchanges_precision_and_recall(self, predicted, label, valid):
    one, other = scores(predicted, label, valid), scores(label, predicted, valid)
    for a, b in (("iou", "iou"), ("f1", "f1"), ("precision", "recall")):
      np.testing.assert_equal(one[f"boundary_{a}_30m"], other[f"boundary_{b}_30m"])

  @settings(deadline=None, max_examples=20)
  @given(MASKS, MASKS)
  def test_mine_and_background_have_the_same_outline(self, predicted, label):
    one, other = scores(predicted, label), scores(~predicted, ~label)
    np.testing.assert_equal(one["boundary_f1_10m"], other["boundary_f1_10m"])

  def test_order_and_batches_change_nothing(self):
    predicted, label, valid, gsd_m = blobs(7), blobs(8), blobs(9) | blobs(8), np.array([8.0, 9.0, 10.0, 25.0])
    whole = boundaries.boundary_counts(predicted, label, valid, gsd_m)
    parts = boundaries.BoundaryCounts.empty()
    for i in (2, 0, 3, 1):
      parts = parts.merge(boundaries.boundary_counts(predicted[[i]], label[[i]], valid[[i]], gsd_m[[i]]))
    self.assertEqual(parts.compute(), whole.compute())

  def test_a_hundred_images_of_256_pixels_take_seconds(self):
    predicted, label = blobs(10, 20, 256), blobs(11, 20, 256)
    start = time.process_time()
    boundaries.boundary_counts(predicted, label, None, 10.0)
    self.assertLess(time.process_time() - start, 4)  # Measured 0.7; of real mines, whose outlines are shorter, 0.2.


if __name__ == "__main__":
  absltest.main()
