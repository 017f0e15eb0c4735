"""Kills a process again and again while it saves checkpoints, and counts how its next life finds them."""

import collections
import contextlib
import itertools
import os
import pathlib
import signal
import sys
import time

import numpy as np

from minec2f_jax.training import checkpoints
from tests.faults import stage


def kill_saves(folder, *, kills: int, seed: int = 0) -> dict[str, int]:
  """Lets a process save without end and kills it `kills` times; each life first checks what the one before left.

  Call it from a process that has not used JAX yet: lives are forks of it.

  Args:
    folder: an empty folder.
    kills: how many lives are killed while they save.
    seed: of the moments, 0 to 0.6 s after a life has looked round, or, every second one, has saved.

  Returns:
    Counts: "killed", "wrong" (a life found debris, a checkpoint that is damaged, not that of its step, or older than
    one that was reported as saved, or the best lost: must be 0), "steps" (the last one found).
  """
  folder, rng, counts = pathlib.Path(folder), np.random.default_rng(seed), collections.Counter(wrong=0)
  known = 0
  for life in range(kills):
    pid, reports = _fork(folder, known)
    found = _next(reports)
    if found is not None and life % 2:  # However slow the machine is, the run gets on.
      found = _next(reports)
    if found is None:
      os.waitpid(pid, 0)
      counts["wrong"] += 1
      continue
    time.sleep(rng.uniform(0, 0.6))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    counts["killed"] += 1
    while (step := _next(reports)) is not None:
      found = step
    known = found
  return {**counts, "steps": known}


def _fork(folder: pathlib.Path, known: int):
  reading, writing = os.pipe()
  sys.stdout.flush()
  if (pid := os.fork()) == 0:
    os.close(reading)
    try:
      _live(folder, known, lambda step: os.write(writing, f"{step}\n".encode()))
    finally:
      os._exit(1)
  os.close(writing)
  return pid, os.fdopen(reading)


def _next(reports) -> int | None:
  return int(line) if (line := reports.readline()).endswith("\n") else None


def _live(folder: pathlib.Path, known: int, report):
  """Opens, checks, saves for ever; reports the step found, then each one that is on the disk."""
  with contextlib.closing(checkpoints.Checkpoints(folder)) as saver:
    found = _check(saver, folder, known)
    stage.state_at(0)  # JAX starts here, not in the time that the kill hits.
    report(found)
    for step in itertools.count(max(found, 1)):
      # Twice, as a run does that is interrupted within an epoch, and resumed: the second replaces the first.
      saver.save(stage.state_at(step), stage.progress_at(step), None)
      saver.save(stage.state_at(step), stage.progress_at(step), 1 / step)
      saver.wait()
      report(step)


def _check(saver: checkpoints.Checkpoints, folder: pathlib.Path, known: int) -> int:
  debris = [path for path in folder.rglob(".*") if path.name != ".lock"]
  if saver.latest_step() is None:
    assert not known and not debris, (known, debris)
    saver.write_spec({"bands": ["red"]}, stage.variables().frozen)
    return 0
  restored = saver.restore_latest(stage.state_at(0))
  step = int(restored[0].step)
  assert step >= known and not debris, (step, known, debris)
  assert stage.is_step(restored, step), step
  if step > 1:  # The scores fall, so that the first stays the best.
    best = saver.restore_variables(stage.variables())
    assert stage.same(best.trainable, stage.variables(1).trainable), best
  return step
