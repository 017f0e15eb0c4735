"""Draws reference points for a person to label, at random within the classes of a map."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
import shapely

from minec2f_jax import console, files
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import layers, maps, seams, stratified, tables
from minec2f_jax.mapping.population import STRATA, Population

NAME = "sample"
_USERS = (0.95, 0.7)  # Expected accuracies of what is mapped as not mine, and as mine.
_UNEQUAL = 1.01


class Design(NamedTuple):
  """How a sample is drawn.

  Attributes:
    total: points; None = as many as give `overall_se`.
    overall_se: standard error wanted for the overall accuracy.
    users: expected user's accuracy of "not mine" and of "mine".
    least: points of each class at least.
    seed: same seed (and tile), same points.
  """

  total: int | None = None
  overall_se: float = 0.01
  users: tuple[float, float] = _USERS
  least: int = 50
  seed: int = 0

  def check(self):
    """Raises where a value makes no sense."""
    fine = {
      f"total={self.total}: give a whole number of 4 or more": self.total is None or self.total >= 4,
      f"overall_se={self.overall_se:g}: give a number between 0 and 0.5": 0 < self.overall_se < 0.5,
      f"users={self.users}: give accuracies between 0 and 1": all(0 <= value <= 1 for value in self.users),
      f"least={self.least}: give 2 or more": self.least >= 2,
      f"seed={self.seed}: give a whole number of 0 or more": self.seed >= 0,
    }
    wrong = [text for text, good in fine.items() if not good]
    if wrong:
      raise UserError("; ".join(wrong))


DEFAULT = Design()


def draw(map_folder, output, design: Design = DEFAULT, *, tile: int = seams.TILE) -> list[pathlib.Path]:
  """Writes sample.gpkg and sample.csv: ID, LON, LAT and an empty LABEL, in an order that does not tell the class.

  Points are centres of pixels, all of a class with the same chance, none twice; of valid pixels outside of training
  images. Label 1 = mine, 0 = not, by better imagery than the map's and without looking at the map; then `estimate`.

  Args:
    map_folder: as `maps.find_map`.
    output: folder, is made.
    design: how many, and of which classes.
    tile: side of the windows that are read, in pixels.

  Raises:
    UserError: a design that makes no sense, a class without pixels, or a sample that is there already.
  """
  design.check()
  for path in (pathlib.Path(output) / f"{NAME}.{kind}" for kind in ("csv", "gpkg")):
    if path.exists():
      raise UserError(f"{path}: is there already, and may hold labels; choose another output, or take it away")
  source = maps.find_map(map_folder)
  population = Population(source)
  pixels, areas_km2, _ = population.areas(tile)
  empty = [name for name, number in zip(STRATA, pixels) if not number]
  if empty:
    raise UserError(
      f"{source.mask}: no valid pixel of {' and '.join(map(repr, empty))} outside of training images, so there are no "
      "strata to draw from; choose another map or threshold"
    )
  total = design.total or stratified.sample_size(areas_km2, design.users, overall_se=design.overall_se)
  wanted = [min(n, most) for n, most in zip(stratified.allocate(total, areas_km2, least=design.least), pixels)]
  rng = np.random.default_rng(design.seed)
  ranks = [np.sort(rng.choice(most, size=n, replace=False, shuffle=False)) for n, most in zip(wanted, pixels)]
  xy = rng.permutation(_pixels_of(population, ranks, tile)) + 0.5
  written = _write(output, population.place.lonlat(xy))
  for line in (*_said(source, population, wanted, areas_km2), f"{', '.join(p.name for p in written)} in {output}"):
    console.say(line)
  return written


def _pixels_of(population: Population, ranks, tile: int) -> np.ndarray:
  """[N, 2] (column, row) of the pixels with these ranks in their stratum, counted window by window."""
  seen, found = [0] * len(STRATA), []
  with maps.open_map(population.source) as file:
    for rows, columns in maps.windows(population.source.shape, tile):
      codes, trained = population.strata(file, rows, columns)
      for i, wanted in enumerate(ranks):
        places = np.flatnonzero((codes == i + 1) & ~trained)
        here = wanted[(wanted >= seen[i]) & (wanted < seen[i] + places.size)] - seen[i]
        row, column = np.unravel_index(places[here], codes.shape)
        found.append(np.column_stack([column + columns[0], row + rows[0]]))
        seen[i] += places.size
  return np.concatenate(found)


def _write(output, lonlat: np.ndarray) -> list[pathlib.Path]:
  lonlat = np.round(np.column_stack([(lonlat[:, 0] + 180) % 360 - 180, lonlat[:, 1]]), 8)
  columns = {
    "ID": np.arange(1, len(lonlat) + 1),
    "LON": lonlat[:, 0],
    "LAT": lonlat[:, 1],
    "LABEL": np.full(len(lonlat), None, object),
  }
  written = layers.write(output, NAME, columns, shapely.points(lonlat), formats=("gpkg",))
  text = io.StringIO("ID,LON,LAT,LABEL\n")
  text.seek(0, io.SEEK_END)
  for i, (lon, lat) in enumerate(lonlat.tolist(), start=1):
    text.write(f"{i},{lon:.8f},{lat:.8f},\n")
  path = pathlib.Path(output) / f"{NAME}.csv"
  files.write_text(path, text.getvalue())
  return [*written, path]


def _said(source: maps.Map, population: Population, wanted, areas_km2) -> list[str]:
  shown = [f"{n} of {tables.km2(area)} mapped as {name}" for n, area, name in zip(wanted, areas_km2, STRATA)]
  lines = [f"[{source.name}] {sum(wanted)} points: {', '.join(shown)}; label each 1 = mine or 0 = not"]
  least, most = population.place.pixel_m2_range()
  if most > _UNEQUAL * least:
    lines.append(
      f"pixels of this map differ in area by {100 * (most / least - 1):.1f} %, and each has the same chance: warp it "
      "to an equal-area system first if that matters"
    )
  if population.unplaced:
    lines.append(f"{population.unplaced} training images have no known place: points may lie in them")
  return lines
