"""A contact sheet: many chips on one picture, so that a person sees at a glance whether masks lie where mines are."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minec2f_jax import files
from minec2f_jax.data import geotiff

COLUMNS = 8
TILE_PX = 176
_GAP_PX = 12
_CAPTION_PX = 34
_TITLE_PX = 44
_PAPER, _INK, _FAINT = (250, 250, 248), (34, 34, 34), (110, 110, 110)
_OUTLINE, _HALO, _NO_DATA = (255, 196, 0), (20, 20, 20), (225, 225, 225)
_SPLIT_COLOURS = {"train": (46, 134, 171), "validation": (140, 100, 170), "test": (228, 87, 46)}
_RGB = ("red", "green", "blue")
_GAMMA = 0.65  # Land is dark beside clouds and bright waste; a little lift shows the ground.


class Chip(NamedTuple):
  """One picture of the sheet.

  Attributes:
    title: first line of the caption.
    note: second line.
    split: train | validation | test; colours the tag beside the title.
    image: [H, W, 3] float32 reflectance, shown as red, green, blue.
    valid: [H, W] bool.
    label: [H, W] uint8 in {0, 1}; its outline is drawn.
  """

  title: str
  note: str
  split: str
  image: np.ndarray
  valid: np.ndarray
  label: np.ndarray


def evenly_spaced(total: int, limit: int) -> list[int]:
  """At most `limit` indices out of range(total), first and last among them, evenly spaced."""
  return sorted({int(round(i)) for i in np.linspace(0, total - 1, min(total, limit))}) if total else []


def draw_set(output, rows: Sequence[Mapping[str, str]], *, roles: Sequence[str], limit: int = 40):
  """Writes contact_sheet.png: up to `limit` chips of a set, evenly spaced in the order of their area.

  Args:
    output: folder of the set.
    rows: of its index.
    roles: bands of its images; shown in their colours, or the first three where one lacks.
  """
  output, rows = pathlib.Path(output), sorted(rows, key=lambda row: (float(row["area_km2"]), row["id"]))
  shown = [roles.index(role) for role in _RGB] if set(_RGB) <= set(roles) else [i % len(roles) for i in range(3)]
  pictures = []
  for row in (rows[i] for i in evenly_spaced(len(rows), limit)):
    image, valid = geotiff.read_chip(output / "images" / f"{row['id']}.tif", roles=roles, sensor="reflectance")
    label, _ = geotiff.read_mask(output / "masks" / f"{row['id']}.tif")
    size = f"{row['height']} x {row['width']} px of {float(row['gsd_m']):.3g} m"
    note = f"{float(row['area_km2']):.3g} km2, {size}"
    pictures.append(Chip(row["id"], note, row["split"], np.take(image, shown, -1), valid, label))
  title = f"{len(pictures)} of {len(rows)} chips, by area; {', '.join(roles[i] for i in shown)}"
  save(output / "contact_sheet.png", draw(pictures, title=title))


def draw(chips: Sequence[Chip], *, title: str) -> Image.Image:
  """Returns the sheet: COLUMNS chips a row, each stretched to its own values."""
  columns = max(min(COLUMNS, len(chips)), 3)  # Fewer would cut the title.
  rows = -(-len(chips) // columns)
  step_x, step_y = TILE_PX + _GAP_PX, TILE_PX + _CAPTION_PX + _GAP_PX
  sheet = Image.new("RGB", (columns * step_x + _GAP_PX, _TITLE_PX + rows * step_y + _GAP_PX), _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.text((_GAP_PX, 14), title, _INK, ImageFont.load_default(17))
  for position, chip in enumerate(chips):
    x = _GAP_PX + position % columns * step_x
    y = _TITLE_PX + position // columns * step_y
    sheet.paste(thumbnail(chip.image, chip.valid, chip.label, TILE_PX), (x, y))
    _caption(pen, x, y + TILE_PX + 4, chip)
  return sheet


def save(path, sheet: Image.Image):
  """Writes the sheet as PNG, whole or not at all."""
  content = io.BytesIO()
  sheet.save(content, format="PNG")
  files.write_bytes(path, content.getbuffer())


def thumbnail(image: np.ndarray, valid: np.ndarray, label: np.ndarray, size: int) -> Image.Image:
  """Returns a square picture of a chip, centred on grey, with the outline of its mask; arguments as in `Chip`."""
  height, width = label.shape
  scale = size / max(height, width)
  shape = (max(round(width * scale), 1), max(round(height * scale), 1))
  # Shrunk pixels are averaged, grown ones stay squares: either way one sees what is there.
  way = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
  picture = np.asarray(Image.fromarray(_stretched(image, valid)).resize(shape, way)).copy()
  mine = np.asarray(Image.fromarray(label * np.uint8(255)).resize(shape, way)) >= 128
  inner, outer = _rims(mine)
  picture[outer], picture[inner] = _HALO, _OUTLINE
  tile = Image.new("RGB", (size, size), _NO_DATA)
  tile.paste(Image.fromarray(picture), ((size - shape[0]) // 2, (size - shape[1]) // 2))
  return tile


def _stretched(image, valid):
  """[H, W, 3] uint8; grey is no data."""
  # Each band's own dark end takes off the haze, one span for all of them keeps the colours.
  low, high = np.percentile(image[valid], (2, 98), axis=0) if valid.any() else (np.zeros(3), np.ones(3))
  shown = np.clip((image - low) / max((high - low).max(), 1e-6), 0, 1) ** _GAMMA
  return np.where(valid[..., None], np.rint(shown * 255), _NO_DATA).astype(np.uint8)


def _rims(mine):
  """Pixels just inside and just outside of the mask's border, two bool [H, W]."""
  inside = np.pad(mine, 1, mode="edge")
  around = [inside[1:-1, :-2], inside[1:-1, 2:], inside[:-2, 1:-1], inside[2:, 1:-1]]
  return mine & ~np.logical_and.reduce(around), ~mine & np.logical_or.reduce(around)


def _caption(pen, x, y, chip):
  colour = _SPLIT_COLOURS.get(chip.split, _FAINT)
  split, small = chip.split or "no split", ImageFont.load_default(11)
  room = TILE_PX - pen.textlength(split, small) - 14
  pen.text((x, y), _fitted(pen, chip.title, small, room), _INK, small)
  pen.rounded_rectangle((x + TILE_PX - pen.textlength(split, small) - 9, y, x + TILE_PX - 1, y + 14), 4, colour)
  pen.text((x + TILE_PX - pen.textlength(split, small) - 5, y), split, (255, 255, 255), small)
  pen.text((x, y + 15), _fitted(pen, chip.note, small, TILE_PX), _FAINT, small)


def _fitted(pen, text, font, room):
  """`text`, cut with an ellipsis to `room` pixels."""
  if pen.textlength(text, font) <= room:
    return text
  while text and pen.textlength(text + "...", font) > room:
    text = text[:-1]
  return text + "..."
