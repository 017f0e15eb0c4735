"""Outlines of mines from vector files, each with an id, a place and an area that depend on nothing else.

Whatever the file's format, CRS, row order or ring orientation: a polygon leaves here as one shapely
geometry in longitude and latitude (EPSG:4326), two-dimensional, valid and normalised, so that chips
cut today and tomorrow, from a GeoPackage or a GeoParquet file, bear the same names.

A polygon across the 180 degree meridian is refused, not cut: its bounding box would span the globe,
and every later step (grid, block, search for neighbours) starts from that box.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyproj
import shapely

from minec2f_jax.data import lonlat
from minec2f_jax.errors import UserError

_WGS84 = pyproj.Geod(ellps="WGS84")
_PARQUET = (".parquet", ".geoparquet")
_DECIMALS = (
  7  # Of a degree: 1 cm, a hundredth of the finest imagery's pixel and coarser than any transformation's noise.
)
_SHOWN = 5  # Broken rows an error lists; the rest it counts.


class PolygonError(UserError):
  """A vector file that does not hold usable polygons; the message names file, rows and remedy."""


@dataclasses.dataclass(frozen=True)
class Polygon:
  """One outline: a geometry of one or several parts that belong together.

  Attributes:
    id: unique within its file and safe as a file name.
    geometry: shapely Polygon or MultiPolygon, longitude and latitude in degrees (EPSG:4326).
    area_km2: on the WGS 84 ellipsoid.
    attributes: the file's other columns as text, "" where the row has no value.
  """

  id: str
  geometry: shapely.Polygon | shapely.MultiPolygon
  area_km2: float
  attributes: Mapping[str, str]


class PolygonSet(NamedTuple):
  """What `read_polygons` found: `polygons` sorted by id; `notes`: what was mended or dropped -> rows it befell."""

  polygons: tuple[Polygon, ...]
  notes: dict[str, int]


def read_polygons(path, *, layer: str | None = None, id_column: str = "") -> PolygonSet:
  """The polygons of a vector file, sorted by id, and what was mended or dropped on the way.

  Coordinates are rounded to 1e-7 degrees (1 cm). An id is the row's ISO3_CODE ("XXX" without one)
  and the first 12 hexadecimal digits of the SHA-256 of the outline's WKB, so it follows the place
  alone. (Stored in another CRS, an outline may differ by 1 cm somewhere, and so get another id.)

  Null and empty geometries are dropped, heights too. Rings that cross themselves are mended: all
  they enclose stays. Of rows with the same outline, the one whose id and attributes sort first stays.

  Args:
    path: GeoPackage, GeoJSON, GeoParquet (by its suffix), shapefile, or what else geopandas reads.
    layer: name of the layer, for a file that has several.
    id_column: column to take as id instead.

  Returns:
    A `PolygonSet`; its notes name only what occurred.

  Raises:
    PolygonError: file, layer, CRS, rows or ids that are not in order.
  """
  frame = read_lonlat(path, layer)
  table = frame.drop(columns=frame.geometry.name)
  if id_column and id_column not in table:
    raise PolygonError(f"{path}: no column {id_column!r} to take ids from; there are {list(table)}")
  attributes = _texts(table)
  rows, geometries, notes = _clean(path, np.asarray(frame.geometry.array, object))
  found = []
  for row, geometry in zip(rows, geometries, strict=True):
    name = attributes[row][id_column] if id_column else _place_id(geometry, attributes[row])
    found.append((Polygon(name, geometry, geodesic_area_km2(geometry), attributes[row]), row))
  chosen = {}
  for polygon, row in sorted(found, key=lambda pair: (pair[0].id, sorted(pair[0].attributes.items()))):
    chosen.setdefault(polygon.geometry, (polygon, row))
  _check_ids(path, {row: polygon.id for polygon, row in chosen.values()})
  _count(notes, "same outline as another row, dropped", len(found) - len(chosen))
  return PolygonSet(tuple(polygon for polygon, _ in chosen.values()), notes)


def geodesic_area_km2(geometry) -> float:
  """Area in km2 of a lon/lat Polygon or MultiPolygon on the WGS 84 ellipsoid (Karney 2013); holes do not count."""
  # Geod signs a ring's area by its sense of rotation: holes subtract only if they run the other way.
  area_m2, _ = _WGS84.geometry_area_perimeter(shapely.orient_polygons(geometry))
  return abs(area_m2) / 1e6


def filter_by_area(polygons: Sequence[Polygon], *, min_km2: float = 0.0, max_km2: float = float("inf")):
  """Tuple of the polygons with min_km2 <= area <= max_km2, in their order."""
  if not 0.0 <= min_km2 <= max_km2:
    raise PolygonError(f"min_km2={min_km2:g}, max_km2={max_km2:g}: give areas with 0 <= min_km2 <= max_km2")
  return tuple(polygon for polygon in polygons if min_km2 <= polygon.area_km2 <= max_km2)


def extent(polygons: Sequence[Polygon]) -> tuple[float, float, float, float]:
  """(west, south, east, north) in degrees of all polygons; with some on both sides of the antimeridian all around it.

  Swapped coordinates within +-90 degrees are no error that can be told: a person who sees this box can.

  Raises:
    PolygonError: there is no polygon.
  """
  if not polygons:
    raise PolygonError("no polygon, so no extent; give a file that holds outlines")
  return tuple(shapely.total_bounds([polygon.geometry for polygon in polygons]).tolist())


def neighbours(polygons: Sequence[Polygon], bounds_list: Sequence[Sequence[float]]) -> tuple[tuple[Polygon, ...], ...]:
  """For each box the polygons that share a point with it, in their order: a chip's mask shows them all.

  Args:
    polygons: where to look.
    bounds_list: boxes (west, south, east, north) in degrees; west > east crosses the 180 degree meridian.
  """
  tree = shapely.STRtree([polygon.geometry for polygon in polygons])
  found = [[] for _ in bounds_list]
  boxes = np.array([lonlat.box(*bounds) for bounds in bounds_list], object)
  for box, polygon in sorted(tree.query(boxes, predicate="intersects").T.tolist()):
    found[box].append(polygons[polygon])
  return tuple(map(tuple, found))


def read_lonlat(path, layer: str | None = None):
  """GeoDataFrame of a vector file in EPSG:4326, geometries as they are; path, layer and errors as `read_polygons`."""
  import geopandas  # Loads pandas and GDAL.

  # An existing file, or GDAL would take the name for a URL or a database.
  if not os.path.exists(path):
    raise PolygonError(f"{path}: no such file; check the path")
  try:
    if os.fspath(path).lower().endswith(_PARQUET):
      if layer is not None:
        raise PolygonError(f"{path}: GeoParquet has no layers, so none is called {layer!r}; name none")
      frame = geopandas.read_parquet(path)
    else:
      known = geopandas.list_layers(path)
      frame = geopandas.read_file(path, layer=_choose_layer(path, layer, known.name[known.geometry_type.notna()]))
    if frame.crs is None:
      raise PolygonError(
        f"{path}: no coordinate reference system, so its numbers may mean any place; declare it "
        "(geopandas: frame.set_crs(...), ogr2ogr: -a_srs)"
      )
    return frame.to_crs("EPSG:4326")
  except PolygonError:
    raise
  except Exception as err:  # GDAL, Arrow and PROJ each raise types of their own.
    raise PolygonError(
      f"{path}: not readable as polygons ({type(err).__name__}: {err}); write the file again, e.g. as GeoPackage"
    ) from err


def _choose_layer(path, layer, known):
  """The one layer to read: `layer`, or the only one there is."""
  known = list(known)
  if not known:
    raise PolygonError(f"{path}: no layer with geometries; give the file that holds the outlines")
  if layer is None and len(known) > 1:
    raise PolygonError(f"{path}: {len(known)} layers; name one of {known} as layer")
  if layer is not None and layer not in known:
    raise PolygonError(f"{path}: no layer {layer!r}; name one of {known}")
  return layer or known[0]


def _texts(table):
  """One dict a row: column -> its value as text, "" where there is none."""
  rows = [{} for _ in range(len(table))]
  for column in table.columns:
    for row, value, missing in zip(rows, table[column], table[column].isna(), strict=True):
      row[str(column)] = "" if missing else str(value)
  return rows


def _place_id(geometry, attributes):
  codes = [value.upper() for name, value in attributes.items() if name.upper() == "ISO3_CODE"]
  country = codes[0] if codes and re.fullmatch("[A-Z]{3}", codes[0]) else "XXX"
  return f"{country}_{hashlib.sha256(shapely.to_wkb(geometry, byte_order=1)).hexdigest()[:12]}"


def _clean(path, geometries):
  """Indices of the usable rows, their geometries as promised in `Polygon`, and the notes."""
  notes = {}
  present = np.flatnonzero(~(shapely.is_missing(geometries) | shapely.is_empty(geometries)))
  _count(notes, "null or empty geometry, dropped", len(geometries) - len(present))
  flat = _rounded(geometries[present])
  problems = {row: problem for row, geometry in zip(present, flat, strict=True) if (problem := _problem(geometry))}
  _refuse(path, problems, len(geometries), "hold no usable polygon")
  broken = ~shapely.is_valid(flat)
  # "structure" keeps what overlapping parts cover; "linework" would turn overlaps into holes.
  mended = shapely.make_valid(flat[broken], method="structure", keep_collapsed=False)
  # Rounded alone, the crossings it has found could cross again.
  flat[broken] = _rounded(shapely.set_precision(mended, 10.0**-_DECIMALS))
  solid = ~shapely.is_empty(flat)
  _count(notes, "invalid rings, mended", (broken & solid).sum())
  _count(notes, "no area, dropped", (~solid).sum())
  # A point that rounding doubled would leave two ways to start the ring.
  outlines = shapely.normalize(shapely.remove_repeated_points(flat[solid]))
  return present[solid].tolist(), [_single(outline) for outline in outlines], notes


def _rounded(geometries):
  """The same without heights, at 1e-7 degrees."""
  return shapely.transform(geometries, lambda lonlat: np.round(lonlat, _DECIMALS) + 0.0)  # + 0.0: no negative zero.


def _count(notes, reason, count):
  if count:
    notes[reason] = int(count)


def _problem(geometry):
  """Why a 2-D geometry is no polygon on the globe, or ""."""
  if geometry.geom_type not in ("Polygon", "MultiPolygon"):
    return f"a {geometry.geom_type}, not a polygon; leave it out or buffer it"
  if not np.isfinite(shapely.get_coordinates(geometry)).all():
    return "coordinates that are no numbers in longitude and latitude; correct them or the file's CRS"
  west, south, east, north = geometry.bounds
  seen = f"longitude {west:g}..{east:g}, latitude {south:g}..{north:g}"
  if max(-south, north) > 90.0 >= max(-west, east):
    return f"{seen}: latitude and longitude look swapped; store longitude first"
  if max(-south, north) > 90.0 or max(-west, east) > 180.0:
    return f"{seen}: outside -180..180, -90..90; correct the coordinates or the file's CRS"
  if east - west > 180.0:
    return f"{seen}: crosses the 180 degree meridian; cut it there and give each side a row of its own"
  return ""


def _single(geometry):
  """A lone part as Polygon: some formats store every polygon as a MultiPolygon."""
  return geometry.geoms[0] if geometry.geom_type == "MultiPolygon" and len(geometry.geoms) == 1 else geometry


def _check_ids(path, id_of_row):
  """Refuses ids that are no file names or stand twice."""
  first, problems = {}, {}
  for row, name in sorted(id_of_row.items()):
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
      problems[row] = f"id {name!r} must be made of A-Z a-z 0-9 _ . - and not begin with a dot"
    elif first.setdefault(name, row) != row:
      problems[row] = f"id {name!r} stands in row {first[name] + 1} already, with another outline"
  _refuse(path, problems, len(id_of_row), "have an unusable id; correct them or choose another id_column")


def _refuse(path, problems, total, what):
  """Raises one error that lists the broken rows (counted from 1), if there are any."""
  if problems:
    listed = "".join(f"\n  row {row + 1}: {why}" for row, why in list(problems.items())[:_SHOWN])
    rest = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise PolygonError(f"{path}: {len(problems)} of {total} rows {what}:{listed}{rest}")
