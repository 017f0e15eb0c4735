"""Tests of benchmarks.faults, and that its drivers would see what they look for; 25 s, as JAX starts twice.

Drivers that other files use (flips, save_kills, folder_kills, config_fuzz, run_kills) are not run again here.
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from benchmarks import faults
from minec2f_jax.errors import UserError
from minec2f_jax.training import checkpoints, trainer
from tests.faults import bad_steps, differences, disks, lives, run_ends, run_kills, stage

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINES = (
  (1.0, "[coarse] train: 4 images, all fine\n"),
  (2.0, "[coarse] supervised in float32, on cpu\n"),
  (5.0, "[coarse] compiled in 3s; the samples lie on the device\n"),
  (6.0, "@ begins validation\n"),
  (6.5, "@ ended validation\n"),
  (7.0, "@ begins save of /run/coarse/checkpoints/4\n"),
  (7.0, "[coarse] epoch 1/3  loss 0.5 (bce 0.5)\n"),
  (8.0, "@ ended save of /run/coarse/checkpoints/4\n"),
  (9.0, "@ begins validation\n"),
  (10.0, "[coarse] epoch 2/3  loss 0.4 (bce 0.4)\n"),
  (10.0, "@ begins save of /run/coarse/checkpoints/8\n"),
)


def _life(lines=LINES, **given) -> lives.Life:
  """A life as it was heard, without a process."""
  life = lives.Life.__new__(lives.Life)
  facts = dict(lines=list(lines), began=0.0, ended=11.0, status=0, errors="", hung=False)
  vars(life).update(facts | given)
  return life


class CommandTest(parameterized.TestCase):
  def test_the_cheap_families_end_to_end(self):
    out = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "deep" / "faults.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--quick", "--only=restores,steps", f"--out={out}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
    found = json.loads(out.read_text())
    self.assertEqual([row["fault"] for row in found["faults"]][-1], "runs on NaN and infinities")
    self.assertTrue(all(row["struck"] == row["well"] > 0 for row in found["faults"]), found)
    self.assertEqual((found["wrong"], found["quick"]), (0, True))
    self.assertIn("versions", found["machine"])
    self.assertIn("| state or model of another | 175 | 175 | 0 |", result.stdout)

  def test_a_family_that_is_none_is_told_with_those_there_are(self):
    self.assertEqual(faults.select(["flips", "kills"]), ["flips", "kills"])
    self.assertLen(faults.select([]), len(faults.FAMILIES))
    with self.assertRaisesRegex(UserError, "--only: there is no fire; choose some of .*kills"):
      faults.select(["kills", "fire"])

  def test_what_went_wrong_is_counted_and_a_driver_that_fails_leaves_the_others(self):
    def bad(scratch):
      yield faults.Row("flood", 3, "dry", ["wet feet"], "one inch")
      raise RuntimeError("no boat")

    good = lambda scratch: [faults.Row("drought", 2, "rain", [])]
    with mock.patch.dict(faults.FAMILIES, {"bad": bad, "good": good}):
      rows = faults.run(["bad", "good"], faults.Scratch("/nowhere", quick=True))
    self.assertEqual(
      [(row.fault, row.well, len(row.wrong)) for row in rows], [("flood", 2, 1), ("bad", 0, 1), ("drought", 2, 0)]
    )
    self.assertIn("| flood | 3 | 2 | 1 | dry | one inch |", faults.table(rows))
    found = faults.report(rows, 1.0, quick=True)
    self.assertEqual((found["wrong"], found["faults"][1]["wrong"]), (2, ["RuntimeError: no boat"]))

  def test_something_wrong_ends_the_command_with_status_1_and_its_text(self):
    code = (
      "import sys; from absl import app; from benchmarks import faults\n"
      "faults.FAMILIES = {'flood': lambda scratch: [faults.Row('flood', 1, 'dry', ['wet feet'])]}\n"
      "faults.define_flags()\n"
      "app.run(faults.main)"
    )
    out = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "faults.json"
    for flags, text in (([], "1 went wrong:\nflood: wet feet\n"), (["--only=fire"], "")):
      command = [sys.executable, "-c", code, f"--out={out}", *flags]
      result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
      self.assertEqual(result.returncode, 1)
      self.assertTrue(result.stdout.endswith(text), result.stdout)
    self.assertRegex(result.stderr, "benchmarks.faults: --only: there is no fire; choose some of flood\n$")


class LivesTest(parameterized.TestCase):
  @parameterized.parameters((0, "start"), (1, "data"), (2, "compilation"), (3, "steps"), (4, "validation"))
  def test_the_place_is_the_last_phase_that_began(self, count, place):
    self.assertEqual(_life(LINES[:count]).place(), place)

  def test_a_save_that_has_not_ended_counts_before_all_else(self):
    self.assertEqual(_life(LINES[:7]).place(), "save")
    self.assertEqual(_life(LINES[:8]).place(), "steps")
    self.assertEqual(_life([*LINES[:8], (9.0, "@ begins report\n"), (9.5, "@ begins validation\n")]).place(), "report")

  def test_lengths_epochs_and_saves_are_read_from_what_it_said(self):
    life = _life()
    lengths = {"save": 1.0, "start": 1.0, "data": 1.0, "compilation": 3.0, "steps": 4 / 3, "validation": 1.0}
    self.assertEqual(life.lengths(), lengths)  # steps: 1, 2, and 1 s; the last save met its end.
    self.assertEqual((life.epoch_lengths(), life.saved()), ({"coarse": 3.0}, {"coarse": 4}))

  @parameterized.parameters(
    (143, "\nlaunch.py: interrupted; the same command goes on from what was last saved.\n", ""),
    (
      143,
      "\nlaunch.py: asked to end; soon.\nlaunch.py: interrupted; the same command goes on in [coarse] after.\n",
      "",
    ),
    (143, "", "not one sentence"),
    (
      130,
      "launch.py: interrupted; the same command goes on x\nlaunch.py: interrupted; the same command goes on y\n",
      "not",
    ),
    (1, "Traceback (most recent call last):\nKeyError: 'x'\n", "a traceback: KeyError"),
    (1, "warning\nlaunch.py: make room.\n", ""),
    (1, "launch.py: make room.\nand more\n", "not one sentence"),
    (0, "", ""),
  )
  def test_how_it_told_of_its_end(self, status, errors, verdict):
    found = _life(status=status, errors=errors).told()
    self.assertStartsWith(found, verdict)
    self.assertEqual(bool(found), bool(verdict))

  def test_a_process_that_says_nothing_is_given_up(self):
    with mock.patch.object(sys, "executable", "/bin/sleep"):
      life = lives.Life(["9"], settings={}, before=["/bin/sh", "-c", "exec sleep 9", "_"])
    life.hear(limit_s=0.2)
    self.assertEqual((life.told(), life.status), ("it hung and was killed", -signal.SIGKILL))


class RestartTest(parameterized.TestCase):
  """What `run_kills` makes of a restart after the life that LINES tell of."""

  def _compare(self, resumed: str, *, found=None, flipped=None, errors="") -> run_kills._Tally:
    tally = run_kills._Tally()
    before = run_kills._Outcome(_life(errors=errors), pathlib.Path("x"), ("kill", None), found or {}, flipped)
    run_kills._compare_restart(before, _life([(12.0, resumed)]), tally, "x")
    return tally

  def test_from_the_last_complete_save_all_is_well_and_the_loss_is_measured(self):
    tally = self._compare("[coarse] goes on after epoch 1 (step 4)\n", found={"coarse": 4})
    self.assertEqual((tally.wrong, tally.lost_epochs, tally.lost_s), ([], 1, 4.0))  # From 7.0 to 11.0.

  @parameterized.parameters(({},), ({"coarse": 8},))
  def test_from_an_earlier_one_it_is_told(self, found):
    step = 0 if not found else 4  # What it said, or what lay there.
    tally = self._compare(f"[coarse] goes on after epoch 0 (step {step})\n", found=found)
    self.assertRegex(tally.wrong[0], f"went on from step {step}, not from {8 if found else 4}, which had been saved")

  def test_another_step_than_the_one_said_at_the_signal_is_told(self):
    errors = "launch.py: interrupted; the same command goes on in [coarse] after step 6, epoch 2/3.\n"
    self.assertEmpty(self._compare("[coarse] goes on after epoch 1 (step 6)\n", errors=errors).wrong)
    tally = self._compare("[coarse] goes on after epoch 1 (step 5)\n", errors=errors)
    self.assertRegex(tally.wrong[0], "step 5, not from 6, as it had said")

  def test_a_flipped_bit_that_nobody_names_is_told(self):
    self.assertRegex(
      self._compare("[coarse] goes on after epoch 1 (step 4)\n", flipped="/d").wrong[0], "nobody said so"
    )


class EndsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    for name in ("one", "other"):
      self._end(name)

  def _end(self, name: str, last: float = 0.2, mood: str = "good"):
    stage.save(self.root / name / "coarse", [0.3, last])
    (self.root / name / "coarse" / "metrics.jsonl").write_text(json.dumps({"step": 1, "images_per_s": hash(name)}))
    (self.root / name / "results.json").write_text(json.dumps({"mood": mood}))

  def test_equal_ends_are_equal_whatever_the_clock_said(self):
    self.assertEmpty(run_ends.differences(self.root / "one", self.root / "other"))

  def test_one_bit_of_one_weight_is_seen_and_so_are_scores_and_results(self):
    state = stage.state_at(2)
    kernel = np.array(state.trainable["layer"]["kernel"])
    kernel.view(np.uint32)[0, 0] ^= 1
    state.trainable["layer"]["kernel"] = kernel
    with mock.patch.object(stage, "state_at", lambda step: state if step == 2 else None):
      saver = checkpoints.Checkpoints(self.root / "other" / "coarse")
      saver.save(state, stage.progress_at(2), 0.2)
      saver.close()
    self.assertEqual(run_ends.differences(self.root / "one", self.root / "other"), ["coarse/latest/trainable"])
    self._end("third", last=0.1, mood="bad")
    found = run_ends.differences(self.root / "one", self.root / "third")
    self.assertEqual(found, ["coarse/latest/score", "results.json"])

  def test_a_missing_stage_is_seen(self):
    (self.root / "nothing").mkdir()
    self.assertIn("coarse/latest/trainable", run_ends.differences(self.root / "one", self.root / "nothing"))


class DriversTest(parameterized.TestCase):
  """That they complain if the product lets things pass."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_a_restore_that_takes_anything_is_found_out(self):
    with mock.patch.object(checkpoints, "_load_tree", lambda folder, template: template):
      found = differences.restore_states(self.folder)
    self.assertLen(found["wrong"], 1 + found["tree"] + found["shape"] + found["dtype"])

  def test_a_teacher_that_fits_anyone_is_found_out(self):
    with mock.patch.object(differences.stages, "first_difference", return_value=""):
      found = differences.restore_teachers(self.folder)
    self.assertGreaterEqual(len(found["wrong"]), found["bands"] + found["normalisation"])

  def test_a_run_that_does_not_stop_at_three_bad_steps_is_found_out(self):
    with mock.patch.object(trainer, "_SKIPPED_AT_MOST", 100):
      found = bad_steps.poison(self.folder, runs=4)
    self.assertNotEmpty(found["wrong"])

  def test_saves_on_disks_that_are_in_the_way(self):
    if reason := disks.cannot_mount():
      self.skipTest(reason)
    found = disks.alone(f"strike_saves({str(self.folder)!r}, each=2)")
    for fault in ("full disk", "file-size limit", "quota", "read-only disk"):
      self.assertEqual(found[fault], {"struck": 2, "saved": 0, "wrong": []})


if __name__ == "__main__":
  absltest.main()
