"""A made-up run for tests of the HTML report: every number is computed from made-up pixels, none is of a network."""

import dataclasses
import functools

import numpy as np
from scipy import ndimage, special

from minec2f_jax import metrics
from minec2f_jax.evaluation import boundaries, breakdown, html_report, intervals, transfer
from minec2f_jax.evaluation.calibration import Calibration

BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")
ZONES = ("arid", "arid", "arid", "tropical", "unknown")


@functools.cache
def shared_page() -> html_report.Page:
  """The page that no test changes."""
  return make_page()


def make_page(*, images: int = 6, size: int = 24, bands=BANDS, epochs: int = 9) -> html_report.Page:
  """Teacher and student, each tested on a coarse and a fine set of `images` images of size x size pixels."""
  rng = np.random.default_rng(0)
  sets = {domain: [_scene(rng, size, domain) for _ in range(images)] for domain in ("coarse", "fine")}
  rows, cards = [], {f"{domain} test": [] for domain in sets}
  for stage, model, blur in (("coarse", "teacher", 0.05), ("fine", "student", 0.02)):
    for domain, scenes in sets.items():
      for scene in scenes:
        noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), 2)
        scene[model] = 12 * (ndimage.gaussian_filter(scene["truth"].astype(float), blur * size) - 0.45) + 6 * noise
      rows.append(_row(scenes, stage, model, domain))
  for domain, scenes in sets.items():
    scores = [metrics.scores(counts)["iou_mine"] for counts in rows[-1]["counts"].values()]
    for place in dict.fromkeys([int(np.argmin(scores)), int(np.argmax(scores))]):
      cards[f"{domain} test"].append(_card(scenes[place], f"mine-{domain}-{place:03d}", f"one of {images}", bands))
  by_place = {(row["trained_on"], row["domain"]): row["scores"]["miou"] for row in rows}
  moved = transfer.transfer(transfer.score_matrix(by_place, ("coarse", "fine")))
  means = {name: getattr(moved, name) for name in ("average", "backward", "forward", "forgetting")}
  return html_report.Page(
    title="teacher and student on made_up_mines",
    facts={"Data": "made_up_mines", "Seed": "0", "Device": "1 x cpu", "Config (SHA-256)": "0123456789abcdef" * 4},
    results={"title": "Made up", "rows": rows, "transfer": {"miou": means, "note": "The two domains' labels differ."}},
    curves={stage: [_line(epoch, stage) for epoch in range(1, epochs + 1)] for stage in ("coarse", "fine")},
    monitor="miou",
    bands=tuple(bands),
    cards=cards,
    config={"seed": 0, "data": {"bands": list(bands), "image_size": size}},
  )


def _scene(rng, size: int, domain: str) -> dict:
  field = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 10)
  truth = field > np.quantile(field, 0.75)
  valid = np.ones((size, size), bool)
  valid[:, : int(rng.integers(0, size // 6))] = False
  ground = ndimage.gaussian_filter(rng.normal(size=(size, size, 6)), (1, 1, 0)) * 0.03
  image = 0.15 + ground + 0.12 * truth[..., None] * np.linspace(1.0, 0.4, 6)
  label = ndimage.binary_dilation(truth, iterations=2) if domain == "coarse" else truth
  return {"truth": truth, "label": label.astype(np.uint8), "valid": valid, "image": image.astype(np.float32)}


def _card(scene: dict, name: str, why: str, bands) -> html_report.Card:
  models = [model for model in ("teacher", "student") if model in scene]
  counts = {m: _counts(scene[m][None], scene["label"][None], scene["valid"][None])[0] for m in models}
  return html_report.Card(
    id=name,
    why=why,
    image=scene["image"][..., : len(bands)],
    label=scene["label"],
    valid=scene["valid"],
    probabilities={model: special.expit(scene[model]).astype(np.float32) for model in models},
    scores={model: float(metrics.iou(counts[model])[1]) for model in models},
  )


def _counts(logits, label, valid) -> np.ndarray:
  """[N, 2, 2], as `metrics.confusion_counts`, without compiling."""
  pairs = [(i, j) for i in (0, 1) for j in (0, 1)]
  found = [((label == i) & ((logits > 0) == j) & valid).sum(axis=(1, 2)) for i, j in pairs]
  return np.stack(found, axis=-1).reshape(-1, 2, 2)


def _row(scenes, stage: str, model: str, domain: str) -> dict:
  logits, label, valid = (np.stack([scene[field] for scene in scenes]) for field in (model, "label", "valid"))
  confusion = metrics.ConfusionMatrix.from_counts(_counts(logits, label, valid))
  outline = boundaries.boundary_counts(logits > 0, label, valid, 20.0)
  sums = Calibration.from_logits(logits, label, valid)
  told = [{"climate_zone": ZONES[i % len(ZONES)]} for i in range(len(scenes))]
  f1 = lambda sums: boundaries.boundary_scores(sums)["boundary_f1"]
  statistics = {"boundary_f1_30m": (outline.counts[:, 1], f1)}
  for name in ("accuracy", "mf1", "miou", "iou_mine", "f1_mine"):
    statistics[name] = intervals.confusion_statistics(confusion.counts, name)
  found = {
    name: {**dataclasses.asdict(intervals.bootstrap(*pair, seed=0, num_resamples=200)), "unit": "image"}
    for name, pair in statistics.items()
  }
  groups = breakdown.breakdown(confusion, told, factors={"climate zone": "climate_zone"})["climate zone"]
  return {
    "model": model,
    "trained_on": stage,
    "tested_on": f"{domain} test ({len(scenes)})",
    "domain": domain,
    "scores": confusion.compute(),
    "counts": {f"mine-{domain}-{i:03d}": counts for i, counts in enumerate(confusion.counts.tolist())},
    "boundaries": outline.compute(),
    "calibration": sums.compute(),
    "reliability": sums.reliability(),
    "intervals": found,
    "groups": {
      "climate zone": [
        {"name": g.name, "num_images": g.num_images, "small": g.small, "scores": g.confusion.compute()} for g in groups
      ]
    },
    "notes": ["Sizes of mines are not told."],
  }


def _line(epoch: int, stage: str) -> dict:
  return {
    "step": 20 * epoch,
    "train/loss": (1.7 if stage == "fine" else 0.7) * 0.9**epoch + 0.02 * (-1) ** epoch,
    "validation/miou": 0.75 - 0.4 * 0.8**epoch - (0.03 if epoch > 7 else 0.0),
    "validation/num_images": 16.0,
    "validation/num_pixels": 257661.0,
    "lr_scale": 0.5 if epoch > 7 else 1.0,
  }
