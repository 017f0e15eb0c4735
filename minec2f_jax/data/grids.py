"""Grids: where the pixels of a chip lie on the ground, and what lies on them."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import affine
import numpy as np
import pyproj
import rasterio
import shapely
from rasterio import enums, features, vrt, warp

LONLAT = "EPSG:4326"
_TOLERANCE_PX = 1e-5  # By which the warper may miss a source pixel.
_SCALE_STEP = 0.01
_ALIGNED_PX = 1e-3  # Grids nearer than this share their pixels; float noise of origins is far below it.
EDGE_POINTS = 21  # Straight edges bend under projection: bounds are taken over so many points of each.


@dataclasses.dataclass(frozen=True)
class Grid:
  """A raster's place: pixel (row, column) -> `transform` -> `crs`.

  Attributes:
    crs: "EPSG:32719", WKT, or whatever else names a coordinate reference system.
    transform: of pixel corners, without rotation; rows may run south up.
    height: rows.
    width: columns.
  """

  crs: str
  transform: affine.Affine
  height: int
  width: int

  @property
  def bounds(self) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) in units of the CRS."""
    left, top = self.transform @ (0, 0)
    right, bottom = self.transform @ (self.width, self.height)
    return min(left, right), min(bottom, top), max(left, right), max(bottom, top)

  def lonlat_bounds(self) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees; edges are followed, not only corners."""
    return warp.transform_bounds(self.crs, LONLAT, *self.bounds, densify_pts=EDGE_POINTS)

  @property
  def gsd_m(self) -> float:
    """Side of a pixel on the ground, in metres: the mean of both axes at the centre of the grid."""
    return float(np.mean(self.sides_m))

  @property
  def sides_m(self) -> tuple[float, float]:
    """(height, width) of a pixel on the ground, in metres, at the centre of the grid."""
    rows = np.array([0.0, 0.0, 1.0]) + self.height / 2
    columns = np.array([0.0, 1.0, 0.0]) + self.width / 2
    xs, ys = self.transform @ (columns, rows)
    lon, lat = warp.transform(self.crs, LONLAT, xs, ys)
    _, _, (across, down) = pyproj.Geod(ellps="WGS84").inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    return float(down), float(across)


def utm_grid(lonlat_bounds: tuple[float, float, float, float], *, gsd_m: float, min_size: int = 1) -> Grid:
  """The grid over (west, south, east, north) in the UTM zone of its centre (UPS beyond 84 N and 80 S).

  Edges lie on whole multiples of the pixel size, as those of Sentinel-2 tiles do: of the same zone and pixel size,
  pixels are then copied, not resampled.

  Args:
    lonlat_bounds: degrees.
    gsd_m: side of a pixel in metres, > 0.
    min_size: least height and width in pixels; what is added is shared by both sides.
  """
  if not gsd_m > 0:
    raise ValueError(f"gsd_m={gsd_m} must be above 0 metres")
  west, south, east, north = lonlat_bounds
  crs = _utm_crs((west + east) / 2, (south + north) / 2)
  left, bottom, right, top = warp.transform_bounds(LONLAT, crs, *lonlat_bounds, densify_pts=EDGE_POINTS)
  first_x, last_x = _at_least(*_snapped(left, right, gsd_m), min_size)
  first_y, last_y = _at_least(*_snapped(bottom, top, gsd_m), min_size)
  transform = affine.Affine(gsd_m, 0, first_x * gsd_m, 0, -gsd_m, last_y * gsd_m)
  return Grid(crs, transform, last_y - first_y, last_x - first_x)


def native_grid(raster: Grid, lonlat_bounds: tuple[float, float, float, float], *, min_size: int = 1) -> Grid | None:
  """The pixels of an existing raster that cover (west, south, east, north), cut at its borders; None if there are none.

  Args:
    raster: the whole raster.
    lonlat_bounds: degrees.
    min_size: least height and width in pixels, as far as the raster reaches.
  """
  bounds = _bounds_in(raster.crs, LONLAT, lonlat_bounds)
  turn = _turn(raster, (bounds[0] + bounds[2]) / 2)
  (top, bottom), (left, right) = window_of(raster, bounds[0] + turn, bounds[1], bounds[2] + turn, bounds[3])
  top, bottom = _at_least(top, bottom, min_size)
  left, right = _at_least(left, right, min_size)
  top, left = max(top, 0), max(left, 0)
  bottom, right = min(bottom, raster.height), min(right, raster.width)
  if top >= bottom or left >= right:
    return None
  return cut(raster, (top, bottom), (left, right))


def cut(raster: Grid, rows: tuple[int, int], columns: tuple[int, int]) -> Grid:
  """The window [rows), [columns) of a grid as a grid of its own."""
  shift = affine.Affine.translation(columns[0], rows[0])
  return Grid(raster.crs, raster.transform @ shift, rows[1] - rows[0], columns[1] - columns[0])


def window_of(raster: Grid, left: float, bottom: float, right: float, top: float):
  """((first row, end), (first column, end)) of the raster's pixels under bounds in its CRS; may reach beyond it."""
  columns, rows = ~raster.transform @ (np.array([left, right]), np.array([bottom, top]))
  return _outer(rows), _outer(columns)


def window_under(raster: Grid, grid: Grid, *, margin_px: int = 0):
  """As `window_of`, of the pixels that `grid` needs from `raster`, cut at its borders; None where they do not meet."""
  rows, columns = window_of(raster, *_bounds_in(raster.crs, grid.crs, grid.bounds))
  rows = max(rows[0] - margin_px, 0), min(rows[1] + margin_px, raster.height)
  columns = max(columns[0] - margin_px, 0), min(columns[1] + margin_px, raster.width)
  return (rows, columns) if rows[0] < rows[1] and columns[0] < columns[1] else None


def offset_in(raster: Grid, grid: Grid) -> tuple[int, int] | None:
  """(row, column) of `raster` at which the first pixel of `grid` lies, or None where they do not share pixels."""
  if not _same_crs(raster.crs, grid.crs):
    return None
  a, b = raster.transform, grid.transform
  # What matters is how far pixels drift apart over the whole grid.
  if max(abs(a.a - b.a) * grid.width / abs(a.a), abs(a.e - b.e) * grid.height / abs(a.e)) > _ALIGNED_PX:
    return None
  column, row = ~a @ (b.c, b.f)
  if max(abs(column - round(column)), abs(row - round(row))) > _ALIGNED_PX:
    return None
  return round(row), round(column)


def rasterize(geometries, grid: Grid) -> np.ndarray:
  """[H, W] uint8: 1 where a pixel's centre lies in one of the geometries (shapely, longitude and latitude), else 0."""
  shapes = []
  for geometry in geometries:
    if not geometry.is_empty:
      placed = shapely.transform(geometry, lambda lonlat: _project(grid.crs, lonlat))
      west, _, east, _ = placed.bounds
      turn = _turn(grid, (west + east) / 2)
      shapes.append(shapely.transform(placed, lambda xy, turn=turn: xy + [turn, 0.0]) if turn else placed)
  if not shapes:
    return np.zeros((grid.height, grid.width), np.uint8)
  return features.rasterize(shapes, out_shape=(grid.height, grid.width), transform=grid.transform, dtype=np.uint8)


def polygonize(mask: np.ndarray, grid: Grid) -> shapely.MultiPolygon:
  """The outline of what is not 0 in a mask [H, W], along pixel edges, in longitude and latitude."""
  pairs = features.shapes((mask != 0).astype(np.uint8), mask=mask != 0, transform=grid.transform)
  parts = [shapely.geometry.shape(outline) for outline, _ in pairs]
  return shapely.transform(shapely.MultiPolygon(parts), lambda xy: _project(LONLAT, xy, source=grid.crs))


def resample(planes: np.ndarray, source: Grid, target: Grid, *, nearest: bool = False) -> np.ndarray:
  """`planes` [C, H, W] on the target grid, through GDAL's warper: bilinear, with a kernel as wide as any shrinking.

  A pixel depends on its own surroundings alone, not on the window it is read in: left to itself, GDAL approximates the
  transformation, and guesses how much the kernel must be widened, both from the window's size.

  Args:
    planes: float32, NaN = unknown: left out of the kernel, whose other weights make up for it.
    source: grid of `planes`.
    target: grid of the result.
    nearest: pick the nearest pixel instead, for classes.

  Returns:
    [C, target.height, target.width] float32, NaN where nothing is known.
  """
  place = dict(crs=target.crs, transform=target.transform, height=target.height, width=target.width)
  # Pixels out for one in; in steps, because degrees are not everywhere of one length.
  scale = min(round(source.gsd_m / target.gsd_m / _SCALE_STEP) * _SCALE_STEP, 1.0)
  with _in_memory(planes, source) as raster:
    with vrt.WarpedVRT(
      raster,
      **place,
      src_nodata=np.nan,
      nodata=np.nan,
      resampling=enums.Resampling.nearest if nearest else enums.Resampling.bilinear,
      tolerance=_TOLERANCE_PX,
      UNIFIED_SRC_NODATA="NO",  # What one band does not know, another may.
      XSCALE=scale,
      YSCALE=scale,
    ) as warped:
      return warped.read()


@contextlib.contextmanager
def _in_memory(planes: np.ndarray, grid: Grid):
  """[C, H, W] as an open raster."""
  shape = dict(count=len(planes), height=grid.height, width=grid.width, dtype=np.float32)
  with rasterio.MemoryFile() as memory:
    with memory.open(driver="GTiff", crs=grid.crs, transform=grid.transform, nodata=np.nan, **shape) as dst:
      dst.write(planes)
    with memory.open() as src:
      yield src


def _turn(grid: Grid, x: float) -> float:
  """What to add to a longitude so that it comes within half a turn of the middle of a grid in degrees, else 0."""
  left, _, right, _ = grid.bounds
  return 360.0 * round(((left + right) / 2 - x) / 360) if warp.CRS.from_user_input(grid.crs).is_geographic else 0.0


def _utm_crs(lon: float, lat: float) -> str:
  if not (-180 <= lon <= 180 and -90 <= lat <= 90):
    raise ValueError(f"longitude {lon}, latitude {lat}: not degrees; is it another reference system?")
  if lat > 84 or lat < -80:
    return "EPSG:32661" if lat > 0 else "EPSG:32761"
  zone = min(int((lon + 180) // 6) + 1, 60)
  return f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"


def _snapped(low: float, high: float, step: float) -> tuple[int, int]:
  return math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)


def _at_least(first: int, end: int, size: int) -> tuple[int, int]:
  lacking = max(size - (end - first), 0)
  return first - lacking // 2, end + (lacking - lacking // 2)


def _outer(ends: Sequence[float]) -> tuple[int, int]:
  return math.floor(min(ends) + _ALIGNED_PX), math.ceil(max(ends) - _ALIGNED_PX)


def _same_crs(a: str, b: str) -> bool:
  return a == b or warp.CRS.from_user_input(a) == warp.CRS.from_user_input(b)


def _bounds_in(crs: str, source: str, bounds):
  return bounds if _same_crs(crs, source) else warp.transform_bounds(source, crs, *bounds, densify_pts=EDGE_POINTS)


def _project(crs: str, xy: np.ndarray, *, source: str = LONLAT) -> np.ndarray:
  if not xy.size or _same_crs(crs, source):
    return xy
  return np.column_stack(warp.transform(source, crs, xy[:, 0], xy[:, 1]))
