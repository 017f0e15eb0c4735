"""Tests of minec2f_jax.data.geotiff, on small files written here with a real CRS."""

import os
import pathlib
import tempfile
import threading
import warnings

import affine
import numpy as np
import rasterio
from absl.testing import absltest, parameterized
from rasterio import enums
from rasterio.errors import NotGeoreferencedWarning

from minec2f_jax.data import geotiff, grids
from tests.rasters import DATA, write_geotiff

RGB = ("red", "green", "blue")


class GeotiffTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.path = os.path.join(directory.name, "chip.tif")
    self.dn = np.random.default_rng(0).integers(1, 4000, (3, 5, 7)).astype(np.int16)

  def _write(self, bands, **kwargs):
    return write_geotiff(self.path, bands, **kwargs)


class PlaceTest(GeotiffTest):
  def test_sides_are_height_and_width_in_metres(self):
    self._write(self.dn)
    np.testing.assert_allclose(geotiff.read_sides(self.path), (10 / 0.9996, 10 / 0.9996), rtol=1e-5)

  @parameterized.parameters(None, 'LOCAL_CS["a mine\'s own",UNIT["metre",1]]')
  def test_sides_are_unknown_without_a_place_on_earth(self, crs):
    self._write(self.dn, crs=crs)
    self.assertIsNone(geotiff.read_sides(self.path))

  def test_the_place_of_rows_that_are_askew_comes_back_in_a_copy(self):
    self._write(self.dn)
    askew = affine.Affine(10, 2, 5e5, 1, -10, 8e6)
    with rasterio.open(self.path, "r+") as file:
      file.transform = askew
    copy = f"{self.path}.copy.tif"
    geotiff.write_geotiff(copy, self.dn, geotiff.read_place(self.path), descriptions=("a", "b", "c"))
    with rasterio.open(copy) as file:
      self.assertEqual((file.crs.to_string(), file.transform), ("EPSG:32723", askew))

  def test_a_file_without_a_place_is_copied_without_one_in_silence(self):
    self._write(self.dn, crs=None)
    with warnings.catch_warnings():
      warnings.simplefilter("error", NotGeoreferencedWarning)
      place = geotiff.read_place(self.path)
      geotiff.write_geotiff(self.path, self.dn, place, descriptions=("a", "b", "c"))
      self.assertEqual((place.crs, place.transform, place.height, place.width), (None, None, 5, 7))
      self.assertIsNone(geotiff.read_header(self.path).grid)


class ReadChipTest(GeotiffTest):
  def test_bands_come_by_name_in_the_wanted_order_as_reflectance(self):
    self._write(self.dn, names=("B2", "B3", "B4"))
    image, valid = geotiff.read_chip(self.path, roles=("red", "blue"), sensor="sentinel2_l2a")
    self.assertEqual((image.shape, image.dtype, valid.dtype), ((5, 7, 2), np.float32, bool))
    np.testing.assert_allclose(image[..., 0], self.dn[2] / 1e4, rtol=1e-6)
    np.testing.assert_allclose(image[..., 1], self.dn[0] / 1e4, rtol=1e-6)
    self.assertTrue(valid.all())

  def test_shuffled_bands_read_bitwise_the_same(self):
    self._write(self.dn, names=("B2", "B3", "B4"))
    first, _ = geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")
    self._write(self.dn[[1, 2, 0]], names=("B3", "B4", "B2"))
    second, _ = geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")
    np.testing.assert_array_equal(first, second)

  @parameterized.named_parameters(
    ("nodata", np.int16, -9999, -9999, "reflectance_x10000"),
    ("nodata_nan", np.float32, np.nan, np.nan, "auto"),
    ("undeclared_nan", np.float32, np.nan, None, "auto"),
    ("undeclared_infinity", np.float32, np.inf, None, "auto"),
    ("float_nodata", np.float32, -3.4028234663852886e38, -3.4028234663852886e38, "auto"),
  )
  def test_a_hole_in_one_band_is_invalid_and_zero(self, dtype, fill, nodata, sensor):
    bands = (self.dn if dtype == np.int16 else self.dn / 1e4).astype(dtype)
    bands[1, 2, 3] = fill
    self._write(bands, names=RGB, nodata=nodata)
    image, valid = geotiff.read_chip(self.path, roles=RGB, sensor=sensor)
    expected = np.ones((5, 7), bool)
    expected[2, 3] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(image[2, 3], 0.0)
    np.testing.assert_allclose(image[valid], np.moveaxis(self.dn, 0, -1)[valid] / 1e4, rtol=1e-6)
    # The other two bands alone have no hole.
    self.assertTrue(geotiff.read_chip(self.path, roles=("red", "blue"), sensor=sensor)[1].all())

  def test_internal_mask_and_nodata_both_count(self):
    self.dn[0, 0, 0] = -9999
    mask = np.full((5, 7), 255, np.uint8)
    mask[4] = 0
    self._write(self.dn, names=RGB, nodata=-9999, mask=mask)
    _, valid = geotiff.read_chip(self.path, roles=RGB, sensor="reflectance_x10000")
    expected = mask > 0
    expected[0, 0] = False
    np.testing.assert_array_equal(valid, expected)

  def test_alpha_counts_even_where_nodata_is_declared(self):
    alpha = np.full((1, 5, 7), 255, np.uint16)
    alpha[0, :, 6] = 0
    self._write(np.concatenate([self.dn.astype(np.uint16), alpha]), names=RGB, nodata=0)
    with rasterio.open(self.path, "r+") as dst:
      dst.colorinterp = (
        enums.ColorInterp.red,
        enums.ColorInterp.green,
        enums.ColorInterp.blue,
        enums.ColorInterp.alpha,
      )
    _, valid = geotiff.read_chip(self.path, roles=RGB, sensor="reflectance_x10000")
    np.testing.assert_array_equal(valid, alpha[0] > 0)

  def test_a_fully_invalid_chip_reads_as_zeros(self):
    self._write(np.full((3, 4, 4), np.nan, np.float32), names=RGB)
    image, valid = geotiff.read_chip(self.path, roles=RGB)
    self.assertFalse(valid.any())
    np.testing.assert_array_equal(image, np.zeros((4, 4, 3)))

  @parameterized.parameters("auto", "reflectance")
  def test_integers_without_their_encoding_are_refused(self, sensor):
    self._write(self.dn, names=RGB)
    span = f"{self.dn.min()}..{self.dn.max()}"
    with self.assertRaisesRegex(geotiff.GeoTiffError, f"chip.tif.*int16, values {span}.*sensor"):
      geotiff.read_chip(self.path, roles=RGB, sensor=sensor)

  def test_floats_in_another_unit_are_refused(self):
    self._write(self.dn.astype(np.float32), names=RGB)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "chip.tif.*not reflectance.*data.sensor"):
      geotiff.read_chip(self.path, roles=RGB)

  def test_tags_that_contradict_the_sensor_are_refused(self):
    self._write(self.dn, names=RGB)
    with rasterio.open(self.path, "r+") as dst:
      dst.scales, dst.offsets = (1e-4,) * 3, (-0.1,) * 3
    with self.assertRaisesRegex(geotiff.GeoTiffError, "chip.tif: the file's tags"):
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")
    image, _ = geotiff.read_chip(self.path, roles=("red",), sensor="sentinel2_l2a_baseline04")
    np.testing.assert_allclose(image[..., 0], (self.dn[0] - 1000.0) / 1e4, atol=1e-7)

  def test_missing_and_unnamed_bands_are_refused_by_name(self):
    self._write(self.dn, names=RGB)
    with self.assertRaisesRegex(geotiff.GeoTiffError, r"chip.tif: no band for \['nir'\]"):
      geotiff.read_chip(self.path, roles=("red", "nir"), sensor="sentinel2_l2a")
    self._write(self.dn)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "none of the 3 bands has a name"):
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")

  def test_no_crs_is_no_noise(self):
    self._write(self.dn, names=RGB, crs=None)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")

  def test_header_agrees_with_the_file(self):
    self._write(self.dn, names=RGB)
    header = geotiff.read_header(self.path)
    self.assertEqual((header.height, header.width, header.count, header.dtype), (5, 7, 3, "int16"))
    self.assertEqual(header.descriptions, RGB)
    self.assertEqual(header.grid, grids.Grid("EPSG:32723", affine.Affine(10, 0, 5e5, 0, -10, 8e6), 5, 7))
    self.assertEqual(header.tags["AREA_OR_POINT"], "Area")
    with self.assertRaisesRegex(geotiff.GeoTiffError, r"\['nir'\]"):
      geotiff.read_header(self.path, roles=("nir",), sensor="sentinel2_l2a")

  def test_threads_read_the_same(self):
    self._write(self.dn, names=RGB, crs=None)
    filters, results = list(warnings.filters), []

    def read():
      for _ in range(20):
        results.append(geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")[0])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    self.assertLen(results, 80)
    for image in results:
      np.testing.assert_array_equal(image, results[0])
    self.assertEqual(list(warnings.filters), filters)


class EncodingTest(GeotiffTest):
  def test_baselines_of_one_scene_give_the_same_input(self):
    old = np.random.default_rng(0).integers(1, 12000, (3, 8, 8)).astype(np.uint16)
    old[:, 0, 0] = 0
    tags = {"PRODUCT_TYPE": "S2MSI2A"}
    self._write(old, names=RGB)
    with rasterio.open(self.path, "r+") as dst:
      dst.update_tags(**tags, PROCESSING_BASELINE="03.01")
    before, valid_before = geotiff.read_chip(self.path, roles=RGB)
    self._write(np.where(old > 0, old + 1000, 0).astype(np.uint16), names=RGB)
    with rasterio.open(self.path, "r+") as dst:
      dst.update_tags(**tags, PROCESSING_BASELINE="04.00")
    after, valid_after = geotiff.read_chip(self.path, roles=RGB)
    np.testing.assert_array_equal(valid_before, valid_after)
    self.assertEqual((~valid_before).sum(), 1)
    self.assertLess(np.abs(before - after).max(), 1e-4)  # One digital number.
    np.testing.assert_allclose(before[valid_before], old.transpose(1, 2, 0)[valid_before] / 1e4, rtol=1e-6)

  @parameterized.parameters(("sentinel2_l2a", 0), ("landsat_c2_l2", 0), ("hls", -9999))
  def test_a_products_fill_value_is_invalid_though_undeclared(self, sensor, fill):
    self.dn += 9000 if sensor == "landsat_c2_l2" else 0  # Reflectance from 0.05 on.
    self.dn[1, 2, 3] = fill
    self._write(self.dn, names=RGB)
    _, valid = geotiff.read_chip(self.path, roles=RGB, sensor=sensor)
    self.assertEqual(np.argwhere(~valid).tolist(), [[2, 3]])

  @parameterized.parameters(5, 7, 13)
  def test_unnamed_bands_are_refused_with_their_number(self, count):
    self._write(np.ones((count, 4, 4), np.int16))
    with self.assertRaisesRegex(geotiff.GeoTiffError, f"none of the {count} bands has a name"):
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")


class HostileFileTest(GeotiffTest):
  def test_a_vrt_named_tif_is_refused(self):
    inner = os.path.join(os.path.dirname(self.path), "inner.tif")
    write_geotiff(inner, self.dn, names=RGB)
    pathlib.Path(self.path).write_text(
      '<VRTDataset rasterXSize="7" rasterYSize="5"><VRTRasterBand dataType="Int16" band="1">'
      f"<SimpleSource><SourceFilename>{inner}</SourceFilename><SourceBand>1</SourceBand>"
      "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with (
      warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
      rasterio.open(self.path) as src,
    ):  # The attack works where the driver is not fixed.
      np.testing.assert_array_equal(src.read(1), self.dn[0])
    with self.assertRaisesRegex(geotiff.GeoTiffError, "chip.tif: not readable as GeoTIFF"):
      geotiff.read_header(self.path)

  @parameterized.parameters("absent.tif", "/vsicurl/http://localhost/a.tif", "GTIFF_DIR:1:chip.tif")
  def test_only_plain_files_are_opened(self, path):
    with self.assertRaisesRegex(geotiff.GeoTiffError, "no such file"):
      geotiff.read_header(path)

  def test_a_size_bomb_is_refused_before_reading(self):
    with rasterio.open(
      self.path,
      "w",
      driver="GTiff",
      count=6,
      height=300_000,
      width=300_000,
      dtype="uint16",
      tiled=True,
      sparse_ok=True,
      bigtiff=True,
      crs="EPSG:32723",
      transform=rasterio.Affine(10, 0, 5e5, 0, -10, 8e6),
      blockxsize=8192,
      blockysize=8192,
    ) as dst:
      for index, name in enumerate(("blue", "green", "red"), start=1):
        dst.set_band_description(index, name)
    self.assertLess(os.path.getsize(self.path), 2**20)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "300000 x 300000.*MiB, the limit is 512 MiB"):
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")
    with self.assertRaisesRegex(geotiff.GeoTiffError, "6 bands"):
      geotiff.read_mask(self.path)

  def test_the_budget_is_the_callers(self):
    self._write(self.dn, names=RGB)
    # Three int16 bands in the file; of each band out the values or the image, the reflectance and the validity.
    need = 5 * 7 * (3 * 2 + 3 * (4 + 4 + 1))
    geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a", max_bytes=need)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "limit is 0 MiB.*cut it into chips"):
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a", max_bytes=need - 1)

  def test_a_broken_block_is_named_with_band_and_window(self):
    dn = np.random.default_rng(0).integers(1, 4000, (3, 32, 32)).astype(np.int16)
    self._write(dn, names=RGB, compress="deflate", tiled=True, blockxsize=16, blockysize=16, interleave="band")
    with rasterio.open(self.path) as src:
      offset = int(
        src.tags(2, ns="TIFF").get("BLOCK_OFFSET_1_1") or src.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=2)
      )
    with open(self.path, "r+b") as file:
      file.seek(offset)
      file.write(b"\xff" * 32)
    with self.assertRaisesRegex(
      geotiff.GeoTiffError,
      r"chip.tif, band 2 \(green\), rows 16:32, columns 16:32: cannot be decoded",
    ) as caught:
      geotiff.read_chip(self.path, roles=RGB, sensor="sentinel2_l2a")
    self.assertEqual(
      (caught.exception.path, caught.exception.band, caught.exception.window), (self.path, 2, ((16, 32), (16, 32)))
    )


class ReadMaskTest(GeotiffTest):
  def test_complex_and_scaled_values_are_no_labels(self):
    mask = np.array([[[0, 1], [1, 0]]])
    self._write(mask.astype(np.complex64))
    with self.assertRaisesRegex(geotiff.GeoTiffError, "complex64 values.*a label is 0 and 1 as stored"):
      geotiff.read_mask(self.path)
    self._write(mask.astype(np.uint8))
    with rasterio.open(self.path, "r+") as dst:
      dst.scales, dst.offsets = (0.5,), (0.0,)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "uint8 values, scale 0.5, offset 0"):
      geotiff.read_mask(self.path)

  def test_values_below_zero_255_and_nodata_do_not_count(self):
    values = np.array([[[0, 1, 255], [-1, -9999, 7]]], np.int16)
    self._write(values, nodata=7)
    label, valid = geotiff.read_mask(self.path)
    self.assertEqual((label.dtype, valid.dtype), (np.uint8, bool))
    np.testing.assert_array_equal(label, [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(valid, [[True, True, False], [False, False, False]])

  def test_float_masks_with_nan(self):
    self._write(np.array([[[0.0, 1.0, np.nan]]], np.float32))
    label, valid = geotiff.read_mask(self.path)
    np.testing.assert_array_equal(label, [[0, 1, 0]])
    np.testing.assert_array_equal(valid, [[True, True, False]])

  @parameterized.named_parameters(
    ("other_classes", [[0, 1, 2, 3]], None, "values 2, 3 are no labels"),
    ("zero_and_255", [[0, 255]], None, "255 may be mining.*nodata=255"),
    ("only_255", [[255, 255]], None, "255 may be mining"),
    ("background_declared_nodata", [[0, 1]], 0, "nodata=0, a label value"),
    ("mining_declared_nodata", [[0, 1]], 1, "nodata=1, a label value"),
  )
  def test_what_may_mean_two_things_is_refused(self, values, nodata, message):
    self._write(np.array([values], np.uint8), nodata=nodata)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "chip.tif, band 1: .*" + message):
      geotiff.read_mask(self.path)

  def test_fractions_are_refused(self):
    self._write(np.array([[[0.0, 0.25, 1.0]]], np.float32))
    with self.assertRaisesRegex(geotiff.GeoTiffError, "values 0.25 are no labels"):
      geotiff.read_mask(self.path)

  def test_background_and_declared_ignore_pass(self):
    self._write(np.array([[[0, 255]]], np.uint8), nodata=255)
    label, valid = geotiff.read_mask(self.path)
    np.testing.assert_array_equal(label, [[0, 0]])
    np.testing.assert_array_equal(valid, [[True, False]])


class RealSceneTest(absltest.TestCase):
  def test_sentinel2_scene_with_nodata_and_ignored_labels(self):
    folder = DATA / "sentinel2_scene"
    if not folder.is_dir():
      self.skipTest("MINEC2F_DATA has no sentinel2_scene/")
    image_path = next(folder.glob("*l1c.tif"))
    with rasterio.open(image_path) as src:
      nir, red = src.read(8), src.read(4)
    image, valid = geotiff.read_chip(image_path, roles=("nir", "red"), sensor="sentinel2_l1c")
    np.testing.assert_array_equal(valid, (nir != 0) & (red != 0))
    np.testing.assert_allclose(image[..., 0], np.where(valid, nir / 1e4, 0), rtol=1e-6)
    with rasterio.open(next(folder.glob("*label.tif"))) as src:
      raw = src.read(1)
    label, counts = geotiff.read_mask(next(folder.glob("*label.tif")))
    np.testing.assert_array_equal(counts, raw >= 0)
    np.testing.assert_array_equal(label, np.maximum(raw, 0))


if __name__ == "__main__":
  absltest.main()
