"""Tests of minec2f_jax.data.resize."""

import hypothesis
import jax
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from minec2f_jax.data import resize


def _chip(height, width, *, seed=0, channels=2, invalid=0.0):
  rng = np.random.default_rng(seed)
  valid = rng.random((height, width)) >= invalid
  image = rng.random((height, width, channels), np.float32) * valid[..., None]
  return image, (rng.integers(0, 2, (height, width)) * valid).astype(np.uint8), valid


class ResizeChipTest(parameterized.TestCase):
  def test_halving_by_hand(self):
    image = np.array([0.0, 0.0, 1.0, 0.0], np.float32).reshape(1, 4, 1).repeat(4, axis=0)
    label = np.tile(np.array([0, 1, 0, 1], np.uint8), (4, 1))
    out, new_label, valid = resize.resize_chip(image, label, np.ones((4, 4), bool), 2)
    # Triangle of half-width 2 at 1 and 3: weights (3, 3, 1) / 7 of the first three and mirrored.
    np.testing.assert_allclose(out[..., 0], [[1 / 7, 3 / 7]] * 2, rtol=1e-6)
    np.testing.assert_array_equal(new_label, [[1, 1]] * 2)  # Centres 1 and 3 lie on pixels 1, 3.
    self.assertTrue(valid.all())

  @parameterized.parameters((9, 14, 5), (5, 4, 11), (12, 3, 7))
  def test_agrees_with_jax_antialiased_bilinear(self, height, width, size):
    image, label, valid = _chip(height, width)
    out, _, _ = resize.resize_chip(image, label, valid, size)
    expected = jax.image.resize(image, (size, size, 2), "bilinear", antialias=True)
    np.testing.assert_allclose(out, expected, atol=2e-6)

  @parameterized.parameters((9, 14, 5), (5, 4, 11))
  def test_holes_are_weighed_out(self, height, width, size):
    image, label, valid = _chip(height, width, invalid=0.3)
    out, new_label, new_valid = resize.resize_chip(image, label, valid, size)
    weight = np.asarray(jax.image.resize(valid.astype(np.float32), (size, size), "bilinear"))
    total = jax.image.resize(image, (size, size, 2), "bilinear")
    rows, columns = [np.floor((np.arange(size) + 0.5) * n / size + 1e-9).astype(int) for n in (height, width)]
    picked = np.ix_(rows, columns)
    np.testing.assert_array_equal(new_valid, (weight >= 0.5) & valid[picked])
    self.assertTrue(0 < new_valid.sum() < size**2)
    expected = np.where(new_valid[..., None], total / np.maximum(weight, 0.5)[..., None], 0)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    np.testing.assert_array_equal(new_label, np.where(new_valid, label[picked], 0))

  @hypothesis.settings(deadline=None, max_examples=40)
  @hypothesis.given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 16),
    st.sampled_from([0.0, 65535.0, -9999.0, np.nan, np.inf, -np.inf]),
    st.integers(0, 99),
  )
  def test_fill_under_invalid_pixels_changes_nothing(self, height, width, size, fill, seed):
    image, label, valid = _chip(height, width, seed=seed, invalid=0.4)
    expected = resize.resize_chip(image, label, valid, size)
    filled = np.where(valid[..., None], image, np.float32(fill))
    got = resize.resize_chip(filled, np.where(valid, label, np.uint8(255)), valid, size)
    for a, b in zip(got, expected, strict=True):
      np.testing.assert_array_equal(a, b)

  @hypothesis.settings(deadline=None, max_examples=40)
  @hypothesis.given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 16), st.integers(0, 99))
  def test_a_constant_stays_the_constant_wherever_valid(self, height, width, size, seed):
    _, label, valid = _chip(height, width, seed=seed, invalid=0.4)
    image = np.full((height, width, 1), 0.37, np.float32)
    out, _, new_valid = resize.resize_chip(image, label, valid, size)
    np.testing.assert_allclose(out[..., 0], np.where(new_valid, 0.37, 0), rtol=1e-6)

  def test_the_right_size_comes_back_bitwise(self):
    chip = _chip(6, 6, invalid=0.3)
    for got, given in zip(resize.resize_chip(*chip, 6), chip, strict=True):
      np.testing.assert_array_equal(got, given)
      self.assertEqual(got.dtype, given.dtype)
      self.assertFalse(np.shares_memory(got, given))

  def test_nothing_valid_gives_zeros(self):
    image, label, _ = _chip(6, 6)
    out, new_label, valid = resize.resize_chip(image, label, np.zeros((6, 6), bool), 4)
    self.assertFalse(out.any() or new_label.any() or valid.any())
    self.assertEqual((out.dtype, new_label.dtype, valid.dtype), (np.float32, np.uint8, bool))

  def test_wrong_shapes_types_and_sizes_are_refused(self):
    image, label, valid = _chip(6, 6)
    with self.assertRaises(AssertionError):
      resize.resize_chip(image, label[:5], valid, 4)
    with self.assertRaises(AssertionError):
      resize.resize_chip(image.astype(np.float64), label, valid, 4)
    with self.assertRaisesRegex(ValueError, "data.image_size=0"):
      resize.resize_chip(image, label, valid, 0)


class ResizeMapTest(parameterized.TestCase):
  @parameterized.parameters((9, 14), (5, 4), (3, 20))
  def test_agrees_with_jax_antialiased_bilinear_where_all_is_valid(self, height, width):
    values = np.random.default_rng(0).random((8, 8), np.float32)
    out, valid = resize.resize_map(values, np.ones((8, 8), bool), height, width)
    np.testing.assert_allclose(out, jax.image.resize(values, (height, width), "bilinear", antialias=True), atol=2e-6)
    self.assertTrue(valid.all())

  def test_the_invalid_weighs_nothing_and_stays_invalid(self):
    values, valid = np.full((4, 4), 0.25, np.float32), np.ones((4, 4), bool)
    values[0, :2], valid[0, :2] = np.nan, False
    out, known = resize.resize_map(values, valid, 8, 12)
    np.testing.assert_array_equal(known, valid.repeat(2, axis=0).repeat(3, axis=1))
    np.testing.assert_allclose(out[known], 0.25, rtol=1e-6)
    self.assertFalse(out[~known].any())

  def test_a_map_of_that_size_comes_back_bit_for_bit(self):
    values = np.random.default_rng(0).random((6, 9))
    out, _ = resize.resize_map(values, np.ones((6, 9), bool), 6, 9)
    np.testing.assert_array_equal(out, values)
    self.assertEqual(out.dtype, np.float64)


class CutPatchesTest(parameterized.TestCase):
  @hypothesis.settings(deadline=None, max_examples=60)
  @hypothesis.given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 9), st.integers(0, 99))
  def test_patches_laid_side_by_side_are_the_chip_cut_or_filled_up(self, height, width, size, seed):
    image, label, valid = _chip(height, width, seed=seed, invalid=0.2)
    image[~valid], label[~valid] = np.nan, 255
    patches = dict(resize.cut_patches(image, label, valid, size))
    rows, columns = resize.patch_counts(height, width, size)
    self.assertEqual(list(patches), [(i, j) for i in range(rows) for j in range(columns)])
    whole = [
      np.concatenate([np.concatenate([patches[i, j][k] for j in range(columns)], axis=1) for i in range(rows)])
      for k in range(3)
    ]
    expected = [np.where(valid[..., None], image, 0), np.where(valid, label, 0), valid]
    for got, want in zip(whole, expected, strict=True):
      self.assertEqual((got.shape[:2], got.dtype), ((rows * size, columns * size), want.dtype))
      inside = got[:height, :width]
      np.testing.assert_array_equal(inside, want[: rows * size, : columns * size])
      self.assertEqual(np.count_nonzero(got), np.count_nonzero(inside))  # What was filled up is 0 and invalid.

  @parameterized.parameters(
    (256, 256, 128, (2, 2)), (300, 255, 128, (2, 1)), (100, 300, 128, (1, 2)), (7, 9, 128, (1, 1))
  )
  def test_patch_counts(self, height, width, size, counts):
    self.assertEqual(resize.patch_counts(height, width, size), counts)

  def test_wrong_shapes_types_and_sizes_are_refused(self):
    image, label, valid = _chip(6, 6)
    with self.assertRaises(AssertionError):
      next(resize.cut_patches(image, label[:5], valid, 4))
    with self.assertRaises(AssertionError):
      next(resize.cut_patches(image, label.astype(int), valid, 4))
    with self.assertRaisesRegex(ValueError, "size=0"):
      next(resize.cut_patches(image, label, valid, 0))


if __name__ == "__main__":
  absltest.main()
