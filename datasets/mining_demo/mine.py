"""Mines of the landscape: pits, dumps, tailings ponds, haul roads and plants."""

import math

import numpy as np

from datasets.mining_demo import paint
from datasets.mining_demo.spectra import COMMODITIES


def add_mine(
  rng, grid: paint.Grid, image: np.ndarray, height: np.ndarray, plants: str
) -> tuple[np.ndarray, np.ndarray]:
  """Paints one mine in place; returns its mask [H, W] bool and the new terrain height [H, W] in metres.

  Args:
    rng: generator.
    grid: ground coordinates.
    image: [H, W, 6] reflectance, changed in place.
    height: [H, W] terrain in metres, left as it is.
    plants: the material that grows over old dumps.
  """
  scale = math.exp(0.45 * rng.standard_normal())
  centre = rng.uniform(-0.28, 0.28, 2) * grid.extent_m
  ore, waste = (
    paint.spectrum(rng, rng.choice(COMMODITIES)),
    paint.spectrum(rng, rng.choice(["copper", "laterite", "iron"])),
  )
  ragged = 0.035 * paint.fractal(rng, grid, 2.4) + 0.24 * paint.fractal(rng, grid, 3.6)
  texture = 0.09 * paint.fractal(rng, grid, 1.4)
  mask, height = np.zeros(height.shape, bool), height.copy()
  places = []
  for build, count in ((_dump, rng.integers(1, 4)), (_tailings, rng.random() < 0.65), (_pit, rng.integers(1, 3))):
    for _ in range(int(count)):
      radius_m = scale * rng.uniform(220, 560)
      angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.0) * 1000 * scale
      spot = centre + (reach * np.array([math.cos(angle), math.sin(angle)]) if places else 0)
      depth = paint.blob(rng, grid, *spot, radius_m, ragged)
      build(rng, grid, image, height, depth, (ore, waste, paint.spectrum(rng, plants)), texture)
      mask |= depth > 0
      places.append(spot)
  roads = _haul_roads(rng, grid, places) & ~mask
  paint.fill(image, roads, 0.5 * (waste + paint.spectrum(rng, "gravel")), texture)
  plant = _plant(rng, grid, image, places[-1] + rng.uniform(-1, 1, 2) * 500 * scale)
  return mask | roads | plant, height


def _pit(rng, grid, image, height, depth, materials, texture) -> None:
  """Paints an open pit: benches of ore and waste that step down to a floor, sometimes flooded."""
  ore, waste, _ = materials
  inside = depth > 0
  bench_m = rng.uniform(45, 100)
  step = np.clip(depth // bench_m, 0, 63).astype(int)
  share = np.clip(np.cumsum(rng.normal(0, 0.35, 64)) + 0.5, 0, 1)[step]
  riser = (depth % bench_m < 22) * -0.3  # The steep face between two berms lies half in shade.
  rock = paint.mix(np.broadcast_to(waste, (*depth.shape, 6)), ore, share) * np.exp(texture + riser)[..., None]
  image[inside] = rock[inside]
  height[inside] -= (step * rng.uniform(12, 25))[inside]
  if rng.random() < 0.4:
    paint.fill(
      image, depth > rng.uniform(0.6, 0.85) * max(depth.max(), 1.0), paint.spectrum(rng, "pond"), 0.3 * texture
    )


def _dump(rng, grid, image, height, depth, materials, texture) -> None:
  """Paints a waste dump: a few wide lifts of broken rock, older parts grown over."""
  _, waste, plants = materials
  inside = depth > 0
  lift_m = rng.uniform(70, 160)
  lifts = np.minimum(np.maximum(depth, 0) // lift_m, 3)
  cover = rng.uniform(0, 0.8) * paint.sigmoid((paint.fractal(rng, grid, 2.2) - rng.uniform(0.2, 1.5)) / 0.2)
  rubble = paint.mix(waste * np.exp(texture + 0.1 * (depth % lift_m < 25))[..., None], plants, cover)
  image[inside] = rubble[inside]
  height[inside] += ((1 + lifts) * rng.uniform(10, 22))[inside]


def _tailings(rng, grid, image, height, depth, materials, texture) -> None:
  """Paints a tailings pond: dry beach, wet beach and open water behind one another, levelled by a dam."""
  inside = depth > 0
  u, _ = paint.rotated(rng, grid)
  towards = (u - u[inside].min()) / max(np.ptp(u[inside]), 1.0) if inside.any() else u
  level = towards + 0.12 * paint.fractal(rng, grid, 3.0)
  dry, wet = np.sort(rng.uniform(0.25, 1.0, 2))
  paint.fill(image, inside, 0.6 * paint.spectrum(rng, "tailings_dry") + 0.4 * materials[0], 0.5 * texture)
  paint.fill(image, inside & (level > dry), paint.spectrum(rng, "tailings_wet"), 0.5 * texture)
  paint.fill(image, inside & (level > wet), paint.spectrum(rng, "pond"), 0.2 * texture)
  paint.fill(image, inside & (depth < 25), materials[1], texture)
  height[inside] = np.median(height[inside]) if inside.any() else 0.0


def _haul_roads(rng, grid: paint.Grid, places: list) -> np.ndarray:
  """Returns [H, W] bool, True on the roads from every part of the mine to its last pit."""
  bend_x, bend_y = (60.0 * paint.fractal(rng, grid, 3.6) for _ in range(2))
  width_m = rng.uniform(14, 24)
  roads, end = np.zeros(grid.x.shape, bool), places[-1]
  for start in places[:-1]:
    along = end - start
    length = max(np.hypot(*along), 1.0)
    x, y = grid.x + bend_x - start[0], grid.y + bend_y - start[1]
    t = np.clip((x * along[0] + y * along[1]) / length**2, 0, 1)
    roads |= np.hypot(x - t * along[0], y - t * along[1]) < width_m
  return roads


def _plant(rng, grid: paint.Grid, image: np.ndarray, spot: np.ndarray) -> np.ndarray:
  """Paints a processing plant in place, a yard with a few halls; returns its mask [H, W] bool."""
  moved = paint.Grid(grid.x - spot[0], grid.y - spot[1], grid.gsd_m)
  u, v = paint.rotated(rng, moved)
  half_u, half_v = rng.uniform(60, 180, 2)
  yard = (np.abs(u) < half_u) & (np.abs(v) < half_v)
  paint.fill(image, yard, paint.spectrum(rng, "concrete"), 0.05 * rng.standard_normal(yard.shape))
  halls = yard & (u % rng.uniform(60, 110) < 35) & (v % rng.uniform(70, 130) < 70)
  paint.fill(image, halls, paint.spectrum(rng, "metal"), np.zeros(yard.shape))
  return yard
