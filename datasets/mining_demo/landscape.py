"""Synthetic six-band landscapes with mines in them: pure NumPy/SciPy, a few tens of milliseconds each.

Ground distances are in metres throughout.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from datasets.mining_demo import mine, paint

SENSORS = ("sentinel2", "landsat8")
# Zones 1 to 5, as Koeppen's A to E.
CLIMATES = ("tropical", "arid", "temperate", "continental", "polar")


class _Zone(NamedTuple):
  """What grows and lies where no one has touched it, and how often each of man's works is there."""

  tall: str
  low: str
  grounds: tuple[str, str]
  moisture: float
  lake: float
  fields: float
  town: float
  snow: float = 0.0


_ZONES = {
  1: _Zone("forest", "grass", ("red_soil", "brown_soil"), 0.9, 0.4, 0.4, 0.4),
  2: _Zone("dry_grass", "dry_grass", ("sand", "rock"), -1.3, 0.2, 0.15, 0.5),
  3: _Zone("forest", "grass", ("brown_soil", "rock"), 0.4, 0.4, 0.9, 0.7),
  4: _Zone("conifer", "dry_grass", ("brown_soil", "gravel"), 0.5, 0.5, 0.6, 0.5),
  5: _Zone("tundra", "tundra", ("rock", "gravel"), -0.5, 0.5, 0.0, 0.2, snow=0.5),
}


class Scene(NamedTuple):
  """One synthetic chip.

  Attributes:
    image: [H, W, 6] float32 surface reflectance, bands as in ROLES; 0 where invalid.
    fine: [H, W] uint8 in {0, 1}, 1 = pit, dump, tailings, haul road or plant; known under the gaps too.
    valid: [H, W] bool, False = no data.
    zone: climate zone, 1 to 5, as in CLIMATES.
    sensor: index into SENSORS.
  """

  image: np.ndarray
  fine: np.ndarray
  valid: np.ndarray
  zone: int
  sensor: int


def landscape(
  rng: np.random.Generator | int, *, size: int = 128, gsd_m: float = 20.0, zone: int | None = None
) -> Scene:
  """Returns one landscape with a mine near its centre, its exact mask and its gaps.

  Args:
    rng: generator or integer seed; the same seed gives the same scene.
    size: height and width in pixels.
    gsd_m: pixel size; the objects keep their size in metres, so a larger chip shows more land around the mine.
    zone: climate zone 1 to 5, or None to draw one.
  """
  rng = np.random.default_rng(rng)
  zone = int(rng.integers(1, 6)) if zone is None else zone
  sensor = int(rng.integers(len(SENSORS)))
  axis = ((np.arange(size) - (size - 1) / 2) * gsd_m).astype(np.float32)
  grid = paint.Grid(*np.meshgrid(axis, axis), gsd_m)
  relief_m = 80.0 * math.exp(0.5 * rng.standard_normal())
  height = relief_m * paint.fractal(rng, grid, 3.6)
  image = _nature(rng, grid, height, _ZONES[zone])
  _settle(rng, grid, image, _ZONES[zone])
  fine, height = mine.add_mine(rng, grid, image, height, _ZONES[zone].low)
  image = _observe(rng, image * _shading(rng, grid, height)[..., None], sensor, gsd_m)
  valid = _valid(rng, grid)
  return Scene(np.where(valid[..., None], image, 0).astype(np.float32), fine.astype(np.uint8), valid, zone, sensor)


def _nature(rng, grid: paint.Grid, height: np.ndarray, zone: _Zone) -> np.ndarray:
  """Returns the reflectance [H, W, 6] of the land as it was: soils, vegetation, lakes, a river, snow."""
  rugged, texture = paint.fractal(rng, grid, 2.2), 0.10 * paint.fractal(rng, grid, 1.2)
  ground = paint.mix(*(paint.spectrum(rng, g) for g in zone.grounds), paint.sigmoid(2 * paint.fractal(rng, grid, 2.6)))
  # Natural clays look like mines in SWIR2.
  ground[..., 5] *= 1 - 0.30 * paint.sigmoid(2 * paint.fractal(rng, grid, 3.0))
  low_land = -height / max(height.std(), 1e-6)
  greenness = zone.moisture + 0.3 * rng.standard_normal() + 0.8 * rugged + 0.4 * low_land
  image = paint.mix(ground, paint.spectrum(rng, zone.low), paint.sigmoid((greenness + 0.4) / 0.2))
  image = paint.mix(image, paint.spectrum(rng, zone.tall), paint.sigmoid((greenness - 0.6) / 0.1))
  image *= np.exp(texture)[..., None]
  if rng.random() < zone.snow:
    image = paint.mix(image, paint.spectrum(rng, "snow"), paint.sigmoid((rugged - 0.5 * low_land - 1.5) / 0.1))
  if rng.random() < 0.6:
    distance, width_m = paint.line(rng, grid, 250.0), rng.uniform(15, 70)
    paint.fill(image, distance < width_m * (1.8 + rugged), paint.spectrum(rng, "gravel"), texture)
    paint.fill(image, distance < width_m, paint.spectrum(rng, rng.choice(["water", "turbid"])), texture)
  if rng.random() < zone.lake:
    shore = low_land + 0.15 * rugged - np.quantile(low_land, rng.uniform(0.85, 0.97))
    paint.fill(image, shore > -0.12, paint.spectrum(rng, zone.grounds[0]), texture)
    paint.fill(image, shore > 0, paint.spectrum(rng, rng.choice(["water", "turbid"])), texture)
  return image


def _settle(rng, grid: paint.Grid, image: np.ndarray, zone: _Zone) -> None:
  """Paints what people without a mine do, in place: fields, clearings, towns, roads."""
  texture = 0.10 * paint.fractal(rng, grid, 1.2)
  if rng.random() < zone.fields:
    _fields(rng, grid, image, texture)
  for _ in range(rng.poisson(1.2)):  # Bare land that is no mine: burnt, grazed or built on.
    x, y = rng.uniform(-0.5, 0.5, 2) * grid.extent_m
    where = paint.blob(rng, grid, x, y, rng.uniform(80, 350), 0.35 * paint.fractal(rng, grid, 2.4)) > 0
    paint.fill(image, where, paint.spectrum(rng, rng.choice([*zone.grounds, "fallow", "clay"])), 1.5 * texture)
  for _ in range(rng.poisson(1.5)):
    paint.fill(
      image,
      paint.line(rng, grid, 120.0) < rng.uniform(8, 16),
      paint.spectrum(rng, rng.choice(["asphalt", zone.grounds[0]])),
      texture,
    )
  if rng.random() < zone.town:
    _town(rng, grid, image)


def _fields(rng, grid: paint.Grid, image: np.ndarray, texture: np.ndarray) -> None:
  u, v = paint.rotated(rng, grid)
  cuts_u, cuts_v = (np.cumsum(rng.uniform(90, 380, 60)) - 3000 for _ in range(2))
  column, row = np.searchsorted(cuts_u, u), np.searchsorted(cuts_v, v)
  kinds = np.stack([paint.spectrum(rng, k) for k in ("crop", "crop", "grass", "dry_grass", "fallow", "fallow")])
  parcels = kinds[rng.integers(len(kinds), size=(61, 61))] * np.exp(0.15 * rng.standard_normal((61, 61, 1)))
  farmed = paint.fractal(rng, grid, 3.6) > rng.uniform(-0.8, 0.8)
  hedge = np.minimum(np.abs(u - cuts_u[np.minimum(column, 59)]), np.abs(v - cuts_v[np.minimum(row, 59)])) < 10
  farmed &= ~hedge
  image[farmed] = (parcels[row, column] * np.exp(0.5 * texture)[..., None])[farmed]


def _town(rng, grid: paint.Grid, image: np.ndarray) -> None:
  x, y = rng.uniform(-0.5, 0.5, 2) * grid.extent_m
  where = paint.blob(rng, grid, x, y, rng.uniform(250, 650), 0.25 * paint.fractal(rng, grid, 2.6)) > 0
  u, v = paint.rotated(rng, grid)
  block_m = rng.uniform(90, 150)
  kinds = np.stack([paint.spectrum(rng, k) for k in ("roof", "concrete", "metal", "asphalt", "grass")])
  plot = rng.choice(len(kinds), size=where.shape, p=[0.35, 0.3, 0.1, 0.1, 0.15])
  quarter = rng.integers(len(kinds), size=(97, 97))[(u // block_m).astype(int) % 97, (v // block_m).astype(int) % 97]
  houses = 0.65 * kinds[plot] + 0.35 * kinds[quarter]
  street = np.minimum(u % block_m, v % block_m) < 20
  houses[street] = 0.7 * kinds[3] + 0.3 * houses[street]
  image[where] = houses[where]


def _shading(rng, grid: paint.Grid, height: np.ndarray) -> np.ndarray:
  """Returns the relative illumination [H, W] of the terrain, 1 on flat ground (Lambert, plus diffuse light)."""
  azimuth, elevation = rng.uniform(0, 2 * np.pi), math.radians(rng.uniform(35, 70))
  slope_y, slope_x = np.gradient(ndimage.gaussian_filter(height, 0.7), grid.gsd_m)
  facing = 1 - (slope_x * math.cos(azimuth) + slope_y * math.sin(azimuth)) / math.tan(elevation)
  direct = np.clip(facing / np.sqrt(1 + slope_x**2 + slope_y**2), 0, 2)
  return 0.3 + 0.7 * direct


def _observe(rng, image: np.ndarray, sensor: int, gsd_m: float) -> np.ndarray:
  """Returns what the sensor sees: mixed pixels, an imperfect atmospheric correction, noise."""
  blur = (12.0, 17.0)[sensor] / gsd_m  # Deviation of the point spread: Landsat's 30 m pixels are the coarser.
  seen = ndimage.gaussian_filter(image, (blur, blur, 0))
  gain = np.exp(0.06 * rng.standard_normal() + 0.03 * rng.standard_normal(6))
  haze = abs(rng.normal(0, 0.012)) * np.array([1.0, 0.7, 0.5, 0.25, 0.08, 0.05])
  noise = (0.003, 0.002)[sensor] * rng.standard_normal(image.shape, np.float32)
  return np.clip(seen * gain + haze + noise, 1e-4, 1.2)


def _valid(rng, grid: paint.Grid) -> np.ndarray:
  """Returns [H, W] bool; one scene in ten lies at the swath's edge (a wedge) or lost some scan lines (stripes)."""
  kind = rng.random()
  angle = rng.uniform(0, 2 * np.pi)
  across = grid.x * math.cos(angle) + grid.y * math.sin(angle)
  if kind < 0.06:
    return across < rng.uniform(0.15, 0.5) * grid.extent_m
  if kind < 0.10:
    return (across / grid.gsd_m) % rng.uniform(12, 24) > 2
  return np.ones(grid.x.shape, bool)
