"""Tests of minec2f_jax.data.chip_plan: which polygons become jobs, in which split."""

import dataclasses
import itertools
import pathlib
import tempfile

import numpy as np
import pyproj
import shapely
from absl.testing import absltest, parameterized

from minec2f_jax.data import chip_plan, chips, grids, polygons, scene_folder
from tests import scenery

GRID = scenery.utm_grid(4000, 4000)  # 40 km; only its header is read.
SETTINGS = chips.ChipSettings()
DEALING = dict(domain="coarse", block_km=5.0, buffer_km=1.0, seed=0)


def named(name, geometry, **attributes):
  return polygons.Polygon(name, geometry, polygons.geodesic_area_km2(geometry), attributes)


def gap_km(first, second):
  """Distance in km of two lon/lat boxes, by brute force over points of their edges."""
  ends = [np.array(shapely.segmentize(shapely.box(*box), 0.002).exterior.coords) for box in (first, second)]
  if shapely.box(*first).intersects(shapely.box(*second)):
    return 0.0
  pairs = np.array(list(itertools.product(*(end.tolist() for end in ends))))
  return pyproj.Geod(ellps="WGS84").inv(pairs[:, 0, 0], pairs[:, 0, 1], pairs[:, 1, 0], pairs[:, 1, 1])[2].min() / 1000


class PlanTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.imagery = pathlib.Path(directory.name)
    scenery.write(
      self.imagery / "a.tif", np.zeros((1, 4000, 4000), np.float32), GRID, ("red",), sparse_ok=True, tiled=True
    )
    self.seen = scene_folder.scan_folder(self.imagery, roles=("red",)).scenes
    rng = np.random.default_rng(0)
    self.wanted = tuple(
      named(f"p{i:02d}", scenery.blob(GRID, *rng.uniform(100, 3900, 2), rng.uniform(10, 60))) for i in range(60)
    )

  def _plan(self, wanted=None, every=None, seen=None, settings=SETTINGS, **kwargs):
    wanted = self.wanted if wanted is None else wanted
    seen = self.seen if seen is None else seen
    return chip_plan.make_plan(wanted, every or wanted, seen, settings, **{**DEALING, **kwargs})

  @parameterized.parameters(0.0, 30.0)
  def test_chips_of_different_splits_keep_their_distance(self, gsd_m):
    settings = chips.ChipSettings(gsd_m=gsd_m)
    plan = self._plan(settings=settings)
    boxes = {job.id: chips.chip_grid(job.bounds, settings, GRID).lonlat_bounds() for job in plan.jobs}
    self.assertEqual({job.row["split"] for job in plan.jobs}, {"train", "validation", "test"})
    checked = 0
    for a, b in itertools.combinations(plan.jobs, 2):
      if a.row["split"] != b.row["split"]:
        self.assertGreaterEqual(gap_km(boxes[a.id], boxes[b.id]), 1.0)
        checked += 1
    self.assertGreater(checked, 20)

  def test_every_polygon_becomes_a_job_or_is_left_out_with_a_reason(self):
    plan = self._plan()
    self.assertEqual(sorted([j.id for j in plan.jobs] + [o.id for o in plan.left_out]), [p.id for p in self.wanted])
    self.assertNotEmpty(plan.left_out)
    for outcome in plan.left_out:
      ((_, reason),) = outcome.reasons
      self.assertRegex(reason, r"^too near: as near as [\d.]+ km to \S+ p\d\d \(buffer 1 km\)$")
      self.assertEmpty(outcome.hashes)

  def test_a_polygon_without_imagery_takes_no_place_in_a_split(self):
    away = named("q", scenery.blob(GRID, 9000, 9000, 20))
    plan, before = self._plan((*self.wanted, away)), self._plan()
    self.assertEqual(plan.jobs, before.jobs)
    self.assertEqual(
      [(o.id, o.reasons) for o in plan.left_out if o.id == "q"], [("q", (("", "no imagery covers it"),))]
    )

  def test_imagery_that_meets_no_polygon_is_told(self):
    away = named("q", scenery.blob(GRID, 9000, 9000, 20))
    self.assertTrue(self._plan((away,)).none_meets)
    self.assertFalse(self._plan((*self.wanted, away)).none_meets)
    near = (named("site", self.wanted[0].geometry),)
    self.assertFalse(self._plan(self.wanted[:1], keep_away=near).none_meets)  # Imagery was there.

  def test_a_job_carries_all_scenes_that_reach_it(self):
    (scene,) = self.seen
    many = [dataclasses.replace(scene, id=f"s{i}") for i in range(9)]
    self.assertLen(self._plan(self.wanted[:1], seen=many).jobs[0].scenes, 9)

  def test_sites_to_keep_away_from_are_named(self):
    site = named("fine_1", scenery.blob(GRID, 2000, 2000, 30))
    near = named("near", scenery.blob(GRID, 2110, 2000, 20))
    plan = self._plan((*self.wanted, near), keep_away=(site,))
    (left,) = [o for o in plan.left_out if o.id == "near"]
    self.assertRegex(left.reasons[0][1], r"^too near: .*keep_away fine_1 \(buffer 1 km\)$")

  def test_a_job_carries_all_polygons_of_its_window_its_own_first(self):
    own, beside = (named(n, scenery.blob(GRID, c, 2000, 20)) for n, c in (("own", 2000), ("beside", 2035)))
    far = named("far", scenery.blob(GRID, 2400, 2000, 20))
    (job,) = self._plan((own,), every=(beside, far, own)).jobs
    shown = shapely.from_wkb(list(job.geometries))
    self.assertTrue(shown[0].equals(own.geometry) and shown[1].equals(beside.geometry))
    self.assertLen(shown, 2)
    self.assertEqual(job.scenes, tuple(self.seen))

  def test_what_attributes_tell_stands_in_the_row(self):
    geometry = scenery.blob(GRID, 2000, 2000, 20)
    maus = named("m", geometry, ISO3_CODE="CHL", COUNTRY_NAME="Chile", AREA="1")
    (job,) = self._plan((maus,)).jobs
    self.assertEqual((job.row["country"], job.row["iso3"], job.row["mine"]), ("Chile", "CHL", ""))
    self.assertEqual(float(job.row["area_km2"]), maus.area_km2)
    self.assertEqual((job.row["domain"], job.row["sensor"]), ("coarse", "reflectance"))
    np.testing.assert_allclose(
      [float(job.row["lon"]), float(job.row["lat"])], shapely.box(*geometry.bounds).centroid.coords[0], atol=1e-6
    )
    own = named("o", geometry, Mine="Escondida", mine_id="7", commodity="Cu", Climate_Zone="2", country="CL")
    (job,) = self._plan((own,), domain="fine").jobs
    told = [job.row[name] for name in ("mine", "mine_id", "commodity", "climate_zone", "country", "domain")]
    self.assertEqual(told, ["Escondida", "7", "Cu", "2", "CL", "fine"])

  def test_a_scene_whose_file_is_gone_is_left_to_the_quarantine(self):
    (self.imagery / "a.tif").unlink()
    self.assertNotEmpty(self._plan().jobs)

  def test_no_polygon_gives_no_job(self):
    self.assertEqual(self._plan(()), chip_plan.Plan((), ()))

  def test_windows_across_the_180_degree_meridian_stay_small(self):
    box = chip_plan._union([(179.9, -18.0, 180.0, -17.9), (179.95, -18.1, -179.98, -17.95)], 179.96)
    np.testing.assert_allclose(box, (179.9, -18.1, -179.98, -17.9))
    box = chip_plan._union([(-180.0, -18.0, -179.9, -17.9), (179.99, -18.0, -179.9, -17.9)], -179.96)
    np.testing.assert_allclose(box, (179.99, -18.0, -179.9, -17.9))
    place = named("fiji", shapely.box(179.98, -17.0, 179.99, -16.99))
    raster = grids.utm_grid((179.87, -17.13, 180.02, -16.87), gsd_m=10.0)
    scenery.write(
      self.imagery / "b.tif", np.zeros((1, raster.height, raster.width), np.float32), raster, ("red",), sparse_ok=True
    )
    (job,) = self._plan((place,), seen=scene_folder.scan_folder(self.imagery, roles=("red",)).scenes).jobs
    self.assertEqual([scene.id for scene in job.scenes], ["b"])


if __name__ == "__main__":
  absltest.main()
