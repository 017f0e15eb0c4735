"""What a suite's runs say of its rows: scores by seed, and paired comparisons between rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minec2f_jax import metrics
from minec2f_jax.evaluation import comparisons, intervals

# Cell of the confusion matrix -> its place, by label, then prediction; mine is positive.
SHARES = {"tn": (0, 0), "fp": (0, 1), "fn": (1, 0), "tp": (1, 1)}
REFERENCES = ("first", "above")  # The first row of the same table that is trained, or the nearest one above.


class Paired(NamedTuple):
  """A row beside another one of its table.

  Attributes:
    other: the other row.
    difference: of the score, 0..1; positive where the row is better.
    low, high: 95 % interval of it; NaN where there is none.
    p: two-sided; NaN where there is no test.
    adjusted: after Holm's correction for all comparisons of its kind in the table.
    over: "seeds", which speaks of the methods, or "images", of two trained networks alone.
  """

  other: str
  difference: float
  low: float
  high: float
  p: float
  adjusted: float
  over: str


def tables_of(suite: dict) -> dict[str, list[str]]:
  """Table's title -> its rows, in order."""
  found = {}
  for name in suite["order"]:
    found.setdefault(suite["rows"][name]["table"], []).append(name)
  return found


def results_of(suite: dict, row: str) -> dict[int, dict]:
  """Seed -> the entry of `results` that `row` shows, its counts by image; without seeds that are not through.

  Of a row with a group its scores, `num_images` and `small`, without counts; seeds whose images know no such group are
  left out.
  """
  whole, group = of_whole_split(suite, row), suite["rows"][row]["group"]
  if not group:
    return whole
  factor, name = group
  return {
    seed: {**entry, **same, "counts": {}}
    for seed, entry in whole.items()
    for same in entry.get("groups", {}).get(factor, ())
    if same["name"] == name
  }


def of_whole_split(suite: dict, row: str) -> dict[int, dict]:
  """`results_of` all images, whatever the row's group."""
  domain = suite["rows"][row]["domain"]

  def by_image(entry):
    return {**entry, "counts": dict(zip(suite["image_lists"][entry["images"]], entry["counts"], strict=True))}

  return {
    run["seed"]: by_image(next(entry for entry in run["results"] if entry["domain"] == domain))
    for run in suite["runs"]
    if row in run["rows"] and run["results"]
  }


def scores_of(suite: dict, row: str, score: str) -> dict[int, float]:
  """Seed -> `score`, 0..1; without seeds for which it is undefined."""
  found = {seed: entry["scores"][score] for seed, entry in results_of(suite, row).items()}
  return {seed: value for seed, value in found.items() if value is not None}


def validation_of(suite: dict, row: str) -> dict[int, float]:
  """Seed -> the best validation score of the run that `row` shows, by config.monitor, 0..1."""
  return {
    run["seed"]: run["validation"]["score"]
    for run in suite["runs"]
    if row in run["rows"] and run["results"] and run["validation"]
  }


def shares_of(suite: dict, row: str, cell: str) -> dict[int, float]:
  """Seed -> the share of all pixels in `cell` of SHARES, 0..1; without seeds of which no counts are known."""
  found = {seed: pooled_shares(entry)[SHARES[cell]] for seed, entry in results_of(suite, row).items()}
  return {seed: float(value) for seed, value in found.items() if not np.isnan(value)}


def counts_of(entry: dict, images: Sequence[str]) -> np.ndarray:
  """[N, 2, 2] confusion counts of `images` in an entry of `results_of`."""
  return np.array([entry["counts"][name].split() for name in images], np.int64).reshape(-1, 2, 2)


def compare(suite: dict, names: Sequence[str], reference: str, *, score: str = "miou") -> dict[str, Paired]:
  """Row -> its comparison with its reference, at the seeds that both have.

  Args:
    suite: the content of suite.json.
    names: rows of one table, in order; those that are not trained, or of other test images, are passed over.
    reference: of REFERENCES.
    score: to compare.
  """
  found, rows = {}, suite["rows"]
  trained = [name for name in names if rows[name]["trained"]]
  for place, name in enumerate(trained):
    tested_on = lambda row: (row["domain"], row["group"])
    same = [other for other in trained[:place] if tested_on(rows[other]) == tested_on(rows[name])]
    # One that is not through yet is not passed over: that would be another comparison.
    if same and (entry := paired(suite, name, same[0 if reference == "first" else -1], score)):
      found[name] = entry
  for over in ("seeds", "images"):
    tested = [name for name, entry in found.items() if entry.over == over]
    adjusted = comparisons.holm([found[name].p for name in tested])
    found |= {name: found[name]._replace(adjusted=float(p)) for name, p in zip(tested, adjusted)}
  return found


def paired(suite: dict, name: str, other: str, score: str) -> Paired | None:
  """`name` against `other`: over seeds where both have several, else over the images of the one; None without any."""
  first, second = (scores_of(suite, row, score) for row in (name, other))
  seeds = sorted(first.keys() & second.keys())
  if not seeds:
    return None
  if len(seeds) > 1:
    tested = comparisons.compare_seeds([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    return Paired(other, tested.difference, tested.low, tested.high, tested.p_t, np.nan, "seeds")
  return _over_images(*(results_of(suite, row)[seeds[0]] for row in (name, other)), other, score)


def _over_images(mine: dict, theirs: dict, other: str, score: str) -> Paired:
  # The data have changed in between, or a group's counts are not known.
  if not mine["counts"] or mine["counts"].keys() != theirs["counts"].keys():
    return Paired(other, mine["scores"][score] - theirs["scores"][score], *[np.nan] * 4, "images")
  images = sorted(mine["counts"])
  (first, function), (second, _) = (
    intervals.confusion_statistics(counts_of(entry, images), score) for entry in (mine, theirs)
  )
  tested = comparisons.compare_models(first, second, function, seed=0)
  reach = tested.interval
  return Paired(other, tested.difference, reach.low, reach.high, tested.p_value, np.nan, "images")


def pooled_shares(entry: dict) -> np.ndarray:
  """[2, 2] shares of all pixels of an entry of `results_of`, by label, then prediction (the paper's Table 14).

  NaN without counts.
  """
  return metrics.ConfusionMatrix(counts_of(entry, list(entry["counts"]))).shares()


def of_other_data(suite: dict) -> list[str]:
  """Labels of rows whose runs were not all scored on the same test images; a later suite may have found others."""
  found = []
  for name in suite["order"]:
    domain = suite["rows"][name]["domain"]
    digests = [
      suite["data_digests"][run["data"]][domain]["test"]
      for run in suite["runs"]
      if name in run["rows"] and run["results"]
    ]
    # Coarse labels may be drawn by the seed, so there the ids alone must agree.
    if len({digest["sha256" if domain == "fine" else "ids"] for digest in digests}) > 1:
      found.append(suite["rows"][name]["label"])
  return found
