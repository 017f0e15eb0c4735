"""Tests of minec2f_jax.mapping.change."""

import csv

import affine
import geopandas
import numpy as np
import shapely
from absl.testing import absltest, parameterized
from scipy import ndimage

from minec2f_jax.errors import UserError
from minec2f_jax.mapping import vectorize
from tests import map_case

KINDS = ("appeared", "vanished", "kept")


class ChangeTest(map_case.MapTest):
  def compare(self, new, old, **kwargs):
    result = vectorize.vectorize(new, self.root / "out", compare=old, formats=("gpkg",), **{"tile": 11} | kwargs)
    frame = geopandas.read_file(self.root / "out" / "change.gpkg")
    notes = (self.root / "out" / "change.md").read_text()
    return {row["CHANGE"]: row for row in result.change}, frame, notes

  def pair(self, **kwargs):
    """Two masks, with some pixels not valid in either, and their folders."""
    new, old = map_case.blobs(seed=1), map_case.blobs(seed=2)
    new[:4, :9], old[30:, 35:] = 255, 255
    return (
      new,
      old,
      self.put(new, "new", **kwargs),
      self.put(old, "old", date="2017-01-02", folder=self.root / "before", **kwargs),
    )

  @parameterized.parameters("utm_south", "degrees_60_north", "askew", "south_up")
  def test_masks_on_one_grid_are_compared_pixel_by_pixel_where_both_are_valid(self, name):
    place = map_case.PLACES[name]
    new, old, new_path, old_path = self.pair(place=place)
    rows, frame, notes = self.compare(new_path, old_path)
    both = (new != 255) & (old != 255)
    masks = dict(zip(KINDS, ((new == 1) & (old != 1), (new != 1) & (old == 1), (new == 1) & (old == 1))))
    for kind, mask in masks.items():
      mask = mask & both
      self.assertEqual(rows[kind]["PIXELS"], mask.sum())
      self.assertEqual(rows[kind]["N_FEATURES"], ndimage.label(mask)[1])
      self.assertAlmostEqual(rows[kind]["AREA"], map_case.pixel_km2(mask, place), delta=1e-7)
      self.assertAlmostEqual(frame[frame.CHANGE == kind].AREA.sum(), rows[kind]["AREA"], delta=1e-7)
    self.assertIn("pixel by pixel", notes)
    self.assertIn("valid in the new map alone", notes)
    self.assertEqual(set(frame.DATE_OLD + frame.DATE_NEW), {"2017-01-022021-06-12"})

  def test_of_shifted_grids_only_what_both_cover_is_compared(self):
    crs, transform = map_case.UTM
    old = self.put(
      np.ones((10, 10)), "old", place=(crs, transform @ affine.Affine.translation(-3, 4)), folder=self.root
    )
    new = self.put(np.pad(np.ones((5, 5)), ((0, 7), (0, 7))), "new")
    rows, _, notes = self.compare(new, old)
    self.assertEqual([rows[kind]["PIXELS"] for kind in KINDS], [0, 7 * 8 - 5, 5])
    self.assertIn("grids differ: 12 x 12 pixels of 10 m, before 10 x 10 pixels of 10 m; only what both cover", notes)

  def test_other_grids_are_compared_by_geometry(self):
    crs, transform = map_case.UTM
    coarse = np.zeros((12, 12), np.uint8)
    coarse[2:8, 2:8], coarse[10:] = 1, 255
    fine = np.zeros((48, 48), np.uint8)
    fine[16:40, 16:40] = 1
    old = self.put(coarse, "old", place=(crs, transform @ affine.Affine.scale(4)), folder=self.root)
    rows, frame, notes = self.compare(self.put(fine, "new"), old)
    # In pixels of 10 m, rows from 40 on are not valid in the old map: kept 16 x 16, appeared 24 x 24 less that.
    hectares = {"kept": 2.56, "appeared": 5.76 - 2.56, "vanished": 5.76 - 2.56}
    for kind, area in hectares.items():
      self.assertAlmostEqual(rows[kind]["AREA"] / area * 100, 1.0, delta=2e-3)
      self.assertIsNone(rows[kind]["PIXELS"])
    self.assertIn("compared by geometry: slivers", notes)
    self.assertIn("different grids", notes)
    with open(self.root / "out" / "change.csv", newline="") as file:
      self.assertEqual([row["PIXELS"] for row in csv.DictReader(file)], ["", "", ""])
    self.assertTrue(frame.geometry.is_valid.all())

  def test_outlines_of_others_are_compared_by_geometry(self):
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15], mask[15:] = 1, 255
    new = self.put(mask)
    crs, transform = map_case.UTM
    corners = [transform @ corner for corner in ((5, 10), (15, 10), (15, 20), (5, 20))]
    path = self.root / "old outlines.geojson"
    geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=crs).to_crs("EPSG:4326").to_file(path)
    rows, _, notes = self.compare(new, path)
    # The lower half of the old outline lies where the new map is not valid: it has not vanished.
    np.testing.assert_allclose([rows[kind]["AREA"] for kind in KINDS], [0.005, 0.0, 0.005], rtol=2e-3, atol=1e-6)
    self.assertIn("what the earlier outlines cover is taken as seen everywhere", notes)

  def test_the_same_map_shows_no_change(self):
    path = self.put(map_case.blobs())
    rows, frame, _ = self.compare(path, path)
    self.assertEqual([rows[kind]["N_FEATURES"] > 0 for kind in KINDS], [False, False, True])
    self.assertEqual(set(frame.CHANGE), {"kept"})

  def test_maps_of_several_scenes_find_their_partners_by_name(self):
    for folder, names in (("new", "ab"), ("old", "abc")):
      for i, name in enumerate(names):
        mask = np.zeros((6, 6), np.uint8)
        mask[:, : 2 + i + (folder == "new")] = 1
        self.put(mask, name, folder=self.root / folder)
    rows, frame, _ = self.compare(self.root / "new", self.root / "old")
    self.assertEqual([rows[kind]["PIXELS"] for kind in KINDS], [12, 0, 30])
    self.assertEqual(frame.SCENE.tolist(), ["a", "b", "b", "a"])
    with self.assertRaisesRegex(
      UserError, "no earlier map of c .there are a, b.; name the folders of maps of one place alike"
    ):
      self.compare(self.root / "old", self.root / "new")

  def test_maps_of_other_models_are_told(self):
    path = self.put(map_case.blobs(), threshold=0.5)
    old = self.put(map_case.blobs(), threshold=0.4, model_sha256="f" * 64, folder=self.root)
    _, _, notes = self.compare(path, old)
    self.assertIn(
      "scene: model_sha256 differs (0123456789ab, before ffffffffffff): some of the change is the maps' own", notes
    )
    self.assertIn("threshold differs (0.5, before 0.4)", notes)

  @parameterized.parameters((400, 0), (0.5, 700))
  def test_maps_of_two_places_are_refused(self, column, row):
    crs, transform = map_case.UTM
    new = self.put(np.ones((5, 5)))
    old = self.put(np.ones((5, 5)), place=(crs, transform @ affine.Affine.translation(column, row)), folder=self.root)
    with self.assertRaisesRegex(UserError, "shows no ground that .* shows; compare maps of one place"):
      self.compare(new, old)

  def test_a_partner_that_is_not_there_is_told_before_the_work(self):
    with self.assertRaisesRegex(UserError, "no such"):
      self.compare(self.put(np.ones((5, 5))), self.root / "nowhere.gpkg")
    self.assertFalse((self.root / "out").exists())


if __name__ == "__main__":
  absltest.main()
