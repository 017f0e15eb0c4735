"""From pixels to the ellipsoid: outlines in longitude and latitude, areas in km2."""

import numpy as np
import pyproj
import shapely

from minec2f_jax.data import grids
from minec2f_jax.data.polygons import geodesic_area_km2
from minec2f_jax.errors import UserError

_EDGE_M = 1000.0  # A straight edge of 1 km leaves the geodesic between its ends by 20 cm at 80 degrees of latitude.
_BLOCK_PX = 16  # Within a block pixels count as equally large.
_GLOBE = (-180.0, -90.0, 180.0, 90.0)


class Ground:
  """Where the pixels of a grid lie on the WGS 84 ellipsoid.

  Args:
    grid: may be askew.
    name: of the map, for errors.

  Raises:
    UserError: the reference system has no place on Earth, or the grid reaches beyond where it is defined.
  """

  def __init__(self, grid: grids.Grid, name: str):
    self.grid, self.name = grid, name
    try:
      self._transformer = pyproj.Transformer.from_crs(grid.crs, grids.LONLAT, always_xy=True)
      corners = np.array([(x, y) for x in (0, grid.width / 2, grid.width) for y in (0, grid.height / 2, grid.height)])
      self._middle = float(self.lonlat(corners)[4, 0])
      self.sides_m = grid.sides_m
      if not min(self.sides_m) > 0.0:
        raise ValueError("pixels without a size")
    except (pyproj.exceptions.ProjError, ValueError) as error:
      raise UserError(
        f"{name}: its reference system ({grid.crs[:80]}) leads to no place on Earth ({error}); correct it"
      ) from error
    # Equal areas; `over`: what lies beyond half a turn from the middle stays there, so that no pixel is torn.
    self._equal_area = pyproj.Proj(proj="cea", ellps="WGS84", lon_0=self._middle, over=True)
    self._edge_px = max(1.0, _EDGE_M / max(self.sides_m))

  def lonlat(self, xy: np.ndarray) -> np.ndarray:
    """[N, 2] longitude and latitude in degrees of [N, 2] pixel corners (column, row); longitude may leave +-180."""
    x, y = self.grid.transform @ (xy[:, 0], xy[:, 1])
    lon, lat = self._transformer.transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all() and np.abs(lat).max(initial=0.0) <= 90.0):
      raise UserError(
        f"{self.name}: part of it lies outside of where its reference system ({self.grid.crs[:80]}) is defined; "
        "correct the reference system, or cut the map"
      )
    return np.column_stack([lon, lat])

  def pixels(self, lonlat: np.ndarray) -> np.ndarray:
    """[N, 2] (column, row), in fractions, of [N, 2] longitudes and latitudes; not finite where there is none."""
    lon = lonlat[:, 0] + 360.0 * np.round((self._middle - lonlat[:, 0]) / 360.0) if self._in_degrees else lonlat[:, 0]
    x, y = self._transformer.transform(lon, lonlat[:, 1], direction="INVERSE")
    with np.errstate(invalid="ignore"):
      return np.column_stack(~self.grid.transform @ (np.asarray(x), np.asarray(y)))

  @property
  def _in_degrees(self) -> bool:
    return self._transformer.source_crs.is_geographic

  def outline(self, polygon: shapely.Polygon) -> shapely.Polygon | shapely.MultiPolygon:
    """A polygon of pixel corners in longitude and latitude (EPSG:4326), cut at the 180 degree meridian (RFC 7946).

    Edges longer than 1 km get vertices between, so that the straight line of any reference system is the same line.
    """
    placed = shapely.transform(shapely.segmentize(polygon, self._edge_px), self.lonlat)
    start = placed.exterior.coords[0][0]
    unrolled = shapely.transform(placed, lambda xy: np.column_stack([_near(xy[:, 0], start), xy[:, 1]]))
    west, _, east, _ = unrolled.bounds
    if east - west > 180.0:
      raise UserError(f"{self.name}: an outline spans {east - west:.0f} degrees of longitude; cut the map into parts")
    turn = -360.0 * np.floor((west + 180.0) / 360.0)
    if turn:
      unrolled = shapely.transform(unrolled, lambda xy: xy + [turn, 0.0])
    return unrolled if east + turn <= 180.0 else _cut(unrolled)

  def km2(self, mask: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> float:
    """Area of the True pixels of a window [rows) x [columns), in km2, through an equal-area projection."""
    if not mask.any():
      return 0.0
    cuts = [np.append(np.arange(first, end, _BLOCK_PX), end) for first, end in (rows, columns)]
    starts = [cut[:-1] - cut[0] for cut in cuts]
    counts = np.add.reduceat(np.add.reduceat(mask.astype(np.int64), starts[0], axis=0), starts[1], axis=1)
    return float((counts * self._pixel_m2(*cuts)).sum()) / 1e6

  def pixel_m2_range(self) -> tuple[float, float]:
    """Area of the smallest and of the largest pixel, of those on a lattice over the grid, in m2."""
    sides = (self.grid.height, self.grid.width)
    found = self._pixel_m2(*(np.unique(np.linspace(0, side, 9).round().astype(int)) for side in sides))
    return float(found.min()), float(found.max())

  def _pixel_m2(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[R - 1, C - 1] mean area of a pixel in the blocks between lines, in m2."""
    xy = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(float)
    lon, lat = self.lonlat(xy).T
    lon = lon if self._in_degrees else _near(lon, self._middle)
    x, y = (np.reshape(axis, (len(rows), len(columns))) for axis in self._equal_area(lon, lat))
    # Half the cross product of a block's diagonals.
    one, other = (x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]), (x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1])
    area = 0.5 * np.abs(one[0] * other[1] - one[1] * other[0])
    return area / (np.diff(rows)[:, None] * np.diff(columns)[None])


def area_km2(geometry) -> float:
  """Area on the ellipsoid (Karney 2013) of a geometry in longitude and latitude."""
  return geodesic_area_km2(geometry)


def _near(lon: np.ndarray, start: float) -> np.ndarray:
  """Longitudes within half a turn of `start`."""
  turns = np.round((lon - start) / 360.0)
  return lon - 360.0 * turns if turns.any() else lon


def _cut(polygon: shapely.Polygon) -> shapely.MultiPolygon:
  """A polygon that reaches beyond 180 degrees, cut there; what lies beyond goes to the other end."""
  here = polygon & shapely.box(*_GLOBE)
  beyond = shapely.transform(polygon & shapely.box(180, -90, 540, 90), lambda xy: xy - [360.0, 0.0])
  return shapely.MultiPolygon([part for side in (here, beyond) for part in polygons_of(side)])


def polygons_of(geometry) -> list[shapely.Polygon]:
  """The polygons of any geometry; points and lines where polygons touch are no area."""
  return [part for part in shapely.get_parts(shapely.get_parts(geometry)) if part.geom_type == "Polygon" and part.area]
