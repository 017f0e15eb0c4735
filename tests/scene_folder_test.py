"""Tests of minec2f_jax.data.scene_folder, on folders written here and, where present, on real ones."""

import pathlib
import pickle
import unittest

import affine
import numpy as np
import rasterio
from absl.testing import absltest, parameterized

from minec2f_jax.data import geotiff, grids, products, scene_folder, scenes, sensors
from tests.rasters import DATA
from tests.scene_files import L30, LANDSAT, PLACE, RGB, S2_SAFE, S2_SAFE_04, S30, SIX, SceneTest, utm


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
    self.assertEqual(set(result.rejected.values()), {scene_folder.NO_WANTED_BAND})
    self.assertLen(result.rejected, 4)  # x_SCL and x_B01 belong together.

  def test_chips_are_no_scenes_and_told_once_a_folder(self):
    chip = dict(value=0.1, dtype=np.float32, names=RGB, tags={products.CHIP_TAG: "{}"})
    for name in ("chips/images/a", "chips/images/b", "chips/images/c_red", "alone"):
      self.put(f"{name}.tif", **chip)
    self.put("chips/masks/a.tif", dtype=np.uint8, names=("mine",))
    self.put("scene.tif", 0.1, dtype=np.float32, names=RGB)
    result = self.scan(roles=RGB)
    self.assertEqual([s.id for s in result.scenes], ["scene"])
    expected = {
      str(self.root / "chips/images/*"): "a chip, not a scene (3 files)",
      str(self.root / "alone.tif"): "a chip, not a scene",
      str(self.root / "chips/masks/a.tif"): scene_folder.NO_WANTED_BAND,
    }
    self.assertEqual(dict(result.rejected), expected)

  def test_images_that_differ_only_in_their_suffix_are_scenes_of_their_own(self):
    paths = [self.put(f"a.{suffix}", 0.1, dtype=np.float32, names=RGB) for suffix in ("TIF", "tif", "tiff")]
    scl = self.put("a_SCL.tif", dtype=np.uint8)
    found = self.scan(roles=RGB)
    self.assertEmpty(found.rejected)
    self.assertEqual([s.id for s in found.scenes], ["a.TIF", "a.tif", "a.tiff"])
    self.assertEqual([{band.path for _, band in s.bands} for s in found.scenes], [{path} for path in paths])
    self.assertEqual({s.quality for s in found.scenes}, {("scl", geotiff.Band(scl, 1))})

  def test_how_a_band_nobody_wants_is_encoded_does_not_count(self):
    path = self.put("a.tif", 18182, names=(*RGB, "angle"))
    with rasterio.open(path, "r+") as dst:
      dst.scales, dst.offsets = (2.75e-5,) * 3 + (1.0,), (-0.2,) * 3 + (0.0,)
    self.assertEqual(self.scene(roles=RGB).sensor, "auto")

  @parameterized.parameters(({},), ({"PRODUCT_URI": S2_SAFE_04},))
  def test_how_a_file_nobody_wants_is_encoded_does_not_count(self, tags):
    paths = self.put_bands("x_{}.tif", ("B04", "B05"), tags={"HLS_PROCESSING_TIME": "x", "LANDSAT_PRODUCT_ID": LANDSAT})
    self.put("x_B01.tif", tags=tags)
    scene = self.scene(roles=("red", "nir"))
    self.assertEqual((scene.sensor, [band.path for _, band in scene.bands]), ("hls_l30", paths))

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

  def test_bands_named_in_the_words_of_another_product_are_refused(self):
    self.put_bands("x_{}.tif", ("B05", "B08"), tags={"PRODUCT_URI": S2_SAFE})
    self.put_bands("x_{}.tif", ("B01", "B09", "B10"), tags={"HLS_PROCESSING_TIME": "x", "LANDSAT_PRODUCT_ID": LANDSAT})
    self.assertRegex(self.reason(roles=("nir",)), r"encoded differently: \['hls_l30', 'sentinel2_l2a'\].*two folders")

  def test_an_unknown_encoding_is_told_before_names_that_nobody_knows(self):
    self.put_bands("x_{}.tif", ("B02", "B05"))
    self.assertRegex(self.reason(roles=("blue", "nir")), "cannot tell the encoding.*set --sensor")

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
      scene_folder.scan_folder(self.root / "nowhere", roles=RGB)
    with self.assertRaisesRegex(sensors.SensorError, "'modis' is unknown"):
      self.scan(sensor="modis")


@unittest.skipUnless(DATA.exists(), "real data are not at hand")
class RealTest(parameterized.TestCase):
  def test_tailings_are_found_by_place_and_masks_passed_over(self):
    result = scene_folder.scan_folder(DATA / "tailings", roles=RGB)
    self.assertLen(result.scenes, 40)
    self.assertEqual(set(result.rejected.values()), {scene_folder.NO_WANTED_BAND})
    x, y = result.scenes[0].footprint.centroid.coords[0]
    best = scenes.candidates(result.scenes, [(x - 1e-3, y - 1e-3, x + 1e-3, y + 1e-3)])[0]
    self.assertIn(result.scenes[0], best)
    self.assertRegex(
      str(scene_folder.scan_folder(DATA / "tailings", roles=SIX).rejected), r"no band for \['nir', 'swir1'"
    )

  def test_the_sentinel2_scene_serves_once_its_encoding_is_named(self):
    folder = DATA / "sentinel2_scene"
    self.assertRegex(str(scene_folder.scan_folder(folder, roles=SIX).rejected), "int16 values.*set --sensor")
    (scene,) = scene_folder.scan_folder(folder, roles=SIX, sensor="sentinel2_l1c").scenes
    self.assertEqual([band.index for _, band in scene.bands], [2, 3, 4, 8, 12, 13])

  def test_chips_without_a_place_are_refused(self):
    result = scene_folder.scan_folder(DATA / "water" / "images", roles=SIX, sensor="reflectance_x10000")
    self.assertEmpty(result.scenes)
    self.assertLen(result.rejected, 242)


if __name__ == "__main__":
  absltest.main()
