"""The quick look as a PNG: picture, outlines, scale bar, legend."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from minec2f_jax import files

OUTLINE, HALO, NOTHING = "#ffc400", "#141414", "#b9b9b9"
TINT = 0.16  # Opacity inside of outlines: tells which side is mine, and lets the ground be seen.
_PAPER, _INK, _FAINT = "#fafaf8", "#222222", "#6e6e6e"
_FINE = 2  # Lines are drawn so many times larger, and shrunk: that smooths them.
_MARGIN, _LINE_PX = 20, 24
_BAR_SHARE = 0.25  # Of the picture's width, at most.


class Footprint(NamedTuple):
  """An outline in the picture.

  Attributes:
    outline: in pixels of the picture.
    area_km2: on the ground.
    probability: mean, or None.
    place: (longitude, latitude) of a point in it, or None.
  """

  outline: shapely.Polygon
  area_km2: float
  probability: float | None
  place: tuple[float, float] | None


class Drawing(NamedTuple):
  """What is drawn.

  Attributes:
    picture: [H, W, 3] uint8, any size.
    size: (width, height) that it is shown at, and that the outlines are for.
    mines: the largest first.
    nothing: areas that are not valid.
    metres: side of a pixel of the picture on the ground, the same along both axes.
    title: of the map.
    facts: name -> text.
  """

  picture: np.ndarray
  size: tuple[int, int]
  mines: Sequence[Footprint]
  nothing: Sequence[Footprint]
  metres: float
  title: str
  facts: Mapping[str, str]


def save(path, drawing: Drawing):
  """Writes the PNG, whole or not at all."""
  content = io.BytesIO()
  render(drawing).save(content, format="PNG", optimize=True)
  files.write_bytes(path, content.getbuffer())


def render(drawing: Drawing) -> Image.Image:
  """Title above, the picture, scale bar and facts below."""
  shown = outlined(drawing)
  # The font that comes with Pillow has no superscripts.
  lines = _wrapped(f"{name}: {text}".replace("²", "2") for name, text in drawing.facts.items())
  width = max(shown.width, 640) + 2 * _MARGIN
  bottom = _MARGIN + 40 + shown.height
  sheet = Image.new("RGB", (width, bottom + 50 + _LINE_PX * len(lines) + _MARGIN), _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.text((_MARGIN, _MARGIN - 4), drawing.title, _INK, ImageFont.load_default(22))
  sheet.paste(shown, (_MARGIN, _MARGIN + 40))
  _draw_bar(pen, drawing, shown.width, bottom + 14)
  _draw_legend(pen, drawing, bottom + 14, width - _MARGIN)
  for i, line in enumerate(lines):
    pen.text((_MARGIN, bottom + 50 + _LINE_PX * i), line, _INK if i == 0 else _FAINT, ImageFont.load_default(15))
  return sheet


def photo(drawing: Drawing) -> Image.Image:
  """The picture without outlines, at its size."""
  return Image.fromarray(drawing.picture).resize(drawing.size, Image.Resampling.NEAREST)


def outlined(drawing: Drawing) -> Image.Image:
  """The picture with what is not valid in grey and the outlines of mines."""
  large = Image.fromarray(drawing.picture).resize([side * _FINE for side in drawing.size], Image.Resampling.NEAREST)
  for footprint in drawing.nothing:
    _fill(large, footprint.outline, NOTHING, 1.0)
  for footprint in drawing.mines:
    _fill(large, footprint.outline, OUTLINE, TINT)
  pen = ImageDraw.Draw(large)
  rings = [ring for footprint in drawing.mines for ring in rings_of(footprint.outline)]
  for colour, width in ((HALO, 3.0), (OUTLINE, 1.6)):
    for ring in rings:
      pen.line([tuple(xy) for xy in ring * _FINE], colour, round(width * _FINE), joint="curve")
  return large.resize(drawing.size, Image.Resampling.BOX)


def rings_of(outline: shapely.Polygon) -> list[np.ndarray]:
  """[N, 2] of each ring."""
  return [shapely.get_coordinates(ring) for ring in (outline.exterior, *outline.interiors)]


def bar(drawing: Drawing, width: int) -> tuple[float, str]:
  """Length in pixels and text of a scale bar: the longest of 1, 2 or 5 times a power of ten metres that fits."""
  most = _BAR_SHARE * width * drawing.metres
  power = 10.0 ** math.floor(math.log10(most))
  metres = power * max(step for step in (1, 2, 5) if step * power <= most)
  return metres / drawing.metres, f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


def _fill(large: Image.Image, outline: shapely.Polygon, colour: str, opacity: float):
  """Colours an area; what its holes show stays."""
  exterior, *holes = rings_of(outline)
  box = tuple(np.round(np.concatenate([exterior.min(axis=0), exterior.max(axis=0)]) * _FINE).astype(int))
  stencil = Image.new("L", (max(box[2] - box[0], 1), max(box[3] - box[1], 1)))
  brush = ImageDraw.Draw(stencil)
  for ring, inside in ((exterior, round(255 * opacity)), *((hole, 0) for hole in holes)):
    brush.polygon([tuple(xy) for xy in ring * _FINE - box[:2]], fill=inside)
  large.paste(colour, box[:2], stencil)


def _draw_bar(pen, drawing: Drawing, width: int, y: int):
  length, text = bar(drawing, width)
  pen.line([(_MARGIN, y), (_MARGIN, y + 10), (_MARGIN + length, y + 10), (_MARGIN + length, y)], _INK, 2)
  pen.text((_MARGIN + length + 8, y - 4), text, _INK, ImageFont.load_default(15))


def _draw_legend(pen, drawing: Drawing, y: int, right: int):
  """From right to left: no data, if any, and mines."""
  font = ImageFont.load_default(15)
  for text, colour, shown in (("not valid", NOTHING, bool(drawing.nothing)), ("mine", OUTLINE, True)):
    if shown:
      right -= pen.textlength(text, font)
      pen.text((right, y - 4), text, _INK, font)
      box = (right - 28, y - 2, right - 8, y + 12)
      pen.rectangle(box, fill=NOTHING if colour == NOTHING else None, outline=HALO, width=4 if colour == OUTLINE else 1)
      if colour == OUTLINE:
        pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=OUTLINE, width=2)
      right -= 48


def _wrapped(texts: Iterable[str], limit: int = 84) -> list[str]:
  """Texts in lines, several in one where they fit."""
  lines = []
  for text in texts:
    if len(lines) > 1 and len(lines[-1]) + len(text) + 4 <= limit:
      lines[-1] += f"    {text}"
    else:
      lines.append(text)
  return lines
