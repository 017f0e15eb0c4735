"""Tests of minec2f_jax.data.scenes."""

import math

import affine
import numpy as np
import pyproj
import shapely
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from minec2f_jax.data import geotiff, grids, scenes
from tests.scene_files import LANDSAT, RGB, S2_SAFE, SIX, SceneTest, utm


class FootprintTest(parameterized.TestCase):
  def test_corners_and_edges_lie_where_pyproj_puts_them(self):
    shape = scenes.footprint(utm(10_980))
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32719", always_xy=True)
    xs, ys = to_utm.transform(*shapely.get_coordinates(shape).T)
    edges = np.minimum.reduce([abs(xs - 5e5), abs(xs - 609_800), abs(ys - 7.5e6), abs(ys - 7_390_200)])
    self.assertLess(edges.max(), 1e-3)
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape)
    self.assertAlmostEqual(abs(area) / 109_800**2, 1 / 0.9996**2, delta=1e-3)  # UTM's scale at its meridian.

  def test_a_tile_across_the_antimeridian_has_two_small_parts(self):
    shape = scenes.footprint(utm(10_000, left=1.4e5, top=8e6, crs="EPSG:32701"))
    self.assertEqual(shape.geom_type, "MultiPolygon")
    west, _, east, _ = shape.bounds
    self.assertAlmostEqual(west, -180, places=9)
    self.assertAlmostEqual(east, 180, places=9)
    self.assertLess(shape.area, 1.0)

  @parameterized.parameters((-180.0, 180.0), (0.0, 360.0), (-180.0, 0.0), (100.0, 200.0))
  def test_rasters_in_degrees_keep_their_width(self, west, east):
    grid = grids.Grid("EPSG:4326", affine.Affine((east - west) / 100, 0, west, 0, -0.1, 5), 100, 100)
    shape = scenes.footprint(grid)
    self.assertAlmostEqual(shape.area, (east - west) * 10, places=6)
    self.assertGreaterEqual(shape.bounds[0], -180)
    self.assertLessEqual(shape.bounds[2], 180)


class PolarTest(parameterized.TestCase):
  @parameterized.product(pole=("EPSG:32661", "EPSG:32761"), place=((-1, -1), (-2, -1), (-2, -2), (-3, -1), (-1.5, 0.3)))
  def test_a_raster_around_at_or_beside_a_pole_holds_what_projection_puts_into_it(self, pole, place):
    # UPS has its pole at 2,000 km, 2,000 km: inside of the raster, on an edge, on a corner, and twice outside of it.
    left, bottom = (2e6 + 1e5 * p for p in place)
    grid = grids.Grid(pole, affine.Affine(1000, 0, left, 0, -1000, bottom + 2e5), 200, 200)
    shape = scenes.footprint(grid)
    self.assertTrue(shape.is_valid)
    self.assertTrue(shapely.box(-180, -90, 180, 90).covers(shape))
    rng = np.random.default_rng(0)
    xs, ys = rng.uniform(left - 1e5, left + 3e5, 4000), rng.uniform(bottom - 1e5, bottom + 3e5, 4000)
    depth = np.minimum.reduce([xs - left, left + 2e5 - xs, ys - bottom, bottom + 2e5 - ys])
    sure = abs(depth) > 5e3  # Between the points on its edges, the outline bends.
    to_lonlat = pyproj.Transformer.from_crs(pole, "EPSG:4326", always_xy=True)
    seen = shapely.contains_xy(shape, *to_lonlat.transform(xs, ys))
    np.testing.assert_array_equal(seen[sure], depth[sure] > 0)

  def test_a_place_at_the_pole_finds_its_scene(self):
    grid = grids.Grid("EPSG:3413", affine.Affine(1000, 0, -1e5, 0, -1000, 1e5), 200, 200)
    scene = scenes.Scene("pole", (), "reflectance", None, scenes.footprint(grid))
    boxes = [(10, 89.5, 20, 89.6), (170, 89.5, -170, 89.6), (10, 80, 20, 81)]
    self.assertEqual(scenes.candidates([scene], boxes), [(scene,), (scene,), ()])


def placed(name, *bounds, cloud=None, date=""):
  return scenes.Scene(name, (), "reflectance", None, shapely.box(*bounds), date, cloud)


class CandidateTest(parameterized.TestCase):
  def ranked(self, *found, box=(0, 0, 1, 1), **kwargs):
    return [s.id for s in scenes.candidates(found, [box], **kwargs)[0]]

  def test_cover_comes_before_clouds_before_date_before_id(self):
    found = [
      placed("half_clear", 0, 0, 0.5, 1, cloud=0.0, date="2023-01-01"),
      placed("unknown_clouds", -1, -1, 2, 2, date="2024-01-01"),
      placed("b", -1, -1, 2, 2, cloud=0.1, date="2021-01-01"),
      placed("a", -1, -1, 2, 2, cloud=0.1, date="2021-01-01"),
      placed("undated", 0, 0, 1, 1, cloud=0.1),
      placed("newer", 0, 0, 1, 1, cloud=0.1, date="2021-01-02"),
      placed("cloudy", 0, 0, 1, 1, cloud=0.2, date="2022-01-02"),
      placed("elsewhere", 5, 5, 6, 6),
      placed("touching", 1, 0, 2, 1),
    ]
    expected = ["newer", "a", "b", "undated", "cloudy", "unknown_clouds", "half_clear"]
    self.assertEqual(self.ranked(*found), expected)
    self.assertEqual(self.ranked(*found[::-1]), expected)
    self.assertEqual(self.ranked(*found, limit=None), expected)
    self.assertEqual(self.ranked(*found, limit=4), expected[:4])

  def test_each_box_gets_its_own_and_none_is_fine(self):
    found = [placed("a", 0, 0, 1, 1), placed("b", 1, 0, 2, 1)]
    boxes = [(1.2, 0.2, 1.4, 0.4), (0.2, 0.2, 0.4, 0.4), (7, 7, 8, 8), (0.5, 0.5, 0.5, 0.5)]
    ids = [tuple(s.id for s in best) for best in scenes.candidates(found, boxes)]
    self.assertEqual(ids, [("b",), ("a",), (), ("a",)])
    self.assertEqual(scenes.candidates([], boxes[:1]), [()])

  def test_a_box_across_the_antimeridian_is_cut_there(self):
    found = [placed("west", 179, 0, 180, 1), placed("east", -180, 0, -179, 1), placed("greenwich", -1, 0, 1, 1)]
    self.assertEqual(self.ranked(*found, box=(179.9, 0, -179.7, 1)), ["east", "west"])

  @settings(max_examples=50, deadline=None)
  @given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 3), st.none() | st.floats(0, 1)), max_size=8)
  )
  def test_the_order_is_that_of_a_plain_sort(self, places):
    found = [placed(f"{i}", x, y, x + size, y + size, cloud=c) for i, (x, y, size, c) in enumerate(places)]

    def key(scene):
      x0, y0, x1, y1 = scene.footprint.bounds
      share = max(min(x1, 1) - max(x0, 0), 0) * max(min(y1, 1) - max(y0, 0), 0)
      return -round(share, 6), math.inf if scene.cloud_share is None else scene.cloud_share, scene.id

    expected = [s.id for s in sorted(found, key=key) if key(s)[0] < 0]
    got = self.ranked(*found)
    if len({key(s)[0] for s in found}) == len(found):  # Shares on the edge of rounding may swap.
      self.assertEqual(got, expected)
    self.assertEqual(set(got), set(expected))


class ReadTest(SceneTest):
  def test_reflectance_of_each_role_in_the_order_asked_for(self):
    self.put("a.tif", [1000, 2000, 3000, 4000, 5000, 6000], names=SIX)
    scene = self.scene(sensor="sentinel2_l2a_baseline04")
    image, valid, cloud = scenes.read_scene(scene, utm(), roles=("nir", "blue", "swir2"))
    np.testing.assert_allclose(image, np.broadcast_to(np.float32([0.3, 0.0, 0.5]), (12, 12, 3)), atol=1e-7)
    self.assertTrue(valid.all())
    self.assertIsNone(cloud)

  def test_bands_of_20_m_are_brought_to_the_grid(self):
    self.put(f"{S2_SAFE}/B04.tif", 700)
    self.put(f"{S2_SAFE}/B11.tif", 900, grid=utm(6, gsd=20))
    image, valid, _ = scenes.read_scene(self.scene(roles=("red", "swir1")), utm(), roles=("red", "swir1"))
    np.testing.assert_allclose(image[valid], np.broadcast_to([0.07, 0.09], (valid.sum(), 2)), rtol=1e-5)
    self.assertTrue(valid[1:-1, 1:-1].all())

  @parameterized.parameters((1, 1), (1, -1), (-1, -1), (-1, 1))
  def test_rows_from_the_south_and_columns_from_the_east_are_turned(self, across, up):
    values = np.random.default_rng(0).uniform(0.05, 0.5, (3, 12, 12)).astype(np.float32)
    left, top = (5e5, 5e5 + 120)[across < 0], (7.5e6, 7.5e6 - 120)[up > 0]
    turned = grids.Grid("EPSG:32719", affine.Affine(10 * across, 0, left, 0, 10 * up, top), 12, 12)
    stored = values[:, ::-up, ::across]
    geotiff.write_geotiff(self.root / "a.tif", np.ascontiguousarray(stored), turned, descriptions=RGB)
    scene = self.scene(roles=RGB)
    self.assertTrue(scene.footprint.equals_exact(scenes.footprint(utm()), 1e-9, normalize=True))
    image, valid, _ = scenes.read_scene(scene, utm(), roles=RGB)
    self.assertTrue(valid.all())
    np.testing.assert_allclose(image, np.moveaxis(values, 0, -1), rtol=1e-6)
    part = grids.cut(utm(), (2, 7), (3, 12))
    np.testing.assert_allclose(scenes.read_scene(scene, part, roles=RGB)[0], image[2:7, 3:], rtol=1e-6)

  def test_a_band_that_its_file_calls_by_another_roles_name_is_refused(self):
    path = self.put("a.tif", [0.1, 0.2, 0.3, 0.4], dtype=np.float32, names=("B4", "B3", "B2", "swir16"))
    bands = tuple((role, geotiff.Band(path, i)) for i, role in enumerate(("blue", "green", "red", "nir"), start=1))
    scene = scenes.Scene("told", bands, "reflectance", None, scenes.footprint(utm()))
    with self.assertRaises(scenes.SceneError) as caught:
      scenes.read_scene(scene, utm(), roles=("green", "red", "blue"))
    message = str(caught.exception)
    self.assertStartsWith(message, "scene 'told': ")
    self.assertIn(f"{path}, band 1, is taken for 'blue', but the file calls it 'B4'", message)
    self.assertIn("band 3, is taken for 'red', but the file calls it 'B2'; correct the item's order", message)
    with self.assertRaisesRegex(scenes.SceneError, "band 4, is taken for 'nir', but the file calls it 'swir16'"):
      scenes.read_scene(scene, utm(), roles=("nir",))
    image, _, _ = scenes.read_scene(scene, utm(), roles=("green",))
    np.testing.assert_allclose(image, 0.2, rtol=1e-6)

  def test_names_that_are_no_roles_and_bands_that_are_not_there_are_left_to_the_reader(self):
    path = self.put("a.tif", [0.1, 0.2], dtype=np.float32, names=("channel 1", None))
    bands = tuple((role, geotiff.Band(path, i)) for i, role in enumerate(("blue", "green", "red"), start=1))
    scene = scenes.Scene("told", bands, "auto", None, scenes.footprint(utm()))
    self.assertTrue(scenes.read_scene(scene, utm(), roles=("blue", "green"))[1].all())
    with self.assertRaisesRegex(geotiff.GeoTiffError, "band 3: there are only 2 bands"):
      scenes.read_scene(scene, utm(), roles=("red",))

  def test_cloud_and_fill_come_from_the_quality_band(self):
    scl = np.full((12, 12), 4, np.uint8)
    scl[0, :6] = 9
    scl[1, :] = 3
    scl[2, :] = 0
    scl[3, :] = 1
    scl[4, :] = 11  # Snow is no cloud.
    self.put("a.tif", names=RGB, value=500)
    geotiff.write_geotiff(self.root / "a_SCL.tif", scl[None], utm(), descriptions=[None])
    image, valid, cloud = scenes.read_scene(self.scene(roles=RGB, sensor="sentinel2_l2a"), utm(), roles=RGB)
    np.testing.assert_array_equal(cloud, np.isin(scl, (9, 3)))
    np.testing.assert_array_equal(valid, ~np.isin(scl, (0, 1)))
    np.testing.assert_array_equal(image[~valid], 0.0)

  def test_where_the_quality_band_says_nothing_pixels_are_invalid_and_no_cloud(self):
    self.put("a.tif", names=RGB)
    self.put("a_Fmask.tif", 2, dtype=np.uint8, grid=utm(4), nodata=255)
    _, valid, cloud = scenes.read_scene(self.scene(roles=RGB, sensor="hls"), utm(), roles=RGB)
    expected = np.zeros((12, 12), bool)
    expected[:4, :4] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(cloud, expected)

  def test_bit_fields_are_picked_from_the_nearest_pixel_never_mixed(self):
    codes = np.array([[21824, 22280], [1, 21824]], np.uint16)  # Clear, cloud; fill, clear.
    self.put(LANDSAT + "_SR_B4.TIF", 10_000, grid=utm(4, gsd=15))
    geotiff.write_geotiff(self.root / (LANDSAT + "_QA_PIXEL.TIF"), codes[None], utm(2, gsd=30), descriptions=[None])
    scene = self.scene(roles=("red",))
    _, valid, cloud = scenes.read_scene(scene, utm(4, gsd=15), roles=("red",))
    np.testing.assert_array_equal(cloud, np.kron([[0, 1], [0, 0]], np.ones((2, 2))))
    np.testing.assert_array_equal(valid, np.kron([[1, 1], [0, 1]], np.ones((2, 2))))

  def test_float_values_that_are_no_reflectance_are_refused_on_reading(self):
    self.put("a.tif", 700.0, dtype=np.float32, names=RGB)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "a.tif.*not reflectance"):
      scenes.read_scene(self.scene(roles=RGB), utm(), roles=RGB)

  def test_a_role_that_the_scene_lacks_is_an_error(self):
    self.put("a.tif", 0.1, dtype=np.float32, names=RGB)
    with self.assertRaisesRegex(scenes.SceneError, r"scene 'a' has no band for \['nir'\]"):
      scenes.read_scene(self.scene(roles=RGB), utm(), roles=("red", "nir"))


if __name__ == "__main__":
  absltest.main()
