"""Which imagery is there, what its numbers mean, and which of it serves a place.

A scene is what one product saw at one time: the band of every wanted role, wherever its file lies, how to decode it,
and where it lies on the ground. `scan_folder` finds scenes in a tree of files by their headers, `stac.read_items` in
STAC items; `candidates` says which of them cover a place, best first, and `read_scene` reads that place. What cannot be
used is listed with the reason: an encoding nobody named, a band that is missing, a file that lies nowhere.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import affine
import numpy as np
import pyproj
import shapely

from minec2f_jax.data import geotiff, grids, products, sensors
from minec2f_jax.errors import UserError

NO_WANTED_BAND = "no wanted band"  # Why masks, pictures and other bands are passed over; nothing to worry about.
_SUFFIXES = {"GTiff": (".tif", ".tiff"), "JP2OpenJPEG": (".jp2",), "VRT": (".vrt",)}
_EDGE_POINTS = 21  # Straight edges bend under projection.


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
  """`scenes` by id, and why the rest was left: file or item -> reason. `NO_WANTED_BAND` is no cause for alarm."""

  scenes: tuple[Scene, ...]
  rejected: Mapping[str, str]


# The band at the end of a single-band file's name: T19KDQ_20210612T143739_B02_10m, LC08_..._SR_B4, HLS.L30...B04, B8A.
_BAND_NAME = re.compile(
  rf"(?:(?P<stem>.+?)[._-])?(?P<band>SR_B\d|B\d{{1,2}}|B8A|{'|'.join(sensors.ROLES)}|{'|'.join(products.QUALITY)})"
  r"(?:[._-](?:10|20|60)m)?",
  re.IGNORECASE,
)
_RESOLUTION_FOLDER = re.compile(r"R(10|20|60)m", re.IGNORECASE)  # A Sentinel-2 product keeps one for each.
_DATE_TAGS = ("SENSING_TIME", "DATE_ACQUIRED", "PRODUCT_START_TIME")
_CLOUD_TAGS = ("CLOUD_COVERAGE_ASSESSMENT", "CLOUD_COVERAGE", "CLOUD_COVER")  # Percent.


@dataclasses.dataclass(frozen=True)
class _Layer:
  """One band of a file, under the name that the file gives it, or its file name."""

  name: str | None
  band: geotiff.Band
  header: geotiff.Header

  @property
  def key(self) -> str:
    return (self.name or "").casefold()

  @property
  def pixel(self) -> float:
    return abs(self.header.grid.transform.a) if self.header.grid else np.inf


def scan_folder(path, *, roles: Sequence[str], sensor: str = "auto", drivers=geotiff.DRIVERS) -> ScanResult:
  """The scenes in a folder and below; headers are read, no pixels.

  A file of several named bands is a scene. Files of one band make a scene together where their names differ in nothing
  but the band (of several resolutions of a band the finest counts); so does a quality band beside a file of several,
  IMAGE.tif and IMAGE_SCL.tif.

  Args:
    path: folder.
    roles: band roles that a scene must hold.
    sensor: "auto" (what tags or the product's name say, else floating-point reflectance) or a key of `sensors.SENSORS`.
    drivers: GDAL drivers that may open files, out of GTiff, JP2OpenJPEG and VRT.

  Raises:
    SceneError: no such folder. SensorError: unknown role or sensor.
  """
  root, roles = pathlib.Path(path), sensors.check_roles(roles)
  if not root.is_dir():
    raise SceneError(f"{root}: no such folder; imagery is searched for in a folder of GeoTIFFs")
  if sensor != "auto":
    sensors.get_sensor(sensor)
  groups, rejected, scenes = {}, {}, {}
  for file in sorted(p for p in root.rglob("*") if p.suffix.lower() in suffixes(drivers) and p.is_file()):
    try:
      header = geotiff.read_header(file, drivers=drivers)
    except geotiff.GeoTiffError as err:
      rejected[str(file)] = str(err)
      continue
    together, layers = _layers(file, header)
    groups.setdefault(together, []).extend(layers)
  for (folder, stem), layers in sorted(groups.items()):
    common = folder / stem
    name = common.relative_to(root).as_posix() if common != root else root.resolve().name
    try:
      if name in scenes:
        raise SceneError(f"another scene is called {name!r} already; rename one of them")
      scenes[name] = _scene(name, common, layers, roles, sensor)
    except UserError as err:
      files = {layer.band.path for layer in layers}
      rejected[min(files) if len(files) == 1 else f"{common}*"] = (
        str(err) if _is_imagery(layers, roles) else NO_WANTED_BAND
      )
  return ScanResult(tuple(scenes[name] for name in sorted(scenes)), rejected)


def candidates(scenes: Sequence[Scene], lonlat_bounds: Iterable, *, limit: int = 4) -> list[tuple[Scene, ...]]:
  """For each (west, south, east, north) in degrees the scenes that reach it, best first, at most `limit`.

  First those that cover more of the box (of its area in degrees), then those with fewer clouds, then the newer ones;
  what is unknown comes last. West beyond east means across the antimeridian.
  """
  tree, found = shapely.STRtree([s.footprint for s in scenes]), []
  for bounds in lonlat_bounds:
    box = _box(*bounds)
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
    SceneError: the scene lacks a role. GeoTiffError: as `geotiff.read_on_grid`.
  """
  bands = dict(scene.bands)
  missing = [role for role in roles if role not in bands]
  if missing:
    raise SceneError(f"scene {scene.id!r} has no band for {missing}, only {list(bands)}; scan for the roles you read")
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
  """What a raster spans, in degrees of longitude and latitude; edges are followed, and cut at the antimeridian."""
  left, bottom, right, top = grid.bounds
  outline = shapely.segmentize(shapely.box(*grid.bounds), max(right - left, top - bottom) / _EDGE_POINTS)
  lon, lat = _to_lonlat(grid.crs).transform(*shapely.get_coordinates(outline).T)
  if not np.isfinite([lon, lat]).all():
    raise SceneError(f"bounds {grid.bounds} lie outside of {grid.crs}; correct its reference system")
  lon = np.unwrap(lon, period=360)  # A ring that steps from 180 to -180 goes on at 180.
  lon -= 360 * np.floor((lon.min() + 180) / 360)
  outline = shapely.Polygon(np.column_stack([lon, lat]))
  if lon.max() <= 180:
    return outline
  beyond = shapely.transform(outline & shapely.box(180, -90, 540, 90), lambda xy: xy - [360, 0])
  return outline & shapely.box(-180, -90, 180, 90) | beyond


def suffixes(drivers: Sequence[str]) -> tuple[str, ...]:
  """File name endings, in lower case, that these drivers open."""
  unknown = [driver for driver in drivers if driver not in _SUFFIXES]
  if unknown:
    raise SceneError(f"drivers {unknown} are unknown; choose out of {tuple(_SUFFIXES)}")
  return tuple(suffix for driver in drivers for suffix in _SUFFIXES[driver])


def _layers(file: pathlib.Path, header: geotiff.Header) -> tuple[tuple[pathlib.Path, str], list[_Layer]]:
  """((folder, start of the name) that the files of its scene have in common, the file's bands)."""
  folder = file.parent.parent if _RESOLUTION_FOLDER.fullmatch(file.parent.name) else file.parent
  match = _BAND_NAME.fullmatch(file.stem) if header.count == 1 else None
  if match:
    return (folder, match["stem"] or ""), [_Layer(match["band"], geotiff.Band(str(file), 1), header)]
  names = enumerate(header.descriptions, start=1)
  return (folder, file.stem), [_Layer(name, geotiff.Band(str(file), i), header) for i, name in names]


def _scene(name: str, common: pathlib.Path, layers: Sequence[_Layer], roles, sensor: str) -> Scene:
  """The scene that these bands make; UserError says why they make none."""
  product = next((part for part in reversed(common.resolve().parts) if products.is_product(part)), "")
  finest = {}
  for layer in layers:
    finest[layer.key] = min(layer.pixel, finest.get(layer.key, np.inf))
  layers = [layer for layer in layers if layer.pixel == finest[layer.key]]
  quality = next(((layer.key, layer.band) for layer in layers if layer.key in products.QUALITY), None)
  image = [layer for layer in layers if layer.key not in products.QUALITY]
  found = sorted({_choose_sensor(sensor, product, layer) for layer in image})
  if len(found) != 1:
    raise SceneError(f"files that belong together by name are encoded differently: {found}; keep them in two folders")
  known = sensors.get_sensor("reflectance" if found[0] == "auto" else found[0])
  indices = sensors.find_bands([layer.name for layer in image], roles, known)
  used = {role: image[i - 1] for role, i in zip(roles, indices)}
  tags = {key.upper(): value for layer in used.values() for key, value in layer.header.tags.items()}
  return Scene(
    id=name,
    bands=tuple((role, used[role].band) for role in sensors.ROLES if role in used),
    sensor=found[0],
    quality=quality,
    footprint=_common_footprint(used.values()),
    date=products.date_of(common.name, product, *(tags.get(key, "") for key in _DATE_TAGS)),
    cloud_share=_cloud_share(tags),
  )


def _choose_sensor(wanted: str, product: str, layer: _Layer) -> str:
  """Key of the sensor, or "auto" where the file tells; tags, product name and the argument must not contradict."""
  header = layer.header
  if np.dtype(header.dtype).kind == "f":  # Products hold integers: what became of one was decoded, and kept its name.
    return wanted
  tagged, named = sensors.identify(header.tags), products.sensor_of(product)
  if tagged and named and tagged not in (named, "hls"):
    raise SceneError(f"its tags say {tagged!r}, the product name {product} says {named!r}; correct one of them")
  if wanted == "auto" and not (tagged or named) and header.encodings[layer.band.index - 1] != (1.0, 0.0):
    return "auto"
  if wanted == "auto" and not (tagged or named):
    raise SceneError(
      f"cannot tell the encoding of its {header.dtype} values, neither tags nor a product's name do; set --sensor to "
      f"one of {tuple(s.name for s in sensors.SENSORS.values() if s.scale != 1)}"
    )
  sensors.resolve_sensor(wanted, dtype=header.dtype, tags=header.tags if tagged else _tags_of(product, named))
  return named or tagged if wanted == "auto" else wanted


def _tags_of(product: str, named: str | None) -> dict[str, str]:
  """A product's name as the tags that say the same."""
  kind = {"hls_l30": "LANDSAT_PRODUCT_ID", "landsat_c2_l2": "LANDSAT_PRODUCT_ID"}.get(named, "PRODUCT_URI")
  return {kind: product} | ({"HLS_PROCESSING_TIME": ""} if (named or "").startswith("hls") else {})


def _is_imagery(layers: Sequence[_Layer], roles) -> bool:
  """Whether someone may have meant these bands as imagery: a wanted name in any sensor's words, or no names at all."""
  names = [layer.name for layer in layers]
  if len(layers) > 1 and not any(names):
    return layers[0].header.dtype != "uint8"  # Else a picture.
  for known in sensors.SENSORS.values():
    for name in filter(None, names):
      for role in roles:
        try:
          sensors.find_bands([name], [role], known)
          return True
        except sensors.SensorError:
          continue
  return False


def _common_footprint(layers: Iterable[_Layer]) -> shapely.Geometry:
  places = {layer.header.grid for layer in layers}
  if any(grid is None or grid.transform == affine.Affine.identity() for grid in places):
    raise SceneError(
      "no reference system and place on the ground, or rows that are not north up; georeference or warp it (gdalwarp)"
    )
  common = functools.reduce(shapely.intersection, sorted(map(footprint, places), key=lambda g: g.wkb))
  if not common.area:
    raise SceneError("its bands lie in different places; files that belong together by name must overlap")
  return common


def _cloud_share(tags: Mapping[str, str]) -> float | None:
  for key in _CLOUD_TAGS:
    if re.fullmatch(r"\s*\d+(\.\d*)?\s*", tags.get(key, "")) and float(tags[key]) <= 100:
      return float(tags[key]) / 100
  return None


def _rank(share: float, scene: Scene):
  """What `candidates` sorts by, the best first; ids are unique."""
  clouds = np.inf if scene.cloud_share is None else scene.cloud_share
  return -share, clouds, -int(scene.date.replace("-", "") or 0), scene.id


def _box(west, south, east, north) -> shapely.Geometry:
  if west <= east:
    return shapely.box(west, south, east, north)
  return shapely.box(west, south, 180, north) | shapely.box(-180, south, east, north)


def _covered(box: shapely.Geometry, area: shapely.Geometry) -> float:
  """Share of the box inside the area, rounded: what differs by float noise is decided by clouds."""
  if not box.area:
    return float(shapely.intersects(box, area))
  return round(shapely.intersection(box, area).area / box.area, 6)


@functools.lru_cache(maxsize=256)
def _to_lonlat(crs: str) -> pyproj.Transformer:
  return pyproj.Transformer.from_crs(crs, grids.LONLAT, always_xy=True)
