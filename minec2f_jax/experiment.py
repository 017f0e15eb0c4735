"""A whole run: the one place that reads a config and wires data, methods, training and evaluation together."""

import contextlib
import copy
import importlib
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import scipy.special

from minec2f_jax import console, distillation, files, metrics
from minec2f_jax import methods as methods_lib
from minec2f_jax.data import augment, coarsen, folder, pipeline, sensors, tfds_source
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.evaluation import figures, tables
from minec2f_jax.methods import Method, Variables
from minec2f_jax.methods.base import with_encoder
from minec2f_jax.models import factory, pretrained
from minec2f_jax.training import checkpoints, optimizers, trainer

DOMAINS = ("coarse", "fine")
_PANEL_ROWS = 5


# Data ----------------------------------------------------------------------------------------------------------------


def open_sources(config) -> dict[tuple[str, str], pipeline.Source]:
  """Every (domain, split) that the run will read: a mistake in the last one must not cost the training before it.

  Samples are decoded into memory as long as all of them fit into `config.data.cache_gb`.
  """
  wanted = [(name, split) for name in config.stages for split in ("train", "validation")]
  if config.teacher:
    wanted = [(name, split) for name, split in wanted if name != "coarse"]
  wanted += [(name, "test") for name in reversed(DOMAINS) if config.data[name].path or config.data[name].builder]
  sources, budget = {}, config.data.cache_gb * 1e9
  for domain, split in wanted:
    source = open_source(config, domain, split)
    size = pipeline.sample_bytes(source)
    if size <= budget:
      budget -= size
      source = pipeline.CachedSource(source)
      _describe(domain, split, source)
    sources[domain, split] = source
  return sources


def _describe(domain: str, split: str, source: pipeline.Source):
  """Says what a source holds, and refuses one that can teach or test nothing."""
  valid = np.mean([sample["valid"].mean() for sample in source])
  mined = np.mean([sample["label"].mean() for sample in source])
  console.say(f"[{domain}] {split}: {len(source)} images, {valid:.1%} of the pixels valid, {mined:.1%} mine")
  if not valid:
    raise UserError(
      f"no pixel of the {domain} {split} split is valid: reflectance is missing or not finite everywhere, or every "
      f"label says ignore. Look at the files under config.data.{domain}.path."
    )
  if not mined and split == "train":
    console.say(f"[{domain}] warning: the training labels hold no mine, so the model will not find any")


def open_source(config, domain: str, split: str) -> pipeline.Source:
  """The samples of one domain ("coarse", "fine") and split ("train", "validation", "test")."""
  data = config.data
  spec = data[domain]
  path = os.path.expanduser(spec.path) if spec.path else _built(config, domain)
  options = dict(roles=tuple(data.bands), image_size=data.image_size, split=split)
  if tfds_source.is_prepared(path):
    return tfds_source.TfdsSource(path, **options)
  return folder.open_folder(
    path,
    domain=domain,
    sensor=data.sensor,
    skip=tuple(spec.skip),
    coarsen=_make_coarsen(spec.coarsen_gsd_m, config.seed),
    **options,
  )


def _built(config, domain: str) -> str:
  name = config.data[domain].builder
  if not name:
    raise UserError(
      f"config.data.{domain}.path is not set. Give the folder of your {domain} set (index.csv, images/, masks/: see "
      f'README, "Train on your own data") with --config.data.{domain}.path=DIR, or try the embedded demo data by '
      'writing ":demo" after the config\'s path, as in --config=configs/fine_hybrid.py:demo.'
    )
  try:
    return importlib.import_module(f"datasets.{name}").prepare(os.path.expanduser(config.data.data_dir))[domain]
  except OSError as error:
    raise UserError(
      f"config.data.data_dir={config.data.data_dir}: {name} cannot be prepared there: {error}."
    ) from error


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


def stages_of(config) -> tuple[str, ...]:
  """The stages whose models take part, in order: those of the run, and the one that config.teacher stands for."""
  return ("coarse", *config.stages) if config.teacher and "coarse" not in config.stages else tuple(config.stages)


def wire(config, encoder: pretrained.Encoder | None = None) -> dict[str, Wired]:
  """The functions of every stage that takes part; those that start from nothing earlier get `encoder`'s weights."""
  normalize = _make_normalize(config)
  methods = {name: methods_lib.make_method(config, config[name]) for name in stages_of(config)}
  if encoder is not None:
    methods |= {name: with_encoder(methods[name], encoder.variables) for name in _starting(config)}
  return {name: Wired(method, evaluate_lib.make_predict(method, normalize)) for name, method in methods.items()}


def _starting(config) -> list[str]:
  """The stages that are trained and take nothing from an earlier one."""
  trained = [name for name in stages_of(config) if not (name == "coarse" and config.teacher)]
  return [name for name in trained if not config[name].init_from_prior]


def _load_pretrained(config, workdir: pathlib.Path, starting: list[str]):
  """`config` with the hash of its pretrained weights, and the weights if stages are yet to be `starting` from them.

  Otherwise the file is not needed, and the hash is what the run has noted.
  """
  if not config.pretrained:
    return config, None
  config = copy.deepcopy(config)
  if not starting:
    noted = checkpoints.read_json(path) if (path := workdir / "config.json").exists() else {}
    config.pretrained_sha256 = noted.get("pretrained_sha256") or config.pretrained_sha256
    if not noted:
      console.say("config.pretrained is not used: every stage starts from an earlier one (init_from_prior)")
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
  source = f"{config.pretrained} ({encoder.format}, adapter {config.pretrained_adapter})"
  console.say(f"[{', '.join(starting)}] the encoder starts from {source}")
  return config, encoder


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


def make_stage(
  config, name: str, wired: Wired, train_source: pipeline.Source, validation_source: pipeline.Source
) -> trainer.Stage:
  """Stage `name` of `config`, learning one source and watching the other."""
  settings, optimizer, batch_size = config[name], config.optimizer, config.data.batch_size
  steps_per_epoch = max(1, len(train_source) // batch_size)

  def validate(variables: Variables) -> dict[str, float]:
    return evaluate_lib.evaluate(wired.predict, variables, validation_source, batch_size=batch_size).compute()

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
      {settings.stream: train_source},
      batch_size=batch_size,
      seed=config.seed,
      start_step=step,
      num_threads=config.data.read_threads,
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
  folder = run_folder if (run_folder / "stage.json").exists() else run_folder / name
  if not checkpoints.has_checkpoints(folder):
    found = [domain for domain in DOMAINS if checkpoints.has_checkpoints(run_folder / domain)]
    raise UserError(
      f"{run_folder} holds no checkpoint of the stage {name!r} (stages with checkpoints: {found or 'none'}). Give the "
      f"workdir of a run that has trained {name!r}."
    )
  with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saver:
    wanted = stage_spec(config, name)
    if different := _first_difference(saver.spec(), wanted, ""):
      raise UserError(f"{folder} was trained with another {different}. Give both runs the same config.")
    if not saver.finished():
      console.say(f"[{name}] warning: {folder} is unfinished; its best checkpoint so far is taken")
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
  bands, size, rate = tuple(data.bands), data.image_size, config.optimizer.learning_rate
  known_bands = bands and len(set(bands)) == len(bands) and set(bands) <= set(sensors.ROLES)
  for field, value, fits, remedy in (
    ("stages", config.stages, set(config.stages) <= set(DOMAINS), f"give some of {DOMAINS}"),
    ("data.bands", bands, known_bands, f"give different bands out of {sensors.ROLES}"),
    ("data.image_size", size, size > 0, "give at least 1 pixel"),
    ("data.batch_size", data.batch_size, data.batch_size > 0, "give at least 1"),
    ("data.read_threads", data.read_threads, data.read_threads >= 0, "give 0 or more"),
    ("data.mean", dict(data.mean), all(map(math.isfinite, data.mean.values())), "give finite reflectances"),
    ("data.std", dict(data.std), all(0 < x < math.inf for x in data.std.values()), "give reflectances above 0"),
    ("coarse.epochs", config.coarse.epochs, config.coarse.epochs > 0, "give at least 1"),
    ("fine.epochs", config.fine.epochs, config.fine.epochs > 0, "give at least 1"),
    ("optimizer.learning_rate", rate, 0 < rate < math.inf, "give a number above 0"),
    ("data.sensor", data.sensor, data.sensor in sensors.CHOICES, f"choose one of {sensors.CHOICES}"),
    ("distillation.selection", transfer.selection, transfer.selection in distillation.SELECTIONS,
     f"choose one of {distillation.SELECTIONS}"),
    ("distillation.temperature", transfer.temperature, transfer.temperature > 0, "give a number above 0"),
    ("pretrained_adapter", config.pretrained_adapter, config.pretrained_adapter in pretrained.ADAPTERS,
     f"choose one of {pretrained.ADAPTERS}"),
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
  starting = [name for name in _starting(config) if not checkpoints.has_checkpoints(workdir / name)]
  config, encoder = _load_pretrained(config, workdir, starting)
  _check_same_run(workdir, config)
  wired, models, prior = wire(config, encoder), {}, None
  if config.teacher:
    prior = models["coarse"] = load_stage(config, "coarse", wired["coarse"].method, config.teacher)
    console.say(f"[coarse] the teacher is that of {config.teacher}")
  sources = open_sources(config)
  _claim(workdir, config)
  for number, name in enumerate(DOMAINS):
    if name in wired and name not in models:
      console.say(f"[{name}] {config[name].method}, on {jax.devices()[0].device_kind}")
      stage = make_stage(config, name, wired[name], sources[name, "train"], sources[name, "validation"])
      _warn_of_slow_statistics(config, stage)
      key = jax.random.fold_in(jax.random.key(config.seed), number)
      prior = models[name] = trainer.run_stage(stage, key, prior, workdir / name)
  _report(config, workdir, wired, models, sources)


def _warn_of_slow_statistics(config, stage: trainer.Stage):
  momentum, steps = config.model.encoder.bn_momentum, stage.epochs * stage.steps_per_epoch
  if steps < 5 / (1 - momentum) and not config[stage.name].init_from_prior:  # e^-5: all but 1 % of the start is gone.
    console.say(
      f"[{stage.name}] warning: {steps} steps are few for config.model.encoder.bn_momentum={momentum}: until about "
      f"{5 / (1 - momentum):.0f} the scores will suffer from batch statistics that have not settled. Train for longer"
      + (", or try 0.9 in encoder, decoder and fusion." if momentum > 0.9 else ".")
    )


def evaluate(config, workdir):
  """Scores the best checkpoints in `workdir` again: table, JSON and figures, as after training."""
  check_config(config)
  workdir = pathlib.Path(workdir)
  config, _ = _load_pretrained(config, workdir, [])
  _check_same_run(workdir, config)
  wired, models, prior = wire(config), {}, None
  for name in wired:
    folder = config.teacher if name == "coarse" and config.teacher else workdir
    prior = models[name] = load_stage(config, name, wired[name].method, folder, prior)
  _report(config, workdir, wired, models, open_sources(config))


def _check_same_run(workdir: pathlib.Path, config):
  """Raises a UserError if the checkpoints in `workdir` come from another config."""
  started = [name for name in DOMAINS if checkpoints.has_checkpoints(workdir / name)]
  if started:
    found = _settled(checkpoints.read_json(workdir / "config.json"), started)
    if different := _first_difference(found, _settled(_plain(config), started), "config"):
      raise UserError(f"{workdir} holds a run with another {different}. Give another --workdir, or delete that one.")


def _settled(plain: dict, started: list[str]) -> dict:
  """`plain` without what may still change: what no checkpoint depends on, and the length of the last stage."""
  plain = {**plain, "pretrained": bool(plain.get("pretrained"))}  # It may lie elsewhere by now: its hash counts.
  free = {"data": {"cache_gb", "read_threads"}, started[-1]: {"epochs"}}
  if "fine" not in started:
    plain = {key: value for key, value in plain.items() if key not in ("fine", "distillation", "stages")}
    free["data"] |= {"fine"}
  return {
    key: {k: v for k, v in value.items() if k not in free.get(key, ())} if isinstance(value, dict) else value
    for key, value in plain.items()
  }


def _plain(config) -> dict:
  return json.loads(config.to_json_best_effort())


def _claim(workdir: pathlib.Path, config):
  """Makes `workdir` and writes the resolved config into it."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_text(workdir / "config.json", json.dumps(_plain(config), indent=2, sort_keys=True) + "\n")
  except OSError as error:
    raise UserError(f"--workdir={workdir} cannot be written: {error}. Give another.") from error


# Results -------------------------------------------------------------------------------------------------------------


def _report(config, workdir: pathlib.Path, wired: dict[str, Wired], models: dict[str, Variables], sources):
  tests = {domain: source for (domain, split), source in sources.items() if split == "test"}
  rows = []
  for name, variables in models.items():
    for domain, source in tests.items():
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
  for domain, source in tests.items():
    _save_panel(config, workdir / f"panel_{domain}.png", wired, models, source, f"{_data_name(config)}, {domain} test")
  console.say(f"\n{title}\n\n{tables.to_text(rows)}\nTable, figures and checkpoints are in {workdir}")


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
  """What the data are called: a folder by its name, a prepared set as dataset/config."""

  def name(spec):
    if not spec.path:
      return spec.builder
    path = pathlib.Path(spec.path)
    return "/".join(path.parts[-3:-1]) if tfds_source.is_prepared(path.expanduser()) else path.name

  return " and ".join(sorted({name(config.data[domain]) for domain in DOMAINS} - {""}))


def _history(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
