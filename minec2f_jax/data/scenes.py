"""Which imagery is there, what its numbers mean, and which of it serves a place.

A scene is what one product saw at one time: the band of every wanted role, wherever its file lies, how to decode it,
and where it lies on the ground. `scene_folder` finds scenes in a tree of files, `stac` in STAC items; `candidates` says
which of them cover a place, best first, and `read_scene` reads that place. What cannot be used is listed with the
reason: an encoding nobody named, a band that is missing, a file that lies nowhere.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyproj
import shapely

from minec2f_jax.data import geotiff, grids, lonlat, products, rasterfile, sensors
from minec2f_jax.errors import UserError

_SUFFIXES = {"GTiff": (".tif", ".tiff"), "JP2OpenJPEG": (".jp2",), "VRT": (".vrt",)}


class SceneError(UserError):
  """Imagery that cannot be used; the message names what was seen and the remedy."""


@dataclasses.dataclass(frozen=True)
class Scene:
  """What one product saw at one time.

  Attributes:
    id: unique among the scenes of a search.
    bands: (role, band) in the order of `sensors.ROLES`.
    sensor: key of `sensors.SENSORS`, or "auto" for floating-point files that nobody named: the reader takes them for
      reflectance and refuses values that are none.
    quality: (key of `products.QUALITY`, band) that tells clouds, or None.
    footprint: shapely geometry in degrees of longitude and latitude; what the file spans, seen or not.
    date: of the acquisition, "2021-06-12"; "" if unknown.
    cloud_share: of the whole product, 0..1; None if unknown.
  """

  id: str
  bands: tuple[tuple[str, geotiff.Band], ...]
  sensor: str
  quality: tuple[str, geotiff.Band] | None
  footprint: shapely.Geometry
  date: str = ""
  cloud_share: float | None = None


@dataclasses.dataclass(frozen=True)
class ScanResult:
  """`scenes` by id, and why the rest was left: file or item -> reason."""

  scenes: tuple[Scene, ...]
  rejected: Mapping[str, str]


def candidates(
  scenes: Sequence[Scene], lonlat_bounds: Iterable, *, limit: int | None = None
) -> list[tuple[Scene, ...]]:
  """For each (west, south, east, north) in degrees the scenes that reach it, best first: all, or at most `limit`.

  First those that cover more of the box (of its area in degrees), then those with fewer clouds, then the newer ones;
  what is unknown comes last. West beyond east means across the antimeridian.
  """
  tree, found = shapely.STRtree([s.footprint for s in scenes]), []
  for bounds in lonlat_bounds:
    box = lonlat.box(*bounds)
    shares = [(_covered(box, scenes[i].footprint), scenes[i]) for i in tree.query(box)]
    best = sorted((s for s in shares if s[0]), key=lambda s: _rank(*s))
    found.append(tuple(scene for _, scene in best[:limit]))
  return found


def read_scene(
  scene: Scene,
  grid: grids.Grid,
  *,
  roles: Sequence[str],
  drivers=geotiff.DRIVERS,
  allow_remote: bool = False,
  max_bytes: int = geotiff.MAX_BYTES,
):
  """What a scene saw on a grid; only the windows under it are read.

  Args:
    scene: to read.
    grid: of the result.
    roles: of the channels, in their order.
    drivers, allow_remote, max_bytes: as in `geotiff.read_on_grid`.

  Returns:
    image [H, W, C] float32 reflectance, 0 where invalid; valid [H, W] bool; cloud [H, W] bool, valid pixels under
    cloud, shadow or cirrus, or None where the scene has no quality band. With one, pixels that it marks as fill or says
    nothing about are invalid.

  Raises:
    SceneError: the scene lacks a role, or its files call a band by the name of another one. GeoTiffError: as
      `geotiff.read_on_grid`.
  """
  bands = dict(scene.bands)
  missing = [role for role in roles if role not in bands]
  if missing:
    raise SceneError(f"scene {scene.id!r} has no band for {missing}, only {list(bands)}; scan for the roles you read")
  _check_names(scene, roles, drivers=drivers, allow_remote=allow_remote)
  access = dict(drivers=drivers, allow_remote=allow_remote, max_bytes=max_bytes)
  image, valid = geotiff.read_on_grid([bands[role] for role in roles], grid, sensor=scene.sensor, **access)
  if scene.quality is None:
    return image, valid, None
  kind, band = scene.quality
  codes, known = geotiff.read_classes(band, grid, **access)
  cloud, fill = products.cloud_flags(kind, codes)
  valid = valid & known & ~fill
  return np.where(valid[..., None], image, np.float32(0.0)), valid, cloud & valid


def footprint(grid: grids.Grid) -> shapely.Geometry:
  """What a raster spans, in degrees of longitude and latitude: edges followed, poles enclosed, cut at the antimeridian.

  Raises:
    SceneError: it reaches beyond its reference system.
  """
  left, bottom, right, top = grid.bounds
  longest = max(right - left, top - bottom)
  # A pole on the very edge would be neither in nor out; in degrees it is no point.
  slack = 0.0 if pyproj.CRS(grid.crs).is_geographic else 1e-9 * longest
  area = shapely.box(left - slack, bottom - slack, right + slack, top + slack)
  outline = shapely.get_coordinates(shapely.segmentize(area, longest / grids.EDGE_POINTS))
  to_lonlat = _to_lonlat(grid.crs)
  lon, lat = to_lonlat.transform(*outline.T)
  _, central = to_lonlat.transform((left + right) / 2, (bottom + top) / 2)
  if not np.isfinite([*lon, *lat, central]).all():
    raise SceneError(f"bounds {grid.bounds} lie outside of {grid.crs}; correct its reference system")
  return lonlat.area_within(lon, lat, pole=np.copysign(90.0, central))


def suffixes(drivers: Sequence[str]) -> tuple[str, ...]:
  """File name endings, in lower case, that these drivers open."""
  unknown = [driver for driver in drivers if driver not in _SUFFIXES]
  if unknown:
    raise SceneError(f"drivers {unknown} are unknown; choose out of {tuple(_SUFFIXES)}")
  return tuple(suffix for driver in drivers for suffix in _SUFFIXES[driver])


def _check_names(scene: Scene, roles: Sequence[str], **access):
  """Raises where files give bands the names of other roles: an item may tell the bands in a wrong order."""
  known = sensors.get_sensor("reflectance" if scene.sensor == "auto" else scene.sensor)
  wanted, wrong = {role: band for role, band in scene.bands if role in roles}, []
  for path in sorted({band.path for band in wanted.values()}):
    with rasterfile.open_raster(path, **access) as file:
      names = dict(enumerate(file.header().descriptions, start=1))
    for role, band in wanted.items():
      name = names.get(band.index) if band.path == path else None
      if name and products.role_of(name, known) not in (role, None):
        wrong.append(f"{path}, band {band.index}, is taken for {role!r}, but the file calls it {name!r}")
  if wrong:
    raise SceneError(f"scene {scene.id!r}: {'; '.join(wrong)}; correct the item's order of bands, or the file's names")


def _rank(share: float, scene: Scene):
  """What `candidates` sorts by, the best first; ids are unique."""
  clouds = np.inf if scene.cloud_share is None else scene.cloud_share
  return -share, clouds, -int(scene.date.replace("-", "") or 0), scene.id


def _covered(box: shapely.Geometry, area: shapely.Geometry) -> float:
  """Share of the box inside the area, rounded: what differs by float noise is decided by clouds."""
  if not box.area:
    return float(shapely.intersects(box, area))
  return round(shapely.intersection(box, area).area / box.area, 6)


@functools.lru_cache(maxsize=256)
def _to_lonlat(crs: str) -> pyproj.Transformer:
  return pyproj.Transformer.from_crs(crs, grids.LONLAT, always_xy=True)
