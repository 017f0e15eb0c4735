"""Tables of areas: by country, as CSV and Markdown."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from minec2f_jax.mapping.countries import Country


def by_country(countries: Sequence[Country], areas_km2: Sequence[float]) -> list[dict]:
  """A row for each country, by its code: AREA, N_FEATURES, MEDIAN and LARGEST (km2)."""
  rows = []
  for country in sorted(set(countries)):
    areas = np.array([area for other, area in zip(countries, areas_km2) if other == country])
    rows.append({"ISO3_CODE": country.code, "COUNTRY_NAME": country.name, **statistics(areas)})
  return rows


def statistics(areas_km2: Sequence[float]) -> dict:
  """AREA, N_FEATURES, MEDIAN and LARGEST of some outlines; the last two are None where there is none."""
  areas = np.asarray(areas_km2, float)
  middle, largest = (float(np.median(areas)), float(areas.max())) if areas.size else (None, None)
  return {"AREA": float(areas.sum()), "N_FEATURES": int(areas.size), "MEDIAN": middle, "LARGEST": largest}


def to_csv(rows: Sequence[Mapping], columns: Sequence[str]) -> str:
  """Rows as CSV; km2 with six decimals, which is 1 m2."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(columns)
  writer.writerows([[_exact(row[name]) for name in columns] for row in rows])
  return text.getvalue()


def to_markdown(rows: Sequence[Mapping], columns: Mapping[str, str]) -> str:
  """Rows as a Markdown table.

  Args:
    rows: to show.
    columns: name -> heading.
  """
  numeric = [any(isinstance(row[name], int | float) for row in rows) for name in columns]
  lines = [list(columns.values()), ["---:" if right else "---" for right in numeric]]
  lines += [[shown(row[name]).replace("|", "\\|") for name in columns] for row in rows]
  return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def aligned(rows: Sequence[Mapping], columns: Mapping[str, str]) -> list[str]:
  """Rows as lines for the console."""
  cells = [list(columns.values()), *([shown(row[name]) for name in columns] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells)]
  numeric = [any(isinstance(row[name], int | float) for row in rows) for name in columns]
  pad = lambda text, width, right: text.rjust(width) if right else text.ljust(width)
  return ["  ".join(pad(*cell) for cell in zip(line, widths, numeric)).rstrip() for line in cells]


def listing(lines: Iterable[str]) -> str:
  """A Markdown list."""
  return "".join(f"- {line}\n" for line in lines)


def km2(value: float) -> str:
  """An area with four digits at least, or down to 1 m2: "1,234.57 km2", "0.0123 km2"."""
  return f"{shown(value)} km²"


def shown(value) -> str:
  """A cell for people; a dash where nothing is known."""
  if value is None or value != value:
    return "–"
  if isinstance(value, float):
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4f}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def _exact(value) -> str:
  if value is None or value != value:
    return ""
  return f"{value:.6f}" if isinstance(value, float) else str(value)
