"""Suites for tests: the shipped ones by name, one at toy size, and what suite.json holds without any training."""

import importlib
import pathlib

import numpy as np

from configs import suites
from configs.suites import table4
from minec2f_jax import metrics
from tests.toy_folder import run_config


def load(name: str, arg: str = "demo"):
  """A shipped suite, on the demo data."""
  return importlib.import_module(f"configs.suites.{name}").get_config(arg)


def make_suite(data):
  """Task 1 as a row, two rows that learn from it, one that is the same run, and one that is printed; one seed."""
  config = table4.get_config()
  pixel, hybrid = config.rows.pixel, config.rows.hybrid
  coarse = suites.make_row(
    "Coarse", {"data": {"bands": suites.RGB_NIR}}, suites.COARSE_ONLY, accuracy=1, mf1=2, miou=3, domain="coarse"
  )
  printed = suites.make_row("Printed", accuracy=4, mf1=5, miou=6, trained=False)
  rows = dict(coarse=coarse, pixel=pixel, hybrid=hybrid, twin=hybrid.copy_and_resolve_references(), printed=printed)
  for row in rows.values():
    row.table = ""
  config = suites.make_suite("Toy", rows)
  config.base, config.seeds = run_config(pathlib.Path(data)), (0,)
  return config


def make_content(
  counts: dict[str, list[np.ndarray]], *, trained=None, table: dict[str, str] | None = None, groups=None
) -> dict:
  """suite.json of made-up runs.

  Args:
    counts: row -> for each seed [N, 2, 2] confusion counts of the fine test images.
    trained: rows that are; None for all.
    table: row -> table, where not "Toy_table".
    groups: row -> the climate zone that it shows, of the two that images know: "arid", the first, and "cold", the rest.
  """
  rows, runs = {}, []
  for name, seeds in counts.items():
    rows[name] = {
      "label": name,
      "table": (table or {}).get(name, "Toy_table"),
      "domain": "fine",
      "group": ["climate zone", groups[name]] if name in (groups or {}) else [],
      "trained": trained is None or name in trained,
      "overrides": {},
      "paper": {"accuracy": 90.0, "mf1": 80.0, "miou": 70.0},
    }
    runs += [_run(name, seed, found) for seed, found in enumerate(seeds)]
  return {
    "version": 1,
    "title": "Toy",
    "data": "toy_data",
    "pretrained": {name: False for name in rows},
    "seeds": list(range(max(map(len, counts.values())))),
    "rows": rows,
    "order": list(rows),
    "base": {"monitor": "miou"},
    "environments": [{"device": "abacus"}],
    "image_lists": [[f"image{i}" for i in range(n)] for n in range(5)],
    "data_digests": [{"fine": {"test": {"sha256": "0", "ids": "0"}}}],
    "runs": runs,
    "others": [],
  }


def _run(name: str, seed: int, counts: np.ndarray) -> dict:
  found = [" ".join(map(str, matrix.ravel())) for matrix in counts]
  result = {"trained_on": "fine", "domain": "fine", "tested_on": "fine test (4)", "scores": _scores(counts)}
  zones = [
    {"name": name, "num_images": len(part), "small": True, "scores": _scores(part)}
    for name, part in (("arid", counts[:1]), ("cold", counts[1:]))
  ]
  result |= {"images": len(counts), "counts": found, "groups": {"climate zone": zones}}
  validation = {"score": 0.5 + seed / 100, "epoch": 3, "epochs": 5}
  run = {"rows": [name], "seed": seed, "results": [result], "environment": 0, "data": 0, "error": None}
  return {**run, "validation": validation}


def _scores(counts: np.ndarray) -> dict:
  scores = metrics.ConfusionMatrix.from_counts(counts).compute()
  return {key: None if np.isnan(value) else value for key, value in scores.items()}
