"""Figures: what the networks saw, said and passed on."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure  # Not pyplot: no screen, no global state.

from minec2f_jax.data import label_geometry

MINE_COLOUR = "#e4572e"
TEACHER_COLOUR = "#2e86ab"
# Of what a pixel is to a prediction. Blue and orange of Okabe & Ito differ with any kind of colour vision, and all five
# in lightness, so that a grey print keeps them apart.
OUTCOME_COLOURS = {
  "background": "#262626",
  "miss": "#0072b2",
  "no data": "#8f8f8f",
  "false alarm": "#e69f00",
  "hit": "#f7f7f7",
}
# What images may be shown as: title -> roles in red, green and blue.
_COMPOSITES = {"RGB": ("red", "green", "blue"), "SWIR 2, NIR, red": ("swir2", "nir", "red")}


def stretch(image: np.ndarray, valid: np.ndarray, bands: Sequence[str], roles: Sequence[str]) -> np.ndarray:
  """A display image [H, W, 3] in 0..1: `roles` of `bands`, stretched together to the 2nd-98th percentile.

  Roles that the image lacks fall back to its first bands. Invalid pixels are white.
  """
  indices = (
    [bands.index(role) for role in roles] if set(roles) <= set(bands) else [min(i, len(bands) - 1) for i in range(3)]
  )
  shown = image[..., indices]
  low, high = np.percentile(shown[valid], (2, 98)) if valid.any() else (0.0, 1.0)
  return np.where(valid[..., None], np.clip((shown - low) / max(high - low, 1e-6), 0, 1), 1.0)


def composites(bands: Sequence[str]) -> dict[str, Sequence[str]]:
  """Title -> roles of the pictures that can be made of `bands`: those that hold all roles, or the first bands."""
  known = {title: roles for title, roles in _COMPOSITES.items() if set(roles) <= set(bands)}
  first = tuple(bands[min(i, len(bands) - 1)] for i in range(3))
  return known or {f"image ({', '.join(dict.fromkeys(first))})": first}


def outcomes(label: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """What each pixel is to a prediction.

  Args:
    label: [H, W], non-zero = mine.
    predicted: [H, W] bool.
    valid: [H, W] bool.

  Returns:
    [H, W] uint8, places in `OUTCOME_COLOURS`: a miss is a mine that was not predicted, a false alarm the converse.
  """
  names, mine = list(OUTCOME_COLOURS), np.asarray(label) != 0
  kinds = ("no data", "hit", "miss", "false alarm")
  chosen = np.select([~valid, mine & predicted, mine, predicted], [names.index(kind) for kind in kinds])
  return chosen.astype(np.uint8)


def probability_colours(count: int) -> np.ndarray:
  """[count, 3] uint8, the colours of probabilities 0 to 1 in all figures."""
  return np.round(255 * matplotlib.colormaps["magma"](np.linspace(0, 1, count))[:, :3]).astype(np.uint8)


def save_panel(
  path,
  *,
  samples: Sequence[dict],
  bands: Sequence[str],
  probabilities: dict[str, np.ndarray],
  better: np.ndarray | None = None,
  distilled: np.ndarray | None = None,
  title: str,
):
  """Draws one row a sample: image, label, each model's probability, and what the teacher knows better.

  Args:
    path: PNG to write.
    samples: `{"id", "image" [H, W, C], "label" [H, W], "valid" [H, W]}`.
    bands: role of each band.
    probabilities: model name -> [N, H, W] in 0..1; the label's outline is drawn over each.
    better: [N, H, W] bool, pixels in which the teacher is nearer to the label than the student, or None.
    distilled: [N, H, W] bool, pixels which the selection passes on, or None.
    title: says what the pictures show.
  """
  shown = composites(bands)
  columns = [*shown, "label", *probabilities]
  if better is not None:
    columns.append("teacher better (blue),\ndistilled (orange)")
  figure = Figure(figsize=(2.1 * len(columns), 2.15 * len(samples) + 0.8), layout="constrained")
  axes = figure.subplots(len(samples), len(columns), squeeze=False)
  for row, sample in enumerate(samples):
    image, label, valid = sample["image"], sample["label"], sample["valid"]
    panels = [stretch(image, valid, bands, roles) for roles in shown.values()]
    rgb = panels[0]
    panels += [np.where(valid, label, np.nan)]
    panels += [np.where(valid, maps[row], np.nan) for maps in probabilities.values()]
    if better is not None:
      panels.append(_tint(_tint(0.5 * rgb + 0.3, better[row], TEACHER_COLOUR), distilled[row], MINE_COLOUR))
    for axis, panel in zip(axes[row], panels):
      axis.imshow(panel, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
      axis.set_xticks([])
      axis.set_yticks([])
    for axis in axes[row, len(shown) + 1 :]:
      if 0 < label.sum() < label.size:
        axis.contour(label, levels=[0.5], colors="white", linewidths=0.6)
    axes[row, 0].set_ylabel(sample["id"], fontsize=7)
  for axis, name in zip(axes[0], columns):
    axis.set_title(name, fontsize=9)
  figure.suptitle(title, fontsize=10)
  figure.savefig(pathlib.Path(path), dpi=110)


def _tint(rgb: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
  return np.where(mask[..., None], 0.3 * rgb + 0.7 * np.array(to_rgb(colour)), rgb)


def save_curves(path, histories: dict[str, list[dict]], *, score: str):
  """Draws training loss and validation `score` by epoch of every stage.

  Args:
    path: PNG to write.
    histories: stage -> lines of its metrics.jsonl.
    score: name of the validation score.
  """
  figure = Figure(figsize=(9, 3.2), layout="constrained")
  axes = figure.subplots(1, 2)
  for (name, lines), colour in zip(histories.items(), (TEACHER_COLOUR, MINE_COLOUR, "grey")):
    epochs = np.arange(1, len(lines) + 1)
    for axis, key in zip(axes, ("train/loss", f"validation/{score}")):
      axis.plot(epochs, [np.nan if line[key] is None else line[key] for line in lines], label=name, color=colour)
  for axis, title in zip(axes, ("training loss", f"validation {score}")):
    axis.set(xlabel="epoch", title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
  figure.savefig(pathlib.Path(path), dpi=110)


def save_shift(path, sets: dict[str, label_geometry.LabelStatistics], *, bins: int = 50):
  """Draws coverage and roughness histograms of two sets of labels, the paper's Figure 2.

  Args:
    path: PNG to write.
    sets: name -> statistics, the coarse set first; undefined values are left out and not counted in the legend.
    bins: number of bins, shared by both sets.
  """
  figure = Figure(figsize=(9, 3.9), layout="constrained")
  for axis, measure, label in zip(figure.subplots(1, 2), ("coverage", "roughness"), ("mining coverage", "roughness")):
    samples = {name: getattr(statistics, measure) for name, statistics in sets.items()}
    edges = label_geometry.shared_edges(*samples.values(), bins=bins)
    overlap = label_geometry.distribution_overlap(*samples.values(), bins=bins)
    for (name, values), colour in zip(samples.items(), (TEACHER_COLOUR, MINE_COLOUR)):
      values = values[np.isfinite(values)]
      if not values.size:
        axis.fill_between([], [], color=colour, alpha=0.5, label=f"{name} (n = 0)")
        continue
      text = f"{name} (n = {values.size}, median {np.median(values):.2f})"
      axis.hist(values, edges, density=True, color=colour, alpha=0.5, label=text)
      axis.axvline(np.median(values), color=colour, linestyle="--", linewidth=1.5)
    title = "overlap undefined" if np.isnan(overlap) else f"overlap {overlap:.2f}"
    axis.set(xlabel=label, ylabel="density", title=title)
    axis.set_axisbelow(True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))  # Bars may stand anywhere inside.
  figure.savefig(pathlib.Path(path), dpi=110)


def save_rows(path, points: Sequence[tuple[str, Sequence[float], float | None]], *, title: str, unit: str, data: str):
  """Draws the rows of a table: ours seed by seed with their mean, and beside it what the paper prints.

  Two axes: the heights belong to different data, the order may be compared. Without a printed number, ours alone.

  Args:
    path: PNG to write.
    points: (label, score of each seed, the paper's score or None) of each row, the first on top.
    title: of the table.
    unit: of the scores.
    data: that ours are of.
  """
  printed = {place: score for place, (_, _, score) in enumerate(points) if score is not None}
  figure = Figure(figsize=(9, 1.5 + 0.42 * len(points)), layout="constrained")
  ours, *rest = figure.subplots(1, 2 if printed else 1, sharey=True, squeeze=False)[0]
  places = np.arange(len(points))
  for place, (_, scores, _) in zip(places, points):
    if len(scores):
      ours.plot(scores, np.full(len(scores), place), "o", color=MINE_COLOUR, alpha=0.5, markersize=6)
      ours.plot([np.mean(scores)] * 2, [place - 0.28, place + 0.28], color=MINE_COLOUR, linewidth=2.5)
  ours.set_yticks(places, [label for label, _, _ in points])
  ours.invert_yaxis()
  ours.set(title=f"ours on {data}: seeds and mean", xlabel=unit, ylim=(len(points) - 0.5, -0.5))
  for paper in rest:
    paper.plot(list(printed.values()), list(printed), "D", color=TEACHER_COLOUR, markersize=7)
    paper.set(title="the paper on its data", xlabel=unit)
  for axis in (ours, *rest):
    axis.grid(alpha=0.3)
    axis.margins(x=0.15)
  figure.suptitle(title)
  figure.savefig(pathlib.Path(path), dpi=110)
