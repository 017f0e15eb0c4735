"""A suite of two rows at toy size, through a failure. Half a minute or more: three runs of toy networks."""

import csv
import importlib
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from configs import suites
from configs.suites import table4
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import run, suite
from tests.toy_folder import run_config, write_folder


def make_suite(data: pathlib.Path):
  """Two rows of Table 4, which share their teacher; one seed."""
  config = table4.get_config()
  config.base, config.seeds = run_config(data), (0,)
  config.order = ("pixel", "hybrid")
  return config


class SuiteTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    write_folder(cls.root / "data")
    cls.config, cls.folder = make_suite(cls.root / "data"), cls.root / "suite"
    cls.trained, real = [], run.train

    def train(config, workdir, **options):
      cls.trained.append(str(pathlib.Path(workdir).relative_to(cls.folder)))
      if len(cls.trained) == 2:  # Its second row fails, as a disk may be full.
        raise UserError("the disk is full")
      real(config, workdir, **options)

    with mock.patch.object(suite.run, "train", train):
      try:
        suite.run_suite(cls.config, cls.folder)
      except UserError as error:
        cls.failure = str(error)
      cls.half = json.loads((cls.folder / "suite.json").read_text())
      suite.run_suite(cls.config, cls.folder)
    cls.whole = json.loads((cls.folder / "suite.json").read_text())

  def test_a_teacher_is_trained_once_and_what_failed_once_more(self):
    teacher = next(name for name in self.trained if name.startswith("teachers/"))
    rows = [f"rows/{name}/seed0" for name in ("pixel", "hybrid")]
    self.assertEqual(self.trained, [teacher, *rows, rows[0]])

  def test_a_run_that_failed_is_told_and_the_others_stand_in_the_table(self):
    self.assertRegex(self.failure, "1 of 3 runs failed: rows/pixel/seed0: the disk is full")
    by_row = {entry["row"]: entry for entry in self.half["runs"]}
    self.assertEqual(by_row["pixel"]["error"], "the disk is full")
    self.assertIsNone(by_row["pixel"]["results"])
    self.assertIsNotNone(by_row["hybrid"]["results"])

  def test_the_table_holds_the_scores_of_the_runs(self):
    with (self.folder / "table.csv").open() as file:
      lines = list(csv.DictReader(file))
    for line, name in zip(lines, self.config.order, strict=True):
      rows = json.loads((self.folder / "rows" / name / "seed0" / "results.json").read_text())["rows"]
      student = next(entry for entry in rows if (entry["trained_on"], entry["domain"]) == ("fine", "fine"))
      self.assertEqual(line["mIoU"], f"{100 * student['scores']['miou']:.2f}")
      self.assertEqual(line["mIoU, paper"], f"{self.config.rows[name].paper.miou:.2f}")
      counts = np.sum(list(student["counts"].values()), axis=0)
      self.assertAlmostEqual(np.trace(counts) / counts.sum(), student["scores"]["accuracy"], places=12)

  def test_all_files_are_there_and_name_the_data(self):
    for name in ("table.md", "table.tex"):
      self.assertIn("Data: data, fine test split", (self.folder / name).read_text())
    self.assertEqual((self.folder / "table.png").read_bytes()[:4], b"\x89PNG")

  def test_a_finished_suite_trains_nothing(self):
    with mock.patch.object(suite.run, "train", side_effect=AssertionError):
      suite.run_suite(self.config, self.folder)
    again = json.loads((self.folder / "suite.json").read_text())
    self.assertEqual(again, self.whole)

  def test_more_seeds_keep_what_is_there(self):
    config = make_suite(self.root / "data")
    config.seeds = (0, 1)
    jobs = [job for job in suite.plan(config, self.folder) if not suite.finished(job)]
    self.assertEqual([job.seed for job in jobs], [1] * 3)

  def test_another_base_is_another_run(self):
    config = make_suite(self.root / "data")
    config.base.optimizer.learning_rate = 2e-2
    with self.assertRaisesRegex(UserError, "holds a run with another config.optimizer.learning_rate"):
      suite.run_suite(config, self.folder)


class PlanTest(parameterized.TestCase):
  @parameterized.parameters(("table3", 1), ("table4", 1), ("table5", 0), ("table13", 0))
  def test_each_distinct_teacher_is_planned_once_a_seed(self, name, teachers):
    config = load(name)
    jobs = suite.plan(config, pathlib.Path("suite"))
    self.assertLen([job for job in jobs if job.row is None], teachers * len(config.seeds))
    self.assertEqual([job.row for job in jobs if job.row], [*config.order] * len(config.seeds))
    self.assertLen({job.folder for job in jobs}, len(jobs))

  def test_a_teacher_depends_on_bands_and_task_1_alone(self):
    config = load("table4")
    config.rows.pixel.overrides.coarse = {"epochs": 7}
    config.rows.hybrid.overrides.data.bands = suites.RGB
    jobs = suite.plan(config, pathlib.Path("suite"))
    self.assertLen({job.folder for job in jobs if job.row is None and job.seed == 0}, 3)

  def test_rows_win_over_the_base_and_the_base_over_the_paper(self):
    config = load("table4")
    config.base.fine.epochs, config.base.distillation.selection = 7, "image"
    row = suite.row_config(config, "pixel", 5)
    self.assertEqual((row.fine.epochs, row.distillation.selection, row.seed), (7, "pixel", 5))

  @parameterized.parameters(
    (lambda c: c.update(seeds=()), r"config\.seeds=\(\)"),
    (lambda c: c.update(seeds=(1, 1)), r"config\.seeds=\(1, 1\)"),
    (lambda c: c.base.data.update(batch_size=0), r"row 'none' of the suite: .*config\.data\.batch_size=0"),
    (lambda c: c.update(order=()), r"config\.order=\(\): .*'hybrid'"),
    (lambda c: c.update(order=("none", "best")), r"config\.order=\('none', 'best'\)"),
  )
  def test_a_faulty_suite_is_refused_before_anything_starts(self, break_it, message):
    config = load("table4")
    break_it(config)
    with self.assertRaisesRegex(UserError, message):
      suite.check_suite(config)

  def test_an_experiment_is_no_suite(self):
    with self.assertRaisesRegex(UserError, "no base or order or rows or seeds or title, so it is no suite"):
      suite.check_suite(load("table4").base)


def load(name: str):
  """A suite by its name, on the demo data."""
  return importlib.import_module(f"configs.suites.{name}").get_config("demo")


if __name__ == "__main__":
  absltest.main()
