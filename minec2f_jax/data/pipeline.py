"""From a source of samples to batches: an order that is a pure function of (seed, step)."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import grain
import numpy as np

Sample = dict[str, np.ndarray]  # image [H, W, C] float32, label [H, W] uint8, valid [H, W] bool
_FIELDS = ("image", "label", "valid")


class Source(Protocol):
  """Random access to samples, each under its id."""

  ids: tuple[str, ...]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Sample: ...


def details(source: Source, index: int) -> dict:
  """What `source` knows of sample `index` besides its arrays; what is unknown is absent.

  Text: mine, mine_id, country, commodity, climate_zone, region, product (the sensor family), location_group (samples of
  one place share it). Numbers: area_km2 of the mine; gsd_m, (height, width) in metres of the ground under a pixel of
  the sample as `source[index]` gives it. image: path of the GeoTIFF that it was read from.
  """
  return source.details(index) if hasattr(source, "details") else {}


class CachedSource:
  """A source decoded once into memory; it also meets every broken file before the first step."""

  def __init__(self, source: Source):
    self.ids = tuple(source.ids)
    self._source = source
    self._samples = [source[i] for i in range(len(source))]

  def __len__(self) -> int:
    return len(self._samples)

  def __getitem__(self, index: int) -> Sample:
    return self._samples[index]

  def details(self, index: int) -> dict:
    return details(self._source, index)


class Subset:
  """Some samples of a source, by index."""

  def __init__(self, source: Source, indices: Sequence[int]):
    self._source, self._indices = source, tuple(indices)
    self.ids = tuple(source.ids[i] for i in self._indices)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Sample:
    return self._source[self._indices[index]]

  def details(self, index: int) -> dict:
    return details(self._source, self._indices[index])


class Joined:
  """Several sources as one, each after the one before; ids carry the name of theirs, as "coarse/17"."""

  def __init__(self, sources: Mapping[str, Source]):
    self._sources = tuple(sources.values())
    self._starts = np.cumsum([0, *map(len, self._sources)])
    self.ids = tuple(f"{name}/{one}" for name, source in sources.items() for one in source.ids)

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> Sample:
    place = int(np.searchsorted(self._starts, index, side="right")) - 1
    return self._sources[place][index - int(self._starts[place])]


class Unlabelled:
  """A source without its labels, for a method that must not see them.

  `valid` stays as it is: it tells where reflectance and label are known, and nothing of what the label is.
  """

  def __init__(self, source: Source):
    self.ids = tuple(source.ids)
    self._source = source

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> Sample:
    return {name: array for name, array in self._source[index].items() if name != "label"}

  def details(self, index: int) -> dict:
    return details(self._source, index)


def sample_bytes(source: Source) -> int:
  """Memory that all of `source` takes when decoded, judged by its first sample."""
  return sum(source[0][name].nbytes for name in _FIELDS) * len(source) if len(source) else 0


def _arrays(sample: Sample) -> Sample:
  return {name: sample[name] for name in _FIELDS if name in sample}


def train_batches(
  sources: Mapping[str, Source],
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  num_threads: int = 4,
  part: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, Sample]]:
  """Endless batches of every stream, `{stream: {"image" [B, H, W, C], "label", "valid" [B, H, W]}}`.

  Each stream is shuffled anew every pass, and a batch may span two passes: no sample is dropped, and no batch is
  short. Batch number `start_step` comes first, the same as an uninterrupted run would have drawn: the order is a
  function of the seed and the step alone, and nothing about the readers needs to be stored. Streams of `Unlabelled`
  sources have no "label".

  Args:
    sources: stream -> its samples.
    batch_size: samples of each stream in a batch.
    seed: of the order.
    start_step: number of the first batch.
    num_threads: that read ahead; 0 reads when asked. They change no batch. Threads rather than processes: decoding
      happens in GDAL and zlib, which let go of the interpreter, and samples need not be sent from one to another.
    part: (i, n): of each batch only the i-th of n equal parts, B = batch_size / n samples.
  """
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
  iterators = {}
  sizes = {name: len(source) for name, source in sources.items()}
  for name, places in _places(sizes, batch_size, seed, part).items():
    read = functools.partial(_read, sources[name])
    iterators[name] = iter(places.map(read).to_iter_dataset(options))
    iterators[name].set_state({"next_index": start_step})
  while True:
    yield {name: next(iterator) for name, iterator in iterators.items()}


def train_indices(
  sizes: Mapping[str, int], *, batch_size: int, seed: int, start_step: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
  """The places, `{stream: [B] int32}`, of the samples in `train_batches` of sources with these sizes."""
  batches = _places(sizes, batch_size, seed, part)
  for step in itertools.count(start_step):
    yield {name: places[step] for name, places in batches.items()}


def _places(sizes: Mapping[str, int], batch_size: int, seed: int, part: tuple[int, int]) -> dict[str, grain.MapDataset]:
  """For each stream, endless batches of places, [B] int32."""
  (i, n), streams = part, enumerate(sorted(sizes))
  orders = {name: grain.MapDataset.range(sizes[name]).seed(seed + k).shuffle().repeat() for k, name in streams}
  own = lambda places: np.split(places, n)[i].astype(np.int32)
  return {name: order.batch(batch_size).map(own) for name, order in orders.items()}


def _read(source: Source, places: np.ndarray) -> Sample:
  samples = [_arrays(source[place]) for place in places]
  return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def eval_batches(source: Source, *, batch_size: int) -> Iterator[tuple[Sample, int]]:
  """All samples once, in order, as `(batch, count)`; the last batch is filled up with invalid copies.

  A short last batch would compile the network a second time. `count` is the number of real samples.
  """
  for places, count in eval_indices(len(source), batch_size=batch_size):
    samples = [_arrays(source[i]) for i in places[:count]]
    filler = {**samples[0], "valid": np.zeros_like(samples[0]["valid"])}
    padded = samples + [filler] * (batch_size - count)
    yield {name: np.stack([sample[name] for sample in padded]) for name in _FIELDS}, count


def eval_indices(size: int, *, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
  """The places of all `size` samples once, in order, as `([B] int32, count)`; what fills the last batch is place 0."""
  for start in range(0, size, batch_size):
    count = min(batch_size, size - start)
    yield np.pad(np.arange(start, start + count, dtype=np.int32), (0, batch_size - count)), count
