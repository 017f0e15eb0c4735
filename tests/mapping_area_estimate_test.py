"""Tests of minec2f_jax.mapping: stratified estimates, reference points, the area estimate, the sample designer."""

import csv
import json

import geopandas
import numpy as np
import pyproj
import shapely
from absl.testing import absltest, parameterized

from minec2f_jax.errors import UserError
from minec2f_jax.mapping import area_estimate, sample, stratified
from tests import map_case

# Olofsson et al. 2014, Sec. 5: deforestation, forest gain, stable forest, stable non-forest. Table 8, and the mapped
# areas in hectares (pixels of 30 m).
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09


class StratifiedTest(parameterized.TestCase):
  def test_the_worked_example_of_olofsson_et_al(self):
    found = stratified.estimate(COUNTS, MAPPED)
    interval = lambda errors: 1.96 * np.asarray(errors)
    # As printed there (Table 9 and Sec. 5.2), +- 95 %.
    np.testing.assert_allclose(found.area, [21_158, 11_686, 285_770, 581_386], atol=1.0)
    np.testing.assert_allclose(interval(found.area_se), [6_158, 3_756, 15_510, 16_282], atol=1.0)
    np.testing.assert_allclose(found.users, [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(interval(found.users_se), [0.07, 0.10, 0.04, 0.02], atol=0.005)
    np.testing.assert_allclose(found.producers, [0.75, 0.85, 0.93, 0.96], atol=0.005)
    # By hand for forest gain, Eq. 7, whose every number stands in Table 8.
    share, producers = 0.015 * 55 / 75 + 0.645 / 325, (0.015 * 55 / 75) / (0.015 * 55 / 75 + 0.645 / 325)
    own = 0.015**2 * (1 - producers) ** 2 * 55 / 75 * 20 / 75 / 74
    others = producers**2 * 0.645**2 * 1 / 325 * 324 / 325 / 324
    self.assertAlmostEqual(found.producers_se[1], (own + others) ** 0.5 / share, delta=1e-12)
    self.assertAlmostEqual(found.overall, 0.95, delta=0.005)
    self.assertAlmostEqual(1.96 * found.overall_se, 0.02, delta=0.005)
    # By hand: 0.02 x 66/75 + 0.32 x 1/165 + 0.645 x 2/325.
    self.assertAlmostEqual(found.share[0], 0.0176 + 0.32 / 165 + 1.29 / 325, delta=1e-12)
    self.assertAlmostEqual(found.proportions.sum(), 1.0, delta=1e-12)

  def test_the_sample_size_of_the_same_example(self):
    # Sec. 5.1.1: user's accuracies 0.70, 0.60, 0.90, 0.95 and a standard error of 0.01 give 641.
    self.assertEqual(stratified.sample_size(MAPPED, [0.7, 0.6, 0.9, 0.95], overall_se=0.01), 641)

  def test_rare_classes_get_their_least_and_the_rest_goes_by_area(self):
    self.assertEqual(stratified.allocate(640, MAPPED, least=75), [75, 75, 162, 328])
    self.assertEqual(stratified.allocate(10, [1.0, 1.0], least=50), [50, 50])

  def test_variances_are_those_of_resampling(self):
    weights, rates, sizes = np.array([0.1, 0.9]), np.array([0.8, 0.1]), np.array([200, 400])
    rng = np.random.default_rng(3)
    drawn = rng.binomial(sizes, rates, (3000, 2))
    found = [stratified.estimate(np.column_stack([sizes - k, k])[::-1] * [[1, 1]], weights[::-1]) for k in drawn]
    truth = float((weights * rates).sum())
    shares = np.array([f.share[1] for f in found])
    errors = np.array([f.share_se[1] for f in found])
    self.assertAlmostEqual(shares.mean(), truth, delta=4 * shares.std() / 3000**0.5)
    self.assertAlmostEqual(np.mean(errors**2) / shares.var(), 1.0, delta=0.1)
    covered = np.mean(np.abs(shares - truth) <= stratified.Z * errors)
    self.assertAlmostEqual(covered, 0.95, delta=3 * (0.95 * 0.05 / 3000) ** 0.5 + 0.005)  # The normal interval is one.
    # Row 0 is "not mine" (90 %), row 1 "mine": producer's accuracy is a ratio, its error holds to first order.
    producers = np.array([f.producers[1] for f in found])
    self.assertAlmostEqual(np.mean([f.producers_se[1] for f in found]) / producers.std(), 1.0, delta=0.1)

  def test_a_class_that_is_nowhere_has_no_producers_accuracy(self):
    found = stratified.estimate([[50, 0], [50, 0]], [9.0, 1.0])
    self.assertTrue(np.isnan(found.producers[1]) and np.isnan(found.producers_se[1]))
    self.assertEqual((found.area[1], found.area_se[1], found.users[1]), (0.0, 0.0, 0.0))


class EstimateTest(map_case.MapTest):
  """A map of 40 x 40 pixels whose left 10 columns are mine; the lowest 4 rows are not valid."""

  def setUp(self):
    super().setUp()
    self.mask = np.zeros((40, 40), np.uint8)
    self.mask[:, :10], self.mask[36:] = 1, 255

  def lonlat(self, row, column, place=map_case.UTM):
    crs, transform = place
    return pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(*(transform @ (column + 0.5, row + 0.5)))

  def points(self, labels, place=map_case.UTM, name="points.csv", extra=()):
    """A reference file of ((row, column), label) or with further columns."""
    path = self.root / name
    with open(path, "w", newline="") as file:
      writer = csv.writer(file)
      writer.writerow(["Longitude", "Latitude", "Label", *extra])
      for (row, column), *cells in labels:
        writer.writerow([*map(repr, self.lonlat(row, column, place)), *cells])
    return path

  def good(self, mine=12, other=24):
    """Points on the diagonal-ish lattice; of mine every 4th is none, of the rest every 8th is one."""
    inside = [((i, i % 10), int(i % 4 > 0)) for i in range(mine)]
    return inside + [((i, 12 + i), int(i % 8 == 0)) for i in range(other)]

  def run_on(self, labels, **kwargs):
    self.map = getattr(self, "map", None) or self.put(self.mask, trained_on={"boxes": [], "unplaced": 0})
    return area_estimate.estimate(self.map, labels if isinstance(labels, str) else self.points(labels), **kwargs)

  def refused(self, pattern, labels, **kwargs):
    with self.assertRaisesRegex(UserError, pattern):
      self.run_on(labels, **kwargs)

  @parameterized.parameters("utm_south", "degrees_60_north", "askew", "mercator")
  def test_the_estimate_of_a_map(self, name):
    place = map_case.PLACES[name]
    self.map = self.put(self.mask, place=place, trained_on={"boxes": [], "unplaced": 0})
    report = area_estimate.estimate(self.map, self.points(self.good(), place), self.root / "out", tile=13)
    self.assertEqual(report["counts"], [[21, 3], [3, 9]])
    mapped = [map_case.pixel_km2(self.mask == code, place) for code in (0, 1)]
    mine = report["classes"]["mine"]
    self.assertAlmostEqual(mine["mapped_km2"] / mapped[1], 1.0, delta=1e-5)
    expected = mapped[0] * 3 / 24 + mapped[1] * 9 / 12  # By hand.
    self.assertAlmostEqual(mine["area_km2"] / expected, 1.0, delta=1e-5)
    error = np.sqrt(mapped[0] ** 2 * 3 / 24 * 21 / 24 / 23 + mapped[1] ** 2 * 9 / 12 * 3 / 12 / 11)
    self.assertAlmostEqual(mine["area_high_km2"] / (expected + 1.96 * error), 1.0, delta=1e-4)
    self.assertEqual(json.loads((self.root / "out" / "area.json").read_text()), report)
    self.assertIn(f"**{expected:.4f} ± {1.96 * error:.4f} km²**", (self.root / "out" / "area.md").read_text())

  def test_a_vector_file_will_do(self):
    rows = self.good()
    places = [shapely.Point(self.lonlat(*place)) for place, _ in rows]
    frame = geopandas.GeoDataFrame({"LABEL": [float(label) for _, label in rows]}, geometry=places, crs=4326)
    frame.to_crs("EPSG:32719").to_file(self.root / "points.gpkg")
    self.assertEqual(self.run_on(str(self.root / "points.gpkg"))["counts"], [[21, 3], [3, 9]])
    frame.set_geometry(frame.buffer(1e-4)).to_file(self.root / "areas.gpkg")
    self.refused(r"row 1: lon '', lat '': no point", str(self.root / "areas.gpkg"))

  def test_points_in_training_images_are_refused_by_name(self):
    west, south = self.lonlat(9.5, -0.5)
    east, north = self.lonlat(-0.5, 19.5)
    self.map = self.put(self.mask, trained_on={"boxes": [[west, south, east, north]], "unplaced": 2})
    self.refused(
      r"(?s)18 of 36 reference points cannot be used with scene.*row 1: lon .* lies in an image that the model was "
      r"trained on.*and 13 more",
      self.good(),
    )
    report = self.run_on([(place, label) for place, label in self.good(30, 26) if place[0] >= 10 or place[1] >= 20])
    # 10 x 20 pixels are left out of the population, half of them mapped as mine.
    self.assertAlmostEqual(
      report["classes"]["mine"]["mapped_km2"], map_case.pixel_km2((self.mask == 1)[10:], map_case.UTM), delta=1e-4
    )
    self.assertIn(
      "0.0200 km² lie in images that the model was trained on, 0.0100 km² of it mapped", report["warnings"][0]
    )
    self.assertIn("2 training images have no known place", report["warnings"][1])

  def test_points_on_invalid_pixels_are_left_out_and_counted(self):
    report = self.run_on([*self.good(), ((37, 5), 1), ((38, 30), 0)])
    self.assertEqual(report["points"], 36)
    self.assertIn("2 points lie on pixels that are not valid: left out", report["warnings"])

  def test_few_or_unanimous_points_and_unknown_training_are_warned_of(self):
    self.map = self.put(self.mask)
    (self.map / "map.json").write_text("{}")
    warnings = self.run_on([((i, i), 1) for i in range(5)] + [((i, 15 + i), i % 2) for i in range(20)])["warnings"]
    self.assertIn("the map does not tell on which images its model was trained", warnings[0])
    self.assertIn("only 5 points in 'mine'", " ".join(warnings))
    self.assertIn("all points in 'mine' agree", " ".join(warnings))

  def test_points_that_cannot_be_used_are_all_named(self):
    broken = [((0, 0), "2"), ((1, 1), ""), ((1, 2), "x")]
    self.refused(
      r"(?s)3 of 39.*row 37: label '2'; 0 = no mine, 1 = mine.*row 38: not labelled yet.*row 39", self.good() + broken
    )
    self.refused(r"row 37: the place of row 1 again", self.good() + [((0, 0), 1)])
    self.refused(r"row 37: lon -\d+.* lies outside of the map", self.good() + [((-1, 0), 1)])

  def test_too_few_points_in_a_class_are_refused(self):
    self.refused(r"1 in 'mine': each class of the map needs 2 reference points", self.good(mine=1))

  def test_samples_of_other_maps_or_designs_are_refused(self):
    named = [(place, label, "mine" if place[1] < 10 else "0") for place, label in self.good()]
    self.assertEqual(self.run_on(str(self.points(named, extra=["stratum"])))["points"], 36)
    named[0] = (*named[0][:2], "not mine")
    self.refused(
      "row 1: stratum 'not mine', but the map says 'mine': it was drawn from another map",
      str(self.points(named, extra=["stratum"])),
    )
    named[0] = (*named[0][:2], "rock")
    self.refused("row 1: stratum 'rock'", str(self.points(named, extra=["stratum"])))
    weighed = [(place, label, int(place[1] < 10), i) for i, (place, label) in enumerate(self.good())]
    self.refused("weights differ within a stratum", str(self.points(weighed, extra=["stratum", "weight"])))

  def test_files_that_are_no_reference_are_refused(self):
    (self.root / "a.csv").write_text("x,z\n1,2\n")
    self.refused(
      "no column lat, label .there are x, z.; a reference file has lon, lat and label", str(self.root / "a.csv")
    )
    (self.root / "b.csv").write_text("lon,lat,label\n")
    self.refused("no reference point in it; label a sample first", str(self.root / "b.csv"))
    self.refused("no such file", str(self.root / "c.csv"))
    (self.root / "d.csv").write_bytes(b"lon,lat,label\n\xff\xfe,1,1\n")
    self.refused("not readable as CSV", str(self.root / "d.csv"))
    (self.root / "e.csv").write_text("lon,lat,label\n500,1,1\nnan,2,0\n")
    self.refused("(?s)row 1: lon 500, lat 1: not in -180..180.*row 2", str(self.root / "e.csv"))

  def test_a_map_of_one_class_has_no_strata(self):
    self.map = self.put(np.ones((40, 40)), "all")
    self.refused("no valid pixel of 'not mine' outside of training images", [((i, 2 * i), i % 2) for i in range(9)])


class SampleTest(map_case.MapTest):
  def setUp(self):
    super().setUp()
    self.mask = map_case.blobs(50, share=0.2)
    self.mask[:5] = 255

  def draw(self, design, name="out", **kwargs):
    self.map = getattr(self, "map", None) or self.put(self.mask)
    written = sample.draw(self.map, self.root / name, design, **kwargs)
    with open(self.root / name / "sample.csv", newline="") as file:
      rows = list(csv.DictReader(file))
    crs, transform = map_case.UTM
    place = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    at = [~transform @ place.transform(float(row["LON"]), float(row["LAT"])) for row in rows]
    return written, [(int(y), int(x)) for x, y in at], rows

  def test_points_lie_in_both_classes_on_valid_pixels_and_never_twice(self):
    written, pixels, rows = self.draw(sample.Design(total=120, least=40, seed=7), tile=13)
    classes = [int(self.mask[pixel]) for pixel in pixels]
    self.assertEqual([classes.count(0), classes.count(1), len(set(pixels))], [80, 40, 120])
    self.assertEqual({row["LABEL"] for row in rows}, {""})
    self.assertNotEqual(classes, sorted(classes))  # The order tells nothing.
    frame = geopandas.read_file(written[0])
    self.assertEqual((len(frame), set(frame.geom_type), frame.crs.to_epsg()), (120, {"Point"}, 4326))
    self.assertTrue(frame.LABEL.isna().all())
    np.testing.assert_allclose(frame.geometry.x, [float(row["LON"]) for row in rows], atol=1e-8)

  def test_the_same_seed_draws_the_same_points_and_another_others(self):
    bytes_of = lambda seed, name: [p.read_bytes() for p in self.draw(sample.Design(60, least=20, seed=seed), name)[0]]
    first = bytes_of(1, "a")
    self.assertEqual(first, bytes_of(1, "b"))
    self.assertNotEqual(first, bytes_of(2, "c"))

  def test_every_pixel_of_a_class_has_the_same_chance(self):
    self.map = self.put(np.pad(np.ones((8, 8)), ((0, 0), (0, 8))))
    drawn = np.zeros((8, 16))
    for seed in range(60):
      for pixel in self.draw(sample.Design(32, least=16, seed=seed), f"out{seed}", tile=5)[1]:
        drawn[pixel] += 1
    for side in (drawn[:, :8], drawn[:, 8:]):
      self.assertEqual(side.sum(), 60 * 16)
      # Binomial with chance 1/4: mean 15, sd 3.4; chi2 of 63 degrees of freedom.
      self.assertBetween(((side - 15) ** 2 / (60 * 0.25 * 0.75)).sum(), 30, 105)

  def test_training_images_are_left_alone_and_the_sample_fits_the_estimate(self):
    crs, transform = map_case.UTM
    place = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    (west, east), (south, north) = place.transform([transform.c, transform.c + 250], [transform.f - 500, transform.f])
    self.map = self.put(self.mask, trained_on={"boxes": [[west, south, east, north]], "unplaced": 0})
    _, pixels, rows = self.draw(sample.Design(80, least=30))
    self.assertTrue(all(column >= 24 for _, column in pixels))
    path = self.root / "labelled.csv"
    labels = [f"{row['LON']},{row['LAT']},{self.mask[pixel]}" for row, pixel in zip(rows, pixels)]
    path.write_text("\n".join(["LON,LAT,LABEL", *labels]))
    report = area_estimate.estimate(self.map, path)
    self.assertEqual(report["overall_accuracy"], 1.0)
    self.assertAlmostEqual(report["classes"]["mine"]["area_km2"], report["classes"]["mine"]["mapped_km2"], delta=1e-12)

  def test_small_classes_are_drawn_whole(self):
    self.map = self.put(np.pad(np.ones((1, 3)), ((0, 9), (0, 7))))
    _, pixels, _ = self.draw(sample.Design(60, least=30))
    self.assertEqual({(0, 0), (0, 1), (0, 2)}, {pixel for pixel in pixels if pixel[0] == 0 and pixel[1] < 3})

  def test_a_sample_that_may_hold_labels_is_not_drawn_over(self):
    self.draw(sample.Design(60, least=20))
    with self.assertRaisesRegex(UserError, "sample.csv: is there already, and may hold labels; choose another output"):
      self.draw(sample.Design(60, least=20))

  def test_designs_that_make_no_sense_are_refused(self):
    with self.assertRaisesRegex(UserError, "total=1: .*; overall_se=0: .*; least=0: .*; seed=-1: "):
      self.draw(sample.Design(1, 0.0, least=0, seed=-1))
    self.map = self.put(np.zeros((5, 5)), "none")
    with self.assertRaisesRegex(UserError, "no valid pixel of 'mine'"):
      self.draw(sample.DEFAULT)


if __name__ == "__main__":
  absltest.main()
