"""The model card: README.md of an export."""

from collections.abc import Sequence

_SCORES = {"miou": "mIoU", "mf1": "mF1", "accuracy": "accuracy", "iou_mine": "IoU of mines"}  # Keys of results.json.
_FRONT = """---
library_name: jax
pipeline_tag: image-segmentation
license: other
tags: [earth-observation, remote-sensing, multispectral, mining, semantic-segmentation]
---"""
_LICENCE = (
  "The code that made it is under Apache-2.0. What may be done with the weights depends on the licences of the "
  "training data and of the pretrained weights named above; who publishes them has to say."
)
_LOAD = """```python
import jax
import numpy as np

with open("model.stablehlo", "rb") as file:
  model = jax.jit(jax.export.deserialize(bytearray(file.read())).call)

image = np.load("image.npy")  # {shape} float32 reflectance, no data as NaN
probability = np.asarray(model(image))  # {result}
mask = probability > 0.5  # no data are never above
```"""


def to_markdown(facts: dict, names: Sequence[str]) -> str:
  """The card.

  Args:
    facts: see `minec2f_jax.export`.
    names: of the model's files that there are.
  """
  parts = [
    _FRONT,
    f"# {facts['name']}",
    _what(facts),
    "## Input and output",
    _bands(facts),
    _interface(facts),
    "## Load it",
    _load(facts, names),
    "## Training",
    _training(facts),
    "## Scores",
    _scores(facts),
    "## Limits",
    _limits(facts),
    "## Licence",
    _LICENCE,
  ]
  return "\n\n".join(parts) + "\n"


def _what(facts) -> str:
  return (
    f"Probability that a pixel of a multispectral satellite image belongs to a mine. Architecture "
    f"{facts['architecture']}, {facts['parameters']:,} parameters; stage {facts['stage']!r}, method "
    f"{facts['method']!r}, of minec2f_jax. SHA-256 of the model (as in the run's records): `{facts['model_sha256']}`."
  )


def _bands(facts) -> str:
  lines = [
    "| channel | band | nominal wavelength (µm) | mean | standard deviation |",
    "|---|---|---|---|---|",
    *(
      f"| {place} | {band['name']} | {band['wavelength_um']} | {band['mean']:g} | {band['std']:g} |"
      for place, band in enumerate(facts["bands"])
    ),
  ]
  return "\n".join(lines)


def _interface(facts) -> str:
  gsd = f"{facts['gsd_m']:g} m" if facts["gsd_m"] else "not noted by the run"
  sizes = "any" if facts["sizes"] == "any" else "{} x {} pixels alone".format(*facts["sizes"])
  side = facts["image_size"]
  return f"""- Input: surface reflectance (0 to 1, not digital numbers), float32, channels in this order, no data as
  NaN: a pixel with one band missing is a pixel without data. Of Sentinel-2 from baseline 04.00 on take off 1000 first.
- Mean and standard deviation, in reflectance, are applied inside model.stablehlo and model.onnx: not by you as well.
- Output: probability of a mine, float32, NaN where there were no data. Above 0.5 is mine.
- Image sizes: {sizes}. Trained on images of {side} x {side} pixels; pixel size: {gsd}."""


def _load(facts, names) -> str:
  height, width = ("height", "width") if facts["sizes"] == "any" else facts["sizes"]
  channels = len(facts["bands"])
  result = f"[batch, {height}, {width}]"
  text = (
    "With jax and flatbuffers installed, on CPUs and on the other platforms of report.json:\n\n"
    + _LOAD.format(shape=f"[batch, {height}, {width}, {channels}]", result=result)
    + "\n\nmodel.safetensors has the same weights by name, float32, for those who build the network themselves "
    "(`trainable/`: parameters; `extra/`: batch statistics; `frozen/`: the teacher whose features the network reads)."
  )
  if "model.onnx" in names:
    text += (
      "\n\nmodel.onnx takes one tile [1, channels, height, width] of reflectance. Its metadata are for QGIS' Deepness "
      "plugin, which divides by 255 first: with them a raster of reflectance x 10000 comes out right."
    )
  return text


def _training(facts) -> str:
  stages = "\n".join(
    f"- stage {stage['name']!r}: method {stage['method']!r}, on {' and '.join(stage['streams'])}"
    for stage in facts["stages"]
  )
  images = "; ".join(f"{name}: {number} images" for name, number in facts["images"].items()) or "sizes not noted"
  start = f"Encoder started from {facts['pretrained']}." if facts["pretrained"] else "Trained from random weights."
  return f"Data: {facts['data']} ({images}).\n\n{stages}\n\n{start}"


def _scores(facts) -> str:
  if not facts["scores"]:
    return "The run has left no results.json: its scores are not known."
  lines = [
    f"Pooled over the pixels of each test set of {facts['data']}, in percent; of no other data.\n",
    f"| tested on | {' | '.join(_SCORES.values())} |",
    f"|---|{'---|' * len(_SCORES)}",
  ]
  for row in facts["scores"]:
    found = (row["scores"].get(name) for name in _SCORES)
    lines.append(f"| {row['tested_on']} | {' | '.join('-' if x is None else f'{100 * x:.2f}' for x in found)} |")
  return "\n".join(lines)


def _limits(facts) -> str:
  demo = ""
  if "demo" in facts["data"].split("_"):
    demo = "- It was trained on demonstration data, which are not mines: use it for trying out alone.\n"
  return f"""{demo}- It knows the sensors, seasons and places of its training data; elsewhere scores are unknown.
- Areas counted from its masks are biased by its errors: adjust them with a reference sample (Olofsson et al. 2014).
- Clouds, shadows and snow that are not marked as no data are taken for land.
- It sees what lies open on the ground, not whether a mine is licensed, active or underground."""
