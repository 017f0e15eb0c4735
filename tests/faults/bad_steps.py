"""Trains the stage of `tiny` on images that are not finite, and holds what the run skips against what it had to."""

import contextlib
import io
import pathlib
import re

import jax
import numpy as np

from minec2f_jax.training import trainer
from tests.faults import run_ends, tiny

_VALUES = (np.nan, np.inf, -np.inf)
_EPOCHS = 3


def poison(folder, *, runs: int, seed: int = 0) -> dict:
  """Trains `runs` times with some of the images spoilt.

  Args:
    folder: an empty folder.
    runs: how many.
    seed: of which images, and of the number of steps that the device takes in one call.

  Returns:
    "skipped": steps that were skipped and counted; "stopped": runs that three in a row ended, each of which went on
    once its images were mended; "finished": the other runs; "wrong": a text for whatever went otherwise than the order
    of the samples tells.
  """
  folder, rng = pathlib.Path(folder), np.random.default_rng(seed)
  counts, wrong = {"skipped": 0, "stopped": 0, "finished": 0}, []
  for number in range(runs):
    bad = rng.choice(2 * tiny.STEPS, size=rng.integers(1, 4), replace=False)
    with contextlib.redirect_stdout(io.StringIO()):
      found = _run(folder / str(number), bad, _VALUES[rng.integers(3)], int(rng.choice([1, tiny.STEPS])), counts)
    wrong += [f"run {number} with the images {sorted(bad.tolist())} spoilt: {text}" for text in found]
  return {**counts, "wrong": wrong}


def _run(folder: pathlib.Path, bad: np.ndarray, value: float, steps_per_call: int, counts: dict) -> list[str]:
  source = tiny.with_nan(*bad)
  source.image[bad] = value
  stage = tiny.make_stage(source, epochs=_EPOCHS, steps_per_call=steps_per_call)
  skipped, fatal = _expected(stage, {f"toy{place}" for place in bad})
  try:
    trainer.run_stage(stage, tiny.KEY, None, folder)
  except FloatingPointError as error:
    counts["stopped"] += 1
    return _check_stop(folder, stage, fatal, str(error), steps_per_call)
  counts["finished"] += 1
  counts["skipped"] += len(skipped)
  state = tiny.latest(folder)[0]
  told = sum(line["train/skipped"] for line in run_ends.metrics(folder))
  if fatal or not int(state.skipped) == told == len(skipped):
    return [f"{int(state.skipped)} steps skipped, {told} told, {len(skipped)} expected; to stop: {fatal}"]
  return [] if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)) else ["a state that is not finite"]


def _expected(stage, bad: set[str]) -> tuple[list[int], list[int]]:
  """The steps that a batch of spoilt images makes skip, and the three in a row that end the run, if any."""
  skipped = []
  for step in range(_EPOCHS * tiny.STEPS):
    skipped += [step] if bad & set(stage.feed.ids(step)["coarse"]) else []
    if skipped[-3:] == [step - 2, step - 1, step]:
      return skipped, skipped[-3:]
  return skipped, []


def _check_stop(folder: pathlib.Path, stage, fatal: list[int], text: str, steps_per_call: int) -> list[str]:
  """Whether it stopped where it had to, names steps and samples, and goes on with other images from what was saved."""
  if not fatal:
    return [f"it stopped for no reason: {text}"]
  names = "; ".join(f"coarse {', '.join(stage.feed.ids(step)['coarse'])}" for step in fatal)
  one, two, three = (step + 1 for step in fatal)
  if not re.search(f"steps {one}, {two} and {three} is not finite; their samples are {names}", text):
    return [f"it stopped at {fatal} with the samples {names} and said: {text}"]
  epochs = fatal[-1] // tiny.STEPS
  # The last epoch may have found the disk busy.
  if epochs and int(tiny.latest(folder)[0].step) not in range(tiny.STEPS, epochs * tiny.STEPS + 1, tiny.STEPS):
    return [f"what was saved last is of no epoch before {epochs + 1}"]
  trainer.run_stage(tiny.make_stage(epochs=_EPOCHS, steps_per_call=steps_per_call), tiny.KEY, None, folder)
  return [] if tiny.latest(folder)[1].epoch == _EPOCHS else ["it did not go on with other images"]
