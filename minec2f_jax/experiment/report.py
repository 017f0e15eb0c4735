"""What a run leaves for its reader: tables, curves, panels and, on request, predictions."""

import pathlib

import numpy as np
import scipy.special

from minec2f_jax import console, distillation
from minec2f_jax.data import pipeline
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import assessment, figures, summary, tables
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.experiment import predictions as predictions_lib
from minec2f_jax.experiment.data import DOMAINS, data_name
from minec2f_jax.experiment.stages import Wired
from minec2f_jax.methods import Variables
from minec2f_jax.training.logging import read_metrics

_PANEL_ROWS = 5


def report(
  config,
  workdir: pathlib.Path,
  wired: dict[str, Wired],
  models: dict[str, Variables],
  sources,
  *,
  output: pathlib.Path | None = None,
  predictions: bool = False,
):
  """Scores every model on every test split and writes results, curves and panels.

  Args:
    config: of the run, but for the data, which may be others.
    workdir: of the run, whose histories are drawn.
    wired: of every stage.
    models: stage -> what it has learnt.
    sources: (domain, split) -> samples; the test splits are scored.
    output: folder for it all, made if it is not there; None: the workdir.
    predictions: whether to write every probability map, too: OUTPUT/predictions/DOMAIN/MODEL/ID.tif.
  """
  output = pathlib.Path(workdir if output is None else output)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{output}: cannot be made ({error}); give another folder") from error
  tests = {domain: source for (domain, split), source in sources.items() if split == "test"}
  rows = score(config, wired, models, tests, predictions=output / "predictions" if predictions else None)
  title = f"Test scores in percent (number of images); data: {data_name(config)}; seed {config.seed}"
  results = {"title": title, "data": data_name(config), "seed": config.seed, "rows": rows}
  if moved := summary.transfer_of(rows, DOMAINS):
    results["transfer"] = moved
  tables.write_tables({**results, "policies": summary.policies()}, output)
  histories = {name: read_metrics(workdir / name / "metrics.jsonl") for name in models}
  if known := {name: lines for name, lines in histories.items() if lines}:
    figures.save_curves(output / "curves.png", known, score=config.monitor)
  for domain, source in tests.items():
    _save_panel(config, output / f"panel_{domain}.png", wired, models, source, f"{data_name(config)}, {domain} test")
  left = ["tables", "figures", *["predictions"] * predictions, *["checkpoints"] * (output == workdir)]
  console.say(f"\n{title}\n\n{tables.to_text(rows)}\nThe {', '.join(left[:-1])} and {left[-1]} are in {output}")


def score(config, wired: dict[str, Wired], models: dict[str, Variables], tests, *, predictions=None) -> list[dict]:
  """One row of numbers a model and test set, see `summary.summarize`.

  Args:
    config: of the run.
    wired: of every stage.
    models: stage -> what it has learnt.
    tests: domain -> samples.
    predictions: folder for probability maps, or None.
  """
  rows = []
  told = {domain: [pipeline.details(source, i) for i in range(len(source))] for domain, source in tests.items()}
  for name, variables in models.items():
    for domain, source in tests.items():
      title, observe = _title(config, name), None
      if predictions is not None:
        folder = predictions / domain / predictions_lib.safe_name(title)
        observe = predictions_lib.make_writer(folder, source.ids, told[domain], model=title)
      found = assessment.assess(
        wired[name].predict,
        variables,
        source,
        batch_size=config.data.batch_size,
        details=told[domain],
        observe=observe,
      )
      row = {"model": title, "trained_on": name, "tested_on": f"{domain} test ({len(source)})", "domain": domain}
      rows.append({**row, **summary.summarize(found, source.ids, told[domain], seed=config.seed)})
  return rows


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
