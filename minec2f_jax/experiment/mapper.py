"""Maps scenes with the model of a run."""

import copy
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from minec2f_jax import console, devices
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import noted, record, training_places
from minec2f_jax.experiment.checks import check_fields, check_networks
from minec2f_jax.experiment.data import DOMAINS
from minec2f_jax.experiment.predictions import safe_name
from minec2f_jax.experiment.stages import Wired, load_stage, programs_of, stages_of, wire
from minec2f_jax.mapping import scene_input, symmetries
from minec2f_jax.mapping.predict import Network, Settings, check_settings, map_scenes
from minec2f_jax.mapping.strips import hash_of
from minec2f_jax.methods import Variables


def predict(
  config,
  run,
  *,
  inputs,
  output,
  tile: int | None = None,
  overlap: int | None = None,
  batch: int | None = None,
  tta: bool = False,
  threshold: float = 0.5,
  pixel_size_m: float | None = None,
  dtype: str = "uint16",
  drivers: Sequence[str] = ("GTiff",),
  cache=None,
) -> list[pathlib.Path]:
  """Maps scenes with the best model of a run; see `mapping.predict` for what is written.

  Args:
    config: None for the one that the run has noted; what its weights expect must be the same in another.
    run: workdir of the run, whose last stage maps; or the folder of a stage in it.
    inputs: one GeoTIFF, several of one band each, or a folder, whose scenes are mapped one by one.
    output: folder for the maps.
    tile: side of a tile in pixels as the network sees them; None: as in training (config.data.image_size).
    overlap: of neighbouring tiles in pixels; None: half a tile. A network that has learnt from whole images knows
      nothing of what lies beyond a tile's margin; half a tile lets every pixel lie in the inner half of one, for four
      times the work of none.
    batch: tiles that go through the network at once; None: config.data.batch_size, or the next number that all devices
      can share.
    tta: whether to average over the eight symmetries of a square, for eight times the work.
    threshold: a mask is 1 above it.
    pixel_size_m: side in metres of the pixels that the network is to see; None: of those that it has learnt from.
    dtype: of stored probabilities, "uint16" or "uint8".
    drivers: of GDAL, that may open files, e.g. ("GTiff", "JP2OpenJPEG") for Sentinel-2 products as they come.
    cache: folder for programs, as of `experiment.train`.

  Returns:
    The folder of every map.

  Raises:
    UserError: among others, at the end, scenes of a folder that could not be mapped.
  """
  workdir, chosen = _run_and_stage(run)
  config = copy.deepcopy(noted.get_config(workdir) if config is None else config)
  check_fields(config)
  tile = config.data.image_size if tile is None else tile
  settings = Settings(
    tile, tile // 2 if overlap is None else overlap, _batch(config) if batch is None else batch, threshold, dtype
  )
  check_settings(settings)
  if pixel_size_m is not None and not pixel_size_m > 0:
    raise UserError(f"pixel_size_m={pixel_size_m}: give metres above 0, or leave it out.")
  if (pathlib.Path(output) / "config.json").exists():
    raise UserError(f"--output={output} is the workdir of a run: give a folder of its own for maps.")
  scenes, broken = scene_input.find(inputs, roles=tuple(config.data.bands), sensor=config.data.sensor, drivers=drivers)
  stage = chosen or config.stages[-1]
  programs = programs_of(config, cache)
  check_networks(config, programs)
  config.data.batch_size = settings.batch
  wired = wire(config, programs=programs)
  model = _load(config, workdir, stage, wired)
  _check_tile(wired[stage], model, (settings.batch, tile, tile, len(config.data.bands)))
  training = training_places.find(workdir)
  network = Network(
    _probabilities(wired[stage], model, tta=tta),
    _note(config, workdir, stage, model, training, tta=tta),
    training.sides_m if pixel_size_m is None else (float(pixel_size_m),) * 2,
  )
  console.say(f"[{stage}] maps {len(scenes)} scene{'s' * (len(scenes) != 1)} on {devices.describe(settings.batch)}")
  return map_scenes(scenes, output, network, settings, name_of=safe_name, broken=broken)


def _run_and_stage(run) -> tuple[pathlib.Path, str]:
  """(workdir, stage) of a run's folder or a stage's; the stage is "" where the folder is the run's."""
  run = pathlib.Path(run).expanduser().absolute()
  return (run.parent, run.name) if (run / "stage.json").exists() else (run, "")


def _batch(config) -> int:
  share = jax.local_device_count()
  return -(-config.data.batch_size // share) * share


def _load(config, workdir: pathlib.Path, stage: str, wired: dict[str, Wired]) -> Variables:
  """The best model of `stage`; earlier ones, which give its teacher its form, come before it."""
  names, prior = list(stages_of(config)), None
  if stage not in names:
    raise UserError(f"{workdir} has no stage {stage!r} in config.stages={tuple(names)}; give one of these")
  for name in names[: names.index(stage) + 1]:
    folder = config.teacher if name == "coarse" and config.teacher else workdir
    prior = load_stage(config, name, wired[name].method, folder, prior)
  return prior


def _check_tile(wired: Wired, model: Variables, shape: tuple[int, ...]):
  try:
    jax.eval_shape(wired.method.logits, *model, jax.ShapeDtypeStruct(shape, np.float32))
  except (ValueError, TypeError, AssertionError) as error:
    why = " ".join(str(error).split())[:200]
    raise UserError(
      f"tile={shape[1]}: this network does not take images of that side ({why}); leave it out."
    ) from error


def _probabilities(wired: Wired, model: Variables, *, tta: bool):
  mesh = devices.mesh_of(model)

  def probabilities(image, valid):
    return jax.nn.sigmoid(wired.predict(model, devices.cut({"image": image, "valid": valid}, mesh)))

  return symmetries.average(probabilities) if tta else probabilities


def _note(config, workdir: pathlib.Path, stage: str, model: Variables, training, *, tta: bool) -> dict:
  """What map.json says of the network."""
  return {
    "run": workdir.name,
    "stage": stage,
    "model_sha256": record.model_sha256(model),
    "config_sha256": hash_of(_lasting(config)),
    "bands": list(config.data.bands),
    "tta": tta,
    "trained_on": {"boxes": training.boxes, "unplaced": training.unplaced},
  }


def _lasting(config) -> dict:
  """A config as plain JSON without what neither weights nor maps depend on."""
  plain = json.loads(config.to_json_best_effort())
  plain.pop("checkpoint_minutes", None)
  for name in ("cache_gb", "device_gb", "read_threads", "data_dir", "batch_size"):
    plain["data"].pop(name, None)
  for domain in DOMAINS:
    plain["data"][domain].pop("path", None)
  return plain
