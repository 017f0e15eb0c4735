"""What the HTML page of a run shows, gathered in one place."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from minec2f_jax import metrics
from minec2f_jax.data import pipeline
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.experiment import record
from minec2f_jax.experiment.data import data_name
from minec2f_jax.experiment.stages import Wired
from minec2f_jax.methods import Variables
from minec2f_jax.training.logging import read_metrics

_CARDS = 3  # Worst images of a test set, and as many best ones.


def gather(
  config, workdir, wired: Mapping[str, Wired], models: Mapping[str, Variables], sources, results: dict, titles: Mapping
) -> dict:
  """The fields of an `html_report.Page`, its cards as the fields of an `html_report.Card`.

  Args:
    config: of the run, with the data that were scored.
    workdir: of the run.
    wired: of every stage.
    models: stage -> what it has learnt.
    sources: (domain, split) -> samples.
    results: the content of results.json.
    titles: stage -> what its model is called in `results`.
  """
  histories = {name: read_metrics(pathlib.Path(workdir) / name / "metrics.jsonl") for name in models}
  plain = json.loads(config.to_json_best_effort())
  return {
    "title": f"{' and '.join(titles.values())} on {data_name(config)}",
    "facts": facts(config, plain, sources),
    "results": results,
    "curves": {name: lines for name, lines in histories.items() if lines},
    "monitor": config.monitor,
    "bands": tuple(config.data.bands),
    "cards": {
      f"{domain} test": _cards(config, wired, models, source, _rows_of(results, domain), titles)
      for (domain, split), source in sources.items()
      if split == "test"
    },
    "config": plain,
  }


def facts(config, plain: dict, sources) -> dict[str, str]:
  """What a stranger has to know of a run, heading -> text; the same for the same run."""
  here = record.environment(config)
  packages = {name: version for name, version in here["packages"].items() if name in ("minec2f_jax", "jax", "flax")}
  return {
    "Data": data_name(config),
    "Images": ", ".join(f"{len(source)} {domain} {split}" for (domain, split), source in sources.items()),
    "Seed": str(config.seed),
    "Stages": ", ".join(f"{name} ({config[name].method})" for name in config.stages),
    "Device": f"{here['devices']} x {here['device']}, {here['dtype']}",
    "Versions": ", ".join(f"{name} {version}" for name, version in {**packages, "Python": here["python"]}.items()),
    "Config (SHA-256)": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
    "Scored again by": "python launch.py --mode=evaluate --workdir=DIR",
  }


def _rows_of(results: dict, domain: str) -> list[dict]:
  return [row for row in results["rows"] if row["domain"] == domain]


def _cards(config, wired, models, source: pipeline.Source, rows: Sequence[dict], titles: Mapping) -> list[dict]:
  """The worst and the best images of a test set by the last model's IoU of mine, the worst first."""
  by_model = {row["trained_on"]: metrics.scores(list(row["counts"].values()))["iou_mine"] for row in rows}
  chosen = _chosen(list(by_model.values())[-1], titles[list(by_model)[-1]])
  subset = pipeline.Subset(source, list(chosen))
  shown = [subset[i] for i in range(len(subset))]
  probabilities = {
    titles[name]: special.expit(
      evaluate_lib.predict_all(wired[name].predict, variables, subset, batch_size=config.data.batch_size)
    )
    for name, variables in (models.items() if chosen else ())
  }
  return [
    {
      "id": source.ids[place],
      "why": why,
      **{field: sample[field] for field in ("image", "label", "valid")},
      "probabilities": {name: maps[i] for name, maps in probabilities.items()},
      "scores": {titles[name]: float(values[place]) for name, values in by_model.items()},
    }
    for i, ((place, why), sample) in enumerate(zip(chosen.items(), shown))
  ]


def _chosen(scores: np.ndarray, model: str) -> dict[int, str]:
  """Place -> why, of the images with the lowest and the highest scores, each once; NaN is no score."""
  order = [int(place) for place in np.argsort(scores, kind="stable") if not np.isnan(scores[place])]
  count = min(_CARDS, len(order) // 2) if len(order) > 1 else len(order)
  why = lambda kind: f"{kind} of {len(order)} by {model}'s IoU of mine"
  best = order[len(order) - count :] if len(order) > 1 else []
  return {place: why("worst") for place in order[:count]} | {place: why("best") for place in best}
