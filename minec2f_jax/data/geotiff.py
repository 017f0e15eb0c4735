"""Image chips, labels and windows of scenes from GeoTIFF files, as reflectance and validity; and writing our own."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import rasterio

from minec2f_jax import files
from minec2f_jax.data import grids, sensors
from minec2f_jax.data.rasterfile import (
  DRIVERS,
  MAX_BYTES,
  Band,
  GeoTiffError,
  Header,
  RasterFile,
  Window,
  open_raster,
  placeless_allowed,
)

IGNORE = 255  # Label value of pixels that do not count; so do negative values and nodata.
_CODES = ("uint8", "int8", "uint16", "int16")  # What quality bands are made of.
_KERNEL_PX = 2  # What a bilinear kernel reads beyond a window, at equal pixel sizes.


def read_header(path, *, roles: Sequence[str] | None = None, sensor: str = "auto", drivers=DRIVERS) -> Header:
  """`Header` of a GeoTIFF; given roles, also checks that they can be read with that sensor.

  Args:
    path: file.
    roles: band roles an image must hold, or None for a file of any content.
    sensor: as in `read_chip`.
    drivers: as in `read_on_grid`.

  Raises:
    GeoTiffError: what `read_chip` would raise, as far as the header shows it.
  """
  with open_raster(path, drivers=drivers) as file:
    if roles is not None:
      _interpret(file, roles, sensor)
    return file.header()


def read_sides(path) -> tuple[float, float] | None:
  """(height, width) of a file's pixels on the ground, in metres; None where it does not tell."""
  try:
    with open_raster(path) as file:
      return file.grid and file.grid.sides_m
  except GeoTiffError:  # A reference system without a place on Earth, such as a site's own.
    return None


def read_place(path, *, drivers=DRIVERS) -> grids.Grid:
  """Where the pixels of a file lie, in its own words: crs or transform None where it has none, rows maybe askew."""
  with open_raster(path, drivers=drivers) as file:
    src = file.src
    return grids.Grid(src.crs, None if src.transform.is_identity else src.transform, src.height, src.width)


def read_chip(path, *, roles: Sequence[str], sensor: str = "auto", max_bytes: int = MAX_BYTES):
  """Reflectance of the wanted bands of a whole file, and the map of pixels that hold it.

  A pixel is valid where every wanted band is: finite, not masked (mask, alpha), neither nodata nor the sensor's fill.

  Args:
    path: GeoTIFF whose bands are named.
    roles: band roles in the wanted channel order, e.g. ("red", "green", "blue").
    sensor: "auto" (what the file's tags say, else floating-point reflectance) or a key of `sensors.SENSORS`.
    max_bytes: refuse a file that would need more memory than this to decode.

  Returns:
    image [H, W, C] float32 reflectance, 0 where invalid, and valid [H, W] bool.

  Raises:
    GeoTiffError: not a readable GeoTIFF, too big, bands or encoding that cannot be told.
  """
  with open_raster(path) as file:
    indices, known = _interpret(file, roles, sensor)
    file.check_budget(file.whole, len(indices), max_bytes)
    return _finish(_reflectance(file, indices, file.whole, known))


def find_bands(path, *, roles: Sequence[str], sensor: str = "auto", drivers=DRIVERS) -> tuple[tuple[Band, ...], str]:
  """(the bands of a file that play `roles`, in their order; name of the sensor to decode them with), by the header.

  Args and Raises: as `read_header`.
  """
  with open_raster(path, drivers=drivers) as file:
    indices, known = _interpret(file, roles, sensor)
    return tuple(Band(file.path, index) for index in indices), known.name


def read_windows(
  bands: Sequence[Band],
  windows: Iterable[Window],
  *,
  sensor: str = "auto",
  drivers: Sequence[str] = DRIVERS,
  max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Reflectance of bands in windows of the pixels that all their files share, wherever these lie.

  The files stay open, and GDAL keeps blocks that windows share.

  Args:
    bands: in the wanted channel order, of one file or of several with the same pixels.
    windows: inside the files.
    sensor: as in `read_chip`.
    drivers: as in `read_on_grid`.
    max_bytes: refuse a window that would need more memory than this to decode.

  Yields:
    image [H, W, C] float32 reflectance, 0 where invalid, and valid [H, W] bool.

  Raises:
    GeoTiffError: as `read_chip`.
  """
  with contextlib.ExitStack() as stack:
    opened = []
    for path in dict.fromkeys(band.path for band in bands):
      file = stack.enter_context(open_raster(path, drivers=drivers))
      indices = [band.index for band in bands if band.path == path]
      file.check_bands(indices)
      opened.append((file, indices, _sensor_of(file, sensor, indices)))
    for window in windows:
      planes = {}
      for file, indices, known in opened:
        file.check_budget(window, len(indices), max_bytes)
        planes |= zip([Band(file.path, i) for i in indices], _reflectance(file, indices, window, known))
      yield _finish(np.stack([planes[band] for band in bands]))


def read_on_grid(
  bands: Sequence[Band],
  grid: grids.Grid,
  *,
  sensor: str = "auto",
  drivers: Sequence[str] = DRIVERS,
  allow_remote: bool = False,
  max_bytes: int = MAX_BYTES,
):
  """Reflectance of bands, from one file or several, on one grid; reads the windows under it, never whole files.

  Bands that share the grid's pixels are copied bit for bit. Others go through GDAL's warper (bilinear, the kernel as
  wide as any shrinking), which leaves invalid pixels out.

  Args:
    bands: in the wanted channel order.
    grid: of the result.
    sensor: as in `read_chip`.
    drivers: GDAL drivers that may open the files, e.g. ("GTiff", "JP2OpenJPEG").
    allow_remote: whether paths may be /vsicurl/ or /vsis3/ addresses.
    max_bytes: refuse to hold more than this of a file at once.

  Returns:
    image [H, W, C] float32 reflectance, 0 where invalid or outside of a file, and valid [H, W] bool.

  Raises:
    GeoTiffError: not readable, without a place on the ground, too big, or an encoding that cannot be told.
  """
  planes = {}
  for path in dict.fromkeys(band.path for band in bands):  # Opened once, a file decodes blocks for all its bands.
    with open_raster(path, drivers=drivers, allow_remote=allow_remote) as file:
      indices = [band.index for band in bands if band.path == path]
      file.check_bands(indices)
      read = functools.partial(_reflectance, sensor=_sensor_of(file, sensor, indices))
      planes |= zip([Band(path, i) for i in indices], _on_grid(file, indices, grid, max_bytes, read))
  return _finish(np.stack([planes[band] for band in bands]))


def read_classes(
  band: Band,
  grid: grids.Grid,
  *,
  drivers: Sequence[str] = DRIVERS,
  allow_remote: bool = False,
  max_bytes: int = MAX_BYTES,
):
  """Class codes or bit fields of a quality band on a grid, each pixel's from the nearest one of the file.

  Args: as `read_on_grid`.

  Returns:
    codes [H, W] int32, 0 where unknown, and known [H, W] bool: inside the file, neither nodata nor masked.
  """

  def codes_of(file, indices, window):
    values = file.read(indices, window)
    return np.where(file.holds(values, indices, window), values, np.float32(np.nan)).astype(np.float32)

  with open_raster(band.path, drivers=drivers, allow_remote=allow_remote) as file:
    file.check_bands([band.index])
    if file.src.dtypes[band.index - 1] not in _CODES:
      raise file.error(f"{file.src.dtypes[band.index - 1]} are no class codes", f"give {_CODES}", band=band.index)
    (codes,) = _on_grid(file, [band.index], grid, max_bytes, codes_of, nearest=True)
  known = np.isfinite(codes)
  return np.where(known, codes, 0).astype(np.int32), known


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
  with open_raster(path) as file:
    if file.src.count != 1:
      raise file.error(f"{file.src.count} bands", "a label has one band of 0 and 1; give that file")
    nodata = file.src.nodatavals[0]
    if nodata in (0, 1):
      raise file.error(
        f"nodata={nodata:g}, a label value, which would erase its class",
        "unset nodata (gdal_edit.py -unsetnodata) or declare 255",
        band=1,
      )
    if np.dtype(file.src.dtypes[0]).kind not in "iuf" or (file.src.scales, file.src.offsets) != ((1.0,), (0.0,)):
      raise file.error(
        f"{file.src.dtypes[0]} values, scale {file.src.scales[0]:g}, offset {file.src.offsets[0]:g}",
        "a label is 0 and 1 as stored",
        band=1,
      )
    file.check_budget(file.whole, 1, max_bytes)
    values = file.read([1], file.whole)
    (counts,) = file.holds(values, [1], file.whole) & (values >= 0) & (values != IGNORE)
    (value,) = values
    seen = np.unique(value[counts])
    strange = seen[(seen != 0) & (seen != 1)]
    if strange.size:
      raise file.error(
        f"values {_listed(strange)} are no labels", "0 is background, 1 mining, 255 or nodata does not count", band=1
      )
    if nodata != IGNORE and (value == IGNORE).any() and not (seen == 1).any():
      raise file.error(
        "values 0 and 255 without any 1: 255 may be mining or 'does not count'",
        "write mining as 1, or declare nodata=255",
        band=1,
      )
  return np.where(counts, value, 0).astype(np.uint8), counts


def write_geotiff(
  path,
  bands: np.ndarray,
  grid: grids.Grid,
  *,
  descriptions: Sequence[str],
  nodata: float | None = None,
  tags: Mapping[str, str] | None = None,
):
  """Writes [C, H, W] as a deflated GeoTIFF: whole or not at all, and the same bytes for the same arguments.

  Raises:
    UserError: the file cannot be written.
  """
  profile = dict(compress="deflate", photometric="MINISBLACK", alpha="NO", predictor=2)
  if bands.dtype.kind == "f":
    profile["predictor"] = 3
  if min(grid.height, grid.width) > 256:
    profile |= dict(tiled=True, blockxsize=256, blockysize=256)
  place = dict(height=grid.height, width=grid.width, crs=grid.crs, transform=grid.transform)
  # In memory first: GDAL does not tell of a disk that is full when it closes a file.
  with rasterio.MemoryFile() as memory:
    with placeless_allowed():
      dst = memory.open(driver="GTiff", count=len(bands), dtype=bands.dtype, nodata=nodata, **place, **profile)
    with dst:
      dst.write(bands)
      dst.descriptions = tuple(descriptions)
      dst.update_tags(**(tags or {}))
    files.write_bytes(path, memory.getbuffer())


def _interpret(file: RasterFile, roles, sensor: str) -> tuple[tuple[int, ...], sensors.Sensor]:
  """(indices of the bands that play `roles`, how to decode them), by the header alone."""
  try:
    expected = sensors.identify(file.src.tags()) if sensor == "auto" else sensor
    indices = sensors.find_bands(file.src.descriptions, roles, sensors.get_sensor(expected or "reflectance"))
  except sensors.SensorError as err:
    if sensor == "auto":
      _sensor_of(file, sensor, file.src.indexes)  # An encoding nobody knows explains names nobody knows.
    raise GeoTiffError(f"{file.path}: {err}", path=file.path) from err
  return indices, _sensor_of(file, sensor, indices)


def _sensor_of(file: RasterFile, sensor: str, indices: Sequence[int]) -> sensors.Sensor:
  """The sensor to decode bands with."""
  src = file.src
  said = dict(
    dtype=src.dtypes[0],
    tags=src.tags(),
    scales=[src.scales[i - 1] for i in indices],
    offsets=[src.offsets[i - 1] for i in indices],
  )
  try:
    try:
      return sensors.resolve_sensor(sensor, **said)
    except sensors.SensorError:  # Say it again with the values: they show a person which encoding it is.
      return sensors.resolve_sensor(sensor, value_range=_whole_range(file, indices), **said)
  except sensors.SensorError as err:
    raise GeoTiffError(f"{file.path}: {err}", path=file.path) from err


def _whole_range(file: RasterFile, indices: Sequence[int]):
  """(min, max) over bands, None where nothing is valid or it is too much to read for a message."""
  try:
    file.check_budget(file.whole, len(indices), MAX_BYTES // 4)
  except GeoTiffError:
    return None
  values = file.read(indices, file.whole)
  return _value_range(values[file.holds(values, indices, file.whole)])


def _value_range(values):
  if not values.size or values.dtype.kind not in "iuf":
    return None
  return float(values.min()), float(values.max())


def _reflectance(file: RasterFile, indices: Sequence[int], window, sensor: sensors.Sensor) -> np.ndarray:
  """[C, H, W] float32 of bands, NaN where invalid."""
  values = file.read(indices, window)
  valid = file.holds(values, indices, window, fill=sensor.fill)
  with np.errstate(over="ignore", invalid="ignore"):  # What overflows is infinite, which `_finish` takes for invalid.
    planes = sensors.to_reflectance(values, sensor)
  valid &= np.isfinite(planes)
  for band, index in enumerate(indices):
    try:
      sensors.check_plausible(sensor, values[band], planes[band], valid[band])
    except sensors.SensorError as err:
      raise file.error(str(err), "or leave the file out", band=index, window=window) from err
  del values  # Memory counts here.
  np.copyto(planes, np.nan, where=~valid)
  return planes


def _finish(planes: np.ndarray):
  """image [H, W, C], 0 where invalid, and valid [H, W] of [C, H, W] with NaN (or infinity) where invalid."""
  valid = np.isfinite(planes).all(axis=0)
  image = np.ascontiguousarray(np.moveaxis(planes, 0, -1))
  np.copyto(image, 0.0, where=~valid[..., None])
  return image, valid


def _on_grid(file: RasterFile, indices: Sequence[int], grid: grids.Grid, max_bytes: int, read, *, nearest=False):
  """`read(file, indices, window)` of the window under `grid`, on `grid`: [C, H, W] float32, NaN outside of the file."""
  raster = file.grid
  if raster is None:
    raise file.error("no reference system, or rows that are not north up", "georeference or warp it (gdalwarp) first")
  if grid.height * grid.width * len(indices) * 4 > max_bytes:
    raise file.error(
      f"{grid.height} x {grid.width} pixels are asked for, the limit is {max_bytes / 2**20:.0f} MiB",
      "cut it into chips",
    )
  aligned = grids.offset_in(raster, grid) is not None
  shrinking = max(grid.gsd_m / raster.gsd_m, 1.0)
  window = grids.window_under(raster, grid, margin_px=0 if aligned else int(np.ceil(_KERNEL_PX * shrinking)))
  if window is None:
    return np.full((len(indices), grid.height, grid.width), np.nan, np.float32)
  file.check_budget(window, len(indices), max_bytes)
  source = grids.cut(raster, *window)
  planes = read(file, indices, window)
  if not aligned:
    return grids.resample(planes, source, grid, nearest=nearest)
  row, column = grids.offset_in(grid, source)
  if (source.height, source.width) == (grid.height, grid.width):
    return planes
  out = np.full((len(indices), grid.height, grid.width), np.nan, np.float32)
  out[:, row : row + source.height, column : column + source.width] = planes
  return out


def _listed(values, limit=8):
  shown = ", ".join(f"{v:g}" for v in values[:limit])
  return shown if len(values) <= limit else f"{shown}, ... ({len(values)} in all)"
