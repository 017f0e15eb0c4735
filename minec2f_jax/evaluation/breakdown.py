"""Scores by climate zone, sensor, region, commodity and mine size."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from minec2f_jax import metrics

UNKNOWN = "unknown"
NO_MINE = "no mine"  # The first of the sizes.
# Name of a factor -> key of an image's metadata. `product` is the sensor family, as data.folder has it.
FACTORS = {
  "climate zone": "climate_zone",
  "sensor": "product",
  "region": "region",
  "commodity": "commodity",
  "mine size": "area_km2",
}
# Mined areas spread over four orders of magnitude, about log-normally, so bins are decades. Of 100 polygons of Maus et
# al. 2022 from 34 countries 79 are below 1 km2, 98 below 10; the paper's smallest fine mine has 9.81 km2 (supplement,
# Sec. 7.2). So the first bins hold most coarse mines, the last two nearly all fine ones.
SIZE_EDGES_KM2 = (1.0, 10.0, 100.0)
MIN_IMAGES = 10  # Below, a bootstrap interval over images holds its level badly (`intervals`), and one image sways all.
_ORDERS = {"climate_zone": ("tropical", "arid", "temperate", "cold", "polar")}  # Koeppen-Geiger A to E.


@dataclasses.dataclass(frozen=True)
class Group:
  """The images that share a value of a factor.

  Attributes:
    factor: e.g. "climate zone".
    name: e.g. "arid", or UNKNOWN.
    places: their indices in the set.
    confusion: their confusion counts; its `compute()` gives the scores.
    num_images: how many have a valid pixel.
    small: fewer than `min_images`: print the count beside the score, draw no conclusion.
  """

  factor: str
  name: str
  places: tuple[int, ...]
  confusion: metrics.ConfusionMatrix
  num_images: int
  small: bool


def breakdown(
  confusion: metrics.ConfusionMatrix,
  metadata: Sequence[Mapping],
  *,
  factors: Mapping[str, str | tuple[str, ...]] = FACTORS,
  edges_km2: Sequence[float] = SIZE_EDGES_KM2,
  min_images: int = MIN_IMAGES,
) -> dict[str, list[Group]]:
  """The groups of each factor; those of one factor hold every image once.

  Args:
    confusion: of N images.
    metadata: N mappings, in the same order. A value that is missing, blank, None or NaN is UNKNOWN.
    factors: name -> metadata key, or keys whose values are combined ("arid, Sentinel 2"). Key area_km2 is grouped by
      `edges_km2`.
    edges_km2: ascending; an area on an edge belongs to the upper bin.
    min_images: below, a group is flagged as small.

  Returns:
    factor -> groups: sizes ascending, climate zones from tropical to polar, others by name; UNKNOWN last.
  """
  if len(metadata) != len(confusion.counts):
    raise ValueError(f"{len(metadata)} metadata for {len(confusion.counts)} images; give one mapping an image")
  if list(edges_km2) != sorted(set(edges_km2)):
    raise ValueError(f"edges_km2={edges_km2} must ascend")
  result = {}
  for factor, keys in factors.items():
    keys = (keys,) if isinstance(keys, str) else keys
    places = {}
    for i, told in enumerate(metadata):
      ranked = tuple(_ranked(key, told.get(key), edges_km2) for key in keys)
      places.setdefault(ranked, []).append(i)
    result[factor] = [
      _group(factor, ", ".join(name for _, name in ranked), places[ranked], confusion, min_images)
      for ranked in sorted(places)
    ]
  return result


def mine_areas_km2(confusion: metrics.ConfusionMatrix, gsd_m) -> np.ndarray:
  """[N] km2 of labelled mine on valid pixels, for data that tell no area: less than the mine's where the image cuts it.

  NaN for an image without a valid pixel.

  Args:
    confusion: of N images.
    gsd_m: pixel size in metres: a number, [N], or [N, 2] (height, width); NaN where unknown.
  """
  sides = np.asarray(gsd_m, np.float64)
  pixel_m2 = sides.prod(axis=1) if sides.ndim == 2 and sides.shape[1] == 2 else sides.reshape(-1) ** 2
  seen = confusion.counts.sum(axis=(1, 2)) > 0
  return np.where(seen, confusion.counts[:, 1].sum(axis=1) * pixel_m2 / 1e6, np.nan)


def _group(factor, name, places, confusion, min_images) -> Group:
  chosen = metrics.ConfusionMatrix(confusion.counts[places])
  count = int((chosen.counts.sum(axis=(1, 2)) > 0).sum())
  return Group(factor, name, tuple(places), chosen, count, count < min_images)


def _ranked(key, value, edges_km2) -> tuple[int, str]:
  """(place in the order of groups, name) of a metadata value."""
  if key == "area_km2":
    return _size(value, edges_km2)
  name = UNKNOWN if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip() or UNKNOWN
  order = _ORDERS.get(key, ())
  return (order.index(name) if name in order else len(order) + (name == UNKNOWN)), name


def _size(value, edges_km2) -> tuple[int, str]:
  area = math.nan if value in (None, "") else float(value)
  if math.isnan(area):
    return len(edges_km2) + 1, UNKNOWN
  if area < 0:
    raise ValueError(f"area_km2={value!r} must not be negative")
  if area == 0:
    return -1, NO_MINE
  place = int(np.searchsorted(edges_km2, area, side="right"))
  ends = [f"{edge:g}" for edge in edges_km2]
  if not ends:
    return 0, "all"
  names = [f"< {ends[0]} km²", *(f"{a}–{b} km²" for a, b in zip(ends, ends[1:])), f"≥ {ends[-1]} km²"]
  return place, names[place]
