"""Stages as a config describes them: their functions, what the trainer needs, and their checkpoints."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from minec2f_jax import console, devices
from minec2f_jax import methods as methods_lib
from minec2f_jax.data import feed, pipeline, resident
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.experiment.data import DOMAINS, make_normalize, make_prepare, trained
from minec2f_jax.methods import Method, Variables
from minec2f_jax.methods.base import with_encoder
from minec2f_jax.models import pretrained
from minec2f_jax.programs import NOT_KEPT, Programs, identity
from minec2f_jax.training import checkpoints, optimizers, trainer

UNION = "union"  # The one stream that several become where a batch is drawn from all of them together.


class Wired(NamedTuple):
  """A stage's functions, made once a run so that each network compiles once."""

  method: Method
  predict: Callable  # (variables, batch) -> logits [B, H, W]
  programs: Programs = NOT_KEPT


def programs_of(config, folder) -> Programs:
  """The programs of `config` in `folder`, or, if that is empty, kept nowhere."""
  plain = json.loads(config.to_json_best_effort())
  # What reaches no program: where data come from, and numbers that are arguments.
  for name in ("seed", "teacher", "pretrained", "pretrained_sha256", "checkpoint_minutes"):
    plain.pop(name, None)
  for name in (*DOMAINS, "data_dir", "cache_gb", "device_gb", "read_threads", "gsd_m"):
    plain["data"].pop(name, None)
  return Programs(folder, identity(json.dumps(plain, sort_keys=True))) if folder else NOT_KEPT


def stages_of(config) -> tuple[str, ...]:
  """The stages whose models take part, in order: those of the run, and the one that config.teacher stands for."""
  return ("coarse", *config.stages) if config.teacher and "coarse" not in config.stages else tuple(config.stages)


def stage_number(config, name: str) -> int:
  """What tells the random draws of stages apart: of those named after a domain the same whatever comes before them."""
  others = [stage for stage in stages_of(config) if stage not in DOMAINS]
  return DOMAINS.index(name) if name in DOMAINS else len(DOMAINS) + others.index(name)


def batch_streams(settings) -> tuple[str, ...]:
  """The streams of a batch of a stage with these settings."""
  together = settings.get("sampling", "each") == "union" and len(settings.streams) > 1
  return (UNION,) if together else tuple(settings.streams)


def unlabelled_streams(settings) -> tuple[str, ...]:
  """The streams of a stage with these settings whose labels are kept from its method: it adapts to their images."""
  return tuple(settings.streams[1:]) if methods_lib.METHODS[settings.method].unlabelled else ()


def batch_like(settings, sample: dict) -> dict[str, dict]:
  """A batch of a stage with these settings, each stream of which is `sample`, as far as the method may see it."""
  bare = {name: array for name, array in sample.items() if name != "label"}
  return {name: bare if name in unlabelled_streams(settings) else sample for name in batch_streams(settings)}


def stages_in(workdir) -> list[str]:
  """The stages that have saved a checkpoint in a run's folder."""
  folders = pathlib.Path(workdir).iterdir() if pathlib.Path(workdir).is_dir() else ()
  return sorted(folder.name for folder in folders if folder.is_dir() and checkpoints.has_checkpoints(folder))


def wire(config, encoder: pretrained.Encoder | None = None, programs: Programs = NOT_KEPT) -> dict[str, Wired]:
  """The functions of every stage that takes part; those that start from nothing earlier get `encoder`'s weights."""
  normalize = make_normalize(config)
  methods = {name: methods_lib.make_method(config, config[name]) for name in stages_of(config)}
  if encoder is not None:
    methods |= {name: with_encoder(methods[name], encoder.variables) for name in starting(config)}
  predicts = {
    name: evaluate_lib.make_predict(method, normalize, programs.within(name)) for name, method in methods.items()
  }
  return {name: Wired(method, predicts[name], programs) for name, method in methods.items()}


def starting(config) -> list[str]:
  """The stages that are trained and take nothing from an earlier one."""
  return [name for name in trained(config) if not config[name].init_from_prior]


def stage_spec(config, name: str) -> dict:
  """What the weights of stage `name` expect of whoever loads them; plain JSON."""
  data, model = config.data, config.model.to_dict()
  model.pop("dtype", None)  # Weights are float32 whatever the network computes in.
  if config[name].method != "attentive_distillation":
    model.pop("fusion", None)  # A teacher has none, and serves students with any.
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
  config,
  name: str,
  wired: Wired,
  train: pipeline.Source | Mapping[str, pipeline.Source],
  validation_source: pipeline.Source,
) -> trainer.Stage:
  """Stage `name` of `config`, learning from `train` and watching `validation_source`.

  `train` is {stream: its samples}, or one source for all streams. An epoch is once through the longest stream. Labels
  that the method must not see (`unlabelled_streams`) are taken out here: no batch holds them.
  """
  settings, optimizer, batch_size = config[name], config.optimizer, config.data.batch_size
  streams = train if isinstance(train, Mapping) else dict.fromkeys(settings.streams, train)
  streams = {**streams, **{name: resident.without_labels(streams[name]) for name in unlabelled_streams(settings)}}
  if batch_streams(settings) == (UNION,):
    streams = {UNION: resident.join(streams)}
  steps_per_epoch = max(1, max(map(len, streams.values())) // batch_size)
  stage_feed = feed.make_feed(
    streams,
    batch_size=batch_size,
    seed=config.seed,
    num_threads=config.data.read_threads,
    part=devices.part(),
  )

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
      rates=wired.method.rates,
    ),
    rules=optimizers.ScoreRules(
      **{
        field: optimizer[field]
        for field in ("warmup_epochs", "plateau_factor", "plateau_patience", "plateau_min_delta", "stop_patience")
      }
    ),
    epochs=settings.epochs,
    steps_per_epoch=steps_per_epoch,
    feed=stage_feed,
    steps_per_call=_steps_per_call(stage_feed, steps_per_epoch),
    prepare=make_prepare(config),
    validate=validate,
    monitor=config.monitor,
    batch_size=batch_size,
    spec=stage_spec(config, name),
    mesh=devices.make_mesh(batch_size),
    save_every_s=60 * config.checkpoint_minutes,
    # The length of an epoch is in the optimizer's schedule.
    programs=wired.programs.within(name, steps_per_epoch, isinstance(wired.method.init, jax.tree_util.Partial)),
  )


def _steps_per_call(stage_feed: feed.Feed, steps_per_epoch: int) -> int:
  """A whole epoch where the device has its data and is quick; on a CPU steps are long, and one would hear nothing."""
  return steps_per_epoch if stage_feed.resident and jax.default_backend() != "cpu" else 1


def load_stage(config, name: str, method: Method, run_folder, prior: Variables | None = None) -> Variables:
  """The best model of stage `name` in the run at `run_folder`, checked against `config`."""
  run_folder = pathlib.Path(run_folder).expanduser().absolute()
  folder = run_folder if (run_folder / "stage.json").exists() else run_folder / name
  if not checkpoints.has_checkpoints(folder):
    raise UserError(
      f"{run_folder} holds no checkpoint of the stage {name!r} (stages with checkpoints: "
      f"{stages_in(run_folder) or 'none'}). Give the workdir of a run that has trained {name!r}."
    )
  with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saver:
    wanted = stage_spec(config, name)
    if different := first_difference(saver.spec(), wanted, ""):
      raise UserError(f"{folder} was trained with another {different}. Give both runs the same config.")
    if not saver.finished():
      console.say(f"[{name}] warning: {folder} is unfinished; its best checkpoint so far is taken")
    template = jax.eval_shape(method.init, jax.random.key(0), example(config), prior)
    mesh = devices.make_mesh(config.data.batch_size)
    return devices.everywhere(saver.restore_variables(template), mesh.local_mesh)


def example(config) -> jax.ShapeDtypeStruct:
  """The shape of one network input."""
  size = config.data.image_size
  return jax.ShapeDtypeStruct((1, size, size, len(config.data.bands)), np.float32)


def first_difference(found, wanted, name: str) -> str:
  """Name and both values of the first field in which two JSON trees differ; "" if they are equal."""
  if isinstance(found, dict) and isinstance(wanted, dict):
    for key in sorted(found.keys() | wanted.keys()):
      path = f"{name}.{key}" if name else key
      if different := first_difference(found.get(key), wanted.get(key), path):
        return different
    return ""
  return "" if found == wanted else f"{name} ({found} there, {wanted} here)"


def warn_of_slow_statistics(config, stage: trainer.Stage):
  """Says so if the stage is too short for BN statistics that start at random."""
  steps = stage.epochs * stage.steps_per_epoch
  momentum = max(part.get("bn_momentum", 0.0) for part in config.model.to_dict().values() if isinstance(part, dict))
  if steps < 5 / (1 - momentum) and not config[stage.name].init_from_prior:  # e^-5: all but 1 % of the start is gone.
    console.say(
      f"[{stage.name}] warning: {steps} steps are few for bn_momentum={momentum} in config.model: until about "
      f"{5 / (1 - momentum):.0f} the scores will suffer from batch statistics that have not settled. Train for longer"
      + (", or try 0.9 in all its sections." if momentum > 0.9 else ".")
    )
