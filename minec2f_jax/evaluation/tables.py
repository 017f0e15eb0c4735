"""Result tables as text, Markdown and JSON."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minec2f_jax import files, metrics
from minec2f_jax.evaluation import boundaries, breakdown, summary
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
_GROUP_COLUMNS = {name: COLUMNS[name] for name in ("Acc.", "mF1", "mIoU", "IoU mine")}
# Heading -> (name in `Calibration.compute`, factor for print).
_CALIBRATION = {
  "ECE %": ("ece", 100),
  "ECE of confidence %": ("ece_confidence", 100),
  "Brier": ("brier", 1),
  "Log loss, nats": ("nll", 1),
  "Mean probability %": ("mean_probability", 100),
  "Mine %": ("mine_share", 100),
}
_NONE = "–"


class Table(NamedTuple):
  """Cells to print.

  Attributes:
    title: says what and in which unit.
    cells: heading and rows.
    num_texts: how many columns, from the left, are words.
    notes: sentences below it.
  """

  title: str
  cells: list[list[str]]
  num_texts: int = 3
  notes: tuple[str, ...] = ()


def format_rows(rows: Sequence[dict]) -> list[list[str]]:
  """Cells of the main table.

  Args:
    rows: with "model", "trained_on", "tested_on" and "scores"; and "intervals", see `summary`, or without.

  Returns:
    Heading and rows; percent, two digits, with the 95 % interval of mIoU after it.
  """
  heads = ["Model", "Trained on", "Tested on"]
  for name in COLUMNS:
    heads += [name, "95 %"] if name == "mIoU" else [name]
  lines = [heads]
  for row in rows:
    line = [row["model"], row["trained_on"], row["tested_on"]]
    for score in COLUMNS.values():
      line.append(_percent(row["scores"][score]))
      if score == "miou":
        line.append(_reach(row.get("intervals", {}).get(score)))
    lines.append(line)
  return lines


def to_text(rows: Sequence[dict]) -> str:
  """The main table in aligned columns."""
  return _aligned(Table("", format_rows(rows)))


def to_markdown(rows: Sequence[dict]) -> str:
  """The main table in Markdown."""
  return _piped(Table("", format_rows(rows)))


def write_tables(results: dict, folder):
  """Writes results.txt, results.md and results.json into `folder`.

  Args:
    results: "title"; "rows" with "model", "trained_on", "tested_on" and what `summary.summarize` gives; "transfer" of
      `summary.transfer_of`, or without; "policies". The JSON holds it all, with null for the undefined.
    folder: that exists.

  Raises:
    UserError: they cannot be written.
  """
  folder, tables, policies = pathlib.Path(folder), list(tables_of(results)), list(results["policies"].values())
  files.write_text(folder / "results.txt", _document(tables, policies, title=str, body=_aligned, note=str))
  files.write_text(folder / "results.md", _document(tables, policies, title="**{}**".format, body=_piped, note=_marked))
  files.write_json(folder / "results.json", results)


def _document(tables: Sequence[Table], policies: Sequence[str], *, title, body, note) -> str:
  parts = [[title(table.title), body(table), *map(note, table.notes)] for table in tables]
  blocks = [block.rstrip("\n") for part in parts for block in part if block]
  return "\n\n".join([*blocks, *map(note, policies)]) + "\n"


def tables_of(results: dict) -> Iterator[Table]:
  """The tables of a report, the main one first; without those of which nothing is known."""
  rows = results["rows"]
  yield Table(results["title"], format_rows(rows), notes=_interval_notes(rows))
  if outlined := [row for row in rows if row["boundaries"]]:
    yield Table("Outlines: boundary scores at a tolerance on the ground, percent", _outlines(outlined))
  yield Table("Calibration of the probability of a mine, over all valid pixels", _calibration(rows))
  for factor in dict.fromkeys(factor for row in rows for factor in row["groups"]):
    cells, small = _by_group(rows, factor), f"* fewer than {breakdown.MIN_IMAGES} images: no conclusion can be drawn."
    yield Table(f"By {factor}, percent", cells, 4, (small,) if any("*" in line[4] for line in cells) else ())
  yield Table("Confusion, percent of all valid pixels (positive: mine)", _confusion(rows))
  if results.get("transfer"):
    yield Table("Transfer between domains, percent", _transfer(results["transfer"]), 1, (results["transfer"]["note"],))
  if notes := tuple(dict.fromkeys(note for row in rows for note in row["notes"])):
    yield Table("Notes", [], 0, notes)


def _interval_notes(rows: Sequence[dict]) -> tuple[str, ...]:
  known = [row["intervals"]["miou"] for row in rows if row.get("intervals")]
  if not known:
    return ()
  units = ", ".join(dict.fromkeys(f"{found['num_units']} {found['unit']}s" for found in known))
  return (
    f"95 %: interval of mIoU by the bootstrap over {units} of a test set: how far it depends on which were drawn, for "
    "the network as it is; what another seed of training would change is not in it.",
  )


def _heads(row: dict) -> list[str]:
  return [row["model"], row["trained_on"], row["tested_on"]]


def _outlines(rows: Sequence[dict]) -> list[list[str]]:
  reaches = [f"{tolerance:g}m" for tolerance in boundaries.TOLERANCES_M]
  names = ("IoU", "F1", "images", "too coarse")
  lines = [["Model", "Trained on", "Tested on", *(f"{name}, {reach}" for reach in reaches for name in names)]]
  for row in rows:
    found, line = row["boundaries"], _heads(row)
    for reach in reaches:
      line += [_percent(found[f"boundary_{name}_{reach}"]) for name in ("iou", "f1")]
      line += [str(found[f"num_{name}_{reach}"]) for name in ("boundary_images", "too_coarse")]
    lines.append(line)
  return lines


def _calibration(rows: Sequence[dict]) -> list[list[str]]:
  lines = [["Model", "Trained on", "Tested on", *_CALIBRATION, "Pixels"]]
  for row in rows:
    found = row["calibration"]
    numbers = [_number(found[name], factor, digits=2 if factor > 1 else 4) for name, factor in _CALIBRATION.values()]
    lines.append([*_heads(row), *numbers, str(found["num_pixels"])])
  return lines


def _by_group(rows: Sequence[dict], factor: str) -> list[list[str]]:
  lines = [["Model", "Trained on", "Tested on", factor.capitalize(), "Images", *_GROUP_COLUMNS]]
  for row in rows:
    for group in row["groups"].get(factor, ()):
      count = f"{group['num_images']}{'*' * group['small']}"
      scores = [_percent(group["scores"][name]) for name in _GROUP_COLUMNS.values()]
      lines.append([*_heads(row), group["name"], count, *scores])
  return lines


def _confusion(rows: Sequence[dict]) -> list[list[str]]:
  lines = [["Model", "Trained on", "Tested on", "TN", "FP", "FN", "TP"]]
  for row in rows:
    counts = np.array(list(row["counts"].values()), np.int64).reshape(-1, 2, 2)
    lines.append(_heads(row) + [_percent(share) for share in metrics.ConfusionMatrix(counts).shares().ravel()])
  return lines


def _transfer(found: dict) -> list[list[str]]:
  fields = ("average", "backward", "forward", "forgetting")
  headings = {label: name for label, name in COLUMNS.items() if name in summary.TRANSFER_SCORES}
  lines = [["Score", "Average at the end", "Backward transfer", "Forward transfer", "Forgetting"]]
  return lines + [[label, *(_percent(found[name][field]) for field in fields)] for label, name in headings.items()]


def _percent(value: float) -> str:
  return _number(value, 100, digits=2)


def _number(value: float | None, factor: float, *, digits: int) -> str:
  return _NONE if value is None or json_number(value) is None else f"{factor * value:.{digits}f}"


def _reach(interval: dict | None) -> str:
  ends = [_percent(interval[end]) for end in ("low", "high")] if interval else [_NONE]
  return _NONE if _NONE in ends else "–".join(ends)


def _aligned(table: Table) -> str:
  if not table.cells:
    return ""
  widths = [max(map(len, column)) for column in zip(*table.cells)]
  lines = [
    "  ".join(
      text.ljust(width) if i < table.num_texts else text.rjust(width)
      for i, (text, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in table.cells
  ]
  return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def _piped(table: Table) -> str:
  if not table.cells:
    return ""
  head, *body = table.cells
  rule = ["---"] * table.num_texts + ["---:"] * (len(head) - table.num_texts)
  return "".join("| " + " | ".join(map(_marked, line)) + " |\n" for line in (head, rule, *body))


def _marked(text: str) -> str:
  return text.replace("|", r"\|").replace("*", r"\*").replace("<", r"\<")
