"""What a run leaves for its reader: tables, curves and panels."""

import pathlib

import numpy as np
import scipy.special

from minec2f_jax import console, distillation
from minec2f_jax.data import pipeline
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.evaluation import figures, tables
from minec2f_jax.experiment.data import DOMAINS, data_name
from minec2f_jax.experiment.stages import Wired
from minec2f_jax.methods import Variables
from minec2f_jax.training.logging import read_metrics

_PANEL_ROWS = 5


def report(config, workdir: pathlib.Path, wired: dict[str, Wired], models: dict[str, Variables], sources):
  """Scores every model on every test split and writes results, curves and panels into `workdir`."""
  tests = {domain: source for (domain, split), source in sources.items() if split == "test"}
  rows = []
  for name, variables in models.items():
    for domain, source in tests.items():
      matrix = evaluate_lib.evaluate(wired[name].predict, variables, source, batch_size=config.data.batch_size)
      rows.append(
        {
          "model": _title(config, name),
          "trained_on": name,
          "tested_on": f"{domain} test ({len(source)})",
          "domain": domain,
          "scores": matrix.compute(),
          # Pixels by label, then prediction, of each image: for intervals and tests, without a second evaluation.
          "counts": dict(zip(source.ids, matrix.counts.tolist())),
        }
      )
  title = f"Test scores in percent (number of images); data: {data_name(config)}; seed {config.seed}"
  tables.write_tables(rows, workdir, title=title)
  histories = {name: read_metrics(workdir / name / "metrics.jsonl") for name in models}
  figures.save_curves(workdir / "curves.png", {k: v for k, v in histories.items() if v}, score=config.monitor)
  for domain, source in tests.items():
    _save_panel(config, workdir / f"panel_{domain}.png", wired, models, source, f"{data_name(config)}, {domain} test")
  console.say(f"\n{title}\n\n{tables.to_text(rows)}\nTable, figures and checkpoints are in {workdir}")


def _save_panel(config, path, wired: dict[str, Wired], models: dict[str, Variables], source, title: str):
  """Draws test images evenly spaced in the order of their mined share."""
  shares = [source[i]["label"].mean() for i in range(len(source))]
  places = np.linspace(0, len(source) - 1, min(_PANEL_ROWS, len(source))).round().astype(int)
  subset = pipeline.Subset(source, np.argsort(shares, kind="stable")[places])
  samples = [{**subset[i], "id": subset.ids[i]} for i in range(len(subset))]
  logits = {
    name: evaluate_lib.predict_all(wired[name].predict, variables, subset, batch_size=config.data.batch_size)
    for name, variables in models.items()
  }
  masks = {}
  if set(logits) == set(DOMAINS) and config.fine.method == "attentive_distillation":
    label, valid = (np.stack([sample[field] for sample in samples]) for field in ("label", "valid"))
    for field, selection in (("better", "pixel"), ("distilled", config.distillation.selection)):
      masks[field] = np.asarray(
        distillation.selection_mask(logits["fine"], logits["coarse"], label, valid, selection=selection)
      )
  figures.save_panel(
    path,
    samples=samples,
    bands=tuple(config.data.bands),
    probabilities={_title(config, name): scipy.special.expit(z) for name, z in logits.items()},
    title=title,
    **masks,
  )


def _title(config, stage: str) -> str:
  names = {("coarse", "supervised"): "teacher", ("fine", "attentive_distillation"): "student"}
  return names.get((stage, config[stage].method), config[stage].method)
