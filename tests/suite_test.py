"""A suite at toy size: stopped by a signal, struck by a failure, moved, and cut down to its suite.json.

A minute on one core: three toy networks compile, and JAX starts once more for the process that the signal ends.
"""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from configs import suites
from configs.suites import table4
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import suite_table
from minec2f_jax.experiment import run, suite, suite_plan
from tests import suite_case
from tests.toy_folder import write_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent


class SuiteTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    write_folder(cls.root / "data")
    cls.config, cls.folder = suite_case.make_suite(cls.root / "data"), cls.root / "suite"
    cls.status = cls._run_until_second_row()
    cls.stopped = json.loads((cls.folder / "suite.json").read_text())
    cls.trained, real = [], run.train

    def train(config, workdir, **options):
      cls.trained.append(str(pathlib.Path(workdir).relative_to(cls.folder)))
      if len(cls.trained) == 1:
        raise FloatingPointError("the loss is not finite")
      real(config, workdir, **options)

    with mock.patch.object(suite.run, "train", train):
      try:
        suite.run_suite(cls.config, cls.folder)
      except UserError as error:
        cls.failure = str(error)
      cls.half = json.loads((cls.folder / "suite.json").read_text())
      suite.run_suite(cls.config, cls.folder)
    cls.whole = json.loads((cls.folder / "suite.json").read_text())

  @classmethod
  def _run_until_second_row(cls) -> int:
    """Status of a process that is asked to end as soon as it begins with the second run."""
    (cls.root / "config.py").write_text(
      f"from tests import suite_case\nget_config = lambda: suite_case.make_suite({str(cls.root / 'data')!r})\n"
    )
    command = [sys.executable, "launch.py", "--mode=suite", f"--config={cls.root / 'config.py'}"]
    command += [f"--workdir={cls.folder}", "--compilation_cache="]
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True) as process:
      for line in process.stdout:
        if line.startswith("[suite] run 2 of"):
          process.send_signal(signal.SIGTERM)
      return process.wait()

  def test_a_signal_ends_the_suite_between_rows_with_its_table_and_nothing_is_trained_twice(self):
    self.assertEqual(self.status, 128 + signal.SIGTERM)
    ended = {tuple(entry["rows"]): entry["results"] is not None for entry in self.stopped["runs"]}
    self.assertEqual(ended, {("coarse",): True, ("pixel",): False, ("hybrid", "twin"): False})
    # The teacher, which is a row itself, is not among them; what failed is tried again.
    self.assertEqual(self.trained, ["rows/pixel/seed0", "rows/hybrid/seed0", "rows/pixel/seed0"])
    self.assertLen(list((self.folder / "teachers").iterdir()), 1)

  def test_a_run_that_failed_is_told_and_the_others_stand_in_the_table(self):
    self.assertRegex(self.failure, "^1 of 3 runs failed: rows/pixel/seed0: the loss is not finite$")
    by_row = {entry["rows"][0]: entry for entry in self.half["runs"]}
    self.assertEqual(by_row["pixel"]["error"], "the loss is not finite")
    self.assertIsNone(by_row["pixel"]["results"])
    self.assertIsNotNone(by_row["hybrid"]["results"])
    self.assertIsNone(self.whole["runs"][1]["error"])

  def test_the_table_holds_the_scores_of_the_runs(self):
    with (self.folder / "table.csv").open() as file:
      lines = {line["row"]: line for line in csv.DictReader(file)}
    self.assertEqual(tuple(lines), self.config.order)
    for name in ("pixel", "hybrid"):
      rows = json.loads((self.folder / "rows" / name / "seed0" / "results.json").read_text())["rows"]
      student = next(entry for entry in rows if (entry["trained_on"], entry["domain"]) == ("fine", "fine"))
      self.assertAlmostEqual(float(lines[name]["miou"]), 100 * student["scores"]["miou"], places=5)
      counts = np.sum(list(student["counts"].values()), axis=0)
      self.assertAlmostEqual(np.trace(counts) / counts.sum(), student["scores"]["accuracy"], places=12)
    self.assertEqual(lines["twin"]["miou"], lines["hybrid"]["miou"])
    self.assertEqual((lines["printed"]["seeds"], lines["printed"]["miou"]), ("0", ""))
    self.assertEqual(lines["coarse"]["test_split"], "coarse")

  def test_suite_json_holds_of_each_run_what_a_later_reader_needs(self):
    for entry in self.whole["runs"]:
      self.assertRegex(entry["config_sha256"], "^[0-9a-f]{64}$")
      self.assertTrue((self.folder / entry["folder"]).is_dir())
      environment = self.whole["environments"][entry["environment"]]
      self.assertContainsSubset({"device", "packages", "code"}, environment)
      self.assertIn("sha256", self.whole["data_digests"][entry["data"]]["fine"]["test"])
      lines = (self.folder / entry["folder"] / entry["results"][0]["trained_on"] / "metrics.jsonl").read_text()
      scores = [json.loads(line)["validation/miou"] for line in lines.splitlines()]
      best = {"score": max(scores), "epoch": 1 + int(np.argmax(scores)), "epochs": len(scores)}
      self.assertEqual(entry["validation"], best)
      for result in entry["results"]:
        self.assertLen(result["counts"], len(self.whole["image_lists"][result["images"]]))
        cells = [text.split() for text in result["counts"]]
        counts = np.array(cells, int).sum(axis=0)
        self.assertEqual(counts.sum(), result["scores"]["num_pixels"])
        tn, fp, fn, tp = counts
        self.assertAlmostEqual(np.mean([tn / (tn + fp + fn or 1), tp / (tp + fp + fn or 1)]), result["scores"]["miou"])
    self.assertEqual([entry["seconds"] is None for entry in self.half["runs"]], [False, True, False])
    self.assertEqual(self.whole["others"], [])
    self.assertNotIn(str(self.root), (self.folder / "suite.json").read_text())

  def test_all_files_are_there_and_name_the_data(self):
    for name in ("table.md", "table.tex", "table.csv"):
      self.assertRegex((self.folder / name).read_text(), "ours on data|,data,")
    self.assertEqual((self.folder / "table.png").read_bytes()[:4], b"\x89PNG")
    self.assertEmpty([path.name for path in self.folder.iterdir() if "partial" in path.name])

  def _train_nothing(self, config, folder):
    with mock.patch.object(suite.run, "train", side_effect=AssertionError):
      suite.run_suite(config, folder)
    return json.loads((folder / "suite.json").read_text())

  def test_a_finished_suite_trains_nothing_and_its_files_stay_the_same(self):
    names = ("suite.json", "table.md", "table.csv", "table.tex", "table.png")
    before = [(self.folder / name).read_bytes() for name in names]
    self.assertEqual(self._train_nothing(self.config, self.folder), self.whole)
    self.assertEqual([(self.folder / name).read_bytes() for name in names], before)

  def test_a_suite_that_was_moved_is_still_finished(self):
    moved = self.root / "moved"
    shutil.copytree(self.folder, moved)
    self.assertEqual(self._train_nothing(self.config, moved), self.whole)

  def test_groups_of_images_are_kept_with_the_scores_that_tables_show(self):
    folder, config = self.root / "groups", suite_case.make_suite(self.root / "data")
    shutil.copytree(self.folder, folder)
    scores = {"accuracy": 0.9, "mf1": 0.8, "miou": 0.7, "iou_mine": 0.5}
    zones = [{"name": "arid", "num_images": 1, "small": True, "scores": scores, "more": 1}]
    for path in folder.rglob("results.json"):
      found = json.loads(path.read_text())
      found["rows"] = [{**entry, "groups": {"climate zone": zones}} for entry in found["rows"]]
      path.write_text(json.dumps(found))
    config.rows.pixel.group = ("climate zone", "arid")
    suite_json = self._train_nothing(config, folder)
    kept = {
      "name": "arid",
      "num_images": 1,
      "small": True,
      "scores": {key: scores[key] for key in suite_table.SCORES.values()},
    }
    for entry in suite_json["runs"]:
      self.assertEqual([result["groups"] for result in entry["results"]], [{"climate zone": [kept]}] * 2)
    with (folder / "table.csv").open() as file:
      line = next(line for line in csv.DictReader(file) if line["row"] == "pixel")
    self.assertEqual((line["group"], line["seeds"], line["miou"]), ("climate zone: arid", "1", "70.0"))
    shutil.rmtree(folder / "rows")  # What suite.json holds is enough.
    self.assertEqual(self._train_nothing(config, folder), suite_json)

  def test_suite_json_alone_keeps_the_results(self):
    alone = self.root / "alone"
    alone.mkdir()
    shutil.copy(self.folder / "suite.json", alone)
    self.assertEqual(self._train_nothing(self.config, alone), self.whole)

  def test_a_suite_of_some_rows_keeps_the_results_of_the_others(self):
    alone, config = self.root / "some", suite_case.make_suite(self.root / "data")
    alone.mkdir()
    shutil.copy(self.folder / "suite.json", alone)
    config.order = ("pixel",)
    some = self._train_nothing(config, alone)
    self.assertLen([entry for entry in some["runs"] if entry["rows"]], 1)
    self.assertEqual(self._train_nothing(self.config, alone)["runs"], self.whole["runs"])

  def test_more_seeds_train_what_is_missing_alone(self):
    alone, config, trained = self.root / "seeds", suite_case.make_suite(self.root / "data"), []
    alone.mkdir()
    shutil.copy(self.folder / "suite.json", alone)
    config.seeds = (1, 0)
    with mock.patch.object(suite.run, "train", lambda config, *_, **__: trained.append((config.seed, config.stages))):
      suite.run_suite(config, alone)
    self.assertEqual(trained, [(1, ("coarse",)), (1, ("fine",)), (1, ("fine",))])

  def test_a_row_that_is_yet_to_learn_needs_its_teacher_again(self):
    alone, config = self.root / "one_more", suite_case.make_suite(self.root / "data")
    alone.mkdir()
    shutil.copy(self.folder / "suite.json", alone)
    config.rows.image, config.order = table4.get_config().rows.image, ("coarse", "image", "pixel")
    with mock.patch.object(suite.run, "train", side_effect=UserError("no")) as train:
      with self.assertRaisesRegex(UserError, "teachers/.*: no; rows/image/seed0: its teacher .* failed"):
        suite.run_suite(config, alone)
    train.assert_called_once()

  @parameterized.parameters('{"runs": []}', '{"version": 2}', "[1]", '{"version": 1, "runs": [{}], "others": []}')
  def test_another_file_of_that_name_is_refused(self, content):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (folder / "suite.json").write_text(content)
    with self.assertRaisesRegex(UserError, r"suite\.json"):
      suite.run_suite(self.config, folder)

  def test_another_base_is_another_run(self):
    config, copy = suite_case.make_suite(self.root / "data"), self.root / "copy"
    shutil.copytree(self.folder, copy)
    config.base.optimizer.learning_rate = 2e-2
    with self.assertRaisesRegex(UserError, "holds a run with another config.optimizer.learning_rate"):
      suite.run_suite(config, copy)

  def test_a_run_that_notes_its_pretrained_weights_is_finished(self):
    copy = self.root / "pretrained"
    shutil.copytree(self.folder, copy)
    job = next(job for job in suite_plan.plan(self.config, copy) if "pixel" in job.rows)
    path = job.folder / "config.json"
    noted = json.loads(path.read_text())
    for asked, found, expected in (("w.h5", "w.h5", True), ("w.h5", "v.h5", False), (None, "w.h5", False)):
      job.config.pretrained = asked
      path.write_text(json.dumps({**noted, "pretrained": found, "pretrained_sha256": "ab" * 32}))
      self.assertEqual(suite_plan.finished(job), expected)


class PlanTest(parameterized.TestCase):
  @parameterized.parameters(
    ("table1", 3, 17), ("table2", 0, 2), ("table3", 1, 4), ("table4", 1, 5), ("table5", 0, 3), ("table13", 0, 4),
    ("table11", 1, 1), ("table14", 3, 3), ("input_size", 0, 6), ("ablations", 1, 13), ("choices", 4, 11),
  )  # fmt: skip
  def test_each_distinct_run_is_planned_once_a_seed(self, name, teachers, runs):
    config = suite_case.load(name).lock()  # As the command line hands it over.
    jobs = suite_plan.plan(config, pathlib.Path("suite"))
    self.assertLen([job for job in jobs if not job.rows], teachers * len(config.seeds))
    self.assertLen([job for job in jobs if job.rows], runs * len(config.seeds))
    self.assertLen({job.folder for job in jobs}, len(jobs))
    shown = sorted((job.seed, row) for job in jobs for row in job.rows)
    trained = [row for row in config.order if config.rows[row].trained]
    self.assertEqual(shown, sorted((seed, row) for seed in config.seeds for row in trained))
    before = set()
    for job in jobs:  # Who teaches comes first.
      self.assertTrue(job.config.teacher is None or job.config.teacher in before)
      before.add(str(job.folder))

  def test_a_folder_does_not_depend_on_which_rows_are_asked_for(self):
    config = suite_case.load("ablations")
    whole = {row: job.folder for job in suite_plan.plan(config, pathlib.Path("suite")) for row in job.rows}
    config.order = tuple(reversed(config.order[3:8]))
    some = {row: job.folder for job in suite_plan.plan(config, pathlib.Path("suite")) for row in job.rows}
    self.assertEqual(some, {row: whole[row] for row in config.order})

  def test_a_teacher_depends_on_bands_and_task_1_alone(self):
    config = suite_case.load("table4")
    config.rows.pixel.overrides.coarse = {"epochs": 7}
    config.rows.hybrid.overrides.data.bands = suites.RGB
    jobs = suite_plan.plan(config, pathlib.Path("suite"))
    self.assertLen({job.folder for job in jobs if not job.rows and job.seed == 0}, 3)

  def test_a_fingerprint_is_the_same_wherever_the_suite_lies(self):
    here, there = (suite_plan.plan(suite_case.load("table4"), pathlib.Path(folder)) for folder in ("/a", "/b/c"))
    self.assertEqual(*([suite_plan.fingerprint(job.config) for job in jobs] for jobs in (here, there)))
    self.assertLen({suite_plan.fingerprint(job.config) for job in here}, len(here))

  def test_a_fingerprint_is_the_same_wherever_the_data_lie(self):
    config, found = suite_case.load("table4").base, []
    for fine, weights in (("/a/mines", "/a/w.h5"), ("b/mines", "w.h5"), ("b/pits", "w.h5"), ("b/mines", "v.h5")):
      config.data.fine.path, config.pretrained = fine, weights
      found.append(suite_plan.fingerprint(config))
    self.assertEqual((len(set(found)), found[0]), (3, found[1]))
    prepared = [f"{root}/mining_fine/{name}/1.0.0" for root, name in (("/a", "x"), ("/b", "x"), ("/a", "y"))]
    found = []
    for config.data.fine.path in prepared:
      found.append(suite_plan.fingerprint(config))
    self.assertEqual((len(set(found)), found[0]), (2, found[1]))

  def test_folders_of_one_name_are_refused(self):
    config = suite_case.load("coarse_composition", "")
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config.order, config.base.data.fine.path = ("full", "least_128"), str(root / "fine")
    for name, folder in (("full", "a/chips"), ("least_128", "b/chips")):
      config.rows[name].overrides.data.coarse.path = str(root / folder)
    for folder in ("fine", "a/chips", "b/chips"):
      (root / folder).mkdir(parents=True)
      (root / folder / "index.csv").touch()
    with self.assertRaisesRegex(UserError, "/a/chips, .*/b/chips: rows learn .* called 'chips' alike"):
      suite_plan.check_suite(config)

  def test_a_machine_changes_no_fingerprint_and_all_else_does(self):
    config = suite_case.load("table4").base
    before = suite_plan.fingerprint(config)
    config.data.update(dict(cache_gb=1.0, device_gb=0.0, read_threads=1, data_dir="elsewhere", gsd_m=10.0))
    config.checkpoint_minutes = 1.0
    self.assertEqual(suite_plan.fingerprint(config), before)
    for section, name, value in (("data", "batch_size", 4), ("fine", "epochs", 3), ("model", "dtype", "bfloat16")):
      with self.subTest(name):
        config[section][name] = value
        self.assertNotEqual(suite_plan.fingerprint(config), before)

  def test_rows_win_over_the_base_and_the_base_over_the_paper(self):
    config = suite_case.load("table4")
    config.base.fine.epochs, config.base.distillation.selection = 7, "image"
    row = suite_plan.row_config(config, "pixel", 5)
    self.assertEqual((row.fine.epochs, row.distillation.selection, row.seed), (7, "pixel", 5))

  def test_another_architecture_replaces_the_network(self):
    config = suite_case.load("table1")
    prithvi = suite_plan.row_config(config, "prithvi", 0)
    self.assertEqual(set(prithvi.model), {"architecture", "encoder", "decoder", "dtype"})
    self.assertNotIn("block_sizes", prithvi.model.encoder)
    self.assertIn("block_sizes", suite_plan.row_config(config, "fpn", 0).model.encoder)

  @parameterized.parameters(
    (lambda c: c.update(seeds=()), r"config\.seeds=\(\)"),
    (lambda c: c.update(seeds=(1, 1)), r"config\.seeds=\(1, 1\)"),
    (lambda c: c.base.data.update(batch_size=0), r"Row 'none', .*'hybrid': config.data.batch_size=0"),
    (lambda c: c.update(order=()), r"config\.order=\(\): .*'hybrid'"),
    (lambda c: c.update(order=("none", "best")), r"config\.order=\('none', 'best'\)"),
    (lambda c: c.rows.image.update(domain="medium"), r"Row 'image': domain='medium': choose one of"),
    (lambda c: c.rows.image.update(group=("climate zone",)), r"Row 'image': group=\('climate zone',\): give \(\)"),
    (lambda c: c.rows.image.update(group=("climate", "arid")), r"Row 'image': group=.* one of \('climate zone', "),
    (lambda c: c.rows.image.__delattr__("paper"), r"Row 'image': a row holds domain, group, label"),
    (
      lambda c: c.base.data.fine.update(builder=""),
      r"Row 'none', .*: config\.data\.fine\.path is not set.*config.base.X",
    ),
  )
  def test_a_faulty_suite_is_refused_before_anything_starts(self, break_it, message):
    config = suite_case.load("table4")
    break_it(config)
    with self.assertRaisesRegex(UserError, message):
      suite_plan.check_suite(config)

  def test_a_row_that_is_not_trained_needs_no_data(self):
    config = suite_case.load("coarse_composition", "")
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (folder / "index.csv").touch()
    config.base.data.fine.path = str(folder)
    with self.assertRaisesRegex(UserError, r"^Row 'full', .*, 'fine_filtered_100': config\.data\.coarse\.path is not"):
      suite_plan.check_suite(config)
    for name in config.order:
      config.rows[name].trained = name == "full"
    config.rows.full.overrides.data.coarse.path = str(folder)
    suite_plan.check_suite(config)
    self.assertLen(suite_plan.plan(config, pathlib.Path("suite")), len(config.seeds))

  def test_an_experiment_is_no_suite(self):
    with self.assertRaisesRegex(UserError, "no base or order or rows or seeds or title, so it is no suite"):
      suite_plan.check_suite(suite_case.load("table4").base)


if __name__ == "__main__":
  absltest.main()
