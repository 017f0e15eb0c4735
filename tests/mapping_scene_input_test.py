"""Tests of minec2f_jax.mapping.scene_input, and of the readers beneath it: scenes found, and windows of them."""

import functools
import pathlib
import tempfile
import tracemalloc
import warnings

import affine
import numpy as np
from absl.testing import absltest, parameterized
from rasterio import shutil

from minec2f_jax.data import geotiff, grids, scene_folder
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import scene_input
from tests import map_scene

ROLES = map_scene.ROLES


class SceneInputTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def put(self, name, value=0.3, *, side=8, gsd=10.0, crs="EPSG:32719", dtype=np.float32, description=None, **kwargs):
    transform = crs and affine.Affine(gsd, 0, 5e5, 0, -gsd, 7.5e6)
    with warnings.catch_warnings(action="ignore"):
      bands = np.full((1, side, side), value, dtype)
      place = grids.Grid(crs, transform, side, side)
      geotiff.write_geotiff(self.root / name, bands, place, descriptions=(description,), **kwargs)
    return self.root / name

  def find(self, *paths, sensor="auto"):
    (scene,), broken = scene_input.find(paths, roles=ROLES, sensor=sensor)
    self.assertEqual(broken, {})
    return scene

  def test_windows_that_wait_to_be_read_take_no_memory_for_their_pixels(self):
    scene, window = self.find(map_scene.write(self.root / "a.tif", 40, 30)), ((0, 8), (0, 1000))
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    next(scene_input.read(scene, scene_input.Grid((40, 30), (1.0, 1.0)), [window] * 4000))
    self.assertLess(tracemalloc.get_traced_memory()[1], 8e6)  # Of 4000 x 1008 pixels, the places alone are 32 MB.

  def test_windows_are_cut_out_of_what_a_whole_read_gives(self):
    path = map_scene.write(self.root / "a.tif", 40, 30)
    image, valid = geotiff.read_chip(path, roles=ROLES)
    bands, sensor = geotiff.find_bands(path, roles=ROLES)
    self.assertEqual(sensor, "reflectance")
    windows = [((0, 7), (3, 30)), ((20, 40), (0, 1))]
    for window, (found, known) in zip(windows, geotiff.read_windows(bands, windows), strict=True):
      cut = tuple(slice(*ends) for ends in window)
      np.testing.assert_array_equal(found, image[cut])
      np.testing.assert_array_equal(known, valid[cut])

  def test_a_window_that_is_too_much_to_hold_is_refused(self):
    bands, _ = geotiff.find_bands(map_scene.write(self.root / "a.tif", 40, 30), roles=ROLES)
    with self.assertRaisesRegex(geotiff.GeoTiffError, "a.tif, rows 0:40, columns 0:30: .*the limit is"):
      next(geotiff.read_windows(bands, [((0, 40), (0, 30))], max_bytes=1000))

  @parameterized.parameters((1.0, 1.0), (2.0, 1.0), (0.5, 1.5))
  def test_beyond_its_edges_a_scene_goes_on_mirrored(self, *factors):
    scene = self.find(map_scene.write(self.root / "a.tif", 20, 14))
    grid = scene_input.Grid((20, 14), factors)
    height, width = grid.shape
    whole, beyond = scene_input.read(scene, grid, [((0, height), (0, width)), ((0, height + 9), (0, width + 4))])
    for inside, found in zip(whole[:2], beyond[:2]):
      more = [(0, 9), (0, 4)] + [(0, 0)] * (inside.ndim - 2)
      np.testing.assert_array_equal(found, np.pad(inside, more, mode="reflect"))

  def test_files_of_one_band_are_one_scene_wherever_they_lie(self):
    paths = [self.put(f"LC08_20210601_{band}.tif", crs=None) for band in ("B8", "B4")]
    scene = self.find(*paths)
    self.assertEqual([pathlib.Path(band.path).stem[-2:] for band in scene.bands], ["B4", "B8"])
    self.assertEqual((scene.name, scene.date, scene.sides_m), ("LC08_20210601", "2021-06-01", None))

  def test_names_inside_the_files_tell_bands_too(self):
    scene = self.find(self.put("one.tif", description="nir"), self.put("two.tif", description="red"))
    self.assertEqual([pathlib.Path(band.path).name for band in scene.bands], ["two.tif", "one.tif"])

  @parameterized.named_parameters(
    ("a_band_lacks", dict(name="X_B03.tif"), "no band for \\['nir'\\]"),
    ("encoded_in_integers", dict(name="X_B08.tif", value=900, dtype=np.uint16), "encod"),
    ("placed_elsewhere_in_no_system", dict(name="X_B08.tif", crs=None, side=4), "must lie somewhere"),
  )
  def test_files_that_make_no_scene_are_refused(self, other, message):
    with self.assertRaisesRegex(UserError, message):
      self.find(self.put("X_B04.tif"), self.put(**other))

  def test_products_in_jpeg_2000_are_read_where_that_is_allowed(self):
    for name, side, gsd, value in (("B04_10m", 64, 10.0, 1500), ("B8A_20m", 32, 20.0, 2500)):
      plain = self.put(f"{name}.tif", value, side=side, gsd=gsd, dtype=np.uint16)
      shutil.copy(plain, self.root / f"T19KDQ_20210612T143739_{name}.jp2", driver="JP2OpenJPEG", REVERSIBLE="YES")
      plain.unlink()
    find = functools.partial(scene_input.find, [self.root], roles=ROLES, sensor="sentinel2_l2a")
    with self.assertRaisesRegex(UserError, "no scene in it"):
      find()
    (scene,), _ = find(drivers=("GTiff", "JP2OpenJPEG"))
    self.assertEqual((scene.date, scene.shared, scene.place.height), ("2021-06-12", False, 64))
    ((image, valid, *_),) = scene_input.read(scene, scene_input.Grid((64, 64), (1.0, 1.0)), [((8, 40), (0, 64))])
    np.testing.assert_allclose(image[valid], [[0.15, 0.25]] * valid.sum(), atol=1e-6)
    self.assertTrue(valid.all())

  def test_of_a_folder_each_scene_is_found_once_by_name(self):
    map_scene.write(self.root / "b.tif", 8, 8)
    map_scene.write(self.root / "a.tif", 8, 8)
    scenes, broken = scene_input.find(str(self.root), roles=ROLES, sensor="auto")
    self.assertEqual(([scene.name for scene in scenes], broken), (["a", "b"], {}))

  def test_chips_that_a_folder_holds_are_told_by_scene_folder_and_mapped_when_alone(self):
    path = map_scene.write(self.root / "chip.tif", 8, 8, tags={"MINEC2F_CHIP": "{}"})
    self.assertIn(scene_folder.CHIP, next(iter(scene_folder.scan_folder(self.root, roles=ROLES).rejected.values())))
    self.assertEqual(self.find(self.root).name, "chip")
    self.assertEqual(self.find(path).name, "chip")

  @parameterized.parameters(("EPSG:32719", affine.Affine(9, 1, 5e5, 1, -9, 7.5e6), 9.06), ("EPSG:4326", None, None))
  def test_sides_of_pixels_are_told_where_rows_are_askew_too(self, crs, transform, side):
    scene = self.find(map_scene.write(self.root / "a.tif", 8, 8, crs=crs, transform=transform))
    np.testing.assert_allclose(scene.sides_m or (np.nan,), side or np.nan, rtol=2e-3)

  def test_a_changed_file_is_another(self):
    scene = self.find(map_scene.write(self.root / "a.tif", 8, 8))
    before = scene_input.identify(scene)
    self.assertEqual(scene_input.identify(scene), before)
    map_scene.write(self.root / "a.tif", 8, 8, seed=1)
    (was,), (now,) = before, scene_input.identify(scene)
    self.assertNotEqual(was["head"], now["head"])
    self.assertEqual((was["name"], now["name"]), ("a.tif", "a.tif"))


if __name__ == "__main__":
  absltest.main()
