"""Result tables as text, Markdown and JSON."""

import json
import pathlib
from collections.abc import Sequence

from minec2f_jax.training.logging import json_number

# Column heading -> score. Pooled scores first (one confusion matrix over all valid pixels), then image means.
COLUMNS = {
  "Acc.": "accuracy",
  "mF1": "mf1",
  "mIoU": "miou",
  "IoU mine": "iou_mine",
  "F1 mine": "f1_mine",
  "IoU mine, image mean": "image_iou_mine",
}


def format_rows(rows: Sequence[dict]) -> list[list[str]]:
  """Cells of the table: `rows` hold "model", "trained_on", "tested_on" and "scores"; percent, two digits."""

  def cell(value):
    return "–" if json_number(value) is None else f"{100 * value:.2f}"

  return [["Model", "Trained on", "Tested on", *COLUMNS]] + [
    [row["model"], row["trained_on"], row["tested_on"], *(cell(row["scores"][name]) for name in COLUMNS.values())]
    for row in rows
  ]


def to_text(rows: Sequence[dict]) -> str:
  """The table in aligned columns."""
  cells = format_rows(rows)
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = [
    "  ".join(
      text.ljust(width) if i < 3 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in cells
  ]
  return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def to_markdown(rows: Sequence[dict]) -> str:
  """The table in Markdown."""
  head, *body = format_rows(rows)
  rule = ["---"] * 3 + ["---:"] * (len(head) - 3)
  return "".join("| " + " | ".join(line) + " |\n" for line in (head, rule, *body))


def write_tables(rows: Sequence[dict], folder, *, title: str):
  """Writes results.txt, results.md and results.json into `folder`."""
  folder = pathlib.Path(folder)
  (folder / "results.txt").write_text(f"{title}\n\n{to_text(rows)}")
  (folder / "results.md").write_text(f"{title}\n\n{to_markdown(rows)}")
  plain = [{**row, "scores": {name: json_number(v) for name, v in row["scores"].items()}} for row in rows]
  (folder / "results.json").write_text(json.dumps({"title": title, "rows": plain}, indent=2) + "\n")
