"""Tests of minec2f_jax.mapping.vectorize: polygons, their areas and attributes, the summary."""

import csv
import json
import pathlib
from unittest import mock

import affine
import geopandas
import numpy as np
import pyogrio
import pyproj
import shapely
from absl.testing import absltest, parameterized

from minec2f_jax.data import grids
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import ground, vectorize
from tests import map_case
from tests.rasters import DATA

GEOD = pyproj.Geod(ellps="WGS84")
MAUS = ["ISO3_CODE", "COUNTRY_NAME", "AREA"]


def read(result, kind="gpkg"):
  (path,) = [path for path in result.files if path.name == f"mines.{kind}"]
  return geopandas.read_parquet(path) if kind == "parquet" else geopandas.read_file(path)


class VectorizeTest(map_case.MapTest):
  def run_on(self, inputs, **kwargs):
    return vectorize.vectorize(inputs, self.root / "out", **{"tile": 16, "formats": ("gpkg",)} | kwargs)

  def refused(self, pattern, *args, **kwargs):
    with self.assertRaisesRegex(UserError, pattern):
      self.run_on(*args, **kwargs)

  @parameterized.parameters(*map_case.PLACES)
  def test_areas_add_up_to_those_of_the_pixels(self, name):
    place, mask = map_case.PLACES[name], map_case.blobs()
    mask[:3, :7] = 255
    result = self.run_on(self.put(mask, place=place))
    frame = read(result)
    expected = map_case.pixel_km2(mask, place)
    self.assertAlmostEqual(frame.AREA.sum() / expected, 1.0, delta=1e-6)
    self.assertEqual(frame.PIXELS.sum(), (mask == 1).sum())
    self.assertTrue(frame.geometry.is_valid.all())
    # Anyone who measures the file's outlines finds what it says; and the pixels' km2 of the summary agree.
    measured = [abs(GEOD.geometry_area_perimeter(shapely.orient_polygons(g))[0]) / 1e6 for g in frame.geometry]
    np.testing.assert_allclose(frame.AREA, measured, rtol=1e-9)
    self.assertIn(f"{(mask == 1).sum()} mine pixels, {expected:.4f} km²", result.notes[0])

  @parameterized.parameters("degrees_60_north", "utm_60_north")
  def test_long_straight_edges_keep_the_area(self, name):
    crs, transform = map_case.PLACES[name]
    place, mask = (crs, transform @ affine.Affine.scale(50)), np.ones((40, 40), np.uint8)  # 11 to 20 km.
    frame = read(self.run_on(self.put(mask, place=place)))
    # Pixels of 250 to 500 m: their edges are followed.
    self.assertAlmostEqual(frame.AREA.sum() / map_case.pixel_km2(mask, place), 1.0, delta=2e-6)

  @parameterized.parameters(-180.0, 0.0, -90.0)
  def test_the_pixels_of_a_globe_are_the_globe(self, west):
    place = ground.Ground(grids.Grid("EPSG:4326", affine.Affine(1, 0, west, 0, -1, 90), 180, 360), "globe")
    halves = [place.km2(np.ones((180, 180), bool), (0, 180), span) for span in ((0, 180), (180, 360))]
    np.testing.assert_allclose(halves, 510_065_621.724 / 2, rtol=1e-9)  # Of the WGS 84 ellipsoid (Karney 2013).

  def test_columns_are_those_of_maus_and_more(self):
    mask = np.zeros((12, 12), np.uint8)
    mask[1:3, 1:4], mask[6:12, 5:9], mask[11, 11] = 1, 1, 255
    probability = np.where(mask == 1, 40000, 100)
    probability[6:9, 5:9] = 60000
    result = self.run_on(self.put(mask, "T19 a", probability=probability), formats=("gpkg", "geojson", "parquet"))
    for kind in ("gpkg", "geojson", "parquet"):
      frame = read(result, kind)
      self.assertEqual(frame.crs.to_epsg(), 4326)
      self.assertEqual([name for name in frame if name in MAUS], MAUS)
      self.assertEqual(frame.PIXELS.tolist(), [24, 6])
      np.testing.assert_allclose(frame.PROB_MEAN, [50000 / 65534, 40000 / 65534])
      self.assertEqual(frame.CUT_OFF.tolist(), [1, 0])
      rest = frame[["SCENE", "SENSOR", "DATE", "MODEL"]].astype(str).iloc[0].tolist()
      self.assertEqual([text[:10] for text in rest], ["T19 a", "sentinel2_", "2021-06-12", "0123456789"])
      self.assertLen(frame.MODEL[0], 12)
      self.assertTrue(frame[["ISO3_CODE", "COUNTRY_NAME"]].isna().all(axis=None))
    with_fid = pyogrio.read_dataframe(self.root / "out" / "mines.gpkg", fid_as_index=True)
    self.assertEqual((with_fid.index.name, with_fid.index.tolist()), ("fid", [1, 2]))
    self.assertEqual(pyogrio.read_info(self.root / "out" / "mines.gpkg")["fid_column"], "FID")
    self.assertEqual(pyogrio.read_info(self.root / "out" / "mines.gpkg")["geometry_name"], "geom")

  def test_any_mask_will_do(self):
    path = map_case.write_tif(self.root / "theirs.tif", map_case.blobs().astype(np.float32), nodata=-9)
    frame = read(self.run_on(path))
    self.assertEqual(set(frame.SCENE), {"theirs"})
    self.assertTrue(frame[["PROB_MEAN", "SENSOR", "DATE", "MODEL"]].isna().all(axis=None))

  def test_the_largest_comes_first_and_the_same_maps_give_the_same_bytes(self):
    maps = [
      self.put(map_case.blobs(seed=i), f"s{i}", place=map_case.PLACES[p]) for i, p in enumerate(["utm_south", "askew"])
    ]
    kinds = ("gpkg", "geojson", "parquet")
    first = {path.name: path.read_bytes() for path in self.run_on(maps, formats=kinds).files}
    again = vectorize.vectorize(maps[::-1], self.root / "again", formats=kinds, tile=7)
    self.assertEqual(set(first), {path.name for path in again.files})
    for path in again.files:
      self.assertEqual(path.read_bytes(), first[path.name], path.name)
    self.assertTrue(read(again).AREA.is_monotonic_decreasing)
    self.assertEqual(sorted(p.name for p in (self.root / "again").iterdir()), sorted(first))

  def test_scenes_that_overlap_are_told(self):
    mask = np.ones((10, 10), np.uint8)
    crs, transform = map_case.UTM
    self.put(mask, "a")
    self.put(mask, "b", place=(crs, transform @ affine.Affine.translation(5, 0)))
    result = self.run_on(self.root / "maps")
    self.assertIn("scenes overlap: 0.0050 km² of mine lies in two of them and counts twice", result.notes)
    self.assertEqual(result.rows[0]["N_FEATURES"], 2)

  def test_small_mines_holes_and_staircases_go_where_asked(self):
    mask = np.zeros((30, 30), np.uint8)
    mask[2:12, 2:12], mask[5, 5], mask[8:10, 8:10], mask[20, 20:22] = 1, 0, 0, 1
    path = self.put(mask)
    self.assertEqual(self.run_on(path).rows[0]["N_FEATURES"], 2)
    result = self.run_on(path, fill_holes_m2=150.0, min_area_m2=250.0)
    frame = read(result)
    self.assertLen(frame.geometry[0].interiors, 1)
    self.assertLen(frame, 1)
    self.assertIn("1 holes were filled: +0.0001 km²", result.notes)
    self.assertIn("1 outlines below the least area were left out: -0.0002 km²", result.notes)
    self.assertAlmostEqual(frame.AREA[0], 0.0096, delta=2e-5)

  def test_simplified_outlines_neither_overlap_nor_cross_and_the_change_is_told(self):
    mask = map_case.blobs(60, seed=3, share=0.5)
    before = read(self.run_on(self.put(mask)))
    result = self.run_on(self.root / "maps", simplify_m=12.0)
    frame = read(result)
    self.assertLen(frame, len(before))
    self.assertTrue(frame.geometry.is_valid.all())
    # In the plane: they share no area.
    self.assertAlmostEqual(
      shapely.area(frame.geometry.array).sum(), shapely.union_all(frame.geometry.array).area, delta=1e-12
    )
    self.assertLess(
      shapely.get_num_coordinates(frame.geometry.array).sum(),
      0.8 * shapely.get_num_coordinates(before.geometry.array).sum(),
    )
    change = frame.AREA.sum() - before.AREA.sum()
    (told,) = [note for note in result.notes if "simplification" in note]
    self.assertIn(f"simplification changed the area by {change:+.4f} km²", told)

  def test_corners_in_which_two_mines_touch_outlive_simplification(self):
    mask = np.zeros((16, 16), np.uint8)
    mask[2:8, 2:8], mask[8:14, 8:14], mask[7, 2], mask[13, 13] = 1, 1, 0, 0
    one, other = read(self.run_on(self.put(mask), simplify_m=9.0)).geometry
    self.assertEqual(one.intersection(other).geom_type, "Point")

  def test_a_mine_across_the_180th_meridian_is_cut_there(self):
    mask = np.ones((20, 60), np.uint8)
    mask[5:8, 5:50] = 0
    for name, place in {
      "utm": ("EPSG:32601", affine.Affine(10, 0, 166021.44 - 300, 0, -10, 1.0e5)),
      "degrees": ("EPSG:4326", affine.Affine(1e-4, 0, 179.997, 0, -1e-4, 65.0)),
      "beyond": ("EPSG:4326", affine.Affine(1e-4, 0, -180.003, 0, -1e-4, 65.0)),
    }.items():
      frame = read(self.run_on(self.put(mask, name, place=place), formats=("gpkg", "geojson")), "geojson")
      (geometry,) = frame.geometry
      self.assertEqual(geometry.geom_type, "MultiPolygon", name)
      west, _, east, _ = geometry.bounds
      self.assertEqual((west, east), (-180.0, 180.0))
      self.assertTrue(all(part.bounds[2] - part.bounds[0] < 0.01 for part in geometry.geoms))
      self.assertAlmostEqual(frame.AREA[0] / map_case.pixel_km2(mask, place), 1.0, delta=1e-5)

  @parameterized.named_parameters(
    ("no_mine", np.zeros((5, 5)), 0),
    ("nothing_valid", np.full((5, 5), 255), 0),
    ("one_pixel", np.ones((1, 1)), 1),
    ("all_mine", np.ones((40, 40)), 1),
  )
  def test_extreme_masks(self, mask, count):
    result = self.run_on(self.put(mask), formats=("gpkg", "geojson", "parquet"))
    for kind in ("gpkg", "geojson", "parquet"):
      frame = read(result, kind)
      self.assertLen(frame, count)
      if kind != "geojson" or count:  # GeoJSON keeps no columns without rows.
        self.assertIn("AREA", frame)
    with open(self.root / "out" / "summary.csv", newline="") as file:
      (row,) = csv.DictReader(file)
    self.assertEqual(row["N_FEATURES"], str(count))

  def test_geojson_follows_rfc_7946(self):
    content = json.loads((self.run_on(self.put(map_case.blobs()), formats=("geojson",)).files[0]).read_text())
    self.assertNotIn("crs", content)
    for feature in content["features"]:
      exterior, *holes = feature["geometry"]["coordinates"]
      self.assertTrue(shapely.LinearRing(exterior).is_ccw)
      self.assertFalse(any(shapely.LinearRing(hole).is_ccw for hole in holes))

  def test_masks_that_cannot_be_used_are_refused_with_a_remedy(self):
    place = map_case.UTM
    put = lambda name, values, place=place, **kw: map_case.write_tif(self.root / f"{name}.tif", values, place, **kw)
    bare = (None, affine.Affine.identity())
    self.refused(
      "no reference system, so nobody can tell.*georeference it", put("bare", np.ones((4, 4), np.uint8), bare)
    )
    self.refused("rows 0:4, columns 0:4: values 2, 7 in a mask", put("odd", np.uint8([[0, 2, 7, 1]] * 4)))
    self.refused("values 0 and 255 without any 1.*declare nodata=255", put("doubt", np.uint8([[0, 255]] * 4)))
    self.refused("nodata=0, a label", put("zero", np.uint8([[0, 1]] * 4), nodata=0))
    self.refused("no such map", self.root / "nowhere")
    (self.root / "empty").mkdir()
    self.refused("no map in it", self.root / "empty")
    site = 'LOCAL_CS["a site",UNIT["metre",1]]'
    self.refused("leads to no place on Earth", put("site", np.ones((4, 4), np.uint8), (site, place[1])))
    far = ("EPSG:3857", affine.Affine(1e6, 0, 0, 0, -1e6, 1e9))
    self.refused("outside of where its reference system|no place on Earth", put("far", np.ones((4, 4), np.uint8), far))

  def test_all_broken_maps_are_named_at_once(self):
    for name in ("a", "b"):
      (self.put(np.ones((4, 4)), name) / "mask.tif").write_bytes(b"no tiff")
    self.put(np.ones((4, 4)), "c")
    self.refused(r"(?s)2 of 3 maps cannot be used.*a/mask.tif.*b/mask.tif", self.root / "maps")

  def test_notes_and_probabilities_that_do_not_fit_are_refused(self):
    path = self.put(np.ones((4, 4)), "a", probability=1000)
    (path / "map.json").write_text("[1]")
    self.refused("map.json: not readable", path)
    path = self.put(np.ones((4, 4)), "b")
    map_case.write_tif(path / "probability.tif", np.ones((4, 5), np.uint16))
    self.refused("4 x 5 pixels, the mask has 4 x 4", path)
    map_case.write_tif(path / "probability.tif", np.ones((4, 4), np.float32))
    self.refused("float32; probabilities are stored as uint8 or uint16", path)

  def test_settings_outputs_and_formats_are_checked(self):
    path = self.put(np.ones((4, 4)))
    self.refused("min_area_m2=-1, simplify_m=nan", path, min_area_m2=-1.0, simplify_m=float("nan"))
    self.refused("format shp: choose among gpkg, geojson, parquet", path, formats=("shp",))
    with mock.patch("importlib.util.find_spec", return_value=None):
      self.refused("pip install pyarrow", path, formats=("parquet",))
    (self.root / "out").write_text("a file")
    self.refused("cannot be made .*choose another output", path)
    (self.root / "out").unlink()
    with mock.patch("os.replace", side_effect=OSError(28, "No space left on device")):
      self.refused("mines.gpkg: cannot be written .*No space left.*make room", path)
    self.assertEqual(list((self.root / "out").iterdir()), [])

  def test_maps_that_are_not_finished_are_refused(self):
    path = self.put(np.ones((4, 4)))
    (path / ".partial").mkdir()
    self.refused("its map is not finished; let the prediction go on", path)

  def test_two_maps_of_one_name_are_refused(self):
    one, other = (self.put(np.ones((4, 4)), "a", folder=self.root / name) for name in ("x", "y"))
    self.refused("several maps are called a", [one, other])


class CountriesTest(map_case.MapTest):
  def setUp(self):
    super().setUp()
    mask = np.zeros((20, 30), np.uint8)
    mask[2:6, 2:6], mask[10:14, 10:18], mask[16:18, 26:28] = 1, 1, 1
    self.path = self.put(mask)
    crs, transform = map_case.UTM
    edge = transform @ (13, 0)  # Five eighths of the second mine lie east of it.
    far = transform @ (25, 0)
    west = shapely.box(edge[0] - 5000, edge[1] - 5000, edge[0], edge[1] + 5000)
    east = shapely.box(edge[0], edge[1] - 5000, far[0], edge[1] + 5000)
    self.frame = geopandas.GeoDataFrame(
      {"ADM0_A3": ["AAA", "BBB"], "NAME": ["Awe", "Bé"]}, geometry=[west, east], crs=crs
    )

  def run_on(self, frame, **kwargs):
    path = self.root / "borders.gpkg"
    path.unlink(missing_ok=True)
    frame.to_file(path)
    return vectorize.vectorize(self.path, self.root / "out", boundaries=path, formats=("gpkg",), **kwargs)

  def test_a_mine_belongs_to_the_country_that_holds_most_of_it(self):
    result = self.run_on(self.frame)
    frame = read(result)
    self.assertEqual(frame.PIXELS.tolist(), [32, 16, 4])
    self.assertEqual(frame.ISO3_CODE.fillna("").tolist(), ["BBB", "AAA", ""])
    self.assertEqual(frame.COUNTRY_NAME.fillna("").tolist(), ["Bé", "Awe", ""])
    self.assertEqual([(r["ISO3_CODE"], r["N_FEATURES"]) for r in result.rows], [("", 1), ("AAA", 1), ("BBB", 1)])
    self.assertIn("1 outlines lie in no country of borders.gpkg", result.notes)
    self.assertIn("1 outlines lie in several countries: each counts, whole, where most of it lies", result.notes)
    table = (self.root / "out" / "summary.md").read_text()
    self.assertIn("|  | all | 0.0052 | 3 | – | 0.0032 |", table)

  def test_boundaries_in_a_wrong_reference_system_are_told(self):
    metres = self.frame.set_crs("EPSG:4326", allow_override=True)
    with self.assertRaisesRegex(UserError, "are no degrees; the file declares another reference system"):
      self.run_on(metres)
    elsewhere = self.frame.set_crs("EPSG:32733", allow_override=True)
    self.assertIn(
      "no outline lies in any country of borders.gpkg: check its reference system, or give another file",
      self.run_on(elsewhere).notes,
    )

  def test_an_empty_map_has_no_countries(self):
    self.path = self.put(np.zeros((4, 4)), "empty")
    (row,) = self.run_on(self.frame).rows
    self.assertEqual((row["COUNTRY_NAME"], row["N_FEATURES"]), ("all", 0))

  def test_boundaries_without_countries_are_refused(self):
    with self.assertRaisesRegex(UserError, "no column tells countries.*name them ISO3_CODE and COUNTRY_NAME"):
      self.run_on(self.frame.rename(columns={"ADM0_A3": "x", "NAME": "y"}))
    with self.assertRaisesRegex(UserError, "no areas of countries"):
      self.run_on(self.frame.set_geometry(self.frame.centroid))
    with self.assertRaisesRegex(UserError, "no such file"):
      vectorize.vectorize(self.path, self.root / "out", boundaries=self.root / "none.gpkg")


class RealMinesTest(map_case.MapTest):
  def test_mines_of_chile_keep_the_areas_that_maus_et_al_state(self):
    path = pathlib.Path(DATA) / "polygons" / "chile_maus_sites.geojson"
    if not path.exists():
      self.skipTest("MINEC2F_DATA has no polygons/")
    frame = geopandas.read_file(path)
    chosen = frame[frame.AREA.between(2, 30)].sort_values("AREA").iloc[::8]
    for i, (_, row) in enumerate(chosen.iterrows()):
      grid = grids.utm_grid(row.geometry.buffer(0.001).bounds, gsd_m=10.0)
      self.put(grids.rasterize([row.geometry], grid), f"m{i:02d}", place=(grid.crs, grid.transform))
    result = vectorize.vectorize(self.root / "maps", self.root / "out", formats=("gpkg",))
    found = read(result).groupby("SCENE").AREA.sum().sort_index()
    self.assertGreater(len(found), 5)
    # Pixels of 10 m take half a pixel of the outline, either way.
    np.testing.assert_allclose(found, chosen.AREA, rtol=0.005)
    np.testing.assert_allclose(found.sum(), chosen.AREA.sum(), rtol=0.001)


if __name__ == "__main__":
  absltest.main()
