"""Tests of one look at a model, and of the numbers and tables made of it, on a network of one threshold."""

import json
import math
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import special
from sklearn import metrics as sklearn_metrics

from minec2f_jax.data import pipeline, resident
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import assessment, boundaries, evaluate, intervals, summary, tables
from minec2f_jax.evaluation.calibration import Calibration
from minec2f_jax.methods import Method, Variables
from tests import boundaries_test, toy

# A method whose logit is 20 times what the first band is above a threshold.
METHOD = Method(init=None, loss=None, logits=lambda trainable, frozen, extra, image: 20 * (image[..., :1] - trainable))
VARIABLES = Variables(jnp.float32(0.2), {}, {})
PREDICT = evaluate.make_predict(METHOD, lambda image, valid: image)
GSD_M = (20.0, 15.0)


class KnownSource(toy.ArraySource):
  """Toy images of which something is known; the last one lacks a pixel size."""

  def __init__(self, count: int = 7):
    super().__init__(count, seed=3)
    rng = np.random.default_rng(1)
    self.image += rng.normal(0, 0.08, self.image.shape).astype(np.float32)
    self.valid[:, :3], self.valid[1] = False, False

  def details(self, index: int) -> dict:
    told = {"location_group": f"place{index // 2}", "climate_zone": ("arid", "polar", "")[index % 3], "gsd_m": GSD_M}
    if index == 0:
      told["area_km2"] = 12.0
    if index == len(self) - 1:
      told.pop("gsd_m")
    return told


def _details(source) -> list[dict]:
  return [pipeline.details(source, i) for i in range(len(source))]


def _assess(source, **options) -> assessment.Assessment:
  return assessment.assess(PREDICT, VARIABLES, source, **{"batch_size": 2, "details": _details(source), **options})


def _arrays(source):
  """(logits float64, label bool, valid) [N, H, W], the network by hand."""
  image, label, valid = (np.stack([sample[name] for sample in source]) for name in ("image", "label", "valid"))
  return 20 * (image[..., 0] - np.float32(0.2)).astype(np.float64), label == 1, valid


class AssessTest(parameterized.TestCase):
  @parameterized.product(batch_size=[1, 3, 8], held=[False, True])
  def test_it_is_the_same_in_batches_of_any_size_from_host_and_device(self, batch_size, held):
    source = KnownSource()
    whole = _assess(source, batch_size=2)
    found = _assess(resident.hold(source) if held else source, batch_size=batch_size)
    np.testing.assert_array_equal(found.confusion.counts, whole.confusion.counts)
    np.testing.assert_array_equal(found.boundaries.counts, whole.boundaries.counts)
    np.testing.assert_array_equal(found.boundaries.too_coarse, whole.boundaries.too_coarse)
    np.testing.assert_allclose(found.calibration.bins, whole.calibration.bins, rtol=1e-6)
    np.testing.assert_allclose(found.calibration.losses, whole.calibration.losses, rtol=1e-6)
    np.testing.assert_array_equal(found.placed, [True] * 6 + [False])

  def test_it_is_what_its_parts_say_of_all_logits_at_once(self):
    source = KnownSource()
    seen = {}
    found = _assess(source, observe=lambda start, logits, valid: seen.update({start: (logits, valid)}))
    logits = np.concatenate([seen[start][0] for start in sorted(seen)])
    _, label, valid = _arrays(source)
    np.testing.assert_allclose(logits, _arrays(source)[0], atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([seen[start][1] for start in sorted(seen)]), valid)
    expected = boundaries.boundary_counts((logits > 0)[:-1], label[:-1], valid[:-1], [GSD_M] * 6)
    np.testing.assert_array_equal(found.boundaries.counts[:-1], expected.counts)
    self.assertFalse(found.boundaries.counts[-1].any())
    calibrated = Calibration.from_logits(logits, label, valid)
    np.testing.assert_array_equal(found.calibration.bins, calibrated.bins)
    np.testing.assert_array_equal(found.calibration.losses, calibrated.losses)

  def test_parts_merge_to_the_whole(self):
    source = KnownSource()
    parts = [_assess(pipeline.Subset(source, places)) for places in ([0, 1, 2], [3], [4, 5, 6])]
    merged, whole = parts[0].merge(*parts[1:]), _assess(source)
    for name in ("placed", "confusion", "calibration", "boundaries"):
      one, two = (np.concatenate([np.ravel(part) for part in _leaves(getattr(a, name))]) for a in (merged, whole))
      np.testing.assert_allclose(one, two, rtol=1e-6)
    self.assertEmpty(assessment.Assessment.empty().placed)

  def test_a_network_that_gives_nan_is_told_by_image_and_remedy(self):
    source = KnownSource()
    source.image[3, 10, 10, 0] = np.nan
    with self.assertRaisesRegex(UserError, "NaN for image 'toy3'.*learning_rate"):
      _assess(source)
    source.valid[3, 10, 10] = False
    _assess(source)

  def test_pixels_of_no_size_are_told_by_image(self):
    details = [{"gsd_m": (1e-4, 20.0)} if i == 2 else {} for i in range(7)]
    with self.assertRaisesRegex(UserError, r"1 images have pixels too small to be true: toy2 \(0\.0001 m\); correct"):
      _assess(KnownSource(), details=details)


def _leaves(part):
  return [part] if isinstance(part, np.ndarray) else [value for value in vars(part).values() if np.ndim(value) > 1]


class SummaryTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.source = KnownSource()
    seen, cls.details = {}, _details(cls.source)
    cls.found = _assess(cls.source, observe=lambda start, logits, valid: seen.update({start: logits}))
    cls.row = summary.summarize(cls.found, cls.source.ids, cls.details, seed=5)
    _, cls.label, cls.valid = _arrays(cls.source)
    cls.logits = np.concatenate([seen[start] for start in sorted(seen)]).astype(np.float64)

  def test_scores_are_scikit_learns(self):
    truth, guess = self.label[self.valid], (self.logits > 0)[self.valid]
    for name, expected in {
      "accuracy": sklearn_metrics.accuracy_score(truth, guess),
      "mf1": sklearn_metrics.f1_score(truth, guess, average="macro"),
      "miou": sklearn_metrics.jaccard_score(truth, guess, average="macro"),
      "iou_mine": sklearn_metrics.jaccard_score(truth, guess),
      "f1_mine": sklearn_metrics.f1_score(truth, guess),
      "precision_mine": sklearn_metrics.precision_score(truth, guess),
      "recall_mine": sklearn_metrics.recall_score(truth, guess),
    }.items():
      self.assertAlmostEqual(self.row["scores"][name], expected, delta=1e-9, msg=name)
    self.assertEqual(self.row["counts"]["toy1"], [[0, 0], [0, 0]])

  def test_calibration_is_scikit_learns(self):
    truth, chance = self.label[self.valid], special.expit(self.logits[self.valid])
    self.assertAlmostEqual(
      self.row["calibration"]["brier"], sklearn_metrics.brier_score_loss(truth, chance), delta=1e-9
    )
    self.assertAlmostEqual(self.row["calibration"]["nll"], sklearn_metrics.log_loss(truth, chance), delta=1e-9)
    self.assertEqual(sum(point["count"] for point in self.row["reliability"]), truth.size)

  def test_boundary_scores_are_those_of_a_distance_transform(self):
    source = toy.ArraySource(1, seed=4)
    details = [{"gsd_m": (10.0, 10.0)}]
    found = assessment.assess(PREDICT, Variables(jnp.float32(0.3), {}, {}), source, batch_size=1, details=details)
    row = summary.summarize(found, source.ids, details, seed=0)
    predicted = 20 * (source.image[0, ..., 0] - np.float32(0.3)) > 0
    for reach in (10, 30, 60):
      iou, f1 = boundaries_test.by_distance_transform(predicted, source.label[0] == 1, 10.0, reach + 1e-6)
      self.assertAlmostEqual(row["boundaries"][f"boundary_iou_{reach}m"], iou, delta=1e-9)
      self.assertAlmostEqual(row["boundaries"][f"boundary_f1_{reach}m"], f1, delta=1e-9)

  def test_images_without_a_pixel_size_are_counted_and_the_remedy_is_told(self):
    self.assertEqual((self.row["boundaries"]["num_images"], self.row["boundaries"]["num_without_pixel_size"]), (6, 1))
    self.assertIn("config.data.gsd_m", self.row["notes"][0])
    none = summary.summarize(_assess(self.source, details=[{}] * 7), self.source.ids, [{}] * 7, seed=0)
    self.assertIsNone(none["boundaries"])
    self.assertNotIn("boundary_f1_30m", none["intervals"])
    self.assertEqual((none["groups"], none["notes"]), ({}, [assessment.NO_PIXEL_SIZE]))
    self.assertEqual(none["scores"], self.row["scores"])

  def test_intervals_are_those_of_the_bootstrap_over_places(self):
    groups = [f"place{i // 2}" for i in range(7)]
    self.assertEqual(set(self.row["intervals"]), {*summary.INTERVAL_SCORES, "boundary_f1_30m"})
    for name in summary.INTERVAL_SCORES:
      statistics, score = intervals.confusion_statistics(self.found.confusion.counts, name)
      expected = intervals.bootstrap(statistics, score, seed=5, groups=groups)
      found = self.row["intervals"][name]
      self.assertEqual((found["low"], found["high"], found["value"]), (expected.low, expected.high, expected.value))
      self.assertEqual((found["num_units"], found["unit"], found["level"]), (4, "location group", 0.95))
    counts = self.found.boundaries.counts[:6, 1]
    expected = intervals.bootstrap(
      counts, lambda sums: boundaries.boundary_scores(sums)["boundary_f1"], seed=5, groups=groups[:6]
    )
    found = self.row["intervals"]["boundary_f1_30m"]
    self.assertEqual((found["low"], found["high"], found["num_units"]), (expected.low, expected.high, 3))
    self.assertEqual(found["value"], self.row["boundaries"]["boundary_f1_30m"])

  def test_groups_hold_every_image_once_and_sizes_come_from_labels_where_nobody_tells(self):
    groups = self.row["groups"]
    self.assertEqual(list(groups), ["climate zone", "mine size"])
    self.assertEqual([group["name"] for group in groups["climate zone"]], ["arid", "polar", "unknown"])
    for found in groups.values():
      self.assertEqual(sum(group["num_images"] for group in found), 6)
      self.assertTrue(all(group["small"] for group in found))
    arid = [i for i in range(7) if i % 3 == 0]
    truth = self.label[arid][self.valid[arid]]
    expected = sklearn_metrics.jaccard_score(truth, (self.logits > 0)[arid][self.valid[arid]])
    self.assertAlmostEqual(groups["climate zone"][0]["scores"]["iou_mine"], expected, delta=1e-9)
    self.assertEqual([group["name"] for group in groups["mine size"]], ["< 1 km²", "10–100 km²", "unknown"])
    self.assertIn(summary.AREAS_BY_LABEL, self.row["notes"])

  def test_transfer_by_hand(self):
    scores = {("coarse", "coarse"): 0.7, ("coarse", "fine"): 0.5, ("fine", "coarse"): 0.6, ("fine", "fine"): 0.8}
    rows = [
      {"trained_on": stage, "domain": domain, "scores": {"miou": value, "iou_mine": math.nan}}
      for (stage, domain), value in scores.items()
    ]
    found = summary.transfer_of(rows)
    self.assertEqual(found["miou"]["matrix"], [[0.7, 0.5], [0.6, 0.8]])
    self.assertAlmostEqual(found["miou"]["average"], 0.7)
    self.assertAlmostEqual(found["miou"]["backward"], -0.1)
    self.assertAlmostEqual(found["miou"]["forgetting"], 0.1)
    self.assertTrue(math.isnan(found["miou"]["forward"]))
    self.assertIn("labels differ", found["note"])
    self.assertIsNone(summary.transfer_of(rows[:3]))


class TablesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    source = KnownSource()
    details = _details(source)
    details[0]["region"] = "a|b *c* <d>"
    row = summary.summarize(_assess(source), source.ids, details, seed=0)
    row["scores"]["f1_mine"] = math.nan
    heads = {"model": "teacher", "trained_on": "coarse", "tested_on": "fine test (7)", "domain": "fine"}
    cls.rows = [{**heads, **row}]
    numbers = {"average": 0.5, "backward": -0.0123, "forward": math.nan, "forgetting": 0.0123, "matrix": []}
    moved = {"miou": numbers, "iou_mine": numbers, "note": "A note."}
    cls.results = {"title": "Scores", "rows": cls.rows, "transfer": moved, "policies": summary.policies()}

  def test_the_main_table_holds_percents_with_the_interval_of_miou_and_a_dash_for_the_undefined(self):
    reach = self.rows[0]["intervals"]["miou"]
    for text in (tables.to_text(self.rows), tables.to_markdown(self.rows)):
      self.assertIn(f"{100 * self.rows[0]['scores']['miou']:.2f}", text)
      self.assertIn(f"{100 * reach['low']:.2f}–{100 * reach['high']:.2f}", text)
      self.assertRegex(text, r" –( |\n)")
      self.assertNotIn("nan", text)

  def test_files_hold_every_part_and_the_policies(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    tables.write_tables(self.results, folder)
    shares = self.rows[0]["scores"]["accuracy"]
    for name in ("results.txt", "results.md"):
      text = (folder / name).read_text()
      for part in ("Outlines", "Calibration", "By climate zone", "By mine size", "Confusion", "Transfer", "A note."):
        self.assertIn(part, text)
      for number in ("-1.23", f"{100 * self.rows[0]['boundaries']['boundary_f1_30m']:.2f}"):
        self.assertIn(number, text)
      self.assertIn("4 location groups", text)
      self.assertNotIn("nan", text)
      self.assertEqual(text.count("neither 0 nor 1"), 1)
    (confusion,) = [table for table in tables.tables_of(self.results) if "Confusion" in table.title]
    tn, fp, fn, tp = map(float, confusion.cells[1][3:])
    self.assertAlmostEqual(tn + tp, 100 * shares, delta=0.011)
    self.assertAlmostEqual(tn + tp + fp + fn, 100, delta=0.021)

  def test_what_would_break_a_markdown_table_is_escaped(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    tables.write_tables(self.results, folder)
    self.assertIn(r"| a\|b \*c\* \<d> |", (folder / "results.md").read_text())

  def test_json_is_valid_and_holds_null_for_the_undefined(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    tables.write_tables(self.results, folder)
    result = json.loads((folder / "results.json").read_text(), parse_constant=self.fail)
    self.assertIsNone(result["rows"][0]["scores"]["f1_mine"])
    self.assertIsNone(result["transfer"]["miou"]["forward"])
    self.assertEqual(result["rows"][0]["scores"]["miou"], self.rows[0]["scores"]["miou"])

  def test_parts_of_which_nothing_is_known_are_left_out(self):
    source = KnownSource()
    row = summary.summarize(_assess(source, details=[{}] * 7), source.ids, [{}] * 7, seed=0)
    row = {"model": "m", "trained_on": "fine", "tested_on": "t", **row}
    titles = [table.title for table in tables.tables_of({**self.results, "rows": [row], "transfer": None})]
    self.assertEqual([title.split()[0] for title in titles], ["Scores", "Calibration", "Confusion,", "Notes"])


if __name__ == "__main__":
  absltest.main()
