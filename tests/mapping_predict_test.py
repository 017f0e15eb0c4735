"""Tests of minec2f_jax.mapping.predict: whole maps of small scenes, with a filter for a network."""

import contextlib
import io
import json
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from unittest import mock

import affine
import numpy as np
import rasterio
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from minec2f_jax import files
from minec2f_jax.data import encoding, geotiff, grids
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import cog, predict, reading, scene_input, strips, tiling
from tests import map_scene, rasters

ROOT = pathlib.Path(__file__).resolve().parent.parent
ASKEW = affine.Affine(9, 1.234567, 5e5 + 0.1, 2, -10.3, 8e6)
DEGREES = affine.Affine(8.983152841195215e-05, 0, -0.7818936232976315, 0, -8.983152841195215e-05, 38.12881257139627)


def read(folder, name):
  with warnings.catch_warnings(action="ignore"), rasterio.open(pathlib.Path(folder) / f"{name}.tif") as file:
    return file.read(1)


class MapTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.out = io.StringIO()
    self.enterContext(contextlib.redirect_stdout(self.out))

  def scene(self, height=70, width=53, name="scene.tif", **kwargs):
    with warnings.catch_warnings(action="ignore"):
      return map_scene.write(self.root / name, height, width, **kwargs)


class PixelsTest(MapTest):
  @settings(deadline=None, max_examples=8)
  @given(st.integers(1, 70), st.integers(1, 50), st.integers(4, 20), st.data())
  def test_a_local_operator_on_tiles_is_the_operator_on_the_whole(self, height, width, tile, data):
    overlap = data.draw(st.integers(2, tile - 1))
    path = self.scene(height, width, gaps=0.0)
    (scene,), _ = scene_input.find([path], roles=map_scene.ROLES, sensor="auto")
    plan = tiling.Tiling(scene_input.Grid((height, width), (1.0, 1.0)), tile, overlap, 3)
    # A filter of 3 x 3 pixels is wrong at the very margin of a tile: it weighs nothing there.
    inner = lambda tile, overlap: np.r_[1e-9, np.ones(tile - 2), 1e-9]
    with mock.patch("minec2f_jax.mapping.blending.taper", inner):
      found = [probability.copy() for _, probability, _ in tiling.map_strips(scene, plan, map_scene.probabilities)]
    whole = map_scene.mean_of(*geotiff.read_chip(path, roles=map_scene.ROLES))
    np.testing.assert_allclose(np.concatenate(found), whole, atol=1e-5)

  def test_nobody_holds_on_to_a_strip_while_the_next_one_is_made(self):
    (scene,), _ = scene_input.find([self.scene()], roles=map_scene.ROLES, sensor="auto")
    plan = tiling.Tiling(scene_input.Grid((70, 53), (1.0, 1.0)), 16, 8, 3)
    found = tiling.map_strips(scene, plan, map_scene.probabilities)
    for _ in range(plan.count):
      _, *arrays = next(found)
      held = list(map(weakref.ref, arrays))
      del arrays
      self.assertEqual([array() for array in held], [None, None])
    # And of probabilities there is never more than a row of tiles.
    shapes = {probability.base.shape for _, probability, _ in tiling.map_strips(scene, plan, map_scene.probabilities)}
    self.assertEqual(shapes, {(16, 53)})

  def test_the_rasters_agree_with_each_other_and_with_the_scene(self):
    scene = self.scene()
    folder = map_scene.run(scene, self.root / "out", threshold=0.45)
    _, valid = geotiff.read_chip(scene, roles=map_scene.ROLES)
    probability, mask = read(folder, "probability"), read(folder, "mask")
    np.testing.assert_array_equal(read(folder, "valid"), valid)
    np.testing.assert_array_equal(probability == encoding.NODATA, ~valid)
    np.testing.assert_array_equal(mask == 255, ~valid)
    np.testing.assert_array_equal(mask[valid] == 1, probability[valid] / encoding.SCALE > 0.45)
    note = json.loads((folder / "map.json").read_text())
    self.assertEqual(note["pixels"], {"all": 70 * 53, "mine": int((mask == 1).sum()), "valid": int(valid.sum())})
    self.assertBetween(note["pixels"]["mine"], 100, 3600)
    self.assertEqual(note["sha256"], {n: files.sha256(folder / f"{n}.tif") for n in ("probability", "mask", "valid")})

  @parameterized.parameters(0.0, 0.1, 0.3, 1 / 3, 0.5, 0.999)
  def test_stored_values_are_above_a_threshold_where_probabilities_are(self, threshold):
    for kind in encoding.ENCODINGS.values():
      near = np.float32(threshold) + np.float32([-3, -1, 0, 1, 3]) * np.spacing(np.float32(threshold))
      probability = np.clip(np.r_[near, np.linspace(0, 1, 999, dtype=np.float32)], 0, 1).astype(np.float32)
      stored = encoding.encode(probability, threshold, kind)
      np.testing.assert_array_equal(stored / kind.scale > threshold, probability.astype(np.float64) > threshold)
      self.assertLess(stored.max(), kind.nodata)

  @parameterized.parameters(np.nan, np.inf, -9999.0, 0.0, 65535.0)
  def test_what_stands_in_invalid_pixels_changes_no_bit(self, fill):
    plain = map_scene.run(self.scene(name="a.tif"), self.root / "out")
    filled = map_scene.run(self.scene(name="b.tif", fill=fill), self.root / "out")
    for name in ("probability", "mask", "valid"):
      np.testing.assert_array_equal(read(filled, name), read(plain, name))

  def test_shuffled_bands_give_the_same_map(self):
    plain = map_scene.run(self.scene(name="a.tif"), self.root / "out")
    shuffled = map_scene.run(self.scene(name="b.tif", names=("swir1", "nir", "blue", "red")), self.root / "out")
    np.testing.assert_array_equal(read(shuffled, "probability"), read(plain, "probability"))

  def test_bands_in_files_of_their_own_give_the_same_map(self):
    whole = self.scene(name="whole.tif")
    plain = map_scene.run(whole, self.root / "out")
    with rasterio.open(whole) as file:
      place = grids.Grid(file.crs.to_string(), file.transform, *file.shape)
      for index, name in enumerate(("X_20210612_B04.tif", "X_20210612_B08.tif")):
        geotiff.write_geotiff(self.root / name, file.read([index + 1]), place, descriptions=(None,), nodata=np.nan)
    paths = [self.root / "X_20210612_B08.tif", self.root / "X_20210612_B04.tif"]
    (scene,), _ = scene_input.find(paths, roles=map_scene.ROLES, sensor="reflectance")
    self.assertEqual((scene.name, scene.date), ("X_20210612", "2021-06-12"))
    self.assertTrue(scene.shared)
    (folder,) = predict.map_scenes([scene], self.root / "out", map_scene.network(), predict.Settings(16, 8, 3))
    np.testing.assert_array_equal(read(folder, "probability"), read(plain, "probability"))

  def test_a_coarser_band_is_brought_to_the_pixels_of_the_finest(self):
    fine, coarse = (
      grids.Grid("EPSG:32719", map_scene.UTM, 40, 40),
      grids.Grid("EPSG:32719", map_scene.UTM @ affine.Affine.scale(2), 20, 20),
    )
    for name, place in (("X_B04.tif", fine), ("X_B08.tif", coarse)):
      values = np.full((1, place.height, place.width), 0.3, np.float32)
      geotiff.write_geotiff(self.root / name, values, place, descriptions=(None,))
    paths = [self.root / "X_B04.tif", self.root / "X_B08.tif"]
    (scene,), _ = scene_input.find(paths, roles=map_scene.ROLES, sensor="reflectance")
    self.assertFalse(scene.shared)
    (folder,) = predict.map_scenes([scene], self.root / "out", map_scene.network(), predict.Settings(16, 8, 3))
    np.testing.assert_allclose(read(folder, "probability") / encoding.SCALE, 0.3, atol=1e-4)
    self.assertEqual(read(folder, "valid").sum(), 1600)

  def test_a_scene_without_a_valid_pixel_is_no_data_and_costs_no_network(self):
    asked = mock.Mock()
    folder = map_scene.run(self.scene(gaps=1.1), self.root / "out", function=asked)
    asked.assert_not_called()
    self.assertTrue((read(folder, "mask") == 255).all())
    self.assertFalse(read(folder, "valid").any())

  def test_tiles_without_a_valid_pixel_are_not_computed(self):
    path, seen = self.scene(48, 48), []
    with rasterio.open(path, "r+") as file:
      values = file.read()
      values[:, :, 16:] = np.nan
      file.write(values)

    def count(image, valid):
      seen.append(valid.any(axis=(1, 2)).sum())
      return map_scene.probabilities(image, valid)

    map_scene.run(path, self.root / "out", overlap=0, function=count)
    self.assertEqual(sum(seen), 3)  # Of nine.


class PlaceTest(MapTest):
  @parameterized.parameters(
    ("EPSG:32719", map_scene.UTM, 70, 53),
    ("EPSG:4326", DEGREES, 33, 20),
    ("EPSG:32719", ASKEW, 33, 20),
    (None, None, 33, 20),
    (None, None, 1, 1),
    ("EPSG:32719", affine.Affine(10, 0, 5e5, 0, 10, 7.5e6), 7, 600),
  )
  def test_the_maps_lie_on_exactly_the_pixels_of_the_scene(self, crs, transform, height, width):
    scene = self.scene(height, width, crs=crs, transform=transform, gaps=0.0)
    folder = map_scene.run(scene, self.root / "out")
    for name in ("probability", "mask", "valid"):
      with (
        warnings.catch_warnings(action="ignore"),
        rasterio.open(scene) as was,
        rasterio.open(folder / f"{name}.tif") as found,
      ):
        self.assertEqual((found.crs, found.transform, found.shape), (was.crs, was.transform, was.shape))
        self.assertEqual(found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"], "COG")

  @parameterized.parameters(
    ("sentinel2_scene/spain_7370579_s2_l1c.tif", "sentinel2_l1c"), ("water/images/185.tif", "reflectance_x10000")
  )
  def test_real_scenes_keep_their_place_or_their_lack_of_one(self, path, sensor):
    scene = rasters.DATA / path
    if not scene.exists():
      self.skipTest(f"{scene} is not there")
    folder = map_scene.run(scene, self.root / "out", tile=128, overlap=32, sensor=sensor)
    self.assertEqual(geotiff.read_place(folder / "mask.tif"), geotiff.read_place(scene))
    self.assertGreater(read(folder, "valid").mean(), 0.99)

  def test_eight_bits_hold_a_map_too(self):
    wide = read(map_scene.run(self.scene(), self.root / "a"), "probability")
    narrow = read(map_scene.run(self.scene(), self.root / "b", dtype="uint8"), "probability")
    self.assertEqual(narrow.dtype, np.uint8)
    np.testing.assert_array_equal(narrow == 255, wide == encoding.NODATA)
    held = wide != encoding.NODATA
    np.testing.assert_allclose(narrow[held] / 254, wide[held] / encoding.SCALE, atol=1 / 254)


class PixelSizeTest(MapTest):
  @parameterized.parameters((20.0, 2.0), (5.0, 0.5), (14.0, 1.4))
  def test_a_network_of_other_pixels_sees_the_scene_in_them(self, size_m, factor):
    scene, shapes = self.scene(70, 53), []

    def first_band(image, valid):
      shapes.append(image.shape)
      return image[..., 0]

    folder = map_scene.run(scene, self.root / "out", sides_m=(size_m, size_m), function=first_band)
    image, valid = geotiff.read_chip(scene, roles=map_scene.ROLES)
    probability = read(folder, "probability").astype(float) / encoding.SCALE
    held = read(folder, "valid") == 1
    self.assertFalse((held & ~valid).any())
    self.assertGreater(held.mean(), 0.8)
    self.assertLess(
      np.abs(probability - image[..., 0])[held].mean(), 0.05
    )  # Smooth: twice resampled it is still there.
    note = json.loads((folder / "map.json").read_text())
    np.testing.assert_allclose(note["network_pixel_size_m"], np.multiply(note["pixel_size_m"], factor), rtol=5e-3)

  def test_a_map_of_other_pixels_is_valid_where_the_scene_is(self):
    scene = self.scene(90, 70, gaps=0.0)
    with rasterio.open(scene, "r+") as file:
      values = file.read()
      values[:, 20:50, 10:41] = np.nan
      file.write(values)
    for size_m in (30.0, 6.0):
      folder = map_scene.run(scene, self.root / f"{size_m}", sides_m=(size_m, size_m))
      np.testing.assert_array_equal(read(folder, "valid")[20:50, 10:41], 0)
      wrong = read(folder, "valid") != (np.isfinite(values).all(axis=0))
      self.assertLess(wrong.mean(), 0.02)  # Of a large pixel at the edge of the gap one part is left out.

  def test_within_a_tenth_the_scene_keeps_its_pixels(self):
    plain = map_scene.run(self.scene(), self.root / "a")
    near = map_scene.run(self.scene(), self.root / "b", sides_m=(10.8, 9.2))
    np.testing.assert_array_equal(read(near, "probability"), read(plain, "probability"))

  def test_a_scene_that_lies_nowhere_keeps_its_pixels_and_that_is_said(self):
    map_scene.run(self.scene(crs=None, transform=None), self.root / "out", sides_m=(20.0, 20.0))
    self.assertIn("how large those are that the scene has is not known", self.out.getvalue())

  @parameterized.parameters(None, 23.0, 4.0)
  def test_a_map_that_goes_on_is_byte_for_byte_that_of_one_run(self, size_m):
    scene, sides = self.scene(150, 40), size_m and (size_m, size_m)
    whole = map_scene.run(scene, self.root / "whole", sides_m=sides)
    total = 0
    for stop in (1, 4, 7):
      with mock.patch.object(strips.Strips, "write", _stop_after(stop)):
        with contextlib.suppress(KeyboardInterrupt):
          map_scene.run(scene, self.root / "parts", sides_m=sides)
          total += 1
    self.assertEqual(total, 0)
    parts = map_scene.run(scene, self.root / "parts", sides_m=sides)
    self.assertIn("goes on after strip", self.out.getvalue())
    self.assertEqual(map_scene.contents(parts), map_scene.contents(whole))


def _stop_after(count: int):
  """`Strips.write` that leaves at the count-th call."""
  kept, calls = strips.Strips.write, []

  def write(self, index, stored):
    calls.append(index)
    if len(calls) >= min(count, 3):
      raise KeyboardInterrupt
    kept(self, index, stored)

  return write


class ResumeTest(MapTest):
  @parameterized.parameters((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM))
  def test_a_map_that_is_killed_or_asked_to_end_ends_as_one_left_alone(self, signum, status):
    scene = self.scene(400, 90)
    whole = map_scene.run(scene, self.root / "whole")
    command = [sys.executable, "-m", "tests.map_scene", scene, self.root / "killed"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, **quiet)
    partial, limit = self.root / "killed" / "scene" / ".partial", time.monotonic() + 120
    while len(list(partial.glob("*.strip"))) < 5 and process.poll() is None and time.monotonic() < limit:
      time.sleep(0.02)
    process.send_signal(signum)
    self.assertEqual(process.wait(), status)
    left = len(list(partial.glob("*.strip")))
    self.assertBetween(left, 5, 48)
    finished = map_scene.run(scene, self.root / "killed")
    self.assertIn(f"goes on after strip {left} of", self.out.getvalue())
    self.assertEqual(map_scene.contents(finished), map_scene.contents(whole))

  def test_a_finished_map_is_passed_over_and_another_setting_begins_anew(self):
    scene = self.scene()
    folder = map_scene.run(scene, self.root / "out")
    before = map_scene.contents(folder)
    asked = mock.Mock()
    map_scene.run(scene, self.root / "out", function=asked)
    asked.assert_not_called()
    self.assertIn("is mapped already", self.out.getvalue())
    map_scene.run(scene, self.root / "out", threshold=0.4)
    self.assertIn("is mapped anew", self.out.getvalue())
    self.assertNotEqual(map_scene.contents(folder)["mask.tif"], before["mask.tif"])
    self.assertEqual(map_scene.contents(folder)["probability.tif"][:100], before["probability.tif"][:100])

  def test_a_scene_that_has_changed_is_mapped_anew(self):
    scene = self.scene()
    folder = map_scene.run(scene, self.root / "out")
    before = read(folder, "probability")
    self.scene(seed=5)
    map_scene.run(scene, self.root / "out")
    self.assertFalse(np.array_equal(read(folder, "probability"), before))

  def test_strips_of_another_model_are_thrown_away_and_that_is_said(self):
    scene = self.scene()
    with mock.patch.object(strips.Strips, "write", _stop_after(3)), self.assertRaises(KeyboardInterrupt):
      map_scene.run(scene, self.root / "out")
    found, _ = scene_input.find([scene], roles=map_scene.ROLES, sensor="auto")
    other = map_scene.network(model_sha256="1" * 64)
    predict.map_scenes(found, self.root / "out", other, predict.Settings(16, 8, 3))
    self.assertIn("begins anew: what was there is of another network", self.out.getvalue())
    self.assertNotIn("goes on after", self.out.getvalue())

  def test_a_damaged_strip_is_made_again(self):
    scene = self.scene()
    whole = map_scene.run(scene, self.root / "whole")
    with mock.patch.object(strips.Strips, "write", _stop_after(3)), self.assertRaises(KeyboardInterrupt):
      map_scene.run(scene, self.root / "out")
    strip = self.root / "out" / "scene" / ".partial" / "000001.strip"
    content = bytearray(strip.read_bytes())
    content[-1] ^= 1
    strip.write_bytes(content)
    folder = map_scene.run(scene, self.root / "out")
    self.assertIn("goes on after strip 1 of", self.out.getvalue())
    self.assertEqual(map_scene.contents(folder), map_scene.contents(whole))

  def test_a_file_that_is_not_written_whole_is_told_and_the_map_goes_on(self):
    scene = self.scene()
    with mock.patch.object(cog, "_checksum", return_value=1), self.assertRaisesRegex(UserError, "make room"):
      map_scene.run(scene, self.root / "out")
    asked = mock.Mock()
    folder = map_scene.run(scene, self.root / "out", function=asked)
    asked.assert_not_called()
    self.assertEqual(sorted(map_scene.contents(folder)), ["map.json", "mask.tif", "probability.tif", "valid.tif"])

  @parameterized.parameters((3000, "plain.tif|probability.tif"), (1100, ".strip|plan.json"))
  def test_where_files_cannot_grow_one_error_tells_it_and_nothing_is_lost(self, most_bytes, where):
    scene = self.scene()
    whole = map_scene.run(scene, self.root / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
      with self.assertRaisesRegex(UserError, f"({where}).*cannot be written.*make room"):
        map_scene.run(scene, self.root / "out")
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder = map_scene.run(scene, self.root / "out")
    self.assertEqual(map_scene.contents(folder), map_scene.contents(whole))

  def test_a_second_process_is_refused(self):
    scene = self.scene()
    (self.root / "out").mkdir()
    with files.locked(self.root / "out"), self.assertRaisesRegex(UserError, "is at work there"):
      map_scene.run(scene, self.root / "out")

  def test_a_folder_that_cannot_be_written_is_told(self):
    (self.root / "file").write_text("")
    with self.assertRaisesRegex(UserError, "--output=.*cannot be written"):
      map_scene.run(self.scene(), self.root / "file" / "out")


class RefusalTest(MapTest):
  def test_every_setting_that_cannot_be_is_named_at_once(self):
    with self.assertRaisesRegex(UserError, "tile=0.*overlap=3.*batch=0.*threshold=1.*dtype='int4'"):
      predict.check_settings(predict.Settings(0, 3, 0, 1.0, "int4"))

  def test_bands_that_are_missing_are_named(self):
    with self.assertRaisesRegex(UserError, "no band for \\['nir'\\]"):
      map_scene.run(self.scene(names=("red", "green")), self.root / "out")

  def test_a_sensor_that_cannot_be_is_refused(self):
    with self.assertRaisesRegex(UserError, "reflectance already"):
      map_scene.run(self.scene(gaps=0.0), self.root / "out", sensor="sentinel2_l2a")
    self.assertFalse((self.root / "out" / "scene" / "map.json").exists())

  def test_of_a_folder_the_good_are_mapped_and_all_broken_ones_listed(self):
    (self.root / "in").mkdir()
    self.scene(name="in/a.tif")
    self.scene(name="in/b.tif", names=("red", "green"))
    self.scene(name="in/c.tif", crs=None, transform=None)
    (self.root / "in" / "d.tif").write_bytes(b"II*\0 no more")
    with self.assertRaisesRegex(UserError, "2 of 4 scenes cannot be mapped:\n.*b.tif: .*\n.*d.tif"):
      map_scene.run(self.root / "in", self.root / "out")
    self.assertEqual(sorted(path.parent.name for path in self.root.glob("out/*/map.json")), ["a", "c"])
    self.assertIn(f"2 maps, a folder each, in {self.root / 'out'}\n", self.out.getvalue())

  @parameterized.parameters("nothing.tif", "empty")
  def test_inputs_that_are_none_are_refused(self, name):
    (self.root / "empty").mkdir()
    with self.assertRaisesRegex(UserError, "--input="):
      scene_input.find([self.root / name], roles=map_scene.ROLES, sensor="auto")


class ReadAheadTest(parameterized.TestCase):
  @parameterized.parameters(1, 3, 50)
  def test_results_come_in_order(self, threads):
    found = reading.read_ahead(lambda places: (place * 2 for place in places), list(range(20)), threads=threads)
    self.assertEqual(list(found), list(range(0, 40, 2)))

  def test_an_error_reaches_whoever_waits(self):
    def fail(places):
      yield 1
      raise UserError("broken")

    with self.assertRaisesRegex(UserError, "broken"):
      list(reading.read_ahead(fail, [1, 2, 3, 4], threads=2))


if __name__ == "__main__":
  absltest.main()
