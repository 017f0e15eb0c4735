"""Tests of python -m datasets.chips: from files to a data set, end to end."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import unittest
from unittest import mock

import numpy as np
import pyproj
import rasterio
import shapely
from absl.testing import absltest, parameterized

from datasets.mining_coarse import mining_coarse_dataset_builder
from minec2f_jax.data import chips, folder, grids, polygons, stac
from minec2f_jax.errors import UserError
from tests import chip_runs, scenery
from tests.rasters import DATA
from tests.scenery import SIX


class SyntheticTest(chip_runs.SceneTest):
  def test_polygons_and_a_scene_become_a_data_set(self):
    said = self._run()
    rows = self._rows()
    self.assertEqual([row["id"] for row in rows], sorted(row["id"] for row in rows))
    left = [row for row in self._rows("quarantine.csv") if row["reason"].startswith("too near: ")]
    self.assertLen(rows + left, 17)
    self._check_masks(self.mines)
    by_id = {polygon.id: polygon for polygon in polygons.read_polygons(self.root / "mines.geojson").polygons}
    geod = pyproj.Geod(ellps="WGS84")
    for row in rows:
      area_m2, _ = geod.polygon_area_perimeter(*np.array(by_id[row["id"]].geometry.exterior.coords).T)
      np.testing.assert_allclose(float(row["area_km2"]), abs(area_m2) / 1e6, rtol=1e-9)
      with rasterio.open(self._image(row["id"])) as image:
        column, line = map(round, ~chip_runs.GRID.transform @ (image.transform.c, image.transform.f))
        window = self.dn[:, line : line + image.height, column : column + image.width]
        np.testing.assert_array_equal(image.read(), window.astype(np.float32) * np.float32(1e-4))
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    self.assertIn(f"chips: {len(rows)} ({', '.join(f'{s} {n}' for s, n in counts.items())}), 0 of them", said)
    self.assertEndsWith(said, f"--config.data.coarse.path={self.output}\n")

  def test_the_set_opens_as_training_data(self):
    self._run()
    opened = {s: folder.open_folder(self.output, domain="coarse", split=s, roles=SIX) for s in command_splits()}
    splits = {row["id"]: row["split"] for row in self._rows()}
    self.assertEqual({name: s for s, source in opened.items() for name in source.ids}, splits)
    sample = opened["train"][0]
    self.assertTrue(sample["valid"].all())
    self.assertTrue(0 < sample["label"].mean() < 1)

  def test_windows_of_different_splits_keep_the_buffer(self):
    self._run(buffer_km=0.4)
    boxes = {}
    for row in self._rows():
      with rasterio.open(self._image(row["id"])) as image:
        boxes[row["id"]] = shapely.box(*image.bounds), row["split"]
    pairs = [(a, b) for (a, s), (b, t) in itertools.combinations(boxes.values(), 2) if s != t]
    self.assertNotEmpty(pairs)
    # UTM is 0.04 % short of the ground on its central meridian.
    self.assertGreaterEqual(min(a.distance(b) for a, b in pairs), 400 * 0.9995)

  def test_a_second_run_redoes_nothing(self):
    self._run()
    before = chip_runs.files_of(self.output)
    said = self._run()
    self.assertEqual(chip_runs.files_of(self.output), before)
    self.assertIn(f"{len(self._rows())} of them from an earlier run", said)

  def test_what_a_kill_left_is_completed_to_the_byte(self):
    self._run()
    whole = chip_runs.hashes_of(self.output)
    images = sorted((self.output / "images").iterdir())
    for path in images[::2]:
      path.unlink()
    images[1].write_bytes(images[1].read_bytes()[:-500])
    (self.output / "masks" / images[3].name).unlink()
    (self.output / "images" / f".{images[0].name}.x1.partial").write_bytes(b"half")
    (self.output / "outcomes").mkdir()
    (self.output / "outcomes" / "part-0").write_text("half")
    (self.output / "manifest.json").unlink()
    (self.output / "index.csv").unlink()
    said = self._run()
    self.assertEqual(chip_runs.hashes_of(self.output), whole)
    self.assertIn(f"{len(images) - len(images[::2]) - 2} of them from an earlier run", said)

  def test_workers_do_not_show_in_the_result(self):
    self._run(workers=1)
    one = chip_runs.hashes_of(self.output)
    self.output = self.root / "again"
    self._run(workers=4)
    self.assertEqual(chip_runs.hashes_of(self.output), one)

  def test_other_settings_in_the_same_folder_are_refused(self):
    self._run()
    before = chip_runs.files_of(self.output)
    with self.assertRaisesRegex(UserError, r"gsd_m \(0.0 there, 20.0 now\); choose another --output"):
      self._run(gsd_m=20.0)
    self._polygons(*self.mines[1:])
    with self.assertRaisesRegex(UserError, r"polygons_sha256 \('\w+' there"):
      self._run()
    self.assertEqual(chip_runs.files_of(self.output), before)

  def test_areas_out_of_range_give_no_chip_but_stay_in_the_masks(self):
    areas = sorted(polygons.geodesic_area_km2(mine) for mine in self.mines)  # The middle ones, by a hair.
    said = self._run(min_area_km2=areas[4] - 1e-9, max_area_km2=areas[-3] + 1e-9)
    self.assertIn("17 in", said)
    self.assertIn(f"{17 - 4 - 2} of the wanted area", said)
    found = [float(row["area_km2"]) for row in self._rows() + self._rows("quarantine.csv")]
    np.testing.assert_allclose(sorted(found), areas[4:-2], rtol=1e-12)
    self._check_masks(self.mines)

  def test_sites_of_the_fine_set_are_kept_away_from(self):
    self._polygons(self.mines[5], name="fine.geojson")
    self._run(keep_away=self.root / "fine.geojson")
    (left,) = [row for row in self._rows("quarantine.csv") if "keep_away" in row["reason"]]
    area = polygons.geodesic_area_km2(self.mines[5])
    np.testing.assert_allclose(float(left["area_km2"]), area, rtol=1e-9)

  def test_fine_polygons_make_a_fine_set(self):
    self._polygons(*self.mines, mine=[f"Mine {i}" for i in range(17)], commodity=["Cu"] * 17)
    said = self._run(domain="fine")
    self.assertEqual({(row["domain"], row["commodity"]) for row in self._rows()}, {("fine", "Cu")})
    self.assertStartsWith(self._rows()[0]["mine"], "Mine ")
    self.assertEndsWith(said, f"--config.data.fine.path={self.output}\n")

  def test_what_gives_no_chip_is_listed_with_the_reason(self):
    scenery.write(self.imagery / "S2A_20210612_SCL.tif", self._clouds(), chip_runs.GRID, ("SCL",))
    self._polygons(
      scenery.blob(chip_runs.GRID, 100, 100, 10),
      scenery.blob(chip_runs.GRID, 300, 300, 10),
      scenery.blob(chip_runs.GRID, 900, 900, 10),
      scenery.blob(chip_runs.GRID, 500, 500, 0.3),
      name="some.geojson",
      name_of=["cloudy", "clear", "outside", "tiny"],
    )
    said = self._run(polygons=self.root / "some.geojson", id_column="name_of", buffer_km=0)
    self.assertEqual([row["id"] for row in self._rows()], ["clear"])
    reasons = {row["id"]: row["reason"] for row in self._rows("quarantine.csv")}
    self.assertEqual(reasons["outside"], "no imagery covers it")
    self.assertRegex(reasons["cloudy"], r"^S2A_20210612: cloudy: 100 % \(SCL\) > 20 %$")
    self.assertStartsWith(reasons["tiny"], "S2A_20210612: too small: no pixel centre")
    self.assertIn("quarantine: 3 polygons (", said)
    self.assertIn("no chip in ", said)

  def test_a_set_without_any_chip_says_so(self):
    scenery.write(self.imagery / "S2A_20210612_SCL.tif", np.full((1, 600, 600), 9, np.uint8), chip_runs.GRID, ("SCL",))
    with self.assertRaisesRegex(
      UserError, r"^no chip could be made \(cloudy 17\); the reasons are in \S+quarantine.csv$"
    ):
      self._run()
    self.assertEmpty(self._rows())
    self.assertLen(self._rows("quarantine.csv"), 17)
    self._run(max_cloud=1, mask_clouds=False)  # No chip is there that other settings would contradict.
    self.assertNotEmpty(self._rows())

  def test_a_corrupt_scene_is_named_and_another_one_serves(self):
    path = self.imagery / "S2A_20210612.tif"
    scenery.write(self.imagery / "S2A_20200101.tif", self.dn, chip_runs.GRID, chip_runs.NAMES, nodata=0, tiled=True)
    content = bytearray(path.read_bytes())
    scenery.write(path, self.dn, chip_runs.GRID, chip_runs.NAMES, nodata=0, tiled=True, compress="deflate")
    content = bytearray(path.read_bytes())
    content[2000 : len(content) - 2000] = bytes(len(content) - 4000)
    path.write_bytes(content)
    self._run()
    self.assertEqual({row["scene"] for row in self._rows()}, {"S2A_20200101"})
    (self.imagery / "S2A_20200101.tif").unlink()
    self.output = self.root / "corrupt"
    with self.assertRaisesRegex(UserError, "no chip could be made .corrupt "):
      self._run()
    reasons = [row["reason"] for row in self._rows("quarantine.csv") if "corrupt" in row["reason"]]
    self.assertNotEmpty(reasons)
    self.assertRegex(
      reasons[0], r"corrupt: .*S2A_20210612.tif, band 1 \(B02\), rows \d+:\d+, columns .*cannot be decoded"
    )

  def test_imagery_of_unknown_encoding_is_refused_with_the_remedy(self):
    with self.assertRaisesRegex(UserError, "no usable scene"):
      self._run(sensor="auto")
    with self.assertRaisesRegex(UserError, "no polygon of the wanted area"):
      self._run(min_area_km2=1e6)
    self.assertFalse(self.output.exists())

  def test_all_scenes_of_a_place_are_tried_and_told(self):
    (self.imagery / "S2A_20210612.tif").unlink()
    for day in range(1, 7):
      name = f"S2A_2021060{day}"
      scenery.write(self.imagery / f"{name}.tif", self.dn, chip_runs.GRID, chip_runs.NAMES, nodata=0, tiled=True)
      if day > 1:  # The oldest, which is tried last, is the only one without clouds.
        scenery.write(self.imagery / f"{name}_SCL.tif", np.full((1, 600, 600), 9, np.uint8), chip_runs.GRID, ("SCL",))
    self._run()
    self.assertEqual({row["scene"] for row in self._rows()}, {"S2A_20210601"})
    (self.imagery / "S2A_20210601.tif").unlink()
    with self.assertRaisesRegex(UserError, "no chip could be made .cloudy"):
      self._run()
    tried = [row["reason"].count("cloudy") for row in self._rows("quarantine.csv") if "cloudy" in row["reason"]]
    self.assertEqual({*tried}, {5})
    self.assertEmpty(list(self.output.glob("*/CHL*")))

  def test_new_pixels_in_a_scene_are_noticed(self):
    self._run()
    scenery.write(
      self.imagery / "S2A_20210612.tif", self.dn + np.uint16(100), chip_runs.GRID, chip_runs.NAMES, nodata=0, tiled=True
    )
    self.assertIn(", 0 of them from an earlier run", self._run())
    with rasterio.open(self._image(self._rows()[0]["id"])) as image:
      np.testing.assert_allclose(image.read().min(), 0.0101, rtol=0.05)

  def test_imagery_may_be_spelled_otherwise_and_lie_elsewhere(self):
    self._run()
    before = chip_runs.files_of(self.output)
    self._run(imagery=f"{self.imagery}/../imagery/")
    moved = self.imagery.rename(self.root / "moved")
    self._run(imagery=moved)
    self.assertEqual(chip_runs.files_of(self.output), before)

  def test_a_manifest_stands_only_beside_the_files_it_tells_of(self):
    self._run()
    self.assertTrue((self.output / "manifest.json").exists())
    os.utime(self.imagery / "S2A_20210612.tif", ns=(1, 1))
    interrupted = mock.patch.object(chips.chip_note.files, "write_json", side_effect=ZeroDivisionError)
    with interrupted, self.assertRaises(ZeroDivisionError):
      self._run(workers=1)
    self.assertFalse((self.output / "manifest.json").exists())

  @parameterized.parameters("imagery/chips", "imagery", ".")
  def test_a_set_and_its_imagery_lie_apart(self, place):
    with self.assertRaisesRegex(UserError, r"^--output=\S+ and --imagery=\S+ lie one in the other; choose another"):
      self._run(output=self.root / place)
    self.assertFalse((self.imagery / "chips").exists())

  def test_the_contact_sheet_is_drawn(self):
    self._run()
    from PIL import Image

    with Image.open(self.output / "contact_sheet.png") as sheet:
      self.assertGreater(sheet.width, 1000)

  def _clouds(self):
    codes = np.full((1, 600, 600), 4, np.uint8)
    codes[:, 50:150, 50:150] = 9
    return codes


class ImageryTest(chip_runs.CommandTest):
  @parameterized.named_parameters(
    ("utm_30_m", scenery.utm_grid(250, 250, 30.0), 0.0),
    ("degrees", scenery.lonlat_grid(500, 500), 0.0),
    ("degrees_to_utm_10_m", scenery.lonlat_grid(500, 500), 10.0),
  )
  def test_masks_lie_right_on_every_grid(self, grid, gsd_m):
    scenery.write(self.imagery / "a.tif", scenery.reflectance(grid.height, grid.width), grid)
    spots = [(60, 60), (180, 70), (70, 190), (200, 200)]
    mines = self._polygons(*[scenery.blob(grid, x, y, 7 + i) for i, (x, y) in enumerate(spots)])
    self._run(gsd_m=gsd_m, buffer_km=0.01)
    self.assertLen(self._rows(), 4)
    self._check_masks(mines)

  def _item(self):
    """An item of Sentinel-2, whose assets are written, and their grid."""
    grid, assets = scenery.utm_grid(300, 300), {}
    for i, common in enumerate(("blue", "green", "red", "nir", "swir16", "swir22")):
      scenery.write(self.imagery / f"{common}.tif", np.full((1, 300, 300), 1000 * (i + 1), np.uint16), grid, (None,))
      bands = [{"name": common, "common_name": common}]
      assets[common] = {"href": f"./{common}.tif", "eo:bands": bands, "gsd": 10}
    codes = np.full((1, 300, 300), 4, np.uint8)
    codes[:, :20, :] = 9
    scenery.write(self.imagery / "scl.tif", codes, grid, ("SCL",))
    assets["scl"] = {"href": "./scl.tif"}
    corners = scenery.polygon(grid, [(0, 0), (300, 0), (300, 300), (0, 300)])
    told = {"platform": "sentinel-2a", "s2:product_type": "S2MSI2A", "s2:processing_baseline": "03.00"}
    item = {
      **{"type": "Feature", "stac_version": "1.0.0", "id": "S2A_19KDQ_20210612_0_L2A", "collection": "sentinel-2-l2a"},
      **{"geometry": json.loads(shapely.to_geojson(corners)), "bbox": list(corners.bounds), "links": []},
      **{"properties": {"datetime": "2021-06-12T14:37:39Z", **told}, "assets": assets},
    }
    return item, grid

  def _check_item(self, item):
    (row,) = self._rows()
    self.assertEqual((row["scene"], row["scene_sensor"], row["cloud_share"]), (item["id"], "sentinel2_l2a", "0.0000"))
    with rasterio.open(self._image(row["id"])) as image:
      np.testing.assert_allclose(image.read().mean((1, 2)), np.arange(1, 7) / 10, rtol=1e-6)

  @unittest.skipUnless(importlib.util.find_spec("pystac"), "pystac is not installed")
  def test_scenes_of_stac_items_serve_as_well(self):
    item, grid = self._item()
    (self.imagery / "item.json").write_text(json.dumps(item))
    self._polygons(scenery.blob(grid, 150, 150, 20))
    self._run(imagery=self.imagery / "item.json", stac=True)
    self._check_item(item)

  @unittest.skipUnless(importlib.util.find_spec("pystac_client"), "pystac_client is not installed")
  def test_a_stac_api_is_searched_where_the_polygons_are(self):
    self.enterContext(mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}))
    item, grid = self._item()
    found = self.root / "found.json"
    found.write_text(json.dumps([item]))
    command = [sys.executable, "-m", "tests.stac_server", str(self.imagery), str(found)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    serving = self.enterContext(subprocess.Popen(command, cwd=chip_runs.ROOT, **pipes))
    self.addCleanup(serving.terminate)
    url = f"http://127.0.0.1:{int(serving.stdout.readline())}/api"
    mines = self._polygons(scenery.blob(grid, 150, 150, 20), scenery.blob(grid, 150, 120, 3))
    api = dict(imagery=url, stac=True, stac_collections="sentinel-2-l2a,other", stac_datetime="2021", max_items=5)
    with mock.patch.object(stac, "search", wraps=stac.search) as search:
      self._run(**api, allow_remote=True, min_area_km2=0.1)
    self._check_item(item)
    self.assertEqual(json.loads((self.output / "sources" / f"{self._rows()[0]['id']}.json").read_text()), [])
    asked = search.call_args.kwargs
    self.assertEqual((asked["collections"], asked["datetime"]), (["sentinel-2-l2a", "other"], "2021"))
    self.assertEqual((asked["bbox"], asked["max_items"]), (mines[0].bounds, 5))

  def test_single_band_files_of_two_resolutions_are_one_scene(self):
    for i, (band, size) in enumerate((("B02", 10), ("B03", 10), ("B04", 10), ("B08", 10), ("B11", 20), ("B12", 20))):
      grid = scenery.utm_grid(3000 // size, 3000 // size, float(size))
      value = np.full((1, grid.height, grid.width), 1000 * (i + 1), np.uint16)
      scenery.write(self.imagery / f"T19KDQ_20210612T143739_{band}_{size}m.tif", value, grid, (None,), nodata=0)
    self._polygons(scenery.blob(scenery.utm_grid(300, 300), 150, 150, 20))
    self._run(sensor="sentinel2_l2a")
    (row,) = self._rows()
    self.assertEqual((row["date"], row["gsd_m"][:4]), ("2021-06-12", "10.0"))
    with rasterio.open(self._image(row["id"])) as image:
      np.testing.assert_allclose(image.read().mean((1, 2)), np.arange(1, 7) / 10, rtol=1e-6)

  @parameterized.named_parameters(
    (
      "landsat",
      "LC08_L2SP_001077_20210601_20210608_02_T1_{}.TIF",
      "SR_B{}",
      "QA_PIXEL",
      8,
      "landsat_c2_l2",
      "Landsat 8",
    ),
    ("hls", "HLS.L30.T19KDQ.2021152T143000.v2.0.{}.tif", "B0{}", "Fmask", 2, "hls_l30", "HLS"),
  )
  def test_products_of_single_bands_serve_by_their_names_alone(self, name, band, quality, cloud, sensor, product):
    grid = scenery.utm_grid(200, 200, 30.0)
    for i in range(2, 8):
      dn = np.full((1, 200, 200), 8000 + 1000 * i if sensor == "landsat_c2_l2" else 1000 * i, np.uint16)
      dn[:, :, 100:] -= 500
      kind = dn if sensor == "landsat_c2_l2" else dn.astype(np.int16)
      scenery.write(self.imagery / name.format(band.format(i)), kind, grid, (None,))
    codes = np.zeros((1, 200, 200), np.uint16 if quality == "QA_PIXEL" else np.uint8)
    codes[:, 40:44, 40:44] = cloud
    scenery.write(self.imagery / name.format(quality), codes, grid, (None,))
    mines = self._polygons(scenery.blob(grid, 50, 50, 12), scenery.blob(grid, 150, 150, 12))
    self._run(gsd_m=10.0, buffer_km=0.1)
    rows = {row["location_group"]: row for row in self._rows()}
    self.assertLen(rows, 2)
    self._check_masks(mines)
    for row in rows.values():
      self.assertEqual((row["scene_sensor"], row["product"], row["date"]), (sensor, product, "2021-06-01"))
      self.assertStartsWith(row["gsd_m"], "10.0")
      with rasterio.open(self._image(row["id"])) as image:
        self.assertEqual(image.descriptions, SIX)
        seen = image.read()
        west = image.transform.c < grid.transform.c + 3000
      stored = np.arange(2, 8) * 1000.0 - (0 if west else 500) + (8000 if sensor == "landsat_c2_l2" else 0)
      expected = stored * 2.75e-5 - 0.2 if sensor == "landsat_c2_l2" else stored * 1e-4
      np.testing.assert_allclose(np.nanmean(seen, (1, 2)), expected, rtol=1e-5)
      # Four by four pixels of 30 m under cloud, at 10 m.
      self.assertEqual(np.isnan(seen).any(0).sum(), 144 if west else 0)

  @parameterized.named_parameters(
    ("utm_10_m", "utm", 10.0),
    ("utm_30_m", "utm", 30.0),
    ("degrees_10_m", "degrees", 9e-5),
    ("degrees_30_m", "degrees", 27e-5),
  )
  @unittest.skipUnless(DATA.exists(), "MINEC2F_DATA is not there")
  def test_real_outlines_become_a_coarse_set_of_the_right_areas(self, kind, step):
    path = DATA / "polygons" / "chile_maus_sites.geojson"
    every = polygons.read_polygons(path).polygons
    # The two nearest to the paper's 9.8 km2 on either side, and a small one.
    below = [site for site in every if site.area_km2 < 9.8]
    above = [site for site in every if site.area_km2 >= 9.8]
    by_area = lambda site: site.area_km2
    sites = [
      *sorted(below, key=by_area)[-2:],
      *sorted(above, key=by_area)[:2],
      next(s for s in below if s.area_km2 > 1),
    ]
    for i, site in enumerate(sites):
      box = chips.window_box(site.geometry.bounds, chips.ChipSettings(min_margin_m=400))
      if kind == "utm":
        grid = grids.utm_grid(box, gsd_m=step)
      else:
        shape = (int((box[3] - box[1]) / step) + 2, int((box[2] - box[0]) / step) + 2)
        grid = scenery.lonlat_grid(*shape, step, origin=(box[0], box[3]))
      scenery.write(self.imagery / f"scene{i}.tif", scenery.reflectance(grid.height, grid.width, seed=i), grid)
    self._run(polygons=path, block_km=50, buffer_km=0)
    rows = {row["id"]: row for row in self._rows()}
    self.assertContainsSubset([site.id for site in sites], rows)
    self._check_masks([site.geometry for site in every])
    geod = pyproj.Geod(ellps="WGS84")
    areas = {site.id: abs(geod.geometry_area_perimeter(shapely.normalize(site.geometry))[0]) / 1e6 for site in every}
    for site in sites:
      row = rows[site.id]
      self.assertEqual((row["country"], row["iso3"]), ("Chile", "CHL"))
      np.testing.assert_allclose(float(row["area_km2"]), areas[site.id], rtol=1e-3)
      np.testing.assert_allclose(float(row["area_km2"]), float(site.attributes["AREA"]), rtol=1e-3)
      across = (1 + np.cos(np.radians(float(row["lat"])))) / 2  # A degree shrinks along one axis.
      gsd_m = step if kind == "utm" else step * 111_200 * across
      np.testing.assert_allclose(float(row["gsd_m"]), gsd_m, rtol=0.01)
    plan = mining_coarse_dataset_builder.MiningCoarse.make_plan(
      next(c for c in mining_coarse_dataset_builder.MiningCoarse.BUILDER_CONFIGS if c.name == "fine_filtered"),
      self.output,
    )
    self.assertEqual({chip.row.id for chip in plan.chips}, {name for name in rows if areas[name] >= 9.8})
    self.assertContainsSubset([site.id for site in sites[2:4]], {chip.row.id for chip in plan.chips})

  @unittest.skipUnless(DATA.exists(), "MINEC2F_DATA is not there")
  def test_a_real_scene_needs_its_sensor_named(self):
    place = DATA / "sentinel2_scene"
    with rasterio.open(place / "spain_7370579_s2_l1c.tif") as src:
      grid = scenery.lonlat_grid(src.height, src.width, src.transform.a, origin=(src.transform.c, src.transform.f))
      stored = src.read([2, 3, 4, 8, 12, 13])
    mines = self._polygons(scenery.blob(grid, 130, 140, 25), scenery.blob(grid, 400, 380, 40))
    with self.assertRaisesRegex(UserError, "no usable scene; the reasons stand above"):
      self._run(imagery=place)
    self._run(imagery=place, sensor="sentinel2_l1c", buffer_km=0)
    self.assertLen(self._rows(), 2)
    self._check_masks(mines)
    for row in self._rows():
      with rasterio.open(self._image(row["id"])) as image:
        column, line = map(round, ~grid.transform @ (image.transform.c, image.transform.f))
        window = stored[:, line : line + image.height, column : column + image.width]
        expected = np.where((window == 0).any(0), np.nan, window.astype(np.float32) * np.float32(1e-4))
        np.testing.assert_array_equal(image.read(), expected)

  @unittest.skipUnless(DATA.exists(), "MINEC2F_DATA is not there")
  def test_real_rgb_tiles_of_many_places(self):
    tiles = sorted((DATA / "tailings" / "images").glob("00*.tif"))
    self.imagery.mkdir()
    mines = []
    for tile in tiles:
      os.symlink(tile, self.imagery / tile.name)
      with rasterio.open(tile) as src:
        to_pixels = src.transform
      angles = np.linspace(0, 2 * np.pi, 9)[:-1]
      ring = [to_pixels @ (224.3 + 60 * np.cos(a), 220.2 + 50 * np.sin(a)) for a in angles]
      mines.append(shapely.Polygon(ring))
    self._polygons(*mines)
    self._run(bands="red,green,blue", block_km=50, buffer_km=5)
    rows = self._rows()
    self.assertLen(rows, len(tiles))
    self._check_masks(mines)
    with (
      rasterio.open(self._image(rows[0]["id"])) as image,
      rasterio.open(self.imagery / f"{rows[0]['scene']}.tif") as src,
    ):
      self.assertEqual(image.descriptions, ("red", "green", "blue"))
      column, line = map(round, ~src.transform @ (image.transform.c, image.transform.f))
      window = rasterio.windows.Window(column, line, image.width, image.height)
      np.testing.assert_array_equal(image.read(), src.read([3, 2, 1], window=window))


def command_splits():
  return "train", "validation", "test"


if __name__ == "__main__":
  absltest.main()
