"""suite.json: what is known of every run of a suite, for tables, tests and later suites.

{"version": 1, "title", "data", "seeds", "base" (config), "rows" ({name: row}), "order",
 "pretrained" ({row: whether weights are given}),
 "environments" [...], "data_digests" [...], "image_lists" [...]: what runs have in common, each once
 "runs": [{"rows": names, "seed", "folder", "teacher" (its folder), "config_sha256", "seconds" (of the session that came
           to the end), "error" (of this session) or null, "environment" and "data" (index into the lists above),
           "validation": {"score" (the best, of config.monitor), "epoch" (which has it), "epochs" (that were trained)},
           "results": [{"trained_on", "domain", "tested_on", "scores", "images" (index), "counts": ["tn fp fn tp"],
                        "groups": {factor: [{"name", "num_images", "small", "scores"}]}, where images tell any}]}]
 "others": runs that came to their end, of rows and seeds that the last command left out}

What is not known of a run that is not through is null. `results` are of the stage that the run has trained itself.
"""

import json
import pathlib

from ml_collections import ConfigDict

from minec2f_jax import files
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import suite_table
from minec2f_jax.experiment.data import data_name
from minec2f_jax.experiment.suite_plan import Job, fingerprint, finished, portable, row_config
from minec2f_jax.training import checkpoints

VERSION = 1
# Field of a run or of one of its results -> list that it points into.
_LISTS = {"environment": "environments", "data": "data_digests", "images": "image_lists"}


def read(workdir: pathlib.Path) -> dict[str, dict]:
  """`config_sha256` -> run of the suite.json in `workdir`, of those that came to their end; lists are put back in.

  Raises:
    UserError: the file is not what `write` writes.
  """
  path = workdir / "suite.json"
  if not path.exists():
    return {}
  suite = checkpoints.read_json(path)
  try:
    if suite["version"] != VERSION:
      raise UserError(f"{path}: is of version {suite['version']}, not {VERSION}; give another --workdir")
    return {
      entry["config_sha256"]: _whole(entry, suite) for entry in (*suite["runs"], *suite["others"]) if entry["results"]
    }
  except (KeyError, IndexError, TypeError) as error:
    raise UserError(
      f"{path}: is not what a suite writes; restore it, or delete it: the runs beside it count"
    ) from error


def gather(config: ConfigDict, workdir: pathlib.Path, jobs: list[Job], kept: dict[str, dict], failed: dict) -> dict:
  """The content of suite.json now; `kept` takes up what has come to its end.

  Args:
    config: the suite.
    workdir: its folder.
    jobs: of `plan`.
    kept: of `read`.
    failed: folder -> what a run said that failed.
  """
  runs = [_entry(job, workdir, kept, failed.get(job.folder)) for job in jobs]
  kept.update({entry["config_sha256"]: entry for entry in runs if entry["results"]})
  shown = {entry["config_sha256"] for entry in runs}
  others = [entry for key, entry in sorted(kept.items()) if key not in shown and entry["results"]]
  suite = {
    "version": VERSION,
    "title": config.title,
    "data": data_name(config.base),
    "seeds": list(config.seeds),
    "base": portable(json.loads(config.base.to_json_best_effort())),
    "rows": {name: json.loads(config.rows[name].to_json_best_effort()) for name in config.order},
    "order": list(config.order),
    "pretrained": {
      name: bool(row_config(config, name, 0).pretrained) for name in config.order if config.rows[name].trained
    },
  }
  lists = {name: [] for name in _LISTS.values()}
  suite["runs"], suite["others"] = ([_pointing(entry, lists) for entry in part] for part in (runs, others))
  return {**suite, **lists}


def write(suite: dict, workdir: pathlib.Path):
  """Writes suite.json."""
  files.write_json(workdir / "suite.json", suite)


def _whole(entry: dict, suite: dict) -> dict:
  """`entry` of `suite` with what it points to in its place."""
  found = {**entry, **{name: suite[_LISTS[name]][entry[name]] for name in _LISTS.keys() & entry.keys()}}
  return {**found, "results": [_whole(result, suite) for result in entry["results"]]} if "results" in entry else found


def _pointing(entry: dict, lists: dict[str, list]) -> dict:
  """`entry` with places in `lists` where it holds what runs have in common."""
  found = dict(entry)
  for name in _LISTS.keys() & entry.keys():
    if entry[name] is not None:
      if entry[name] not in lists[_LISTS[name]]:
        lists[_LISTS[name]].append(entry[name])
      found[name] = lists[_LISTS[name]].index(entry[name])
  if entry.get("results"):
    found["results"] = [_pointing(result, lists) for result in entry["results"]]
  return found


def _entry(job: Job, workdir: pathlib.Path, kept: dict[str, dict], error: str | None) -> dict:
  key = fingerprint(job.config)
  known = kept.get(key, {})
  entry = {
    "rows": list(job.rows),
    "seed": job.seed,
    "folder": str(job.folder.relative_to(workdir)),
    "teacher": job.config.teacher and str(job.config.teacher).removeprefix(f"{workdir}/"),
    "config_sha256": key,
    "seconds": known.get("seconds"),
    "error": error,
  }
  if not finished(job):
    return {**entry, **{name: known.get(name) for name in ("results", "environment", "data", "validation")}}
  return {
    **entry,
    "results": [_short(row) for row in checkpoints.read_json(job.folder / "results.json")["rows"] if _own(job, row)],
    "environment": checkpoints.read_json(job.folder / "run.json")["environments"][-1],
    "data": checkpoints.read_json(job.folder / "data.json"),
    "validation": _validation(job),
  }


def _validation(job: Job) -> dict:
  found = checkpoints.read_json(job.folder / tuple(job.config.stages)[-1] / "finished.json")
  return {"score": found["best_score"], "epoch": found["best_epoch"], "epochs": found["epoch"]}


def _own(job: Job, row: dict) -> bool:
  return row["trained_on"] == tuple(job.config.stages)[-1]


def _short(row: dict) -> dict:
  counts = [" ".join(str(n) for line in found for n in line) for found in row["counts"].values()]
  kept = {name: row[name] for name in ("trained_on", "domain", "tested_on", "scores")}
  kept |= {"images": list(row["counts"]), "counts": counts}
  groups = {factor: [_short_group(group) for group in found] for factor, found in row.get("groups", {}).items()}
  return {**kept, "groups": groups} if groups else kept


def _short_group(group: dict) -> dict:
  kept = {name: group[name] for name in ("name", "num_images", "small")}
  return {**kept, "scores": {name: group["scores"][name] for name in suite_table.SCORES.values()}}
