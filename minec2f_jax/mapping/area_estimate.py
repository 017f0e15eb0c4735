"""The area of mines with an honest interval: from a map and a reference sample, not from counting pixels."""

import pathlib
from typing import NamedTuple

import numpy as np

from minec2f_jax import console, files
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import layers, maps, reference, seams, stratified, tables
from minec2f_jax.mapping.population import STRATA, Population, places_of

_LEAST = 2  # Of a stratum, or there is no variance.
_FEW = 30  # Below it, the normal interval is rough.
_NOTE = (
  "Stratified estimator of Olofsson et al. (2014, doi:10.1016/j.rse.2014.02.015), strata = classes of the map, 95 % "
  "intervals. It holds if the points were drawn at random within the strata of this very map (the sample designer does "
  "so), and labelled without looking at it."
)


class Sampled(NamedTuple):
  """The sample on the map: [2, 2] counts, rows = map, columns = reference, and points on pixels that are not valid."""

  counts: np.ndarray
  invalid: int


def estimate(map_folder, reference_points, output=None, *, tile: int = seams.TILE) -> dict:
  """Error-adjusted area of mines in km2 with its 95 % interval, and the map's accuracies.

  The estimate speaks for the valid pixels outside of training images. Points on pixels that are not valid are no part
  of that, and left out with a note.

  Args:
    map_folder: as `maps.find_map`.
    reference_points: as `reference.read_points`; drawn at random within the classes of this map.
    output: folder for area.{json,md}, or None.
    tile: side of the windows that are read, in pixels.

  Returns:
    What area.json holds: plain numbers, None where undefined.

  Raises:
    UserError: points in training images, outside of the map, without a label, too few in a class: all are named.
  """
  source = maps.find_map(map_folder)
  population, points = Population(source), reference.read_points(reference_points)
  sampled = _place(population, points, reference_points)
  _, outside, inside = population.areas(tile)
  _check_strata(reference_points, sampled.counts, outside)
  report = _report(source, stratified.estimate(sampled.counts, outside), sampled.counts, outside)
  report["warnings"] = _warnings(population, sampled, inside)
  text = _markdown(report)
  if output is not None:
    folder = layers.make_folder(output)
    files.write_json(folder / "area.json", report)
    files.write_text(folder / "area.md", text)
  console.say(text.rstrip())
  if output is not None:
    console.say(f"area.json and area.md in {pathlib.Path(output)}")
  return report


def _place(population: Population, points, path) -> Sampled:
  """Holds each point against its pixel."""
  counts, problems, invalid = np.zeros((len(STRATA), len(STRATA)), np.int64), {}, 0
  places = places_of(population, [(point.lon, point.lat) for point in points])
  with maps.open_map(population.source) as file:
    # In the order of the file's blocks, which are then decoded once.
    for place, point in sorted(zip(places, points), key=lambda pair: (pair[0] or (-1, -1), pair[1].row)):
      if place is None:
        problems[point.row] = f"lon {point.lon:g}, lat {point.lat:g} lies outside of the map"
        continue
      (((code,),), ((trained,),)) = population.strata(file, *((i, i + 1) for i in place))
      if trained:
        problems[point.row] = f"lon {point.lon:g}, lat {point.lat:g} lies in an image that the model was trained on"
      elif code == 0:
        invalid += 1
      elif point.stratum is not None and point.stratum != code - 1:
        problems[point.row] = (
          f"stratum {STRATA[point.stratum]!r}, but the map says {STRATA[code - 1]!r}: it was drawn from another map"
        )
      else:
        counts[code - 1, point.label] += 1
  reference.refuse(path, problems, len(points), f"cannot be used with {population.source.name}; draw others")
  return Sampled(counts, invalid)


def _check_strata(path, counts: np.ndarray, areas_km2):
  empty = [name for name, area in zip(STRATA, areas_km2) if not area]
  if empty:
    raise UserError(
      f"{path}: the map has no valid pixel of {' and '.join(map(repr, empty))} outside of training images, so there "
      "are no strata; choose another map or threshold"
    )
  few = [f"{size} in {name!r}" for name, size in zip(STRATA, counts.sum(axis=1).tolist()) if size < _LEAST]
  if few:
    raise UserError(
      f"{path}: {' and '.join(few)}: each class of the map needs {_LEAST} reference points at least, better 50; draw "
      "more"
    )


def _report(source: maps.Map, found: stratified.Estimate, counts: np.ndarray, mapped_km2) -> dict:
  half = stratified.Z * found.area_se
  by_class = {
    name: {
      "mapped_km2": mapped_km2[i],
      "area_km2": float(found.area[i]),
      "area_se_km2": float(found.area_se[i]),
      "area_low_km2": max(float(found.area[i] - half[i]), 0.0),
      "area_high_km2": min(float(found.area[i] + half[i]), sum(mapped_km2)),
      "users_accuracy": _number(found.users[i]),
      "users_accuracy_se": _number(found.users_se[i]),
      "producers_accuracy": _number(found.producers[i]),
      "producers_accuracy_se": _number(found.producers_se[i]),
    }
    for i, name in enumerate(STRATA)
  }
  return {
    "map": source.name,
    "scene": maps.text_of(source, "scene") or source.name,
    "date": maps.text_of(source, "date"),
    "points": int(counts.sum()),
    "counts": counts.tolist(),
    "proportions": found.proportions.tolist(),
    "overall_accuracy": found.overall,
    "overall_accuracy_se": found.overall_se,
    "classes": by_class,
  }


def _warnings(population: Population, sampled: Sampled, inside) -> list[str]:
  lines = []
  if sum(inside):
    lines.append(
      f"{tables.km2(sum(inside))} lie in images that the model was trained on, {tables.km2(inside[1])} of it mapped as "
      "mine: the estimate says nothing about them, and leaves them out"
    )
  if population.unplaced:
    lines.append(
      f"{population.unplaced} training images have no known place: if they show this scene, the accuracies are too high"
    )
  if not population.knows_training:
    lines.append(
      "the map does not tell on which images its model was trained: if on this scene, accuracies are too high"
    )
  if sampled.invalid:
    lines.append(f"{sampled.invalid} points lie on pixels that are not valid: left out")
  for name, row in zip(STRATA, sampled.counts):
    if row.sum() < _FEW:
      lines.append(f"only {row.sum()} points in {name!r}: the interval is rough below {_FEW}")
    if 0 in row:
      lines.append(
        f"all points in {name!r} agree, so this class adds nothing to the interval, which is then too narrow"
      )
  return lines


def _markdown(report: dict) -> str:
  mine = report["classes"][STRATA[1]]
  half = stratified.Z * mine["area_se_km2"]
  headings = {"map": "map \\ reference"} | {name: name for name in STRATA}
  rows = lambda matrix: [{"map": name} | dict(zip(STRATA, row)) for name, row in zip(STRATA, matrix)]
  lines = [
    f"# Area of mines in {report['scene']}\n",
    f"**{tables.shown(mine['area_km2'])} ± {tables.km2(half)}** (95 % interval {tables.shown(mine['area_low_km2'])} to "
    f"{tables.km2(mine['area_high_km2'])}); mapped: {tables.km2(mine['mapped_km2'])}. {report['points']} reference "
    "points.\n",
    f"Overall accuracy {_with_error(report['overall_accuracy'], report['overall_accuracy_se'])} (± 95 %).\n",
    tables.to_markdown(_class_rows(report), _CLASS_HEADINGS),
    "Points:\n",
    tables.to_markdown(rows(report["counts"]), headings),
    "Shares of the area:\n",
    tables.to_markdown(rows(report["proportions"]), headings),
    tables.listing([*report["warnings"], _NOTE]),
  ]
  return "\n".join(lines)


_CLASS_HEADINGS = {
  "class": "class",
  "mapped": "mapped (km²)",
  "area": "estimated (km²)",
  "users": "user's accuracy (%)",
  "producers": "producer's accuracy (%)",
}


def _class_rows(report: dict) -> list[dict]:
  return [
    {
      "class": name,
      "mapped": found["mapped_km2"],
      "area": f"{tables.shown(found['area_km2'])} ± {tables.shown(stratified.Z * found['area_se_km2'])}",
      "users": _with_error(found["users_accuracy"], found["users_accuracy_se"]),
      "producers": _with_error(found["producers_accuracy"], found["producers_accuracy_se"]),
    }
    for name, found in report["classes"].items()
  ]


def _with_error(value, error) -> str:
  if value is None or error is None:
    return tables.shown(None)
  return f"{100 * value:.1f} ± {100 * stratified.Z * error:.1f}"


def _number(value) -> float | None:
  return float(value) if np.isfinite(value) else None
