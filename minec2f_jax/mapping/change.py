"""What changed between two maps of a place: mine that appeared, vanished, or was kept.

Two masks on one grid are compared pixel by pixel, where both are valid. All else is compared by geometry, where both
maps are valid, as far as that is known; slivers along outlines then are no change on the ground.
"""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import shapely

from minec2f_jax import console, files
from minec2f_jax.data import grids, polygons
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import countries, ground, layers, maps, seams, tables

NAME = "change"
KINDS = ("appeared", "vanished", "kept")
COLUMNS = {"CHANGE": "CHANGE", "AREA": "AREA (km²)", "N_FEATURES": "N_FEATURES", "PIXELS": "pixels"}


class Pair(NamedTuple):
  """Maps to compare; `old` may be the outlines of a vector file, then `new` holds all maps."""

  new: tuple[maps.Map, ...]
  old: maps.Map | tuple[shapely.Geometry, ...]


class Part(NamedTuple):
  """An outline of one kind of change."""

  kind: str
  geometry: shapely.Polygon | shapely.MultiPolygon
  area_km2: float
  pixels: int | None
  scene: str
  dates: tuple[str, str]


def match(found: Sequence[maps.Map], old) -> list[Pair]:
  """Which map is compared with which.

  Args:
    found: the new maps.
    old: the earlier map, a folder of several, which bear the names of the new ones, or a vector file.

  Raises:
    UserError: maps without a partner, or a file that cannot be read.
  """
  if not maps.holds_map(old):
    return [Pair(tuple(found), tuple(polygon.geometry for polygon in polygons.read_polygons(old).polygons))]
  earlier = maps.find_maps(old)
  if len(earlier) == len(found) == 1:
    return [Pair((found[0],), earlier[0])]
  by_name = {entry.name: entry for entry in earlier}
  alone = [entry.name for entry in found if entry.name not in by_name]
  if alone:
    raise UserError(
      f"{old}: no earlier map of {', '.join(alone[:5])} (there are {', '.join(sorted(by_name)[:5])}); name the folders "
      "of maps of one place alike, or compare one map with one"
    )
  return [Pair((entry,), by_name[entry.name]) for entry in found]


def compare(pairs: Sequence[Pair], output, borders, *, tile: int, formats: Sequence[str]):
  """Writes change.{gpkg,...,csv,md} and returns the rows of the table and the files."""
  parts, rows, notes = [], [dict(CHANGE=kind, AREA=0.0, N_FEATURES=0, PIXELS=0) for kind in KINDS], []
  for pair in pairs:
    found, areas, more = (_by_pixel if _aligned(pair) else _by_geometry)(pair, tile)
    parts += found
    notes += more
    for row in rows:
      own = [part for part in found if part.kind == row["CHANGE"]]
      row["AREA"] += areas[row["CHANGE"]]
      row["N_FEATURES"] += len(own)
      pixels = None if row["PIXELS"] is None or not _aligned(pair) else sum(part.pixels for part in own)
      row["PIXELS"] = None if pixels is None else row["PIXELS"] + pixels
  parts.sort(key=lambda part: (KINDS.index(part.kind), -part.area_km2, part.geometry.bounds, part.scene))
  geometries = [part.geometry for part in parts]
  lands = borders.of(geometries)[0] if borders else [countries.UNKNOWN] * len(parts)
  written = layers.write(output, NAME, _columns(parts, lands), geometries, formats=formats)
  return rows, written + _write_tables(output, rows, notes)


def _write_tables(output, rows, notes) -> list[pathlib.Path]:
  folder = pathlib.Path(output)
  files.write_text(folder / "change.csv", tables.to_csv(rows, tuple(COLUMNS)))
  files.write_text(folder / "change.md", f"# Change\n\n{tables.to_markdown(rows, COLUMNS)}\n{tables.listing(notes)}")
  for line in ("", *tables.aligned(rows, COLUMNS), "", *notes):
    console.say(line)
  return [folder / "change.csv", folder / "change.md"]


def _columns(parts: Sequence[Part], lands) -> dict[str, np.ndarray]:
  text = lambda values: np.array([value or None for value in values], object)
  pixels = [np.nan if part.pixels is None else part.pixels for part in parts]
  return {
    "FID": np.arange(1, len(parts) + 1),
    "CHANGE": text(part.kind for part in parts),
    "ISO3_CODE": text(land.code for land in lands),
    "COUNTRY_NAME": text(land.name for land in lands),
    "AREA": np.array([part.area_km2 for part in parts], float),
    "PIXELS": np.array(pixels, float),
    "SCENE": text(part.scene for part in parts),
    "DATE_OLD": text(part.dates[0] for part in parts),
    "DATE_NEW": text(part.dates[1] for part in parts),
  }


def _aligned(pair: Pair) -> bool:
  """Whether both are masks that share their pixels."""
  if not isinstance(pair.old, maps.Map):
    return False
  return _offset(pair.old.grid, pair.new[0].grid) is not None


def _offset(old: grids.Grid, new: grids.Grid) -> tuple[int, int] | None:
  askew = [value for grid in (old, new) for value in (grid.transform.b, grid.transform.d)]
  if any(askew):
    return (0, 0) if (old.crs, old.transform) == (new.crs, new.transform) else None
  return grids.offset_in(old, new)


def _by_pixel(pair: Pair, tile: int):
  """Parts, km2 by kind and notes of two masks that share their pixels."""
  (new,), old = pair.new, pair.old
  row, column = _offset(old.grid, new.grid)
  spans = [
    (max(0, -shift), min(side, other - shift))
    for shift, side, other in zip((row, column), new.shape, old.shape, strict=True)
  ]
  _require_common(new, old, all(first < end for first, end in spans))
  shared = grids.cut(new.grid, *spans)
  place, shape = ground.Ground(shared, new.mask), (shared.height, shared.width)
  with maps.open_map(new) as one, maps.open_map(old) as other:
    read = functools.partial(_read_both, one, other, [first for first, _ in spans], (row, column))
    found = [
      _part(KINDS[outline.code - 1], place.outline(outline.geometry), outline.pixels, new, old)
      for outline in seams.trace(read, shape, tile=tile, title=f"change of {new.name}")
    ]
    areas, validity = _counted(read, shape, place, tile)
  notes = [f"{new.name}: compared pixel by pixel, {tables.km2(validity[0])} that both maps show", *_differ(new, old)]
  if validity[1] or validity[2]:
    notes.append(
      f"{new.name}: validity differs: {tables.km2(validity[1])} valid in the new map alone, "
      f"{tables.km2(validity[2])} in the old one alone; left out"
    )
  return found, areas, notes


def _read_both(new: maps.OpenMap, old: maps.OpenMap, first, shift, rows, columns) -> seams.Codes:
  """Kinds of change (place in KINDS + 1) of a window; `values` is validity: bit 1 of the new map, 2 of the old."""
  spans = [(span[0] + start, span[1] + start) for span, start in zip((rows, columns), first)]
  one = new.read(*spans)
  other = old.read(*((span[0] + step, span[1] + step) for span, step in zip(spans, shift)))
  valid = one.valid & other.valid
  kinds = [one.mine & ~other.mine, other.mine & ~one.mine, one.mine & other.mine]
  codes = np.where(valid, np.select(kinds, (1, 2, 3)), 0).astype(np.uint8)
  return seams.Codes(codes, valid, one.valid + np.uint8(2) * other.valid, valid)


def _counted(read, shape, place: ground.Ground, tile: int):
  """km2 of each kind, and km2 valid in both maps, in the new alone, in the old alone."""
  areas, validity = dict.fromkeys(KINDS, 0.0), [0.0, 0.0, 0.0]
  for rows, columns in maps.windows(shape, tile):
    window = read(rows, columns)
    for code, kind in enumerate(KINDS, start=1):
      areas[kind] += place.km2(window.codes == code, rows, columns)
    for i, flags in enumerate((3, 1, 2)):
      validity[i] += place.km2(window.values == flags, rows, columns)
  return areas, validity


def _by_geometry(pair: Pair, tile: int):
  """Parts, km2 by kind and notes of maps that share no pixels."""
  name = ", ".join(entry.name for entry in pair.new)
  new, seen = (_union(pair.new, tile, valid) for valid in (False, True))
  if isinstance(pair.old, maps.Map):
    old, old_seen = (_union([pair.old], tile, valid) for valid in (False, True))
    notes = [f"{name}: the maps are on different grids", *_differ(pair.new[0], pair.old)]
    _require_common(pair.new[0], pair.old, seen.intersects(old_seen))
    seen = seen & old_seen
  else:
    old, notes = shapely.union_all(pair.old), [f"{name}: what the earlier outlines cover is taken as seen everywhere"]
  shapes = dict(zip(KINDS, (new - old, old - new, new & old)))
  found = [
    _part(kind, part, None, pair.new[0] if len(pair.new) == 1 else None, pair.old)
    for kind, shape in shapes.items()
    for part in ground.polygons_of(shape & seen)
  ]
  areas = {kind: sum(part.area_km2 for part in found if part.kind == kind) for kind in KINDS}
  how = "compared by geometry: slivers along outlines may be no change on the ground"
  return found, areas, [f"{name}: {how}", *notes]


def _union(found: Sequence[maps.Map], tile: int, valid: bool):
  """Geometry of the mine, or of the valid pixels, of some maps."""
  return shapely.union_all([outline for entry in found for outline in _outlines(entry, tile, valid)])


def _outlines(source: maps.Map, tile: int, valid: bool) -> Iterator[shapely.Geometry]:
  place = ground.Ground(source.grid, source.mask)
  with maps.open_map(source) as file:

    def read(rows, columns):
      window = file.read(rows, columns)
      return seams.Codes((window.valid if valid else window.mine).astype(np.uint8), window.valid)

    title = f"{'validity' if valid else 'mines'} of {source.name}"
    for outline in seams.trace(read, source.shape, tile=tile, title=title):
      yield place.outline(outline.geometry)


def _part(kind: str, geometry, pixels: int | None, new: maps.Map | None, old) -> Part:
  date = lambda source: maps.text_of(source, "date") if isinstance(source, maps.Map) else ""
  scene = maps.text_of(new, "scene") or new.name if new else ""
  return Part(kind, geometry, ground.area_km2(geometry), pixels, scene, (date(old), date(new)))


def _differ(new: maps.Map, old: maps.Map) -> list[str]:
  """What makes two maps hard to compare."""
  lines = []
  if new.grid != old.grid:
    sizes = [f"{entry.grid.height} x {entry.grid.width} pixels of {entry.grid.gsd_m:.3g} m" for entry in (new, old)]
    lines.append(f"{new.name}: grids differ: {sizes[0]}, before {sizes[1]}; only what both cover is compared")
  for field in ("model_sha256", "threshold", "sensor"):
    values = [maps.text_of(entry, field) for entry in (new, old)]
    if all(values) and values[0] != values[1]:
      shown = [value[:12] for value in values]
      lines.append(f"{new.name}: {field} differs ({shown[0]}, before {shown[1]}): some of the change is the maps' own")
  return lines


def _require_common(new: maps.Map, old: maps.Map, common: bool):
  if not common:
    raise UserError(f"{old.mask}: shows no ground that {new.mask} shows; compare maps of one place")
