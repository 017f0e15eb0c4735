"""Tests of minec2f_jax.data.scenes, on folders written here and, where present, on real ones."""

import math
import pathlib
import pickle
import tempfile
import unittest
import warnings

import affine
import numpy as np
import pyproj
import rasterio
import shapely
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from minec2f_jax.data import geotiff, grids, scenes, sensors
from tests.rasters import DATA

SIX = sensors.ROLES
RGB = ("red", "green", "blue")
PLACE = affine.Affine(10, 0, 5e5, 0, -10, 7.5e6)  # 69 W, 22.6 S in UTM 19S.
S2_SAFE = "S2A_MSIL2A_20210612T143739_N0300_R096_T19KDQ_20210612T175802.SAFE"
S2_SAFE_04 = S2_SAFE.replace("N0300", "N0400")
LANDSAT = "LC08_L2SP_233084_20210601_20210608_02_T1"
L30, S30 = "HLS.L30.T19KDQ.2021152T143000.v2.0", "HLS.S30.T19KDQ.2021152T143000.v2.0"


def utm(size=12, *, gsd=10, left=5e5, top=7.5e6, crs="EPSG:32719"):
  return grids.Grid(crs, affine.Affine(gsd, 0, left, 0, -gsd, top), size, size)


class SceneTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def put(self, name, value=1000, *, dtype=np.uint16, names=(None,), grid=None, tags=None, nodata=None):
    """A file of constant bands: `value`, or one value a band."""
    grid = grid or utm()
    values = np.broadcast_to(np.reshape(value, (-1, 1, 1)), (len(names), grid.height, grid.width)).astype(dtype)
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):  # A file that lies nowhere is wanted here.
      geotiff.write_geotiff(path, values, grid, descriptions=names, tags=tags, nodata=nodata)
    return str(path)

  def put_bands(self, pattern, tokens, **kwargs):
    return [self.put(pattern.format(token), 1000 + i, **kwargs) for i, token in enumerate(tokens)]

  def scan(self, roles=SIX, **kwargs):
    return scenes.scan_folder(self.root, roles=roles, **kwargs)

  def scene(self, **kwargs):
    """The only scene there; nothing may be rejected."""
    result = self.scan(**kwargs)
    self.assertEqual(dict(result.rejected), {})
    self.assertLen(result.scenes, 1)
    return result.scenes[0]

  def reason(self, **kwargs):
    """Why the only thing there is rejected."""
    result = self.scan(**kwargs)
    self.assertEmpty(result.scenes)
    self.assertLen(result.rejected, 1)
    return next(iter(result.rejected.values()))


class ScanTest(SceneTest):
  def test_a_file_of_named_bands_is_one_scene(self):
    path = self.put(
      "a/mine.tif", dtype=np.float32, names=("swir2", "B2", "B3", "B4", "B8", "B11", "aerosol"), value=0.1
    )
    scene = self.scene()
    self.assertEqual(scene.id, "a/mine")
    self.assertEqual(scene.bands, tuple((r, geotiff.Band(path, i)) for r, i in zip(SIX, (2, 3, 4, 5, 6, 1))))
    self.assertEqual((scene.sensor, scene.quality, scene.date, scene.cloud_share), ("auto", None, "", None))
    self.assertEqual(pickle.loads(pickle.dumps(scene)), scene)

  def test_a_sentinel2_product_takes_each_band_at_its_finest_and_b8_before_b8a(self):
    folder = f"{S2_SAFE}/GRANULE/L2A_T19KDQ_A031195_20210612T144000/IMG_DATA"
    self.put_bands(folder + "/R10m/T19KDQ_20210612T143739_{}_10m.tif", ("B02", "B03", "B04", "B08"))
    self.put_bands(
      folder + "/R20m/T19KDQ_20210612T143739_{}_20m.tif",
      ("B02", "B03", "B04", "B8A", "B11", "B12"),
      grid=utm(6, gsd=20),
    )
    self.put_bands(folder + "/R60m/T19KDQ_20210612T143739_{}_60m.tif", ("B02", "B11", "SCL"), grid=utm(2, gsd=60))
    scl = self.put(folder + "/R20m/T19KDQ_20210612T143739_SCL_20m.tif", dtype=np.uint8, grid=utm(6, gsd=20))
    scene = self.scene()
    files = [pathlib.Path(band.path).stem.removeprefix("T19KDQ_20210612T143739_") for _, band in scene.bands]
    self.assertEqual(files, ["B02_10m", "B03_10m", "B04_10m", "B08_10m", "B11_20m", "B12_20m"])
    self.assertEqual(scene.quality, ("scl", geotiff.Band(scl, 1)))
    self.assertEqual((scene.sensor, scene.date), ("sentinel2_l2a", "2021-06-12"))
    self.assertEndsWith(scene.id, "IMG_DATA/T19KDQ_20210612T143739")

  def test_b8a_stands_in_where_b8_is_missing(self):
    paths = self.put_bands("{}.tif", ("B02", "B03", "B04", "B8A", "B11", "B12"))
    scene = self.scene(sensor="sentinel2_l2a")
    self.assertEqual(dict(scene.bands)["nir"].path, paths[3])
    self.assertEqual(scene.id, self.root.name)

  @parameterized.parameters(
    (LANDSAT + "_SR_{}.TIF", ("B2", "B3", "B4", "B5", "B6", "B7"), "QA_PIXEL", LANDSAT + "_{}.TIF", "landsat_c2_l2"),
    (L30 + ".{}.tif", ("B02", "B03", "B04", "B05", "B06", "B07"), "Fmask", L30 + ".{}.tif", "hls_l30"),
    (S30 + ".{}.tif", ("B02", "B03", "B04", "B8A", "B11", "B12"), "Fmask", S30 + ".{}.tif", "hls_s30"),
  )
  def test_products_of_single_bands_are_known_by_their_names(self, pattern, tokens, quality, beside, sensor):
    paths = self.put_bands(pattern, tokens)
    self.put_bands(pattern, ("B1",))  # Not asked for.
    path = self.put(beside.format(quality))
    scene = self.scene()
    self.assertEqual([band.path for _, band in scene.bands], paths)
    self.assertEqual(scene.quality, (quality.lower(), geotiff.Band(path, 1)))
    self.assertEqual((scene.sensor, scene.date), (sensor, "2021-06-01"))

  def test_products_in_one_folder_stay_apart(self):
    for product in (LANDSAT, LANDSAT.replace("20210601", "20210617")):
      self.put_bands(product + "_SR_{}.TIF", ("B2", "B3", "B4"))
    found = self.scan(roles=RGB).scenes
    self.assertEqual([s.date for s in found], ["2021-06-01", "2021-06-17"])
    for scene in found:
      self.assertTrue(all(pathlib.Path(b.path).name.startswith(scene.id) for _, b in scene.bands))

  def test_a_quality_band_lies_in_the_image_or_beside_it(self):
    inside = self.put("a.tif", names=(*RGB, "SCL"))
    self.put("b.tif", names=RGB)
    beside = self.put("b_SCL.tif", dtype=np.uint8)
    result = self.scan(roles=RGB, sensor="sentinel2_l2a")
    self.assertEqual(
      [s.quality for s in result.scenes], [("scl", geotiff.Band(inside, 4)), ("scl", geotiff.Band(beside, 1))]
    )

  def test_tags_tell_sensor_date_and_clouds(self):
    tags = {"HLS_PROCESSING_TIME": "x", "LANDSAT_PRODUCT_ID": LANDSAT, "SENSING_TIME": "2021-06-01T14:30:00Z"}
    self.put_bands("a_{}.tif", ("B02", "B03", "B04"), tags={**tags, "cloud_coverage": "7"})
    scene = self.scene(roles=RGB)
    self.assertEqual((scene.sensor, scene.date, scene.cloud_share), ("hls_l30", "2021-06-01", 0.07))

  @parameterized.parameters("NaN", "-1", "101", "many")
  def test_a_cloud_share_that_is_none_is_unknown(self, cover):
    self.put("a.tif", 0.1, dtype=np.float32, names=RGB, tags={"CLOUD_COVER": cover})
    self.assertIsNone(self.scene(roles=RGB).cloud_share)

  def test_masks_and_pictures_are_passed_over_quietly(self):
    self.put("mask.tif", dtype=np.uint8)
    self.put("T19KDQ_20210612T143739_TCI_10m.tif", dtype=np.uint8, names=(None,) * 3)
    self.put("elevation.tif", dtype=np.float32, names=("dem", "slope"))
    self.put("x_SCL.tif", dtype=np.uint8)
    self.put("x_B01.tif")
    result = self.scan(roles=RGB)
    self.assertEmpty(result.scenes)
    self.assertEqual(set(result.rejected.values()), {scenes.NO_WANTED_BAND})
    self.assertLen(result.rejected, 4)  # x_SCL and x_B01 belong together.

  def test_the_order_of_files_and_runs_changes_nothing(self):
    for name in ("b", "a", "c/a"):
      self.put(f"{name}.tif", 0.1, dtype=np.float32, names=RGB)
    first, second = self.scan(roles=RGB), self.scan(roles=RGB[::-1])
    self.assertEqual(first, second)
    self.assertEqual([s.id for s in first.scenes], ["a", "b", "c/a"])

  def test_other_drivers_open_files_only_when_asked(self):
    path = self.put("a.tif", 0.1, dtype=np.float32, names=RGB)
    (self.root / "b.vrt").write_text(
      f'<VRTDataset rasterXSize="12" rasterYSize="12"><SRS>EPSG:32719</SRS><GeoTransform>5e5,10,0,7.5e6,0,-10'
      f'</GeoTransform><VRTRasterBand dataType="Float32" band="1"><Description>red</Description><SimpleSource>'
      f"<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    self.assertLen(self.scan(roles=("red",)).scenes, 1)
    self.assertLen(self.scan(roles=("red",), drivers=("GTiff", "VRT")).scenes, 2)
    with self.assertRaisesRegex(scenes.SceneError, r"drivers \['HDF5'\] are unknown.*GTiff"):
      self.scan(roles=("red",), drivers=("HDF5",))

  def test_scale_and_offset_tags_explain_integers(self):
    path = self.put("a.tif", 18182, names=RGB)
    with rasterio.open(path, "r+") as dst:
      dst.scales, dst.offsets = (2.75e-5,) * 3, (-0.2,) * 3
    image, _, _ = scenes.read_scene(self.scene(roles=RGB), geotiff.read_header(path).grid, roles=RGB)
    np.testing.assert_allclose(image, 0.300005, rtol=1e-6)


class RefusalTest(SceneTest):
  def test_integers_that_nobody_explains_are_refused(self):
    self.put("a.tif", names=RGB)
    self.assertRegex(
      self.reason(roles=RGB), "cannot tell the encoding of its uint16 values.*set --sensor.*'landsat_c2_l2'"
    )

  def test_a_sentinel2_name_without_baseline_is_no_explanation(self):
    self.put_bands("T19KDQ_20210612T143739_{}_10m.tif", ("B02", "B03", "B04"))
    self.assertRegex(self.reason(roles=RGB), "cannot tell the encoding")
    self.assertEqual(self.scene(roles=RGB, sensor="sentinel2_l2a").sensor, "sentinel2_l2a")

  @parameterized.parameters(
    (S2_SAFE, "sentinel2_l2a", "sentinel2_l2a_baseline04"), (S2_SAFE_04, "sentinel2_l2a_baseline04", "sentinel2_l2a")
  )
  def test_a_named_sensor_must_not_contradict_the_products_baseline(self, product, true, wrong):
    self.put_bands(product + "/{}.tif", ("B02", "B03", "B04"))
    self.assertEqual(self.scene(roles=RGB).sensor, true)
    self.assertEqual(self.scene(roles=RGB, sensor=true).sensor, true)
    self.assertRegex(self.reason(roles=RGB, sensor=wrong), f"'{true}'.*'{wrong}'; correct one of them")

  def test_a_named_sensor_must_not_contradict_tags(self):
    self.put("a.tif", names=RGB, tags={"LANDSAT_PRODUCT_ID": LANDSAT})
    self.assertRegex(self.reason(roles=RGB, sensor="sentinel2_l2a"), "'landsat_c2_l2'.*'sentinel2_l2a'; correct")

  def test_tags_and_name_must_agree(self):
    self.put_bands(S2_SAFE_04 + "/{}.tif", ("B02", "B03", "B04"), tags={"PRODUCT_URI": S2_SAFE})
    self.assertRegex(
      self.reason(roles=RGB), "tags say 'sentinel2_l2a', the product name S2A.* 'sentinel2_l2a_baseline04'"
    )

  def test_files_that_belong_together_must_be_encoded_alike(self):
    self.put("x_B02.tif", tags={"PRODUCT_URI": S2_SAFE})
    self.put("x_B03.tif", tags={"PRODUCT_URI": S2_SAFE_04})
    self.assertRegex(
      self.reason(roles=("blue", "green")), r"differently: \['sentinel2_l2a', 'sentinel2_l2a_baseline04'\].*two folders"
    )

  def test_a_float_file_keeps_its_products_name_after_decoding(self):
    self.put(f"{S2_SAFE_04}/stack.tif", 0.1, dtype=np.float32, names=RGB)
    self.assertEqual(self.scene(roles=RGB).sensor, "auto")

  def test_etm_is_refused_because_its_numbers_mean_other_bands(self):
    self.put_bands(LANDSAT.replace("LC08", "LE07") + "_SR_{}.TIF", ("B2", "B3", "B4"))
    self.assertRegex(self.reason(roles=RGB), "LE07_L2SP.*only Collection 2, Level 2 of Landsat 8 and 9")

  def test_missing_roles_are_named_and_never_filled(self):
    self.put("a.tif", 0.1, dtype=np.float32, names=RGB)
    self.assertRegex(self.reason(), r"no band for \['nir', 'swir1', 'swir2'\]")

  def test_two_files_of_one_band_and_resolution_are_refused(self):
    self.put_bands("x_{}.tif", ("B02", "B03", "B04"))
    self.put("x-B04.tif")
    self.assertRegex(self.reason(roles=RGB, sensor="sentinel2_l2a"), "more than one band for a role.*'red'")

  def test_image_bands_without_names_are_refused(self):
    self.put("a.tif", 0.1, dtype=np.float32, names=(None,) * 6)
    self.assertRegex(self.reason(), "none of the 6 bands has a name.*write band descriptions")

  @parameterized.parameters(
    grids.Grid("EPSG:32719", affine.Affine.identity(), 4, 4),
    grids.Grid("EPSG:32719", PLACE @ affine.Affine.rotation(30), 4, 4),
    grids.Grid("", PLACE, 4, 4),
  )
  def test_a_file_that_lies_nowhere_or_askew_is_refused(self, grid):
    self.put("a.tif", 0.1, dtype=np.float32, names=RGB, grid=grid)
    self.assertRegex(self.reason(roles=RGB), "no reference system and place.*not north up; georeference or warp")

  def test_bands_that_do_not_meet_are_refused(self):
    self.put("x_red.tif", 0.1, dtype=np.float32)
    self.put("x_blue.tif", 0.1, dtype=np.float32, grid=utm(left=6e5))
    self.assertRegex(self.reason(roles=("red", "blue")), "its bands lie in different places")

  def test_coordinates_outside_of_the_reference_system_are_refused(self):
    self.put("a.tif", 0.1, dtype=np.float32, names=RGB, grid=utm(left=1e12))
    self.assertRegex(self.reason(roles=RGB), r"bounds \(1000000000000.*\) lie outside of EPSG:32719")

  def test_a_broken_file_is_listed_with_its_path_and_the_others_serve(self):
    self.put("a.tif", 0.1, dtype=np.float32, names=RGB)
    (self.root / "broken.tif").write_bytes(b"II*\0nonsense")
    result = self.scan(roles=RGB)
    self.assertLen(result.scenes, 1)
    self.assertRegex(result.rejected[str(self.root / "broken.tif")], "broken.tif: not readable as GeoTIFF")

  def test_folder_and_files_of_one_name_make_one_scene_and_a_reason(self):
    self.put_bands("x/{}.tif", RGB, dtype=np.float32)
    self.put_bands("x_{}.tif", RGB, dtype=np.float32)
    result = self.scan(roles=RGB)
    self.assertLen(result.scenes, 1)
    self.assertRegex(*result.rejected.values(), "another scene is called 'x' already; rename one of them")

  def test_a_folder_that_is_none_and_a_sensor_that_is_none_are_errors(self):
    with self.assertRaisesRegex(scenes.SceneError, "nowhere: no such folder"):
      scenes.scan_folder(self.root / "nowhere", roles=RGB)
    with self.assertRaisesRegex(sensors.SensorError, "'modis' is unknown"):
      self.scan(sensor="modis")


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
    self.assertEqual(self.ranked(*found, limit=9), expected)
    self.assertEqual(self.ranked(*found[::-1], limit=9), expected)
    self.assertEqual(self.ranked(*found), expected[:4])

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
    got = self.ranked(*found, limit=99)
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


@unittest.skipUnless(DATA.exists(), "real data are not at hand")
class RealTest(parameterized.TestCase):
  def test_tailings_are_found_by_place_and_masks_passed_over(self):
    result = scenes.scan_folder(DATA / "tailings", roles=RGB)
    self.assertLen(result.scenes, 40)
    self.assertEqual(set(result.rejected.values()), {scenes.NO_WANTED_BAND})
    x, y = result.scenes[0].footprint.centroid.coords[0]
    best = scenes.candidates(result.scenes, [(x - 1e-3, y - 1e-3, x + 1e-3, y + 1e-3)])[0]
    self.assertIn(result.scenes[0], best)
    self.assertRegex(str(scenes.scan_folder(DATA / "tailings", roles=SIX).rejected), r"no band for \['nir', 'swir1'")

  def test_the_sentinel2_scene_serves_once_its_encoding_is_named(self):
    folder = DATA / "sentinel2_scene"
    self.assertRegex(str(scenes.scan_folder(folder, roles=SIX).rejected), "int16 values.*set --sensor")
    (scene,) = scenes.scan_folder(folder, roles=SIX, sensor="sentinel2_l1c").scenes
    self.assertEqual([band.index for _, band in scene.bands], [2, 3, 4, 8, 12, 13])

  def test_chips_without_a_place_are_refused(self):
    result = scenes.scan_folder(DATA / "water" / "images", roles=SIX, sensor="reflectance_x10000")
    self.assertEmpty(result.scenes)
    self.assertLen(result.rejected, 242)


if __name__ == "__main__":
  absltest.main()
