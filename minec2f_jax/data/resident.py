"""Decoded sets that live on the device, and are gathered, normalised and augmented there."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax.data import pipeline, sensors

_CODES = 2**16


class ResidentSource:
  """A source whose samples also lie on the device, without loss; made by `hold`.

  Attributes:
    ids: as of the source.
    arrays: what `take` needs, on the device: {"image" [N, H, W, C] uint16 or float32, "table" [65536] float32 or None,
      "label" [N, H, W] uint8, "valid" [N, H, W] bool}; of a `subset` with "rows" [n] int32, its places in these; of
      sources that were joined (`join`) a tuple of such; of those `without_labels` without "label".
    device_bytes: memory that they take there, all of it for a part of a source, too.
  """

  def __init__(self, source: pipeline.Source, arrays):
    self.ids, self.arrays = tuple(source.ids), arrays
    self.device_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    self._source = source

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> pipeline.Sample:
    return self._source[index]

  def details(self, index: int) -> dict:
    return pipeline.details(self._source, index)


def hold(source: pipeline.Source, *, max_bytes: float = math.inf) -> ResidentSource | None:
  """`source` with its samples on the device; None if they take more than `max_bytes` there.

  Reflectance that came from 16-bit numbers goes back to them, with a table of what each stands for: half the memory,
  and bit for bit the samples of `source`. Other reflectance (resampled, or of several encodings) stays float32.

  Args:
    source: at least one sample, decoded in memory: all are read more than once.
    max_bytes: of memory on the device.
  """
  samples = [source[i] for i in range(len(source))]
  coding = _coding(samples)
  image_bytes = samples[0]["image"].nbytes // (1 if coding is None else 2)
  if len(samples) * (image_bytes + samples[0]["label"].nbytes + samples[0]["valid"].nbytes) > max_bytes:
    return None
  image = np.stack([sample["image"] if coding is None else _encode(sample, coding)[0] for sample in samples])
  table = None if coding is None else _table(coding)
  label, valid = (np.stack([sample[name] for sample in samples]) for name in ("label", "valid"))
  return ResidentSource(source, jax.device_put({"image": image, "table": table, "label": label, "valid": valid}))


def subset(source: pipeline.Source, indices: Sequence[int]) -> pipeline.Source:
  """Some samples of a source that is not joined, by index; on the device if `source` is, without another copy."""
  chosen = pipeline.Subset(source, indices)
  if not isinstance(source, ResidentSource):
    return chosen
  rows = jnp.asarray(indices, jnp.int32)
  return ResidentSource(
    chosen, {**source.arrays, "rows": source.arrays["rows"][rows] if "rows" in source.arrays else rows}
  )


def join(sources: Mapping[str, pipeline.Source]) -> pipeline.Source:
  """All samples of several sources as one, see `pipeline.Joined`; on the device if all are, without another copy.

  Of sources of which only one holds samples, it is that one.
  """
  filled = {name: source for name, source in sources.items() if len(source)}
  if len(filled) == 1:
    return next(iter(filled.values()))
  joined = pipeline.Joined(filled)
  if not all(isinstance(source, ResidentSource) for source in filled.values()):
    return joined
  return ResidentSource(joined, tuple(source.arrays for source in filled.values()))


def without_labels(source: pipeline.Source) -> pipeline.Source:
  """`source` as `pipeline.Unlabelled`; on the device if it is there, without another copy."""
  bare = pipeline.Unlabelled(source)
  if not isinstance(source, ResidentSource):
    return bare
  strip = lambda arrays: {name: array for name, array in arrays.items() if name != "label"}
  parts = source.arrays
  return ResidentSource(bare, tuple(map(strip, parts)) if isinstance(parts, tuple) else strip(parts))


def take(arrays, indices):
  """The batch of the samples `indices` out of `ResidentSource.arrays`; traceable.

  Args:
    arrays: of a set of N samples.
    indices: [B] integers in 0..N-1.

  Returns:
    {"image" [B, H, W, C] float32, "label" [B, H, W] uint8 if it has been left in, "valid" [B, H, W] bool}.
  """
  if isinstance(arrays, tuple):
    return _take_joined(arrays, indices)
  if "rows" in arrays:
    indices = arrays["rows"][indices]
  batch = {name: arrays[name][indices] for name in ("image", "label", "valid") if name in arrays}
  if arrays["table"] is not None:
    reflectance = arrays["table"][batch["image"].astype(jnp.int32)]
    batch["image"] = jnp.where(batch["valid"][..., None], reflectance, 0.0)
  return batch


def _take_joined(parts, indices):
  """`take` of sources one after the other: from each a whole batch, of which every sample comes from one."""
  batch, start = None, 0
  for part in parts:
    size = len(part["rows"] if "rows" in part else part["valid"])
    found = take(part, jnp.clip(indices - start, 0, size - 1))
    batch = found if batch is None else {name: _where(indices >= start, found[name], batch[name]) for name in found}
    start += size
  return batch


def _where(chosen, new, old):
  """`new` [B, ...] for the samples that are `chosen` [B], else `old`."""
  return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


class _Coding(NamedTuple):
  """How 16-bit codes stand for reflectance: code 0 is the digital number `lowest` of a sensor of the registry."""

  sensor: str
  lowest: int


def _coding(samples: Sequence[pipeline.Sample]) -> _Coding | None:
  """The encoding from which every reflectance of `samples` comes exactly; None if there is none."""
  fits = lambda coding: all(_encode(sample, coding)[1] for sample in samples)
  return next((coding for coding in _codings() if samples and fits(coding)), None)


def _codings():
  """Unsigned and signed digital numbers of every integer encoding in the registry."""
  scaled = {(sensor.scale, sensor.offset): name for name, sensor in sensors.SENSORS.items() if sensor.scale < 1}
  return [_Coding(sensor, lowest) for sensor in scaled.values() for lowest in (0, -_CODES // 2)]


def _encode(sample: pipeline.Sample, coding: _Coding):
  """(codes [H, W, C] uint16, whether they stand for the sample bit for bit)."""
  image, valid, sensor = sample["image"], sample["valid"][..., None], sensors.SENSORS[coding.sensor]
  with np.errstate(invalid="ignore", over="ignore"):
    codes = np.rint((image - np.float32(sensor.offset)) / np.float32(sensor.scale)) - coding.lowest
  codes = np.where(valid & (codes >= 0) & (codes < _CODES), codes, 0).astype(np.uint16)
  decoded = np.where(valid, _table(coding)[codes], np.float32(0))
  return codes, np.array_equal(decoded.view(np.uint32), image.view(np.uint32))


@functools.cache
def _table(coding: _Coding) -> np.ndarray:
  return sensors.to_reflectance(np.arange(_CODES) + coding.lowest, sensors.SENSORS[coding.sensor])
