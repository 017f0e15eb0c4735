"""Reference points: places that a person has looked at, with what is there."""

import csv
import math
import os
import pathlib
from typing import NamedTuple

from minec2f_jax.data import polygons
from minec2f_jax.errors import UserError
from minec2f_jax.mapping.population import STRATA

SHOWN = 5  # Broken rows that an error lists.
_NAMES = {"lon": ("lon", "longitude", "x"), "lat": ("lat", "latitude", "y"), "label": ("label", "reference", "class")}
_STRATA = {"0": 0, "1": 1, "not mine": 0, "mine": 1, "": None}


class Point(NamedTuple):
  """A labelled place.

  Attributes:
    row: in the file, from 1.
    lon, lat: degrees.
    label: 0 = no mine, 1 = mine.
    stratum: map class it was drawn from, or None where the file does not say.
  """

  row: int
  lon: float
  lat: float
  label: int
  stratum: int | None


def read_points(path) -> list[Point]:
  """The points of a CSV file (columns lon, lat, label, maybe stratum) or of a vector file (label, maybe stratum).

  Raises:
    UserError: not readable, a column lacks, or rows that cannot be used: all of them are told.
  """
  if not os.path.isfile(path):
    raise UserError(f"{path}: no such file; give the labelled reference points")
  rows = _csv_rows(path) if pathlib.Path(path).suffix.lower() in (".csv", ".txt") else _vector_rows(path)
  if not rows:
    raise UserError(f"{path}: no reference point in it; label a sample first")
  points, problems = [], {}
  for number, row in enumerate(rows, start=1):
    try:
      points.append(_point(number, row))
    except ValueError as error:
      problems[number] = str(error)
  first = {}
  for point in points:
    if first.setdefault((point.lon, point.lat), point.row) != point.row:
      problems[point.row] = f"the place of row {first[point.lon, point.lat]} again; keep one of them"
  refuse(path, problems, len(rows), "cannot be used")
  _check_weights(path, rows)
  return points


def refuse(path, problems: dict[int, str], total: int, what: str):
  """Raises one error that lists the broken rows, if there are any."""
  if problems:
    listed = "".join(f"\n  row {row}: {why}" for row, why in sorted(problems.items())[:SHOWN])
    rest = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise UserError(f"{path}: {len(problems)} of {total} reference points {what}:{listed}{rest}")


def _csv_rows(path) -> list[dict]:
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file)
      names = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
      chosen = {field: next((names[name] for name in known if name in names), None) for field, known in _NAMES.items()}
      lacking = [field for field, name in chosen.items() if name is None]
      if lacking:
        raise UserError(
          f"{path}: no column {', '.join(lacking)} (there are {', '.join(map(str, names)) or 'none'}); a reference "
          "file has lon, lat and label"
        )
      chosen |= {field: names[field] for field in ("stratum", "weight") if field in names}
      return [{field: (row[name] or "").strip() for field, name in chosen.items()} for row in reader]
  except (csv.Error, UnicodeDecodeError, OSError) as error:
    raise UserError(f"{path}: not readable as CSV ({error}); write it again as UTF-8") from error


def _vector_rows(path) -> list[dict]:
  frame = polygons.read_lonlat(path)
  names = {str(name).lower(): name for name in frame.columns}
  label = next((names[name] for name in _NAMES["label"] if name in names), None)
  if label is None:
    raise UserError(f"{path}: no column label (there are {', '.join(names)}); 0 = no mine, 1 = mine")
  fields = {"label": label} | {field: names[field] for field in ("stratum", "weight") if field in names}
  rows = []
  for shape, *values in zip(frame.geometry, *(frame[name] for name in fields.values())):
    single = shape is not None and shape.geom_type == "Point" and not shape.is_empty
    place = {"lon": str(shape.x), "lat": str(shape.y)} if single else {"lon": "", "lat": ""}
    rows.append(place | {field: _text(value) for field, value in zip(fields, values)})
  return rows


def _text(value) -> str:
  if value is None or value != value:
    return ""
  return f"{value:g}" if isinstance(value, float) else str(value).strip()


def _point(number: int, row: dict) -> Point:
  """A row as a point; ValueError says what is wrong with it."""
  try:
    lon, lat = float(row["lon"]), float(row["lat"])
  except ValueError:
    raise ValueError(f"lon {row['lon']!r}, lat {row['lat']!r}: no point in degrees") from None
  if not (math.isfinite(lon) and abs(lon) <= 180 and abs(lat) <= 90):
    raise ValueError(f"lon {lon:g}, lat {lat:g}: not in -180..180, -90..90")
  if not row["label"]:
    raise ValueError("not labelled yet; 0 = no mine, 1 = mine, or take the row out if nobody can tell")
  if row["label"] not in ("0", "1", "0.0", "1.0"):
    raise ValueError(f"label {row['label']!r}; 0 = no mine, 1 = mine")
  stratum = row.get("stratum", "").lower()
  if stratum not in _STRATA:
    raise ValueError(f"stratum {stratum!r}; 1 or {STRATA[1]}, 0 or {STRATA[0]}: the map's class where it was drawn")
  return Point(number, lon, lat, int(float(row["label"])), _STRATA[stratum])


def _check_weights(path, rows):
  """Weights that differ within a stratum tell of another design than the estimator's."""
  seen = {}
  for row in rows:
    seen.setdefault(row.get("stratum", ""), set()).add(row.get("weight", ""))
  if any(len(weights) > 1 for stratum, weights in seen.items() if "stratum" in rows[0]):
    raise UserError(
      f"{path}: weights differ within a stratum: the points were not drawn with equal chances there, which this "
      "estimator needs; draw a new sample, or drop the column if it means something else"
    )
