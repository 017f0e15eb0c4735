"""Mines as polygons: from the masks of one scene or many to one vector file, with areas, countries and a summary.

The columns are those of Maus et al. (doi:10.1594/PANGAEA.910894): FID, ISO3_CODE, COUNTRY_NAME, AREA (km2, on the WGS
84 ellipsoid), geometries in EPSG:4326. Beside them PIXELS (of the map), PROB_MEAN (over these), CUT_OFF (1 = it ends at
the edge of the data), SCENE, SENSOR, DATE, MODEL (first digits of the SHA-256 of the weights); null where a map does
not tell.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minec2f_jax import console
from minec2f_jax.mapping import change, cleaning, countries, ground, layers, maps, seams, summary
from minec2f_jax.mapping.totals import Totals, count

FORMATS = ("gpkg", "geojson", "parquet")
NAME = "mines"
_MODEL_DIGITS = 12


class Result(NamedTuple):
  """What `vectorize` made.

  Attributes:
    files: what was written.
    rows: of summary.csv.
    notes: what the summary says beside its table.
    change: rows of change.csv, or [].
  """

  files: list[pathlib.Path]
  rows: list[dict]
  notes: list[str]
  change: list[dict]


class Mapped(NamedTuple):
  """A map and the mines in it."""

  source: maps.Map
  mines: list[cleaning.Mine]
  effect: cleaning.Effect
  totals: Totals


def vectorize(
  inputs,
  output,
  *,
  min_area_m2: float = 0.0,
  fill_holes_m2: float = 0.0,
  simplify_m: float = 0.0,
  boundaries=None,
  compare=None,
  tile: int = seams.TILE,
  formats: Sequence[str] = FORMATS,
) -> Result:
  """Writes mines.{gpkg,geojson,parquet} and summary.{csv,md} into `output`, with `compare` also change.*.

  Pixels that touch by a side are one mine, across the seams of tiles too; scenes stay apart, and where those overlap it
  is said. The defaults change no pixel.

  Args:
    inputs: as `maps.find_maps`.
    output: folder, is made.
    min_area_m2, fill_holes_m2, simplify_m: as `cleaning.Cleaning`.
    boundaries: vector file of countries; a mine belongs to the one that holds most of it, and is not cut.
    compare: an earlier map of the same place (as `inputs`), or a vector file of mines.
    tile: side of the windows that are read, in pixels.
    formats: among "gpkg", "geojson" and "parquet".

  Raises:
    UserError: input, boundaries or output that are not in order.
  """
  how = cleaning.Cleaning(fill_holes_m2, min_area_m2, simplify_m)
  how.check()
  layers.check_formats(formats)
  found = maps.find_maps(inputs)
  borders = countries.Boundaries(boundaries) if boundaries else None
  pairs = change.match(found, compare) if compare else None  # Before the work: a wrong name is told at once.
  layers.make_folder(output)
  mapped = [_outline(source, how, tile) for source in found]
  ranked = _ranked(mapped)
  geometries = [mine.geometry for _, mine in ranked]
  lands, astride = borders.of(geometries) if borders else ([countries.UNKNOWN] * len(ranked), 0)
  written = layers.write(output, NAME, _columns(ranked, lands), geometries, formats=formats)
  rows, notes = summary.summarize(mapped, ranked, lands, astride, borders and borders.path)
  written += summary.write(output, rows, notes)
  changes = []
  if pairs:
    changes, more = change.compare(pairs, output, borders, tile=tile, formats=formats)
    written += more
  console.say(f"{', '.join(path.name for path in written)} in {output}")
  return Result(written, rows, notes, changes)


def read_codes(file: maps.OpenMap, scale: int, rows, columns) -> seams.Codes:
  """The mines of a window, as `seams.trace` wants them."""
  found = file.read(rows, columns)
  known = None if found.probability is None else found.valid & (found.probability <= scale)
  return seams.Codes(found.mine.astype(np.uint8), found.valid, found.probability, known)


def _outline(source: maps.Map, how: cleaning.Cleaning, tile: int) -> Mapped:
  place = ground.Ground(source.grid, source.mask)
  totals = count(source, place, tile=tile)
  with maps.open_map(source) as file:
    read = functools.partial(read_codes, file, source.scale)
    mines, effect = cleaning.clean(seams.trace(read, source.shape, tile=tile, title=source.name), place, how)
  return Mapped(source, mines, effect, totals)


def _ranked(mapped: Sequence[Mapped]) -> list[tuple[maps.Map, cleaning.Mine]]:
  """All mines, the largest first; of equal ones the westernmost."""
  pairs = [(entry.source, mine) for entry in mapped for mine in entry.mines]
  return sorted(pairs, key=lambda pair: (-pair[1].area_km2, pair[1].geometry.bounds, pair[0].name))


def _columns(ranked, lands: Sequence[countries.Country]) -> dict[str, np.ndarray]:
  outlines = [mine.outline for _, mine in ranked]
  text = lambda values: np.array(list(values), object)
  of_note = lambda field: text(maps.text_of(source, field) or None for source, _ in ranked)
  means = [o.total / o.known / source.scale if o.known else np.nan for o, (source, _) in zip(outlines, ranked)]
  return {
    "FID": np.arange(1, len(ranked) + 1),
    "ISO3_CODE": text(land.code or None for land in lands),
    "COUNTRY_NAME": text(land.name or None for land in lands),
    "AREA": np.array([mine.area_km2 for _, mine in ranked], float),
    "PIXELS": np.array([outline.pixels for outline in outlines], np.int64),
    "PROB_MEAN": np.array(means, float),
    "CUT_OFF": np.array([outline.cut_off for outline in outlines], np.int32),
    "SCENE": text(maps.text_of(source, "scene") or source.name for source, _ in ranked),
    "SENSOR": of_note("sensor"),
    "DATE": of_note("date"),
    "MODEL": text(maps.text_of(source, "model_sha256")[:_MODEL_DIGITS] or None for source, _ in ranked),
  }
