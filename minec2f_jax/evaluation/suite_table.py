"""The tables of a suite: ours as mean and standard deviation over seeds, beside what the paper prints."""

import csv
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np

from minec2f_jax import metrics
from minec2f_jax.evaluation import comparisons, figures, suite_scores
from minec2f_jax.evaluation.suite_scores import Paired, compare, results_of, scores_of, tables_of

SCORES = {"Acc.": "accuracy", "mF1": "mf1", "mIoU": "miou"}  # Heading -> score; the paper's three.
_TEX = {
  **{letter: rf"\{letter}" for letter in "&%_#${}"},
  **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
  **{"±": r"$\pm$", "–": "--", "Δ": r"$\Delta$", "²": r"\textsuperscript{2}", "“": "``", "”": "''", "−": "$-$"},
  **{"<": r"\textless{}", ">": r"\textgreater{}"},
}


def texts(suite: dict) -> dict[str, str]:
  """File name -> content of table.md, table.csv and table.tex.

  Args:
    suite: the content of suite.json, see `minec2f_jax.experiment.suite_record`.
  """
  parts = [(f"{title}; ours on {suite['data']}", cells(suite, names)) for title, names in tables_of(suite).items()]
  remarks = notes(suite)
  return {
    "table.md": "".join(f"**{title}**\n\n{to_markdown(lines)}\n" for title, lines in parts) + "\n".join(remarks) + "\n",
    "table.csv": to_csv(records(suite)),
    "table.tex": "\n".join(to_latex(title, lines, remarks) for title, lines in parts),
  }


def draw(suite: dict, path):
  """Draws mIoU of all rows, ours and the paper's, into the PNG `path`."""
  several = len(tables_of(suite)) > 1
  points = []
  for name in suite["order"]:
    row = suite["rows"][name]
    label = f"{row['table'].partition(':')[0]}: {row['label']}" if several else row["label"]
    printed = math.nan if row["paper"]["miou"] is None else row["paper"]["miou"]
    points.append((label, [100 * x for x in scores_of(suite, name, "miou").values()], printed))
  figures.save_rows(path, points, title=suite["title"], unit="mIoU in percent", data=suite["data"])


def cells(suite: dict, names: Sequence[str]) -> list[list[str]]:
  """Heading and rows of one table, in percent."""
  heads = [heading for name in SCORES for heading in (name, f"{name}, printed")]
  lines = [["Row", "Seeds", *heads, "Δ mIoU to the first row", "p (Holm)", "Δ mIoU to the row above", "p (Holm)"]]
  compared = [compare(suite, names, reference) for reference in suite_scores.REFERENCES]
  for name in names:
    row = suite["rows"][name]
    line = [row["label"], str(len(results_of(suite, name))) if row["trained"] else "–"]
    for score in SCORES.values():
      printed = row["paper"][score]
      line += [_spread(list(scores_of(suite, name, score).values())), "–" if printed is None else f"{printed:.2f}"]
    lines.append(line + [cell for found in compared for cell in paired_cells(found.get(name))])
  return lines


def _spread(values: Sequence[float]) -> str:
  if not values:
    return "–"
  spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
  return f"{100 * np.mean(values):.2f}{spread}"


def paired_cells(found: Paired | None) -> tuple[str, str]:
  """A difference with its interval in percent, and its p with the corrected one; "*" marks tests over images."""
  if found is None:
    return "–", "–"
  reach = "" if math.isnan(found.low) else f" [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
  mark = "*" if found.over == "images" else ""
  p = "–" if math.isnan(found.p) else f"{_p(found.p)} ({_p(found.adjusted)}){mark}"
  return f"{100 * found.difference:+.2f}{reach}", p


def _p(value: float) -> str:
  return "<0.001" if value < 0.0005 else f"{value:.3f}"


def notes(suite: dict) -> list[str]:
  """What a reader of the tables has to know."""
  runs = suite["runs"]
  devices = sorted({suite["environments"][run["environment"]]["device"] for run in runs if run["results"]})
  tested = sorted({entry["tested_on"] for name in suite["order"] for entry in results_of(suite, name).values()})
  missing = sum(run["results"] is None for run in runs)
  other = suite_scores.of_other_data(suite)
  random = [suite["rows"][name]["label"] for name, given in suite["pretrained"].items() if not given]
  return [
    f"Data of ours: {suite['data']}, {', '.join(tested) or '–'} (images). Scores are pooled over all valid pixels, at "
    "threshold 0.5, in percent; mean ± standard deviation (n − 1) over seeds "
    f"{', '.join(map(str, suite['seeds']))}. Devices: {', '.join(devices) or '–'}.",
    "“Printed” are the paper's numbers, of its own data and training: beside other data they say which order to "
    "expect, not which height.",
    "Δ: to the first and to the nearest row above, of those that are trained; mean over the seeds that both have, with "
    "its 95 % interval (Student's t); p: paired t-test over seeds, and after Holm's correction for all rows of the "
    "column. *: one seed alone; interval (bootstrap) and p "
    "(permutation) are over test images and speak of two trained networks, not of two methods. "
    f"{comparisons.seeds_note(len(suite['seeds'])) if len(suite['seeds']) > 1 else ''}".rstrip(),
    metrics.ABSENT_CLASS_POLICY,
    *([f"Without pretrained weights, which the paper has: {', '.join(dict.fromkeys(random))}."] if random else []),
    *([f"Scored on other images from seed to seed, no mean can be had: {', '.join(other)}."] if other else []),
    *([f"{missing} of {len(runs)} runs are not through yet, or failed (suite.json)."] if missing else []),
  ]


def records(suite: dict) -> Iterator[dict[str, object]]:
  """One record a row for machines: scores in percent; what is not there is empty."""
  for title, names in tables_of(suite).items():
    compared = {reference: compare(suite, names, reference) for reference in suite_scores.REFERENCES}
    for name in names:
      row = suite["rows"][name]
      record = {"table": title, "row": name, "label": row["label"], "data": suite["data"], "test_split": row["domain"]}
      record["seeds"] = len(results_of(suite, name))
      for score in SCORES.values():
        values = [100 * value for value in scores_of(suite, name, score).values()]
        record[score] = _number(np.mean(values) if values else math.nan)
        record[f"{score}_sd"] = _number(np.std(values, ddof=1) if len(values) > 1 else math.nan)
        record[f"{score}_printed"] = row["paper"][score]
      for reference, found in compared.items():
        entry = found.get(name) or Paired("", *[math.nan] * 5, "")
        record[f"{reference}_row"], record[f"{reference}_test_over"] = entry.other, entry.over
        for field in ("difference", "low", "high"):
          record[f"miou_{field}_to_{reference}"] = _number(100 * getattr(entry, field))
        record[f"p_to_{reference}"], record[f"p_holm_to_{reference}"] = _number(entry.p), _number(entry.adjusted)
      yield record


def _number(value: float) -> float | str:
  return "" if math.isnan(value) else round(float(value), 6)


def to_markdown(lines: list[list[str]]) -> str:
  """A table in Markdown."""
  head, *body = lines
  rule = ["---"] + ["---:"] * (len(head) - 1)
  return "".join(
    "| " + " | ".join(cell.replace("|", r"\|").replace("*", r"\*") for cell in line) + " |\n"
    for line in (head, rule, *body)
  )


def to_csv(found: Iterator[dict[str, object]]) -> str:
  """Records as comma-separated values."""
  text, found = io.StringIO(), list(found)
  writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(found)
  return text.getvalue()


def to_latex(title: str, lines: list[list[str]], remarks: Sequence[str]) -> str:
  """A table for LaTeX with the package booktabs."""
  head, *body = ([tex(cell) for cell in line] for line in lines)
  row = lambda cells: "  " + " & ".join(cells) + r" \\"
  return "\n".join(
    [
      r"\begin{table}",
      rf"\caption{{{tex(title)}. {tex(' '.join(remarks))}}}",
      rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
      r"  \toprule",
      row(head),
      r"  \midrule",
      *map(row, body),
      r"  \bottomrule",
      r"\end{tabular}",
      r"\end{table}",
      "",
    ]
  )


def tex(text: str) -> str:
  """`text` as LaTeX prints it."""
  return "".join(_TEX.get(letter, letter) for letter in text)
