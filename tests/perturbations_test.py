"""What self-training does to images, against NumPy and SciPy."""

import functools

import jax
import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage

from minec2f_jax import perturbations

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
IMAGE = RNG.normal(size=(3, 12, 10, 2)).astype(np.float32)
VALID = RNG.random((3, 12, 10)) < 0.8
IMAGE[~VALID] = 0.0


def _strong(image=IMAGE, valid=VALID, key=KEY, **knobs):
  run = functools.partial(perturbations.strong_augmentation, **{"strength": 0.2, "jitter": 1.0, "blur": 0.0, **knobs})
  return np.asarray(jax.jit(run)(key, image, valid))


class StrongAugmentationTest(parameterized.TestCase):
  def test_jitter_is_another_line_for_every_image_and_band_within_its_strength(self):
    out = _strong()
    lines = []
    for image, band in np.ndindex(3, 2):
      x, y = IMAGE[image, ..., band][VALID[image]], out[image, ..., band][VALID[image]]
      slope, offset = np.polyfit(x - x.mean(), y, 1)
      np.testing.assert_allclose(y, slope * (x - x.mean()) + offset, atol=1e-5)
      lines.append((slope - 1, offset - x.mean()))
    self.assertLess(np.abs(lines).max(), 0.2)
    self.assertLen({round(float(slope), 5) for slope, _ in lines}, 6)
    np.testing.assert_array_equal(out[~VALID], 0.0)

  def test_with_no_probability_nothing_changes(self):
    np.testing.assert_array_equal(_strong(jitter=0.0), IMAGE)

  def test_each_image_is_drawn_by_itself(self):
    image, valid = np.tile(IMAGE[:1], (200, 1, 1, 1)), np.tile(VALID[:1], (200, 1, 1))
    changed = np.any(_strong(image, valid, jitter=0.25) != image, axis=(1, 2, 3))
    self.assertBetween(changed.mean(), 0.15, 0.35)

  def test_what_fills_invalid_pixels_does_not_matter(self):
    filled = np.where(VALID[..., None], IMAGE, np.nan)
    np.testing.assert_array_equal(_strong(filled, blur=1.0), _strong(blur=1.0))

  def test_blur_is_scipys_gaussian_with_repeated_edges(self):
    sigma = np.float32([0.15, 0.6, 1.15])
    out = jax.jit(perturbations.gaussian_blur)(IMAGE, sigma)
    for image in range(3):
      expected = ndimage.gaussian_filter(
        IMAGE[image].astype(np.float64), (sigma[image], sigma[image], 0), mode="nearest", radius=(4, 4, 0)
      )
      np.testing.assert_allclose(out[image], expected, atol=1e-5)


class BlockMaskTest(parameterized.TestCase):
  def test_blocks_are_whole_and_as_many_go_as_the_ratio_says(self):
    mask = np.asarray(perturbations.block_mask(KEY, (50, 12, 10), size=4, ratio=0.7))
    self.assertEqual(mask.shape, (50, 12, 10))
    np.testing.assert_array_equal(mask[:, :12, :8], np.kron(mask[:, ::4, :8:4], np.ones((1, 4, 4))))
    np.testing.assert_array_equal(mask[:, :, 8], mask[:, :, 9])  # Cut at the right.
    self.assertBetween(1 - mask[:, ::4, ::4].mean(), 0.6, 0.8)

  @parameterized.parameters((0.0, True), (1.0, False))
  def test_all_or_nothing_stays_at_the_ends(self, ratio, seen):
    np.testing.assert_array_equal(perturbations.block_mask(KEY, (1, 8, 8), size=3, ratio=ratio), seen)


class ShrunkCopyTest(parameterized.TestCase):
  @parameterized.parameters((12, 10), (11, 9))
  def test_it_shows_the_mask_at_half_size_within_the_image(self, height, width):
    image, mask = IMAGE[:, :height, :width], np.zeros((3, height, width), bool)
    mask[0, 2:8, 4:8] = True  # Whole blocks: 3 x 2 pixels.
    mask[1, 3:6, 3:6] = True  # One whole block, the others cut.
    for key in jax.random.split(KEY, 5):
      copy, where = map(np.asarray, perturbations.shrunk_copy(key, image, mask))
      self.assertEqual((copy.shape, where.shape), (image.shape, mask.shape))
      self.assertEqual(where.sum((1, 2)).tolist(), [6, 1, 0])
      expected = image[0, 2:8, 4:8].reshape(3, 2, 2, 2, 2).mean((1, 3))
      rows, columns = np.nonzero(where[0])
      self.assertEqual((np.ptp(rows), np.ptp(columns)), (2, 1))
      np.testing.assert_allclose(copy[0][where[0]].reshape(3, 2, 2), expected, rtol=1e-5, atol=1e-6)

  def test_places_differ_and_reach_the_edges(self):
    mask = np.ones((100, 8, 8), bool)
    _, where = perturbations.shrunk_copy(KEY, np.zeros((100, 8, 8, 1), np.float32), mask)
    tops = np.argmax(np.any(where, axis=2), axis=1)
    self.assertEqual(sorted(set(tops.tolist())), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(np.sum(where, axis=(1, 2)), 16)


if __name__ == "__main__":
  absltest.main()
