"""The summary of vectorised maps: a table by country, totals in pixels, and what was done to the outlines."""

import pathlib
from collections.abc import Sequence

import numpy as np
import shapely

from minec2f_jax import console, files
from minec2f_jax.mapping import ground, tables
from minec2f_jax.mapping.countries import Country

COLUMNS = ("ISO3_CODE", "COUNTRY_NAME", "AREA", "N_FEATURES", "MEDIAN", "LARGEST")
HEADINGS = {
  "ISO3_CODE": "ISO3_CODE",
  "COUNTRY_NAME": "COUNTRY_NAME",
  "AREA": "AREA (km²)",
  "N_FEATURES": "N_FEATURES",
  "MEDIAN": "median (km²)",
  "LARGEST": "largest (km²)",
}
_ALL = Country("", "all")
_NOTICEABLE = 0.01
_HONEST = (
  "A mapped area is a count of pixels and no estimate: errors of the map do not cancel. For an estimate with an "
  "interval draw a reference sample and label it (Olofsson et al. 2014, doi:10.1016/j.rse.2014.02.015)."
)


def summarize(mapped, ranked, lands: Sequence[Country], astride: int, boundaries):
  """Rows by country, or one of all, and the notes."""
  areas = [mine.area_km2 for _, mine in ranked]
  rows = tables.by_country(lands, areas) if boundaries and ranked else []
  rows = rows or [{"ISO3_CODE": _ALL.code, "COUNTRY_NAME": _ALL.name, **tables.statistics(areas)}]
  return rows, [*_totals(mapped), *_effects(mapped), *_places(mapped, ranked, lands, astride, boundaries), _HONEST]


def write(output, rows: Sequence[dict], notes: Sequence[str]) -> list[pathlib.Path]:
  """Writes summary.csv and summary.md, and says them."""
  folder, shown = pathlib.Path(output), with_total(rows)
  files.write_text(folder / "summary.csv", tables.to_csv(rows, COLUMNS))
  table = tables.to_markdown(shown, HEADINGS)
  files.write_text(folder / "summary.md", f"# Mines\n\n{table}\n{tables.listing(notes)}")
  for line in (*tables.aligned(shown, HEADINGS), "", *notes):
    console.say(line)
  return [folder / "summary.csv", folder / "summary.md"]


def with_total(rows: Sequence[dict]) -> list[dict]:
  """The rows, and where they are several, their sum."""
  if len(rows) < 2:
    return list(rows)
  sums = {name: sum(row[name] for row in rows) for name in ("AREA", "N_FEATURES")}
  largest = max(row["LARGEST"] for row in rows)
  return [*rows, {"ISO3_CODE": "", "COUNTRY_NAME": "all", **sums, "MEDIAN": None, "LARGEST": largest}]


def _totals(mapped) -> list[str]:
  lines = []
  for entry in mapped:
    t = entry.totals
    lines.append(
      f"{entry.source.name}: {t.mine_px:,} mine pixels, {tables.km2(t.mine_km2)}, of {t.valid_px:,} valid ones, "
      f"{tables.km2(t.valid_km2)}; {t.all_px - t.valid_px:,} pixels are not valid and count nowhere"
    )
  return lines


def _effects(mapped) -> list[str]:
  """What cleaning did to the area."""
  effects = [entry.effect for entry in mapped]
  total = lambda name: sum(getattr(effect, name) for effect in effects)
  mine_km2, lines = sum(entry.totals.mine_km2 for entry in mapped), []
  if total("filled_holes"):
    lines.append(f"{total('filled_holes'):,} holes were filled: +{tables.km2(total('filled_km2'))}")
  if total("dropped"):
    lines.append(
      f"{total('dropped'):,} outlines below the least area were left out: -{tables.km2(total('dropped_km2'))}"
    )
  if total("simplified_km2"):
    gain = total("simplified_km2")
    lines.append(f"simplification changed the area by {'+' if gain > 0 else '-'}{tables.km2(abs(gain))}")
    if abs(gain) > _NOTICEABLE * mine_km2:
      lines[-1] += f", {100 * abs(gain) / mine_km2:.1f} % of the mine pixels': small mines lose most; simplify less"
  return lines


def _places(mapped, ranked, lands, astride: int, boundaries) -> list[str]:
  lines = []
  cut_off = sum(mine.outline.cut_off for _, mine in ranked)
  if cut_off:
    lines.append(f"{cut_off:,} outlines end at the edge of the data (CUT_OFF = 1): those mines may go on beyond it")
  shared = _overlap_km2(ranked) if len(mapped) > 1 else 0.0
  if shared:
    lines.append(f"scenes overlap: {tables.km2(shared)} of mine lies in two of them and counts twice")
  if boundaries:
    boundaries, outside = pathlib.Path(boundaries).name, sum(not any(land) for land in lands)
    if ranked and outside == len(lands):
      lines.append(f"no outline lies in any country of {boundaries}: check its reference system, or give another file")
    elif outside:
      lines.append(f"{outside:,} outlines lie in no country of {boundaries}")
    if astride:
      lines.append(f"{astride:,} outlines lie in several countries: each counts, whole, where most of it lies")
  return lines


def _overlap_km2(ranked) -> float:
  """Area that mines of different scenes have in common: it counts in each of them."""
  geometries = np.array([mine.geometry for _, mine in ranked], object)
  pairs = shapely.STRtree(geometries).query(geometries, predicate="intersects").T.tolist()
  across = [(a, b) for a, b in pairs if a < b and ranked[a][0].name != ranked[b][0].name]
  shared = [ground.polygons_of(geometries[a] & geometries[b]) for a, b in sorted(across)]
  return sum(ground.area_km2(part) for parts in shared for part in parts)
