"""From a polygon and the scenes over it to a chip: an image of reflectance and a mask on one grid.

`make_chip` depends on its arguments alone and writes nothing but its own files, so threads, processes and Beam workers
may run it side by side. Files are written whole or not at all: an image that stands there, agrees with the job and
reads as it was written is a finished chip (see `chip_note`).
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np
import pyproj
import shapely

from minec2f_jax import files
from minec2f_jax.data import chip_note, geotiff, grids, rasterfile, resize, scenes, sensors
from minec2f_jax.errors import UserError

NO_IMAGERY = "no imagery covers it"
# What is measured while a chip is made; the other columns of the index stand in its job.
MEASURED = (
  "scene",
  "scene_sensor",
  "product",
  "date",
  "height",
  "width",
  "gsd_m",
  "valid_share",
  "cloud_share",
  "mine_share",
)


@dataclasses.dataclass(frozen=True)
class ChipSettings:
  """How chips are cut.

  Attributes:
    roles: bands, in channel order.
    gsd_m: side of a pixel in metres, in UTM; 0 keeps the pixels of the imagery.
    margin: share of the polygon's longer extent that is added on every side.
    min_margin_m: added on every side at least.
    min_size_px: least height and width; the window is widened to it.
    max_size_px: a larger chip is not made.
    min_valid: least share of the window that must hold data, clouds included: they are masked afterwards.
    max_cloud: largest share of clouds and their shadows among these pixels.
    mask_clouds: whether the cloudy pixels of a chip that passes become invalid; a chip may so keep less than min_valid.
    drivers: GDAL drivers that may open imagery.
    allow_remote: whether imagery may lie at an address instead of in a file.
  """

  roles: tuple[str, ...] = sensors.ROLES
  gsd_m: float = 0.0
  margin: float = 0.25
  min_margin_m: float = 200.0
  min_size_px: int = 32
  max_size_px: int = 2048
  min_valid: float = 0.8
  max_cloud: float = 0.2
  mask_clouds: bool = True
  drivers: tuple[str, ...] = geotiff.DRIVERS
  allow_remote: bool = False

  def digest(self) -> str:
    """Names these settings in the tags of a chip."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class ChipJob:
  """One chip to make; plain and picklable.

  Attributes:
    id: name of its files.
    bounds: (west, south, east, north) of its own polygon, in degrees.
    geometries: WKB in longitude and latitude of all polygons in the window, its own first.
    row: columns of the index that are known beforehand.
    scenes: candidates, best first.
  """

  id: str
  bounds: tuple[float, float, float, float]
  geometries: tuple[bytes, ...]
  row: Mapping[str, str]
  scenes: tuple[scenes.Scene, ...]

  def digest(self) -> str:
    """Names the polygons in the tags of a chip."""
    return hashlib.sha256(b"".join(self.geometries)).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a job.

  Attributes:
    id: of the job.
    row: columns of the index.
    hashes: path under the output folder -> SHA-256; empty where no chip could be made.
    reasons: (scene or "", why not) of the scenes passed over; of a chip that could not be made, of all.
    reused: whether the chip was there already.
  """

  id: str
  row: Mapping[str, str]
  hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)
  reasons: tuple[tuple[str, str], ...] = ()
  reused: bool = False

  @classmethod
  def from_dict(cls, fields: Mapping[str, object]) -> "Outcome":
    """The outcome of `dataclasses.asdict`, by way of JSON or not."""
    return cls(**{**fields, "reasons": tuple(map(tuple, fields["reasons"]))})


class Unfit(Exception):
  """Why a scene cannot give a chip, as "kind: detail"; told in the quarantine, never raised to a caller."""


def make_chip(job: ChipJob, settings: ChipSettings, output) -> Outcome:
  """Writes images/ID.tif and masks/ID.tif under `output` from the first scene that serves.

  images/ID.tif holds float32 reflectance, NaN where invalid, masks/ID.tif 1 inside any polygon and 0 elsewhere. A
  finished chip of the same polygons, settings and scenes is kept as it is. A scene is the same while the files of it
  that lie on this machine keep size and date: touching one redoes its chips, which come out the same to the byte where
  its pixels are the same. Whoever changes a chip first takes the set's manifest away.

  Args:
    job: polygon and scenes.
    settings: the same for all chips of a set.
    output: folder that holds images/ and masks/; where workers share a job list, one that all of them see.

  Returns:
    The row of the index, or the reason of every scene why it gives no chip.

  Raises:
    UserError: a chip cannot be written.
  """
  output = pathlib.Path(output)
  finished = _finished(job, settings, output)
  if finished is not None:
    return finished
  reasons = []
  for position, scene in enumerate(job.scenes):
    try:
      image, valid, label, grid, measured = _cut(job, scene, settings)
    except Unfit as err:
      reasons.append((scene.id, str(err)))
      continue
    except UserError as err:
      reasons.append((scene.id, f"corrupt: {err}"))
      continue
    tried = job.scenes[: position + 1]
    note = _origin(job, settings, tried) | measured
    chip_note.write(output, job.id, image, valid, label, grid, roles=settings.roles, note=note, tried=tried)
    return _outcome(job, output, measured, reasons=tuple(reasons))
  return Outcome(job.id, dict(job.row), reasons=tuple(reasons) or (("", NO_IMAGERY),))


def window_box(bounds, settings: ChipSettings) -> tuple[float, float, float, float]:
  """(west, south, east, north) of a polygon's bounds with the margin around them, in degrees."""
  west, south, east, north = bounds
  lon, lat = (west + east) / 2, (south + north) / 2
  _, _, (across_m, up_m) = pyproj.Geod(ellps="WGS84").inv([west, lon], [lat, south], [east, lon], [lat, north])
  margin_m = max(settings.margin * max(across_m, up_m), settings.min_margin_m)
  up = margin_m / 111_000  # Degrees; a margin need not be exact.
  across = up / max(math.cos(math.radians(lat)), 1e-3)
  return max(west - across, -180.0), max(south - up, -90.0), min(east + across, 180.0), min(north + up, 90.0)


def scene_raster(scene: scenes.Scene, settings: ChipSettings) -> grids.Grid:
  """The grid of a scene's finest band, from its header; UserError where it cannot be read or has no place."""
  found = []
  for path in dict.fromkeys(band.path for _, band in scene.bands):
    with rasterfile.open_raster(path, drivers=settings.drivers, allow_remote=settings.allow_remote) as file:
      found.append(file.header().grid)
    if found[-1] is None:
      raise UserError(f"{path}: has no place on the ground, or rows that are not north up; warp it (gdalwarp)")
  return max(found, key=lambda grid: grid.height * grid.width)


def chip_grid(bounds, settings: ChipSettings, raster: grids.Grid | None) -> grids.Grid | None:
  """The grid of a chip over a polygon's bounds in degrees; None where it misses the raster.

  Args:
    bounds: (west, south, east, north) of the polygon.
    settings: with gsd_m 0 the grid is a cut of `raster`, else one in UTM.
    raster: `scene_raster` of the scene; unused with a gsd_m.
  """
  box = window_box(bounds, settings)
  if settings.gsd_m:
    return grids.utm_grid(box, gsd_m=settings.gsd_m, min_size=settings.min_size_px)
  return grids.native_grid(raster, box, min_size=settings.min_size_px)


def _cut(job, scene, settings):
  """(image, valid, label, grid, measured) of a job from one scene; Unfit where that serves not."""
  grid = chip_grid(job.bounds, settings, None if settings.gsd_m else scene_raster(scene, settings))
  if grid is None:
    raise Unfit(NO_IMAGERY)
  size = max(grid.height, grid.width)
  if size > settings.max_size_px:
    raise Unfit(f"too large: {size} px > {settings.max_size_px} px; set a larger --gsd_m")
  own, *others = shapely.from_wkb(list(job.geometries))
  mine = grids.rasterize([own], grid)
  if not mine.any():
    raise Unfit("too small: no pixel centre inside the polygon, which is smaller than a pixel or beyond the image")
  access = dict(drivers=settings.drivers, allow_remote=settings.allow_remote)
  image, valid, cloud = scenes.read_scene(scene, grid, roles=settings.roles, **access)
  cloud_share = _check_view(scene, valid, cloud, _covered_share(job, grid, settings), settings)
  if cloud is not None and settings.mask_clouds:
    valid = valid & ~cloud
  if not valid[mine == 1].any():
    raise Unfit("too little data: no pixel of the polygon holds any without clouds")
  label = np.maximum(mine, grids.rasterize(others, grid))
  measured = {
    "scene": scene.id,
    "scene_sensor": "reflectance" if scene.sensor == "auto" else scene.sensor,
    "product": _product(scene),
    "date": scene.date,
    "height": str(grid.height),
    "width": str(grid.width),
    "gsd_m": f"{grid.gsd_m:.3f}",
    "valid_share": f"{valid.mean():.4f}",
    "cloud_share": "" if cloud_share is None else f"{cloud_share:.4f}",
    "mine_share": f"{label.mean():.4f}",
  }
  return resize.blank(image, label, valid)[0], valid, label, grid, measured


def _check_view(scene, valid, cloud, covered_share, settings):
  """Cloud share of the pixels that hold data, None where unknown; Unfit where too few do or too many are cloudy."""
  valid_share = covered_share * valid.mean()
  if valid_share < settings.min_valid:
    raise Unfit(f"too little data: valid {_percent(valid_share)} < {_percent(settings.min_valid)}")
  if cloud is None:
    return None
  cloud_share = (cloud & valid).sum() / max(valid.sum(), 1)
  if cloud_share > settings.max_cloud:
    kind = scene.quality[0].upper()
    raise Unfit(f"cloudy: {_percent(cloud_share)} ({kind}) > {_percent(settings.max_cloud)}")
  return cloud_share


def _covered_share(job, grid, settings):
  """Share of the window that the grid holds: less than 1 where the raster's border cuts it."""
  if settings.gsd_m:
    return 1.0
  window = shapely.box(*window_box(job.bounds, settings))
  west, south, east, north = grid.lonlat_bounds()
  if west > east:  # Across the 180 degree meridian; the window ends there, on its own side.
    west, east = (west, 180.0) if job.bounds[0] > 0 else (-180.0, east)
  return window.intersection(shapely.box(west, south, east, north)).area / window.area


def _finished(job, settings, output):
  """The outcome of a chip that is there already, whole and made from the same, or None."""
  note = chip_note.read(output, job.id, roles=settings.roles)
  if note is None:
    return None
  try:
    tried = job.scenes[: len(note["scenes"])]
    expected = _origin(job, settings, tried)
    if {key: note[key] for key in expected} != expected or not chip_note.same_sources(output, job.id, tried):
      return None
    return _outcome(job, output, {key: note[key] for key in MEASURED}, reused=True)
  except (KeyError, TypeError):  # A note that is none, or an older one.
    return None


def _origin(job, settings, tried):
  """What the note of a chip made from the last of the scenes `tried` says of its origin."""
  return {
    "id": job.id,
    "area_km2": job.row.get("area_km2", ""),
    "polygons": job.digest(),
    "settings": settings.digest(),
    "scenes": [[scene.id, scene.sensor] for scene in tried],
  }


def _outcome(job, output, measured, **kwargs):
  paths = (chip_note.image_path(output, job.id), chip_note.mask_path(output, job.id))
  hashes = {path.relative_to(output).as_posix(): files.sha256(path) for path in paths}
  return Outcome(job.id, {**job.row, **measured}, hashes, **kwargs)


def _product(scene):
  """The satellite family as the paper names it, "" where the encoding does not tell."""
  if scene.sensor.startswith("sentinel2"):
    return "Sentinel 2"
  if scene.sensor.startswith("landsat"):
    return "Landsat 9" if "LC09" in scene.id else "Landsat 8"
  return "HLS" if scene.sensor.startswith("hls") else ""


def _percent(share):
  return f"{100 * share:.4g} %"
