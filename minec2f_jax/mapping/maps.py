"""Maps to work on: finds the masks, and reads them window by window.

A map folder holds mask.tif (0, 1, 255 = not valid), maybe probability.tif and map.json; a lone GeoTIFF of 0 and 1 is a
map too, whoever made it.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import affine
import numpy as np

from minec2f_jax.data import grids, rasterfile
from minec2f_jax.data.geotiff import IGNORE
from minec2f_jax.errors import UserError

MASK, PROBABILITY, NOTE = "mask.tif", "probability.tif", "map.json"
_UNFINISHED = ".partial"  # In a folder that prediction is still at work in, or was killed in.
_SCALES = {"uint8": 254, "uint16": 65534}  # Stored value of probability 1; the value above it is "no data".


class Map(NamedTuple):
  """A mask and what is known about it.

  Attributes:
    name: of its folder, or of its file.
    mask: path.
    probability: path, or None.
    grid: where its pixels lie; rows may be askew.
    scale: stored value of probability 1, or 0 without probabilities.
    note: content of map.json, or {}.
  """

  name: str
  mask: str
  probability: str | None
  grid: grids.Grid
  scale: int
  note: Mapping

  @property
  def shape(self) -> tuple[int, int]:
    return self.grid.height, self.grid.width


class Tile(NamedTuple):
  """A window of a map.

  Attributes:
    mine: [H, W] bool, False where not valid.
    valid: [H, W] bool.
    probability: [H, W] stored values, or None; anything where not valid.
    unclear: pixels of 255 that the file does not declare as nodata.
  """

  mine: np.ndarray
  valid: np.ndarray
  probability: np.ndarray | None
  unclear: int


class OpenMap(NamedTuple):
  """A map that can be read."""

  mask: rasterfile.RasterFile
  probability: rasterfile.RasterFile | None

  def read(self, rows: tuple[int, int], columns: tuple[int, int]) -> Tile:
    """The pixels [rows) x [columns).

    Raises:
      GeoTiffError: the file is broken there, or holds values that are no labels.
    """
    window = (rows, columns)
    stored = self.mask.read([1], window)
    (held,), (values,) = self.mask.holds(stored, [1], window), stored
    valid = held & (values >= 0) & (values != IGNORE)
    strange = np.unique(values[valid & (values != 0) & (values != 1)])
    if strange.size:
      raise self.mask.error(
        f"values {', '.join(f'{value:g}' for value in strange[:5])} in a mask",
        "0 is background, 1 mine, 255 or nodata not valid; write it so",
        band=1,
        window=window,
      )
    probability = self.probability and self.probability.read([1], window)[0]
    return Tile(valid & (values == 1), valid, probability, int((held & (values == IGNORE)).sum()))


@contextlib.contextmanager
def open_map(chosen: Map) -> Iterator[OpenMap]:
  """The open files of a map."""
  with contextlib.ExitStack() as stack:
    mask = stack.enter_context(rasterfile.open_raster(chosen.mask))
    probability = chosen.probability and stack.enter_context(rasterfile.open_raster(chosen.probability))
    yield OpenMap(mask, probability)


def windows(shape: tuple[int, int], tile: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
  """((first row, end), (first column, end)) of the tiles that cover a raster, row by row."""
  cuts = [[(first, min(first + tile, side)) for first in range(0, side, tile)] for side in shape]
  return [(rows, columns) for rows in cuts[0] for columns in cuts[1]]


def find_maps(inputs) -> tuple[Map, ...]:
  """The maps that `inputs` name, sorted by name.

  Args:
    inputs: a map folder, a mask, a folder of map folders or of masks, or a sequence of these.

  Raises:
    UserError: nothing is found, names are used twice, or maps that cannot be used: all of them are listed.
  """
  given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
  found, broken = [], []
  for path in dict.fromkeys(place for entry in given for place in _places(pathlib.Path(entry))):
    try:
      found.append(_describe(path))
    except UserError as error:
      broken.append(str(error))
  if broken:
    raise UserError("\n  ".join([f"{len(broken)} of {len(broken) + len(found)} maps cannot be used:", *broken]))
  found.sort(key=lambda entry: entry.name)
  doubled = sorted({a.name for a, b in zip(found, found[1:]) if a.name == b.name})
  if doubled:
    raise UserError(f"several maps are called {', '.join(doubled)}; rename their folders, or give one of each")
  return tuple(found)


def find_map(path) -> Map:
  """The one map that `path` names."""
  found = find_maps(path)
  if len(found) > 1:
    raise UserError(
      f"{path}: {len(found)} maps ({', '.join(entry.name for entry in found[:5])}, ...); give one of them"
    )
  return found[0]


def holds_map(path) -> bool:
  """Whether `path` is a map, or a folder of some, rather than a vector file."""
  path = pathlib.Path(path)
  return path.is_dir() or path.suffix.lower() in (".tif", ".tiff")


def _places(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_file() or (path / MASK).is_file():
    return [path]
  if not path.is_dir():
    raise UserError(f"{path}: no such map; give a map folder (with {MASK}), a mask, or a folder of them")
  folders = sorted(entry.parent for entry in path.glob(f"*/{MASK}") if not entry.parent.name.startswith("."))
  masks = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in (".tif", ".tiff"))
  if not (folders or masks):
    raise UserError(f"{path}: no map in it; give a map folder (with {MASK}), a mask, or a folder of them")
  return folders or masks


def _describe(path: pathlib.Path) -> Map:
  folder = path.is_dir()
  if folder and (path / _UNFINISHED).exists():
    raise UserError(f"{path}: its map is not finished; let the prediction go on, or give another folder")
  mask = path / MASK if folder else path
  probability = path / PROBABILITY if folder and (path / PROBABILITY).is_file() else None
  with rasterfile.open_raster(mask) as file:
    if file.src.count != 1:
      raise file.error(f"{file.src.count} bands", "a mask has one band of 0 and 1; give that file")
    if file.src.nodatavals[0] in (0, 1):
      raise file.error(
        f"nodata={file.src.nodatavals[0]:g}, a label, which would erase its class",
        "unset nodata (gdal_edit.py -unsetnodata) or declare 255",
        band=1,
      )
    grid = _place(file)
  scale = _scale(probability, grid) if probability else 0
  note = _note(path / NOTE) if folder else {}
  return Map(path.name if folder else path.stem, str(mask), probability and str(probability), grid, scale, note)


def _place(file: rasterfile.RasterFile) -> grids.Grid:
  """Where the pixels lie; unlike `RasterFile.grid` also askew."""
  src = file.src
  transform = affine.Affine(*src.transform[:6])
  if src.crs is None or not np.isfinite(transform).all() or not transform.determinant:
    raise file.error(
      "no reference system, so nobody can tell where it lies and how large its pixels are",
      "georeference it (gdal_edit.py -a_srs EPSG:... -a_ullr ...), or map a scene that is",
    )
  return grids.Grid(src.crs.to_string(), transform, src.height, src.width)


def _scale(path: pathlib.Path, grid: grids.Grid) -> int:
  with rasterfile.open_raster(path) as file:
    if (file.src.height, file.src.width) != (grid.height, grid.width):
      raise file.error(
        f"{file.src.height} x {file.src.width} pixels, the mask has {grid.height} x {grid.width}", "map the scene again"
      )
    if file.src.dtypes[0] not in _SCALES:
      raise file.error(f"{file.src.dtypes[0]}", f"probabilities are stored as {' or '.join(_SCALES)}", band=1)
    return _SCALES[file.src.dtypes[0]]


def _note(path: pathlib.Path) -> dict:
  if not path.is_file():
    return {}
  try:
    note = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(note, dict):
      raise ValueError("not an object")
    return note
  except ValueError as error:
    raise UserError(f"{path}: not readable ({error}); map the scene again") from error


def text_of(chosen: Map, field: str) -> str:
  """A field of map.json as text, "" where it is not known."""
  value = chosen.note.get(field)
  if isinstance(value, Sequence) and not isinstance(value, str):
    return " ".join(map(str, value))
  return "" if value is None else str(value)
