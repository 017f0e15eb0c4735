"""Test images of the report: what was seen, labelled, said, and where it was wrong."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from minec2f_jax.evaluation import figures
from minec2f_jax.evaluation.html_parts import count, defined, escape, name, with_sign

MAX_SIDE = 256  # Pixels; of larger images every second, third, ... is shown.
THRESHOLD = 0.5  # As `metrics.confusion_counts` has it.
_LABELS = ("background", "hit", "no data")  # Colours of background, mine and pixels without data in a label.
_LEVELS = 255  # Of probability; the last place of a palette of 256 is that of no data.


class Card(NamedTuple):
  """One test image.

  Attributes:
    id: its name.
    why: it is shown, e.g. "worst of 40 by student's IoU of mine".
    image: [H, W, C] float32 reflectance.
    label: [H, W] uint8, non-zero = mine.
    valid: [H, W] bool.
    probabilities: model -> [H, W] in 0..1; anything where not valid.
    scores: model -> IoU of mine in this image, NaN where undefined.
  """

  id: str
  why: str
  image: np.ndarray
  label: np.ndarray
  valid: np.ndarray
  probabilities: dict[str, np.ndarray]
  scores: dict[str, float]


def card(shown: Card, bands: Sequence[str]) -> str:
  """The panels of one image: composites, label, each model's probability and errors."""
  label, valid = np.asarray(shown.label) != 0, np.asarray(shown.valid, bool)
  panels = [_panel(_photo(shown, bands, roles), title, shown.id) for title, roles in figures.composites(bands).items()]
  mines = count(int((label & valid).sum()), "pixel")
  panels.append(_panel(_indexed(np.where(valid, label, 2), _LABELS), f"label: mine, {mines}", shown.id))
  for model, probability in shown.probabilities.items():
    panels.append(_panel(_probability(probability, valid), f"{model}: probability", shown.id))
  for model, probability in shown.probabilities.items():
    found = figures.outcomes(label, np.asarray(probability) > THRESHOLD, valid)
    wrong = [f"{kind} {count(_number_of(found, kind), 'pixel')}" for kind in ("miss", "false alarm")]
    panels.append(_panel(_indexed(found, tuple(figures.OUTCOME_COLOURS)), f"{model}: {', '.join(wrong)}", shown.id))
  scores = ", ".join(f"{model} {_said(value)}" for model, value in shown.scores.items())
  facts = [shown.why, *[f"IoU of mine: {scores}"] * bool(shown.scores), *_remarks(valid)]
  return (
    f'<article class="card">\n<h4>{name(shown.id)}</h4>\n<p class="why">{escape("; ".join(facts))}</p>\n'
    f'<div class="panels">\n{"".join(panels)}</div>\n</article>\n'
  )


def legend() -> str:
  """What the colours of labels, errors and probabilities mean."""
  swatch = lambda kind: _data_uri(Image.fromarray(_rgb((kind,))[None]))
  outcomes = [(swatch(kind), "swatch", text) for kind, text in _OUTCOME_TEXTS.items()]
  ramp = _data_uri(Image.fromarray(figures.probability_colours(128)[None]))
  entries = [*outcomes, (ramp, "wide", "probability of a mine, 0 to 100 %")]
  items = "".join(f'<li><img class="{kind}" src="{uri}" alt="">{escape(text)}</li>\n' for uri, kind, text in entries)
  return f'<ul class="legend">\n{items}</ul>\n'


_OUTCOME_TEXTS = {
  "hit": "hit: mine in label and prediction (in the label panel: mine)",
  "miss": "miss: mine in the label alone",
  "false alarm": "false alarm: mine in the prediction alone",
  "background": "background in both",
  "no data": "no data: counts nowhere",
}


def _number_of(found: np.ndarray, kind: str) -> int:
  return int((found == list(figures.OUTCOME_COLOURS).index(kind)).sum())


def _said(value) -> str:
  return with_sign(value) if defined(value) else "undefined (no mine in label and prediction)"


def _remarks(valid: np.ndarray) -> list[str]:
  step, remarks = _step(valid.shape), []
  if not valid.any():
    remarks.append("it has no pixel with data")
  if step > 1:
    remarks.append(f"of {valid.shape[0]} × {valid.shape[1]} pixels, one in {step} is shown along each side")
  return remarks


def _panel(uri: str, title: str, image: str) -> str:
  return (
    f'<figure><img src="{uri}" alt="{escape(f"{image}: {title}")}"><figcaption>{escape(title)}</figcaption></figure>\n'
  )


def _photo(shown: Card, bands: Sequence[str], roles: Sequence[str]) -> str:
  valid = np.asarray(shown.valid, bool)
  image = np.where(valid[..., None], shown.image, 0.0)  # What is not valid may be infinite.
  pixels = figures.stretch(image, valid, list(bands), roles)
  pixels = np.where(valid[..., None], np.round(255 * pixels), _rgb(("no data",))[0]).astype(np.uint8)
  # 256 colours are enough to look at and some third of the bytes; other ways to choose them take 200 times as long.
  return _data_uri(Image.fromarray(_thinned(pixels)).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))


def _probability(probability: np.ndarray, valid: np.ndarray) -> str:
  known = valid & np.isfinite(probability)
  levels = np.round((_LEVELS - 1) * np.clip(np.where(known, probability, 0.0), 0.0, 1.0))
  palette = np.concatenate([figures.probability_colours(_LEVELS), _rgb(("no data",))])
  return _paletted(np.where(known, levels, _LEVELS), palette)


def _indexed(places: np.ndarray, kinds: Sequence[str]) -> str:
  return _paletted(places, _rgb(kinds))


def _paletted(places: np.ndarray, palette: np.ndarray) -> str:
  picture = Image.fromarray(_thinned(places.astype(np.uint8)))
  picture.putpalette(palette.tobytes())
  return _data_uri(picture)


def _rgb(kinds: Sequence[str]) -> np.ndarray:
  """[K, 3] uint8 colours of outcomes."""
  return np.array([list(bytes.fromhex(figures.OUTCOME_COLOURS[kind][1:])) for kind in kinds], np.uint8)


def _thinned(pixels: np.ndarray) -> np.ndarray:
  step = _step(pixels.shape)
  return np.ascontiguousarray(pixels[::step, ::step])


def _step(shape) -> int:
  return -(-max(shape[:2]) // MAX_SIDE)


def _data_uri(picture: Image.Image) -> str:
  file = io.BytesIO()
  picture.save(file, "PNG", optimize=True)
  return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
