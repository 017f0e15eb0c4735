"""What a config is held to before anything heavy starts."""

import functools
import importlib
import itertools
import os
import pkgutil
from collections.abc import Collection, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from minec2f_jax.data import tfds_source
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import schema
from minec2f_jax.experiment.data import DOMAINS
from minec2f_jax.experiment.stages import batch_like, example, stages_of, wire
from minec2f_jax.methods import METHODS
from minec2f_jax.models import DenseNet, ViTEncoder, factory
from minec2f_jax.programs import NOT_KEPT, Programs

_MOST = 10  # sentences in one message
# Of `losses.ssim_loss` and `losses.structural_similarity_weighted_bce_loss`, by config.*.loss.ssim_kind.
SSIM_WINDOWS = {"ssim": 11, "ssl": 3}


def check_config(config):
  """Raises a UserError that names every field that cannot be, its value and what it can be; costs least first."""
  check_fields(config)
  check_networks(config)


def check_networks(config, programs: Programs = NOT_KEPT):
  """Raises a UserError if networks or losses cannot be built; traces them, unless `programs` know that they have been.

  After `check_fields`.
  """
  try:
    programs.once("check", lambda: _trace_networks(config))
  except ValueError as error:
    raise UserError(f"the config cannot be built: {error}") from error


def check_fields(config):
  """`check_config` without the networks, in a millisecond: fields by themselves (see `schema`), then beside others.

  Whoever reads a config must have had this done: before, it may be anything.
  """
  if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
    raise UserError(f"the config is a {type(config).__name__}: let get_config() return a ConfigDict.")
  if "rows" in config:
    raise UserError("the config is a suite, the rows of a table: give --mode=suite to train them.")
  faults = schema.faults(config)
  if sentences := [*faults.values(), *_contradictions(config, faults)]:
    raise UserError(_joined(sentences))


def _overlap(field: str, other: str) -> bool:
  """Whether one of two fields is the other, or a section that holds it."""
  return f"{field}.".startswith(f"{other}.") or f"{other}.".startswith(f"{field}.")


def _joined(sentences: list[str]) -> str:
  if len(sentences) == 1:
    return sentences[0]
  rest = f" ... and {len(sentences) - _MOST} more." if len(sentences) > _MOST else ""
  return f"the config has {len(sentences)} faults: {' '.join(sentences[:_MOST])}{rest}"


def _named(config, *fields: str) -> str:
  """Fields with their values, as "config.seed=0"."""
  return " and ".join(f"config.{field}={schema.shown(_value(config, field))}" for field in fields)


def _value(config, field: str):
  return functools.reduce(lambda section, name: section[name], field.split("."), config)


def _statistics_of_all_bands(config) -> Iterator[str]:
  for name in ("mean", "std"):
    for band in config.data.bands:
      if band not in config.data.get(name, {}):
        yield f"config.data.{name}.{band} is missing: give it, or take it out of {_named(config, 'data.bands')}."


def _hash_of_weights(config) -> Iterator[str]:
  if config.pretrained is None and config.pretrained_sha256 is not None:
    yield f"{_named(config, 'pretrained_sha256')} without config.pretrained: give the file of this hash too."


def _adapter_of_weights(config) -> Iterator[str]:
  adapted, wanted = config.model.get("encoder", {}).get("input_adapter", False), config.pretrained_adapter == "conv1x1"
  takes_bands = factory.ARCHITECTURES[_architecture(config)]["encoder"] is DenseNet
  if config.pretrained is not None and adapted != wanted and takes_bands:
    yield (
      f"{_named(config, 'pretrained_adapter')} does not go with config.model.encoder.input_adapter={adapted}: that is "
      "True for conv1x1 and False for all others; change one of them."
    )


def _judge_before(config, name) -> Iterator[str]:
  rule = config[name].get("selection")
  if rule is None or name not in config.stages:
    return
  before = stages_of(config)[: stages_of(config).index(name)]
  if rule.judge not in before:
    yield (
      f"{_named(config, f'{name}.selection.judge')} is no stage before {name!r} in {_named(config, 'stages')}: choose "
      f"one of {before}, or put one before it."
    )
  if rule.stream not in config[name].streams:
    yield f"{_named(config, f'{name}.selection.stream', f'{name}.streams')}: choose one of these streams."


def _streams_of_the_method(config, name) -> Iterator[str]:
  if len(config[name].streams) > 1 and not METHODS[config[name].method].several_streams:
    able = tuple(method for method, kind in METHODS.items() if kind.several_streams)
    yield (
      f"{_named(config, f'{name}.streams', f'{name}.method')}: this method learns from one stream; give one, or take "
      f"one of the methods {able}."
    )


def _labels_of_one_stream(config, name) -> Iterator[str]:
  settings = config[name]
  if not METHODS[settings.method].unlabelled:
    return
  if len(settings.streams) != 2:
    yield (
      f"{_named(config, f'{name}.streams', f'{name}.method')}: this method learns from the labels of one stream and "
      "adapts to the images of another; give two, the one with labels first, as in ('coarse', 'fine')."
    )
  if settings.get("sampling", "each") != "each":
    yield (
      f"{_named(config, f'{name}.sampling', f'{name}.method')}: of this method's streams one has no labels, so they "
      "cannot be mixed; give 'each'."
    )
  if "selection" in settings and settings.selection.stream in settings.streams[1:]:
    yield (
      f"{_named(config, f'{name}.selection.stream', f'{name}.method')}: images are chosen by their labels, which this "
      f"method must not see; choose {settings.streams[0]!r}, or leave the selection out."
    )


def _parts_of_the_loss(config, name) -> Iterator[str]:
  method, known = config[name].method, METHODS[config[name].method].parts
  unknown = [f"{name}.loss.{part}" for part in ("bce", "dice", "ssim", "boundary") if part not in known]
  if (wrong := [field for field in unknown if _value(config, field)]) and name in config.stages:
    yield f"{_named(config, *wrong)}: the method {method!r} has no such part; give 0.0."


def _something_to_train(config) -> Iterator[str]:
  if config.teacher is not None and tuple(config.stages) == ("coarse",):
    yield (
      f"{_named(config, 'teacher', 'stages')} leave nothing to train, for the teacher takes the place of Task 1: leave "
      'it out, or put "fine" into the stages.'
    )


def _whole_heads(config) -> Iterator[str]:
  encoder = config.model.get("encoder", {})
  width, heads = encoder.get("width", ViTEncoder.width), encoder.get("heads", ViTEncoder.heads)
  if _architecture(config) == "prithvi" and width % heads:
    yield f"config.model.encoder.width={width} is no multiple of config.model.encoder.heads={heads}: change one."


def _teacher_folder(config) -> Iterator[str]:
  path = os.path.abspath(os.path.expanduser(config.teacher or "."))
  if not os.path.isdir(path):
    yield (
      f"{_named(config, 'teacher')}: {path} holds no checkpoint of the stage 'coarse', there is none of that name; "
      "give the workdir of a run that has trained it."
    )


def _what_comes_before(config, name) -> Iterator[str]:
  if name != stages_of(config)[0]:
    return
  remedy = f"it stands first in {_named(config, 'stages', 'teacher')}; "
  if name == "fine":
    remedy += 'put "coarse" before it, give the workdir of a finished Task 1 as config.teacher, or '
  if METHODS[config[name].method].has_teacher:
    yield f"{_named(config, f'{name}.method')} needs a teacher, but {remedy}take 'supervised'."
  if config[name].init_from_prior:
    yield f"{_named(config, f'{name}.init_from_prior')} needs an earlier stage, but {remedy}give False."


def _what_the_architecture_can(config, name) -> Iterator[str]:
  architecture, distils = _architecture(config), config[name].method == "attentive_distillation"
  if name in stages_of(config) and distils and architecture != factory.DEFAULT:
    yield (
      f"{_named(config, f'{name}.method')}: config.model.architecture is {architecture!r}, and MineC2FNet injects "
      f"features into {factory.DEFAULT!r} alone; take that, or method='supervised'."
    )


def _warm_up_within_epochs(config, name) -> Iterator[str]:
  trained = name in config.stages and not (name == "coarse" and config.teacher)
  if trained and config.optimizer.warmup_epochs > config[name].epochs:
    yield (
      f"{_named(config, 'optimizer.warmup_epochs', f'{name}.epochs')} never come to the full learning rate: give "
      "less of one or more of the other."
    )


def _something_to_learn(config, name) -> Iterator[str]:
  if name not in config.stages:
    return
  method, transfer, parts = config[name].method, config.distillation, ("bce", "dice", "ssim", "boundary")
  distils = method == "attentive_distillation" and transfer.selection != "none"
  if distils and not transfer.weight:
    yield (
      f"{_named(config, 'distillation.weight', 'distillation.selection')} contradict each other: give a weight above "
      "0 or selection 'none'."
    )
  own = [f"{METHODS[method].section}.{weight}" for weight in METHODS[method].weights]
  if (
    not distils
    and not any(config[name].loss[part] for part in parts)
    and not any(_value(config, field) for field in own)
  ):
    fields = [f"{name}.loss.{part}" for part in parts] + own
    yield f"{_named(config, *fields)} leave nothing to learn: give one of them a weight above 0."


def _room_for_windows(config, name) -> Iterator[str]:
  size, window = config.data.image_size, SSIM_WINDOWS[config[name].loss.ssim_kind]
  if name in config.stages and config[name].loss.ssim and size < window:
    yield (
      f"{_named(config, 'data.image_size')}: {size}x{size} pixels are less than the {window}x{window} window of "
      f"{_named(config, f'{name}.loss.ssim_kind')}; give larger images, or config.{name}.loss.ssim=0.0."
    )


def _data_folder(config, name) -> Iterator[str]:
  path = os.path.expanduser(config.data[name].path or "")
  if path and not os.path.isdir(path):
    yield f"{_named(config, f'data.{name}.path')}: there is no such folder; give that of your {name} set."
  elif path and not os.path.isfile(os.path.join(path, "index.csv")) and not tfds_source.is_prepared(path):
    yield (
      f"{_named(config, f'data.{name}.path')}: holds neither index.csv nor dataset_info.json; give the folder of a "
      "data set, of a prepared one that of its version."
    )


def _options_of_folders(config, name) -> Iterator[str]:
  spec = config.data[name]
  if tfds_source.is_prepared(os.path.expanduser(spec.path)) if spec.path else spec.builder:
    for option in ("coarsen_gsd_m", "skip"):
      if spec[option]:
        field = _named(config, f"data.{name}.{option}")
        yield f"{field} does nothing to a prepared set: give the folder that it was made of."


def _known_builder(config, name) -> Iterator[str]:
  builder = config.data[name].builder
  if builder and builder not in (known := _builders()):
    yield f"{_named(config, f'data.{name}.builder')}: choose one of {known}, or give config.data.{name}.path."


def _builders() -> tuple[str, ...]:
  """The folders in datasets/ that can make themselves."""
  packages = [found.name for found in pkgutil.iter_modules(importlib.import_module("datasets").__path__) if found.ispkg]
  return tuple(name for name in sorted(packages) if hasattr(importlib.import_module(f"datasets.{name}"), "prepare"))


def _architecture(config) -> str:
  return config.model.get("architecture", factory.DEFAULT)


# What a rule reads, and the rule: a config (and a stage) -> sentences. It has no say while what it reads is broken.
_RULES = (
  (("data.bands", "data.mean", "data.std"), _statistics_of_all_bands),
  (("pretrained", "pretrained_sha256"), _hash_of_weights),
  (("pretrained", "pretrained_adapter", "model.architecture", "model.encoder.input_adapter"), _adapter_of_weights),
  (("stages", "teacher"), _something_to_train),
  (("model.architecture", "model.encoder.width", "model.encoder.heads"), _whole_heads),
  (("teacher",), _teacher_folder),
)
_RULES_OF_STAGES = (
  (("stages", "teacher", "{}.method", "{}.init_from_prior"), _what_comes_before),
  (("stages", "teacher", "{}.method", "model.architecture"), _what_the_architecture_can),
  (("stages", "teacher", "{}.epochs", "optimizer.warmup_epochs"), _warm_up_within_epochs),
  (("stages", "{}.method", "{}.loss", "distillation", *schema.METHOD_SECTIONS), _something_to_learn),
  (("stages", "{}.loss.ssim", "{}.loss.ssim_kind", "data.image_size"), _room_for_windows),
  (("stages", "teacher", "{}.selection", "{}.streams"), _judge_before),
  (("{}.streams", "{}.method"), _streams_of_the_method),
  (("{}.streams", "{}.method", "{}.sampling", "{}.selection"), _labels_of_one_stream),
  (("stages", "{}.method", "{}.loss"), _parts_of_the_loss),
)
_RULES_OF_DOMAINS = (
  (("data.{}.path",), _data_folder),
  (("data.{}.path", "data.{}.builder", "data.{}.skip", "data.{}.coarsen_gsd_m"), _options_of_folders),
  (("data.{}.builder",), _known_builder),
)


def _contradictions(config, broken: Collection[str]) -> list[str]:
  """What is wrong with fields beside others and beside the files at hand, but for the fields that are `broken`."""
  rules = list(_RULES)
  for names, named_rules in ((schema.stages_in(config), _RULES_OF_STAGES), (DOMAINS, _RULES_OF_DOMAINS)):
    for name, (reads, rule) in itertools.product(names, named_rules):
      rules.append(([field.format(name) for field in reads], functools.partial(rule, name=name)))
  sound = (rule for reads, rule in rules if not any(_overlap(one, other) for one in broken for other in reads))
  return [sentence for rule in sound for sentence in rule(config)]


def _trace_networks(config):
  """Traces every stage's network and loss on shapes alone: seconds, against data and a compilation for nothing."""
  prior, key = None, jax.random.key(0)
  image = example(config)
  pixels = {
    name: jax.ShapeDtypeStruct(image.shape[:3], dtype) for name, dtype in (("label", np.uint8), ("valid", bool))
  }
  for name, wired in wire(config).items():
    prior = jax.eval_shape(wired.method.init, key, image, prior)
    if name in config.stages:
      batch = batch_like(config[name], {"image": image, **pixels})
      jax.eval_shape(wired.method.loss, *prior, batch, key)
