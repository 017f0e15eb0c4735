"""Reading image chips and label masks from GeoTIFF files nobody vouches for.

Only the GTiff driver may open a file: a `.tif` can be a VRT that reads any file of the machine. The
size a header declares is checked before anything is read: 22 kB can declare a terabyte. Whatever
goes wrong, the caller gets a `GeoTiffError` that names file, band and remedy.
"""

import contextlib
import dataclasses
import os
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import rasterio
from rasterio import enums, errors

from minec2f_jax.data import sensors
from minec2f_jax.errors import UserError

MAX_BYTES = 512 * 2**20  # A chip of 4096 x 4096 pixels and six bands fits; a whole scene does not.
IGNORE = 255  # Label value of pixels that do not count; so do negative values and nodata.

_OPEN_LOCK = threading.Lock()


class GeoTiffError(UserError):
  """A file that cannot be read for what it should be."""


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file says about itself before a pixel is read; `descriptions` are its band names."""

  height: int
  width: int
  count: int
  dtype: str
  descriptions: tuple[str | None, ...]


def read_header(path, *, roles: Sequence[str] | None = None, sensor: str = "auto") -> Header:
  """`Header` of a GeoTIFF; given roles, also checks that they can be read with that sensor.

  Args:
    path: file.
    roles: band roles an image must hold, or None for a file of any content.
    sensor: as in `read_chip`.

  Raises:
    GeoTiffError: what `read_chip` would raise, as far as the header shows it.
  """
  with _opened(path) as src:
    if roles is not None:
      _find_bands(src, path, roles, sensor)
    return Header(src.height, src.width, src.count, src.dtypes[0], tuple(src.descriptions))


def read_chip(path, *, roles: Sequence[str], sensor: str = "auto", max_bytes: int = MAX_BYTES):
  """Reflectance of the wanted bands and the map of pixels that hold it.

  A pixel is valid where every wanted band is: not nodata, not masked (mask, alpha), finite.

  Args:
    path: GeoTIFF whose bands are named.
    roles: band roles in the wanted channel order, e.g. ("red", "green", "blue").
    sensor: "auto" (floating-point reflectance) or a key of `sensors.SENSORS`.
    max_bytes: refuse a file that would need more memory than this to decode.

  Returns:
    image [H, W, C] float32 reflectance, 0 where invalid, and valid [H, W] bool.

  Raises:
    GeoTiffError: not a readable GeoTIFF, too big, bands or encoding that cannot be told.
  """
  with _opened(path) as src:
    indices = _find_bands(src, path, roles, sensor)
    _check_budget(src, path, len(indices), max_bytes)
    dn = np.stack([_read_band(src, path, i) for i in indices], axis=-1)
    valid = _valid_map(src, path, dn, indices)
    resolved = _resolve_sensor(src, path, sensor, dn[valid], indices)
  with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, then invalid.
    image = sensors.to_reflectance(np.where(valid[..., None], dn, 0), resolved)
  valid &= np.isfinite(image).all(axis=-1)
  return np.where(valid[..., None], image, np.float32(0.0)), valid


def read_mask(path, *, max_bytes: int = MAX_BYTES):
  """Labels 0 (background) and 1 (mining) of a one-band GeoTIFF, and the map of pixels that count.

  255, negative values, NaN, nodata and masked pixels do not count. Refused, because either reading
  could be meant: 255 without any 1 (it may be mining or "ignore") unless nodata is declared as 255,
  and a nodata of 0 or 1 (usually copied from the image; it would erase a class).

  Args:
    path: GeoTIFF with one band.
    max_bytes: as in `read_chip`.

  Returns:
    label [H, W] uint8 in {0, 1}, 0 where invalid, and valid [H, W] bool.

  Raises:
    GeoTiffError: not a readable one-band GeoTIFF, or values that are no labels.
  """
  with _opened(path) as src:
    if src.count != 1:
      raise _error(path, f"{src.count} bands", "a label has one band of 0 and 1; give that file")
    nodata = src.nodatavals[0]
    if nodata in (0, 1):
      raise _error(
        path,
        f"nodata={nodata:g}, a label value, which would erase its class",
        "unset nodata (gdal_edit.py -unsetnodata) or declare 255",
        band=1,
      )
    _check_budget(src, path, 1, max_bytes)
    value = _read_band(src, path, 1)
    counts = _valid_map(src, path, value[..., None], (1,))
  counts &= (value >= 0) & (value != IGNORE)
  seen = np.unique(value[counts])
  strange = seen[(seen != 0) & (seen != 1)]
  if strange.size:
    raise _error(
      path,
      f"values {_listed(strange)} are no labels",
      "0 is background, 1 mining, 255 or nodata does not count",
      band=1,
    )
  if nodata != IGNORE and (value == IGNORE).any() and not (seen == 1).any():
    raise _error(
      path,
      "values 0 and 255 without any 1: 255 may be mining or 'does not count'",
      "write mining as 1, or declare nodata=255",
      band=1,
    )
  return np.where(counts, value, 0).astype(np.uint8), counts


def _error(path, problem, remedy, *, band=None):
  where = os.fspath(path) if band is None else f"{os.fspath(path)}, band {band}"
  return GeoTiffError(f"{where}: {problem}; {remedy}")


@contextlib.contextmanager
def _opened(path):
  """The open dataset; every failure inside leaves as GeoTiffError."""
  # A plain file, or GDAL would take the name for a URL, a /vsi path or a subdataset.
  if not os.path.isfile(path):
    raise _error(path, "no such file", "check the path")
  try:
    with _open_quietly(path) as src:
      yield src
  except GeoTiffError:
    raise
  except Exception as err:  # Hostile bytes: GDAL, codecs and NumPy each raise types of their own.
    raise _error(
      path,
      f"not readable as GeoTIFF ({type(err).__name__}: {err.__cause__ or err})",
      "write the file again, or leave it out",
    ) from err


def _open_quietly(path):
  # Chips without CRS are usual. The filter list is global, so concurrent opens take turns.
  with _OPEN_LOCK, warnings.catch_warnings():
    warnings.simplefilter("ignore", errors.NotGeoreferencedWarning)
    return rasterio.open(path, driver="GTiff")


def _check_budget(src, path, num_bands, max_bytes):
  # A block is decoded whole, with all bands where they are interleaved by pixel.
  pixels = max(src.height * src.width, max(h * w for h, w in src.block_shapes))
  need = pixels * (src.count * np.dtype(src.dtypes[0]).itemsize + num_bands * 4)
  if need > max_bytes:
    raise _error(
      path,
      f"{src.height} x {src.width} pixels, {src.count} bands of {src.dtypes[0]} "
      f"need {need / 2**20:.0f} MiB, the limit is {max_bytes / 2**20:.0f} MiB",
      "cut it into chips",
    )


def _find_bands(src, path, roles, sensor):
  try:
    known = sensors.get_sensor("reflectance" if sensor == "auto" else sensor)
    if sensor == "auto" and np.dtype(src.dtypes[0]).kind != "f":
      _refuse_unnamed_encoding(src, path)
    return sensors.find_bands(src.descriptions, roles, known)
  except sensors.SensorError as err:
    raise GeoTiffError(f"{os.fspath(path)}: {err}") from err


def _refuse_unnamed_encoding(src, path):
  """Raises with the file's value range, which tells a person which encoding it is."""
  _check_budget(src, path, src.count, MAX_BYTES)
  values = np.stack([_read_band(src, path, i) for i in src.indexes], axis=-1)
  valid = _valid_map(src, path, values, src.indexes)
  sensors.resolve_sensor("auto", dtype=src.dtypes[0], value_range=_value_range(values[valid]))


def _resolve_sensor(src, path, sensor, values, indices):
  try:
    return sensors.resolve_sensor(
      sensor,
      dtype=src.dtypes[0],
      value_range=_value_range(values),
      scales=[src.scales[i - 1] for i in indices],
      offsets=[src.offsets[i - 1] for i in indices],
    )
  except sensors.SensorError as err:
    raise GeoTiffError(f"{os.fspath(path)}: {err}") from err


def _read_band(src, path, index):
  try:
    return src.read(index)
  except errors.RasterioError as err:
    window = _first_unreadable(src, index)
    name = f" ({src.descriptions[index - 1]})" if src.descriptions[index - 1] else ""
    raise _error(
      path,
      f"cannot be decoded at {window} ({err.__cause__ or err})",
      "write the file again, or leave it out",
      band=f"{index}{name}",
    ) from err


def _first_unreadable(src, index):
  for _, window in src.block_windows(index):
    try:
      src.read(index, window=window)
    except errors.RasterioError:
      (top, bottom), (left, right) = window.toranges()
      return f"rows {top}:{bottom}, columns {left}:{right}"
  return "an unknown window"


def _valid_map(src, path, values, indices):
  """[H, W] bool of pixels valid in every band of `values` [H, W, C], the bands `indices`."""
  valid = np.isfinite(values).all(axis=-1)
  for channel, index in enumerate(indices):
    # GDAL honours only the first of mask, nodata and alpha; a file may hold several.
    valid &= src.read_masks(index) != 0
    nodata = src.nodatavals[index - 1]
    if nodata is not None:
      valid &= values[..., channel] != nodata
  for index, color in zip(src.indexes, src.colorinterp, strict=True):
    if color == enums.ColorInterp.alpha:
      valid &= _read_band(src, path, index) != 0
  return valid


def _value_range(values):
  if not values.size or values.dtype.kind not in "iuf":
    return None
  return float(values.min()), float(values.max())


def _listed(values, limit=8):
  shown = ", ".join(f"{v:g}" for v in values[:limit])
  return shown if len(values) <= limit else f"{shown}, ... ({len(values)} in all)"
