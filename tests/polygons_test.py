"""Tests of minec2f_jax.data.polygons."""

import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest
import warnings

import geopandas
import hypothesis
import numpy as np
import pyproj
import shapely
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from minec2f_jax.data import polygons
from tests.rasters import DATA

ROOT = pathlib.Path(__file__).resolve().parent.parent
SQUARE = [(0, 0), (0, 1), (1, 1), (1, 0)]
RING = shapely.box(-60, -10, -59, -9) - shapely.box(-59.7, -9.7, -59.4, -9.4)
PAIR = shapely.MultiPolygon([shapely.box(20, 50, 20.1, 50.1), shapely.box(20.2, 50.2, 20.3, 50.3)])
# Eight decimals and a lone part: what the formats would each write in their own way.
OUTLINES = (
  RING,
  PAIR,
  shapely.Polygon([(7.12345675, 1), (7.2, 1.33333333333), (7.05, 1.2)]),
  shapely.Point(30, -3).buffer(0.01),
)
COUNTRIES = ("BRA", "POL", "NGA", "COD")
# The files at hand: name, layer, records, what the notes must say.
FILES = (
  # Ten cross themselves as stored; an eleventh has a neck of less than 1 cm.
  ("chile_fine_sectors.geojson", None, 1204, {"invalid rings, mended": 11}),
  ("chile_maus_sites.geojson", None, 227, {}),
  ("mining_polygons_100.gpkg", None, 100, {}),
  ("maus_and_tang_tiles.gpkg", "tiles", 202, {"same outline as another row, dropped": 2}),
  (
    "maus_and_tang_tiles.gpkg",
    "maus_polygons",
    202,
    {"null or empty geometry, dropped": 56, "same outline as another row, dropped": 2},
  ),
  (
    "maus_and_tang_tiles.gpkg",
    "tang_polygons",
    202,
    {"null or empty geometry, dropped": 98, "same outline as another row, dropped": 2},
  ),
)


def planar_area_km2(geometry):
  """Area in a Lambert azimuthal equal-area projection about the geometry's centre, edges densified."""
  lon, lat = geometry.centroid.coords[0]
  project = pyproj.Proj(proj="laea", lon_0=lon, lat_0=lat, ellps="WGS84")
  dense = shapely.segmentize(geometry, 0.005)
  return shapely.transform(dense, lambda xy: np.stack(project(*xy.T), axis=-1)).area / 1e6


class PolygonsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _write(self, name, geometries, crs="EPSG:4326", **columns):
    frame = geopandas.GeoDataFrame(columns, geometry=list(geometries), crs=crs)
    path = self.folder / name
    with warnings.catch_warnings(action="ignore"):  # That a file has no CRS is what a test wants.
      frame.to_parquet(path) if "parquet" in name else frame.to_file(path)
    return path

  def _read(self, geometries, crs="EPSG:4326", **columns):
    return polygons.read_polygons(self._write("file.parquet", geometries, crs, **columns))

  def _assert_refused(self, message, path, **kwargs):
    with self.assertRaisesRegex(polygons.PolygonError, message) as caught:
      polygons.read_polygons(path, **kwargs)
    self.assertStartsWith(str(caught.exception), str(path))


class IdTest(PolygonsTest):
  def test_an_id_is_country_and_hash_of_the_rounded_outline(self):
    # WKB by hand: little endian, polygon, one ring of five points, clockwise from the lower left.
    ring = [(-0.5, 0.25), (-0.5, 1.0), (1.1234568, 1.0), (1.1234568, 0.25), (-0.5, 0.25)]
    wkb = struct.pack("<BIII10d", 1, 3, 1, 5, *np.ravel(ring))
    read = self._read([shapely.box(-0.5, 0.25, 1.12345678, 1)], ISO3_CODE=["CHL"])
    self.assertEqual(read.polygons[0].id, f"CHL_{hashlib.sha256(wkb).hexdigest()[:12]}")
    self.assertEqual(shapely.to_wkb(read.polygons[0].geometry, byte_order=1), wkb)

  @parameterized.parameters("a.gpkg", "a.geojson", "a.parquet", "a.geoparquet", "a.shp", "a.fgb")
  def test_format_and_row_order_change_nothing(self, name):
    expected = self._read(OUTLINES, ISO3_CODE=COUNTRIES).polygons
    order = [2, 0, 3, 1]
    path = self._write(name, [OUTLINES[i] for i in order], ISO3_CODE=[COUNTRIES[i] for i in order])
    self.assertEqual(polygons.read_polygons(path), (expected, {}))
    self.assertEqual([p.id[:3] for p in expected], ["BRA", "COD", "NGA", "POL"])
    self.assertEqual(expected[0].geometry.geom_type, "Polygon")  # Though a GeoPackage makes it a MultiPolygon.

  @hypothesis.settings(deadline=None, max_examples=25)
  @hypothesis.given(st.randoms(use_true_random=False))
  def test_start_sense_and_order_of_rings_change_nothing(self, random):
    def turned(ring):
      points = list(ring.coords)[:-1]
      start = random.randrange(len(points))
      return (points[start:] + points[:start])[:: random.choice([1, -1])]

    def shuffled(geometry):
      parts = [
        shapely.Polygon(turned(p.exterior), random.sample(holes := [turned(h) for h in p.interiors], len(holes)))
        for p in shapely.get_parts(geometry)
      ]
      return shapely.MultiPolygon(random.sample(parts, len(parts)))

    read = self._read([g for outline in OUTLINES for g in (outline, shuffled(outline), shuffled(outline))])
    self.assertLen(read.polygons, len(OUTLINES))
    self.assertEqual(read.notes, {"same outline as another row, dropped": 2 * len(OUTLINES)})

  def test_noise_below_a_centimetre_changes_nothing(self):
    noisy = shapely.transform(RING, lambda xy: xy + 4e-8 * np.sin(1e3 * xy))
    self.assertEqual(self._read([noisy]).polygons, self._read([RING]).polygons)

  def test_points_that_rounding_joins_leave_one_way_to_start_a_ring(self):
    points = [(-1e-9, 0), (1e-9, 1e-9), (0, 1), (1, 1), (1, 0)]  # The first two are one corner.
    rings = [shapely.Polygon(points[start:] + points[:start]) for start in range(5)]
    read = self._read([*rings, shapely.Polygon(SQUARE), shapely.box(-0.0, -0.0, 1, 1)])
    self.assertLen(read.polygons, 1)
    self.assertEqual(read.polygons[0].geometry.wkb, shapely.normalize(shapely.Polygon(SQUARE)).wkb)

  @parameterized.parameters("", "chl ", "C1L")
  def test_without_a_country_code_the_id_says_so(self, code):
    self.assertStartsWith(self._read([RING], ISO3_CODE=[code]).polygons[0].id, "XXX_")
    self.assertStartsWith(self._read([RING], iso3_code=["chl"]).polygons[0].id, "CHL_")

  def test_a_column_can_give_the_ids(self):
    path = self._write("a.geojson", OUTLINES, site=[30, 4, 100, 2])
    read = polygons.read_polygons(path, id_column="site").polygons
    self.assertEqual([p.id for p in read], ["100", "2", "30", "4"])
    self.assertTrue(read[2].geometry.equals(RING))

  def test_unusable_ids_are_refused_with_their_rows(self):
    path = self._write("a.geojson", OUTLINES, site=["../a", "b", "b", ""])
    self._assert_refused(
      r"(?s)3 of 4 rows have an unusable id.*id_column:\n  row 1: id '../a' must.*\n  row 3: id 'b' stands in row 2 "
      r"already.*\n  row 4: id '' must",
      path,
      id_column="site",
    )
    self._assert_refused(r"no column 'name'.*\['site'\]", path, id_column="name")

  def test_one_outline_under_two_names_keeps_the_first_name(self):
    path = self._write("a.gpkg", [RING, PAIR, RING], site=["z", "y", "b"])
    read = polygons.read_polygons(path, id_column="site")
    self.assertEqual([p.id for p in read.polygons], ["b", "y"])
    self.assertEqual(read.notes, {"same outline as another row, dropped": 1})


class ReadTest(PolygonsTest):
  def test_attributes_are_text_and_missing_ones_empty(self):
    read = self._read([RING, PAIR], COUNTRY_NAME=["Brazil", None], AREA=[1.5, np.nan], n=[3, 4]).polygons
    self.assertCountEqual(
      [dict(p.attributes) for p in read],
      [{"COUNTRY_NAME": "Brazil", "AREA": "1.5", "n": "3"}, {"COUNTRY_NAME": "", "AREA": "", "n": "4"}],
    )

  @parameterized.parameters("EPSG:32721", "ESRI:54009", "EPSG:4258", "OGC:CRS84")
  def test_any_crs_becomes_longitude_and_latitude(self, crs):
    to_crs = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    projected = shapely.transform(RING, lambda xy: np.stack(to_crs.transform(*xy.T), axis=-1))
    polygon = self._read([projected], crs).polygons[0]
    np.testing.assert_allclose(
      shapely.get_coordinates(polygon.geometry), shapely.get_coordinates(shapely.normalize(RING)), atol=2e-7
    )

  def test_heights_are_dropped(self):
    solid = shapely.force_3d(RING, 250.0)
    self.assertEqual(self._read([solid]).polygons, self._read([RING]).polygons)

  def test_null_and_empty_geometries_are_dropped_and_counted(self):
    read = self._read([RING, None, shapely.Polygon()])
    self.assertLen(read.polygons, 1)
    self.assertEqual(read.notes, {"null or empty geometry, dropped": 2})

  def test_a_bow_tie_keeps_both_wings_and_overlapping_parts_their_union(self):
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    overlapping = shapely.MultiPolygon([shapely.box(10, 0, 12, 2), shapely.box(11, 0, 13, 2)])
    read = self._read([bow_tie, overlapping])
    self.assertEqual(read.notes, {"invalid rings, mended": 2})
    self.assertCountEqual(
      [(p.geometry.geom_type, p.geometry.area) for p in read.polygons], [("MultiPolygon", 2.0), ("Polygon", 6.0)]
    )

  def test_a_spike_is_cut_and_what_has_no_area_is_dropped(self):
    spiked = shapely.Polygon([(0, 0), (1, 0), (1, 1), (1, 5), (1, 1), (0, 1)])
    hair = shapely.Polygon([(5, 5), (6, 6), (7, 7)])
    speck = shapely.Polygon([(8, 8), (8 + 1e-9, 8), (8, 8 + 1e-9)])
    pin_hole = shapely.Polygon(
      shapely.box(3, 0, 4, 1).exterior, [shapely.box(3.5, 0.5, 3.5 + 1e-9, 0.5 + 1e-9).exterior]
    )
    read = self._read([spiked, hair, speck, pin_hole])
    self.assertEqual(read.notes, {"invalid rings, mended": 2, "no area, dropped": 2})
    self.assertCountEqual([p.geometry.bounds for p in read.polygons], [(0, 0, 1, 1), (3, 0, 4, 1)])

  @hypothesis.settings(deadline=None, max_examples=45)
  @hypothesis.given(st.integers(0, 2**32 - 1), st.integers(3, 12))
  def test_every_outline_leaves_valid_flat_and_rounded(self, seed, size):
    rng = np.random.default_rng(seed)
    scale = rng.choice([1e-6, 1e-3, 1.0], 6)[:, None, None]
    rings = rng.normal(0, 1, (6, size, 2)) * scale + rng.uniform(-60, 60, (6, 1, 2))
    for polygon in self._read([shapely.Polygon(ring) for ring in rings]).polygons:
      self.assertTrue(polygon.geometry.is_valid)
      self.assertIn(polygon.geometry.geom_type, ("Polygon", "MultiPolygon"))
      self.assertFalse(polygon.geometry.has_z)
      lonlat = shapely.get_coordinates(polygon.geometry)
      np.testing.assert_array_equal(lonlat, np.round(lonlat, 7))
      self.assertEqual(polygon.geometry.wkb, shapely.normalize(polygon.geometry).wkb)

  def test_a_layer_is_chosen_by_name(self):
    path = self.folder / "two.gpkg"
    for layer, outline in (("coarse", RING), ("fine", PAIR)):
      geopandas.GeoDataFrame(geometry=[outline], crs="EPSG:4326").to_file(path, layer=layer)
    self._assert_refused(r"2 layers; name one of \['coarse', 'fine'\]", path)
    self._assert_refused(r"no layer 'fin'; name one of \['coarse', 'fine'\]", path, layer="fin")
    self.assertEqual(polygons.read_polygons(path, layer="fine").polygons, self._read([PAIR]).polygons)
    self._assert_refused("GeoParquet has no layers", self._write("a.parquet", [RING]), layer="fine")

  def test_an_empty_file_holds_no_polygon(self):
    self.assertEqual(polygons.read_polygons(self._write("a.parquet", [], n=[])), ((), {}))

  @parameterized.parameters("a.gpkg", "a.shp", "a.parquet")
  def test_without_a_reference_system_a_file_is_refused(self, name):
    self._assert_refused("no coordinate reference system.*set_crs", self._write(name, [RING], crs=None))

  def test_what_is_no_vector_file_is_refused(self):
    self._assert_refused("no such file", self.folder / "absent.gpkg")
    for name in ("a.gpkg", "a.parquet", "a.txt"):
      (self.folder / name).write_bytes(b"PAR1 nothing of the kind")
      self._assert_refused("not readable as polygons.*write the file again", self.folder / name)
    (self.folder / "a.csv").write_text("id,name\n1,a\n")
    self._assert_refused("no layer with geometries", self.folder / "a.csv")

  def test_every_unusable_row_is_named(self):
    geometries = [RING, shapely.Point(0, 0), shapely.LineString([(0, 0), (1, 1)]), shapely.box(10, 95, 11, 96)]
    geometries += [shapely.box(200, 0, 201, 1), shapely.box(-179.9, -17, 179.9, -16), shapely.box(0, 100, 100, 101)]
    self._assert_refused(
      r"(?s)6 of 7 rows hold no usable polygon:\n  row 2: a Point, not a polygon.*\n  row 3: a LineString.*"
      r"\n  row 4: longitude 10..11, latitude 95..96: latitude and longitude look swapped.*"
      r"\n  row 5: longitude 200..201, .*outside -180..180.*\n  row 6: .*crosses the 180 degree.*\n  ... and 1 more$",
      self._write("a.geojson", geometries),
    )

  def test_coordinates_that_no_place_has_are_refused(self):
    for geometry, crs in (
      (shapely.box(0, 0, 9e9, 9e9), "EPSG:32719"),
      (shapely.Polygon([(0, 0), (1, 1), (np.nan, 1)]), "EPSG:4326"),
    ):
      path = self._write("a.parquet", [geometry], crs)
      self._assert_refused("row 1: coordinates that are no numbers", path)

  def test_an_edge_on_the_180th_meridian_survives_its_projection(self):
    edge_m = 6378137 * np.pi  # Half the equator, in EPSG:3857.
    read = self._read([shapely.box(edge_m - 1000, -2000, edge_m, 0)], "EPSG:3857")
    self.assertEqual(read.polygons[0].geometry.bounds[2], 180.0)

  def test_the_module_loads_without_geopandas(self):
    code = (
      "import sys, minec2f_jax.data.polygons; "
      "print(*[m for m in ('geopandas', 'pandas', 'pyarrow', 'jax') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    self.assertEqual(result.stdout.strip(), "")


class AreaTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, 0, 1, 1), (-70, -25, -69.5, -24.8), (25, 65, 27, 66), (0, 89, 10, 90), (179, -1, 180, 1)
  )
  def test_a_cell_of_the_graticule_has_its_closed_form(self, west, south, east, north):
    # Snyder 1987, USGS 1395, eq. 3-12: area = a**2 / 2 * width * (q(north) - q(south)).
    a_km, e = 6378.137, np.sqrt(6.69437999014e-3)
    sine = np.sin(np.radians([south, north]))
    q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))
    cell = shapely.segmentize(shapely.box(west, south, east, north), 0.001)  # Parallels are no geodesics.
    np.testing.assert_allclose(
      polygons.geodesic_area_km2(cell), a_km**2 / 2 * np.radians(east - west) * np.diff(q).item(), rtol=1e-6
    )

  @parameterized.parameters(False, True)
  def test_holes_and_parts_count_whatever_their_sense(self, reverse):
    outer, inner = shapely.box(0, 0, 3, 3), shapely.box(1, 1, 2, 2)
    area = polygons.geodesic_area_km2
    for hole in (inner.exterior.coords, inner.exterior.coords[::-1]):
      shape = shapely.Polygon(outer.exterior.coords[:: -1 if reverse else 1], [hole])
      np.testing.assert_allclose(area(shape), area(outer) - area(inner), rtol=1e-12)
    far = shapely.box(50, 10, 51, 11)
    both = shapely.MultiPolygon([far.reverse() if reverse else far, outer])
    np.testing.assert_allclose(area(both), area(far) + area(outer), rtol=1e-12)

  def test_the_filter_keeps_its_bounds_exactly(self):
    found = [polygons.Polygon(str(a), RING, a, {}) for a in (12.0, 9.8, np.nextafter(9.8, 0), 9.9)]
    self.assertEqual([p.area_km2 for p in polygons.filter_by_area(found, min_km2=9.8)], [12.0, 9.8, 9.9])
    self.assertEqual([p.area_km2 for p in polygons.filter_by_area(found, min_km2=9.8, max_km2=9.9)], [9.8, 9.9])
    self.assertLen(polygons.filter_by_area(found), 4)
    for bounds in ({"min_km2": -1}, {"min_km2": 2, "max_km2": 1}, {"min_km2": float("nan")}):
      with self.assertRaisesRegex(polygons.PolygonError, "min_km2="):
        polygons.filter_by_area(found, **bounds)


class NeighboursTest(parameterized.TestCase):
  def test_each_box_sees_what_it_touches_and_no_more(self):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-170, 160, (200, 2)) * (1, 0.5)
    found = [
      polygons.Polygon(f"{i}", shapely.box(*c, *(c + rng.uniform(1, 9, 2))), 1.0, {}) for i, c in enumerate(corners)
    ]
    boxes = [(*c, *(c + 8)) for c in rng.uniform(-170, 160, (40, 2)) * (1, 0.5)]
    expected = tuple(tuple(p for p in found if p.geometry.intersects(shapely.box(*box))) for box in boxes)
    self.assertEqual(polygons.neighbours(found, boxes), expected)
    self.assertGreater(sum(map(len, expected)), 20)

  def test_a_box_across_the_180th_meridian_sees_both_sides(self):
    found = [polygons.Polygon(str(lon), shapely.box(lon, 0, lon + 0.1, 1), 1.0, {}) for lon in (-180, -170, 0, 179.5)]
    seen = polygons.neighbours(found, [(179, 0, -179, 1)])
    self.assertEqual([p.id for p in seen[0]], ["-180", "179.5"])

  def test_the_extent_is_the_box_around_all(self):
    boxes = [(10, -3, 11, -1), (-5, 2, -4, 7.5), (0, 0, 1, 1)]
    found = [polygons.Polygon(f"{i}", shapely.box(*box), 1.0, {}) for i, box in enumerate(boxes)]
    self.assertEqual(polygons.extent(found), (-5.0, -3.0, 11.0, 7.5))
    with self.assertRaisesRegex(polygons.PolygonError, "no polygon, so no extent"):
      polygons.extent([])

  def test_no_polygons_and_no_boxes_are_no_neighbours(self):
    found = [polygons.Polygon("a", RING, 1.0, {})]
    self.assertEqual(polygons.neighbours([], [(0, 0, 1, 1)]), ((),))
    self.assertEqual(polygons.neighbours(found, []), ())


@unittest.skipUnless((DATA / "polygons").is_dir(), "MINEC2F_DATA has no polygons/")
class RealFilesTest(parameterized.TestCase):
  @parameterized.parameters(*FILES)
  def test_records_areas_and_notes(self, name, layer, records, notes):
    read = polygons.read_polygons(DATA / "polygons" / name, layer=layer)
    self.assertEqual(read.notes, notes)
    self.assertLen(read.polygons, records - sum(n for why, n in notes.items() if "dropped" in why))
    self.assertLen({p.id for p in read.polygons}, len(read.polygons))
    self.assertEqual([p.id for p in read.polygons], sorted(p.id for p in read.polygons))
    for polygon in read.polygons:
      self.assertTrue(polygon.geometry.is_valid)
      np.testing.assert_allclose(polygon.area_km2, planar_area_km2(polygon.geometry), rtol=1e-3)
    large = polygons.filter_by_area(read.polygons, min_km2=9.8)
    self.assertEqual(large, tuple(p for p in read.polygons if p.area_km2 >= 9.8))

  def test_areas_agree_with_the_published_column(self):
    for polygon in polygons.read_polygons(DATA / "polygons" / "chile_maus_sites.geojson").polygons:
      np.testing.assert_allclose(polygon.area_km2, float(polygon.attributes["AREA"]), rtol=0.01)

  def test_ids_follow_the_raw_file(self):
    path = DATA / "polygons" / "chile_maus_sites.geojson"
    ids = set()
    for feature in json.loads(path.read_text())["features"]:
      outline = shapely.normalize(
        shapely.Polygon(
          np.round(feature["geometry"]["coordinates"][0], 7),
          [np.round(hole, 7) for hole in feature["geometry"]["coordinates"][1:]],
        )
      )
      ids.add(f"CHL_{hashlib.sha256(outline.wkb).hexdigest()[:12]}")
    self.assertEqual({p.id for p in polygons.read_polygons(path).polygons}, ids)


if __name__ == "__main__":
  absltest.main()
