"""Runs that signals, exceptions and kills end in the middle, and that go on as if nothing had been."""

import errno
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax import experiment
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import run
from minec2f_jax.training import checkpoints, interrupt, logging, trainer
from tests import toy, toy_folder
from tests.faults import tiny

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Crash(Exception):
  """Ends a run where no code of it expects an end."""


def _metrics(folder) -> list[dict]:
  lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
  return [{name: value for name, value in json.loads(line).items() if name != "images_per_s"} for line in lines]


def _asked_at(moment: int):
  """The signal arrives before the run looks for the `moment`-th time."""
  looks = itertools.count(1)
  return mock.patch.object(interrupt, "asked", lambda: signal.SIGTERM if next(looks) >= moment else None)


class ResumeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _run(self, name: str, stage=None):
    return trainer.run_stage(stage or tiny.make_stage(), tiny.KEY, None, self.folder / name)

  def _assert_same_end(self, name: str, other: str):
    jax.tree.map(np.testing.assert_array_equal, tiny.latest(self.folder / name), tiny.latest(self.folder / other))
    self.assertEqual(_metrics(self.folder / name), _metrics(self.folder / other))
    self.assertEqual(
      *((self.folder / which / "finished.json").read_text() for which in (name, other)),
    )

  def test_a_signal_at_any_moment_changes_nothing(self):
    stage, places = tiny.make_stage(epochs=2), set()
    best = self._run("whole", stage)
    for moment in range(2, 100, 2):
      name = f"at{moment}"
      try:
        with _asked_at(moment):
          self._run(name, stage)
        break  # It came to its end before.
      except interrupt.Interrupted as error:
        places.add(error.place)
        self.assertEqual(error.signum, signal.SIGTERM)
      jax.tree.map(np.testing.assert_array_equal, best, self._run(name, stage))
      self._assert_same_end("whole", name)
    self.assertGreaterEqual(len(places), tiny.STEPS)

  def test_signals_after_every_step_change_nothing(self):
    self._run("whole")
    for lives in itertools.count(1):
      try:
        with _asked_at(1):
          self._run("often")
        break
      except interrupt.Interrupted:
        self.assertLess(lives, 50)
    self.assertGreater(lives, 3 * tiny.STEPS)
    self._assert_same_end("whole", "often")

  def test_a_signal_does_not_wait_for_the_validation(self):
    self._run("whole")
    slow = tiny.make_stage(validate=lambda variables: time.sleep(3))
    answers = itertools.chain([None] * tiny.STEPS, itertools.repeat(signal.SIGINT))
    with mock.patch.object(interrupt, "asked", lambda: next(answers)):
      began = time.monotonic()
      with self.assertRaises(interrupt.Interrupted):
        self._run("left", slow)
      self.assertLess(time.monotonic() - began, 2.5)
    state, progress = tiny.latest(self.folder / "left")
    self.assertEqual((int(state.step), progress.epoch), (tiny.STEPS, 0))
    self._run("left")
    self._assert_same_end("whole", "left")

  def test_within_an_epoch_it_is_saved_once_an_interval(self):
    now, saved, save = [0.0], [], checkpoints.Checkpoints.save

    def spy(saver, state, progress, score):
      saved.append((int(state.step), score is not None))
      save(saver, state, progress, score)

    def validate(variables):
      now[0] += 10.0  # Longer than the interval: the next one begins with the save after it.
      return {"miou": 0.5}

    def inputs(step):
      for one in feed_inputs(step):
        now[0] += 1.0
        yield one

    stage = tiny.make_stage(toy.ArraySource(16, size=8), epochs=2, save_every_s=3.5, validate=validate)
    feed_inputs = stage.feed.inputs
    stage = stage._replace(feed=stage.feed._replace(inputs=inputs))
    with (
      mock.patch.object(checkpoints.Checkpoints, "save", spy),
      mock.patch.object(trainer.time, "monotonic", lambda: now[0]),
    ):
      trainer.run_stage(stage, tiny.KEY, None, self.folder)
    within = [step for step, scored in saved if not scored]
    self.assertEqual([step for step, scored in saved if scored], [8, 16])
    self.assertLen(within, 4)  # Eight steps of a second each, an interval of 3.5: two in each epoch.

  @parameterized.parameters(1, tiny.STEPS, 2 * tiny.STEPS + 2)
  def test_long_epochs_are_saved_within_and_a_crash_loses_one_interval(self, crash):
    self._run("whole")
    stage, steps = tiny.make_stage(save_every_s=0.0), itertools.count()
    compile_steps = trainer.compile_steps

    def crashing(*arguments):
      run = compile_steps(*arguments)

      def step(*inputs):
        if next(steps) == crash:
          raise Crash
        return run(*inputs)

      return step

    with mock.patch.object(trainer, "compile_steps", crashing), self.assertRaises(Crash):
      self._run("crashed", stage)
    self.assertEqual(int(tiny.latest(self.folder / "crashed")[0].step), crash)
    self._run("crashed")
    self._assert_same_end("whole", "crashed")

  def test_what_is_left_of_an_epoch_runs_in_single_steps_if_calls_do_not_divide_it(self):
    self._run("whole")
    with _asked_at(1), self.assertRaises(interrupt.Interrupted):
      self._run("moved")
    self.assertEqual(int(tiny.latest(self.folder / "moved")[0].step), 1)
    self._run("moved", tiny.make_stage(steps_per_call=tiny.STEPS))
    whole, moved = (tiny.latest(self.folder / name) for name in ("whole", "moved"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole[0].trainable, moved[0].trainable)
    self.assertEqual(int(moved[0].step), 3 * tiny.STEPS)

  def test_a_data_set_of_another_size_is_refused(self):
    self._run("run")
    with self.assertRaisesRegex(checkpoints.CheckpointError, "step 12 after 3 epochs.*epochs of 7 steps"):
      self._run("run", tiny.make_stage(tiny.toy.ArraySource(14, size=8), epochs=5))

  def test_epochs_shorter_than_a_save_wait_for_the_disk_only_at_a_new_best_or_the_end(self):
    scores, saved = iter([0.1, 0.3, 0.2, 0.2, 0.4, 0.1, 0.1]), []
    save = checkpoints.Checkpoints.save

    def noted(saver, state, progress, score):
      saved.append(progress.epoch)
      save(saver, state, progress, score)

    stage = tiny.make_stage(epochs=7, validate=lambda variables: {"miou": next(scores)})
    with (
      mock.patch.object(checkpoints.Checkpoints, "busy", lambda saver: True),
      mock.patch.object(checkpoints.Checkpoints, "save", noted),
    ):
      self._run("busy", stage)
    self.assertEqual(saved, [1, 2, 5, 7])
    self.assertLen(_metrics(self.folder / "busy"), 7)


class SkippedStepsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  @parameterized.parameters(1, 4)
  def test_a_step_on_nan_is_counted_and_left_out_of_the_means(self, steps_per_call):
    source = tiny.with_nan(3)
    stage = tiny.make_stage(source, epochs=1, steps_per_call=steps_per_call)
    trainer.run_stage(stage, tiny.KEY, None, self.folder)
    (line,) = _metrics(self.folder)
    self.assertEqual(line["train/skipped"], 1)
    self.assertGreater(line["train/loss"], 0)
    state = tiny.latest(self.folder)[0]
    self.assertEqual((int(state.step), int(state.skipped)), (4, 1))
    self.assertTrue(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)))

  @parameterized.parameters(1, 4)
  def test_three_in_a_row_stop_the_run_and_name_their_samples(self, steps_per_call):
    ids = tiny.make_stage().feed.ids
    bad = [int(name.removeprefix("toy")) for step in (5, 6, 7) for name in ids(step)["coarse"]]
    stage = tiny.make_stage()
    trainer.run_stage(stage._replace(epochs=1), tiny.KEY, None, self.folder)
    self.assertEqual(len(set(bad)), 6)
    poisoned = tiny.make_stage(tiny.with_nan(*bad), steps_per_call=steps_per_call)
    names = "; ".join(f"coarse {', '.join(ids(step)['coarse'])}" for step in (5, 6, 7))
    with self.assertRaisesRegex(FloatingPointError, f"steps 6, 7 and 8 is not finite; their samples are {names}"):
      trainer.run_stage(poisoned, tiny.KEY, None, self.folder)
    self.assertEqual(int(tiny.latest(self.folder)[0].step), 4)
    trainer.run_stage(stage, tiny.KEY, None, self.folder)  # The images are mended: it goes on.
    self.assertEqual(tiny.latest(self.folder)[1].epoch, 3)

  def test_a_good_step_after_three_bad_ones_in_one_call_hides_nothing(self):
    ids = tiny.make_stage().feed.ids
    bad = [int(name.removeprefix("toy")) for step in (0, 1, 2) for name in ids(step)["coarse"]]
    poisoned = tiny.make_stage(tiny.with_nan(*bad), steps_per_call=tiny.STEPS)
    with self.assertRaisesRegex(FloatingPointError, "steps 1, 2 and 3 is not finite"):
      trainer.run_stage(poisoned, tiny.KEY, None, self.folder)

  def test_a_stage_that_is_prolonged_is_unfinished_until_it_ends_again(self):
    trainer.run_stage(tiny.make_stage(epochs=1), tiny.KEY, None, self.folder)
    self.assertTrue((self.folder / "finished.json").exists())
    with _asked_at(6), self.assertRaises(interrupt.Interrupted):
      trainer.run_stage(tiny.make_stage(epochs=3), tiny.KEY, None, self.folder)
    self.assertFalse((self.folder / "finished.json").exists())
    trainer.run_stage(tiny.make_stage(epochs=3), tiny.KEY, None, self.folder)
    self.assertEqual(json.loads((self.folder / "finished.json").read_text())["epoch"], 3)

  def test_steps_in_a_row_count_across_a_restart(self):
    poisoned = tiny.make_stage(tiny.with_nan(*range(8)))
    with _asked_at(1), self.assertRaises(interrupt.Interrupted):
      trainer.run_stage(poisoned, tiny.KEY, None, self.folder)
    with _asked_at(1), self.assertRaises(interrupt.Interrupted):
      trainer.run_stage(poisoned, tiny.KEY, None, self.folder)
    self.assertEqual(int(tiny.latest(self.folder)[0].skipped_in_a_row), 2)
    with self.assertRaisesRegex(FloatingPointError, "steps 1, 2 and 3 is"):
      trainer.run_stage(poisoned, tiny.KEY, None, self.folder)


class FullDiskTest(parameterized.TestCase):
  """Metrics that cannot be written stop a run in one sentence; TensorBoard's writer alone would hang it."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.writer = logging.MetricsWriter(self.folder)

  def test_a_line_that_has_no_room_is_told(self):
    (self.folder / "metrics.jsonl").unlink()
    (self.folder / "metrics.jsonl").symlink_to("/dev/full")
    with self.assertRaisesRegex(UserError, f"{self.folder}.*No space left on device.*make room.*goes on"):
      self.writer.write(1, {"loss": 1.0})

  def test_an_event_file_that_has_no_room_is_told(self):
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with (
      mock.patch.object(threading, "excepthook"),  # It tells of the thread that dies.
      mock.patch.object(self.writer._events.file_writer.event_writer._ev_writer, "write_event", full),
      self.assertRaisesRegex(UserError, "event file.*make room"),
    ):
      for step in range(100):
        self.writer.write(step, {"loss": 1.0})
        time.sleep(0.01)


class TwoRunsTest(absltest.TestCase):
  def test_the_second_stops_at_once_and_a_lock_of_a_killed_one_is_none(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    toy_folder.write_folder(root / "data")
    config, run_folder = toy_folder.run_config(root / "data"), root / "run"
    run_folder.mkdir()
    holding = f"with files.locked({str(run_folder)!r}):\n  print('held', flush=True)\n  time.sleep(60)"
    holding = f"import time\nfrom minec2f_jax import files\n{holding}"
    pipes = dict(stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", holding], cwd=ROOT, **pipes) as first:
      self.addCleanup(first.kill)
      self.assertEqual(first.stdout.readline(), "held\n")
      began = time.monotonic()
      with self.assertRaisesRegex(UserError, f"process {first.pid}.* is at work there"):
        experiment.train(config, run_folder)
      self.assertLess(time.monotonic() - began, 2)
      first.kill()
    with mock.patch.object(run, "_train") as train:
      experiment.train(config, run_folder)
    train.assert_called_once()

  def test_a_run_that_comes_to_nothing_leaves_nothing(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    toy_folder.write_folder(root / "data")
    with mock.patch.object(run, "_train", side_effect=UserError("no")), self.assertRaises(UserError):
      experiment.train(toy_folder.run_config(root / "data"), root / "run")
    self.assertFalse((root / "run").exists())


_ALONE = """
import sys, time
from minec2f_jax.training import interrupt
interrupt.install("run")
print("ready", flush=True)
{body}
print("end", flush=True)
"""
_COMPILE = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_compilation_cache", False)
def deep(x):
  for _ in range(3000):
    x = jnp.sin(x @ x)
  return x
lowered = jax.jit(deep).lower(jnp.ones((8, 8)))
print("go", flush=True)
began = time.monotonic()
lowered.compile()
print("compiled in", time.monotonic() - began, flush=True)
"""
_HELD = """
with interrupt.held():
  print("go", flush=True)
  while not interrupt.asked():
    time.sleep(0.01)
  print("asked", interrupt.asked(), flush=True)
  {then}
"""


class SignalsTest(parameterized.TestCase):
  """On processes of their own."""

  def _start(self, body: str) -> subprocess.Popen:
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-c", _ALONE.format(body=body)], cwd=ROOT, **pipes)
    self.enterContext(process)
    self.addCleanup(process.kill)
    return process

  def _await(self, process: subprocess.Popen, start: str):
    for line in process.stdout:
      if line.startswith(start):
        return
    self.fail(f"no {start!r}: {process.stderr.read()}")

  @parameterized.parameters((signal.SIGINT, 130), (signal.SIGTERM, 143))
  def test_outside_the_steps_the_first_ends_at_once(self, signum, status):
    process = self._start('print("go", flush=True); time.sleep(60)')
    self._await(process, "go")
    process.send_signal(signum)
    out, errors = process.communicate(timeout=5)
    self.assertEqual((process.returncode, out), (status, ""))
    self.assertEqual(errors, "\nrun: interrupted; the same command goes on from what was last saved.\n")

  def test_a_compilation_does_not_delay_it(self):
    process = self._start(_COMPILE)
    self._await(process, "go")
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    self.assertEqual((process.returncode, out), (143, ""))  # It was not over, and
    self.assertLess(time.monotonic() - began, 1.5)

  def test_held_the_first_only_asks(self):
    process = self._start(_HELD.format(then="time.sleep(0.2); raise SystemExit(7)"))
    self._await(process, "go")
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=10)
    self.assertEqual((process.returncode, out), (7, f"asked {int(signal.SIGTERM)}\n"))
    self.assertIn("run: asked to end; the step under way", errors)

  def test_held_the_second_ends_at_once(self):
    process = self._start(_HELD.format(then="time.sleep(60)"))
    self._await(process, "go")
    process.send_signal(signal.SIGTERM)
    self._await(process, "asked")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    self.assertEqual(process.returncode, 130)

  def test_whoever_leaves_without_asking_ends_there(self):
    process = self._start(_HELD.format(then="pass"))
    self._await(process, "go")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=5)
    self.assertEqual((process.returncode, out), (130, f"asked {int(signal.SIGINT)}\n"))


if __name__ == "__main__":
  absltest.main()
