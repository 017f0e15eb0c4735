"""The tables of a suite: ours as mean and standard deviation over seeds, beside what the paper prints."""

import csv
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np

from minec2f_jax import metrics
from minec2f_jax.evaluation import comparisons, figures, suite_scores
from minec2f_jax.evaluation.suite_scores import (
  Paired,
  compare,
  of_whole_split,
  results_of,
  scores_of,
  shares_of,
  tables_of,
  validation_of,
)

SCORES = {"Acc.": "accuracy", "mF1": "mf1", "mIoU": "miou"}  # Heading -> score; the paper's three.
_PRINTED = (
  "“Printed” are the paper's numbers, of its own data and training: beside other data they say which order to expect, "
  "not which height."
)
_TEX = {
  **{letter: rf"\{letter}" for letter in "&%_#${}"},
  **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
  **{
    "±": r"$\pm$",
    "–": "--",
    "Δ": r"$\Delta$",
    "²": r"\textsuperscript{2}",
    "×": r"$\times$",
    "“": "``",
    "”": "''",
    "−": "$-$",
  },
  **{"<": r"\textless{}", ">": r"\textgreater{}"},
}


def texts(suite: dict) -> dict[str, str]:
  """File name -> content of table.md, table.csv and table.tex.

  Args:
    suite: the content of suite.json, see `minec2f_jax.experiment.suite_record`.
  """
  parts = []
  for title, names in tables_of(suite).items():
    parts.append((f"{title}; ours on {suite['data']}", cells(suite, names)))
    if matrix := confusion_cells(suite, names):
      parts.append((f"{title}; pooled confusion matrix; ours on {suite['data']}", matrix))
  remarks = notes(suite)
  return {
    "table.md": "".join(f"**{title}**\n\n{to_markdown(lines)}\n" for title, lines in parts)
    + "\n\n".join(remarks)
    + "\n",
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
    points.append((label, [100 * x for x in scores_of(suite, name, "miou").values()], row["paper"].get("miou")))
  figures.save_rows(path, points, title=suite["title"], unit="mIoU in percent", data=suite["data"])


def cells(suite: dict, names: Sequence[str]) -> list[list[str]]:
  """Heading and rows of one table, in percent; differences where there are any.

  Where the paper has no such table, rows are choices, and the best validation score stands before the test's.
  """
  printed = any(suite["rows"][name]["paper"].keys() & set(SCORES.values()) for name in names)
  heads = [heading for name in SCORES for heading in (name, f"{name}, printed")]
  if not printed:
    heads = [f"Best {suite['base']['monitor']}, validation", *SCORES]
  compared = [compare(suite, names, reference) for reference in suite_scores.REFERENCES]
  if any(compared):
    heads += ["Δ mIoU to the first row", "p (Holm)", "Δ mIoU to the row above", "p (Holm)"]
  lines = [["Row", "Seeds", *heads]]
  for name in names:
    line = _opening(suite, name)
    if not printed:
      line.append(_spread(list(validation_of(suite, name).values())))
    for score in SCORES.values():
      line.append(_spread(list(scores_of(suite, name, score).values())))
      line += [_printed(suite["rows"][name], score)] * printed
    differences = [cell for found in compared for cell in paired_cells(found.get(name))]
    lines.append(line + (differences if any(compared) else []))
  return lines


def confusion_cells(suite: dict, names: Sequence[str]) -> list[list[str]]:
  """Heading and rows of one table's pooled confusion matrices, in percent of all pixels; [] where no row has one."""
  rows = suite["rows"]
  prints = [name for name in names if rows[name]["paper"].keys() & suite_scores.SHARES]
  shown = [name for name in names if name in prints or (rows[name]["trained"] and not rows[name]["group"])]
  heads = [heading for cell in suite_scores.SHARES for heading in (cell.upper(), f"{cell.upper()}, printed")]
  lines = [["Row", "Seeds", *heads]]
  for name in shown:
    line = _opening(suite, name)
    for cell in suite_scores.SHARES:
      line += [_spread(list(shares_of(suite, name, cell).values())), _printed(rows[name], cell)]
    lines.append(line)
  if not prints:
    lines = [[*line[:2], *line[2::2]] for line in lines]
  return lines if shown else []


def _opening(suite: dict, name: str) -> list[str]:
  row = suite["rows"][name]
  return [row["label"], str(len(results_of(suite, name))) if row["trained"] else "–"]


def _printed(row: dict, score: str) -> str:
  return f"{row['paper'][score]:.2f}" if score in row["paper"] else "–"


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
  tested = sorted({entry["tested_on"] for name in suite["order"] for entry in of_whole_split(suite, name).values()})
  missing = sum(run["results"] is None for run in runs)
  other = suite_scores.of_other_data(suite)
  random = [suite["rows"][name]["label"] for name, given in suite["pretrained"].items() if not given]
  return [
    f"Data of ours: {suite['data']}, {', '.join(tested) or '–'} (images). Scores are pooled over all valid pixels, at "
    "threshold 0.5, in percent; mean ± standard deviation (n − 1) over seeds "
    f"{', '.join(map(str, suite['seeds']))}. Devices: {', '.join(devices) or '–'}.",
    *([_PRINTED] if any(suite["rows"][name]["paper"] for name in suite["order"]) else []),
    "Δ: to the first and to the nearest row above, of those that are trained; mean over the seeds that both have, with "
    "its 95 % interval (Student's t); p: paired t-test over seeds, and after Holm's correction for all rows of the "
    "column. *: one seed alone; interval (bootstrap) and p "
    "(permutation) are over test images and speak of two trained networks, not of two methods. "
    f"{comparisons.seeds_note(len(suite['seeds'])) if len(suite['seeds']) > 1 else ''}".rstrip(),
    "TN, FP, FN, TP: shares of all valid pixels by label and prediction, mine being positive.",
    metrics.ABSENT_CLASS_POLICY,
    *_notes_on_groups(suite),
    *([f"Without pretrained weights, which the paper has: {', '.join(dict.fromkeys(random))}."] if random else []),
    *([f"Scored on other images from seed to seed, no mean can be had: {', '.join(other)}."] if other else []),
    *([f"{missing} of {len(runs)} runs are not through yet, or failed (suite.json)."] if missing else []),
  ]


def _notes_on_groups(suite: dict) -> list[str]:
  """How many images stand behind rows that show a group, and which of them none does."""
  rows, counts, absent = suite["rows"], [], []
  for name in suite["order"]:
    if rows[name]["group"] and rows[name]["trained"]:
      found = list(results_of(suite, name).values())
      counts += [f"{rows[name]['label']}: {found[0]['num_images']}{' (few)' * found[0]['small']}"] if found else []
      absent += [rows[name]["label"]] if of_whole_split(suite, name) and not found else []
  return [
    *([f"Test images of ours by row: {', '.join(counts)}."] if counts else []),
    *([f"Without scores, for no test image of ours is known to belong there: {', '.join(absent)}."] if absent else []),
  ]


def records(suite: dict) -> Iterator[dict[str, object]]:
  """One record a row for machines: scores in percent; what is not there is empty."""
  for title, names in tables_of(suite).items():
    compared = {reference: compare(suite, names, reference) for reference in suite_scores.REFERENCES}
    for name in names:
      row = suite["rows"][name]
      record = {"table": title, "row": name, "label": row["label"], "data": suite["data"], "test_split": row["domain"]}
      record["group"], record["seeds"] = ": ".join(row["group"]), len(results_of(suite, name))
      found_by_seed = {"validation": validation_of(suite, name)}
      found_by_seed |= {score: scores_of(suite, name, score) for score in SCORES.values()}
      found_by_seed |= {cell: shares_of(suite, name, cell) for cell in suite_scores.SHARES}
      for score, found in found_by_seed.items():
        values = [100 * value for value in found.values()]
        record[score] = _number(np.mean(values) if values else math.nan)
        record[f"{score}_sd"] = _number(np.std(values, ddof=1) if len(values) > 1 else math.nan)
        record[f"{score}_printed"] = row["paper"].get(score, "")
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
