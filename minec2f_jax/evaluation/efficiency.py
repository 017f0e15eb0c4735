"""What inference costs, as tables: size, operations, time and memory of networks (the paper's Table 12)."""

from collections.abc import Iterator, Sequence

import numpy as np

from minec2f_jax.evaluation.suite_table import to_csv, to_latex, to_markdown

# Network -> seconds an image and images a second, as Table 12 prints them.
PRINTED = {"FPN": (0.0748, 13.38), "MineC2FNet": (0.0909, 11.00)}
_QUARTILES = (0.25, 0.5, 0.75)
_MILLION = 1e6


def network_name(architecture: str, method: str) -> str:
  """What tables call the network that `method` uses for inference."""
  if method == "attentive_distillation":
    return "MineC2FNet"
  return {"fpn_densenet": "FPN", "prithvi": "Prithvi"}.get(architecture, architecture)


def texts(found: dict) -> dict[str, str]:
  """File name -> content of efficiency.md, efficiency.csv and efficiency.tex.

  Args:
    found: the content of efficiency.json, see `minec2f_jax.experiment.efficiency`.
  """
  setting = f"{found['image_size']} × {found['image_size']} pixels, {len(found['bands'])} bands, {_device(found)}"
  parts = [
    (f"Size of the networks; {setting}", size_cells(found)),
    (f"Table 12: time of inference; {setting}", time_cells(found)),
  ]
  remarks = notes(found)
  markdown = "".join(f"**{title}**\n\n{to_markdown(lines)}\n" for title, lines in parts)
  return {
    "efficiency.md": markdown + "\n\n".join(remarks) + "\n",
    "efficiency.csv": to_csv(records(found)),
    "efficiency.tex": "\n".join(to_latex(title, lines, remarks) for title, lines in parts),
  }


def size_cells(found: dict) -> list[list[str]]:
  """Heading and rows: parameters in millions, operations of one image in thousand millions."""
  heads = ["Network", "Stage", "Trainable, M", "With BN statistics, M", "With the teacher, M", "Inference reads, M"]
  lines = [[*heads, "GMAC an image", "XLA: GFLOP an image"]]
  for network in found["networks"]:
    numbers = network["numbers"]
    sizes = [f"{numbers[name] / _MILLION:.2f}" for name in ("trainable", "own", "with_teacher", "read")]
    flops = "–" if network["xla_flops"] is None else f"{network['xla_flops'] / 1e9:.2f}"
    lines.append([network["name"], network["stage"], *sizes, f"{network['macs'] / 1e9:.3f}", flops])
  return lines


def time_cells(found: dict) -> list[list[str]]:
  """Heading and rows: each network at each batch size, and what the paper prints."""
  heads = ["Network", "Batch", "Rounds", "Median, ms", "Quartiles, ms", "Images/s"]
  lines = [[*heads, f"Time over {found['networks'][0]['name']}'s", "Memory, MB"]]
  for line in _timings(found):
    low, median, high = (f"{1e3 * value:.1f}" for value in line["quartiles_s"])
    ratio = "{1:.2f} [{0:.2f}, {2:.2f}]".format(*line["ratio_quartiles"])
    memory = "–" if line["memory_bytes"] is None else f"{line['memory_bytes'] / _MILLION:.0f}"
    speed = f"{line['images_per_s']:.2f}"
    rounds = str(line["rounds"])
    lines.append([line["name"], str(line["batch"]), rounds, median, f"{low}–{high}", speed, ratio, memory])
  first = PRINTED["FPN"][0]
  for name, (seconds, speed) in PRINTED.items():
    ratio = f"{seconds / first:.2f}"
    lines.append([f"{name}, printed", "–", "–", f"{1e3 * seconds:.1f}", "–", f"{speed:.2f}", ratio, "–"])
  return lines


def notes(found: dict) -> list[str]:
  """What a reader of the tables has to know."""
  environment, peak = found["environment"], found["device_peak_bytes"]
  others = f", one of {environment['devices']}" if environment["devices"] > 1 else ""
  packages = ", ".join(f"{name} {environment['packages'][name]}" for name in ("jax", "jaxlib", "flax"))
  return [
    f"Device: {_device(found)}{others}. {environment['dtype']}; {packages}; Python {environment['python']}. Weights "
    "are random: time does not depend on what was learnt.",
    "Time is from a normalised image on the device to logits on the device. Reading, resizing, normalising, copying, "
    f"compiling and {found['warm_up']} first calls are left out. At each batch size the networks take turns, in "
    "reversed order every other round; ratios are of calls of the same round; median and quartiles over rounds. "
    "Images/s are those of the median.",
    "MineC2FNet's inference runs the teacher's encoder, too; the column on what it reads and the operations count that "
    "in, and leave out what of the teacher no output needs.",
    "MAC: a multiplication with its addition, in convolutions and matrix products, as this implementation computes "
    "them: convolutions of upsampled maps run before the upsampling, so these are fewer than of the layers as they are "
    "drawn. XLA's count is of the program before its optimisation, of all operations, without those on padding.",
    "Memory is what XLA plans for one call: weights, image, logits and temporary arrays."
    + (f" Peak of the device over all of this: {peak / _MILLION:.0f} MB." if peak else ""),
    "Printed: the paper trained and evaluated with a Xeon W-1350 and an RTX A4000 (Sec. 7.3.2), and states neither "
    "which of them its Table 12 was timed on, nor the batch, nor what is counted in. Its networks are an FPN on "
    "DenseNet-121 and MineC2FNet on that; beside others, and on another machine, not even the ratio must agree.",
  ]


def records(found: dict) -> Iterator[dict[str, object]]:
  """One record for each network and batch size, for machines."""
  sizes = {network["stage"]: network for network in found["networks"]}
  for line in _timings(found):
    network = sizes[line["stage"]]
    printed = PRINTED.get(line["name"], ("", ""))
    yield {
      **{name: network[name] for name in ("name", "stage", "method")},
      **{f"{name}_numbers": value for name, value in network["numbers"].items()},
      **{name: network[name] for name in ("macs", "xla_flops")},
      **{name: line[name] for name in ("batch", "rounds")},
      **_by_quartile("seconds", line["quartiles_s"]),
      "images_per_s": line["images_per_s"],
      **_by_quartile("ratio", line["ratio_quartiles"]),
      "memory_bytes": line["memory_bytes"],
      "printed_seconds": printed[0],
      "printed_images_per_s": printed[1],
      "image_size": found["image_size"],
      "bands": len(found["bands"]),
      "device": _device(found),
      "dtype": found["environment"]["dtype"],
    }


def _by_quartile(name: str, values: Sequence[float]) -> dict[str, float]:
  return dict(zip((f"{name}_q1", f"{name}_median", f"{name}_q3"), values))


def _timings(found: dict) -> Iterator[dict]:
  """The entries of "timings" with what follows from their seconds."""
  names = {network["stage"]: network["name"] for network in found["networks"]}
  first = {}  # Batch size -> seconds of the first network.
  for entry in found["timings"]:
    seconds = np.array(entry["seconds"])
    ratios = seconds / first.setdefault(entry["batch"], seconds)
    yield {
      **entry,
      "name": names[entry["stage"]],
      "rounds": len(seconds),
      "quartiles_s": np.quantile(seconds, _QUARTILES).tolist(),
      "ratio_quartiles": np.quantile(ratios, _QUARTILES).tolist(),
      "images_per_s": float(entry["batch"] / np.median(seconds)),
    }


def _device(found: dict) -> str:
  environment = found["environment"]
  if environment["platform"] == "cpu":
    return f"{environment['processor'] or 'CPU'}, {environment['cores']} cores"
  return environment["device"]
