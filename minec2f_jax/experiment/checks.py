"""What a config is held to before anything heavy starts."""

import math

import jax
import numpy as np

from minec2f_jax import distillation, metrics
from minec2f_jax.data import sensors
from minec2f_jax.errors import UserError
from minec2f_jax.experiment.data import DOMAINS
from minec2f_jax.experiment.stages import example, wire
from minec2f_jax.models import pretrained


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
  """Traces every stage's network and loss on shapes alone: seconds, against data and a compilation for nothing."""
  prior, key = None, jax.random.key(0)
  image = example(config)
  pixels = {
    name: jax.ShapeDtypeStruct(image.shape[:3], dtype) for name, dtype in (("label", np.uint8), ("valid", bool))
  }
  for name, wired in wire(config).items():
    prior = jax.eval_shape(wired.method.init, key, image, prior)
    if name in config.stages:
      batch = {config[name].stream: {"image": image, **pixels}}
      jax.eval_shape(wired.method.loss, *prior, batch, key)
