"""The lattice of tiles that covers a scene, and what lies beyond its edges."""

import math
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
  """One side of a scene under tiles: the first begins at pixel 0, the last reaches the end or goes beyond it.

  So a scene of a tile's size is one tile, and its map that of the chip. Where a scene goes on, its edge is an edge of a
  tile, as the edges of the images were that the network learnt from.

  Attributes:
    size: pixels, at least 1.
    tile: side of a tile in pixels, at least 1.
    overlap: pixels that neighbours share, 0 <= overlap < tile.
  """

  size: int
  tile: int
  overlap: int

  @property
  def stride(self) -> int:
    return self.tile - self.overlap

  @property
  def count(self) -> int:
    return 1 + max(0, math.ceil((self.size - self.tile) / self.stride))

  def start(self, index: int) -> int:
    """First pixel of tile `index`."""
    return index * self.stride

  def strip(self, index: int) -> tuple[int, int]:
    """[first, end) of the pixels that are finished once tile `index` is, and were not before: no later one has them."""
    return self.start(index), self.start(index + 1) if index + 1 < self.count else self.size

  def first_over(self, pixel: int) -> int:
    """The first tile that holds `pixel`."""
    return max(0, math.ceil((pixel - self.tile + 1) / self.stride))


def reflected(first: int, end: int, size: int) -> np.ndarray:
  """Which of the pixels 0..size-1 stand at [first, end) where the side is mirrored at its outermost pixel centres.

  Back and forth where it is shorter than what it lacks, as `models.padding` does; a single pixel is repeated.

  Returns:
    [end - first] int.
  """
  period = max(2 * (size - 1), 1)
  places = np.arange(first, end) % period
  return np.minimum(places, period - places) if size > 1 else places * 0
