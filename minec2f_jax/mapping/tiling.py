"""A scene's map as strips from top to bottom: tiles are read, go through the network in batches, and are blended.

Memory holds one row of tiles of the map, and some windows of the image, whatever the height of the scene.
"""

import collections
import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from minec2f_jax.data import rasterfile
from minec2f_jax.mapping import reading, scaling, scene_input
from minec2f_jax.mapping.blending import Accumulator
from minec2f_jax.mapping.windows import Axis

Probabilities = Callable[[np.ndarray, np.ndarray], np.ndarray]
_WINDOW_PX = 1024  # Width that is read at once: what windows share is read twice.
_COLUMNS_PX = 2048  # Width that is resampled at once.
_UNDER_WAY = 2  # Batches that the device has while the host blends.


class Tiling(NamedTuple):
  """How a scene is mapped.

  Attributes:
    grid: pixels of the network and of the scene.
    tile: side of a tile in the network's pixels.
    overlap: of neighbours.
    batch: tiles that go through the network at once; fewer are filled up.
  """

  grid: scene_input.Grid
  tile: int
  overlap: int
  batch: int

  @property
  def axes(self) -> tuple[Axis, Axis]:
    return tuple(Axis(size, self.tile, self.overlap) for size in self.grid.shape)

  @property
  def count(self) -> int:
    """Strips, one for each row of tiles."""
    return self.axes[0].count

  def scene_rows(self, index: int) -> tuple[int, int]:
    """[first, end) of the scene's rows in strip `index`: what no later row of tiles touches; may be none."""
    rows, side = self.axes[0], self.grid.to_scene()[0]
    (first, end) = rows.strip(index)
    return side.complete(first) if index else 0, side.complete(end)

  def first_needed(self, index: int) -> int:
    """The first row of tiles that strip `index` depends on."""
    first, end = self.scene_rows(index)
    if first == end:
      return index
    low, _ = self.grid.to_scene()[0].reach(first, end)
    return min(index, self.axes[0].first_over(low))


def map_strips(
  scene: scene_input.SceneInput, tiling: Tiling, probabilities: Probabilities, *, done: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
  """The strips of a scene from `done` on, in order and each bit for bit as in a map from the first on.

  Args:
    scene: to map.
    tiling: how.
    probabilities: (image [B, T, T, C] float32 reflectance, valid [B, T, T] bool) -> [B, T, T], on the device or here.
    done: strips that are there already.

  Yields:
    number of the strip, probability [h, W] float32 in the scene's pixels, 0 where not valid, whose place in memory the
    next strip may take, and valid [h, W] bool.
  """
  if done >= tiling.count:
    return
  first = tiling.first_needed(done)
  found = _network_strips(scene, tiling, probabilities, first)
  if not tiling.grid.own:
    yield from _in_scene_pixels(found, tiling, first, done)
    return
  # `filter` and `map`, as a loop would hold on to a strip, as wide as the scene, while the next one is made.
  yield from map(operator.attrgetter("row", "probability", "valid"), filter(lambda strip: strip.row >= done, found))


class _Strip(NamedTuple):
  """What a row of tiles finishes: [h, W] in the network's pixels, and what was known of the scene's under all of it."""

  row: int
  probability: np.ndarray
  valid: np.ndarray
  known: list[tuple[rasterfile.Window, np.ndarray]]


def _network_strips(scene, tiling: Tiling, probabilities: Probabilities, first: int) -> Iterator[_Strip]:
  """The strips from row `first` on; whole where no row before it reaches."""
  rows, columns = tiling.axes
  per_window = max(1, _WINDOW_PX // columns.stride)
  groups = [range(i, min(i + per_window, columns.count)) for i in range(0, columns.count, per_window)]

  def window(number: int) -> rasterfile.Window:
    top, group = rows.start(number // len(groups)), groups[number % len(groups)]
    return (top, top + rows.tile), (columns.start(group[0]), columns.start(group[-1]) + columns.tile)

  read = lambda numbers: scene_input.read(scene, tiling.grid, map(window, numbers))
  blended = Accumulator(rows, columns)
  ahead = reading.read_ahead(read, range(first * len(groups), rows.count * len(groups)))
  for row in range(first, rows.count):
    yield _network_strip(row, ahead, groups, tiling, probabilities, blended)


def _network_strip(row: int, ahead: Iterator, groups, tiling: Tiling, probabilities, blended: Accumulator) -> _Strip:
  """The strip that row `row` of tiles finishes, the windows of which are the next ones of `ahead`."""
  rows, columns = tiling.axes
  first_row, end_row = rows.strip(row)
  valid, known = np.zeros((end_row - first_row, columns.size), bool), []
  tiles = _tiles(ahead, groups, columns, valid, known, resampled=not tiling.grid.own)
  for column, probability in _through_network(tiles, tiling, probabilities):
    blended.add(row, column, probability)
  probability = blended.finish(row)
  for values, known_values in zip(probability, valid):  # Row by row, as a copy of `valid` would count.
    values[~known_values] = 0.0
  return _Strip(row, probability, valid, known)


def _tiles(
  ahead: Iterator, groups, columns: Axis, whole: np.ndarray, known: list, *, resampled: bool
) -> Iterator[tuple]:
  """(column, image [T, T, C], valid [T, T]) of a row's tiles that hold a valid pixel.

  Fills in `whole` [h, W], the validity of the row's strip, and adds to `known` where it will be asked for.
  """
  for group in groups:
    image, valid, *under = next(ahead)
    if resampled:
      known.append(tuple(under))
    left = columns.start(group[0])
    width = min(valid.shape[1], columns.size - left)
    whole[:, left : left + width] = valid[: len(whole), :width]
    for column in group:
      at = columns.start(column) - left
      window = np.s_[:, at : at + columns.tile]
      if valid[window].any():
        yield column, image[window], valid[window]


def _through_network(tiles: Iterator, tiling: Tiling, probabilities: Probabilities) -> Iterator[tuple[int, np.ndarray]]:
  """(column, probability [T, T]) of a row's tiles; a batch never holds tiles of two rows."""
  under_way = collections.deque()
  for columns, image, valid in _batches(tiles, tiling.batch):
    under_way.append((columns, probabilities(image, valid)))
    if len(under_way) > _UNDER_WAY:
      yield from _finished(*under_way.popleft())
  while under_way:
    yield from _finished(*under_way.popleft())


def _finished(columns: list[int], probability) -> Iterator[tuple[int, np.ndarray]]:
  yield from zip(columns, np.asarray(probability))


def _batches(tiles: Iterator, size: int) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
  """Tiles in batches of one size, in arrays of their own: a device may hold on to them; the last one is filled up."""
  held = []
  for tile in tiles:
    held.append(tile)
    if len(held) == size:
      yield _stacked(held, size)
      held = []
  if held:
    yield _stacked(held, size)


def _stacked(held: list, size: int):
  columns, images, valids = zip(*held)
  image = np.zeros((size, *images[0].shape), np.float32)
  valid = np.zeros((size, *valids[0].shape), bool)
  np.stack(images, out=image[: len(held)])
  np.stack(valids, out=valid[: len(held)])
  return list(columns), image, valid


def _in_scene_pixels(strips: Iterator[_Strip], tiling: Tiling, first: int, done: int) -> Iterator[tuple]:
  """(number, probability, valid) of strips in the scene's pixels, from those in the network's from row `first` on.

  A pixel is valid where the scene's own is and the network's over it.
  """
  rows, (down, across) = tiling.axes[0], tiling.grid.to_scene()
  begin = rows.start(first)
  probability, valid = np.zeros((0, across.source), np.float32), np.zeros((0, across.source), bool)
  for strip in strips:
    probability = np.concatenate([probability, strip.probability])
    valid = np.concatenate([valid, strip.valid])
    if strip.row < done:
      continue
    wanted = tiling.scene_rows(strip.row)
    values, held = _resampled(probability, valid, begin, down, across, wanted)
    _leave_out_unknown(held, wanted, strip.known)
    np.copyto(values, 0.0, where=~held)
    yield strip.row, values, held
    if wanted[1] < down.size:  # What later strips need of these rows.
      keep = down.reach(wanted[1], wanted[1] + 1)[0] - begin
      begin, probability, valid = begin + keep, probability[keep:], valid[keep:]


def _leave_out_unknown(held: np.ndarray, wanted: tuple[int, int], known: list):
  """Makes False of `held`, the scene's rows `wanted`, what the scene does not know."""
  for ((first, end), columns), own in known:
    top, bottom = max(wanted[0], first), min(wanted[1], end)
    if top < bottom:
      held[top - wanted[0] : bottom - wanted[0], slice(*columns)] &= own[top - first : bottom - first]


def _resampled(probability, valid, begin: int, down: scaling.Side, across: scaling.Side, wanted: tuple[int, int]):
  """Rows `wanted` of the scene from the network's rows `begin` on, some columns at a time."""
  shape = wanted[1] - wanted[0], across.size
  found = np.zeros(shape, np.float32), np.zeros(shape, bool)
  if wanted[0] == wanted[1]:
    return found
  low, high = down.reach(*wanted)
  for left in range(0, across.size, _COLUMNS_PX):
    columns = left, min(left + _COLUMNS_PX, across.size)
    window = np.s_[low - begin : high - begin, slice(*across.reach(*columns))]
    parts = scaling.to_scene(probability[window], valid[window], down, across, (wanted, columns))
    for whole, part in zip(found, parts):
      whole[:, slice(*columns)] = part
  return found
