"""Dealing places to train, validation and test.

`deal_groups` deals groups somebody has named. `spatial_split` makes the groups itself, from places:
blocks of a grid, and a buffer between splits, since neighbours look alike even across a block's edge
(Roberts et al. 2017, Ecography 40: 913-929).
"""

import collections
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from minec2f_jax.errors import UserError

SHARES = {"train": 70, "validation": 10, "test": 20}  # Percent of chips; the paper's 70:10:20.

_WGS84_A_M, _WGS84_E2 = 6378137.0, 6.69437999014e-3  # Equatorial radius, squared eccentricity.


class SplitError(UserError):
  """Boxes or distances that cannot be split by; the message names them and the remedy."""


class SpatialSplit(NamedTuple):
  """One entry a box, in the order of the boxes.

  Attributes:
    split: "train", "validation", "test", or "" where the box is left out.
    group: the block of the box's centre, left out or not; a block lies in one split.
    reason: why the box is left out, or "".
  """

  split: tuple[str, ...]
  group: tuple[str, ...]
  reason: tuple[str, ...]


def deal_groups(sizes: Mapping[str, int], fixed: Mapping[str, str], *, missing: Sequence[str], salt: str = ""):
  """Group -> split: whole groups dealt towards 70/10/20 % of chips, without a random state.

  In the order of the SHA-256 of its name, each group goes to the split that lacks the largest part
  of its share and has room for the group, else to train; the last groups go to splits still empty.
  So the outcome depends on the groups and their sizes alone, not on the order of rows, and three
  groups suffice for three splits.

  Args:
    sizes: group -> number of chips.
    fixed: group -> split that is settled; groups outside `sizes` are ignored.
    missing: the held-out splits to deal, out of "validation" and "test"; the rest is train.
    salt: put before each name when it is hashed; another salt is another deal.
  """
  splits = {group: fixed[group] for group in sizes if group in fixed}
  total = sum(sizes.values())
  lacking = {s: SHARES[s] * total for s in ("train", *missing)}  # In hundredths of a chip.
  for group, split in splits.items():
    if split in lacking:
      lacking[split] -= 100 * sizes[group]
  free = sorted((g for g in sizes if g not in splits), key=lambda g: hashlib.sha256((salt + g).encode()).hexdigest())
  for position, group in enumerate(free):
    choices = [s for s in lacking if s not in splits.values()]
    if len(free) - position > len(choices):
      choices = [s for s in lacking if lacking[s] >= 100 * sizes[group]] or ["train"]
    splits[group] = max(choices, key=lambda split: lacking[split] / SHARES[split])
    lacking[splits[group]] -= 100 * sizes[group]
  return splits


def spatial_split(
  lonlat_boxes,
  *,
  block_km: float = 50.0,
  buffer_km: float = 5.0,
  seed: int = 0,
  keep_away=(),
) -> SpatialSplit:
  """Train, validation and test of boxes on the globe, with `buffer_km` or more between any two splits.

  Boxes near `keep_away` are left out first. Of the others, each belongs to the block of its centre,
  and whole blocks are dealt by `deal_groups`. Then validation boxes too near to a test box are left
  out, then train boxes too near to what is held out: test stays whole, train pays.

  Distance is never overestimated: it is the straight line between two centres on the WGS 84
  ellipsoid, less both boxes' circumradii. So a box may be left out that is somewhat farther away.

  Args:
    lonlat_boxes: [N, 4] west, south, east, north in degrees; west > east crosses the 180 degree meridian.
    block_km: side of a block; its area is block_km**2 everywhere, its shape only at 30 degrees of latitude a square.
    buffer_km: smallest distance between boxes of different splits.
    seed: another seed is another deal of the blocks.
    keep_away: [M, 4] boxes that none may be nearer to than `buffer_km`, e.g. the student's sites when
      the teacher's set is split.

  Returns:
    A `SpatialSplit`.

  Raises:
    SplitError: boxes or distances that are not in order.
  """
  boxes, sites = _checked(lonlat_boxes, "lonlat_boxes"), _checked(keep_away, "keep_away")
  if not (0 < block_km < np.inf and 0 <= buffer_km < np.inf):
    raise SplitError(
      f"block_km={block_km}, buffer_km={buffer_km}: give a block above 0 km and a buffer of 0 km or more"
    )
  group = _blocks(*_centres(boxes), block_km)
  balls = _bounding_balls(boxes)
  reason = _conflicts(balls, range(len(boxes)), _bounding_balls(sites), range(len(sites)), buffer_km, "keep_away")
  sizes = collections.Counter(g for i, g in enumerate(group) if i not in reason)
  split_of = deal_groups(sizes, {}, missing=("validation", "test"), salt=f"{seed}:")

  def members(*wanted):
    return [i for i, g in enumerate(group) if i not in reason and split_of[g] in wanted]

  reason |= _conflicts(balls, members("validation"), balls, members("test"), buffer_km, "test")
  reason |= _conflicts(balls, members("train"), balls, members("validation", "test"), buffer_km, "held-out")
  split = tuple("" if i in reason else split_of[g] for i, g in enumerate(group))
  return SpatialSplit(split, group, tuple(reason.get(i, "") for i in range(len(boxes))))


@functools.cache
def _equal_area():
  import pyproj  # Loads PROJ's database.

  return pyproj.Transformer.from_crs("EPSG:4326", "EPSG:6933", always_xy=True)


def _blocks(lon, lat, block_km):
  """Ids, e.g. "b-12_34", of the block_km x block_km blocks that hold places: column east, row north of 0, 0.

  The grid is that of EPSG:6933, a cylindrical equal-area projection true to scale at 30 degrees: a
  block covers block_km**2 everywhere (less at the 180 degree meridian and the poles, which cut it),
  but grows long and narrow towards the poles: at 50 degrees 1.35 block_km from south to north and
  0.74 block_km from west to east.
  """
  x_m, y_m = _equal_area().transform((lon + 180.0) % 360.0 - 180.0, lat)
  columns, rows = (np.floor(np.asarray(m) / (1000.0 * block_km)).astype(int).tolist() for m in (x_m, y_m))
  return tuple(f"b{column}_{row}" for column, row in zip(columns, rows, strict=True))


def _checked(boxes, name):
  """`boxes` as [N, 4] float64, or SplitError."""
  boxes = np.asarray(boxes, float)
  if not boxes.size:
    return np.zeros((0, 4))
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    raise SplitError(f"{name} has shape {boxes.shape}; give one row (west, south, east, north) a box")
  west, south, east, north = boxes.T
  on_globe = (np.abs([west, east]) <= 180).all(0) & (-90 <= south) & (south <= north) & (north <= 90)
  if not on_globe.all():
    broken = np.flatnonzero(~on_globe)
    shown = ", ".join(f"{i}: {tuple(boxes[i].tolist())}" for i in broken[:5])
    raise SplitError(
      f"{name}: {len(broken)} of {len(boxes)} boxes are no (west, south, east, north) in degrees, e.g. box "
      f"{shown}; correct them"
    )
  return boxes


def _centres(boxes):
  """Longitudes and latitudes, [N] each."""
  west, south, east, north = boxes.T
  return west + _half_width(boxes), (south + north) / 2


def _half_width(boxes):
  west, _, east, _ = boxes.T
  return np.where(west <= east, east - west, east - west + 360.0) / 2


def _bounding_balls(boxes):
  """Centres [N, 3] in m from the earth's centre, and radii [N] in m of balls around them that hold the boxes.

  A box's farthest point from its centre is a corner. Straight lines through the earth are never
  longer than ways on it, so a gap between two balls is a lower bound of the distance of the boxes.
  """
  lon, lat = _centres(boxes)
  centres = _earth_centred(lon, lat)
  corners = [_earth_centred(lon + _half_width(boxes), edge) for edge in (boxes[:, 1], boxes[:, 3])]
  return centres, np.max([np.linalg.norm(corner - centres, axis=-1) for corner in corners], axis=0)


def _earth_centred(lon, lat):
  """[N, 3] m: where points of the WGS 84 ellipsoid lie (EPSG:4978)."""
  lon, lat = np.radians(lon), np.radians(lat)
  normal = _WGS84_A_M / np.sqrt(1 - _WGS84_E2 * np.sin(lat) ** 2)
  return np.stack(
    [
      normal * np.cos(lat) * np.cos(lon),
      normal * np.cos(lat) * np.sin(lon),
      normal * (1 - _WGS84_E2) * np.sin(lat),
    ],
    axis=-1,
  )


def _conflicts(balls, suspects, other_balls, others, buffer_km, kind):
  """Suspect -> reason, for each whose ball is nearer than the buffer to the ball of one of `others`."""
  from scipy import spatial

  others = np.asarray(others, int)
  if not others.size:
    return {}
  (centres, radii), (other_centres, other_radii) = balls, (ball[others] for ball in other_balls)
  tree = spatial.cKDTree(other_centres)
  reach = 1000.0 * buffer_km + other_radii.max() + 1.0  # 1 m against rounding; the gap decides below.
  reasons = {}
  for i in suspects:
    near = np.array(tree.query_ball_point(centres[i], reach + radii[i], return_sorted=True), int)
    if not near.size:
      continue
    gaps = np.linalg.norm(other_centres[near] - centres[i], axis=-1) - other_radii[near] - radii[i]
    nearest = gaps.argmin()
    if gaps[nearest] < 1000.0 * buffer_km:
      gap_km = max(gaps[nearest], 0.0) / 1000
      reasons[i] = f"as near as {gap_km:.2f} km to {kind} box {others[near[nearest]]} (buffer {buffer_km:g} km)"
  return reasons
