"""Adds model.onnx to an export: PYTHON -m minec2f_jax.export.to_onnx FOLDER

jax2onnx wants an older orbax-checkpoint than training does, so PYTHON is that of an environment of its own
(docs/export.md). The network is rebuilt from model.safetensors and model.json, traced, and converted operation by
operation: handed over as the function it is, jax2onnx would put conversions of its own in the place of whole layers, of
which some lose their arguments. The file takes one tile [1, C, H, W], for jax2onnx 0.17 loses track of a free batch.

model.onnx is held against model.stablehlo, which was held against the run; if it is not equal, nothing is written.
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np

from minec2f_jax import console, files
from minec2f_jax.errors import UserError

LARGEST = 1e-4  # Difference of probabilities; onnxruntime has convolutions of its own.
MASKS_AGREE = 0.9999
_OVERLAP_PERCENT = 25  # Of tiles in QGIS.
_STORED = 10000  # What a raster in QGIS has for reflectance 1.


def convert(folder) -> dict:
  """Writes model.onnx, and its name into report.json, the card and the STAC item.

  Args:
    folder: of an export.

  Returns:
    The new content of report.json.

  Raises:
    UserError: the folder is not what an export has left, or the file would not answer as the model does.
  """
  import jax  # After the flags: --help need not start it.

  from minec2f_jax.export import card, parity, program, stac

  folder = pathlib.Path(folder)
  report, facts = _read(folder)
  size = facts["sizes"] if facts["sizes"] != "any" else [facts["image_size"]] * 2
  bands = facts["bands"]
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    content = _annotated(_converted(_function(folder, facts), (1, len(bands), *size)), facts, size)
    run = _session(content)
    one_by_one = lambda image: np.concatenate([run(image[i : i + 1]) for i in range(len(image))])
    images = parity.make_images(*([band[name] for band in bands] for name in ("mean", "std")), size)
    reference = program.load((folder / "model.stablehlo").read_bytes())
    expected = {what: np.asarray(reference(image)) for what, image in images.items()}
    found = parity.require_equal("model.onnx", one_by_one, images, expected, largest=LARGEST, masks_agree=MASKS_AGREE)
  files.write_bytes(folder / "model.onnx", content)
  names = sorted({"model.stablehlo", "model.safetensors", "model.onnx"})
  files.write_text(folder / "README.md", card.to_markdown(facts, names))
  files.write_json(folder / "item.json", stac.make_item(facts, names))
  for name in ("README.md", "item.json", "model.onnx"):
    report["files"][name] = files.sha256(folder / name)
  report["parity"]["model.onnx"] = found
  report["versions"] |= {name: importlib.metadata.version(name) for name in ("jax2onnx", "onnx", "onnxruntime")}
  files.write_json(folder / "report.json", report)
  return report


def _read(folder: pathlib.Path) -> tuple[dict, dict]:
  """(report.json, model.json), after all files have proved to be those that report.json tells of."""
  try:
    report, facts = (json.loads((folder / name).read_bytes()) for name in ("report.json", "model.json"))
    changed = [
      name
      for name, digest in sorted(report["files"].items())
      if not (folder / name).exists() or files.sha256(folder / name) != digest
    ]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{folder}: is not what an export leaves ({error}); give the folder of one") from error
  if changed:
    raise UserError(f"{folder}: {', '.join(changed)} changed since the export; export the run again")
  return report, facts


def _function(folder: pathlib.Path, facts: dict) -> Callable:
  """`[B, C, H, W] -> [B, 1, H, W]`, as ONNX tools have their images."""
  import jax.numpy as jnp

  from minec2f_jax import methods
  from minec2f_jax.export import weights
  from minec2f_jax.export.probability import make_probability

  method = methods.make_method(facts["network"], facts["network"]["stage"])
  mean, std = ([band[name] for band in facts["bands"]] for name in ("mean", "std"))
  probability = make_probability(method.logits, mean=mean, std=std)
  variables = weights.read(folder / "model.safetensors")
  return lambda image: probability(variables, jnp.transpose(image, (0, 2, 3, 1)))[:, None]


def _converted(function: Callable, shape: tuple[int, ...]):
  """The ONNX model of `function` for images of `shape`."""
  import jax
  from jax.extend.core import jaxpr_as_fun

  try:
    from jax2onnx import to_onnx
  except ImportError as error:
    raise UserError("jax2onnx is not installed here: docs/export.md says how to make an environment for it") from error
  traced = jaxpr_as_fun(jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, np.float32)))
  return to_onnx(lambda image: traced(image)[0], [shape], input_names=["reflectance"], output_names=["probability"])


def _annotated(model, facts: dict, size) -> bytes:
  """The file's content, with what QGIS' plugin Deepness reads of a model.

  Deepness divides by 255 whatever it is given, then standardises: so that a raster of reflectance x 10000 becomes
  reflectance, the standard deviation is 10000 / 255.
  """
  count = len(facts["bands"])
  told = {
    "model_type": "Segmentor",
    "class_names": {"0": "mine"},
    "tile_size": size[0],  # What the plugin reads,
    "tiles_size": size[0],  # and what its documentation says.
    "tiles_overlap": _OVERLAP_PERCENT,
    "standardization_mean": [0.0] * count,
    "standardization_std": [_STORED / 255] * count,
    "seg_thresh": 0.5,
    "bands": [band["name"] for band in facts["bands"]],
    "model_sha256": facts["model_sha256"],
  }
  if facts["gsd_m"]:
    told["resolution"] = 100 * facts["gsd_m"]  # Centimetres.
  for key, value in sorted(told.items()):
    entry = model.metadata_props.add()
    entry.key, entry.value = key, json.dumps(value)
  return model.SerializeToString(deterministic=True)


def _session(content: bytes) -> Callable:
  """`[1, H, W, C] -> [1, H, W]` by onnxruntime."""
  import onnx
  import onnxruntime

  onnx.checker.check_model(onnx.load_from_string(content))
  session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
  return lambda image: session.run(None, {"reflectance": np.ascontiguousarray(image.transpose(0, 3, 1, 2))})[0][:, 0]


def main():
  """The command."""
  parser = argparse.ArgumentParser(prog="python -m minec2f_jax.export.to_onnx", description="Adds model.onnx.")
  parser.add_argument("folder", help="of an export (launch.py --mode=export)")
  folder = parser.parse_args().folder
  try:
    report = convert(folder)
  except UserError as error:
    sys.exit(f"to_onnx: {error}")
  largest = max(one["largest"] for one in report["parity"]["model.onnx"].values())
  console.say(f"{folder}/model.onnx: probabilities within {largest:.1g} of model.stablehlo's")


if __name__ == "__main__":
  main()
