"""Scores the models of a run again: on its own test sets, or on others."""

import copy
import json
import pathlib

from minec2f_jax import files
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import noted, record
from minec2f_jax.experiment.checks import check_fields, check_networks
from minec2f_jax.experiment.data import DOMAINS, open_sources, places
from minec2f_jax.experiment.report import report
from minec2f_jax.experiment.run import load_pretrained, settled
from minec2f_jax.experiment.stages import first_difference, load_stage, programs_of, wire
from minec2f_jax.training import checkpoints

# What says where things lie; whether other things lie there is told by their hashes.
_PLACES = ("path", "builder")


def evaluate(config, workdir, *, output=None, predictions: bool = False, cache=None):
  """Scores the best checkpoints of a run: tables, JSON and figures, as after `train`, which see.

  Scores of the run's own test sets go into its workdir. Those of other data need an `output`: whatever in `config` is
  not what the run has noted may differ there, but for what the weights expect (bands, normalisation, architecture).

  Args:
    config: None for the one that the run has noted.
    workdir: of the run.
    output: folder for all that is written; "" and None for the workdir.
    predictions: whether to write probability maps, too, see `report`.
    cache: as for `train`.

  Raises:
    UserError: among others, the data are not those of the run and there is no `output`, or it is that of a run.
  """
  workdir = pathlib.Path(workdir)
  config = noted.get_config(workdir) if config is None else config
  check_fields(config)
  programs = programs_of(config, cache)
  check_networks(config, programs)
  config, _ = load_pretrained(config, workdir, [])
  other = _other_config(config, workdir)
  target = _target(workdir, output, other)
  wired, models, prior = wire(config, programs=programs), {}, None
  for name in wired:
    folder = config.teacher if name == "coarse" and config.teacher else workdir
    prior = models[name] = load_stage(config, name, wired[name].method, folder, prior)
  sources = open_sources(config, _test_sets(config))
  if not other:
    target = _target(workdir, output, _other_data(config, workdir, sources, models))
  report(config, workdir, wired, models, sources, output=target, predictions=predictions)
  if target != workdir:
    _note(config, workdir, models, target)


def _test_sets(config) -> list[tuple[str, str]]:
  """Every test split that is named; nothing else is opened, and need be there."""
  found = [(domain, split) for domain, split in places(config) if split == "test"]
  if not found:
    raise UserError(
      "there are no data to score on: give the folder of a fine set with --config.data.fine.path=DIR, of a coarse one "
      "with --config.data.coarse.path=DIR."
    )
  return found


def _other_config(config, workdir: pathlib.Path) -> str:
  """In what `config` is not that of the run in `workdir`, but for where things lie; "" if in nothing."""
  started = [name for name in DOMAINS if checkpoints.has_checkpoints(workdir / name)]
  if not started or not (workdir / "config.json").exists():
    return "config.json (none there)"
  there, here = (settled(plain, started) for plain in (noted.read_plain(workdir), _plain(config)))
  if (workdir / "data.json").exists():
    there, here = map(_without_places, (there, here))
  return first_difference(there, here, "config")


def _without_places(plain: dict) -> dict:
  """A config as JSON without what says where data and teacher lie."""
  plain = copy.deepcopy({name: value for name, value in plain.items() if name != "teacher"})
  plain["data"].pop("data_dir", None)
  for domain in DOMAINS:
    for name in _PLACES if domain in plain["data"] else ():
      plain["data"][domain].pop(name, None)
  return plain


def _other_data(config, workdir: pathlib.Path, sources, models) -> str:
  """What of the test sets or of the teacher is not the run's own, by hashes; "" if nothing."""
  if not (workdir / "data.json").exists():  # Early versions wrote none, and the places have been compared.
    return ""
  recorded = record.read_data(workdir)
  if different := sorted(set(sources) ^ {place for place in recorded if place[1] == "test"}):
    return f"choice of test sets (of one of the two: {', '.join(domain for domain, _ in different)})"
  different, _ = record.compare_data(config, recorded, sources)
  if config.teacher:
    record.require_same_teacher(workdir, config, record.model_sha256(models["coarse"]))
  return f"data: {'; '.join(different)}" if different else ""


def _target(workdir: pathlib.Path, output, other: str) -> pathlib.Path:
  """Where results go, if `other` says in what they are not those of the run."""
  if not output:
    if other:
      raise UserError(
        f"{workdir} holds a run with another {other}. Give --output=DIR for the results of this evaluation, so that "
        "the run keeps its own."
      )
    return workdir
  output = pathlib.Path(output)
  if output.exists() and not output.is_dir():
    raise UserError(f"--output={output} is a file: give a folder.")
  same = output.exists() and output.samefile(workdir)
  if (output / "config.json").exists() and (other or not same):
    what = f"this evaluation is of another {other}" if other else "this evaluation is of another run"
    raise UserError(f"--output={output} is the workdir of a run, and {what}. Give another folder.")
  return workdir if same else output


def _note(config, workdir: pathlib.Path, models, output: pathlib.Path):
  """Writes down whose models were scored, and with which config."""
  hashes = {name: record.model_sha256(model) for name, model in models.items()}
  files.write_json(output / "evaluated.json", {"run": str(workdir), "models": hashes, "config": _plain(config)})


def _plain(config) -> dict:
  return json.loads(config.to_json_best_effort())
