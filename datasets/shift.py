"""Compares two sets of labels by mining coverage and boundary roughness, as the paper's Figure 2 does.

  python -m datasets.shift --first=SET --second=SET --output=DIR

A SET is a folder with index.csv (`minec2f_jax.data.folder`), the version folder of a prepared TFDS dataset, or a .npy
or .npz file of masks [N, H, W], or [N, K, H, W] together with a channel. Writes shift.md, shift.json and shift.png.
"""

import functools
import math
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from datasets import command, label_sets
from minec2f_jax import console, files
from minec2f_jax.data import label_geometry
from minec2f_jax.errors import UserError

BINS = 50
MEASURES = ("coverage", "roughness")
MAX_RATIO = 1.5  # Of the sizes of pixels in both sets, before a warning.
NOTES = f"""\
Coverage is the mining share of valid pixels. Roughness is the perimeter over that of a disc of equal area (Patton
1975), undefined where an image shows no boundary; it grows with resolution, so compare sets of about equal pixel size.
The mode is the centre of the fullest of {BINS} bins over the range of both sets. Overlap is the shared area of both
histograms (Inman & Bradley 1989). It falls short of 1 for small sets even of one kind: 0.83 for Gaussian samples of 219
and 1,380. KS is the two-sample Kolmogorov-Smirnov statistic, the largest gap between the cumulative distributions.
"""


class Measured(NamedTuple):
  """A set of labels measured.

  Attributes:
    source: where they are.
    ids: of each image.
    sizes: (height, width) of each image.
    gsd_m: median side of a pixel on the ground, NaN where no image tells.
    empty: how many images are without mining.
    statistics: of each image.
  """

  source: str
  ids: Sequence[str]
  sizes: Sequence[tuple[int, int]]
  gsd_m: float
  empty: int
  statistics: label_geometry.LabelStatistics


def measure(masks: label_sets.Masks, *, title: str) -> Measured:
  """Reads and measures the masks one by one, because their sizes may differ.

  Raises:
    UserError: lists every mask that cannot be used.
  """
  broken, ids, sizes, gsds_m, empty, measured = [], [], [], [], 0, []
  for i in console.track(range(masks.total), total=masks.total, unit="masks", title=title):
    try:
      name, label, valid, gsd_m = masks.read(i)
    except UserError as err:
      broken.append(f"\n  {err}")
      continue
    ids.append(name)
    sizes.append(label.shape)
    gsds_m.append(gsd_m)
    empty += not (label.astype(bool) & valid).any()
    measured.append(label_geometry.label_statistics(label[None], valid=valid[None])[:2])
  if broken:
    rest = f"\n  ... and {len(broken) - 5} more" if len(broken) > 5 else ""
    head = f"{masks.source}: {len(broken)} of {masks.total} masks cannot be used; mend them or take them out:"
    raise UserError(head + "".join(broken[:5]) + rest)
  coverage, roughness = (np.concatenate(column) for column in zip(*measured))
  statistics = label_geometry.LabelStatistics(coverage, roughness, None)
  known = [gsd_m for gsd_m in gsds_m if math.isfinite(gsd_m)]
  return Measured(masks.source, ids, sizes, float(np.median(known)) if known else math.nan, empty, statistics)


def report(first: Measured, second: Measured, *, names: tuple[str, str]) -> dict:
  """What shift.json holds: summaries, distances, and the values of each image."""
  sets = {"first": first, "second": second}
  return {
    "bins": BINS,
    "sets": {which: _describe(measured, name) for (which, measured), name in zip(sets.items(), names)},
    "shift": {
      key: label_geometry.compare(*(getattr(s.statistics, key) for s in sets.values()), bins=BINS) for key in MEASURES
    },
    "warnings": _warnings(first, second, names),
    "images": {which: _rows(measured) for which, measured in sets.items()},
  }


def _warnings(first, second, names):
  """What makes both sets hard to compare: pixels of different size, or, where nobody knows these, images."""
  gsds_m = (first.gsd_m, second.gsd_m)
  known = all(map(math.isfinite, gsds_m))
  sizes = gsds_m if known else [float(np.median([h * w for h, w in s.sizes])) for s in (first, second)]
  if max(sizes) <= MAX_RATIO * min(sizes):
    return []
  what, unit = ("pixels", "m") if known else ("images", "pixels")
  listed = " and ".join(f"{size:.4g} {unit} in {name}" for size, name in zip(sizes, names))
  unknown = "" if known else "; where they show the same ground, their pixels differ in size"
  return [
    f"warning: {what} differ in size: {listed} (medians){unknown}. Finer pixels resolve more of an outline and make it "
    "rougher: part of the shift in roughness may come from that"
  ]


def _describe(measured, name):
  heights, widths = zip(*measured.sizes)
  return {
    "name": name,
    "source": measured.source,
    "images": len(measured.ids),
    "without_mining": measured.empty,
    "without_boundary": int(np.isnan(measured.statistics.roughness).sum()),
    "without_valid_pixel": int(np.isnan(measured.statistics.coverage).sum()),
    "height": [min(heights), max(heights)],
    "width": [min(widths), max(widths)],
    "gsd_m": measured.gsd_m,
  }


def _rows(measured):
  columns = zip(measured.ids, measured.sizes, *measured.statistics[:2])
  return [
    {"id": name, "height": size[0], "width": size[1], "coverage": float(coverage), "roughness": float(roughness)}
    for name, size, coverage, roughness in columns
  ]


def table(content: dict) -> list[list[str]]:
  """Cells of the table: a row for each measure and set; what compares both sets stands in the second's row."""
  rows = [["Measure", "Set", "n", "mean", "median", "mode", "5 %", "95 %", "overlap", "KS"]]
  for key, shift in content["shift"].items():
    for which in ("first", "second"):
      both = [_cell(shift[name]) for name in ("overlap", "ks")] if which == "second" else ["", ""]
      values = [_cell(shift[which][name]) for name in label_geometry.SUMMARY]
      rows.append([key, content["sets"][which]["name"], str(shift[which]["n"]), *values, *both])
  return rows


def remarks(content: dict) -> list[str]:
  """One line a set: what it is, and what of it could not be measured; then what makes them hard to compare."""
  lines = []
  for about in content["sets"].values():
    height, width = ("–".join(str(side) for side in sorted(set(about[key]))) for key in ("height", "width"))
    line = f"{about['name']}: {about['images']} masks of {height} × {width} pixels ({about['source']})"
    for key in ("without_mining", "without_boundary", "without_valid_pixel"):
      line += f"; {about[key]} {key.replace('_', ' ')}" if about[key] else ""
    lines.append(line)
  return [*lines, *content["warnings"]]


def _cell(value):
  return f"{value:.3f}" if math.isfinite(value) else "–"


def _text(rows):
  widths = [max(map(len, column)) for column in zip(*rows)]
  aligned = [[c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows]
  return "\n".join("  ".join(row).rstrip() for row in aligned)


def _markdown(content):
  head, *body = table(content)
  rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
  lines = "".join("| " + " | ".join(line) + " |\n" for line in (head, rule, *body))
  return "# Domain shift\n\n" + lines + "\n" + "".join(f"- {line}\n" for line in remarks(content)) + "\n" + NOTES


def write_report(output, content: dict, sets: dict[str, label_geometry.LabelStatistics]):
  """Writes shift.png, shift.json and shift.md into the folder `output`, each whole or not at all."""
  from minec2f_jax.evaluation import figures

  output = pathlib.Path(output)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as err:
    raise UserError(f"{output}: cannot be written ({err}); choose another --output") from err
  with tempfile.TemporaryDirectory() as elsewhere:  # Matplotlib may leave half a picture.
    drawn = pathlib.Path(elsewhere) / "shift.png"
    figures.save_shift(drawn, sets, bins=BINS)
    files.write_bytes(output / "shift.png", drawn.read_bytes())
  files.write_json(output / "shift.json", content)
  files.write_text(output / "shift.md", _markdown(content))


def define_flags(to: flags.FlagValues):
  """Defines the command's flags; not on import, for other commands have flags of the same names."""
  text = functools.partial(flags.DEFINE_string, flag_values=to)
  whole = functools.partial(flags.DEFINE_integer, flag_values=to)
  choice = functools.partial(flags.DEFINE_enum, flag_values=to)
  domains = ["coarse", "fine"]
  text("first", None, "The first set: folder with index.csv, prepared TFDS, .npy or .npz.", required=True)
  text("second", None, "The second set.", required=True)
  text("first_name", None, "What tables and figure call the first set; default: its domain.")
  text("second_name", None, "The same for the second set.")
  choice("first_domain", "coarse", domains, "Which chips of a folder; first set.")
  choice("second_domain", "fine", domains, "Which chips of a folder; second set.")
  whole("first_channel", None, "Which of the K masks of an array [N, K, H, W]; first set.")
  whole("second_channel", None, "The same for the second set.")
  choice("split", None, ["train", "validation", "test"], "Only what either set names so; default: all.")
  text("output", None, "Folder to write shift.md, shift.json and shift.png into.", required=True)


def main(argv):
  command.run(_run, argv, name="datasets.shift", again="starts afresh")


def _run(args):
  names = (args.first_name or args.first_domain, args.second_name or args.second_domain)
  if names[0] == names[1]:
    raise UserError(f"both sets are called {names[0]!r}; tell them apart with --first_name and --second_name")
  opened = (
    label_sets.open_masks(args.first, domain=args.first_domain, split=args.split, channel=args.first_channel),
    label_sets.open_masks(args.second, domain=args.second_domain, split=args.split, channel=args.second_channel),
  )
  first, second = (measure(masks, title=name) for masks, name in zip(opened, names))
  content = report(first, second, names=names)
  output = pathlib.Path(args.output).expanduser()
  write_report(output, content, dict(zip(names, (first.statistics, second.statistics))))
  for line in (*remarks(content), "", _text(table(content)), ""):
    console.say(line)
  console.say(f"{output / 'shift.md'}, shift.json and shift.png beside it")


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  app.run(main)
