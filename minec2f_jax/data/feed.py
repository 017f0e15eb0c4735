"""How batches reach the device: places of samples that lie there already, or the samples themselves."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from minec2f_jax.data import pipeline, resident

PyTree = Any


class Feed(NamedTuple):
  """The training batches of a run; either kind gives the same ones bit for bit.

  Attributes:
    held: arrays that lie on the device all the time, an argument of the compiled step.
    inputs: `(step) -> iterator` of what this process sends for each step from that one on, endless; NumPy arrays.
    take: `(held, input) -> {stream: batch}`, inside jit.
    resident: whether the samples are held; else they are sent.
    ids: `(step) -> {stream: ids}` of the samples in a step's batch, in its order.
  """

  held: PyTree
  inputs: Callable[[int], Iterator[PyTree]]
  take: Callable[[PyTree, PyTree], dict[str, pipeline.Sample]]
  resident: bool
  ids: Callable[[int], dict[str, list[str]]]


def make_feed(
  sources: Mapping[str, pipeline.Source],
  *,
  batch_size: int,
  seed: int,
  num_threads: int = 4,
  part: tuple[int, int] = (0, 1),
) -> Feed:
  """The feed of `pipeline.train_batches`, which see; resident if all of `sources` are `ResidentSource`."""
  order = dict(batch_size=batch_size, seed=seed)
  sizes = {name: len(source) for name, source in sources.items()}

  def ids(step: int) -> dict[str, list[str]]:
    places = next(pipeline.train_indices(sizes, start_step=step, **order))
    return {name: [sources[name].ids[place] for place in places[name]] for name in sources}

  if not all(isinstance(source, resident.ResidentSource) for source in sources.values()):
    inputs = lambda step: pipeline.train_batches(sources, start_step=step, num_threads=num_threads, part=part, **order)
    return Feed((), inputs, lambda held, batch: batch, resident=False, ids=ids)
  return Feed(
    held={name: source.arrays for name, source in sources.items()},
    inputs=lambda step: pipeline.train_indices(sizes, start_step=step, part=part, **order),
    take=lambda held, places: {name: resident.take(held[name], places[name]) for name in places},
    resident=True,
    ids=ids,
  )
