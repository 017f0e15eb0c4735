"""The sections of the report that are tables: markup of rows of results.json, "" where they tell nothing.

`rows` are those of `summary`: "model", "trained_on", "tested_on", "domain", "scores" and, if known, the rest.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from minec2f_jax.evaluation import breakdown, html_charts
from minec2f_jax.evaluation import html_parts as parts

POOLED = (
  "A pixel is a mine where its probability is above 50 %. Scores are of all valid pixels of a test set together; "
  "those called image mean are averages of each image's own. Intervals are made by the bootstrap: how far a score "
  "depends on which images were drawn, for the network as it is. What another seed of training would change is not in "
  "them."
)
# Score -> (heading, what it is).
SCORES = {
  "accuracy": ("Accuracy", "share of the pixels that are right"),
  "mf1": ("mF1", "F1, mean of the classes mine and background"),
  "miou": ("mIoU", "intersection over union, mean of the classes mine and background"),
  "iou_mine": ("IoU of mine", "area in both label and prediction, of the area in either"),
  "f1_mine": ("F1 of mine", "harmonic mean of precision and recall"),
  "precision_mine": ("Precision of mine", "share of the predicted mine that is labelled"),
  "recall_mine": ("Recall of mine", "share of the labelled mine that is predicted"),
  "image_iou_mine": ("IoU of mine, image mean", "mean over the images that hold a mine in label or prediction"),
}
_CALIBRATION = {
  "ECE, %": ("ece", 100, 2),
  "ECE of confidence, %": ("ece_confidence", 100, 2),
  "Brier score": ("brier", 1, 4),
  "Log loss, nats": ("nll", 1, 4),
  "Mean probability, %": ("mean_probability", 100, 2),
  "Labelled mine, %": ("mine_share", 100, 2),
}
_GROUP_SCORES = {"Acc.": "accuracy", "mF1": "mf1", "mIoU": "miou", "IoU of mine": "iou_mine"}
_PAPERS_TABLES = {"climate zone": ", the form of the paper's Table 11"}
_TRANSFER = ("average", "backward", "forward", "forgetting")
_COUNT = re.compile(r" \(\d+\)$")
_MOST_ROWS = 30  # Of a table by group that is not folded.


def by_test_set(rows: Sequence[dict]) -> Iterator[tuple[str, list[dict]]]:
  """(title, rows) of each test set."""
  for title in dict.fromkeys(row["tested_on"] for row in rows):
    yield title, [row for row in rows if row["tested_on"] == title]


def set_name(title: str) -> str:
  """The title of a test set without the number of its images, "fine test (40)": it stands beside it."""
  return _COUNT.sub("", title)


def label_of(row: dict, rows: Sequence[dict]) -> str:
  """The model's name; with its stage, where two stages' models have the same."""
  stages = {other["trained_on"] for other in rows if other["model"] == row["model"]}
  return row["model"] if len(stages) == 1 else f"{row['model']}, trained on {row['trained_on']}"


def summary(rows: Sequence[dict]) -> str:
  """The main scores with their intervals, one table a test set."""
  if not rows:
    return ""
  sets = list(by_test_set(rows))
  leads = "".join(_lead(title, found, rows) for title, found in sets)
  units = "; ".join(dict.fromkeys(filter(None, map(_units, rows))))
  bootstrap = parts.paragraph(f"Intervals: bootstrap over {units}.") if units else ""
  meanings = parts.folded("What the scores are", parts.definitions(dict(SCORES.values())))
  return leads + parts.beside(_main(found, rows) for _, found in sets) + bootstrap + meanings


def _lead(title: str, found: Sequence[dict], rows: Sequence[dict]) -> str:
  said = []
  for row in found:
    score, ends = parts.with_sign(row["scores"].get("miou")), parts.reach(_interval(row, "miou"))
    said.append(f"{label_of(row, rows)} {score}" + (f" (95\xa0%: {ends})" if ends != parts.NONE else ""))
  images = parts.count(found[0]["scores"]["num_images"], "image")
  text = f"{set_name(title)}, {images}: mIoU {'; '.join(said)}"
  return f'<p class="lead">{parts.escape(parts.capital(text))}</p>\n'


def _main(found: Sequence[dict], rows: Sequence[dict]) -> str:
  """The table of one test set."""
  head, means = ["Score"], [_num_image_means(row) for row in found]
  for row in found:
    head += [label_of(row, rows), "95 % interval"]
  lines = [
    [heading, *(cell for row in found for cell in (parts.percent(row["scores"].get(score)), _ends(row, score)))]
    for score, (heading, _) in SCORES.items()
  ]
  if all(means):
    lines.append(["Images in that mean", *(cell for number in means for cell in (str(number), ""))])
  return parts.table(head, lines, caption=f"{_place(found[0])}. Percent.{_counterpart(found[0])}")


def _ends(row: dict, score: str) -> str:
  """The interval of a score; empty where none was computed."""
  found = _interval(row, score)
  return parts.reach(found) if found else ""


def _num_image_means(row: dict) -> int:
  """The number of images with a mine in label or prediction, 0 where the counts are not known."""
  counts = _by_image(row)
  return int((counts.sum(axis=(1, 2)) > counts[:, 0, 0]).sum())


def _interval(row: dict, score: str) -> dict | None:
  return (row.get("intervals") or {}).get(score)


def _units(row: dict) -> str:
  """What was resampled for the intervals of a row."""
  found = _interval(row, "miou")
  if not found or parts.reach(found) == parts.NONE:
    return ""
  return f"{parts.count(found['num_units'], found.get('unit', 'image'))} of the {set_name(row['tested_on'])}"


def _place(row: dict) -> str:
  """A test set with the number of its images and pixels."""
  scores, name = row["scores"], set_name(row["tested_on"])
  mines = f", {scores['num_images_with_mine']:,} with a labelled mine" if "num_images_with_mine" in scores else ""
  pixels = parts.count(scores["num_pixels"], "valid pixel")
  return f"{name}: {parts.count(scores['num_images'], 'image')}{mines}; {pixels}"


def _counterpart(row: dict) -> str:
  tables = {"fine": " Counterpart of the paper's Table 1.", "coarse": " Counterpart of the paper's Table 2."}
  return tables.get(row.get("domain"), "")


def confusion(rows: Sequence[dict]) -> str:
  """Confusion matrices, as a table and drawn."""
  lines, drawn = [], []
  for title, found in by_test_set([row for row in rows if _by_image(row).sum()]):
    matrices = []
    for row in found:
      counts = _by_image(row).sum(axis=0)
      shares = [parts.percent(share) for share in (counts / counts.sum()).ravel()]
      lines.append([parts.capital(set_name(title)), label_of(row, rows), *shares, str(counts.sum())])
      caption = f"{label_of(row, rows)}, {set_name(title)}: {parts.count(int(counts.sum()), 'valid pixel')}"
      chart = html_charts.matrix(counts.tolist(), alt=f"Confusion matrix. {caption}")
      matrices.append(parts.figure(chart, caption=caption))
    drawn.append(parts.beside(matrices))
  head = ["Tested on", "Model", "TN", "FP", "FN", "TP (mine)", "Pixels"]
  caption = (
    "Percent of all valid pixels, the form of the paper's Table 14. Positive: mine. TN, TP: label and prediction "
    "agree. FP: false alarm. FN: miss."
  )
  return parts.table(head, lines, caption=caption, num_texts=2) + "".join(drawn) if drawn else ""


def _by_image(row: dict) -> np.ndarray:
  """[N, 2, 2] pixels by label, then prediction."""
  return np.array(list((row.get("counts") or {}).values()), np.int64).reshape(-1, 2, 2)


def outlines(rows: Sequence[dict]) -> str:
  """Boundary scores by tolerance."""
  head = ["Model", "Tolerance, m", "Boundary IoU", "Boundary F1", "95 % of F1", "Precision", "Recall"]
  blocks = []
  for title, found in by_test_set([row for row in rows if row.get("boundaries")]):
    lines = []
    for row in found:
      scores = row["boundaries"]
      for reach in _tolerances(scores):
        cells = [parts.percent(scores[f"boundary_{score}_{reach}"]) for score in ("iou", "f1", "precision", "recall")]
        cells.insert(2, _ends(row, f"boundary_f1_{reach}"))
        images = [str(scores[f"num_{kind}_{reach}"]) for kind in ("boundary_images", "too_coarse")]
        lines.append([label_of(row, rows), reach.removesuffix("m"), *cells, *images])
    caption = f"{set_name(title)}: outlines of mines, percent; over all images with an outline in label or prediction."
    blocks.append(parts.table([*head, "Images with outline", "Too coarse"], lines, caption=caption))
  text = (
    "How much of the outlines agrees within a distance on the ground: boundary IoU compares the strips inside them, "
    "boundary F1 the lines. Too coarse: images whose pixels are wider than twice the distance, which are left out."
  )
  return parts.paragraph(text) + "".join(blocks) if blocks else ""


def _tolerances(scores: dict) -> list[str]:
  """ "10m", "30m", ...: the tolerances of boundary scores, ascending."""
  found = [key.removeprefix("boundary_iou_") for key in scores if key.startswith("boundary_iou_")]
  return sorted(found, key=lambda reach: float(reach.removesuffix("m")))


def calibration(rows: Sequence[dict]) -> str:
  """Calibration scores and reliability curves."""
  colours = _colours(rows)
  blocks, drawn = [], []
  for title, found in by_test_set([row for row in rows if (row.get("calibration") or {}).get("num_pixels")]):
    lines = []
    for row in found:
      scores = row["calibration"]
      cells = [parts.number(scores[key], factor=by, digits=digits) for key, by, digits in _CALIBRATION.values()]
      lines.append([label_of(row, rows), *cells, str(scores["num_pixels"])])
    bins = found[0]["calibration"]["num_bins"]
    caption = f"{set_name(title)}: over all valid pixels; ECE of {bins} bins of probability, of confidence {bins // 2}."
    blocks.append(parts.table(["Model", *_CALIBRATION, "Pixels"], lines, caption=caption))
    drawn.append(_reliability(title, found, rows, colours))
  text = (
    "Of the pixels to which the network gives a probability of 70 %, 70 % should be mine. ECE, the expected "
    "calibration error, is the mean distance from that; the Brier score is the mean squared error of the probability "
    "(0 is best, always saying 50 % gives 0.25)."
  )
  return parts.paragraph(text) + "".join(blocks) + parts.beside(drawn) if blocks else ""


def _reliability(title: str, found: Sequence[dict], rows: Sequence[dict], colours: dict) -> str:
  drawn = [(colours[label_of(row, rows)], row["reliability"]) for row in found if row.get("reliability")]
  if not drawn:
    return ""
  names = [(colours[label_of(row, rows)], label_of(row, rows)) for row in found if row.get("reliability")]
  caption = (
    f"{set_name(title)}: reliability. On the dashed line probabilities mean what they say; below it "
    "mines are promised that are not there. Bars: pixels in each bin, on a logarithmic scale."
  )
  chart = html_charts.reliability(drawn, alt=f"Reliability curves, {set_name(title)}")
  return parts.figure(chart, caption=caption, legend=html_charts.legend(names))


def _colours(rows: Sequence[dict]) -> dict[str, int]:
  """Label of a model -> its series, the same in all charts."""
  return {label: place for place, label in enumerate(dict.fromkeys(label_of(row, rows) for row in rows))}


def groups(rows: Sequence[dict]) -> str:
  """Scores by factor and group."""
  blocks = []
  for factor in dict.fromkeys(factor for row in rows for factor in row.get("groups") or ()):
    known = [row for row in rows if (row.get("groups") or {}).get(factor)]
    tables = [_group_table(factor, title, found, rows) for title, found in by_test_set(known)]
    blocks += [f"<h3>By {parts.escape(factor)}</h3>\n", parts.beside(tables)] if tables else []
  small = f"* fewer than {breakdown.MIN_IMAGES} images: no conclusion can be drawn."
  return "".join(blocks) + parts.paragraph(small) if blocks else ""


def _group_table(factor: str, title: str, found: Sequence[dict], rows: Sequence[dict]) -> str:
  head = [parts.capital(factor), "Model", *_GROUP_SCORES, "Images", "Pixels"]
  lines = _by_group(factor, found, rows)
  caption = f"{set_name(title)}, by {factor}: percent{_PAPERS_TABLES.get(factor, '')}."
  table = parts.table(head, lines, caption=caption, num_texts=2)
  return table if len(lines) <= _MOST_ROWS else parts.folded(f"{set_name(title)}, {len(lines)} rows", table)


def _by_group(factor: str, found: Sequence[dict], rows: Sequence[dict]) -> list[list[str]]:
  """A line a group and model, groups together."""
  order = dict.fromkeys(group["name"] for row in found for group in row["groups"][factor])
  lines = []
  for chosen in order:
    for row in found:
      for group in (group for group in row["groups"][factor] if group["name"] == chosen):
        scores = group["scores"]
        cells = [parts.percent(scores[score]) for score in _GROUP_SCORES.values()]
        named = f"{chosen} *" if group["small"] else chosen
        lines.append([named, label_of(row, rows), *cells, str(group["num_images"]), str(scores["num_pixels"])])
  return lines


def transfer(results: dict) -> str:
  """What learning the second domain did to the first."""
  found = results.get("transfer") or {}
  scores = [score for score in found if isinstance(found[score], dict)]
  if not scores:
    return ""
  lines = [
    [SCORES[score][0] if score in SCORES else score, *(parts.percent(found[score][field]) for field in _TRANSFER)]
    for score in scores
  ]
  head = ["Score", "Average at the end", "Backward transfer", "Forward transfer", "Forgetting"]
  tested = ", ".join(title for title, _ in by_test_set(results["rows"]))
  caption = f"Percent, differences in percentage points; number of test images in brackets: {tested}."
  text = (
    "Average: of the last model over all domains. Backward transfer: what later training did to earlier domains, "
    "negative where it cost. Forgetting: how far earlier domains fell from their best. Forward transfer: what earlier "
    "training gives a domain before it is learnt."
  )
  return parts.paragraph(text) + parts.table(head, lines, caption=caption) + parts.paragraph(found.get("note", ""))
