"""Damages a saved stage, one bit, file end or file at a time, and counts what restoring it then does."""

import collections
import contextlib
import io
import pathlib
from collections.abc import Iterator

import numpy as np

from minec2f_jax import console
from minec2f_jax.training import checkpoints
from tests.faults import stage

KINDS = ("flip", "truncate", "delete")


def strike(path: pathlib.Path, kind: str, rng: np.random.Generator):
  """Flips one bit of a file, cuts it at a random place, or deletes it."""
  raw = bytearray(path.read_bytes())
  if kind == "delete":
    path.unlink()
  elif kind == "truncate":
    path.write_bytes(raw[: rng.integers(len(raw))])
  else:
    raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
    path.write_bytes(raw)


def strike_all(folder, *, flips: int, seed: int = 0) -> dict[str, int]:
  """What restoring does after each of `flips` flips, and a truncation and a deletion of every file.

  The files are those of the latest of two checkpoints, of frozen/ and stage.json; the flips go round all of them.
  Each is struck alone and mended before the next.

  Args:
    folder: an empty folder; a small stage is saved in it.
    flips: how many single bits to flip.
    seed: of the places.

  Returns:
    Counts: "flip", "truncate", "delete" (how many of each), and of what resuming and using the best model did:
    "resumed_earlier" (the checkpoint before, naming the file), "stopped" (an error, naming the file), "unnamed" (either
    without the file's name), "silent" (a result as if nothing were amiss: must be 0).
  """
  folder, rng, counts = pathlib.Path(folder), np.random.default_rng(seed), collections.Counter()
  stage.save(folder, [0.1, 0.2])
  targets = list(_targets(folder, flips))
  for path, kind in console.track(targets, total=len(targets), unit="files", title="flips"):
    raw = path.read_bytes()
    strike(path, kind, rng)
    counts[kind] += 1
    for attempt in (_resume, _use):
      counts[attempt(folder, path)] += 1
    path.write_bytes(raw)
  if _resume(folder, folder) != "silent" or _use(folder, folder) != "silent":
    raise AssertionError("the mended stage does not load: the counts mean nothing")
  return {"silent": 0, "unnamed": 0, **counts}


def _targets(folder: pathlib.Path, flips: int) -> Iterator[tuple[pathlib.Path, str]]:
  struck = [*(folder / "checkpoints" / "2").rglob("*"), *(folder / "frozen").rglob("*"), folder / "stage.json"]
  struck = sorted(path for path in struck if path.is_file())
  yield from ((struck[number % len(struck)], "flip") for number in range(flips))
  yield from ((path, kind) for kind in ("truncate", "delete") for path in struck)


def _resume(folder: pathlib.Path, struck: pathlib.Path) -> str:
  """How a run that goes on takes it; what it says counts, and what it loads must be that step's to the bit."""
  said = io.StringIO()
  with contextlib.redirect_stdout(said), contextlib.closing(checkpoints.Checkpoints(folder)) as saver:
    try:
      restored = saver.restore_latest(stage.state_at(0))
    except checkpoints.CheckpointError as error:
      return _named("stopped", str(error), struck)
  if not stage.is_step(restored, 1):
    return "silent"
  return _named("resumed_earlier", said.getvalue(), struck)


def _use(folder: pathlib.Path, struck: pathlib.Path) -> str:
  """How an evaluation takes it, which wants the best model: the one that was struck, and no other."""
  with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saver:
    try:
      saver.restore_variables(stage.variables())
    except checkpoints.CheckpointError as error:
      return _named("stopped", str(error), struck)
  return "silent"


def _named(outcome: str, text: str, struck: pathlib.Path) -> str:
  return outcome if str(struck) in text and "\n" not in text.strip() else "unnamed"
