"""Trains a finished run anew from what it has noted, and compares."""

import functools
import json
import math
import pathlib
import shutil
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from minec2f_jax import console, files
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import record
from minec2f_jax.experiment.checks import check_fields
from minec2f_jax.experiment.data import open_source, trained
from minec2f_jax.experiment.run import train
from minec2f_jax.experiment.selection import FILE
from minec2f_jax.experiment.stages import first_difference, load_stage, wire
from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints
from minec2f_jax.training.logging import read_metrics

# Of scores, which lie between 0 and 1. The demo (32 epochs, 40 test images) trained without XLA's costly optimizations,
# which round otherwise, came out by up to 0.073 (teacher) and 0.025 (student) beside the run with them.
TOLERANCE = 0.1
# Where things lie and what is held where: it changes no bit of a run.
_MOVABLE = (
  "data.coarse.path", "data.coarse.builder", "data.fine.path", "data.fine.builder", "data.data_dir", "data.cache_gb",
  "data.device_gb", "data.read_threads", "teacher", "pretrained",
)  # fmt: skip
_PACE = "images_per_s"  # The one number in a history that is no result.


class Comparison(NamedTuple):
  """A part of the recorded run beside the same part of the retraining."""

  what: str
  recorded: str
  reproduced: str
  difference: str  # the first, by name and with both values; "" = none
  largest: float  # of parameters relative to the array's largest, of numbers absolute; infinite where one side has none


def reproduce(workdir, config: ConfigDict | None = None, *, tolerance: float = TOLERANCE, cache=None):
  """Trains the run in `workdir` anew in its subfolder "reproduction", and compares the two.

  Compared are, stage by stage, the metrics of every epoch, how the stage ended and the best parameters with their
  statistics; then all test scores. In the environment of the run (see `record.environment`) all must be equal bit for
  bit. Another environment rounds otherwise, and training magnifies that: there, only the test scores are held to
  `tolerance`. Says a table and writes reproduction.json. A retraining that was killed goes on by the same call; after
  one that was compared, the next call starts afresh.

  Args:
    workdir: of a run that has finished; only "reproduction" and reproduction.json in it are touched.
    config: says where data, teacher and pretrained weights lie by now, and is else that of the run; None: they lie
      where they did.
    tolerance: largest absolute difference of a test score that passes in another environment.
    cache: as for `train`.

  Raises:
    UserError: the run is not finished, its data or its teacher have changed, or the retraining came out differently.
  """
  workdir = pathlib.Path(workdir)
  config = resolve_config(workdir, config)
  _require_finished(config, workdir)
  changes = compare_environments(record.read_run(workdir)["environments"], record.environment(config))
  for change in changes:
    console.say(f"[reproduce] another environment: {change}")
  _refuse_other_inputs(config, workdir)
  scratch = _scratch(workdir)
  train(config, scratch, cache=cache)
  compared = compare(config, workdir, scratch)
  failed = _first_failure(compared, exact=not changes, tolerance=tolerance)
  _report(workdir, compared, changes, tolerance, failed)
  if failed:
    raise UserError(f"{workdir} is not reproduced: {failed}. The retraining is in {scratch}")


def resolve_config(workdir, given: ConfigDict | None = None) -> ConfigDict:
  """The config that the run in `workdir` has noted, with everything where `given` says that it lies.

  Raises:
    UserError: config.json is absent or no config that can be, or `given` differs in what makes the run.
  """
  if not (pathlib.Path(workdir) / "config.json").exists():
    raise UserError(f"--workdir={workdir}: there is no run; give the folder of one that is finished.")
  noted = checkpoints.read_json(pathlib.Path(workdir) / "config.json")
  if given is not None:
    plain = json.loads(given.to_json_best_effort())
    plain["pretrained_sha256"] = noted.get("pretrained_sha256")  # Checked when the file is read.
    for *sections, key in (field.split(".") for field in _MOVABLE):
      there, here = (functools.reduce(lambda tree, name: tree.get(name, {}), sections, tree) for tree in (noted, plain))
      if key in here:  # Else it is the difference.
        there[key] = here[key]
    if different := first_difference(noted, plain, "config"):
      raise UserError(
        f"{workdir} holds a run with another {different}; to reproduce it give no --config, or the same with other "
        f"values of {', '.join(_MOVABLE)}, which say where things lie"
      )
  config = ConfigDict(_with_tuples(noted))
  check_fields(config)
  return config


def compare_environments(recorded: list[dict], now: dict) -> list[str]:
  """How the environments of a run differ from the present one, a line each; none: equal bits can be expected."""
  here = traverse_util.flatten_dict(now, sep=".")
  lines = set()
  for there in (traverse_util.flatten_dict(entry, sep=".") for entry in recorded):
    differing = [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]
    lines |= {f"{name} ({there.get(name)} recorded, {here.get(name)} now)" for name in differing}
  return sorted(lines)


def compare(config, workdir: pathlib.Path, other: pathlib.Path) -> list[Comparison]:
  """The run in `workdir` beside that in `other`, in the order in which a difference would arise."""
  folders, compared = (workdir, other), []
  models = [None, None]
  for name, wired in wire(config).items():
    if name == "coarse" and config.teacher:
      models = 2 * [load_stage(config, name, wired.method, config.teacher)]
      continue
    models = [load_stage(config, name, wired.method, folder, prior) for folder, prior in zip(folders, models)]
    if "selection" in config[name]:
      compared.append(_compare_numbers(f"{name} selection", *(_selected(folder / name / FILE) for folder in folders)))
    compared += [
      _compare_numbers(f"{name} history", *(_history(folder / name / "metrics.jsonl") for folder in folders)),
      _compare_numbers(f"{name} end", *(checkpoints.read_json(folder / name / "finished.json") for folder in folders)),
      _compare_parameters(f"{name} parameters", *models),
    ]
  return [*compared, _compare_numbers("test scores", *(_scores(folder / "results.json") for folder in folders))]


def _with_tuples(value):
  """JSON has lists for tuples, and configs have no lists."""
  if isinstance(value, dict):
    return {key: _with_tuples(entry) for key, entry in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _require_finished(config, workdir: pathlib.Path):
  wanted = [f"{name}/finished.json" for name in trained(config)] + ["results.json", "data.json", "run.json"]
  if missing := [name for name in wanted if not (workdir / name).is_file()]:
    raise UserError(
      f"{workdir} holds no {', '.join(missing)}: the run has not finished, or an earlier version made it. Finish it "
      "with --mode=train, then reproduce it"
    )


def _refuse_other_inputs(config, workdir: pathlib.Path):
  """Raises a UserError if the data or the teacher are not those of the run: to train on them would compare nothing."""
  recorded = record.read_data(workdir)
  different, _ = record.compare_data(config, recorded, {key: open_source(config, *key) for key in recorded})
  if config.teacher:
    teacher = load_stage(config, "coarse", wire(config)["coarse"].method, config.teacher)
    noted, found = record.read_run(workdir)["teacher"], record.model_sha256(teacher)
    if noted != found:
      different.append(f"the teacher {config.teacher} has other weights ({noted} recorded, {found} now)")
  if different:
    raise UserError(
      f"{workdir} cannot be reproduced, nothing was trained: {'; '.join(different)}. Restore what it learnt from, or "
      "say with --config where that lies by now"
    )


def _scratch(workdir: pathlib.Path) -> pathlib.Path:
  """Where the retraining goes: as a killed one left it, empty after one that has been compared."""
  scratch, result = workdir / "reproduction", workdir / "reproduction.json"
  if result.exists():
    shutil.rmtree(scratch, ignore_errors=True)
    result.unlink()  # Last: a kill in between must not let half a retraining go on.
  return scratch


def _history(path: pathlib.Path) -> dict[str, float | None]:
  """{"epoch 1, train/loss": 0.5, ...}."""
  return {
    f"epoch {epoch}, {name}": value
    for epoch, line in enumerate(read_metrics(path), start=1)
    for name, value in line.items()
    if name != _PACE
  }


def _selected(path: pathlib.Path) -> dict[str, float | None]:
  """{"score of 17": 0.5, "17 is kept": 1, ...}."""
  noted = checkpoints.read_json(path)
  scores = {f"score of {name}": score for name, score in noted["scores"].items()}
  return {**scores, **{f"{name} is kept": int(name in noted["ids"]) for name in noted["scores"]}}


def _scores(path: pathlib.Path) -> dict[str, float | None]:
  """{"fine model on coarse test (3), miou": 0.5, ...}."""
  return {
    f"{row['trained_on']} model on {row['tested_on']}, {name}": value
    for row in checkpoints.read_json(path)["rows"]
    for name, value in row["scores"].items()
  }


def _compare_numbers(what: str, recorded: dict, reproduced: dict) -> Comparison:
  first, largest = "", 0.0
  for name in recorded | reproduced:
    pair = recorded.get(name), reproduced.get(name)
    if pair[0] != pair[1]:
      first = first or f"{what}: {name} is {pair[0]} recorded, {pair[1]} reproduced"
      numbers = all(isinstance(value, int | float) for value in pair)
      largest = max(largest, abs(pair[0] - pair[1]) if numbers else math.inf)
  return Comparison(what, f"{len(recorded)} numbers", f"{len(reproduced)} numbers", first, largest)


def _compare_parameters(what: str, recorded: Variables, reproduced: Variables) -> Comparison:
  hashes = [record.model_sha256(model) for model in (recorded, reproduced)]
  ours, theirs = ({"trainable": model.trainable, "extra": model.extra} for model in (recorded, reproduced))
  distances = {
    jax.tree_util.keystr(path, simple=True, separator="/"): _relative(np.asarray(a), np.asarray(b))
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs))
    if np.asarray(a).tobytes() != np.asarray(b).tobytes()
  }
  largest, difference = max(distances.values(), default=0.0), ""
  if distances:
    difference = f"{what}: {next(iter(distances))} and {len(distances) - 1} other arrays differ, by up to {largest:.1e}"
  return Comparison(what, hashes[0][:12], hashes[1][:12], difference, largest)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
  """Largest difference of two arrays, as a share of the largest value of the first."""
  a, b = a.astype(np.float64), b.astype(np.float64)
  return float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), np.finfo(np.float64).tiny))


def _first_failure(compared: list[Comparison], *, exact: bool, tolerance: float) -> str:
  if exact:
    return next((part.difference for part in compared if part.difference), "")
  scores = compared[-1]
  return scores.difference if scores.largest > tolerance else ""


def _report(workdir: pathlib.Path, compared: list[Comparison], changes: list[str], tolerance: float, failed: str):
  equal = not any(part.difference for part in compared)
  verdict = "different" if failed else "bitwise equal" if equal else f"test scores within {tolerance}"
  cells = [("part", "recorded", "reproduced", "largest difference")]
  cells += [(part.what, part.recorded, part.reproduced, f"{part.largest:.3g}") for part in compared]
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
  console.say("\n".join(["", *lines, "", f"{workdir}: {verdict}"]))
  files.write_json(
    workdir / "reproduction.json",
    {
      "verdict": verdict,
      "first_difference": failed or next((part.difference for part in compared if part.difference), ""),
      "other_environment": changes,
      "tolerance": tolerance,
      "parts": [part._asdict() for part in compared],
    },
  )
