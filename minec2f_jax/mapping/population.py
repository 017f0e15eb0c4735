"""The pixels that a reference sample speaks for: valid ones, outside of the images that the model has learnt from."""

from collections.abc import Sequence

import numpy as np
import shapely

from minec2f_jax.data import grids, lonlat
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import ground, maps

STRATA = ("not mine", "mine")  # Map class 0 and 1, which are the strata.
_STEP_DEG = 0.01  # Edges of boxes follow parallels, which bend in most reference systems.


class Population:
  """A map's pixels by stratum.

  Attributes:
    source: the map.
    place: where it lies.
    unplaced: training images whose place nobody knows.
  """

  def __init__(self, source: maps.Map):
    self.source, self.place = source, ground.Ground(source.grid, source.mask)
    trained = source.note.get("trained_on") or {}
    try:
      boxes = [lonlat.box(*map(float, box)) for box in trained.get("boxes") or []]
      self.unplaced = int(trained.get("unplaced") or 0)
    except (AttributeError, TypeError, ValueError) as error:
      raise UserError(
        f"{source.name}: trained_on in {maps.NOTE} is not readable ({error}); map the scene again"
      ) from error
    self._boxes = [shapely.segmentize(box, _STEP_DEG) for box in boxes]
    self._tree = shapely.STRtree(self._boxes)
    self.knows_training = "trained_on" in source.note

  def strata(self, file: maps.OpenMap, rows, columns) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] uint8 of a window: place in STRATA + 1, 0 = not valid; and [H, W] bool: in a training image."""
    found = file.read(rows, columns)
    return np.where(found.valid, found.mine + np.uint8(1), 0).astype(np.uint8), self._trained(rows, columns)

  def areas(self, tile: int) -> tuple[list[int], list[float], list[float]]:
    """Pixels of each stratum outside of training images, their km2, and the km2 of each stratum inside of some."""
    counts, outside, inside = [0] * len(STRATA), [0.0] * len(STRATA), [0.0] * len(STRATA)
    with maps.open_map(self.source) as file:
      for rows, columns in maps.windows(self.source.shape, tile):
        codes, trained = self.strata(file, rows, columns)
        for i in range(len(STRATA)):
          own = codes == i + 1
          counts[i] += int((own & ~trained).sum())
          outside[i] += self.place.km2(own & ~trained, rows, columns)
          inside[i] += self.place.km2(own & trained, rows, columns)
    return counts, outside, inside

  def _trained(self, rows, columns) -> np.ndarray:
    """[H, W] bool: the pixel's centre lies in a training image."""
    if not self._boxes:
      return np.zeros((rows[1] - rows[0], columns[1] - columns[0]), bool)
    window = grids.cut(self.source.grid, rows, columns)
    frame = shapely.box(columns[0], rows[0], columns[1], rows[1])
    near = self._tree.query(self.place.outline(frame), predicate="intersects")
    return grids.rasterize([self._boxes[i] for i in sorted(near.tolist())], window).astype(bool)


def places_of(population: Population, lonlats: Sequence[tuple[float, float]]) -> list[tuple[int, int] | None]:
  """(row, column) of the pixel that holds each point, None outside of the map."""
  height, width = population.source.shape
  found = np.floor(population.place.pixels(np.asarray(lonlats, float).reshape(-1, 2)))
  inside = np.isfinite(found).all(axis=1) & (found >= 0).all(axis=1) & (found < [width, height]).all(axis=1)
  return [(int(xy[1]), int(xy[0])) if good else None for xy, good in zip(found, inside)]
