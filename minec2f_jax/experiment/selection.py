"""Which training images a stage keeps of one of its streams: those on which an earlier model agrees with the label.

A stage's `selection` holds
  judge    the earlier stage whose best model predicts every image of the stream
  stream   "coarse" or "fine"
  score    "iou" or "f1" of mine, between prediction (threshold 0.5) and label, of each image by itself
  least    images that score less are left out; above 1 it leaves out all
  most     of the others at most so many, best first; 0 keeps them all

STAGE/selection.json notes what came of it:
  {"images", "kept": counts, "sweep": {threshold: images that reach it}, "ids": kept, "scores": {id: score}}
A stage that goes on keeps the images that it has noted: on another machine a score may round to the other side.
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from minec2f_jax import console, devices, files, metrics
from minec2f_jax.data import pipeline, resident
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.experiment.stages import UNION, Wired, batch_streams
from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints

SCORES = {"iou": metrics.iou, "f1": metrics.f1}
SWEEP = (0.4, 0.5, 0.6, 0.7)
FILE = "selection.json"


def consistency(counts: np.ndarray, *, score: str) -> np.ndarray:
  """How well prediction and label agree on where mines are, image by image.

  Args:
    counts: [N, 2, 2] whole numbers of pixels, row = label, column = prediction.
    score: "iou" or "f1".

  Returns:
    [N] float64 in [0, 1]; 1 where neither has a mine.
  """
  scores = SCORES[score](counts)[..., 1]
  return np.where(np.isnan(scores), 1.0, scores)


def keep(scores: np.ndarray, *, least: float, most: int) -> np.ndarray:
  """The places, in order, of the `most` best `scores` that are at least `least`; of equal ones the first. 0 = all."""
  places = np.flatnonzero(scores >= least)
  if most:
    places = places[np.argsort(-scores[places], kind="stable")[:most]]
  return np.sort(places)


def training_sources(
  config,
  name: str,
  wired: Mapping[str, Wired],
  models: Mapping[str, Variables],
  sources: Mapping[tuple[str, str], pipeline.Source],
  folder: pathlib.Path,
) -> dict[str, pipeline.Source]:
  """The training images of every stream of stage `name`, after its selection if it has one.

  Args:
    config: of the run.
    name: of the stage.
    wired: its functions and those of the stages before.
    models: what the stages before have left.
    sources: of `open_sources(config)`.
    folder: of the stage; selection.json is written there, or read, if the stage has started.

  Raises:
    UserError: nothing is left of a stream that a batch must hold, or selection.json does not fit the data.
  """
  settings = config[name]
  found = {stream: sources[stream, "train"] for stream in settings.streams}
  if "selection" not in settings:
    return found
  rule = settings.selection
  source = found[rule.stream]
  if checkpoints.has_checkpoints(folder):
    ids = _noted_ids(folder / FILE, source)
    console.say(f"[{name}] keeps the {len(ids)} of {len(source)} {rule.stream} images that it has started with")
  else:
    ids = _select(name, rule, wired[rule.judge], models[rule.judge], source, folder, config.data.batch_size)
  if not ids and batch_streams(settings) != (UNION,):
    raise UserError(
      f"config.{name}.selection.least={rule.least} keeps none of the {len(source)} {rule.stream} images, and a batch "
      f"needs some; {folder / FILE} has their scores. Give a lower one, or config.{name}.sampling='union'."
    )
  kept = set(ids)
  found[rule.stream] = resident.subset(source, [place for place, one in enumerate(source.ids) if one in kept])
  return found


def _select(
  name: str, rule, judge: Wired, model: Variables, source, folder: pathlib.Path, batch_size: int
) -> list[str]:
  """The ids of the images that are kept, told and noted."""
  counts = evaluate_lib.evaluate(judge.predict, model, source, batch_size=batch_size).counts
  # Of several processes all must keep the same.
  scores = devices.of_first(dict(zip(source.ids, consistency(counts, score=rule.score).tolist())))
  values = np.array(list(scores.values()))
  ids = [source.ids[place] for place in keep(values, least=rule.least, most=rule.most)]
  sweep = {str(least): int(np.sum(values >= least)) for least in SWEEP}
  reached = ", ".join(f"{count} at {least}" for least, count in sweep.items())
  console.say(
    f"[{name}] keeps {len(ids)} of {len(source)} {rule.stream} images, by the {rule.score} of label and {rule.judge} "
    f"model (least {rule.least}; it would be {reached})"
  )
  if devices.is_first():
    noted = {"images": len(source), "kept": len(ids), "sweep": sweep, "ids": ids, "scores": scores}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / FILE, noted)
  return ids


def _noted_ids(path: pathlib.Path, source: pipeline.Source) -> list[str]:
  noted = checkpoints.read_json(path)
  ids = noted.get("ids") if isinstance(noted, dict) else None
  if not isinstance(ids, list) or not set(ids) <= set(source.ids) or noted.get("images") != len(source):
    raise UserError(f"{path}: is not what this stage has noted of its images; restore it, or give another --workdir.")
  return ids
