"""Charts of the report, as SVG drawn by hand: their text can be copied, and follows light and dark."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from minec2f_jax.evaluation.html_parts import defined, escape
from minec2f_jax.evaluation.html_style import SERIES

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 52, 12, 12, 40  # Pixels of the drawing, and its margins.
_BARS_HEIGHT, _GAP = 74, 34


class Axis(NamedTuple):
  """What runs along one side of a chart.

  Attributes:
    label: with the unit.
    low, high: ends, low < high.
    ticks: where numbers stand.
    form: how they are written.
  """

  label: str
  low: float
  high: float
  ticks: tuple[float, ...]
  form: Callable[[float], str] = "{:g}".format


class Line(NamedTuple):
  """A line of a chart.

  Attributes:
    series: number of its colour and marker.
    points: (x, y); an undefined y leaves a gap.
  """

  series: int
  points: Sequence[tuple[float, float | None]]


def axis_of(label: str, values: Sequence[float | None], *, whole: bool = False) -> Axis:
  """An axis around the defined ones of `values`, of which there is one at least, with round numbers at its ticks."""
  known = [value for value in values if defined(value)]
  low, high = min(known), max(known)
  size = max(abs(low), abs(high))
  if high - low < max(1e-9 * size, 1e-12):
    pad = 0.5 * size if size > 1e-12 else 0.5
    low, high = low - pad, high + pad
  step = 10 ** math.floor(math.log10((high - low) / 4))
  step *= next(factor for factor in (1, 2, 5, 10) if factor * step * 5 >= high - low)
  step = max(step, 1.0) if whole else step
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
  return Axis(label, ticks[0], ticks[-1], ticks)


def plot(lines: Sequence[Line], x: Axis, y: Axis, *, alt: str, mark: tuple[float, float] | None = None) -> str:
  """A line chart.

  Args:
    lines: of which one has a defined point at least.
    x, y: axes that hold all points.
    alt: what it shows, for who cannot see it.
    mark: a point to put a ring around.
  """
  area = (_LEFT, _TOP, _WIDTH - _RIGHT, 190)
  parts = [_frame(x, y, area), *(_drawn(line, x, y, area) for line in lines)]
  if mark is not None:
    place = _at(x, mark[0], area[0], area[2])
    parts.append(_stroke("guide", (place, area[1]), (place, area[3])))
    parts.append(f'<circle class="ring" cx="{place:.1f}" cy="{_at(y, mark[1], area[3], area[1]):.1f}" r="6"/>\n')
  return _svg(parts, area[3] + _BOTTOM, alt)


def reliability(curves: Sequence[tuple[int, Sequence[dict]]], *, alt: str) -> str:
  """Reliability curves over the number of pixels in their bins.

  Args:
    curves: (series, points as `calibration.Calibration.reliability` gives them), of which one is defined at least.
    alt: what it shows.
  """
  shares = lambda label: Axis(label, 0.0, 100.0, (0.0, 20.0, 40.0, 60.0, 80.0, 100.0))
  x, y = shares("predicted probability of a mine, percent"), shares("labelled mine, percent of the bin")
  area = (_LEFT, _TOP, _WIDTH - _RIGHT, _TOP + _WIDTH - _LEFT - _RIGHT)
  parts = [_frame(x._replace(label=""), y, area), _stroke("guide", (area[0], area[3]), (area[2], area[1]))]
  for series, points in curves:
    found = [(100 * p["mean_probability"], 100 * p["mine_share"]) for p in points if p["count"]]
    parts.append(_drawn(Line(series, found), x, y, area))
  below = (area[0], area[3] + _GAP, area[2], area[3] + _GAP + _BARS_HEIGHT)
  most = max(p["count"] for _, points in curves for p in points)
  powers = range(0, math.floor(math.log10(most + 1)) + 1, 2)
  counts = Axis("pixels", 0.0, math.log10(most + 1), tuple(map(float, powers)), _power)
  parts.append(_frame(x, counts, below))
  for place, (series, points) in enumerate(curves):
    parts += _bars(series, points, counts, below, place=place, of=len(curves))
  return _svg(parts, below[3] + _BOTTOM, alt)


def matrix(counts: Sequence[Sequence[int]], *, alt: str) -> str:
  """A confusion matrix: share of all pixels and their number; blue where label and prediction agree, orange where not.

  Args:
    counts: [2][2], row = label, column = prediction, index 0 = background; not all 0.
    alt: what it shows.
  """
  total, left, top, width, height = sum(map(sum, counts)), 46, 40, 150, 84
  kinds = (("true negatives", "false positives"), ("false negatives", "true positives"))
  parts = [_text((left + width, 14), "predicted", "small", "middle"), _upright(12, top + height, "labelled")]
  for i, title in enumerate(("background", "mine")):
    parts.append(_text((left + (i + 0.5) * width, 32), title, "", "middle"))
    parts.append(_upright(34, top + (i + 0.5) * height, title))
    for j in (0, 1):
      share, x, y = counts[i][j] / total, left + j * width, top + i * height
      kind = "right" if i == j else "wrong"
      box = f'x="{x}" y="{y}" width="{width}" height="{height}"'
      parts.append(f'<rect class="{kind}" {box} opacity="{0.08 + 0.5 * math.sqrt(share):.2f}"/>\n')
      parts.append(f'<rect class="cell" fill="none" {box}/>\n')
      middle = x + width / 2
      parts.append(_text((middle, y + 40), f"{100 * share:.2f} %", "big", "middle"))
      parts.append(_text((middle, y + 58), f"{counts[i][j]:,} pixels", "note", "middle"))
      parts.append(_text((middle, y + 73), kinds[i][j], "note", "middle"))
  return _svg(parts, top + 2 * height + 4, alt)


def legend(entries: Sequence[tuple[int, str]]) -> str:
  """What the lines are: (series, label)."""
  items = "".join(f"<li>{_swatch(series)}{escape(label)}</li>\n" for series, label in entries)
  return f'<ul class="legend">\n{items}</ul>\n'


def _swatch(series: int) -> str:
  line = f'<path class="line s{series % len(SERIES)}" d="M0 9H30"/>'
  return f'<svg viewBox="0 0 30 18" aria-hidden="true">{line}{_marker(series, 15, 9).strip()}</svg>'


def _frame(x: Axis, y: Axis, area) -> str:
  """Grid, numbers and labels of both axes around `area` (left, top, right, bottom)."""
  left, top, right, bottom = area
  parts = []
  for tick in y.ticks:
    place = _at(y, tick, bottom, top)
    parts += [_stroke("grid", (left, place), (right, place)), _text((left - 6, place + 4), y.form(tick), "", "end")]
  for tick in x.ticks:
    place = _at(x, tick, left, right)
    parts += [_stroke("grid", (place, top), (place, bottom)), _text((place, bottom + 15), x.form(tick), "", "middle")]
  parts += [_text(((left + right) / 2, bottom + 32), x.label, "small", "middle")] if x.label else []
  return "".join([*parts, _upright(12, (top + bottom) / 2, y.label)])


def _drawn(line: Line, x: Axis, y: Axis, area) -> str:
  """A line with its markers; where a point is undefined it breaks."""
  left, top, right, bottom = area
  path, markers, pen = [], [], "M"
  for a, b in line.points:
    if not defined(b):
      pen = "M"
      continue
    place = _at(x, a, left, right), _at(y, b, bottom, top)
    path.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
    markers.append(place)
    pen = "L"
  if len(markers) > 30:  # They would hide the line.
    markers = []
  drawn = f'<path class="line s{line.series % len(SERIES)}" d="{"".join(path)}"/>\n'
  return drawn + "".join(_marker(line.series, *place) for place in markers)


def _marker(series: int, x: float, y: float) -> str:
  """A dot in the form of its series, so that colour is not all that tells lines apart."""
  outlines = ("", "M-3.5-3.5h7v7h-7Z", "M0-4.5L4.5 0L0 4.5L-4.5 0Z", "M0-4.5L4 3.5H-4Z")
  kind = f'class="dot s{series % len(SERIES)}"'
  if outline := outlines[series % len(outlines)]:
    return f'<path {kind} transform="translate({x:.1f} {y:.1f})" d="{outline}"/>\n'
  return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>\n'


def _bars(series: int, points: Sequence[dict], counts: Axis, area, *, place: int, of: int) -> list[str]:
  left, top, right, bottom = area
  bars = []
  for p in (p for p in points if p["count"]):
    start, stop = (left + end * (right - left) for end in (p["low"], p["high"]))
    width = (stop - start - 2) / of
    height = bottom - _at(counts, math.log10(p["count"] + 1), bottom, top)
    box = f'x="{start + 1 + place * width:.1f}" y="{bottom - height:.1f}" width="{width:.1f}" height="{height:.1f}"'
    bars.append(f'<rect class="bar s{series % len(SERIES)}" {box}/>\n')
  return bars


def _power(exponent: float) -> str:
  return {0: "0", 2: "100", 4: "10⁴", 6: "10⁶", 8: "10⁸", 10: "10¹⁰"}.get(int(exponent), f"1e{int(exponent)}")


def _at(axis: Axis, value: float, start: float, stop: float) -> float:
  return start + (value - axis.low) / (axis.high - axis.low) * (stop - start)


def _stroke(kind: str, start, stop) -> str:
  d = f"M{start[0]:.1f} {start[1]:.1f}L{stop[0]:.1f} {stop[1]:.1f}"
  return f'<path class="{kind}" d="{d}"/>\n'


def _text(place, text: str, kind: str, anchor: str) -> str:
  kind = f' class="{kind}"' if kind else ""
  return f'<text{kind} x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{anchor}">{escape(text)}</text>\n'


def _upright(x: float, y: float, text: str) -> str:
  place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)" text-anchor="middle"'
  return f'<text class="small" {place}>{escape(text)}</text>\n'


def _svg(parts: Sequence[str], height: float, alt: str) -> str:
  head = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(alt)}">\n'
  return f"{head}{''.join(parts)}</svg>\n"
