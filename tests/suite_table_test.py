"""The tables of made-up suites against numpy, scipy and scikit-learn, and their files against readers of these."""

import csv
import io
import math
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from sklearn import metrics as sklearn_metrics

from minec2f_jax.evaluation import suite_scores, suite_table
from tests import suite_case

RNG = np.random.default_rng(7)
COUNTS = {
  name: [RNG.integers(1, 50, (4, 2, 2)) + np.array([[60 * better, 0], [0, 60 * better]]) for _ in range(3)]
  for better, name in enumerate(("base", "gate_1", "all"))
}
TABLE = ("Δ mIoU to the first row", "p (Holm)", "Δ mIoU to the row above", "p (Holm)")


def miou(counts: np.ndarray) -> float:
  """Pooled, by scikit-learn."""
  label, predicted = np.divmod(np.repeat(np.arange(4), counts.sum(axis=0).ravel()), 2)
  return sklearn_metrics.jaccard_score(label, predicted, average="macro")


def cell(suite: dict, row: str, heading: str, nth: int = 0, cells=suite_table.cells) -> str:
  head, *body = cells(suite, suite["order"])
  column = [i for i, name in enumerate(head) if name == heading][nth]
  return next(line[column] for line in body if line[0] == row)


class CellsTest(parameterized.TestCase):
  def test_ours_are_mean_and_standard_deviation_over_seeds(self):
    suite = suite_case.make_content(COUNTS)
    for name, seeds in COUNTS.items():
      values = 100 * np.array([miou(counts) for counts in seeds])
      self.assertEqual(cell(suite, name, "mIoU"), f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}")
      self.assertEqual((cell(suite, name, "Seeds"), cell(suite, name, "mIoU, printed")), ("3", "70.00"))

  def test_one_seed_has_no_deviation_and_none_has_no_score(self):
    suite = suite_case.make_content({"one": COUNTS["all"][:1], "none": []})
    self.assertEqual(cell(suite, "one", "mIoU"), f"{100 * miou(COUNTS['all'][0]):.2f}")
    self.assertEqual((cell(suite, "none", "mIoU"), cell(suite, "none", "Seeds")), ("–", "0"))

  def test_a_row_that_is_only_printed_has_dashes_and_takes_part_in_no_comparison(self):
    suite = suite_case.make_content({**COUNTS, "printed": []}, trained=COUNTS)
    self.assertEqual([cell(suite, "printed", name) for name in ("Seeds", "Acc.", *TABLE)], ["–"] * 6)
    self.assertEqual(cell(suite, "printed", "Acc., printed"), "90.00")

  @parameterized.parameters(("first", ("base", "base")), ("above", ("base", "gate_1")))
  def test_differences_and_p_are_those_of_scipys_paired_test_with_holms_correction(self, reference, others):
    found = suite_scores.compare(suite_case.make_content(COUNTS), list(COUNTS), reference)
    self.assertEqual(list(found), ["gate_1", "all"])
    for (name, entry), other in zip(found.items(), others):
      mine, theirs = ([miou(counts) for counts in COUNTS[row]] for row in (name, other))
      test = stats.ttest_rel(mine, theirs)
      self.assertEqual((entry.other, entry.over), (other, "seeds"))
      np.testing.assert_allclose(entry.difference, np.mean(np.subtract(mine, theirs)), rtol=1e-9)
      np.testing.assert_allclose(entry.p, test.pvalue, rtol=1e-9)
      np.testing.assert_allclose((entry.low, entry.high), test.confidence_interval(0.95), rtol=1e-9)
    raw = sorted(entry.p for entry in found.values())
    by_hand = [min(1.0, 2 * raw[0]), min(1.0, max(2 * raw[0], raw[1]))]
    np.testing.assert_allclose(sorted(entry.adjusted for entry in found.values()), by_hand)

  def test_without_printed_numbers_rows_are_choices_by_their_validation_score(self):
    suite = suite_case.make_content(COUNTS)
    self.assertNotIn("Best miou, validation", suite_table.cells(suite, suite["order"])[0])
    for row in suite["rows"].values():
      row["paper"] = {}
    head = suite_table.cells(suite, suite["order"])[0]
    self.assertEqual(head[:6], ["Row", "Seeds", "Best miou, validation", "Acc.", "mF1", "mIoU"])
    self.assertEqual(cell(suite, "base", "Best miou, validation"), "51.00 ± 1.00")  # 50, 51 and 52.
    self.assertIn("51.0", suite_table.texts(suite)["table.csv"])

  def test_only_seeds_of_both_rows_are_compared(self):
    suite = suite_case.make_content({"base": COUNTS["base"], "all": COUNTS["all"][:2]})
    entry = suite_scores.compare(suite, suite["order"], "first")["all"]
    expected = stats.ttest_rel(*([miou(counts) for counts in COUNTS[name][:2]] for name in ("all", "base"))).pvalue
    np.testing.assert_allclose(entry.p, expected, rtol=1e-9)

  def test_with_one_seed_the_test_is_over_images_exact_for_few_and_marked(self):
    suite = suite_case.make_content({"base": COUNTS["base"][:1], "all": COUNTS["all"][:1]})
    entry = suite_scores.compare(suite, suite["order"], "above")["all"]
    first, second = COUNTS["all"][0], COUNTS["base"][0]
    observed, differences = miou(first) - miou(second), []
    for swaps in range(2 ** len(first)):  # Every exchange of images between the two models.
      mask = np.array([swaps >> i & 1 for i in range(len(first))], bool)[:, None, None]
      differences.append(miou(np.where(mask, second, first)) - miou(np.where(mask, first, second)))
    self.assertEqual(entry.over, "images")
    np.testing.assert_allclose(entry.p, np.mean(np.abs(differences) >= abs(observed) - 1e-12))
    self.assertEndsWith(cell(suite, "all", "p (Holm)"), "*")
    self.assertIn("two trained networks, not of two methods", " ".join(suite_table.notes(suite)))

  def test_rows_of_other_images_have_a_difference_but_no_test(self):
    suite = suite_case.make_content({"base": COUNTS["base"][:1], "all": [COUNTS["all"][0][:3]]})
    entry = suite_scores.compare(suite, suite["order"], "above")["all"]
    np.testing.assert_allclose(entry.difference, miou(COUNTS["all"][0][:3]) - miou(COUNTS["base"][0]))
    self.assertTrue(math.isnan(entry.p))
    self.assertEqual(cell(suite, "all", "p (Holm)"), "–")

  def test_rows_of_other_tables_and_test_splits_are_not_compared(self):
    suite = suite_case.make_content(COUNTS, table={"all": "Another"})
    self.assertEqual(suite_scores.tables_of(suite), {"Toy_table": ["base", "gate_1"], "Another": ["all"]})
    self.assertEmpty(suite_scores.compare(suite, ["all"], "first"))
    suite = suite_case.make_content(COUNTS)
    suite["rows"]["all"]["domain"] = suite["runs"][-1]["results"][0]["domain"] = "coarse"
    for run in suite["runs"][-3:]:
      run["results"][0]["domain"] = "coarse"
    self.assertEqual(list(suite_scores.compare(suite, list(COUNTS), "above")), ["gate_1"])

  def test_a_row_above_that_is_not_through_is_not_passed_over(self):
    suite = suite_case.make_content({"base": COUNTS["base"], "gate_1": [], "all": COUNTS["all"]})
    self.assertEmpty(suite_scores.compare(suite, suite["order"], "above"))
    self.assertEqual(list(suite_scores.compare(suite, suite["order"], "first")), ["all"])
    self.assertEqual([cell(suite, "gate_1", name) for name in ("Seeds", "mIoU", *TABLE)], ["0"] + ["–"] * 5)

  def test_an_undefined_score_is_left_out(self):
    suite = suite_case.make_content({"base": COUNTS["base"], "empty": [np.zeros((4, 2, 2), int)] * 3})
    self.assertEqual((cell(suite, "empty", "mIoU"), cell(suite, "empty", "Seeds")), ("–", "3"))
    self.assertEmpty(suite_scores.compare(suite, suite["order"], "first"))

  def test_without_any_difference_there_are_no_columns_for_it(self):
    heads = [suite_table.cells(suite_case.make_content(COUNTS), names)[0] for names in (["all"], list(COUNTS))]
    self.assertEqual([set(TABLE) <= set(head) for head in heads], [False, True])

  def test_shares_of_pixels_are_those_of_all_images_together(self):
    suite = suite_case.make_content(COUNTS)
    pooled = COUNTS["base"][1].sum(axis=0)
    entry = suite_scores.results_of(suite, "base")[1]
    np.testing.assert_allclose(suite_scores.pooled_shares(entry), pooled / pooled.sum())


class ConfusionTest(absltest.TestCase):
  def test_shares_are_mean_and_standard_deviation_of_the_seeds_pooled_matrices(self):
    suite = suite_case.make_content(COUNTS)
    for name, seeds in COUNTS.items():
      pooled = np.array([counts.sum(axis=0).ravel() for counts in seeds])
      shares = 100 * pooled / pooled.sum(axis=1, keepdims=True)
      for heading, values in zip(("TN", "FP", "FN", "TP"), shares.T):
        expected = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
        self.assertEqual(cell(suite, name, heading, cells=suite_table.confusion_cells), expected)

  def test_what_the_paper_prints_of_a_matrix_stands_beside_and_rows_with_neither_are_left_out(self):
    suite = suite_case.make_content({"base": COUNTS["base"], "printed": [], "other": []}, trained=["base"])
    head, *body = suite_table.confusion_cells(suite, suite["order"])
    self.assertEqual((head, [line[0] for line in body]), (["Row", "Seeds", "TN", "FP", "FN", "TP"], ["base"]))
    suite["rows"]["printed"]["paper"] |= dict(tn=60.0, fp=10.0, fn=5.0, tp=25.0)
    _, *body = suite_table.confusion_cells(suite, suite["order"])
    self.assertEqual([line[0] for line in body], ["base", "printed"])
    self.assertEqual(body[1][1:], ["–", "–", "60.00", "–", "10.00", "–", "5.00", "–", "25.00"])
    self.assertEqual(cell(suite, "base", "TN, printed", cells=suite_table.confusion_cells), "–")

  def test_a_table_without_any_matrix_has_no_second_table(self):
    suite = suite_case.make_content({"printed": []}, trained=[])
    self.assertEmpty(suite_table.confusion_cells(suite, ["printed"]))
    self.assertNotIn("confusion", suite_table.texts(suite)["table.md"])


class GroupsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    counts = {name: COUNTS["all"] for name in ("dry", "icy", "white")}
    self.suite = suite_case.make_content(counts, groups={"dry": "arid", "icy": "cold", "white": "polar"})

  def test_a_row_shows_the_scores_of_its_groups_images(self):
    for name, part in (("dry", slice(0, 1)), ("icy", slice(1, None))):
      values = 100 * np.array([miou(counts[part]) for counts in COUNTS["all"]])
      self.assertEqual(cell(self.suite, name, "mIoU"), f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}")

  def test_a_group_that_no_image_belongs_to_has_no_score_and_the_notes_say_so(self):
    self.assertEqual([cell(self.suite, "white", heading) for heading in ("Seeds", "mIoU")], ["0", "–"])
    notes = " ".join(suite_table.notes(self.suite))
    self.assertIn("by row: dry: 1 (few), icy: 3 (few).", notes)
    self.assertIn("is known to belong there: white.", notes)

  def test_images_that_tell_nothing_leave_all_rows_without_scores(self):
    for run in self.suite["runs"]:
      del run["results"][0]["groups"]
    self.assertEqual([cell(self.suite, name, "mIoU") for name in self.suite["order"]], ["–"] * 3)
    self.assertIn("is known to belong there: dry, icy, white.", " ".join(suite_table.notes(self.suite)))

  def test_what_is_not_through_is_not_said_to_belong_to_nothing(self):
    for run in self.suite["runs"]:
      run["results"] = None
    self.assertNotIn("known to belong", " ".join(suite_table.notes(self.suite)))

  def test_groups_are_not_compared_with_each_other_and_a_group_with_itself_over_seeds(self):
    self.assertEmpty(suite_scores.compare(self.suite, self.suite["order"], "first"))
    suite = suite_case.make_content({"one": COUNTS["all"], "two": COUNTS["base"]}, groups=dict(one="cold", two="cold"))
    mine, theirs = ([miou(counts[1:]) for counts in COUNTS[row]] for row in ("base", "all"))
    entry = suite_scores.compare(suite, suite["order"], "first")["two"]
    np.testing.assert_allclose(entry.p, stats.ttest_rel(mine, theirs).pvalue, rtol=1e-9)

  def test_one_seed_of_a_group_has_a_difference_without_a_test(self):
    counts = {"one": COUNTS["all"][:1], "two": COUNTS["base"][:1]}
    suite = suite_case.make_content(counts, groups=dict(one="cold", two="cold"))
    entry = suite_scores.compare(suite, suite["order"], "first")["two"]
    np.testing.assert_allclose(entry.difference, miou(COUNTS["base"][0][1:]) - miou(COUNTS["all"][0][1:]))
    self.assertTrue(math.isnan(entry.p))

  def test_groups_have_no_confusion_matrix(self):
    self.assertEmpty(suite_table.confusion_cells(self.suite, self.suite["order"]))


class NotesTest(absltest.TestCase):
  def test_notes_name_data_devices_seeds_missing_runs_and_random_starts(self):
    suite = suite_case.make_content(COUNTS)
    suite["runs"][0]["results"] = None
    notes = " ".join(suite_table.notes(suite))
    for text in ("toy_data, fine test (4)", "seeds 0, 1, 2", "abacus", "1 of 9 runs are not through"):
      self.assertIn(text, notes)
    self.assertIn("Without pretrained weights, which the paper has: base, gate_1, all.", notes)

  def test_seeds_of_other_images_are_told(self):
    suite = suite_case.make_content(COUNTS)
    suite["data_digests"].append({"fine": {"test": {"sha256": "1", "ids": "0"}}})
    suite["runs"][0]["data"] = 1
    self.assertEqual(suite_scores.of_other_data(suite), ["base"])
    self.assertIn("from seed to seed, no mean can be had: base", " ".join(suite_table.notes(suite)))


class FilesTest(parameterized.TestCase):
  def test_a_csv_reader_finds_every_number(self):
    suite = suite_case.make_content({**COUNTS, "none, yet": []})
    lines = list(csv.DictReader(io.StringIO(suite_table.texts(suite)["table.csv"])))
    self.assertEqual([line["row"] for line in lines], suite["order"])
    for line, (name, seeds) in zip(lines, COUNTS.items()):
      values = [100 * miou(counts) for counts in seeds]
      self.assertAlmostEqual(float(line["miou"]), np.mean(values), places=5)
      self.assertAlmostEqual(float(line["miou_sd"]), np.std(values, ddof=1), places=5)
      self.assertEqual((line["label"], line["data"], line["miou_printed"]), (name, "toy_data", "70.0"))
      shares = [100 * counts.sum(axis=0)[1, 0] / counts.sum() for counts in seeds]
      self.assertAlmostEqual(float(line["fn"]), np.mean(shares), places=5)
      self.assertAlmostEqual(float(line["fn_sd"]), np.std(shares, ddof=1), places=5)
      self.assertEqual((line["fn_printed"], line["group"]), ("", ""))
    self.assertEqual((lines[-1]["label"], lines[-1]["seeds"], lines[-1]["miou"]), ("none, yet", "0", ""))
    self.assertEqual((lines[2]["first_row"], lines[2]["above_row"]), ("base", "gate_1"))

  def test_titles_name_the_data_and_tables_follow_each_other(self):
    texts = suite_table.texts(suite_case.make_content(COUNTS, table={"all": "Another"}))
    self.assertIn("**Toy_table; ours on toy_data**", texts["table.md"])
    self.assertIn("**Another; ours on toy_data**", texts["table.md"])
    self.assertIn(r"\caption{Toy\_table; ours on toy\_data.", texts["table.tex"])
    self.assertIn("**Toy_table; pooled confusion matrix; ours on toy_data**", texts["table.md"])
    self.assertEqual(texts["table.tex"].count(r"\bottomrule"), 4)

  def test_every_markdown_line_has_as_many_cells_as_the_head(self):
    suite = suite_case.make_content({"a|b": COUNTS["base"][:1], "c": COUNTS["all"][:1]})
    lines = [line for line in suite_table.texts(suite)["table.md"].splitlines() if line.startswith("|")]
    cells = [line.replace(r"\|", "").count("|") for line in lines]
    self.assertEqual(cells, [13] * 4 + [7] * 4)

  @parameterized.parameters(
    ("a_b & 5 %", r"a\_b \& 5 \%"), ("#1 $ {x}", r"\#1 \$ \{x\}"), ("\\", r"\textbackslash{}"),
    ("1.0 ± 0.5 – Δ", r"1.0 $\pm$ 0.5 -- $\Delta$"), ("~^", r"\textasciitilde{}\textasciicircum{}"),
    ("<0.001", r"\textless{}0.001"), ("9.81 km²", r"9.81 km\textsuperscript{2}"),
    ("2 × 2", r"2 $\times$ 2"), ("“Printed”", "``Printed''"),
  )  # fmt: skip
  def test_latex_prints_what_is_written(self, text, expected):
    self.assertEqual(suite_table.tex(text), expected)

  def test_latex_rows_have_as_many_cells_as_columns(self):
    text = suite_table.texts(suite_case.make_content({"a & b": COUNTS["base"], "c": COUNTS["all"]}))["table.tex"]
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    self.assertIn(r"\begin{tabular}{l" + "r" * 11 + "}", text)
    self.assertEqual([line.replace(r"\&", "").count("&") for line in rows], [11] * 3 + [5] * 3)

  def test_the_same_suite_gives_the_same_texts(self):
    suite = suite_case.make_content({name: seeds[:1] for name, seeds in COUNTS.items()})
    self.assertEqual(suite_table.texts(suite), suite_table.texts(suite))

  def test_a_picture_is_drawn_of_rows_with_and_without_scores(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "table.png"
    suite_table.draw(suite_case.make_content({**COUNTS, "printed": []}, table={"all": "Another"}), path)
    self.assertEqual(path.read_bytes()[:4], b"\x89PNG")


if __name__ == "__main__":
  absltest.main()
