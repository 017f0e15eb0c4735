"""The comparison as Markdown."""

import statistics

from benchmarks import peers
from benchmarks.peers import cases, measure

_TITLES = {"train": "Train step", "infer": "Inference", "epoch": "Epoch with data, validation and checkpoint"}
_QUIET = 0.05  # Share of the cores that other processes may take before a ratio is called doubtful.
_ABOUT = """\
Ratios are the peer's seconds over those of minec2f_jax, paired round by round within this run (median, smallest to
largest): **above 1, minec2f_jax is faster**. Seconds are medians. Same network, batch, precision and image size;
PyTorch in channels_last; TF32 is allowed on both sides where a GPU computes float32; bfloat16 is of features alone.
"others" is how many cores other processes took meanwhile: above a twentieth of all, the ratio stands in brackets and
proves nothing. On a busy CPU PyTorch's threads wait for each other and lose many times what XLA's lose.
"""


def markdown(record: dict) -> str:
  """All tables of a record as `benchmarks.compare` writes it."""
  found = [(cases.from_json(entry["case"]), entry["rows"]) for entry in record["cases"].values()]
  parts = [_heading(record), _ABOUT]
  headings = ["case", "implementation", "seconds", "images/s", "others", "ratio"]
  for part, title in _TITLES.items():
    parts += _section(title, headings, _speed_rows(found, part, _QUIET * record["machine"]["cores"]))
  headings = ["case", "implementation", "cold start", "warm start", "peak memory", "after imports"]
  parts += _section("Process start to the first train step, and memory", headings, _start_rows(found))
  headings = ["case", "implementation", "largest batch", "images/s", "peak memory"]
  parts += _section("The largest batch that fits, found by doubling", headings, _largest_rows(found))
  headings = ["case", "GFLOP a step", "GB a step (XLA)", "GFLOP/s", "GB/s"]
  parts += _section("What XLA counts of a train step of minec2f_jax", headings, _cost_rows(found))
  return "\n".join([*parts, _ceilings(record["ceilings"])])


def _heading(record: dict) -> str:
  machine = record["machine"]
  versions = ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()))
  return (
    f"# Comparison, {record['date']}\n\n{record['device']}; {machine['processor']}, {machine['cores']} cores, "
    f"Python {machine['python']}; {versions}.\n"
  )


def _section(title: str, headings: list[str], rows: list[list[str]]) -> list[str]:
  if not rows:
    return []
  lines = [f"| {' | '.join(cells)} |" for cells in [headings, ["---"] * len(headings), *rows]]
  return [f"## {title}\n", *lines, ""]


def _speed_rows(found, part: str, quiet: float) -> list[list[str]]:
  rows = []
  for case, by_peer in found:
    if not case.batch or part not in case.parts:
      continue
    ours = by_peer.get(peers.OURS, {})
    for name, row in by_peer.items():
      rows.append([case.name, peers.PEERS[name].title, *_speed(case, part, name, row, ours, quiet)])
  return rows


def _speed(case: cases.Case, part: str, name: str, row: dict, ours: dict, quiet: float) -> list[str]:
  """Seconds, images/s, foreign load and ratio; or why there are none."""
  if not (readings := row.get(part)):
    return [row.get("failed", f"{part} is not written for it"), "", "", ""]
  seconds, others = statistics.median(readings), statistics.median(row["other_cores"][part])
  images = case.batch if part != "epoch" else case.images // case.batch * case.batch
  paired = name != peers.OURS and not row.get("alone") and ours.get(part)
  ratio = ""
  if paired:
    busiest = max(others, statistics.median(ours["other_cores"][part]))
    ratio = _ratio(measure.paired_ratios(ours[part], readings), busiest <= quiet)
  note = " (alone: with the others beside it, memory ran out)" if row.get("alone") else ""
  note += f"; then {row['failed']}" if "failed" in row else ""
  return [f"{seconds:.4g}{note}", f"{images / seconds:.1f}", f"{others:.2f}", ratio]


def _ratio(found, quiet: bool) -> str:
  middle, low, high = found
  return f"**{middle:.2f}** ({low:.2f}–{high:.2f})" if quiet else f"[{middle:.2f} ({low:.2f}–{high:.2f})]"


def _start_rows(found) -> list[list[str]]:
  rows = []
  for case, by_peer in found:
    if "start" not in case.parts:
      continue
    for name, row in by_peer.items():
      memory = row.get("memory", {})
      seconds = [f"{row[field]:.1f} s" if field in row else "" for field in ("cold_s", "warm_s")]
      peak, imported = memory.get("peak_bytes", memory.get("process_bytes")), memory.get("imported_bytes")
      rows.append([case.name, peers.PEERS[name].title, *seconds, _gigabytes(peak), _gigabytes(imported)])
  return rows


def _largest_rows(found) -> list[list[str]]:
  rows = []
  for case, by_peer in found:
    if case.batch:
      continue
    for name, row in by_peer.items():
      cells = [row.get("failed", ""), "", ""]
      if "batch" in row:
        rate = row["batch"] / statistics.median(row["train"])
        cells = [str(row["batch"]), f"{rate:.1f}", _gigabytes(row["memory"].get("peak_bytes"))]
      rows.append([case.name, peers.PEERS[name].title, *cells])
  return rows


def _cost_rows(found) -> list[list[str]]:
  rows = []
  for case, by_peer in found:
    row = by_peer.get(peers.OURS, {})
    flops, moved = (row.get("cost", {}).get(name) for name in ("flops", "bytes_accessed"))
    if flops and moved and row.get("train"):
      seconds = statistics.median(row["train"])
      rows.append([case.name, *(f"{x / 1e9:.4g}" for x in (flops, moved, flops / seconds, moved / seconds))])
  return rows


def _ceilings(found: dict) -> str:
  def rate(name: str, unit: str) -> str:
    return "{:.4g} {unit} (best {:.4g})".format(*(value / 1e9 for value in found[name]), unit=unit)

  products = [f"{n.split('_')[1]} matrix product {rate(n, 'GFLOP/s')}" for n in found if n.startswith("matmul")]
  copy = f"read and write {rate('copy_bytes_per_s', 'GB/s')}"
  return "Ceilings measured at the start through XLA: " + ", ".join([*products, copy]) + ".\n"


def _gigabytes(count) -> str:
  return f"{count / 1e9:.2f} GB" if count else ""
