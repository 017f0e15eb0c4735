"""Cloud-optimised GeoTIFFs of a map, written window by window by GDAL's own driver."""

import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import affine
import numpy as np
import rasterio
from rasterio import shutil, windows

from minec2f_jax.data import grids, rasterfile
from minec2f_jax.errors import UserError

BLOCK = 256  # Whole rows of blocks are held at once: of a wide scene they count.
_COG = dict(driver="COG", COMPRESS="DEFLATE", PREDICTOR="STANDARD", BLOCKSIZE=BLOCK, BIGTIFF="IF_SAFER", NUM_THREADS=1)


class Layer(NamedTuple):
  """One raster of a map.

  Attributes:
    name: of its file, without ".tif".
    of: rows of stored probabilities [h, W] -> the layer's rows.
    dtype: of these.
    nodata: value of pixels that are not valid, or None.
    description: of the band.
    tags: of the file.
    overviews: how GDAL shrinks it: "AVERAGE", or "NEAREST" for what has no mean.
  """

  name: str
  of: Callable[[np.ndarray], np.ndarray]
  dtype: str
  nodata: int | None
  description: str
  tags: Mapping[str, str]
  overviews: str


def write_layers(folder: pathlib.Path, layers: Iterable[Layer], place: grids.Grid, blocks: Callable) -> dict[str, int]:
  """Writes folder/NAME.tif for each layer, one after the other.

  GDAL makes such files of other ones alone, and says nothing of a disk that is full when it closes a file: so a plain
  GeoTIFF comes first, and the result is read back.

  Args:
    folder: exists.
    layers: what to write.
    place: of all of them.
    blocks: () -> all rows of stored probabilities, `BLOCK` at a time.

  Returns:
    Of each layer the sum of its values, its nodata left out.

  Raises:
    UserError: a file cannot be written whole.
  """
  sums = {}
  for layer in layers:
    path, plain = folder / f"{layer.name}.tif", folder / f"{layer.name}.plain.tif"
    try:
      wanted, sums[layer.name] = _write_plain(plain, layer, place, blocks())
      with rasterfile.placeless_allowed():
        shutil.copy(plain, path, OVERVIEW_RESAMPLING=layer.overviews, **_COG)
      found = _checksum(path)
    except UserError as error:
      raise (_unwritten(path, str(error)) if isinstance(error, rasterfile.GeoTiffError) else error) from error
    except Exception as error:  # GDAL raises types of its own, some of which have no name in public.
      raise _unwritten(path, f"{type(error).__name__}: {error}") from error
    if found != wanted:
      raise _unwritten(path, "it reads back otherwise than it was written")
    plain.unlink()
  return sums


def _unwritten(path: pathlib.Path, why: str) -> UserError:
  return UserError(f"{path}: cannot be written ({why}); make room, and the same command goes on from here")


def _write_plain(path: pathlib.Path, layer: Layer, place: grids.Grid, blocks: Iterable[np.ndarray]) -> tuple[int, int]:
  """(checksum of the layer's pixels, their sum) of a tiled GeoTIFF, written by whole rows of blocks."""
  checksum = total = row = 0
  profile = dict(count=1, dtype=layer.dtype, nodata=layer.nodata, tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
  lies = dict(
    height=place.height, width=place.width, crs=place.crs, transform=place.transform or affine.Affine.identity()
  )
  with rasterfile.placeless_allowed():
    dst = rasterio.open(path, "w", driver="GTiff", compress="deflate", zlevel=1, bigtiff="if_safer", **lies, **profile)
  with dst:
    dst.set_band_description(1, layer.description)
    dst.update_tags(**layer.tags)
    for stored in blocks:
      values = np.ascontiguousarray(layer.of(stored), layer.dtype)
      checksum = zlib.crc32(values, checksum)
      total += int(values.sum(dtype=np.uint64, where=True if layer.nodata is None else values != layer.nodata))
      dst.write(values, 1, window=windows.Window(0, row, place.width, len(values)))
      row += len(values)
  return checksum, total


def _checksum(path: pathlib.Path) -> int:
  checksum = 0
  with rasterfile.open_raster(path) as file:
    for row in range(0, file.src.height, BLOCK):
      window = (row, min(row + BLOCK, file.src.height)), (0, file.src.width)
      checksum = zlib.crc32(file.read([1], window), checksum)
  return checksum
