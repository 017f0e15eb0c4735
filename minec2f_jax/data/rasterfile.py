"""The guarded door to raster files nobody vouches for; what the numbers mean is told by `geotiff`.

Only the GTiff driver may open a file unless the caller allows others: a `.tif` can be a VRT that reads any file of the
machine. What a header declares is checked before anything is read: 22 kB can declare a terabyte. Whatever goes wrong,
the caller gets a `GeoTiffError` that names file, band, window and remedy.
"""

import contextlib
import dataclasses
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import rasterio
from rasterio import enums, errors, windows

from minec2f_jax.data import grids
from minec2f_jax.errors import UserError

MAX_BYTES = 512 * 2**20  # A chip of 2700 x 2700 pixels and six bands of integers fits; a whole scene does not.
DRIVERS = ("GTiff",)  # Reads COGs too: they are GeoTIFFs.

Window = tuple[tuple[int, int], tuple[int, int]]  # (first row, end), (first column, end)

_OPEN_LOCK = threading.Lock()
_REMOTE = ("/vsicurl/", "/vsis3/")


class GeoTiffError(UserError):
  """A file that cannot be read for what it should be.

  Attributes:
    path: the file.
    band: counted from 1; None where it is about all of them.
    window: `Window`; None where it is about the whole file.
  """

  def __init__(self, message, *, path=None, band: int | None = None, window: Window | None = None):
    super().__init__(message)
    self.path, self.band, self.window = path, band, window


def make_error(path, problem, remedy, *, band=None, name=None, window=None) -> GeoTiffError:
  """A `GeoTiffError` whose message begins with the place."""
  where = os.fspath(path)
  if band is not None:
    where += f", band {band}" + (f" ({name})" if name else "")
  if window is not None:
    (top, bottom), (left, right) = window
    where += f", rows {top}:{bottom}, columns {left}:{right}"
  return GeoTiffError(f"{where}: {problem}; {remedy}", path=os.fspath(path), band=band, window=window)


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file says about itself before a pixel is read.

  Attributes:
    height: rows.
    width: columns.
    count: bands.
    dtype: of the first band.
    descriptions: band names in file order, None where a band has none.
    encodings: (scale, offset) tags of each band; (1, 0) means untagged.
    grid: where its pixels lie; None without a reference system, or where rows are askew.
    tags: of the file.
  """

  height: int
  width: int
  count: int
  dtype: str
  descriptions: tuple[str | None, ...]
  encodings: tuple[tuple[float, float], ...]
  grid: grids.Grid | None
  tags: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Band:
  """One band of a file; `index` counts from 1."""

  path: str
  index: int


@dataclasses.dataclass(frozen=True)
class RasterFile:
  """An open file. Not safe to share among threads: each opens its own."""

  path: str
  src: rasterio.DatasetReader

  @property
  def whole(self) -> Window:
    return (0, self.src.height), (0, self.src.width)

  @property
  def grid(self) -> grids.Grid | None:
    """Where the pixels lie, or None as in `Header`."""
    crs, transform = self.src.crs, self.src.transform
    placed = crs is not None and np.isfinite(transform).all() and transform.a and transform.e
    if not placed or transform.b or transform.d:
      return None
    return grids.Grid(crs.to_string(), transform, self.src.height, self.src.width)

  def header(self) -> Header:
    src = self.src
    return Header(
      height=src.height,
      width=src.width,
      count=src.count,
      dtype=src.dtypes[0],
      descriptions=tuple(src.descriptions),
      encodings=tuple(zip(src.scales, src.offsets, strict=True)),
      grid=self.grid,
      tags=src.tags(),
    )

  def error(self, problem: str, remedy: str, *, band: int | None = None, window: Window | None = None) -> GeoTiffError:
    name = self.src.descriptions[band - 1] if band is not None and band <= self.src.count else None
    return make_error(self.path, problem, remedy, band=band, name=name, window=window)

  def check_bands(self, indices: Sequence[int]):
    """Raises if the file lacks one of these bands."""
    for index in indices:
      if not 1 <= index <= self.src.count:
        raise self.error(f"there are only {self.src.count} bands", "correct the band number", band=index)

  def check_budget(self, window: Window, num_bands: int, max_bytes: int):
    """Raises if decoding `num_bands` bands of `window` may need more than `max_bytes`."""
    (top, bottom), (left, right) = window
    src = self.src
    # A block is decoded whole, with all bands where they are interleaved by pixel. Then the wanted bands stand there as
    # stored values with their validity, as reflectance, and as reflectance in the order of an image.
    pixels, stored = max((bottom - top) * (right - left), max(h * w for h, w in src.block_shapes)), src.dtypes[0]
    need = pixels * (src.count * np.dtype(stored).itemsize + num_bands * (max(np.dtype(stored).itemsize, 4) + 4 + 1))
    if need > max_bytes:
      raise self.error(
        f"{bottom - top} x {right - left} pixels, {src.count} bands of {src.dtypes[0]} "
        f"need {need / 2**20:.0f} MiB, the limit is {max_bytes / 2**20:.0f} MiB",
        "cut it into chips",
        window=window,
      )

  def read(self, indices: Sequence[int], window: Window) -> np.ndarray:
    """[C, H, W] stored values of bands."""
    try:
      return self.src.read(indices, window=windows.Window.from_slices(*window))
    except errors.RasterioError as err:
      band, place = self._first_unreadable(indices, window)
      raise self.error(
        f"cannot be decoded ({err.__cause__ or err})", "write the file again, or leave it out", band=band, window=place
      ) from err

  def read_small(self, indices: Sequence[int], shape: tuple[int, int]) -> np.ma.MaskedArray:
    """[C, H, W] of whole bands brought to `shape`, averaged where it shrinks, masked where a file declares no data."""
    try:
      size = (len(indices), *shape)
      return self.src.read(indices, out_shape=size, resampling=enums.Resampling.average, masked=True)
    except errors.RasterioError as err:
      raise self.error(f"cannot be decoded ({err.__cause__ or err})", "write the file again, or leave it out") from err

  def holds(
    self, values: np.ndarray, indices: Sequence[int], window: Window, *, fill: float | None = None
  ) -> np.ndarray:
    """[C, H, W] bool: where `values` of bands are not nodata, `fill`, masked, transparent, NaN or infinite."""
    src = self.src
    valid = np.isfinite(values) if values.dtype.kind not in "iu" else np.ones(values.shape, bool)
    flags = src.mask_flag_enums
    for band, index in enumerate(indices):
      # GDAL honours only the first of mask, nodata and alpha; a file may hold several.
      if not flags[index - 1] or set(flags[index - 1]) - {enums.MaskFlags.all_valid, enums.MaskFlags.nodata}:
        valid[band] &= src.read_masks(index, window=windows.Window.from_slices(*window)) != 0
      for nothing in (src.nodatavals[index - 1], fill):
        if nothing is not None:
          valid[band] &= values[band] != nothing
    alpha = [i for i, color in zip(src.indexes, src.colorinterp, strict=True) if color == enums.ColorInterp.alpha]
    return valid & (self.read(alpha, window) != 0).all(axis=0) if alpha else valid

  def _first_unreadable(self, indices: Sequence[int], window: Window) -> tuple[int, Window]:
    """The first band, and its first block under `window`, that cannot be decoded."""
    wanted = windows.Window.from_slices(*window)
    for index in indices:
      for _, block in self.src.block_windows(index):
        if windows.intersect(block, wanted):
          try:
            self.src.read(index, window=block)
          except errors.RasterioError:
            return index, block.toranges()
    return indices[0], window


@contextlib.contextmanager
def open_raster(path, *, drivers: Sequence[str] = DRIVERS, allow_remote: bool = False) -> Iterator[RasterFile]:
  """The open file; every failure inside leaves as GeoTiffError.

  Args:
    path: a file, or with `allow_remote` an address that begins with /vsicurl/ or /vsis3/.
    drivers: GDAL drivers that may open it, e.g. ("GTiff", "JP2OpenJPEG").
    allow_remote: whether to reach for the network.
  """
  # A plain file, or GDAL would take the name for a URL, a /vsi path or a subdataset.
  path = os.fspath(path)
  if not (allow_remote and path.startswith(_REMOTE)) and not os.path.isfile(path):
    raise make_error(path, "no such file", "check the path")
  try:
    with _open_quietly(path, drivers) as src:
      if src.subdatasets:
        raise make_error(path, f"holds {len(src.subdatasets)} images", "write the one that is meant to its own file")
      yield RasterFile(path, src)
  except (GeoTiffError, NameError):  # The second is a defect of ours.
    raise
  except Exception as err:  # Hostile bytes: GDAL, codecs and NumPy each raise types of their own.
    kind = "GeoTIFF" if tuple(drivers) == DRIVERS else " or ".join(drivers)
    raise make_error(
      path,
      f"not readable as {kind} ({type(err).__name__}: {err.__cause__ or err})",
      "write the file again, or leave it out",
    ) from err


@contextlib.contextmanager
def bounded_cache(max_bytes: int) -> Iterator[None]:
  """Inside, GDAL keeps at most so many bytes of decoded blocks, in all threads; left to itself, 5 % of the memory."""
  with rasterio.Env(GDAL_CACHEMAX=max_bytes):
    yield


@contextlib.contextmanager
def placeless_allowed() -> Iterator[None]:
  """Opens files without a reference system, which are usual, in silence."""
  with _OPEN_LOCK, warnings.catch_warnings():  # The filter list is global, so concurrent opens take turns.
    warnings.simplefilter("ignore", errors.NotGeoreferencedWarning)
    yield


def _open_quietly(path: str, drivers: Sequence[str]) -> rasterio.DatasetReader:
  with placeless_allowed():
    *others, last = drivers
    for driver in others:
      with contextlib.suppress(errors.RasterioIOError):
        return rasterio.open(path, driver=driver)
    return rasterio.open(path, driver=last)
