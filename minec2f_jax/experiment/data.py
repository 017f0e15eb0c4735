"""Data as a config names them: sources of samples, and what becomes of a batch before the network."""

import importlib
import math
import os
import pathlib

import jax
import numpy as np

from minec2f_jax import console, devices
from minec2f_jax.data import augment, coarsen, folder, pipeline, resident, sensors, tfds_source
from minec2f_jax.errors import UserError

DOMAINS = ("coarse", "fine")


def trained(config) -> list[str]:
  """The stages that a run trains, in order: not that for which config.teacher stands."""
  return [name for name in config.stages if not (name == "coarse" and config.teacher)]


def places(config) -> list[tuple[str, str]]:
  """Every (domain, split) that a run opens."""
  learnt = []
  for stage in (config[name] for name in trained(config)):
    learnt += [*((domain, "train") for domain in stage.streams), (stage.validation, "validation")]
  tested = [name for name in reversed(DOMAINS) if config.data[name].path or config.data[name].builder]
  return list(dict.fromkeys(learnt)) + [(name, "test") for name in tested]


def open_sources(config) -> dict[tuple[str, str], pipeline.Source]:
  """Every (domain, split) that the run will read: a mistake in the last one must not cost the training before it.

  Samples are decoded into memory as long as all of them fit into `config.data.cache_gb`, and put on the device as long
  as they fit into `config.data.device_gb` and half of its free memory.
  """
  sources, memory = {}, config.data.cache_gb * 1e9
  for domain, split in places(config):
    source = open_source(config, domain, split)
    if (size := pipeline.sample_bytes(source)) <= memory:
      memory -= size
      source = pipeline.CachedSource(source)
      _describe(domain, split, source)
    sources[domain, split] = source
  return _put_on_device(sources, _device_budget(config, memory))


def _put_on_device(sources: dict, budget: float) -> dict:
  """`sources` with those on the device that are in memory and fit into `budget` bytes, in order."""
  for place, source in sources.items():
    if isinstance(source, pipeline.CachedSource) and (held := resident.hold(source, max_bytes=budget)):
      budget -= held.device_bytes
      sources = {**sources, place: held}
  return sources


def _device_budget(config, memory: float) -> float:
  """Bytes that samples may take on the device, if `memory` is left on the host."""
  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  free = stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
  return min(config.data.device_gb * 1e9, free / 2, memory if device.platform == "cpu" else math.inf)


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
    with devices.first_before_others(name):
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


def make_normalize(config):
  """`(image, valid) -> image`, reflectance to network input."""
  bands = tuple(config.data.bands)
  mean, std = (tuple(config.data[name][band] for band in bands) for name in ("mean", "std"))
  return lambda image, valid: sensors.normalize(image, valid, mean=mean, std=std)


def make_prepare(config):
  """`(key, stream) -> stream`, augmentation and normalisation of a training batch."""
  normalize, knobs = make_normalize(config), dict(config.data.augment)

  def prepare(key, stream):
    stream = augment.augment(key, stream, **knobs)
    return {**stream, "image": normalize(stream["image"], stream["valid"])}

  return prepare


def data_name(config) -> str:
  """What the data are called: a folder by its name, a prepared set as dataset/config."""

  def name(spec):
    if not spec.path:
      return spec.builder
    path = pathlib.Path(spec.path)
    return "/".join(path.parts[-3:-1]) if tfds_source.is_prepared(path.expanduser()) else path.name

  return " and ".join(sorted({name(config.data[domain]) for domain in DOMAINS} - {""}))
