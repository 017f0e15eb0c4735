"""Tests of reading windows of scenes on a grid, and of writing chips: minec2f_jax.data.geotiff."""

import os
import pathlib
import tempfile

import affine
import numpy as np
import pyproj
import rasterio
from absl.testing import absltest, parameterized

from minec2f_jax.data import geotiff, grids
from minec2f_jax.errors import UserError
from tests.rasters import write_geotiff

PLACE = affine.Affine(10, 0, 5e5, 0, -10, 8e6)  # As write_geotiff has it.


class WindowTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _write(self, bands, name="scene.tif", **kwargs):
    return str(write_geotiff(self.folder / name, bands, **kwargs))

  def _plane(self, grid, crs="EPSG:32723"):
    """A plane over eastings and northings of UTM 23S, in digital numbers times ten."""
    columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    xs, ys = grid.transform @ (columns, rows)
    if grid.crs != crs:
      xs, ys = pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True).transform(xs, ys)
    return 0.2 + (xs - 5e5) * 5e-5 - (ys - 8e6) * 2e-5


class SharedPixelsTest(WindowTest):
  def test_pixels_are_copied_and_what_lies_outside_is_invalid(self):
    dn = np.random.default_rng(0).integers(1, 9000, (2, 30, 40)).astype(np.uint16)
    path = self._write(dn)
    grid = grids.Grid("EPSG:32723", PLACE @ affine.Affine.translation(35, -3), 10, 8)
    bands = [geotiff.Band(path, 2), geotiff.Band(path, 1)]
    image, valid = geotiff.read_on_grid(bands, grid, sensor="reflectance_x10000")
    expected = np.zeros((10, 8, 2), np.float32)
    expected[3:, :5] = (dn[::-1, :7, 35:].astype(np.float32) * np.float32(1e-4)).transpose(1, 2, 0)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(valid, expected.any(-1))

  def test_only_windows_are_read(self):
    path = str(self.folder / "big.tif")
    with rasterio.open(
      path, "w", driver="GTiff", count=1, height=40_000, width=40_000, dtype="uint16", crs="EPSG:32723",
      transform=PLACE, tiled=True, blockxsize=256, blockysize=256, sparse_ok=True,
    ) as dst:  # fmt: skip
      dst.write(np.full((1, 256, 256), 700, np.uint16), window=((25_600, 25_856), (25_600, 25_856)))
    grid = grids.Grid("EPSG:32723", PLACE @ affine.Affine.translation(25_700, 25_700), 100, 100)
    image, valid = geotiff.read_on_grid([geotiff.Band(path, 1)], grid, sensor="sentinel2_l2a", max_bytes=2**20)
    np.testing.assert_allclose(image, 0.07, rtol=1e-6)
    self.assertTrue(valid.all())
    for size, message in (
      (40_000, "40000 x 40000 pixels are asked for"),
      (6_000, "rows 0:6000, columns 0:6000.*limit"),
    ):
      with self.assertRaisesRegex(geotiff.GeoTiffError, message):
        geotiff.read_on_grid(
          [geotiff.Band(path, 1)],
          grids.Grid("EPSG:32723", PLACE, size, size),
          sensor="sentinel2_l2a",
          max_bytes=6_000**2 * 4,
        )

  def test_far_away_nothing_is_valid(self):
    path = self._write(np.ones((1, 8, 8), np.uint16))
    grid = grids.utm_grid((10, 50, 10.01, 50.01), gsd_m=10.0)
    image, valid = geotiff.read_on_grid([geotiff.Band(path, 1)], grid, sensor="sentinel2_l2a")
    self.assertFalse(valid.any() or image.any())


class WarpTest(WindowTest):
  def test_mixed_pixel_sizes_meet_on_the_stated_grid(self):
    bands = []
    for gsd_m in (10, 15, 30):
      size = 1500 // gsd_m
      grid = grids.Grid("EPSG:32723", affine.Affine(gsd_m, 0, 5e5, 0, -gsd_m, 8e6), size, size)
      path = self.folder / f"{gsd_m} m.tif"
      geotiff.write_geotiff(path, self._plane(grid)[None].astype(np.float32), grid, descriptions=["x"])
      bands.append(geotiff.Band(str(path), 1))
    grid = grids.Grid("EPSG:32723", PLACE @ affine.Affine.translation(20, 20), 90, 90)
    image, valid = geotiff.read_on_grid(bands, grid)
    self.assertTrue(valid.all())
    for channel in range(3):
      np.testing.assert_allclose(image[..., channel], self._plane(grid), atol=2e-6)

  @parameterized.parameters(("EPSG:4326", 9e-5), ("EPSG:32722", 10.0), ("EPSG:3857", 10.5))
  def test_other_reference_systems_are_warped(self, crs, step):
    target = grids.utm_grid((-45.0, -18.08, -44.98, -18.06), gsd_m=10.0)
    to_crs = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    left, top = to_crs.transform(-45.01, -18.05)
    source = grids.Grid(crs, affine.Affine(step, 0, left, 0, -step, top), 460, 460)
    geotiff.write_geotiff(
      self.folder / "s.tif", self._plane(source)[None].astype(np.float32), source, descriptions=["x"]
    )
    image, valid = geotiff.read_on_grid([geotiff.Band(str(self.folder / "s.tif"), 1)], target, sensor="reflectance")
    self.assertTrue(valid.all())
    np.testing.assert_allclose(image[..., 0], self._plane(target), atol=2e-5)

  @parameterized.parameters(10.0, 7.0, 30.0)
  def test_a_window_reads_as_the_same_pixels_of_a_larger_one(self, gsd_m):
    dn = np.random.default_rng(0).integers(1, 9000, (1, 120, 120)).astype(np.uint16)
    band = geotiff.Band(self._write(dn), 1)
    large = grids.Grid("EPSG:32723", affine.Affine(gsd_m, 0, 5e5 + 123, 0, -gsd_m, 8e6 - 123), 24, 24)
    whole, _ = geotiff.read_on_grid([band], large, sensor="sentinel2_l2a")
    part, _ = geotiff.read_on_grid([band], grids.cut(large, (9, 17), (5, 15)), sensor="sentinel2_l2a")
    np.testing.assert_allclose(part, whole[9:17, 5:15], atol=1e-6)

  def test_a_window_in_another_reference_system_does_not_depend_on_its_size(self):
    dn = np.random.default_rng(0).integers(1, 9000, (1, 700, 700)).astype(np.uint16)
    band = geotiff.Band(self._write(dn), 1)
    west, _, _, north = grids.Grid("EPSG:32723", PLACE, 700, 700).lonlat_bounds()
    large = grids.Grid("EPSG:4326", affine.Affine(9e-5, 0, west + 1e-3, 0, -9e-5, north - 1e-3), 600, 600)
    whole, _ = geotiff.read_on_grid([band], large, sensor="sentinel2_l2a")
    part, _ = geotiff.read_on_grid([band], grids.cut(large, (290, 330), (310, 350)), sensor="sentinel2_l2a")
    np.testing.assert_allclose(part, whole[290:330, 310:350], atol=1e-5)  # A tenth of a digital number.

  @parameterized.parameters(0.0, 65535.0, -9999.0, np.nan, np.inf)
  def test_what_fills_invalid_pixels_changes_no_valid_one(self, fill):
    rng = np.random.default_rng(0)
    image, mask = rng.uniform(0.05, 0.5, (1, 60, 60)).astype(np.float32), rng.random((60, 60)) > 0.2
    grid = grids.Grid("EPSG:32723", affine.Affine(15, 0, 5e5 + 37, 0, -15, 8e6 - 37), 30, 30)
    results = []
    for value in (0.123, fill):
      path = self._write(np.where(mask, image, np.float32(value)), mask=mask)
      results.append(geotiff.read_on_grid([geotiff.Band(path, 1)], grid))
    for first, second in zip(*results, strict=True):
      self.assertEqual(first.tobytes(), second.tobytes())
    self.assertBetween(results[0][1].mean(), 0.5, 1.0)


class RefusedTest(WindowTest):
  def test_a_file_without_a_place(self):
    path = self._write(np.ones((1, 8, 8), np.uint16), crs=None)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "scene.tif: no reference system.*gdalwarp"):
      geotiff.read_on_grid([geotiff.Band(path, 1)], grids.utm_grid((0, 0, 1, 1), gsd_m=1e4), sensor="sentinel2_l2a")

  def test_a_band_that_is_not_there(self):
    path = self._write(np.ones((1, 8, 8), np.uint16))
    with self.assertRaisesRegex(geotiff.GeoTiffError, "scene.tif, band 4: there are only 1 bands"):
      geotiff.read_on_grid([geotiff.Band(path, 4)], grids.Grid("EPSG:32723", PLACE, 8, 8), sensor="sentinel2_l2a")

  def test_floats_in_another_unit_name_band_and_window(self):
    path = self._write(np.full((1, 8, 8), 3000.0, np.float32), names=["nir"])
    grid = grids.Grid("EPSG:32723", PLACE @ affine.Affine.translation(2, 1), 4, 4)
    with self.assertRaisesRegex(
      geotiff.GeoTiffError, r"band 1 \(nir\), rows 1:5, columns 2:6: values 3000..3000: not reflectance"
    ):
      geotiff.read_on_grid([geotiff.Band(path, 1)], grid)

  def test_several_images_in_one_file(self):
    path = self.folder / "pages.tif"
    for append in (False, True):
      with rasterio.open(
        path, "w", driver="GTiff", count=1, height=8, width=8, dtype="uint16", crs="EPSG:32723", transform=PLACE,
        append_subdataset=append,
      ) as dst:  # fmt: skip
        dst.write(np.full((1, 8, 8), 1000 * (1 + append), np.uint16))
    with self.assertRaisesRegex(geotiff.GeoTiffError, "pages.tif: holds 2 images; write the one that is meant"):
      geotiff.read_mask(path)

  def test_a_raster_with_south_up_is_read_as_it_lies(self):
    dn = np.random.default_rng(0).integers(1, 9000, (1, 8, 8)).astype(np.uint16)
    grid = grids.Grid("EPSG:32723", PLACE, 8, 8)
    turned = grids.Grid("EPSG:32723", affine.Affine(10, 0, PLACE.c, 0, 10, PLACE.f - 80), 8, 8)
    for name, values, place in (("a.tif", dn, grid), ("b.tif", dn[:, ::-1], turned)):
      geotiff.write_geotiff(self.folder / name, values, place, descriptions=["x"])
    images = [
      geotiff.read_on_grid([geotiff.Band(str(self.folder / n), 1)], grid, sensor="reflectance_x10000")[0]
      for n in ("a.tif", "b.tif")
    ]
    np.testing.assert_allclose(images[0], images[1], atol=1e-6)

  def test_other_drivers_only_when_asked(self):
    path = str(self.folder / "scene.img")
    with rasterio.open(
      path, "w", driver="HFA", count=1, height=8, width=8, dtype="uint16", crs="EPSG:32723", transform=PLACE
    ) as dst:
      dst.write(np.full((1, 8, 8), 5000, np.uint16))
    grid, bands = grids.Grid("EPSG:32723", PLACE, 8, 8), [geotiff.Band(path, 1)]
    with self.assertRaisesRegex(geotiff.GeoTiffError, "not readable as GeoTIFF"):
      geotiff.read_on_grid(bands, grid, sensor="sentinel2_l2a")
    image, _ = geotiff.read_on_grid(bands, grid, sensor="sentinel2_l2a", drivers=("GTiff", "HFA"))
    np.testing.assert_allclose(image, 0.5, rtol=1e-6)

  def test_addresses_only_when_asked(self):
    band = geotiff.Band("/vsicurl/http://localhost:1/a.tif", 1)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "no such file"):
      geotiff.read_on_grid([band], grids.Grid("EPSG:32723", PLACE, 8, 8), sensor="sentinel2_l2a")


class ClassesTest(WindowTest):
  def test_codes_come_from_the_nearest_pixel(self):
    codes = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4)
    codes[0, 0, 0] = 0
    band = geotiff.Band(self._write(codes, nodata=0), 1)
    fine = grids.Grid("EPSG:32723", affine.Affine(5, 0, 5e5, 0, -5, 8e6), 8, 10)
    got, known = geotiff.read_classes(band, fine)
    np.testing.assert_array_equal(got[:, :8], codes[0].repeat(2, 0).repeat(2, 1))
    self.assertFalse(known[:2, :2].any() or known[:, 8:].any())
    self.assertEqual(known.sum(), 8 * 8 - 4)
    np.testing.assert_array_equal(geotiff.read_classes(band, grids.Grid("EPSG:32723", PLACE, 4, 4))[0], codes[0])


class WriteTest(WindowTest):
  def test_what_is_written_reads_back_with_its_place_and_the_same_bytes(self):
    image = np.random.default_rng(0).random((2, 300, 290)).astype(np.float32)
    grid = grids.Grid("EPSG:32723", PLACE, 300, 290)
    for name in ("a.tif", "b.tif"):
      geotiff.write_geotiff(
        self.folder / name, image, grid, descriptions=("red", "nir"), nodata=float("nan"), tags={"CHIP": "{}"}
      )
    self.assertEqual((self.folder / "a.tif").read_bytes(), (self.folder / "b.tif").read_bytes())
    self.assertEqual(sorted(os.listdir(self.folder)), ["a.tif", "b.tif"])
    with rasterio.open(self.folder / "a.tif") as src:
      np.testing.assert_array_equal(src.read(), image)
      self.assertEqual((src.crs.to_string(), src.transform, src.descriptions), ("EPSG:32723", PLACE, ("red", "nir")))
      self.assertEqual(src.tags()["CHIP"], "{}")

  def test_a_folder_that_is_not_there_is_told(self):
    with self.assertRaisesRegex(UserError, "absent.a.tif: cannot be written"):
      geotiff.write_geotiff(
        self.folder / "absent" / "a.tif",
        np.ones((1, 4, 4), np.uint8),
        grids.Grid("EPSG:32723", PLACE, 4, 4),
        descriptions=["x"],
      )


if __name__ == "__main__":
  absltest.main()
