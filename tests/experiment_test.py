"""Whole runs on a folder of GeoTIFFs, through launch.py as a user starts it, and the mistakes users make."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax import console, experiment
from minec2f_jax.errors import UserError
from tests.rasters import write_geotiff
from tests.toy_folder import NAMES, run_config, write_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent


class ExperimentTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "with a space"
    cls.data, cls.workdir = cls.root / "data", cls.root / "run"
    write_folder(cls.data)
    cls._train(run_config(cls.data), cls.workdir)

  @classmethod
  def _train(cls, config, workdir):
    """As launch.py does, which keeps programs: most runs here have the same ones."""
    experiment.train(config, workdir, cache=cls.root / "programs")

  def test_a_run_leaves_table_figures_metrics_config_and_checkpoints(self):
    for name in ("config.json", "results.txt", "results.md", "results.json", "curves.png"):
      self.assertTrue((self.workdir / name).is_file(), name)
    for stage in experiment.DOMAINS:
      self.assertTrue((self.workdir / f"panel_{stage}.png").is_file())
      self.assertTrue((self.workdir / stage / "metrics.jsonl").is_file())
      self.assertNotEmpty(list((self.workdir / stage).glob("events.out.tfevents.*")))
      self.assertNotEmpty(list((self.workdir / stage / "checkpoints").iterdir()))

  def test_teacher_and_student_are_tested_on_both_domains(self):
    rows = json.loads((self.workdir / "results.json").read_text())["rows"]
    self.assertEqual(
      [(row["model"], row["tested_on"]) for row in rows],
      [
        ("teacher", "fine test (1)"),
        ("teacher", "coarse test (1)"),
        ("student", "fine test (1)"),
        ("student", "coarse test (1)"),
      ],
    )
    for row in rows:
      self.assertEqual(row["scores"]["num_pixels"], 32 * 32)  # One test chip a domain.
      self.assertEqual(row["intervals"]["miou"]["value"], row["scores"]["miou"])

  def test_transfer_is_that_of_the_four_scores(self):
    result = json.loads((self.workdir / "results.json").read_text())
    miou = {(row["trained_on"], row["domain"]): row["scores"]["miou"] for row in result["rows"]}
    found = result["transfer"]["miou"]
    self.assertAlmostEqual(found["backward"], miou["fine", "coarse"] - miou["coarse", "coarse"])
    self.assertAlmostEqual(found["average"], (miou["fine", "coarse"] + miou["fine", "fine"]) / 2)
    self.assertIsNone(found["forward"])

  def test_evaluating_again_gives_the_same_numbers(self):
    before = (self.workdir / "results.json").read_text()
    (self.workdir / "results.json").unlink()
    experiment.evaluate(run_config(self.data), self.workdir, cache=self.root / "programs")
    self.assertEqual((self.workdir / "results.json").read_text(), before)

  def test_another_config_in_the_same_workdir_is_refused_by_field_and_values(self):
    config = run_config(self.data)
    config.optimizer.learning_rate = 0.5
    with self.assertRaisesRegex(UserError, r"config\.optimizer\.learning_rate \(0\.01 there, 0\.5 here\)"):
      self._train(config, self.workdir)

  def test_what_a_network_computes_in_is_no_part_of_the_run(self):
    config, workdir = run_config(self.data), self.root / "dtype"
    shutil.copytree(self.workdir, workdir)
    config.model.dtype = "float32"  # "auto" there.
    experiment.evaluate(config, workdir, cache=self.root / "programs")
    read = lambda folder: json.loads((folder / "results.json").read_text())["rows"]
    self.assertEqual(read(workdir), read(self.workdir))

  @parameterized.parameters([("coarse", "fine")], [("fine",)])
  def test_a_teacher_of_another_run_is_reused(self, stages):
    config = run_config(self.data)
    config.teacher, config.stages = str(self.workdir), stages
    workdir = self.root / "reuse" / str(len(stages))
    self._train(config, workdir)
    self.assertFalse((workdir / "coarse").exists())
    first, second = (json.loads((folder / "results.json").read_text())["rows"] for folder in (self.workdir, workdir))
    self.assertEqual(first[:2], second[:2])  # The same teacher.

  def test_a_teacher_of_other_bands_is_refused_by_name(self):
    config = run_config(self.data)
    config.teacher, config.data.bands = str(self.workdir), NAMES[:4]
    with self.assertRaisesRegex(UserError, r"config\.data\.bands .*swir1.* there"):
      self._train(config, self.root / "bands")

  def test_a_teacher_of_another_width_is_refused_by_name(self):
    config = run_config(self.data)
    config.teacher, config.model.encoder.growth_rate = str(self.workdir), 8
    with self.assertRaisesRegex(UserError, r"config\.model\.encoder\.growth_rate \(4 there, 8 here\)"):
      self._train(config, self.root / "width")

  def test_a_run_without_a_teacher_is_refused_as_one_and_says_what_it_has(self):
    config = run_config(self.data)
    config.teacher = str(self.workdir / "fine")
    with self.assertRaisesRegex(UserError, r"config\.coarse\.method|config\.fine\.method"):
      self._train(config, self.root / "wrong")
    config.teacher = str(self.root / "nowhere")
    with self.assertRaisesRegex(UserError, r"nowhere holds no checkpoint of the stage 'coarse'.*none"):
      self._train(config, self.root / "wrong")

  def test_an_unfinished_teacher_is_taken_with_a_warning(self):
    unfinished = self.root / "unfinished"
    shutil.copytree(self.workdir / "coarse", unfinished / "coarse")
    (unfinished / "coarse" / "finished.json").unlink()
    config = run_config(self.data)
    method = experiment.wire(config)["coarse"].method
    with mock.patch.object(console, "say") as say:
      experiment.load_stage(config, "coarse", method, unfinished)
      experiment.load_stage(config, "coarse", method, self.workdir)
    say.assert_called_once()
    self.assertIn("unfinished", say.call_args.args[0])

  def test_task_1_cannot_be_prolonged_once_task_2_has_taken_its_teacher(self):
    config = run_config(self.data)
    config.coarse.epochs = 2
    with self.assertRaisesRegex(UserError, r"config\.coarse\.epochs \(1 there, 2 here\)"):
      self._train(config, self.workdir)

  def test_evaluating_with_another_config_is_refused_and_leaves_the_table(self):
    before = (self.workdir / "results.json").read_text()
    config = run_config(self.data)
    config.seed = 7
    with self.assertRaisesRegex(UserError, r"config\.seed \(0 there, 7 here\)"):
      experiment.evaluate(config, self.workdir)
    self.assertEqual((self.workdir / "results.json").read_text(), before)

  def test_a_mistake_in_task_2_costs_no_task_1_and_can_be_corrected_in_the_same_workdir(self):
    config, workdir = run_config(self.data), self.root / "typo"
    config.data.fine.path = "/no/such/place"
    with self.assertRaisesRegex(UserError, "/no/such/place"):
      self._train(config, workdir)
    self.assertFalse((workdir / "coarse").exists())
    config.data.fine.path, config.stages = str(self.data), ("coarse",)
    self._train(config, workdir)
    config.stages, config.fine.epochs = ("coarse", "fine"), 1
    self._train(config, workdir)  # Task 2 may still be given other values than at the start.
    self.assertLen(json.loads((workdir / "results.json").read_text())["rows"], 4)

  def test_a_damaged_config_file_is_named(self):
    workdir = self.root / "damaged"
    shutil.copytree(self.workdir, workdir)
    (workdir / "config.json").write_text('{"seed": 0, "da')
    with self.assertRaisesRegex(UserError, r"config\.json cannot be read"):
      self._train(run_config(self.data), workdir)

  def test_images_without_a_valid_pixel_are_refused_by_split(self):
    data = self.root / "nan"
    write_folder(data)
    for path in (data / "images").iterdir():
      write_geotiff(path, np.full((6, 32, 32), np.nan, np.float32), NAMES)
    config = run_config(data)
    config.data.sensor = "reflectance"
    with self.assertRaisesRegex(UserError, "no pixel of the coarse train split is valid"):
      self._train(config, self.root / "nan_run")

  def test_coarse_labels_made_of_fine_masks_are_a_function_of_seed_and_id(self):
    config = run_config(self.data)
    one, two = (experiment.open_source(config, "coarse", "train") for _ in range(2))
    np.testing.assert_array_equal(one[0]["label"], two[0]["label"])
    config.seed = 1
    other = experiment.open_source(config, "coarse", "train")
    self.assertTrue(any(np.any(one[i]["label"] != other[i]["label"]) for i in range(len(one))))


class LaunchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _launch(self, *arguments):
    command = [sys.executable, "launch.py", f"--workdir={self.root / 'run'}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

  def test_without_data_it_says_in_one_line_how_to_get_them(self):
    result = self._launch("--config=configs/fine_hybrid.py")
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, r"launch\.py: config\.data\.coarse\.path is not set.*:demo")
    self.assertNotIn("Traceback", result.stderr)

  def test_bands_that_a_folder_lacks_are_named(self):
    write_folder(self.root / "data")
    for path in (self.root / "data" / "images").iterdir():
      write_geotiff(path, np.zeros((3, 32, 32), np.int16), NAMES[:3])
    result = self._launch(
      "--config=configs/fine_hybrid.py",
      f"--config.data.coarse.path={self.root / 'data'}",
      "--config.data.sensor=reflectance_x10000",
    )
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, "nir.*swir1.*swir2")
    self.assertNotIn("Traceback", result.stderr)

  def test_integers_without_a_sensor_are_refused_before_any_training(self):
    write_folder(self.root / "data")
    result = self._launch("--config=configs/fine_hybrid.py", f"--config.data.coarse.path={self.root / 'data'}")
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, r"data\.sensor")
    self.assertFalse((self.root / "run" / "coarse").exists())

  @parameterized.parameters(
    (("--config=configs/nope.py",), "nope"),
    (("--config=configs/fine_hybrid.py:dmo",), "dmo"),
    (("--config=configs/fine_hybrid.py", "--config.data.batchsize=3"), "batchsize"),
    (("--config=configs/fine_hybrid.py:demo", "--config.data.data_dir=/proc/nowhere"), "/proc/nowhere"),
  )
  def test_a_slip_on_the_command_line_gets_one_line(self, arguments, named):
    result = self._launch(*arguments)
    self.assertNotEqual(result.returncode, 0)
    self.assertIn(named, result.stderr)
    self.assertNotIn("Traceback", result.stderr)

  def test_a_signal_ends_the_run_with_its_own_status_and_the_same_command_goes_on(self):
    write_folder(self.root / "data")
    toy_flags = [
      "--config=configs/coarse.py", f"--config.data.coarse.path={self.root / 'data'}",
      "--config.data.sensor=reflectance_x10000", "--config.data.image_size=32",
      "--config.data.batch_size=2", "--config.model.encoder.block_sizes=(1,1,1,1)",
      "--config.model.encoder.growth_rate=4", "--config.model.encoder.stem_features=4",
      "--config.model.decoder.pyramid_features=8", "--config.model.decoder.segmentation_features=4",
    ]  # fmt: skip
    command = [sys.executable, "launch.py", f"--workdir={self.root / 'run'}", *toy_flags]
    endless = [*command, "--config.coarse.epochs=1000", "--config.optimizer.stop_patience=1000"]
    with subprocess.Popen(endless, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
      for line in process.stdout:
        if "epoch 4/" in line:
          process.send_signal(signal.SIGINT)
          break
      _, errors = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 128 + signal.SIGINT)
    self.assertIn("interrupted; the same command goes on", errors)
    command += ["--config.coarse.epochs=40", "--config.optimizer.stop_patience=1000"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertRegex(result.stdout, r"goes on after epoch \d+ ")
    lines = (self.root / "run" / "coarse" / "metrics.jsonl").read_text().splitlines()
    self.assertEqual([json.loads(line)["step"] for line in lines], list(range(2, 82, 2)))

  def test_a_folder_that_does_not_exist_is_named(self):
    result = self._launch("--config=configs/fine_hybrid.py", "--config.data.coarse.path=/no/such/place")
    self.assertEqual(result.returncode, 1)
    self.assertIn("/no/such/place", result.stderr)


if __name__ == "__main__":
  absltest.main()
