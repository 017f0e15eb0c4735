"""Tests of minec2f_jax.mapping.seams."""

import hypothesis
import numpy as np
import shapely
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from rasterio import features
from scipy import ndimage

from minec2f_jax.mapping import seams

RINGED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]], np.uint8)


def reader(codes, valid=None, values=None):
  """Windows of arrays; they may not reach beyond."""
  valid = np.ones(codes.shape, bool) if valid is None else valid

  def read(rows, columns):
    assert 0 <= rows[0] < rows[1] <= codes.shape[0] and 0 <= columns[0] < columns[1] <= codes.shape[1]
    window = (slice(*rows), slice(*columns))
    return seams.Codes(codes[window], valid[window], *([] if values is None else [values[window], valid[window]]))

  return read


def trace(codes, tile, valid=None, values=None):
  return list(seams.trace(reader(codes, valid, values), codes.shape, tile=tile, title="test"))


def exact(geometry):
  return shapely.to_wkb(shapely.normalize(geometry))


class SeamsTest(parameterized.TestCase):
  @hypothesis.settings(max_examples=150, deadline=None)
  @hypothesis.given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.integers(1, 26),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.3, 0.5, 0.62, 0.8, 1.0]),
    st.integers(1, 3),
  )
  def test_tiles_give_the_outlines_of_the_whole(self, shape, tile, seed, share, kinds):
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random(shape) < share, rng.integers(1, kinds + 1, shape), 0).astype(np.uint8)
    whole = features.shapes(codes, mask=codes > 0, connectivity=4)  # GDAL's, of the raster at once.
    expected = sorted((int(code), exact(shapely.geometry.shape(outline))) for outline, code in whole)
    found = trace(codes, tile)
    self.assertEqual(sorted((outline.code, exact(outline.geometry)) for outline in found), expected)
    self.assertTrue(all(outline.geometry.is_valid and outline.pixels == outline.geometry.area for outline in found))

  @parameterized.parameters(1, 2, 3, 5, 50)
  def test_pixels_sums_and_edges_are_those_of_each_patch(self, tile):
    rng = np.random.default_rng(5)
    valid = ndimage.binary_opening(rng.random((20, 23)) < 0.9)
    codes = (valid & (rng.random((20, 23)) < 0.55)).astype(np.uint8)
    values = rng.integers(0, 65535, codes.shape).astype(np.uint16)
    labels, count = ndimage.label(codes)
    outside = np.pad(~valid, 1, constant_values=True)
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    expected = sorted(
      (int((labels == i).sum()), int(values[labels == i].sum(dtype=np.int64)), bool(beside[labels == i].any()))
      for i in range(1, count + 1)
    )
    found = trace(codes, tile, valid, values)
    self.assertEqual(sorted((o.pixels, o.total, o.cut_off) for o in found), expected)
    self.assertEqual([o.known for o in found], [o.pixels for o in found])

  def test_corners_join_nothing_and_holes_that_touch_stay_apart(self):
    (outline,) = trace(RINGED, 2)
    self.assertTrue(outline.geometry.is_valid)
    self.assertLen(outline.geometry.interiors, 2)
    self.assertLen(trace(np.eye(4, dtype=np.uint8), 2), 4)

  def test_vertices_are_corners_alone(self):
    (outline,) = trace(np.ones((9, 9), np.uint8), 2)
    self.assertEqual(shapely.get_num_coordinates(outline.geometry), 5)

  def test_a_finished_patch_leaves_before_the_raster_has_been_read(self):
    codes = np.zeros((12, 4), np.uint8)
    codes[0, 0] = codes[11, 3] = 1
    tops, whole = [], reader(codes)

    def read(rows, columns):
      tops.append(rows[1])
      return whole(rows, columns)

    first = next(seams.trace(read, codes.shape, tile=2, title="test"))
    self.assertEqual(first.geometry.bounds, (0, 0, 1, 1))
    self.assertLessEqual(max(tops), 3)

  def test_ten_thousand_holes(self):
    codes = np.ones((201, 201), np.uint8)
    codes[1::2, 1::2] = 0
    (outline,) = trace(codes, 64)
    self.assertLen(outline.geometry.interiors, 10_000)
    self.assertEqual(outline.geometry.area, 201 * 201 - 10_000)

  def test_nothing_there_nothing_found(self):
    self.assertEqual(trace(np.zeros((7, 5), np.uint8), 3), [])


if __name__ == "__main__":
  absltest.main()
