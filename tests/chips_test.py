"""Tests of minec2f_jax.data.chips: one polygon, its scenes, one chip."""

import dataclasses
import json
import os
import pathlib
import pickle
import tempfile
from unittest import mock

import hypothesis
import numpy as np
import pyproj
import rasterio
import shapely
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from minec2f_jax.data import chip_note, chips, folder, geotiff, scene_folder, scenes, sensors
from minec2f_jax.errors import UserError
from tests import scenery
from tests.scenery import SIX

SETTINGS = chips.ChipSettings(min_margin_m=100.0)
GRID = scenery.utm_grid(160, 180)
ROW = {"id": "mine", "area_km2": "0.5", "split": "train"}


def job_of(own, *others, seen, name="mine"):
  """The job of a polygon over scenes, neighbours given."""
  return chips.ChipJob(
    name, own.bounds, tuple(shapely.to_wkb([own, *others]).tolist()), {**ROW, "id": name}, tuple(seen)
  )


def files_of(output):
  """Path -> (bytes, modification time) of all files below a folder."""
  return {str(p.relative_to(output)): (p.read_bytes(), p.stat().st_mtime_ns) for p in output.rglob("*") if p.is_file()}


def bytes_of(files):
  return {path: content for path, (content, _) in files.items()}


class ChipTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.imagery = pathlib.Path(directory.name) / "imagery"
    self.imagery.mkdir()
    self.output = pathlib.Path(directory.name) / "chips"
    for name in ("images", "masks"):
      (self.output / name).mkdir(parents=True)

  def _scan(self, **kwargs):
    found = scene_folder.scan_folder(self.imagery, **{"roles": SIX, **kwargs})
    self.assertNotEmpty(found.scenes, found.rejected)
    return found.scenes

  def _scene(self, bands, grid=GRID, *, name="scene", quality=None, **kwargs):
    """Writes one scene, with a scene classification where given, and returns it."""
    scenery.write(self.imagery / f"{name}.tif", bands, grid, **kwargs)
    if quality is not None:
      scenery.write(self.imagery / f"{name}_SCL.tif", quality[None], grid, ("SCL",))
    return next(scene for scene in self._scan() if scene.id == name)

  def _read(self, name="mine"):
    with rasterio.open(self.output / "images" / f"{name}.tif") as image:
      bands, place, tags = image.read(), (image.crs, image.transform), image.tags()
    with rasterio.open(self.output / "masks" / f"{name}.tif") as mask:
      self.assertEqual((mask.crs, mask.transform), place)
      label = mask.read(1)
    return bands, label, place, json.loads(tags[chip_note.TAG])

  def _make(self, job, settings=SETTINGS):
    return chips.make_chip(job, settings, self.output)


class MakeTest(ChipTest):
  def test_a_chip_on_the_imagery_s_grid_is_its_window_bit_for_bit(self):
    dn = np.random.default_rng(0).integers(1, 9000, (6, 160, 180)).astype(np.uint16)
    names = ("B02", "B03", "B04", "B08", "B11", "B12")
    scenery.write(
      self.imagery / "S2A_MSIL2A_20210612T143739_N0300_R096_T19KDQ_20210612T183035.tif", dn, GRID, names, nodata=0
    )
    own = scenery.blob(GRID, 80.3, 70.6, 22)
    outcome = self._make(job_of(own, seen=self._scan()))
    bands, label, (crs, transform), note = self._read()
    self.assertEqual(crs.to_epsg(), 32719)
    column, row = map(round, ~GRID.transform @ (transform.c, transform.f))
    window = dn[:, row : row + label.shape[0], column : column + label.shape[1]]
    np.testing.assert_array_equal(bands, window.astype(np.float32) * np.float32(1e-4))
    self.assertEqual((note["scene_sensor"], note["date"]), ("sentinel2_l2a", "2021-06-12"))
    self.assertEqual(outcome.row["product"], "Sentinel 2")

  @parameterized.named_parameters(
    ("utm_10_m", GRID, 0.0),
    ("utm_30_m", scenery.utm_grid(90, 80, 30.0), 0.0),
    ("degrees", scenery.lonlat_grid(160, 180), 0.0),
    ("degrees_to_utm", scenery.lonlat_grid(160, 180), 10.0),
    ("utm_to_coarser_utm", GRID, 25.0),
  )
  def test_the_mask_shows_the_polygon_and_its_neighbours_by_pixel_centres(self, grid, gsd_m):
    seen = [self._scene(scenery.reflectance(grid.height, grid.width), grid)]
    own, beside = scenery.blob(grid, 40.2, 38.7, 15), scenery.blob(grid, 55.4, 52.1, 9)
    far = scenery.blob(grid, grid.width - 4, grid.height - 4, 3)
    settings = dataclasses.replace(SETTINGS, gsd_m=gsd_m)
    outcome = self._make(job_of(own, beside, far, seen=seen), settings)
    self.assertEmpty(outcome.reasons)
    path = self.output / "images" / "mine.tif"
    label = self._read()[1]
    np.testing.assert_array_equal(label, scenery.expected_mask(path, [own, beside, far]))
    self.assertGreater(label.sum(), scenery.expected_mask(path, [own]).sum())
    self.assertEqual(float(outcome.row["mine_share"]), round(label.mean(), 4))
    np.testing.assert_allclose(
      float(outcome.row["gsd_m"]), gsd_m or {10.0: 10, 30.0: 30}.get(grid.transform.a, 9.6), rtol=0.03
    )

  def test_single_band_files_of_10_and_20_m_meet_on_the_finest_grid(self):
    fine, coarse = scenery.reflectance(160, 180), scenery.reflectance(80, 90, seed=1)
    for i, band in enumerate(("B02", "B03", "B04", "B08")):
      scenery.write(self.imagery / f"T19_{band}_10m.tif", fine[i : i + 1], GRID, (None,))
    ramp = np.broadcast_to(np.linspace(0.1, 0.5, 90, dtype=np.float32), (1, 80, 90))
    scenery.write(self.imagery / "T19_B11_20m.tif", ramp, scenery.utm_grid(80, 90, 20.0), (None,))
    scenery.write(self.imagery / "T19_B12_20m.tif", coarse[:1], scenery.utm_grid(80, 90, 20.0), (None,))
    self._make(job_of(scenery.blob(GRID, 80, 70, 20), seen=self._scan()))
    bands, label, (_, transform), _ = self._read()
    column, row = map(round, ~GRID.transform @ (transform.c, transform.f))
    self.assertEqual(transform.a, 10.0)
    np.testing.assert_array_equal(bands[:4], fine[:4, row : row + label.shape[0], column : column + label.shape[1]])
    # A linear ramp is what bilinear interpolation reproduces: at 10 m its steps are half as high.
    centres = (np.arange(column, column + label.shape[1]) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(bands[4, 5], np.interp(centres, np.arange(90), ramp[0, 0]), atol=1e-6)

  def test_a_chip_says_what_it_was_made_from_and_reads_as_data(self):
    own = scenery.blob(GRID, 80, 70, 20)
    bands = scenery.reflectance(160, 180)
    bands[2, 60:64, 70:74] = np.nan
    outcome = self._make(job_of(own, seen=[self._scene(bands)]))
    with rasterio.open(self.output / "images" / "mine.tif") as image:
      self.assertEqual((image.descriptions, image.dtypes[0]), (SIX, "float32"))
      self.assertTrue(np.isnan(image.nodata))
    note = self._read()[3]
    self.assertEqual((note["id"], note["area_km2"], note["scene"]), ("mine", "0.5", "scene"))
    self.assertEqual(note["settings"], SETTINGS.digest())
    (self.output / "index.csv").write_text("id,sensor\nmine,reflectance\n")
    image, label, valid = folder.read_row(folder.read_index(self.output, domain="coarse")[0], SIX)
    self.assertEqual((~valid).sum(), 16)
    self.assertEqual(outcome.row["valid_share"], f"{valid.mean():.4f}")
    self.assertEqual((str(label.shape[0]), str(label.shape[1])), (outcome.row["height"], outcome.row["width"]))
    self.assertEqual(image.shape, (*label.shape, 6))

  def test_only_windows_of_a_scene_are_read(self):
    giant = scenery.utm_grid(60_000, 60_000)  # 20 GB to decode, 4 MB of index on disk.
    path = self.imagery / "giant.tif"
    profile = dict(count=6, height=60_000, width=60_000, dtype=np.uint16, tiled=True, blockxsize=512, blockysize=512)
    with rasterio.open(
      path, "w", driver="GTiff", crs=giant.crs, transform=giant.transform, sparse_ok=True, bigtiff="yes", **profile
    ) as dst:
      dst.descriptions = SIX
      dst.write(np.full((6, 512, 512), 2500, np.uint16), window=rasterio.windows.Window(2560, 5120, 512, 512))
    with self.assertRaisesRegex(geotiff.GeoTiffError, "MiB, the limit is"):
      geotiff.read_chip(path, roles=SIX, sensor="reflectance_x10000")
    own = scenery.blob(giant, 2800, 5400, 40)
    self._make(job_of(own, seen=self._scan(sensor="reflectance_x10000")))
    np.testing.assert_array_equal(self._read()[0], np.float32(2500) * np.float32(1e-4))

  def test_job_settings_and_outcome_travel(self):
    job = job_of(scenery.blob(GRID, 80, 70, 20), seen=[self._scene(scenery.reflectance(160, 180))])
    outcome = chips.make_chip(*pickle.loads(pickle.dumps((job, SETTINGS, self.output))))
    self.assertEqual(chips.Outcome.from_dict(json.loads(json.dumps(dataclasses.asdict(outcome)))), outcome)
    refused = self._make(dataclasses.replace(job, id="other", scenes=()))
    self.assertEqual(chips.Outcome.from_dict(json.loads(json.dumps(dataclasses.asdict(refused)))), refused)


class ChooseTest(ChipTest):
  def setUp(self):
    super().setUp()
    self.own = scenery.blob(GRID, 80, 70, 20)
    self.bands = scenery.reflectance(160, 180)

  def _reasons(self, seen, own=None, **settings):
    outcome = self._make(job_of(own or self.own, seen=seen), dataclasses.replace(SETTINGS, **settings))
    self.assertEmpty(outcome.hashes)
    self.assertEmpty([p for p in self.output.rglob("*") if p.is_file()])
    return outcome.reasons

  def test_no_scene_no_chip(self):
    self.assertEqual(self._reasons([]), (("", "no imagery covers it"),))

  def test_a_corrupt_file_is_named_with_band_and_window(self):
    scene = self._scene(self.bands, compress="deflate", tiled=True, blockxsize=64, blockysize=64, interleave="band")
    path = self.imagery / "scene.tif"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    ((name, reason),) = self._reasons([scene])
    self.assertEqual(name, "scene")
    self.assertRegex(
      reason, r"^corrupt: .*scene\.tif, band \d \(\w+\), rows \d+:\d+, columns \d+:\d+: cannot be decoded"
    )

  @parameterized.parameters(0.0, 10.0)
  def test_a_file_that_is_gone_is_corrupt_too(self, gsd_m):
    scene = self._scene(self.bands)
    (self.imagery / "scene.tif").unlink()
    self.assertRegex(self._reasons([scene], gsd_m=gsd_m)[0][1], "^corrupt: .*scene.tif: no such file")

  def test_clouds_beyond_the_limit_are_told_with_their_share(self):
    codes = np.full((160, 180), 4, np.uint8)
    codes[:, :80] = 9
    ((_, reason),) = self._reasons([self._scene(self.bands, quality=codes)])
    self.assertRegex(reason, r"^cloudy: (4|5)\d(\.\d+)? % \(SCL\) > 20 %$")

  def test_a_window_without_data_is_too_little(self):
    self.bands[:, :, 85:] = np.nan
    ((_, reason),) = self._reasons([self._scene(self.bands)])
    self.assertRegex(reason, r"^too little data: valid [456]\d(\.\d+)? % < 80 %$")

  def test_what_lies_beyond_the_border_counts_as_no_data(self):
    own = scenery.blob(GRID, 2, 70, 20)
    ((_, reason),) = self._reasons([self._scene(self.bands)], own)
    self.assertRegex(reason, r"^too little data: valid [456]\d(\.\d+)? % < 80 %$")
    ((_, reason),) = self._reasons([self._scene(self.bands)], own, gsd_m=10.0)
    self.assertRegex(reason, r"^too little data: valid [456]\d(\.\d+)? % < 80 %$")

  def test_a_mine_under_a_small_cloud_is_no_label(self):
    codes = np.full((160, 180), 4, np.uint8)
    codes[67:74, 77:84] = 8
    tiny = scenery.blob(GRID, 80, 70, 2)
    ((_, reason),) = self._reasons([self._scene(self.bands, quality=codes)], tiny)
    self.assertEqual(reason, "too little data: no pixel of the polygon holds any without clouds")

  def test_a_polygon_between_pixel_centres_is_too_small(self):
    between = scenery.polygon(GRID, [(80.6, 70.6), (81.4, 70.6), (81.4, 71.4), (80.6, 71.4)])
    ((_, reason),) = self._reasons([self._scene(self.bands)], between)
    self.assertStartsWith(reason, "too small: no pixel centre inside the polygon")

  def test_a_chip_too_large_is_not_begun(self):
    ((_, reason),) = self._reasons([self._scene(self.bands)], max_size_px=50)
    self.assertRegex(reason, r"^too large: \d+ px > 50 px; set a larger --gsd_m$")

  def test_the_first_scene_that_serves_is_taken_and_the_others_are_told(self):
    cloudy = self._scene(self.bands, name="a", quality=np.full((160, 180), 9, np.uint8))
    clear = self._scene(self.bands + np.float32(0.1), name="b")
    outcome = self._make(job_of(self.own, seen=[cloudy, clear]))
    self.assertEqual((outcome.row["scene"], outcome.row["cloud_share"]), ("b", ""))
    self.assertEqual(outcome.reasons, (("a", "cloudy: 100 % (SCL) > 20 %"),))

  def test_clouds_within_the_limit_become_invalid_unless_told_otherwise(self):
    codes = np.full((160, 180), 4, np.uint8)
    codes[60:70, 75:85] = 3
    codes[80:82, 75:85] = 0
    scene = self._scene(self.bands, quality=codes)
    job = job_of(self.own, seen=[scene])
    row = self._make(job).row
    masked = self._read()[0]
    self.assertEqual(np.isnan(masked[0]).sum(), 120)
    np.testing.assert_allclose(float(row["cloud_share"]), 100 / (masked[0].size - 20), atol=5e-5)
    self._make(job, dataclasses.replace(SETTINGS, mask_clouds=False))
    self.assertEqual(np.isnan(self._read()[0][0]).sum(), 20)


class ResumeTest(ChipTest):
  def setUp(self):
    super().setUp()
    self.own = scenery.blob(GRID, 80, 70, 20)
    self.bands = scenery.reflectance(160, 180)
    self.bands[0, 60, 70] = -0.0
    self.job = job_of(self.own, seen=[self._scene(self.bands)])
    self.first = self._make(self.job)
    self.files = files_of(self.output)

  def test_a_finished_chip_is_left_alone_and_gives_the_same_row(self):
    again = self._make(self.job)
    self.assertTrue(again.reused)
    self.assertEqual(dataclasses.replace(again, reused=False), self.first)
    self.assertEqual(files_of(self.output), self.files)

  def test_imagery_is_not_touched_for_a_finished_chip(self):
    (self.imagery / "scene.tif").unlink()
    self.assertTrue(self._make(self.job).reused)

  @parameterized.named_parameters(
    ("image_gone", "images", None),
    ("mask_gone", "masks", None),
    ("image_empty", "images", lambda content: b""),
    ("image_cut", "images", lambda content: content[: len(content) * 3 // 4]),
    ("mask_cut", "masks", lambda content: content[:-20]),
    ("image_zeroed", "images", lambda content: content[:-200] + bytes(200)),
  )
  def test_a_damaged_chip_is_made_again_to_the_byte(self, name, damage):
    path = self.output / name / "mine.tif"
    if damage:
      path.write_bytes(damage(path.read_bytes()))
    else:
      path.unlink()
    self.assertFalse(self._make(self.job).reused)
    self.assertEqual(bytes_of(files_of(self.output)), bytes_of(self.files))

  def test_a_scene_that_was_touched_is_read_again_and_gives_the_same_bytes(self):
    os.utime(self.imagery / "scene.tif", ns=(1, 1))
    self.assertFalse(self._make(self.job).reused)
    self.assertTrue(self._make(self.job).reused)
    now, before = bytes_of(files_of(self.output)), bytes_of(self.files)
    self.assertNotEqual(now.pop("sources/mine.json"), before.pop("sources/mine.json"))
    self.assertEqual(now, before)

  def test_other_pixels_under_the_name_of_a_scene_make_another_chip(self):
    scenery.write(self.imagery / "scene.tif", self.bands + np.float32(0.1), GRID)
    self.assertFalse(self._make(self.job).reused)
    self.assertGreater(np.nanmean(self._read()[0]), self.bands.mean() + 0.09)

  def test_a_mask_that_is_put_beside_a_scene_counts(self):
    valid = np.full((1, 160, 180), 255, np.uint8)
    valid[0, 60:64, 70:74] = 0
    scenery.write(self.imagery / "scene.tif.msk", valid, GRID, (None,))
    self.assertFalse(self._make(self.job).reused)
    self.assertTrue(self._make(self.job).reused)
    (self.imagery / "scene.tif.msk").unlink()
    self.assertFalse(self._make(self.job).reused)
    self.assertEqual(bytes_of(files_of(self.output)), bytes_of(self.files))

  def test_a_better_scene_is_tried_again_once_it_was_mended(self):
    better = self._scene(self.bands + np.float32(0.1), name="better")
    whole = (self.imagery / "better.tif").read_bytes()
    (self.imagery / "better.tif").write_bytes(b"II*\0 broken")
    job = dataclasses.replace(self.job, scenes=(better, *self.job.scenes))
    self.assertEqual(self._make(job).row["scene"], "scene")
    self.assertTrue(self._make(job).reused)
    (self.imagery / "better.tif").write_bytes(whole)
    again = self._make(job)
    self.assertEqual((again.row["scene"], again.reused), ("better", False))

  @parameterized.parameters("missing", "[[", "{}", "null")
  def test_without_a_record_of_its_sources_a_chip_is_made_again(self, content):
    path = self.output / "sources" / "mine.json"
    if content == "missing":
      path.unlink()
    else:
      path.write_text(content)
    self.assertFalse(self._make(self.job).reused)
    self.assertEqual(bytes_of(files_of(self.output)), bytes_of(self.files))

  def test_remote_scenes_leave_no_record(self):
    remote = scenes.Scene("r", (("red", geotiff.Band("/vsicurl/http://x/a.tif", 1)),), "auto", None, self.own)
    self.assertEmpty(chip_note._stamps([remote]))

  def test_who_changes_a_chip_takes_the_manifest_away_before(self):
    manifest = self.output / chip_note.MANIFEST
    manifest.write_text("{}")
    self._make(self.job)
    self.assertTrue(manifest.exists())
    (self.output / "images" / "mine.tif").unlink()
    there = []
    write = geotiff.write_geotiff
    with mock.patch.object(geotiff, "write_geotiff", lambda *a, **k: (there.append(manifest.exists()), write(*a, **k))):
      self._make(self.job)
    self.assertEqual(there, [False, False])

  def test_a_mask_of_other_pixels_is_made_again(self):
    path = self.output / "masks" / "mine.tif"
    with rasterio.open(path) as src:
      label, profile = src.read(), src.profile
    with rasterio.open(path, "w", **profile) as dst:
      dst.write(1 - label)
    self.assertFalse(self._make(self.job).reused)
    np.testing.assert_array_equal(self._read()[1], label[0])

  def test_other_settings_polygons_or_scenes_make_another_chip(self):
    self.assertFalse(self._make(self.job, dataclasses.replace(SETTINGS, margin=0.5)).reused)
    self.assertTrue(self._make(self.job, dataclasses.replace(SETTINGS, margin=0.5)).reused)
    more = job_of(self.own, scenery.blob(GRID, 60, 70, 5), seen=self.job.scenes)
    self.assertFalse(self._make(more).reused)
    better = self._scene(self.bands + np.float32(0.1), name="better")
    later = dataclasses.replace(more, scenes=(*more.scenes, better))
    self.assertTrue(self._make(later).reused)  # What ranks behind the scene it was made from changes nothing.
    sooner = dataclasses.replace(more, scenes=(better, *more.scenes))
    self.assertFalse(self._make(sooner).reused)
    self.assertEqual(self._make(sooner).row["scene"], "better")

  def test_a_chip_that_somebody_else_made_is_made_again(self):
    scenery.write(self.output / "images" / "mine.tif", self.bands, GRID)
    self.assertFalse(self._make(self.job).reused)

  def test_an_output_that_cannot_be_written_stops_the_run(self):
    with self.assertRaisesRegex(UserError, "nowhere.*cannot be written"):
      chips.make_chip(self.job, SETTINGS, self.output / "nowhere")


class WindowTest(parameterized.TestCase):
  def test_the_margin_is_a_share_of_the_longer_extent_but_a_least_length(self):
    geod = pyproj.Geod(ellps="WGS84")
    west, south, east, north = chips.window_box((-69.0, -23.04, -68.98, -23.0), chips.ChipSettings(margin=0.25))
    _, _, height_m = geod.inv(-69, -23.04, -69, -23.0)
    _, _, (down_m, side_m) = geod.inv([-69, -69], [-23.04, -23.02], [-69, west], [south, -23.02])
    np.testing.assert_allclose([down_m, side_m], 0.25 * height_m, rtol=0.01)
    self.assertGreater(east, -68.98)
    west, south, east, north = chips.window_box((10.0, 60.0, 10.0001, 60.0001), chips.ChipSettings(min_margin_m=200))
    _, _, (up_m, side_m) = geod.inv([10, 10.0001], [60.0001, 60], [10, east], [north, 60])
    np.testing.assert_allclose([up_m, side_m], 200, rtol=0.01)

  @hypothesis.given(
    lon=st.floats(-179, 179), lat=st.floats(-83, 83), width=st.floats(1e-5, 0.05), height=st.floats(1e-5, 0.05)
  )
  @hypothesis.settings(max_examples=50, deadline=None)
  def test_a_utm_chip_holds_its_window_and_has_the_least_size(self, lon, lat, width, height):
    bounds = (lon, lat, lon + width, lat + height)
    settings = chips.ChipSettings(gsd_m=20.0, min_size_px=40)
    grid = chips.chip_grid(bounds, settings, None)
    self.assertGreaterEqual(min(grid.height, grid.width), 40)
    west, south, east, north = grid.lonlat_bounds()
    window = chips.window_box(bounds, settings)
    slack = 1e-4  # Edges in degrees bend by less than a pixel between the points they are followed by.
    self.assertTrue(west <= window[0] + slack and south <= window[1] + slack)
    self.assertTrue(east >= window[2] - slack and north >= window[3] - slack)

  def test_a_small_polygon_gets_the_least_size_where_the_raster_reaches(self):
    settings = chips.ChipSettings(min_margin_m=10.0, min_size_px=64)
    inside = chips.chip_grid(scenery.blob(GRID, 80, 70, 2).bounds, settings, GRID)
    self.assertEqual((inside.height, inside.width), (64, 64))
    corner = chips.chip_grid(scenery.blob(GRID, 3, 70, 2).bounds, settings, GRID)
    self.assertLess(corner.width, 64)
    self.assertIsNone(chips.chip_grid(scenery.blob(GRID, 999, 70, 2).bounds, settings, GRID))

  def test_the_digest_of_settings_follows_each_of_them(self):
    changed = {"roles": ("red",), "drivers": ("GTiff", "VRT"), "mask_clouds": False, "allow_remote": True}
    digests = {chips.ChipSettings().digest()}
    for field in dataclasses.fields(chips.ChipSettings):
      value = changed.get(field.name, field.default + 1 if field.name not in changed else None)
      digests.add(chips.ChipSettings(**{field.name: value}).digest())
    self.assertLen(digests, len(dataclasses.fields(chips.ChipSettings)) + 1)

  @parameterized.parameters(
    ("sentinel2_l2a", "S2A", "Sentinel 2"),
    ("landsat_c2_l2", "a/LC08_L2SP_233084_20210601", "Landsat 8"),
    ("landsat_c2_l2", "a/LC09_L2SP_233084_20230601", "Landsat 9"),
    ("hls_l30", "x", "HLS"),
    ("auto", "x", ""),
  )
  def test_products_have_the_paper_s_names(self, sensor, name, product):
    self.assertEqual(chips._product(scenes.Scene(name, (), sensor, None, shapely.box(0, 0, 1, 1))), product)
    self.assertIn(sensor, sensors.CHOICES)


if __name__ == "__main__":
  absltest.main()
