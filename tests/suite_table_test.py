"""The table of a suite against NumPy and SciPy, and its formats against their readers."""

import csv
import io
import pathlib
import tempfile

import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from minec2f_jax.evaluation import suite_table

MIOU = {"a": [0.5, 0.6, 0.7], "b": [0.65, 0.7, 0.95], "c": [0.6, 0.8]}  # The last seed of c is not through.


def _run(row: str, seed: int, miou: float | None) -> dict:
  scores = lambda value: {"accuracy": value, "mf1": value, "miou": value}
  results = None
  if miou is not None:
    results = [
      {"trained_on": "coarse", "domain": "fine", "scores": scores(0.1)},
      {"trained_on": "fine", "domain": "fine", "scores": scores(miou)},
      {"trained_on": "fine", "domain": "coarse", "scores": scores(0.2)},
    ]
  return {"row": row, "seed": seed, "results": results, "environment": results and {"device": "abacus"}}


def _suite() -> dict:
  runs = [_run(row, seed, miou) for row, values in MIOU.items() for seed, miou in enumerate(values)]
  paper = {"accuracy": 90.0, "mf1": 80.0, "miou": 70.5}
  rows = {row: {"label": f"{row} & 50 %_| x", "paper": paper} for row in MIOU}
  return {"title": "T", "data": "toy", "seeds": [0, 1, 2], "rows": rows, "runs": [*runs, _run("c", 2, None)]}


class SuiteTableTest(parameterized.TestCase):
  def _cells(self) -> dict[str, dict[str, str]]:
    head, *body = suite_table.cells(_suite())
    return {row: dict(zip(head, line)) for row, line in zip(MIOU, body, strict=True)}

  def test_means_deviations_and_tests_are_those_of_numpy_and_scipy(self):
    found = self._cells()
    for row, values in MIOU.items():
      expected = f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"
      self.assertEqual(found[row]["mIoU"], expected)
      self.assertEqual((found[row]["Seeds"], found[row]["mIoU, paper"]), (str(len(values)), "70.50"))
    first = scipy.stats.ttest_rel(MIOU["b"], MIOU["a"])
    second = scipy.stats.ttest_rel(MIOU["c"], MIOU["b"][:2])  # Of the seeds that both have.
    adjusted = [min(2 * min(first.pvalue, second.pvalue), 1.0), max(first.pvalue, second.pvalue)]
    adjusted = (
      np.maximum.accumulate(adjusted) if first.pvalue < second.pvalue else np.maximum.accumulate(adjusted)[::-1]
    )
    for row, test, holm, pair in (("b", first, adjusted[0], "ab"), ("c", second, adjusted[1], "bc")):
      low, high = 100 * np.array(test.confidence_interval())
      seeds = len(MIOU["c"]) if row == "c" else 3
      gain = 100 * np.mean(np.subtract(MIOU[pair[1]][:seeds], MIOU[pair[0]][:seeds]))
      self.assertEqual(found[row]["Δ mIoU to the row above"], f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]")
      self.assertEqual(found[row]["p (Holm)"], f"{test.pvalue:.3f} ({holm:.3f})")
    self.assertEqual(found["a"]["p (Holm)"], "–")

  def test_one_seed_has_no_deviation_and_no_test(self):
    suite = _suite()
    suite["runs"] = [run for run in suite["runs"] if run["seed"] == 0]
    line = suite_table.cells(suite)[2]
    self.assertEqual(line[-4:], ["65.00", "70.50", "+15.00", "–"])

  def test_a_row_without_a_run_stays_empty(self):
    suite = _suite()
    suite["runs"] = [run for run in suite["runs"] if run["row"] != "b"]
    self.assertEqual(suite_table.cells(suite)[2][1:], ["0", "–", "90.00", "–", "80.00", "–", "70.50", "–", "–"])

  def test_csv_comes_back_and_latex_and_markdown_escape_what_means_something_there(self):
    lines = suite_table.cells(_suite())
    self.assertEqual(list(csv.reader(io.StringIO(suite_table.to_csv(lines)))), lines)
    tex = suite_table.to_latex("T_1", lines, ["50 %"])
    self.assertIn(r"a \& 50 \%\_| x & 3 &", tex)
    self.assertIn(r"\caption{T\_1. 50 \%}", tex)
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    self.assertEqual({line.replace(r"\&", "").count("&") for line in body}, {len(lines[0]) - 1})
    self.assertIn(r"| a & 50 %_\| x | 3 |", suite_table.to_markdown("T", lines, []))

  def test_all_formats_are_written_and_what_is_missing_is_said(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    suite_table.write(_suite(), folder)
    self.assertEqual(
      {path.name for path in folder.iterdir()}, {f"table.{kind}" for kind in ("md", "csv", "tex", "png")}
    )
    self.assertIn("1 of 9 runs are not through yet", (folder / "table.md").read_text())
    self.assertIn("Devices: abacus", (folder / "table.md").read_text())


if __name__ == "__main__":
  absltest.main()
