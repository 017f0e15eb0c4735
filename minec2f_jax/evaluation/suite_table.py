"""The table of a suite: ours as mean and standard deviation over seeds, beside what the paper prints."""

import csv
import io
import pathlib
from collections.abc import Sequence

import numpy as np

from minec2f_jax.evaluation import comparisons, figures

SCORES = {"Acc.": "accuracy", "mF1": "mf1", "mIoU": "miou"}  # Heading -> score; the paper's three.
DOMAIN = "fine"  # On whose test split the paper's tables are.
_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "±": r"$\pm$", "–": "--", "Δ": r"$\Delta$"}


def scores_of(suite: dict, row: str, score: str) -> dict[int, float]:
  """Seed -> a score of `row`'s last stage on the fine test split, 0..1; without seeds that are not through."""
  found = {}
  for run in suite["runs"]:
    if run["row"] == row and run["results"]:
      last = run["results"][-1]["trained_on"]
      entry = next(e for e in run["results"] if (e["trained_on"], e["domain"]) == (last, DOMAIN))
      if entry["scores"][score] is not None:
        found[run["seed"]] = entry["scores"][score]
  return found


def compare_neighbours(suite: dict, score: str = "miou") -> dict[str, comparisons.SeedComparison]:
  """Row -> its comparison with the row above, at the seeds that both have; without rows that share none."""
  names = list(suite["rows"])
  found = {}
  for above, name in zip(names, names[1:]):
    first, second = (scores_of(suite, row, score) for row in (name, above))
    if seeds := sorted(first.keys() & second.keys()):
      found[name] = comparisons.compare_seeds([first[s] for s in seeds], [second[s] for s in seeds])
  return found


def cells(suite: dict) -> list[list[str]]:
  """Heading and rows of the table, in percent."""
  heads = [heading for name in SCORES for heading in (name, f"{name}, paper")]
  compared = compare_neighbours(suite)
  adjusted = dict(zip(compared, comparisons.holm([entry.p_t for entry in compared.values()]))) if compared else {}
  lines = [["Row", "Seeds", *heads, "Δ mIoU to the row above", "p (Holm)"]]
  for name, row in suite["rows"].items():
    line = [row["label"], str(len(scores_of(suite, name, "miou")))]
    for score in SCORES.values():
      line += [_spread(list(scores_of(suite, name, score).values())), f"{row['paper'][score]:.2f}"]
    lines.append([*line, *_difference(compared.get(name), adjusted.get(name))])
  return lines


def _spread(values: Sequence[float]) -> str:
  if not values:
    return "–"
  spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
  return f"{100 * np.mean(values):.2f}{spread}"


def _difference(compared: comparisons.SeedComparison | None, adjusted: float | None) -> tuple[str, str]:
  if compared is None:
    return "–", "–"
  reach = "" if np.isnan(compared.low) else f" [{100 * compared.low:+.2f}, {100 * compared.high:+.2f}]"
  p = "–" if np.isnan(compared.p_t) else f"{compared.p_t:.3f} ({adjusted:.3f})"
  return f"{100 * compared.difference:+.2f}{reach}", p


def notes(suite: dict) -> list[str]:
  """What a reader of the table has to know."""
  runs = [run for run in suite["runs"] if run["row"]]
  missing = sum(run["results"] is None for run in runs)
  fine = {run["environment"]["device"] for run in runs if run["environment"]}
  return [
    f"Data: {suite['data']}, fine test split; pooled over pixels, in percent; mean ± standard deviation over seeds "
    f"{', '.join(map(str, suite['seeds']))}. Devices: {', '.join(sorted(fine)) or '–'}.",
    "Columns “paper” are the paper's printed numbers, of its own data and training: beside another data set they say "
    "which order to expect, not which height.",
    "Δ: with the 95 % interval of the mean over seeds; p: paired t-test over seeds, and after Holm's correction for "
    f"all rows. {comparisons.seeds_note(len(suite['seeds']))}",
    *([f"{missing} of {len(runs)} runs are not through yet, or failed (suite.json)."] if missing else []),
  ]


def write(suite: dict, folder):
  """Writes table.md, table.csv, table.tex and table.png into `folder`.

  Args:
    suite: the content of suite.json, see `minec2f_jax.experiment.suite`.
    folder: exists.
  """
  folder, lines = pathlib.Path(folder), cells(suite)
  (folder / "table.md").write_text(to_markdown(suite["title"], lines, notes(suite)))
  (folder / "table.csv").write_text(to_csv(lines))
  (folder / "table.tex").write_text(to_latex(suite["title"], lines, notes(suite)))
  points = [
    (row["label"], [100 * x for x in scores_of(suite, name, "miou").values()], row["paper"]["miou"])
    for name, row in suite["rows"].items()
  ]
  figures.save_rows(folder / "table.png", points, title=suite["title"], unit="mIoU in percent", data=suite["data"])


def to_markdown(title: str, lines: list[list[str]], remarks: Sequence[str]) -> str:
  """The table in Markdown."""
  head, *body = lines
  rule = ["---"] + ["---:"] * (len(head) - 1)
  rows = "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in (head, rule, *body))
  return f"**{title}**\n\n{rows}\n" + "\n".join(remarks) + "\n"


def to_csv(lines: list[list[str]]) -> str:
  """The table as comma-separated values."""
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(lines)
  return text.getvalue()


def to_latex(title: str, lines: list[list[str]], remarks: Sequence[str]) -> str:
  """The table for LaTeX with the package booktabs."""
  head, *body = ([_tex(cell) for cell in line] for line in lines)
  row = lambda cells: "  " + " & ".join(cells) + r" \\"
  return "\n".join(
    [
      r"\begin{table}",
      rf"\caption{{{_tex(title)}. {_tex(' '.join(remarks))}}}",
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


def _tex(text: str) -> str:
  text = text.replace("“", "``").replace("”", "''")
  return "".join(_TEX.get(letter, letter) for letter in text)
