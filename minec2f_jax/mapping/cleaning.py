"""What an analyst may want done to outlines: small ones left out, holes filled, staircases smoothed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import shapely

from minec2f_jax.errors import UserError
from minec2f_jax.mapping import ground
from minec2f_jax.mapping.seams import Outline


class Cleaning(NamedTuple):
  """How outlines are cleaned; 0 switches a step off, so that the default keeps every pixel as it was mapped.

  Attributes:
    fill_holes_m2: holes smaller than this become mine.
    min_area_m2: outlines smaller than this, holes filled, are left out.
    simplify_m: vertices whose triangle with both neighbours is smaller than the square of this go (Visvalingam &
      Whyatt 1993), as long as no outlines cross or overlap; the pixel's side is enough to smooth staircases.
  """

  fill_holes_m2: float = 0.0
  min_area_m2: float = 0.0
  simplify_m: float = 0.0

  def check(self):
    """Raises where a value is below 0 or no number."""
    wrong = [f"{name}={value:g}" for name, value in self._asdict().items() if not 0.0 <= value < float("inf")]
    if wrong:
      raise UserError(f"{', '.join(wrong)}: give a finite number, 0 or above")


class Mine(NamedTuple):
  """An outline on the ground.

  Attributes:
    geometry: longitude and latitude, EPSG:4326.
    area_km2: of the geometry on the ellipsoid.
    outline: what was mapped.
  """

  geometry: shapely.Polygon | shapely.MultiPolygon
  area_km2: float
  outline: Outline


class Effect(NamedTuple):
  """What cleaning did to the area, in km2, and to how many outlines or holes."""

  filled_km2: float
  filled_holes: int
  dropped_km2: float
  dropped: int
  simplified_km2: float


def clean(outlines: Iterable[Outline], place: ground.Ground, how: Cleaning) -> tuple[list[Mine], Effect]:
  """The outlines that stay, on the ground, and what cleaning did to them; takes them one by one, keeps what stays."""
  how.check()
  kept, filled, holes, dropped = [], 0.0, 0, []
  for outline in outlines:
    geometry, gain, count = _filled(outline.geometry, place, how.fill_holes_m2)
    mine = _grounded(outline._replace(geometry=geometry), place)
    if 1e6 * mine.area_km2 < how.min_area_m2:
      dropped.append(mine.area_km2)
      continue
    kept.append(mine)
    filled, holes = filled + gain, holes + count
  kept.sort(key=lambda mine: (mine.outline.geometry.bounds, mine.outline.pixels))  # Whatever the tiles were.
  before = sum(mine.area_km2 for mine in kept)
  if how.simplify_m and kept:
    kept = _simplified(kept, place, how.simplify_m)
  gained = sum(mine.area_km2 for mine in kept) - before
  return kept, Effect(filled, holes, sum(dropped), len(dropped), gained)


def _grounded(outline: Outline, place: ground.Ground) -> Mine:
  geometry = place.outline(outline.geometry)
  return Mine(geometry, ground.area_km2(geometry), outline)


def _filled(polygon: shapely.Polygon, place: ground.Ground, limit_m2: float):
  """The polygon without its holes below a limit, the km2 that it gained and how many they were."""
  if not (limit_m2 and polygon.interiors):
    return polygon, 0.0, 0
  areas = [1e6 * ground.area_km2(place.outline(shapely.Polygon(ring))) for ring in polygon.interiors]
  small = [area for area in areas if area < limit_m2]
  left = [ring for ring, area in zip(polygon.interiors, areas) if area >= limit_m2]
  return shapely.Polygon(polygon.exterior, left), sum(small) / 1e6, len(small)


def _simplified(mines: Sequence[Mine], place: ground.Ground, tolerance_m: float) -> list[Mine]:
  """All outlines at once, so that they stay apart, and corners in which two of them touch stay."""
  metres = np.array(place.sides_m)[::-1]  # Of a column, of a row.
  covering = shapely.transform([mine.outline.geometry for mine in mines], lambda xy: xy * metres)
  smoother = shapely.transform(shapely.coverage_simplify(covering, tolerance_m), lambda xy: xy / metres)
  return [_grounded(mine.outline._replace(geometry=shape), place) for mine, shape in zip(mines, smoother)]
