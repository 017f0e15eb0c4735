"""What the doctor says of runs that are in order and of those that are not, each made so for real."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax import console, experiment
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import data, doctor, estimates, outlook
from tests.rasters import write_geotiff
from tests.toy_folder import NAMES, run_config, write_folder

SPEED = estimates.Work(1e11, 1e10)
COST = estimates.Cost(
  epochs=10,
  steps_per_epoch=4,
  step=estimates.Work(7e10, 0.0),  # A second at SPEED.
  validation=estimates.Work(0.0, 0.0),
  state_bytes=1000,
  frozen_bytes=100,
  temporary_bytes=10000,
)


class DoctorTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.data, cls.workdir = cls.root / "data", cls.root / "run"
    write_folder(cls.data)
    cls.enterClassContext(mock.patch.object(estimates, "_MEASURED_S", 0.01))

  def setUp(self):
    super().setUp()
    self.config = run_config(self.data)

  def _findings(self, workdir=None) -> dict[str, doctor.Finding]:
    """By what they are about. Networks are not traced again."""
    with (
      mock.patch.object(doctor, "check_config"),
      mock.patch.object(estimates, "stage_costs", return_value={"coarse": COST}),
    ):
      return {finding.what: finding for finding in doctor.examine(self.config, workdir or self.workdir)}

  def _assert_finding(self, finding, level, pattern):
    self.assertEqual(finding.level, level, finding)
    self.assertRegex(f"{finding.value} {finding.remedy}", pattern)

  def test_a_run_that_is_in_order_is_told_what_it_takes_and_nothing_is_written(self):
    before = sorted(self.root.rglob("*"))
    with mock.patch.object(console, "say") as say:
      doctor.doctor(self.config, str(self.workdir))
    lines = [call.args[0] for call in say.call_args_list]
    self.assertEqual(lines[-1], "nothing is wrong; warnings: 0")
    self.assertEqual({line.split()[0] for line in lines[:-1]}, {"ok"})
    for what in (
      "devices", "config", "coarse train", "fine validation", "coarse test", "workdir", "disk", "memory", "coarse time",
      "fine time",
    ):  # fmt: skip
      self.assertTrue(any(line[9:].startswith(what) for line in lines), what)
    self.assertTrue(any(line[9:].startswith("time ") and "(estimate)" in line for line in lines))
    self.assertEqual(sorted(self.root.rglob("*")), before)

  def test_all_errors_are_said_at_once_and_named_together(self):
    self.config.data.fine.path = self.config.teacher = "/no/such/place"
    self.config.optimizer.learning_rate = -1.0
    (self.root / "file").touch()
    with (
      mock.patch.object(console, "say") as say,
      self.assertRaisesRegex(UserError, "wrong: config, fine train, teacher, workdir"),
    ):
      doctor.doctor(self.config, self.root / "file" / "run")
    said = "\n".join(call.args[0] for call in say.call_args_list)
    self.assertRegex(said, r"error    config .*learning_rate=-1\.0")
    self.assertRegex(said, "error    workdir .*file is a file")
    self.assertNotIn(" time ", said)  # Nothing is estimated of what cannot be.

  def test_data_are_described_split_by_split(self):
    found = self._findings()
    self._assert_finding(
      found["coarse train"], "ok", r"^4 images, .* of 4 read, 100% of the pixels valid, \d+\.\d% mine"
    )
    self._assert_finding(found["fine test"], "ok", "^1 images")

  def test_the_places_looked_into_are_those_that_a_run_opens(self):
    for stages, teacher in (
      (("coarse", "fine"), None),
      (("coarse",), None),
      (("fine",), "run"),
      (("coarse", "fine"), "run"),
    ):
      self.config.stages, self.config.teacher = stages, teacher
      self.assertEqual(data.places(self.config), list(experiment.open_sources(self.config)))

  def test_one_mistake_about_a_folder_is_said_once(self):
    self.config.data.coarse.path = "/no/such/place"
    found = self._findings()
    self._assert_finding(found["coarse train"], "error", "/no/such/place")
    self.assertNotIn("coarse validation", found)
    self._assert_finding(found["coarse time"], "warning", "mend the data first")

  @parameterized.parameters(
    (np.full((6, 32, 32), np.nan, np.float32), "reflectance", "no pixel is valid"),
    (None, "reflectance_x10000", "sees no mine"),
  )
  def test_data_that_teach_nothing_are_warned_of(self, image, sensor, named):
    data = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    write_folder(data / "set")
    for path in (data / "set" / ("masks" if image is None else "images")).iterdir():
      write_geotiff(path, np.zeros((1, 32, 32), np.uint8) if image is None else image, () if image is None else NAMES)
    self.config.data.coarse.path, self.config.data.sensor = str(data / "set"), sensor
    self._assert_finding(self._findings()["coarse train"], "warning", named)

  def test_fewer_images_than_a_batch_are_warned_of(self):
    self.config.data.batch_size = 5
    self._assert_finding(self._findings()["coarse train"], "warning", "batch_size=5")

  def test_a_workdir_on_a_read_only_disk_is_an_error(self):
    place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
      self.skipTest(f"no right to mount here: {mounted.stderr.decode().strip()}")
    self.addCleanup(subprocess.run, ["umount", str(place)], check=True)
    self._assert_finding(self._findings(place / "run")["workdir"], "error", "cannot be written.*another folder")

  def test_a_workdir_of_another_user_is_an_error(self):
    with mock.patch.object(os, "access", return_value=False):  # Root may write everywhere.
      self._assert_finding(self._findings()["workdir"], "error", "cannot be written.*another folder")

  def test_too_little_room_on_the_disk_is_an_error_and_little_a_warning(self):
    need = COST.disk_bytes
    for free, level in ((need - 1, "error"), (need * 1.1, "warning"), (need * 2, "ok")):
      with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=free)):
        self.assertEqual(self._findings()["disk"].level, level)

  def test_checkpoints_that_are_there_need_no_more_room(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (workdir / "coarse").mkdir()
    (workdir / "coarse" / "weights").write_bytes(bytes(COST.disk_bytes))
    with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=1)):
      self.assertEqual(outlook.disk({"coarse": COST}, workdir).level, "ok")

  def test_too_little_memory_is_an_error(self):
    with mock.patch.object(outlook, "host_memory", return_value=5000.0):
      self._assert_finding(self._findings()["memory"], "error", "needed .*free.* smaller config.data.batch_size")

  def test_a_device_with_too_little_memory_of_its_own_is_an_error(self):
    splits = {("coarse", "train"): outlook.Split(10, 4000, 1.0)}
    with (
      mock.patch.object(jax, "default_backend", return_value="gpu"),
      mock.patch.object(outlook, "device_memory", return_value=10_000.0),
    ):
      host, device = outlook.memory(self.config, {"coarse": COST}, splits)
    self.assertEqual(host.level, "ok")
    self._assert_finding(device, "error", "samples 0.0 MB, step 0.0 MB.*device_gb")

  def test_time_is_epochs_times_steps_and_their_sum(self):
    splits = {(name, "train"): outlook.Split(10, 4000, 1.0) for name in experiment.DOMAINS}
    with mock.patch.object(estimates, "measure_speed", return_value=SPEED):
      found = {f.what: f for f in outlook.time(self.config, {"coarse": COST, "fine": COST}, splits)}
    self._assert_finding(found["coarse time"], "ok", r"about 40s at most \(estimate\): 10 epochs of 4 steps.*about 1 s")
    self._assert_finding(found["time"], "ok", "about 1m20s")

  def test_reading_that_is_slower_than_training_is_warned_of_and_counted(self):
    splits = {("coarse", "train"): outlook.Split(10, 1 << 60, 0.1)}  # Fits into no memory.
    self.config.data.read_threads = 1
    with mock.patch.object(estimates, "measure_speed", return_value=SPEED):
      found = {f.what: f for f in outlook.time(self.config, {"coarse": COST}, splits)}
    self._assert_finding(found["coarse time"], "warning", "about 13m20s .*waits 20 s for its images")

  def test_an_nvidia_card_that_jax_does_not_use_is_warned_of(self):
    with mock.patch.object(doctor, "_NVIDIA", self.root):
      self._assert_finding(self._findings()["devices"], "warning", "NVIDIA")

  def test_without_any_device_nothing_else_is_tried(self):
    with mock.patch.object(jax, "devices", side_effect=RuntimeError("no backend\nfound")):
      found = self._findings()
    self.assertEqual(list(found), ["devices"])
    self._assert_finding(found["devices"], "error", r"no backend found\).*JAX_PLATFORMS")

  def test_a_compilation_cache_that_cannot_be_written_only_costs_time(self):
    before = jax.config.jax_compilation_cache_dir
    self.addCleanup(jax.config.update, "jax_compilation_cache_dir", before)
    for path, level, named in (
      (None, "ok", "off"),
      (self.root / "c", "ok", "made"),
      (self.data / "index.csv" / "c", "warning", "--compilation_cache"),
    ):
      jax.config.update("jax_compilation_cache_dir", path and str(path))
      self._assert_finding(next(iter(doctor._cache())), level, named)

  def test_weights_that_are_none_are_an_error(self):
    self.config.pretrained = str(self.data / "index.csv")
    self._assert_finding(self._findings()["pretrained"], "error", "index.csv: is no weight file")

  def test_a_config_without_its_sections_ends_in_no_traceback(self):
    del self.config.data
    found = {finding.what: finding for finding in doctor.examine(self.config, self.workdir)}
    self.assertEqual(found["config"].level, "error")
    self._assert_finding(found["data"], "warning", "not checked .*mend the config first")

  def test_a_defect_of_ours_keeps_its_traceback(self):
    with mock.patch.object(doctor, "open_source", side_effect=KeyError("x")), self.assertRaises(KeyError):
      self._findings()


class DoctorOnARunTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    write_folder(cls.root / "data")
    config = run_config(cls.root / "data")
    config.stages = ("coarse",)
    experiment.train(config, cls.root / "run")

  def _findings(self, config, workdir):
    cost = {name: COST for name in config.stages}
    with mock.patch.object(estimates, "stage_costs", return_value=cost), mock.patch.object(doctor, "check_config"):
      return {finding.what: finding for finding in doctor.examine(config, workdir)}

  def test_a_run_that_has_started_goes_on_unless_its_config_is_another(self):
    config = run_config(self.root / "data")
    found = self._findings(config, self.root / "run")["run"]
    self.assertEqual((found.level, found.value), ("ok", "goes on; started coarse; finished coarse"))
    config.seed = 7
    found = self._findings(config, self.root / "run")["run"]
    self.assertEqual(found.level, "error")
    self.assertIn("config.seed (0 there, 7 here)", found.value)

  def test_a_workdir_that_another_process_holds_is_an_error(self):
    code = (
      "import sys\nfrom minec2f_jax.files import locked\nwith locked(sys.argv[1]): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(self.root / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
      other.stdout.readline()
      found = self._findings(run_config(self.root / "data"), self.root / "run")["run"]
      other.communicate("\n")
    self.assertEqual(found.level, "error")
    self.assertIn(f"process {other.pid} is at work there", found.value)

  def test_damaged_checkpoints_are_named_and_an_error_if_none_is_whole(self):
    damaged = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    shutil.copytree(self.root / "run", damaged)
    (path,) = (damaged / "coarse" / "checkpoints").glob("*/progress.json")
    path.write_text(path.read_text().replace("1", "2", 1))
    found = self._findings(run_config(self.root / "data"), damaged)["coarse checkpoints"]
    self.assertEqual(found.level, "error")
    self.assertIn("progress.json", found.value)

  def test_a_teacher_is_loaded_and_must_fit(self):
    config = run_config(self.root / "data")
    config.teacher, config.stages = str(self.root / "run"), ("fine",)
    found = self._findings(config, self.root / "other")
    self.assertEqual(found["teacher"].level, "ok")
    self.assertNotIn("coarse train", found)
    config.model.encoder.growth_rate = 8
    found = self._findings(config, self.root / "other")["teacher"]
    self.assertEqual(found.level, "error")
    self.assertIn("growth_rate (4 there, 8 here)", found.value)


if __name__ == "__main__":
  absltest.main()
