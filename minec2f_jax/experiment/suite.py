"""A suite: the rows of a table at several seeds, each distinct teacher trained once, and the table that comes of it.

A folder holds teachers/NAME-seedN and rows/ROW/seedN, each a run as `run.train` leaves it, and suite.json with the
table's files, written anew after each run: a suite that is interrupted has its table, and the same command goes on.

All runs share one process: data that rows have in common are read once, and a GPU starts once. A run that ends in an
error of the user's is told and left out; the others go on. What ends the process leaves the runs before it whole.
"""

import copy
import gc
import hashlib
import json
import pathlib
import time
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from minec2f_jax import console, files, host
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import suite_table
from minec2f_jax.experiment import run
from minec2f_jax.experiment.checks import check_fields
from minec2f_jax.experiment.data import data_name, open_sources, places
from minec2f_jax.training import checkpoints

_FIELDS = {"title", "seeds", "base", "rows", "order"}
_ROW_FIELDS = {"label", "overrides", "paper"}


class Job(NamedTuple):
  """One run of a suite; `row` is None for a teacher."""

  row: str | None
  seed: int
  title: str
  config: ConfigDict
  folder: pathlib.Path


def run_suite(config: ConfigDict, workdir, *, cache=None):
  """Trains what of the suite is not finished yet, and writes its table into `workdir`.

  Args:
    config: of `configs.suites.make_suite`.
    workdir: folder of the suite.
    cache: as of `run.train`.

  Raises:
    UserError: before anything starts: the suite or a row's config is faulty, `workdir` holds runs of another, or
      another process is at work there; after all others: the runs that failed, with what they said.
  """
  check_suite(config)
  workdir = pathlib.Path(workdir)
  with run.held(workdir):
    jobs, failed, seconds = plan(config, workdir), {}, _known_seconds(workdir)
    for job in jobs:
      run.check_same_run(job.folder, job.config)
    _write(config, workdir, jobs, failed, seconds)
    todo = [job for job in jobs if not finished(job)]
    console.say(f"[suite] {config.title}: {len(jobs)} runs, {len(jobs) - len(todo)} of them finished")
    _run_all(todo, cache, failed, seconds, after=lambda: _write(config, workdir, jobs, failed, seconds))
  console.say(f"\n{(workdir / 'table.md').read_text()}\nThe table (md, csv, tex, png) and suite.json are in {workdir}")
  if failed:
    told = "; ".join(f"{folder.relative_to(workdir)}: {message}" for folder, message in failed.items())
    raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {told}")


def check_suite(config: ConfigDict):
  """Raises a UserError if `config` is no suite, or the config of one of its rows has a fault."""
  missing = sorted(_FIELDS - set(config))
  if missing:
    raise UserError(
      f"the config has no {' or '.join(missing)}, so it is no suite: --mode=suite takes one of configs/suites/, e.g. "
      "--config=configs/suites/table4.py:demo"
    )
  seeds = tuple(config.seeds)
  if not seeds or len(set(seeds)) < len(seeds) or not all(isinstance(seed, int) for seed in seeds):
    raise UserError(f"config.seeds={config.seeds}: give one or more different whole numbers, e.g. (0, 1, 2)")
  if not config.order or not set(config.order) <= set(config.rows):
    raise UserError(f"config.order={config.order}: give one or more of the rows {sorted(config.rows)}")
  if wrong := [name for name in config.order if not _ROW_FIELDS <= set(config.rows[name])]:
    raise UserError(f"config.rows.{wrong[0]}: a row holds {', '.join(sorted(_ROW_FIELDS))}")
  for name in config.order:
    for seed in seeds:
      try:
        check_fields(row_config(config, name, seed))
      except UserError as error:
        raise UserError(f"row {name!r} of the suite: {error}") from error


def row_config(config: ConfigDict, name: str, seed: int) -> ConfigDict:
  """The experiment of one row at one seed."""
  found = copy.deepcopy(config.base)
  with found.unlocked():
    found.update(config.rows[name].overrides)
  found.seed = seed
  return found


def plan(config: ConfigDict, workdir: pathlib.Path) -> list[Job]:
  """All runs in order: one seed after the other, so that a table of one seed comes first; teachers where first needed.

  A teacher is the Task 1 of a row. Rows that agree in all that it depends on share it.
  """
  jobs = {}
  for seed in config.seeds:
    for name in config.order:
      found = row_config(config, name, seed)
      if tuple(found.stages) == ("coarse", "fine") and not found.teacher:
        teacher = _teacher(config.base, found)
        folder = workdir / "teachers" / f"{_short_hash(teacher)}-seed{seed}"
        jobs[folder] = jobs.get(folder) or Job(None, seed, f"teacher, seed {seed}", teacher, folder)
        found.stages, found.teacher = ("fine",), str(folder)
      folder = workdir / "rows" / name / f"seed{seed}"
      jobs[folder] = Job(name, seed, f"{config.rows[name].label}, seed {seed}", found, folder)
  return list(jobs.values())


def _teacher(base: ConfigDict, config: ConfigDict) -> ConfigDict:
  """Task 1 of `config` alone, with the base's values wherever Task 1 does not depend on them."""
  teacher = copy.deepcopy(config)
  teacher.stages, teacher.fine, teacher.distillation = ("coarse",), base.fine, base.distillation
  if config.coarse.method == "supervised" and "fusion" in config.model:
    teacher.model.fusion = base.model.fusion
  return copy.deepcopy(teacher)


def _short_hash(config: ConfigDict) -> str:
  plain = json.loads(config.to_json_best_effort())
  plain.pop("seed")  # It stands in the name.
  return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def finished(job: Job) -> bool:
  """Whether `job` has come to its end with the config that it has now."""
  found = job.folder / "config.json"
  if not found.exists() or not (job.folder / "results.json").exists():
    return False
  ended = all((job.folder / name / "finished.json").exists() for name in job.config.stages)
  return ended and checkpoints.read_json(found) == json.loads(job.config.to_json_best_effort())


def _run_all(jobs: list[Job], cache, failed: dict, seconds: dict, after):
  opened, began, lost = _Opened(), time.monotonic(), set()
  for number, job in enumerate(jobs):
    left = f", {console.duration((time.monotonic() - began) / number * (len(jobs) - number))} left" if number else ""
    console.say(f"\n[suite] run {number + 1} of {len(jobs)}: {job.title}{left}")
    started = time.monotonic()
    try:
      if job.config.teacher in lost:
        raise UserError(f"its teacher {job.config.teacher} failed")
      run.train(job.config, job.folder, cache=cache, opener=opened)
      seconds[str(job.folder)] = round(time.monotonic() - started, 1)
    except (UserError, FloatingPointError) as error:
      console.say(f"[suite] {job.title} failed: {error}")
      failed[job.folder] = str(error)
      lost.add(str(job.folder))
    after()
    jax.clear_caches()
    gc.collect()
    host.give_back_memory()


class _Opened:
  """`open_sources` that remembers what it opened last: neighbouring rows mostly learn from the same data."""

  def __init__(self):
    self._key = self._sources = None

  def __call__(self, config: ConfigDict):
    drawn = config.seed if any(config.data[name].coarsen_gsd_m for name in ("coarse", "fine")) else None
    key = (config.data.to_json_best_effort(), drawn, places(config))
    if key != self._key:
      self._key = self._sources = None  # Both at once may not fit.
      self._key, self._sources = key, open_sources(config)
    return self._sources


def _known_seconds(workdir: pathlib.Path) -> dict[str, float]:
  """What suite.json says of how long runs took."""
  path = workdir / "suite.json"
  runs = checkpoints.read_json(path)["runs"] if path.exists() else []
  return {str(workdir / entry["folder"]): entry["seconds"] for entry in runs if entry["seconds"]}


def _write(config: ConfigDict, workdir: pathlib.Path, jobs: list[Job], failed: dict, seconds: dict):
  """suite.json, all that is known of every run, and the table of it."""
  runs = [_entry(job, workdir, failed, seconds) for job in jobs]
  suite = {
    "title": config.title,
    "data": data_name(config.base),
    "seeds": list(config.seeds),
    "rows": {name: config.rows[name].to_dict() for name in config.order},
    "base": json.loads(config.base.to_json_best_effort()),
    "runs": runs,
  }
  files.write_json(workdir / "suite.json", suite)
  suite_table.write(suite, workdir)


def _entry(job: Job, workdir: pathlib.Path, failed: dict, seconds: dict) -> dict:
  done = finished(job)
  return {
    "row": job.row,
    "seed": job.seed,
    "folder": str(job.folder.relative_to(workdir)),
    "teacher": job.config.teacher and str(pathlib.Path(job.config.teacher)).removeprefix(f"{workdir}/"),
    "seconds": seconds.get(str(job.folder)),  # Of the session that came to the end.
    "error": failed.get(job.folder),
    "results": checkpoints.read_json(job.folder / "results.json")["rows"] if done else None,
    "environment": checkpoints.read_json(job.folder / "run.json")["environments"][-1] if done else None,
    "data": checkpoints.read_json(job.folder / "data.json") if done else None,
  }
