"""Outlines of a raster's patches, tile by tile: equal to those of the whole raster at once, in the memory of a tile.

GDAL polygonises each tile; patches that meet on a seam are joined by union-find over the pixels on both sides, and
dissolved once no later tile can touch them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import affine
import numpy as np
import shapely
from rasterio import features
from scipy import ndimage

from minec2f_jax import console
from minec2f_jax.mapping import maps

TILE = 2048  # Pixels a side: some 100 MB of work space.


class Codes(NamedTuple):
  """A window of what is to be outlined.

  Attributes:
    codes: [H, W] uint8, 0 = nothing; patches are of one code.
    valid: [H, W] bool; a patch beside a pixel that is not, is cut off.
    values: [H, W] unsigned, summed over each patch, or None.
    known: [H, W] bool: where `values` are, or None.
  """

  codes: np.ndarray
  valid: np.ndarray
  values: np.ndarray | None = None
  known: np.ndarray | None = None


class Outline(NamedTuple):
  """A patch: pixels of one code that are joined by their sides.

  Attributes:
    code: of its pixels.
    geometry: along their edges; x = column, y = row; whole numbers, vertices at corners alone; normalised.
    pixels: how many.
    total: sum of the values known in it.
    known: of how many pixels.
    cut_off: it touches the raster's edge or pixels without data, so the patch may go on there.
  """

  code: int
  geometry: shapely.Polygon
  pixels: int
  total: int
  known: int
  cut_off: bool


def trace(
  read: Callable[[tuple[int, int], tuple[int, int]], Codes], shape: tuple[int, int], *, tile: int = TILE, title: str
) -> Iterator[Outline]:
  """Yields the patches of a raster, in an order that depends on nothing but raster and tile.

  Args:
    read: (rows, columns) -> `Codes` of that window.
    shape: of the raster.
    tile: side of the windows.
    title: for the console.
  """
  patches = _Patches()
  above, below = np.zeros(shape[1], np.int64), np.zeros(shape[1], np.int64)
  todo = maps.windows(shape, tile)
  for rows, columns in console.track(todo, total=len(todo), unit="tiles", title=title):
    if columns[0] == 0:
      left = np.zeros(rows[1] - rows[0], np.int64)
    ids = patches.add(_with_rim(read, rows, columns, shape), rows, columns)
    patches.join(left, ids[:, 0])
    patches.join(above[slice(*columns)], ids[0])
    left, below[slice(*columns)] = ids[:, -1], ids[-1]
    if columns[1] == shape[1]:
      above = below.copy()
      yield from patches.close(open_ids=above if rows[1] < shape[0] else ())


class _Patches:
  """Patches that later tiles may still touch."""

  def __init__(self):
    self._parent, self._parts, self._count = {}, {}, 0

  def add(self, window: Codes, rows, columns) -> np.ndarray:
    """[h, w] id of the patch of each pixel, 0 = none; `window` has a rim of one pixel."""
    codes = window.codes[1:-1, 1:-1]
    labels, code_of = _label(codes)
    if not code_of:
      return np.zeros(codes.shape, np.int64)
    flat, bins = labels.ravel(), len(code_of) + 1
    pixels = np.bincount(flat, minlength=bins)
    known, total = _sums(window, flat, bins)
    cut_off = np.bincount(labels[_beside_nothing(window.valid)], minlength=bins)
    place = affine.Affine.translation(columns[0], rows[0])
    for geometry, value in features.shapes(labels, mask=labels != 0, connectivity=4, transform=place):
      i, outline = int(value), shapely.geometry.shape(geometry)
      part = Outline(code_of[i - 1], outline, int(pixels[i]), int(total[i]), int(known[i]), bool(cut_off[i]))
      self._parent[self._count + i] = self._count + i
      self._parts[self._count + i] = [part]
    ids = np.where(labels, labels + np.int64(self._count), 0)
    self._count += len(code_of)
    return ids

  def join(self, one: np.ndarray, other: np.ndarray):
    """Joins the patches of neighbouring pixels, if they are of one code."""
    both = (one != 0) & (other != 0)
    for a, b in np.unique(np.column_stack([one[both], other[both]]), axis=0).tolist():
      a, b = sorted((self._root(a), self._root(b)))
      if a != b and self._parts[a][0].code == self._parts[b][0].code:
        self._parent[b] = a
        self._parts[a] += self._parts.pop(b)

  def close(self, open_ids: Iterable[int]) -> Iterator[Outline]:
    """Yields and forgets the patches that are not among these ids."""
    keep = {self._root(i) for i in np.unique(np.asarray(open_ids, np.int64)).tolist() if i}
    for root in sorted(set(self._parts) - keep):
      yield _dissolved(self._parts.pop(root))
    self._parent = {i: root for i in self._parent if (root := self._root(i)) in keep}

  def _root(self, i: int) -> int:
    while self._parent[i] != i:
      self._parent[i] = self._parent[self._parent[i]]
      i = self._parent[i]
    return i


def _with_rim(read, rows, columns, shape) -> Codes:
  """The window with one more pixel on each side; beyond the raster there is nothing."""
  sides = list(zip((rows, columns), shape))
  wider = [(max(first - 1, 0), min(end + 1, side)) for (first, end), side in sides]
  lacking = [(int(first == 0), int(end == side)) for (first, end), side in sides]
  return Codes(*(plane if plane is None else np.pad(plane, lacking) for plane in read(*wider)))


def _label(codes: np.ndarray) -> tuple[np.ndarray, list[int]]:
  """[h, w] int32 labels from 1, 0 = nothing, and the code of each."""
  labels, code_of = np.zeros(codes.shape, np.int32), []
  for code in np.unique(codes[codes != 0]).tolist():
    found, count = ndimage.label(codes == code)  # By sides, not corners.
    labels += np.where(found, found + np.int32(len(code_of)), 0).astype(np.int32)
    code_of += [code] * count
  return labels, code_of


def _sums(window: Codes, flat: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
  """How many values are known in each label, and their sum: of whole numbers, so exact in any order."""
  if window.values is None:
    return np.zeros(bins, np.int64), np.zeros(bins, np.int64)
  known, values = window.known[1:-1, 1:-1].ravel(), window.values[1:-1, 1:-1].ravel()
  return np.bincount(flat[known], minlength=bins), np.bincount(flat[known], values[known], bins).astype(np.int64)


def _beside_nothing(valid: np.ndarray) -> np.ndarray:
  """[h, w] bool of [h + 2, w + 2]: a side neighbour is not valid."""
  return ~(valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:])


def _dissolved(parts: list[Outline]) -> Outline:
  """One outline of pieces that share edges."""
  first, *others = parts
  if not others:
    return first._replace(geometry=shapely.normalize(first.geometry))
  sums = {name: sum(getattr(part, name) for part in parts) for name in ("pixels", "total", "known")}
  geometry = _corners_only(shapely.union_all([part.geometry for part in parts]))
  return first._replace(geometry=shapely.normalize(geometry), cut_off=any(part.cut_off for part in parts), **sums)


def _corners_only(polygon: shapely.Polygon) -> shapely.Polygon:
  """Without the vertices that seams left on straight edges, and in whole numbers."""
  return shapely.Polygon(_turns(polygon.exterior), [_turns(ring) for ring in polygon.interiors])


def _turns(ring: shapely.LinearRing) -> np.ndarray:
  xy = np.rint(shapely.get_coordinates(ring)[:-1])
  step = np.sign(xy - np.roll(xy, 1, axis=0))
  return xy[(step != np.roll(step, -1, axis=0)).any(axis=1)]
