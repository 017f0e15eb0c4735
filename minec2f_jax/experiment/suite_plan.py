"""The runs of a suite: which experiment each row is at each seed, and which of them are one and the same."""

import copy
import hashlib
import json
import pathlib
import re
from typing import NamedTuple

from ml_collections import ConfigDict

from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import breakdown
from minec2f_jax.experiment.checks import check_fields
from minec2f_jax.experiment.data import DOMAINS, places
from minec2f_jax.methods import METHODS
from minec2f_jax.training import checkpoints

_FIELDS = {"title", "seeds", "base", "rows", "order"}
_ROW_FIELDS = {"label", "table", "domain", "group", "trained", "overrides", "paper"}
# Of config.data; no score of a table depends on them.
_OF_THE_MACHINE = {"cache_gb", "device_gb", "read_threads", "data_dir", "gsd_m"}


class Job(NamedTuple):
  """One run of a suite.

  Attributes:
    rows: that show it; none of a teacher that is no row itself.
    seed: of the run.
    config: the experiment.
    folder: of the run.
  """

  rows: tuple[str, ...]
  seed: int
  config: ConfigDict
  folder: pathlib.Path


def check_suite(config: ConfigDict):
  """Raises a UserError if `config` is no suite, or the experiment of a row has a fault or lacks data."""
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
  faults = {}
  for name in dict.fromkeys((*config.order, *config.rows)):
    if fault := _row_fault(config, name):
      faults.setdefault(fault, []).append(repr(name))
  if faults:
    told = " ".join(f"Row {', '.join(names)}: {fault}" for fault, names in faults.items())
    raise UserError(f"{told} (config.X of a row is config.base.X, or config.rows.ROW.overrides.X if it has its own.)")
  _refuse_namesakes(config)


def _refuse_namesakes(config: ConfigDict):
  """Raises a UserError if rows learn from folders that differ, but not in what they are called."""
  rows = [row_config(config, name, 0) for name in config.order if config.rows[name].trained]
  known = {}
  for path in {row.data[domain].path for row in rows for domain in DOMAINS} - {None, ""}:
    known.setdefault(_last(path), set()).add(str(pathlib.Path(path).expanduser().absolute()))
  if same := sorted(name for name, paths in known.items() if len(paths) > 1):
    raise UserError(
      f"{', '.join(sorted(known[same[0]]))}: rows learn from different folders that are called {same[0]!r} alike, and "
      "suite.json knows data by what their folder is called; rename one of them"
    )


def _row_fault(config: ConfigDict, name: str) -> str:
  row = config.rows[name]
  if not _ROW_FIELDS <= set(row):
    return f"a row holds {', '.join(sorted(_ROW_FIELDS))}."
  if row.domain not in DOMAINS:
    return f"domain={row.domain!r}: choose one of {DOMAINS}."
  if row.group and (len(row.group) != 2 or row.group[0] not in breakdown.FACTORS):
    return f"group={row.group!r}: give (), or one of {tuple(breakdown.FACTORS)} and the name of a group of it."
  if not row.trained or name not in config.order:
    return ""
  try:
    for seed in config.seeds:
      check_fields(found := row_config(config, name, seed))
  except UserError as error:
    return str(error)
  needed = sorted({row.domain} | {domain for domain, _ in places(found)})
  missing = [domain for domain in needed if not (found.data[domain].path or found.data[domain].builder)]
  return " ".join(
    f'config.data.{domain}.path is not set: give the folder of your {domain} set, write ":demo" after the suite\'s '
    "path, or leave the row out with config.rows.ROW.trained=False."
    for domain in missing
  )


def row_config(config: ConfigDict, name: str, seed: int) -> ConfigDict:
  """The experiment of one row at one seed."""
  found, overrides = copy.deepcopy(config.base), config.rows[name].overrides.to_dict()
  with found.unlocked():
    if "architecture" in overrides.get("model", {}):
      found.model = ConfigDict()  # Networks have few fields in common.
    found.update(overrides)
  found.seed = seed
  return found


def plan(config: ConfigDict, workdir: pathlib.Path) -> list[Job]:
  """All runs in order: one seed after the other, so that a table of one seed comes first; teachers where first needed.

  A teacher is the Task 1 of a row. Rows that agree in all that it depends on share it.
  """
  names, jobs = _folder_names(config, workdir), {}
  for seed in config.seeds:
    for name in config.order:
      if not config.rows[name].trained:
        continue
      found, teacher = _settle(config, name, seed, workdir)
      if teacher:
        jobs.setdefault(fingerprint(teacher), Job((), seed, teacher, teacher_folder(teacher, workdir)))
      key = fingerprint(found)
      job = jobs.get(key) or Job((), seed, found, names[_without_seed(found)] / f"seed{seed}")
      if tuple(found.stages) == ("coarse",):
        job = job._replace(folder=teacher_folder(found, workdir))
      jobs[key] = job._replace(rows=(*job.rows, name))
  return list(jobs.values())


def _settle(config: ConfigDict, name: str, seed: int, workdir: pathlib.Path) -> tuple[ConfigDict, ConfigDict | None]:
  """(the run of a row, the run of its teacher if it needs one)."""
  found = row_config(config, name, seed)
  if tuple(found.stages) == ("coarse",):
    return _task_1(config.base, found), None
  if found.stages[0] != "coarse" or found.teacher:
    return found, None
  teacher = _task_1(config.base, found)
  found.stages, found.teacher = tuple(found.stages[1:]), str(teacher_folder(teacher, workdir))
  return found, teacher


def _folder_names(config: ConfigDict, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
  """What rows come to without the seed -> folder. Rows that are the same have the first name, whatever the order."""
  names = {}
  for name in sorted(config.rows):
    if config.rows[name].trained:
      names.setdefault(_without_seed(_settle(config, name, 0, workdir)[0]), workdir / "rows" / name)
  return names


def _task_1(base: ConfigDict, config: ConfigDict) -> ConfigDict:
  """Task 1 of `config` alone, with the base's values wherever Task 1 does not depend on them."""
  teacher = copy.deepcopy(config)
  teacher.stages, teacher.fine, teacher.distillation = ("coarse",), base.fine, base.distillation
  with teacher.unlocked():  # What comes from the command line is locked.
    for name in set(teacher) - set(base) - {METHODS[config.coarse.method].section}:  # Other methods' and stages'.
      del teacher[name]
  if config.coarse.method == "supervised" and "fusion" in config.model:
    teacher.model.fusion = base.model.fusion
  return copy.deepcopy(teacher)


def teacher_folder(teacher: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
  """Where the Task 1 of rows is trained."""
  return workdir / "teachers" / f"{_without_seed(teacher)[:8]}-seed{teacher.seed}"


def fingerprint(config: ConfigDict) -> str:
  """SHA-256 of an experiment, the same wherever the suite's folder lies."""
  return _sha256(portable(_plain(config)))


def _without_seed(config: ConfigDict) -> str:
  plain = portable(_plain(config))
  if plain["teacher"]:
    plain["teacher"] = plain["teacher"].rpartition("-seed")[0] or plain["teacher"]
  return _sha256({**plain, "seed": None})


def _plain(config: ConfigDict) -> dict:
  return json.loads(config.to_json_best_effort())


def _sha256(plain: dict) -> str:
  return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def finished(job: Job) -> bool:
  """Whether the folder of `job` holds it, come to its end with the config that it has now."""
  found = job.folder / "config.json"
  if not found.exists() or not (job.folder / "results.json").exists():
    return False
  noted, wanted = (portable(plain) for plain in (checkpoints.read_json(found), _plain(job.config)))
  if wanted["pretrained_sha256"] is None:  # A run notes what it has found.
    noted = {**noted, "pretrained_sha256": None}
  return noted == wanted and all((job.folder / name / "finished.json").exists() for name in job.config.stages)


def portable(plain: dict) -> dict:
  """A config as JSON without what changes with the machine; files and folders without what they lie in.

  A suite's own teacher lies in a folder that is called by a hash of it.
  """
  found = {name: value for name, value in plain.items() if name != "checkpoint_minutes"}
  found["data"] = {name: value for name, value in plain["data"].items() if name not in _OF_THE_MACHINE}
  for domain in DOMAINS:
    found["data"][domain] = {**found["data"][domain], "path": _last(found["data"][domain]["path"])}
  return {**found, **{name: _last(found[name]) for name in ("teacher", "pretrained")}}


def _last(path: str | None) -> str | None:
  """What a path is called: of a prepared dataset, whose folder is a version, with the two above it."""
  parts = pathlib.PurePath(path or "").parts
  return "/".join(parts[-3:] if parts and re.fullmatch(r"\d+\.\d+\.\d+", parts[-1]) else parts[-1:]) or None
