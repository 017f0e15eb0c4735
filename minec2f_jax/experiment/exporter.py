"""Hands out a run's model: a program, its weights and what to know of them, after they have proved equal to it."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from scipy import special

from minec2f_jax import __version__, console, files, methods
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import noted, record
from minec2f_jax.experiment.checks import check_fields
from minec2f_jax.experiment.data import DOMAINS, data_name
from minec2f_jax.experiment.stages import Wired, load_stage, programs_of, stages_of, wire
from minec2f_jax.export import card, parity, program, stac, weights
from minec2f_jax.export.probability import make_probability
from minec2f_jax.methods import Variables
from minec2f_jax.models import factory
from minec2f_jax.programs import NOT_KEPT
from minec2f_jax.training import checkpoints

PLATFORMS = ("cpu", "cuda")
_KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
LARGEST = 1e-6  # Difference of probabilities that the program may have.
# Centres of Sentinel-2's bands, micrometres; Landsat's are within 0.03.
_WAVELENGTHS_UM = {"blue": 0.49, "green": 0.56, "red": 0.665, "nir": 0.842, "swir1": 1.61, "swir2": 2.19}
_FILES = ("model.stablehlo", "model.safetensors")


class Model(NamedTuple):
  """What a run has learnt last.

  Attributes:
    stage: whose.
    wired: its functions, in float32.
    variables: NumPy arrays.
    sha256: as the run's records have it.
    data: what the run has noted that it learnt from, see `data_name`.
  """

  stage: str
  wired: Wired
  variables: Variables
  sha256: str
  data: str


def export(config, run, output, *, platforms: tuple[str, ...] = PLATFORMS, cache=None) -> dict:
  """Writes the model of a run's last stage into a new folder, which is there when all of it is right.

  model.stablehlo, model.safetensors, model.json (facts), README.md (model card), item.json (STAC MLM), report.json:
  {"version": 1, "stage", "model_sha256", "sizes", "platforms", "files": {name: SHA-256},
   "parity": {file: {image: {"largest", "masks_agree"}}}, "versions": {package: version}}

  Args:
    config: None for the one that the run has noted; else what differs may be where things lie, or `data.gsd_m`.
    run: its workdir; only read.
    output: folder that is not there yet, or is empty.
    platforms: that the program is to run on, see `program.serialize`.
    cache: as of `run.train`.

  Returns:
    The content of report.json.

  Raises:
    UserError: among others, there is no such run, `output` holds something, safetensors is not installed, or a file
      does not answer as the model does; nothing is left then.
  """
  run, output = pathlib.Path(run), pathlib.Path(output)
  config = noted.get_config(run) if config is None else config.copy_and_resolve_references()
  _forget_data(config)
  check_fields(config)
  _check_platforms(platforms)
  # On a CPU and in float32, whatever the run had: the limits are for the rounding of those.
  config.model.dtype = "float32"
  with _whole(output) as folder, jax.default_device(jax.local_devices(backend="cpu")[0]):
    model = _load(config, run, cache)
    files.write_bytes(folder / "model.safetensors", weights.to_bytes(model.variables))
    content, sizes = _program(config, model, platforms)
    files.write_bytes(folder / "model.stablehlo", content)
    facts = _facts(config, run, model, sizes)
    found = _hold_against(facts, model, folder)
    files.write_json(folder / "model.json", facts)
    files.write_text(folder / "README.md", card.to_markdown(facts, _FILES))
    files.write_json(folder / "item.json", stac.make_item(facts, _FILES))
    report = {
      "version": 1,
      "stage": model.stage,
      "model_sha256": model.sha256,
      "sizes": sizes,
      "platforms": list(platforms),
      "files": {path.name: files.sha256(path) for path in sorted(folder.iterdir())},
      "parity": found,
      "versions": {"minec2f_jax": __version__, **_versions("flax", "jax", "jaxlib", "numpy", "safetensors")},
    }
    files.write_json(folder / "report.json", report)
  largest = max(one["largest"] for one in found["model.stablehlo"].values())
  console.say(f"{output}: stage {model.stage!r}, image sizes: {sizes}; probabilities within {largest:.1g} of the run's")
  return report


def _forget_data(config):
  """Takes out where data lie: none are opened, and they may be gone. What is no config `check_fields` will refuse."""
  with contextlib.suppress(AttributeError, KeyError, TypeError):
    for domain in DOMAINS:
      config.data[domain].update(path=None, builder="")


def _load(config, run: pathlib.Path, cache) -> Model:
  wired, prior, models = wire(config, programs=programs_of(config, cache)), None, {}
  for name in stages_of(config):
    folder = config.teacher if name == "coarse" and config.teacher else run
    prior = models[name] = load_stage(config, name, wired[name].method, folder, prior)
  stage = config.stages[-1]
  return Model(stage, wired[stage], jax.device_get(prior), record.model_sha256(prior), data_name(noted.get_config(run)))


def _statistics(config) -> dict[str, tuple[float, ...]]:
  return {name: tuple(config.data[name][band] for band in config.data.bands) for name in ("mean", "std")}


def _check_platforms(platforms: tuple[str, ...]):
  unknown = sorted(set(platforms) - set(_KNOWN_PLATFORMS))
  if unknown or "cpu" not in platforms:
    raise UserError(
      f"platforms are {tuple(platforms)}: take some of {_KNOWN_PLATFORMS}, with 'cpu', on which the program is held "
      "against the run"
    )


def _program(config, model: Model, platforms) -> tuple[bytes, str | list[int]]:
  return program.serialize(
    make_probability(model.wired.method.logits, **_statistics(config)),
    model.variables,
    channels=len(config.data.bands),
    size=config.data.image_size,
    platforms=platforms,
  )


def _hold_against(facts: dict, model: Model, folder: pathlib.Path) -> dict:
  """What `parity.require_equal` finds of both files, as they lie there."""
  statistics = {name: [band[name] for band in facts["bands"]] for name in ("mean", "std")}
  images = parity.make_images(**statistics, sizes=facts["sizes"])

  def answer(variables, image):  # As the run itself predicts: normalised outside of the method, with a mask.
    valid = np.isfinite(image).all(-1)
    logits = np.asarray(model.wired.predict(variables, {"image": image, "valid": valid}), np.float64)
    return np.where(valid, special.expit(logits), np.nan)

  expected = {what: answer(model.variables, image) for what, image in images.items()}
  read = weights.read(folder / "model.safetensors")
  _require_same_weights(read, model.variables)
  # Compiled with the options of all programs here: what is to be told is another network, not another rounding.
  run = NOT_KEPT.wrap("exported", program.load((folder / "model.stablehlo").read_bytes()))
  return {
    "model.safetensors": parity.require_equal(
      "model.safetensors", lambda image: answer(read, image), images, expected, largest=0.0
    ),
    "model.stablehlo": parity.require_equal("model.stablehlo", run, images, expected, largest=LARGEST),
  }


def _require_same_weights(found: Variables, expected: Variables):
  """Raises a UserError that names the weights whose bits differ."""
  found, expected = (
    {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    for tree in (found, expected)
  )
  same = lambda one, other: (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
  bad = sorted(
    name for name in found | expected if not (name in found and name in expected and same(found[name], expected[name]))
  )
  if bad:
    raise UserError(
      f"model.safetensors does not hold the run's weights ({len(bad)} differ, the first is {bad[0]}), so it is not "
      "kept; report it, with the config and the version of safetensors"
    )


def _facts(config, run: pathlib.Path, model: Model, sizes) -> dict:
  """The content of model.json, see `minec2f_jax.export`."""
  plain, data, settings = json.loads(config.to_json_best_effort()), config.data, config[model.stage]
  section = methods.METHODS[settings.method].section
  architecture = config.model.get("architecture", factory.DEFAULT)
  name = "MineC2FNet" if settings.method == "attentive_distillation" else architecture
  return {
    "name": f"{name}-{model.stage}",
    "architecture": architecture,
    "stage": model.stage,
    "method": settings.method,
    "stages": [
      {"name": stage, "method": config[stage].method, "streams": list(config[stage].streams)}
      for stage in stages_of(config)
    ],
    "model_sha256": model.sha256,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.variables.trainable)),
    "bands": [
      {"name": band, "wavelength_um": _WAVELENGTHS_UM[band], "mean": data.mean[band], "std": data.std[band]}
      for band in data.bands
    ],
    "image_size": data.image_size,
    "gsd_m": data.get("gsd_m", 0.0) or None,
    "sizes": sizes,
    "data": model.data,
    "images": _images(run),
    "scores": _scores(run, model.stage),
    "pretrained": pathlib.Path(config.pretrained).name if config.pretrained else None,
    "network": {"model": plain["model"], "stage": plain[model.stage], **({section: plain[section]} if section else {})},
    "jax": jax.__version__,
  }


def _images(run: pathlib.Path) -> dict[str, int]:
  """How many images the run has noted for each domain and split; none by early versions."""
  places = record.read_data(run) if (run / "data.json").exists() else {}
  return {f"{domain} {split}": places[domain, split]["images"] for domain, split in sorted(places)}


def _scores(run: pathlib.Path, stage: str) -> list[dict]:
  """The pooled scores of `stage` in the run's results.json, as far as there are."""
  path = run / "results.json"
  rows = checkpoints.read_json(path).get("rows", []) if path.exists() else []
  return [{"tested_on": row["tested_on"], "scores": row["scores"]} for row in rows if row.get("trained_on") == stage]


def _versions(*packages: str) -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in packages}


@contextlib.contextmanager
def _whole(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside `output` that takes its name if nothing fails, and is gone if something does."""
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(f"--output={output} holds something already: give a new folder")
  folder = output.parent / f".{output.name}.{os.getpid()}.partial"
  try:
    folder.mkdir(parents=True)
    yield folder
    folder.rename(output)
  except OSError as error:
    raise UserError(f"--output={output} cannot be written ({error}); give another folder") from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)
