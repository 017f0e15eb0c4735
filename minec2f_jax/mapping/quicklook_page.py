"""The quick look as one HTML file: it opens offline, runs no script and asks nobody for anything."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import shapely

from minec2f_jax import files
from minec2f_jax.evaluation import html_parts as parts
from minec2f_jax.evaluation.html_style import STYLE
from minec2f_jax.mapping import quicklook_picture as pictures
from minec2f_jax.mapping.quicklook_picture import Drawing, Footprint

MOST_OUTLINES = 5000  # More make a browser slow; the PNG has them all.
MOST_ROWS = 20
_SMOOTH_PX = 0.3  # Of the picture: less than a reader can see.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_LOOK = f"""
.look {{ position: relative; max-width: 75rem; margin: .6rem 0; }}
.look img {{ display: block; width: 100%; height: auto; border: 0; }}
.look svg {{ position: absolute; inset: 0; width: 100%; height: 100%; }}
.halo, .mine {{ fill: none; fill-rule: evenodd; stroke-linejoin: round; vector-effect: non-scaling-stroke; }}
.halo {{ stroke: {pictures.HALO}; stroke-width: 3.5; }}
.mine {{ stroke: {pictures.OUTLINE}; stroke-width: 1.8; fill: {pictures.OUTLINE}; fill-opacity: {pictures.TINT}; }}
.mine:hover {{ fill-opacity: .4; }}
.nothing {{ fill: {pictures.NOTHING}; fill-rule: evenodd; }}
.bar {{ stroke: var(--ink); stroke-width: 2; fill: none; }}
.scale {{ display: block; width: 100%; max-width: 75rem; height: auto; }}
#outlines:not(:checked) ~ .look .shown {{ display: none; }}
"""


def save(path, drawing: Drawing):
  """Writes the page, whole or not at all."""
  files.write_text(path, render(drawing))


def render(drawing: Drawing) -> str:
  """The whole HTML."""
  title = parts.escape(drawing.title)
  body = (
    f"<h1>{title}</h1>\n{parts.definitions(dict(drawing.facts))}"
    '<input type="checkbox" id="outlines" checked> <label for="outlines">outlines of mines</label>\n'
    f"{_picture(drawing)}{_bar(drawing)}{_table(drawing.mines)}"
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{title}</title>\n<style>\n{STYLE}{_LOOK}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
  )


def _picture(drawing: Drawing) -> str:
  width, height = drawing.size
  content = io.BytesIO()
  pictures.photo(drawing).save(content, format="JPEG", quality=88)
  uri = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
  nothing = "".join(
    f'<path class="nothing" d="{_path(entry.outline)}"/>\n' for entry in drawing.nothing[:MOST_OUTLINES]
  )
  lines = [(_path(entry.outline), entry) for entry in drawing.mines[:MOST_OUTLINES]]
  halos = "".join(f'<path class="halo" d="{path}"/>\n' for path, _ in lines)
  mines = "".join(
    f'<path class="mine" d="{path}"><title>{parts.escape(_said(entry))}</title></path>\n' for path, entry in lines
  )
  return (
    f'<div class="look">\n<img src="{uri}" alt="{parts.escape(drawing.title)} in natural colours">\n'
    f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="outlines of mines">\n{nothing}'
    f'<g class="shown">\n{halos}{mines}</g>\n</svg>\n</div>\n'
    f'<p class="caption">Yellow: mine; point at an outline for its area. Grey: not valid.</p>\n{_left_out(drawing)}'
  )


def _left_out(drawing: Drawing) -> str:
  most = max(len(drawing.mines), len(drawing.nothing))
  if most <= MOST_OUTLINES:
    return ""
  return parts.paragraph(f"Of {most:,} outlines the {MOST_OUTLINES:,} largest are drawn here; the PNG has all of them.")


def _path(outline: shapely.Polygon) -> str:
  """SVG path, with a decimal: a tenth of a pixel."""
  smooth = outline.simplify(_SMOOTH_PX)
  return "".join(_ring(ring) for ring in pictures.rings_of(smooth))


def _ring(xy: np.ndarray) -> str:
  first, *rest = [f"{x:.1f},{y:.1f}".replace(".0", "") for x, y in xy[:-1].tolist()]
  return f"M{first}L{' '.join(rest)}Z"


def _bar(drawing: Drawing) -> str:
  width, _ = drawing.size
  length, text = pictures.bar(drawing, width)
  return (
    f'<svg class="scale" viewBox="0 0 {width} 26" role="img" aria-label="scale bar {text}">\n'
    f'<path class="bar" d="M1,2V12H{length:.1f}V2"/><text x="{length + 8:.1f}" y="14">{text}</text>\n</svg>\n'
  )


def _table(mines: Sequence[Footprint]) -> str:
  if not mines:
    return parts.paragraph("No mine is mapped here.")
  head = ("", "area (km²)", "mean probability (%)", "longitude", "latitude")
  rows = [
    (
      str(i),
      f"{mine.area_km2:.4f}",
      parts.number(mine.probability, factor=100.0, digits=1),
      *(f"{degrees:.5f}" for degrees in mine.place),
    )
    for i, mine in enumerate(mines[:MOST_ROWS], start=1)
  ]
  return parts.table(head, rows, caption=f"the largest {len(rows)} of {parts.count(len(mines), 'outline')}")


def _said(mine: Footprint) -> str:
  probability = "" if mine.probability is None else f", mean probability {100 * mine.probability:.0f} %"
  return f"{mine.area_km2:.4f} km²{probability}"
