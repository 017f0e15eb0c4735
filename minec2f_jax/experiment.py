"""A whole run: the one place that reads a config and wires data, methods, training and evaluation together."""

import importlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import scipy.special

from minec2f_jax import distillation, metrics
from minec2f_jax import methods as methods_lib
from minec2f_jax.data import augment, coarsen, folder, pipeline, sensors, tfds_source
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.evaluation import figures, tables
from minec2f_jax.methods import Method, Variables
from minec2f_jax.training import checkpoints, logging, optimizers, trainer

DOMAINS = ("coarse", "fine")
_PANEL_ROWS = 5
_MAY_CHANGE = {"epochs", "cache_gb"}  # A run can be prolonged, and moved to a machine with less memory.


# Data ----------------------------------------------------------------------------------------------------------------


def open_source(config, domain: str, split: str) -> pipeline.Source:
  """The samples of one domain ("coarse", "fine") and split ("train", "validation", "test")."""
  data = config.data
  spec = data[domain]
  path = os.path.expanduser(spec.path) if spec.path else _built(config, domain)
  options = dict(roles=tuple(data.bands), image_size=data.image_size, split=split)
  if tfds_source.is_prepared(path):
    source = tfds_source.TfdsSource(path, **options)
  else:
    source = folder.open_folder(
      path,
      domain=domain,
      sensor=data.sensor,
      skip=tuple(spec.skip),
      coarsen=_make_coarsen(spec.coarsen_gsd_m, config.seed),
      **options,
    )
  if not len(source):
    raise UserError(f"{path} has no {split} samples of the {domain} domain (config.data.{domain}.path).")
  return pipeline.cached(source, budget_gb=data.cache_gb)


def _built(config, domain: str) -> str:
  name = config.data[domain].builder
  if not name:
    raise UserError(
      f"config.data.{domain}.path is not set. Give the folder of your {domain} set (index.csv, images/, masks/: see "
      f'README, "Your own data") with --config.data.{domain}.path=DIR, or try the embedded demo data by writing '
      '":demo" after the config\'s path, as in --config=configs/fine_hybrid.py:demo.'
    )
  return importlib.import_module(f"datasets.{name}").prepare(config.data.data_dir)[domain]


def _make_coarsen(gsd_m: float, seed: int):
  """`(mask, id) -> coarse label`, a function of the run's seed and the chip's id; None without a pixel size."""

  def coarsen_mask(mask, sample_id):
    return coarsen.coarsen(np.random.default_rng([seed, *sample_id.encode()]), mask, gsd_m=gsd_m)

  return coarsen_mask if gsd_m else None


def _make_normalize(config):
  bands = tuple(config.data.bands)
  mean, std = (tuple(config.data[name][band] for band in bands) for name in ("mean", "std"))
  return lambda image, valid: sensors.normalize(image, valid, mean=mean, std=std)


def _make_prepare(config):
  normalize, knobs = _make_normalize(config), dict(config.data.augment)

  def prepare(key, stream):
    stream = augment.augment(key, stream, **knobs)
    return {**stream, "image": normalize(stream["image"], stream["valid"])}

  return prepare


# Stages --------------------------------------------------------------------------------------------------------------


class Wired(NamedTuple):
  """A stage's functions, made once a run so that each network compiles once."""

  method: Method
  predict: Callable  # (variables, batch) -> logits [B, H, W]


def wire(config) -> dict[str, Wired]:
  """The functions of every stage in `config.stages`."""
  normalize = _make_normalize(config)
  methods = {name: methods_lib.make_method(config, config[name]) for name in config.stages}
  return {name: Wired(method, evaluate_lib.make_predict(method, normalize)) for name, method in methods.items()}


def stage_spec(config, name: str) -> dict:
  """What the weights of stage `name` expect of whoever loads them; plain JSON."""
  data, model = config.data, config.model.to_dict()
  if config[name].method == "supervised":
    del model["fusion"]  # A teacher has none, and serves students with any.
  return json.loads(
    json.dumps(
      {
        "config.model": model,
        "config.data.bands": tuple(data.bands),
        f"config.{name}.method": config[name].method,
        "config.data.mean": {band: data.mean[band] for band in data.bands},
        "config.data.std": {band: data.std[band] for band in data.bands},
      }
    )
  )


def make_stage(config, name: str, wired: Wired, sources: Mapping[str, pipeline.Source]) -> trainer.Stage:
  """Stage `name` of `config`, learning `sources["train"]` and watching `sources["validation"]`."""
  settings, optimizer, batch_size = config[name], config.optimizer, config.data.batch_size
  steps_per_epoch = max(1, len(sources["train"]) // batch_size)

  def validate(variables: Variables) -> dict[str, float]:
    return evaluate_lib.evaluate(wired.predict, variables, sources["validation"], batch_size=batch_size).compute()

  return trainer.Stage(
    name=name,
    method=wired.method,
    optimizer=optimizers.make_optimizer(
      learning_rate=optimizer.learning_rate,
      weight_decay=optimizer.weight_decay,
      warmup_steps=optimizer.warmup_epochs * steps_per_epoch,
      clip_norm=optimizer.clip_norm,
    ),
    rules=optimizers.ScoreRules(
      **{
        field: optimizer[field]
        for field in ("warmup_epochs", "plateau_factor", "plateau_patience", "plateau_min_delta", "stop_patience")
      }
    ),
    epochs=settings.epochs,
    steps_per_epoch=steps_per_epoch,
    batches=lambda step: pipeline.train_batches(
      {settings.stream: sources["train"]}, batch_size=batch_size, seed=config.seed, start_step=step
    ),
    prepare=_make_prepare(config),
    validate=validate,
    monitor=config.monitor,
    batch_size=batch_size,
    spec=stage_spec(config, name),
  )


def load_stage(config, name: str, method: Method, run_folder, prior: Variables | None = None) -> Variables:
  """The best model of stage `name` in the run at `run_folder`, checked against `config`."""
  run_folder = pathlib.Path(run_folder).expanduser().absolute()
  folder = run_folder / name if (run_folder / name).is_dir() else run_folder
  saver = checkpoints.Checkpoints(folder, read_only=True)
  wanted = stage_spec(config, name)
  if different := _first_difference(saver.spec(), wanted, ""):
    raise UserError(f"{folder} was trained with another {different}. Give both runs the same config.")
  return saver.restore_variables(jax.eval_shape(method.init, jax.random.key(0), _example(config), prior))


def _example(config) -> jax.ShapeDtypeStruct:
  """The shape of one network input."""
  size = config.data.image_size
  return jax.ShapeDtypeStruct((1, size, size, len(config.data.bands)), np.float32)


def _first_difference(found, wanted, name: str) -> str:
  """Name and both values of the first field in which two JSON trees differ; "" if they are equal."""
  if isinstance(found, dict) and isinstance(wanted, dict):
    for key in sorted(found.keys() | wanted.keys()):
      path = f"{name}.{key}" if name else key
      if different := _first_difference(found.get(key), wanted.get(key), path):
        return different
    return ""
  return "" if found == wanted else f"{name} ({found} there, {wanted} here)"


# Runs ----------------------------------------------------------------------------------------------------------------


def check_config(config):
  """Raises a UserError that names the first field which cannot be, its value and what it can be."""
  data, transfer = config.data, config.distillation
  bands, size = tuple(data.bands), data.image_size
  known_bands = bands and len(set(bands)) == len(bands) and set(bands) <= set(sensors.ROLES)
  for field, value, fits, remedy in (
    ("stages", config.stages, set(config.stages) <= set(DOMAINS), f"give some of {DOMAINS}"),
    ("data.bands", bands, known_bands, f"give different bands out of {sensors.ROLES}"),
    ("data.image_size", size, size > 0 and size % 32 == 0, "the encoder halves it five times: give a multiple of 32"),
    ("data.batch_size", data.batch_size, data.batch_size > 0, "give at least 1"),
    ("data.sensor", data.sensor, data.sensor in sensors.CHOICES, f"choose one of {sensors.CHOICES}"),
    ("distillation.selection", transfer.selection, transfer.selection in distillation.SELECTIONS,
     f"choose one of {distillation.SELECTIONS}"),
    ("distillation.temperature", transfer.temperature, transfer.temperature > 0, "give a number above 0"),
    ("monitor", config.monitor, config.monitor in metrics.ConfusionMatrix.empty().compute(),
     "give the name of a score in results.json"),
  ):  # fmt: skip
    if not fits:
      raise UserError(f"config.{field}={value!r}: {remedy}.")
  try:
    _trace_networks(config)
  except ValueError as error:
    raise UserError(f"the config cannot be built: {error}") from error


def _trace_networks(config):
  """Traces every stage's network on shapes alone: seconds, against data and a compilation for nothing."""
  prior = None
  for wired in wire(config).values():
    prior = jax.eval_shape(wired.method.init, jax.random.key(0), _example(config), prior)


def train(config, workdir):
  """Trains every stage of `config` that is not finished yet, then evaluates. All results go to `workdir`."""
  check_config(config)
  workdir = pathlib.Path(workdir)
  _claim(workdir, config)
  wired, models, prior = wire(config), {}, None
  for number, name in enumerate(config.stages):
    if name == "coarse" and config.teacher:
      prior = load_stage(config, name, wired[name].method, config.teacher)
      logging.say(f"[coarse] teacher taken from {config.teacher}")
    else:
      sources = {split: open_source(config, name, split) for split in ("train", "validation")}
      logging.say(
        f"[{name}] {config[name].method}: {len(sources['train'])} training and "
        f"{len(sources['validation'])} validation images, on {jax.devices()[0].device_kind}"
      )
      key = jax.random.fold_in(jax.random.key(config.seed), number)
      prior = trainer.run_stage(make_stage(config, name, wired[name], sources), key, prior, workdir / name)
    models[name] = prior
  _report(config, workdir, wired, models)


def evaluate(config, workdir):
  """Scores the best checkpoints in `workdir` again: table, JSON and figures, as after training."""
  check_config(config)
  workdir = pathlib.Path(workdir)
  wired, models, prior = wire(config), {}, None
  for name in config.stages:
    folder = config.teacher if name == "coarse" and config.teacher else workdir
    prior = models[name] = load_stage(config, name, wired[name].method, folder, prior)
  _report(config, workdir, wired, models)


def _claim(workdir: pathlib.Path, config):
  """Writes the resolved config, or checks that the run in `workdir` had the same."""
  workdir.mkdir(parents=True, exist_ok=True)
  path, text = workdir / "config.json", config.to_json_best_effort(indent=2, sort_keys=True) + "\n"
  if path.exists():
    found, wanted = (_without(json.loads(json_text), _MAY_CHANGE) for json_text in (path.read_text(), text))
    if different := _first_difference(found, wanted, "config"):
      raise UserError(f"{workdir} holds a run with another {different}. Give another --workdir, or delete that one.")
  path.write_text(text)


def _without(tree, keys: set[str]):
  return {k: _without(v, keys) for k, v in tree.items() if k not in keys} if isinstance(tree, dict) else tree


# Results -------------------------------------------------------------------------------------------------------------


def _report(config, workdir: pathlib.Path, wired: dict[str, Wired], models: dict[str, Variables]):
  sources = {
    domain: open_source(config, domain, "test")
    for domain in reversed(DOMAINS)
    if config.data[domain].path or config.data[domain].builder
  }
  rows = []
  for name, variables in models.items():
    for domain, source in sources.items():
      matrix = evaluate_lib.evaluate(wired[name].predict, variables, source, batch_size=config.data.batch_size)
      rows.append(
        {
          "model": _title(config, name),
          "trained_on": name,
          "tested_on": f"{domain} test ({len(source)})",
          "scores": matrix.compute(),
        }
      )
  title = f"Test scores in percent (number of images); data: {_data_name(config)}; seed {config.seed}"
  tables.write_tables(rows, workdir, title=title)
  histories = {name: _history(workdir / name / "metrics.jsonl") for name in models}
  figures.save_curves(workdir / "curves.png", {k: v for k, v in histories.items() if v}, score=config.monitor)
  for domain, source in sources.items():
    _save_panel(config, workdir / f"panel_{domain}.png", wired, models, source, f"{_data_name(config)}, {domain} test")
  logging.say(f"\n{title}\n\n{tables.to_text(rows)}\nTable, figures and checkpoints are in {workdir}")


def _save_panel(config, path, wired: dict[str, Wired], models: dict[str, Variables], source, title: str):
  """Draws test images evenly spaced in the order of their mined share."""
  shares = [source[i]["label"].mean() for i in range(len(source))]
  places = np.linspace(0, len(source) - 1, min(_PANEL_ROWS, len(source))).round().astype(int)
  subset = pipeline.Subset(source, np.argsort(shares, kind="stable")[places])
  samples = [{**subset[i], "id": subset.ids[i]} for i in range(len(subset))]
  logits = {
    name: evaluate_lib.predict_all(wired[name].predict, variables, subset, batch_size=config.data.batch_size)
    for name, variables in models.items()
  }
  masks = {}
  if set(logits) == set(DOMAINS) and config.fine.method == "attentive_distillation":
    label, valid = (np.stack([sample[field] for sample in samples]) for field in ("label", "valid"))
    for field, selection in (("better", "pixel"), ("distilled", config.distillation.selection)):
      masks[field] = np.asarray(
        distillation.selection_mask(logits["fine"], logits["coarse"], label, valid, selection=selection)
      )
  figures.save_panel(
    path,
    samples=samples,
    bands=tuple(config.data.bands),
    probabilities={_title(config, name): scipy.special.expit(z) for name, z in logits.items()},
    title=title,
    **masks,
  )


def _title(config, stage: str) -> str:
  names = {("coarse", "supervised"): "teacher", ("fine", "attentive_distillation"): "student"}
  return names.get((stage, config[stage].method), config[stage].method)


def _data_name(config) -> str:
  specs = [config.data[domain] for domain in DOMAINS]
  return " and ".join(sorted({pathlib.Path(spec.path).name if spec.path else spec.builder for spec in specs} - {""}))


def _history(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
