"""Tests of minec2f_jax.data.grids."""

import math

import affine
import hypothesis
import numpy as np
import pyproj
import shapely
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from scipy import ndimage

from minec2f_jax.data import grids


def utm(height=4, width=6, *, gsd_m=10.0, left=5e5, top=8e6, crs="EPSG:32723"):
  return grids.Grid(crs, affine.Affine(gsd_m, 0, left, 0, -gsd_m, top), height, width)


class GridTest(parameterized.TestCase):
  def test_bounds_are_those_of_the_outer_pixel_edges(self):
    self.assertEqual(utm().bounds, (500000.0, 7999960.0, 500060.0, 8000000.0))

  def test_lonlat_bounds_hold_the_bent_edges(self):
    grid = utm(2000, 2000, gsd_m=100.0)
    west, south, east, north = grid.lonlat_bounds()
    left, bottom, right, top = grid.bounds
    t = np.linspace(0, 1, 200)
    xs, ys = left + t * (right - left), bottom + t * (top - bottom)
    to_lonlat = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(
      np.concatenate([xs, xs, 0 * ys + left, 0 * ys + right]), np.concatenate([0 * xs + bottom, 0 * xs + top, ys, ys])
    )
    np.testing.assert_allclose((west, south, east, north), (lon.min(), lat.min(), lon.max(), lat.max()), atol=2e-4)

  def test_pixel_size_on_the_ground(self):
    self.assertAlmostEqual(utm().gsd_m, 10.0, delta=0.01)  # The scale of UTM is 0.9996 at its middle.
    degree = grids.Grid("EPSG:4326", affine.Affine(1e-4, 0, 20, 0, -1e-4, 60), 10, 10)
    geod = pyproj.Geod(ellps="WGS84")
    across = geod.line_length([20, 20.0001], [59.9995, 59.9995])
    along = geod.line_length([20, 20], [59.9995, 59.9994])
    self.assertAlmostEqual(degree.gsd_m, (across + along) / 2, places=3)
    np.testing.assert_allclose(degree.sides_m, (along, across), atol=1e-3)


class UtmGridTest(parameterized.TestCase):
  @parameterized.parameters(
    (-68.9, -22.3, "EPSG:32719"), (3.0, 51.0, "EPSG:32631"), (179.9, 10, "EPSG:32660"), (-180, 10, "EPSG:32601")
  )
  def test_zone_of_the_centre(self, lon, lat, crs):
    self.assertEqual(grids.utm_grid((lon, lat, lon, lat), gsd_m=10.0).crs, crs)

  def test_poles_have_their_own_projection(self):
    self.assertEqual(grids.utm_grid((10, 85, 10.1, 85.1), gsd_m=10.0).crs, "EPSG:32661")
    self.assertEqual(grids.utm_grid((10, -85.1, 10.1, -85), gsd_m=10.0).crs, "EPSG:32761")

  def test_metres_are_no_degrees(self):
    with self.assertRaisesRegex(ValueError, "not degrees"):
      grids.utm_grid((5e5, 8e6, 5.1e5, 8.1e6), gsd_m=10.0)

  @hypothesis.settings(deadline=None, max_examples=60)
  @hypothesis.given(
    st.floats(-179, 178),
    st.floats(-79, 79),
    st.floats(1e-4, 0.3),
    st.sampled_from([10.0, 15.0, 30.0]),
    st.integers(1, 64),
  )
  def test_it_covers_the_place_on_whole_multiples(self, lon, lat, size, gsd_m, min_size):
    box = (lon, lat, lon + size, lat + size)
    grid = grids.utm_grid(box, gsd_m=gsd_m, min_size=min_size)
    self.assertEqual((grid.transform.c % gsd_m, grid.transform.f % gsd_m), (0.0, 0.0))
    self.assertGreaterEqual(min(grid.height, grid.width), min_size)
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    xs, ys = to_utm.transform([box[0], box[2], box[0], box[2]], [box[1], box[1], box[3], box[3]])
    left, bottom, right, top = grid.bounds
    self.assertLessEqual(left, min(xs) + 1e-3)
    self.assertGreaterEqual(right, max(xs) - 1e-3)
    self.assertLessEqual(bottom, min(ys) + 1e-3)
    self.assertGreaterEqual(top, max(ys) - 1e-3)


class NativeGridTest(parameterized.TestCase):
  RASTER = grids.Grid("EPSG:4326", affine.Affine(0.5, 0, -10, 0, -0.5, 5), 20, 40)  # 10 W-10 E, 5 S-5 N.

  def test_only_the_pixels_under_the_bounds(self):
    grid = grids.native_grid(self.RASTER, (0.6, 0.6, 1.4, 1.9))
    self.assertEqual(grid.bounds, (0.5, 0.5, 1.5, 2.0))
    self.assertEqual((grid.height, grid.width), (3, 2))

  def test_borders_cut_and_elsewhere_is_nothing(self):
    self.assertEqual(grids.native_grid(self.RASTER, (9.6, 4.6, 12, 8)).bounds, (9.5, 4.5, 10, 5))
    self.assertIsNone(grids.native_grid(self.RASTER, (20, 0, 21, 1)))

  def test_a_raster_across_180_degrees_is_met_from_either_side(self):
    raster = grids.Grid("EPSG:4326", affine.Affine(0.5, 0, 175, 0, -0.5, 5), 20, 20)  # 175 E to 175 W.
    self.assertEqual(grids.native_grid(raster, (-178.9, 0.1, -178.6, 0.4)).bounds, (181.0, 0.0, 181.5, 0.5))
    self.assertEqual(grids.native_grid(raster, (178.6, 0.1, 178.9, 0.4)).bounds, (178.5, 0.0, 179.0, 0.5))
    mine = [shapely.box(-179, 0, -178, 1), shapely.box(178, 0, 179, 1)]
    got = grids.rasterize(mine, raster)
    np.testing.assert_array_equal(np.argwhere(got.any(0)).ravel(), [6, 7, 12, 13])

  def test_a_least_size_widens_it(self):
    wide = grids.native_grid(self.RASTER, (1.1, 1.1, 1.2, 1.2), min_size=4)
    self.assertEqual((wide.height, wide.width), (4, 4))

  def test_offset_only_where_pixels_are_shared(self):
    grid = utm(100, 100)
    self.assertEqual(grids.offset_in(grid, grids.cut(grid, (3, 9), (4, 20))), (3, 4))
    self.assertEqual(grids.offset_in(grid, utm(left=5e5 - 30, top=8e6 + 20)), (-2, -3))
    self.assertIsNone(grids.offset_in(grid, utm(left=5e5 + 5)))
    self.assertIsNone(grids.offset_in(grid, utm(gsd_m=20.0)))
    self.assertIsNone(grids.offset_in(grid, utm(crs="EPSG:32724")))


class RasterizeTest(parameterized.TestCase):
  @parameterized.parameters("EPSG:32723", "EPSG:4326")
  def test_a_pixel_counts_where_its_centre_is_inside(self, crs):
    grid = grids.utm_grid((-45.0, -18.1, -44.98, -18.08), gsd_m=30.0)
    if crs == "EPSG:4326":
      grid = grids.Grid(crs, affine.Affine(3e-4, 0, -45.0, 0, -3e-4, -18.08), 70, 70)
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * math.pi, 24))
    radius = rng.uniform(0.003, 0.009, 24)
    ring = np.column_stack([-44.99 + radius * np.cos(angle), -18.09 + radius * np.sin(angle)])
    polygon = shapely.Polygon(ring, [ring[::6] * 0.3 + 0.7 * np.array([-44.99, -18.09])])
    columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    xs, ys = grid.transform @ (columns, rows)
    to_crs = pyproj.Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    projected = shapely.transform(polygon, lambda p: np.column_stack(to_crs.transform(p[:, 0], p[:, 1])))
    expected = shapely.contains_xy(projected, xs, ys)
    got = grids.rasterize([polygon], grid)
    self.assertGreater(expected.sum(), 300)
    np.testing.assert_array_equal(got, expected)

  def test_nothing_is_all_background(self):
    np.testing.assert_array_equal(grids.rasterize([shapely.Polygon()], utm()), np.zeros((4, 6), np.uint8))


class PolygonizeTest(parameterized.TestCase):
  @parameterized.parameters("EPSG:32723", "EPSG:4326")
  def test_rasterizing_the_outline_gives_the_mask_back(self, crs):
    mask = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((40, 50)), 2) > 0.05
    grid = utm(40, 50) if crs == "EPSG:32723" else grids.Grid(crs, affine.Affine(1e-4, 0, 20, 0, -1e-4, 60), 40, 50)
    outline = grids.polygonize(mask.astype(np.uint8), grid)
    np.testing.assert_array_equal(grids.rasterize([outline], grid), mask)
    west, south, east, north = grid.lonlat_bounds()
    self.assertTrue(shapely.box(west - 1e-9, south - 1e-9, east + 1e-9, north + 1e-9).contains(outline))

  def test_no_mine_has_an_empty_outline(self):
    self.assertTrue(grids.polygonize(np.zeros((4, 6), np.uint8), utm()).is_empty)


class ResampleTest(parameterized.TestCase):
  @parameterized.parameters((30.0, 10.0), (15.0, 10.0), (10.0, 30.0), (10.0, 15.0))
  def test_a_plane_stays_the_plane(self, source_m, target_m):
    source = utm(40, 40, gsd_m=source_m, left=5e5 + 7)
    target = utm(20, 20, gsd_m=target_m, left=5e5 + 12 * source_m, top=8e6 - 9 * source_m)
    target = grids.Grid(target.crs, target.transform, 12, 12) if target_m > source_m else target

    def plane(grid):
      columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
      xs, ys = grid.transform @ (columns, rows)
      return ((xs - 5e5) * 2e-4 - (ys - 8e6) * 1e-4).astype(np.float32)

    inner = np.s_[1:8, 1:8]
    # GDAL rounds the weights of a widened kernel: off by some hundredths of a pixel, where one is worth 3e-3.
    atol = 1e-4 if target_m > source_m else 2e-6
    np.testing.assert_allclose(
      grids.resample(plane(source)[None], source, target)[0][inner], plane(target)[inner], atol=atol
    )

  def test_bilinear_is_scipys_order_one(self):
    rng = np.random.default_rng(0)
    values = rng.random((12, 14), np.float32)
    source, target = utm(12, 14), utm(24, 24, gsd_m=5.0, left=5e5 + 10, top=8e6 - 10)
    rows, columns = np.mgrid[:24, :24]
    expected = ndimage.map_coordinates(values, [(rows + 0.5) / 2 + 1 - 0.5, (columns + 0.5) / 2 + 1 - 0.5], order=1)
    (got,) = grids.resample(values[None], source, target)
    np.testing.assert_allclose(got[:20], expected[:20], atol=1e-6)

  def test_unknown_pixels_are_left_out_and_nearest_picks(self):
    values = np.ones((2, 12, 12), np.float32)
    values[0, 4:8, 4:8] = np.nan
    got, other = grids.resample(values, utm(12, 12), utm(24, 24, gsd_m=5.0))
    np.testing.assert_array_equal(other, 1.0)
    self.assertEqual(np.unique(got[np.isfinite(got)]).tolist(), [1.0])
    self.assertTrue(np.isnan(got[9:15, 9:15]).all())
    codes = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(
      grids.resample(codes[None], utm(4, 4), utm(8, 8, gsd_m=5.0), nearest=True)[0], codes.repeat(2, 0).repeat(2, 1)
    )


if __name__ == "__main__":
  absltest.main()
