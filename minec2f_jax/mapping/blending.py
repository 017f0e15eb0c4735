"""What each tile weighs in a pixel that several tiles cover: a partition of unity, row by column.

Probabilities are blended, not logits: a mean of probabilities is a probability of the same meaning (of tiles drawn by
their weights), bounded by those of the tiles. A mean of logits follows whichever tile is most certain, and a tile is
most certain, and most often wrong, at its margin, where it lacks the surroundings.
"""

from collections.abc import Callable

import numpy as np

from minec2f_jax.mapping.windows import Axis


def taper(tile: int, overlap: int) -> np.ndarray:
  """[tile] float64 in (0, 1]: rises as a squared sine over the pixels shared with a neighbour, at both ends alike."""
  depth = np.minimum(np.arange(tile) + 0.5, tile - np.arange(tile) - 0.5)
  return np.sin(np.pi / 2 * np.minimum(depth / max(overlap, 0.5), 1.0)) ** 2


def partition(axis: Axis) -> Callable[[int], np.ndarray]:
  """Weights of tiles along an axis: tile number -> [axis.tile] float64 that sum to 1 in every pixel of the axis.

  The weight in a plane is the product of a row's and a column's, so it sums to 1 there, too. Pixels beyond the axis
  have what the last pixel's sum leaves; nobody reads them.
  """
  shape = taper(axis.tile, axis.overlap)
  total = np.zeros(axis.start(axis.count - 1) + axis.tile)
  for index in range(axis.count):
    total[axis.start(index) :][: axis.tile] += shape
  return lambda index: shape / total[axis.start(index) :][: axis.tile]


class Accumulator:
  """The blended map of a scene's row of tiles under way: [tile, W], whatever the scene's height."""

  def __init__(self, rows: Axis, columns: Axis):
    self._rows, self._columns = rows, columns
    self._of_row, self._of_column = partition(rows), partition(columns)
    self._sum = np.zeros((rows.tile, columns.size), np.float32)
    self._finished = 0  # Rows at the top of it that a strip has shown.

  def add(self, row: int, column: int, probability: np.ndarray):
    """Adds a tile, [tile, tile] float; tiles of a row before those of the next."""
    self._go_on()
    start = self._columns.start(column)
    width = min(self._columns.tile, self._columns.size - start)
    weight = self._of_row(row)[:, None] * self._of_column(column)[None, :width]
    self._sum[:, start : start + width] += (weight * probability[:, :width]).astype(np.float32)

  def finish(self, row: int) -> np.ndarray:
    """[h, W] float32 of the strip that tile row `row` finishes; 0 where no tile was added.

    It is a part of the sum, no copy, as wide as the scene: what comes next takes its place.
    """
    self._go_on()
    first, end = self._rows.strip(row)
    self._finished = end - first
    return np.clip(self._sum[: self._finished], 0.0, 1.0, out=self._sum[: self._finished])

  def _go_on(self):
    """Leaves behind what a strip has shown."""
    height, self._finished = self._finished, 0
    if not height:
      return
    for row in range(height, len(self._sum)):  # Row by row: all at once, NumPy would copy what overlaps.
      self._sum[row - height] = self._sum[row]
    self._sum[len(self._sum) - height :] = 0.0
