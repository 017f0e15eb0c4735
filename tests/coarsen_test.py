"""Tests of the coarse labels."""

import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage

from minec2f_jax.data import coarsen, label_geometry
from tests.rasters import DATA

# Everything that is drawn by chance switched off; what remains can be computed by hand.
FIXED = dict(
  closing_m=0.0,
  closing_spread=0.0,
  margin_m=0.0,
  margin_spread=0.0,
  simplify_m=1.0,
  jitter_m=0.0,
  shift_m=0.0,
  omit_area_m2=0.0,
  max_cut_share=0.0,
)


def disc(size: int, radius: float) -> np.ndarray:
  rows, cols = np.indices((size, size)) - (size - 1) / 2
  return np.hypot(rows, cols) < radius


def two_squares(gap: int) -> np.ndarray:
  mask = np.zeros((100, 100), bool)
  mask[40:60, 10:30] = mask[40:60, 30 + gap : 50 + gap] = True
  return mask


class CoarsenTest(parameterized.TestCase):
  def test_same_seed_same_label_and_another_seed_another_one(self):
    mask = disc(96, 25)
    first = coarsen.coarsen(3, mask)
    np.testing.assert_array_equal(coarsen.coarsen(np.random.default_rng(3), mask), first)
    self.assertFalse(np.array_equal(coarsen.coarsen(4, mask), first))

  @parameterized.parameters(bool, np.uint8, np.int32)
  def test_label_is_uint8_of_zeros_and_ones_whatever_the_mask(self, dtype):
    label = coarsen.coarsen(0, (disc(64, 15) * 7).astype(dtype))
    self.assertEqual(label.dtype, np.uint8)
    self.assertEqual(set(np.unique(label)), {0, 1})

  def test_empty_mask_stays_empty_and_a_full_one_full(self):
    empty = coarsen.coarsen(0, np.zeros((40, 50)))
    self.assertEqual(empty.shape, (40, 50))
    self.assertEqual(empty.sum(), 0)
    full = [coarsen.coarsen(seed, np.ones((40, 50)), max_cut_share=0.0) for seed in range(20)]
    self.assertEqual(np.min(full), 1)

  def test_margin_grows_a_disc_by_its_length(self):
    grown = coarsen.coarsen(0, disc(120, 30), **FIXED | dict(margin_m=150.0))
    self.assertAlmostEqual(grown.sum() / (np.pi * 45.0**2), 1.0, delta=0.04)  # 30 pixels + 150 m / 10 m.

  @parameterized.parameters((10, 1), (40, 2))
  def test_closing_merges_only_neighbours_within_twice_its_radius(self, gap, components):
    closed = coarsen.coarsen(0, two_squares(gap), **FIXED | dict(closing_m=100.0))
    self.assertEqual(ndimage.label(closed)[1], components)

  def test_holes_are_filled(self):
    ring = disc(100, 40) & ~disc(100, 15)
    filled = coarsen.coarsen(0, ring, **FIXED)
    self.assertGreater(filled[disc(100, 15)].mean(), 0.99)

  def test_lengths_are_metres_not_pixels(self):
    mask, options = two_squares(10), FIXED | dict(closing_m=100.0, margin_m=80.0, simplify_m=30.0)
    label = coarsen.coarsen(0, mask, **options)
    finer = coarsen.coarsen(0, mask.repeat(2, 0).repeat(2, 1), gsd_m=5.0, **options)[::2, ::2]
    self.assertGreater((label & finer).sum() / (label | finer).sum(), 0.95)

  def test_component_of_the_omission_area_is_left_out_half_the_time(self):
    mask = np.zeros((60, 60), bool)
    mask[5:15, 5:15] = mask[30:55, 30:55] = True  # 100 pixels = 1e4 m2 beside the largest.
    kept = [coarsen.coarsen(seed, mask, **FIXED | dict(omit_area_m2=1e4))[10, 10] for seed in range(300)]
    self.assertBetween(np.sum(kept), 150 - 35, 150 + 35)  # Binomial: four standard deviations.

  def test_largest_component_is_never_left_out(self):
    labels = [coarsen.coarsen(seed, disc(60, 10), **FIXED | dict(omit_area_m2=1e12)) for seed in range(20)]
    self.assertGreater(np.min([label.sum() for label in labels]), 0.9 * disc(60, 10).sum())

  def test_cut_takes_off_a_seventh_of_its_maximum_on_average(self):
    mask = disc(64, 20)
    left = [coarsen.coarsen(seed, mask, **FIXED | dict(max_cut_share=0.7)).sum() for seed in range(400)]
    # share = 0.7 u**6: mean 0.1, deviation 0.7 (1/13 - 1/49)**0.5 = 0.17, so 0.0083 for the mean of 400.
    self.assertAlmostEqual(1 - np.mean(left) / coarsen.coarsen(0, mask, **FIXED).sum(), 0.1, delta=0.033)

  def test_label_moves_by_the_shift_and_opens_no_strip_at_the_border(self):
    half = np.zeros((80, 80), bool)
    half[:, 40:] = True
    labels = [coarsen.coarsen(seed, half, **FIXED | dict(shift_m=50.0)) for seed in range(200)]
    self.assertEqual(np.min([label[:, -1] for label in labels]), 1)
    edge = [80 - label[40].sum() for label in labels]
    self.assertAlmostEqual(np.std(edge), 5.0, delta=1.0)  # 50 m = 5 pixels; four standard errors of 200 draws.

  def test_jitter_moves_the_corners_of_a_square(self):
    square = np.zeros((80, 80), bool)
    square[20:60, 20:60] = True
    areas = [coarsen.coarsen(seed, square, **FIXED | dict(jitter_m=20.0)).sum() for seed in range(300)]
    # Shoelace: a corner that moves by s per axis changes the area by s times half the diagonal, 2**-0.5 * 40 pixels.
    self.assertAlmostEqual(np.std(areas) / (2.0 * 4**0.5 * 2**-0.5 * 40), 1.0, delta=0.17)  # Four standard errors.

  def test_refuses_a_batch(self):
    with self.assertRaisesRegex(ValueError, r"\[H, W\], got shape \(2, 8, 8\)"):
      coarsen.coarsen(0, np.zeros((2, 8, 8)))

  def test_real_tang_masks_become_like_the_real_maus_masks(self):
    path = DATA / "label_geometry" / "maus_vs_tang_256px_10m.npz"
    if not path.exists():
      self.skipTest("MINEC2F_DATA has no label_geometry/")
    maus, tang = np.load(path)["masks"][::6].swapaxes(0, 1)
    ours = label_geometry.label_statistics(np.stack([coarsen.coarsen(i, m) for i, m in enumerate(tang)]), tang)
    theirs, fine = label_geometry.label_statistics(maus, tang), label_geometry.label_statistics(tang)
    self.assertAlmostEqual(ours.coverage.mean(), theirs.coverage.mean(), delta=0.04)
    self.assertAlmostEqual(ours.iou.mean(), theirs.iou.mean(), delta=0.06)
    ratios = [np.nanmean(s.roughness) / np.nanmean(fine.roughness) for s in (ours, theirs)]
    self.assertAlmostEqual(*ratios, delta=0.08)


if __name__ == "__main__":
  absltest.main()
