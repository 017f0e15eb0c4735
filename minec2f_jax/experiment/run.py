"""Training from a config to the files in a workdir."""

import contextlib
import copy
import json
import os
import pathlib
from collections.abc import Callable

import jax

from minec2f_jax import console, devices, files
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import record
from minec2f_jax.experiment.checks import check_fields, check_networks
from minec2f_jax.experiment.data import open_sources
from minec2f_jax.experiment.report import report
from minec2f_jax.experiment.selection import training_sources
from minec2f_jax.experiment.stages import (
  first_difference,
  load_stage,
  make_stage,
  programs_of,
  stage_number,
  stages_in,
  starting,
  warn_of_slow_statistics,
  wire,
)
from minec2f_jax.methods import METHODS
from minec2f_jax.models import factory, pretrained
from minec2f_jax.training import checkpoints, trainer


def train(config, workdir, *, predictions: bool = False, cache=None, opener=open_sources):
  """Trains every stage of `config` that is not finished yet, then evaluates. All results go to `workdir`.

  Args:
    config: the experiment.
    workdir: folder of the run; of several processes (`devices.join`) the first one's are the files in it, and all must
      see them.
    predictions: whether to write a probability map of every model and test image, too.
    cache: folder for programs (see `minec2f_jax.programs`), None for none. Only for processes in which no code of this
      package has been replaced.
    opener: opens the data, see `open_sources`.

  Raises:
    UserError: among others, another process trains in `workdir`. Evaluating may go on beside.
  """
  check_fields(config)
  with files.held(pathlib.Path(workdir), "--workdir") if devices.is_first() else contextlib.nullcontext():
    _train(config, pathlib.Path(workdir), predictions, cache, opener)


def _train(config, workdir: pathlib.Path, predictions: bool, cache, opener):
  programs = programs_of(config, cache)
  check_networks(config, programs)
  names = [name for name in starting(config) if not checkpoints.has_checkpoints(workdir / name)]
  if config.pretrained and not starting(config):
    console.say("config.pretrained is not used: every stage starts from an earlier one (init_from_prior)")
  config, encoder = load_pretrained(config, workdir, names)
  check_same_run(workdir, config)
  wired, models, prior = wire(config, encoder, programs), {}, None
  if config.teacher:
    models["coarse"] = load_stage(config, "coarse", wired["coarse"].method, config.teacher)
    console.say(f"[coarse] the teacher is that of {config.teacher}")
  sources = opener(config)
  data = record.digest_data(config, workdir, sources)
  if devices.is_first():
    files.write_text(workdir / "config.json", json.dumps(_plain(config), indent=2, sort_keys=True) + "\n")
    record.write(workdir, config, data, models.get("coarse"))
  for name in wired:
    if name not in models:
      dtype = factory.resolve_dtype(config.model.get("dtype", "float32"))
      console.say(f"[{name}] {config[name].method} in {dtype}, on {devices.describe(config.data.batch_size)}")
      learnt = training_sources(config, name, wired, models, sources, workdir / name)
      stage = make_stage(config, name, wired[name], learnt, sources[config[name].validation, "validation"])
      warn_of_slow_statistics(config, stage)
      key = jax.random.fold_in(jax.random.key(config.seed), stage_number(config, name))
      models[name] = trainer.run_stage(stage, key, prior, workdir / name)
    prior = models[name]
  if devices.is_first():
    report(config, workdir, wired, models, sources, predictions=predictions)


def load_pretrained(config, workdir: pathlib.Path, names: list[str]):
  """`config` with the hash of its pretrained weights, and the weights if stages `names` are yet to start from them.

  Otherwise the file is not needed, and the hash is what the run has noted.
  """
  if not config.pretrained:
    return config, None
  config = copy.deepcopy(config)
  noted = checkpoints.read_json(path) if (path := workdir / "config.json").exists() else {}
  if not names:
    _keep_noted_weights(config, noted)
    return config, None
  encoder = pretrained.load(
    os.path.expanduser(config.pretrained),
    bands=config.data.bands,
    adapter=config.pretrained_adapter,
    encoder=factory.make_segmenter(config.model).encoder,
  )
  if (config.pretrained_sha256 or encoder.sha256).lower() != encoder.sha256:
    raise UserError(
      f"{config.pretrained}: has the SHA-256 {encoder.sha256}, not the {config.pretrained_sha256} of "
      "config.pretrained_sha256; give the file that has it"
    )
  config.pretrained_sha256 = encoder.sha256
  source = f"{config.pretrained} ({encoder.format}, config.pretrained_adapter={config.pretrained_adapter})"
  console.say(f"[{', '.join(names)}] the encoder starts from {source}")
  return config, encoder


def _keep_noted_weights(config, noted: dict):
  """Puts the hash of the weights that the run in `noted` started from into `config`; refuses any others.

  Raises:
    UserError: `config` asks for another hash, or its file has another.
  """
  known = noted.get("pretrained_sha256")
  if not known:  # No stage of the run has started, or none starts from weights.
    return
  path = os.path.expanduser(config.pretrained)
  asked = [config.pretrained_sha256 or known, files.sha256(path) if os.path.isfile(path) else known]
  if different := [found for found in asked if found.lower() != known.lower()]:
    raise UserError(
      f"config.pretrained={config.pretrained} with the SHA-256 {different[0]} is asked for, but the run started from "
      f"weights with {known}; give those, or another --workdir"
    )
  config.pretrained_sha256 = known


def check_same_run(workdir: pathlib.Path, config):
  """Raises a UserError if the checkpoints in `workdir` come from another config."""
  if started := stages_in(workdir):
    found = checkpoints.read_json(workdir / "config.json")
    if not isinstance(found, dict):
      raise UserError(f"{workdir / 'config.json'}: is not what a run writes; restore it, or give another --workdir.")
    if different := run_difference(found, _plain(config), started):
      raise UserError(f"{workdir} holds a run with another {different}. Give another --workdir, or delete that one.")


def run_difference(noted: dict, plain: dict, started: list[str], ignoring: Callable[[dict], dict] = dict) -> str:
  """The first field in which two configs, as JSON, are not those of one run, with both values; "" if there is none.

  Args:
    noted: what the run has noted.
    plain: another.
    started: stages of the run that have a checkpoint.
    ignoring: takes out of both what is not to count.
  """
  order = _stages(noted)
  started = sorted(started, key=lambda name: order.index(name) if name in order else -1)
  there, here = (ignoring(_settled(config, started)) for config in (noted, plain))
  return first_difference(there, here, "config")


def _settled(plain: dict, started: list[str]) -> dict:
  """`plain` without what may still change: what no checkpoint depends on, and the length of the last stage.

  Stages that have not started may be taken out, changed or added after those that have.
  """
  is_stage = lambda value: isinstance(value, dict) and "method" in value
  begun = [place for place, name in enumerate(_stages(plain), start=1) if name in started]
  used = [plain[name]["method"] for name in started if is_stage(plain.get(name))]
  idle = {kind.section for method, kind in METHODS.items() if method not in used}
  idle |= {name for name, value in plain.items() if is_stage(value) and name not in started}
  plain = {name: value for name, value in plain.items() if name not in idle | {"checkpoint_minutes"}}
  plain["pretrained"] = bool(plain.get("pretrained"))  # It may lie elsewhere by now: its hash counts.
  plain["stages"] = _stages(plain)[: max(begun, default=0)]
  free = {"data": {"cache_gb", "device_gb", "read_threads", "gsd_m"}, "model": {"dtype"}, started[-1]: {"epochs"}}
  if started == ["coarse"]:
    free["data"] |= {"fine"}
  return {
    key: {k: v for k, v in value.items() if k not in free.get(key, ())} if isinstance(value, dict) else value
    for key, value in plain.items()
  }


def _stages(plain: dict) -> list:
  return plain["stages"] if isinstance(plain.get("stages"), list) else []


def _plain(config) -> dict:
  return json.loads(config.to_json_best_effort())
