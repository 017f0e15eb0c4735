"""From polygons and scenes to a list of chips to make: which windows, which split, which scenes."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import shapely

from minec2f_jax.data import chips, folder, polygons, scenes, splits
from minec2f_jax.errors import UserError


class Plan(NamedTuple):
  """`jobs`: chips to make, sorted by id; `left_out`: polygons for which no imagery will be read, with the reason."""

  jobs: tuple[chips.ChipJob, ...]
  left_out: tuple[chips.Outcome, ...]

  @property
  def none_meets(self) -> bool:
    """Whether there is no imagery for any polygon."""
    return not self.jobs and all(outcome.reasons == (("", chips.NO_IMAGERY),) for outcome in self.left_out)


def make_plan(
  wanted: Sequence[polygons.Polygon],
  every: Sequence[polygons.Polygon],
  imagery: Sequence[scenes.Scene],
  settings: chips.ChipSettings,
  *,
  domain: str,
  block_km: float,
  buffer_km: float,
  seed: int,
  keep_away: Sequence[polygons.Polygon] = (),
) -> Plan:
  """Deals the polygons that imagery covers to splits and lists their jobs.

  Polygons without imagery are left out before the splits are dealt: they would take places of a split and, by the
  buffer, take chips from the others, without ever becoming a chip.

  Args:
    wanted: polygons to make chips of.
    every: polygons to show in the masks, `wanted` among them.
    imagery: scenes to choose from.
    settings: how chips are cut.
    domain: "coarse" or "fine".
    block_km: side of the blocks that lie in one split.
    buffer_km: least distance between windows of different splits, and of all windows to `keep_away`.
    seed: deals the blocks anew.
    keep_away: sites that no chip may come near.
  """
  windows = [chips.window_box(polygon.geometry.bounds, settings) for polygon in wanted]
  found = scenes.candidates(imagery, windows, limit=None)
  rows = [_row(polygon, domain) for polygon in wanted]
  covered = [i for i, candidates in enumerate(found) if candidates]
  left_out = [_left_out(rows[i], chips.NO_IMAGERY) for i, candidates in enumerate(found) if not candidates]
  rasters = {}
  boxes = [_reach(wanted[i].geometry.bounds, windows[i], found[i], settings, rasters) for i in covered]
  dealt = splits.spatial_split(
    np.array(boxes, float).reshape(-1, 4),
    block_km=block_km,
    buffer_km=buffer_km,
    seed=seed,
    keep_away=np.array([polygon.geometry.bounds for polygon in keep_away], float).reshape(-1, 4),
  )
  jobs = []
  shown = polygons.neighbours(every, boxes)
  for place, i in enumerate(covered):
    if not dealt.split[place]:
      sites = keep_away if "keep_away" in dealt.reason[place] else [wanted[c] for c in covered]
      left_out.append(_left_out(rows[i], f"too near: {_named(dealt.reason[place], sites)}"))
      continue
    own = wanted[i].geometry
    others = [polygon.geometry for polygon in shown[place] if polygon.id != wanted[i].id]
    row = {**rows[i], "split": dealt.split[place], "location_group": dealt.group[place]}
    outlines = tuple(shapely.to_wkb([own, *others]).tolist())
    jobs.append(chips.ChipJob(wanted[i].id, own.bounds, outlines, row, tuple(found[i])))
  return Plan(tuple(jobs), tuple(left_out))


def _reach(bounds, window, candidates, settings, rasters: dict):
  """The lon/lat box that holds the chip whichever scene it comes from; west > east crosses the 180 degree meridian.

  Args:
    bounds: of the polygon.
    window: its window box.
    candidates: scenes.
    settings: how chips are cut.
    rasters: scene id -> grid, or None where unreadable; filled here, for a scene serves many polygons.
  """
  boxes = [window]
  for scene in candidates[:1] if settings.gsd_m else candidates:  # With a gsd_m all scenes give one grid.
    if not settings.gsd_m and scene.id not in rasters:
      try:
        rasters[scene.id] = chips.scene_raster(scene, settings)
      except UserError:
        rasters[scene.id] = None  # The chip's quarantine will tell.
    raster = rasters.get(scene.id)
    if settings.gsd_m or raster is not None:
      grid = chips.chip_grid(bounds, settings, raster)
      boxes += [] if grid is None else [grid.lonlat_bounds()]
  return _union(boxes, (bounds[0] + bounds[2]) / 2)


def _union(boxes, lon):
  """The box around boxes near a longitude; of all of them, west > east crosses the 180 degree meridian."""
  west, south, east, north = np.array(boxes, float).T
  west, east = lon + (west - lon + 180) % 360 - 180, lon + (east - lon + 180) % 360 - 180
  low, high = west.min(), east.max()
  return (low + 360 if low < -180 else low, south.min(), high - 360 if high > 180 else high, north.max())


def _row(polygon: polygons.Polygon, domain: str) -> Mapping[str, str]:
  """What the index says of a chip before it is made."""
  told = {name.lower(): value for name, value in polygon.attributes.items()}
  metadata = {name: told.get(name, "") for name in folder.METADATA}
  west, south, east, north = polygon.geometry.bounds
  return {
    **metadata,
    "id": polygon.id,
    "domain": domain,
    "sensor": "reflectance",
    "country": metadata["country"] or told.get("country_name", ""),
    "iso3": told.get("iso3_code", ""),
    "area_km2": repr(float(polygon.area_km2)),
    "lon": f"{(west + east) / 2:.6f}",
    "lat": f"{(south + north) / 2:.6f}",
  }


def _named(reason, sites):
  """The reason with ids instead of positions, which nobody outside knows."""
  return re.sub(r"box (\d+)", lambda match: sites[int(match[1])].id, reason)


def _left_out(row, reason):
  return chips.Outcome(row["id"], row, reasons=(("", reason),))
