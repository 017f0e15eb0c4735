"""Kills a whole run again and again, at any moment of it, and holds its end against that of a run left alone."""

import collections
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np

from minec2f_jax import experiment
from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints
from minec2f_jax.training import state as state_lib
from tests import toy_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_COPIES = 3  # Of each domain 16 chips to train on: epochs of eight steps, longer than a save.
_EPOCHS = 6
_CONFIG = """
import pathlib
from tests.faults import run_kills
get_config = lambda: run_kills.make_config(pathlib.Path({folder!r}), {stages!r})
"""
_SETTINGS = {
  "JAX_PLATFORMS": "cpu",
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def make_config(folder: pathlib.Path, stages: tuple[str, ...]):
  """Stages of the paper's run at toy size on the chips in `folder`/data."""
  config = toy_folder.run_config(folder / "data")
  config.stages = stages
  config.coarse.epochs = config.fine.epochs = _EPOCHS
  return config


def kill_run(folder, *, kills: int, seed: int = 0, stages: tuple[str, ...] = ("coarse", "fine")) -> dict:
  """Kills runs of launch.py `kills` times, and starts each again until it is through.

  Args:
    folder: an empty folder.
    kills: how many. A run that comes through before is compared, and another begins.
    seed: of the moments: half of them anywhere from the process' start on, half from the first steps on.
    stages: of the run.

  Returns:
    Counts: "killed", of these "before_steps", "in_steps" (and validations, and saves) and "in_report"; "runs" that came
    through; and what must be 0: "failed" (restarts that did not go on by themselves), "different" (runs that ended with
    other weights, progress or metrics than one left alone), "debris" (files left over), "unused" (checkpoints on the
    disk that a restart did not go on from). "lost_epochs" and "lost_s" are the most that a kill cost: what was trained
    since the last save that had come to its end.
  """
  folder, rng = pathlib.Path(folder).absolute(), np.random.default_rng(seed)
  _write_data(folder / "data")
  (folder / "config.py").write_text(_CONFIG.format(folder=str(folder), stages=stages))
  _Life(folder, "warm").end()  # Compiles for all others.
  whole = _Life(folder, "whole")
  whole.end()
  counts = collections.Counter(dict.fromkeys(("killed", "runs", "failed", "different", "debris", "unused"), 0))
  counts.update(dict.fromkeys(("before_steps", "in_steps", "in_report", "lost_epochs", "lost_s"), 0))
  before = None
  while counts["killed"] < kills or before:
    life = _Life(folder, f"run{counts['runs'] + counts['failed']}")
    if counts["killed"] < kills:
      life.kill_at(whole.seconds, whole.steps_s, rng)
    status = life.end()
    if before:
      _compare_restart(before, life, counts)
    if status == -signal.SIGKILL:
      counts.update(["killed", life.moment(stages[-1])])
      before = life
      continue
    before = None
    counts["failed" if status else "runs"] += 1
    if status:
      print(f"{life.workdir} ended with status {status}: {life.errors}")
      continue
    counts["different"] += not same_end(make_config(folder, stages), life.workdir, whole.workdir)
    counts["debris"] += len(debris(life.workdir))
  return dict(counts)


def _write_data(data: pathlib.Path):
  toy_folder.write_folder(data)
  header, *lines = (data / "index.csv").read_text().splitlines()
  for line, copy in itertools.product(lines.copy(), range(_COPIES)):
    name, rest = line.split(",", 1)
    for kind in ("images", "masks"):
      shutil.copy(data / kind / f"{name}.tif", data / kind / f"{name}copy{copy}.tif")
    lines.append(f"{name}copy{copy},{rest}")
  (data / "index.csv").write_text("\n".join([header, *lines]) + "\n")


class _Life:
  """One process of a run: what it said, and when."""

  def __init__(self, folder: pathlib.Path, name: str):
    self.workdir, self.lines, self.began, self._doom = folder / name, [], time.monotonic(), None
    self.found = steps_on_disk(self.workdir)
    command = [sys.executable, "launch.py", f"--config={folder / 'config.py'}", f"--workdir={self.workdir}"]
    command.append(f"--compilation_cache={folder / 'cache'}")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **_SETTINGS}, **pipes)

  def kill_at(self, seconds: float, steps_s: float, rng: np.random.Generator):
    """Chooses the moment: after so long, or so long after the first steps begin."""
    after_compiling = bool(rng.integers(2))
    self._doom = (after_compiling, rng.uniform(0, seconds - steps_s if after_compiling else seconds))
    if not after_compiling:
      self._set_timer()

  def _set_timer(self):
    timer = threading.Timer(self._doom[1], self._process.kill)
    timer.daemon = True
    timer.start()

  def end(self) -> int:
    """Hears the process to its end; its status."""
    errors = []
    listener = threading.Thread(target=lambda: errors.append(self._process.stderr.read()))
    listener.start()
    waiting = bool(self._doom and self._doom[0])
    for line in self._process.stdout:
      self.lines.append((time.monotonic(), line))
      if waiting and "compiled in" in line:
        waiting = False
        self._set_timer()
    status = self._process.wait()
    listener.join()
    self.errors, self.ended = errors[0], time.monotonic()
    self.seconds = self.ended - self.began
    self.steps_s = next((at - self.began for at, line in self.lines if "compiled in" in line), self.seconds)
    return status

  def moment(self, last_stage: str) -> str:
    """Where it was killed, as the counts call it."""
    if (self.workdir / last_stage / "finished.json").exists():
      return "in_report"
    return "in_steps" if any("compiled in" in line for _, line in self.lines) else "before_steps"

  def epochs(self) -> dict[tuple[str, int], float]:
    """(stage, epoch) -> when it was said to be over."""
    found = ((at, re.match(r"\[(\w+)\] epoch (\d+)/\d+  loss", line)) for at, line in self.lines)
    return {(match[1], int(match[2])): at for at, match in found if match}

  def resumed(self) -> dict[str, tuple[int, int]]:
    """Stage -> epoch and step that it went on from."""
    found = (re.match(r"\[(\w+)\] goes on after epoch (\d+) \(step (\d+)\)", line) for _, line in self.lines)
    return {match[1]: (int(match[2]), int(match[3])) for match in found if match}


def _compare_restart(killed: _Life, life: _Life, counts: collections.Counter):
  """Counts what the restart did not find again."""
  for stage, (epoch, step) in life.resumed().items():
    counts["unused"] += step < life.found[stage]
    over = {number: at for (name, number), at in killed.epochs().items() if name == stage}
    lost = [at for number, at in over.items() if number > epoch]
    counts["lost_epochs"] = max(counts["lost_epochs"], len(lost))
    counts["lost_s"] = max(
      counts["lost_s"],
      round(killed.ended - max([at for at in over.values() if at not in lost], default=killed.ended), 2),
    )


def steps_on_disk(workdir: pathlib.Path) -> dict[str, int]:
  """Stage -> its latest checkpoint."""
  found = collections.defaultdict(int)
  for path in workdir.glob("*/checkpoints/*"):
    if path.name.isdecimal():
      found[path.parts[-3]] = max(found[path.parts[-3]], int(path.name))
  return found


def debris(workdir: pathlib.Path) -> list[str]:
  """Names of what only a run under way may have."""
  names = [path.name for path in workdir.rglob("*")]
  return sorted(name for name in names if (name.startswith(".") and name != ".lock") or "partial" in name)


def same_end(config, workdir: pathlib.Path, other: pathlib.Path) -> bool:
  """Whether two runs ended with the same bits: the latest state and progress, the best model, and the metrics."""
  prior, source = None, range(_COPIES * 4 + 4)
  for name, wired in experiment.wire(config).items():
    stage = experiment.make_stage(config, name, wired, source, source)
    prior = jax.eval_shape(wired.method.init, jax.random.key(0), experiment.stages.example(config), prior)
    ends = [_end(path / name, stage, prior) for path in (workdir, other)]
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), *ends)
    if not all(jax.tree.leaves(same)) or metrics(workdir / name) != metrics(other / name):
      return False
  return True


def _end(folder: pathlib.Path, stage, variables: Variables):
  template = jax.eval_shape(lambda start: state_lib.init_state(start, stage.optimizer), variables)
  saver = checkpoints.Checkpoints(folder, read_only=True)
  state, progress = saver.restore_latest(template)
  saver.close()
  return state, vars(progress), saver.restore_variables(variables)


def metrics(folder: pathlib.Path) -> list[dict]:
  """The lines of metrics.jsonl but for what a clock decides."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [{name: value for name, value in json.loads(line).items() if name != "images_per_s"} for line in lines]
