"""From a scene's pixels to pixels of the size that a network knows, and back; each by its own surroundings alone.

The kernel is that of Pillow's antialiased bilinear filter, by which chips are resized for training
(`data.resize.resize_chip`): a triangle as wide as any shrinking. Here it works on windows: a pixel comes out alike
whichever window it is read in, and files need no place on the ground.
"""

from typing import NamedTuple

import numpy as np


class Side(NamedTuple):
  """One side of a raster that is resampled from pixel 0 on.

  Attributes:
    source: pixels there are.
    size: pixels wanted.
    step: source pixels for one wanted.
  """

  source: int
  size: int
  step: float

  def reach(self, first: int, end: int) -> tuple[int, int]:
    """[first, end) of the source pixels that the wanted pixels [first, end) depend on, for first < end."""
    low, _ = self._ends(np.array([first]))
    _, high = self._ends(np.array([end - 1]))
    return int(low[0]), int(high[0])

  def complete(self, source_end: int) -> int:
    """How many wanted pixels depend on source pixels below `source_end` alone."""
    if source_end >= self.source:
      return self.size
    _, high = self._ends(np.arange(self.size))
    return int(np.searchsorted(high, source_end, side="right"))

  def matrix(self, first: int, end: int) -> np.ndarray:
    """[end - first, source pixels of `reach`] float32, rows that sum to 1."""
    low, high = self.reach(first, end)
    distance = np.abs(np.arange(low, high) + 0.5 - self._centres(np.arange(first, end))[:, None])
    weights = np.maximum(0.0, 1.0 - distance / max(self.step, 1.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)

  def nearest(self, first: int, end: int) -> np.ndarray:
    """[end - first] source pixels under the wanted pixels' centres, counted from the first of `reach`."""
    picked = np.floor(self._centres(np.arange(first, end)) + 1e-9).astype(int)
    return np.minimum(picked, self.source - 1) - self.reach(first, end)[0]

  def _centres(self, places: np.ndarray) -> np.ndarray:
    return np.minimum((places + 0.5) * self.step, self.source)

  def _ends(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centres, half = self._centres(places), max(self.step, 1.0)
    low = np.floor(centres - half - 0.5 + 1e-9).astype(int) + 1
    high = np.ceil(centres + half - 0.5 - 1e-9).astype(int)
    return np.maximum(low, 0), np.minimum(np.maximum(high, low + 1), self.source)


def to_network(image, valid, rows: Side, columns: Side, window):
  """A window of the network's pixels, from the scene's pixels that it depends on.

  As `resize_chip`: invalid pixels contribute nothing, and a pixel is valid where valid pixels hold at least half of the
  kernel's weight and the pixel under its centre is valid.

  Args:
    image: [H, W, C] float32, the pixels of `reach`; 0 where invalid.
    valid: [H, W] bool.
    rows: of the scene.
    columns: likewise.
    window: ((first row, end), (first column, end)) of the network's pixels.

  Returns:
    image [h, w, C] float32 and valid [h, w] bool.
  """
  down, across = rows.matrix(*window[0]), columns.matrix(*window[1])
  planes = np.stack([_apply(down, across, image[..., band]) for band in range(image.shape[-1])], axis=-1)
  weight = _apply(down, across, valid.astype(np.float32))
  new_valid = (weight >= 0.5) & valid[np.ix_(rows.nearest(*window[0]), columns.nearest(*window[1]))]
  planes /= np.maximum(weight, 0.5)[..., None]
  return np.where(new_valid[..., None], planes, np.float32(0.0)), new_valid


def to_scene(probability, valid, rows: Side, columns: Side, window):
  """A window of the scene's pixels, from the network's pixels that it depends on; as `resize.resize_map`.

  Args:
    probability: [H, W] float32, the pixels of `reach`; anything where invalid.
    valid: [H, W] bool.
    rows: of the network's grid.
    columns: likewise.
    window: of the scene's pixels.

  Returns:
    probability [h, w] float32 and valid [h, w] bool, that of the network's pixel under each centre.
  """
  down, across = rows.matrix(*window[0]), columns.matrix(*window[1])
  weight = np.maximum(_apply(down, across, valid.astype(np.float32)), np.float32(1e-6))
  values = _apply(down, across, np.where(valid, probability, np.float32(0.0))) / weight
  picked = valid[np.ix_(rows.nearest(*window[0]), columns.nearest(*window[1]))]
  return np.where(picked, values, np.float32(0.0)), picked


def _apply(down: np.ndarray, across: np.ndarray, plane: np.ndarray) -> np.ndarray:
  return down @ plane @ across.T
