"""The section of the report on training: curves of every stage."""

from collections.abc import Sequence

from minec2f_jax.evaluation import html_charts
from minec2f_jax.evaluation import html_parts as parts
from minec2f_jax.evaluation.html_sections import SCORES


def curves(histories: dict[str, list[dict]], monitor: str) -> str:
  """Loss, validation score and learning rate of each stage.

  Args:
    histories: stage -> lines of its metrics.jsonl, one an epoch.
    monitor: name of the validation score that chose the best epoch.
  """
  return "".join(_stage(name, lines, monitor) for name, lines in histories.items() if lines)


def _stage(name: str, lines: Sequence[dict], monitor: str) -> str:
  key = f"validation/{monitor}"
  score = SCORES[monitor][0] if monitor in SCORES else monitor
  known = [(line[key], -epoch) for epoch, line in enumerate(lines, start=1) if parts.defined(line.get(key))]
  best = max(known) if known else None  # The first one of equals, as the trainer keeps it.
  title = f"<h3>Stage {parts.escape(name)}</h3>\n"
  said = f"{parts.count(len(lines), 'epoch')}, {parts.count(lines[-1]['step'], 'step')}; "
  said += f"best validation {score}: {parts.with_sign(best[0])} in epoch {-best[1]}." if best else f"no {score}."
  if counted := _validated(lines):
    said += f" Validation: {counted}."
  text = title + parts.paragraph(said)
  if len(lines) == 1:
    return text + parts.paragraph(f"One epoch makes no curve; its training loss is {_loss(lines[0])}.")
  mark = (-best[1], 100 * best[0]) if best else None
  charts = [
    _chart(lines, "train/loss", f"Training loss of stage {name}, mean over the epoch", "loss"),
    _chart(lines, key, f"Validation {score} of stage {name}; ring: best epoch", f"{score}, percent", 100, mark),
    _chart(lines, "lr_scale", f"Learning rate of stage {name}, factor after the epoch", "factor of the rate"),
  ]
  return text + parts.beside(charts)


def _chart(lines: Sequence[dict], key: str, caption: str, unit: str, factor: float = 1, mark=None) -> str:
  """One quantity by epoch; "" where it is never defined."""
  values = [factor * line[key] if parts.defined(line.get(key)) else None for line in lines]
  if not any(map(parts.defined, values)):
    return ""
  epochs = html_charts.axis_of("epoch", (1, len(lines)), whole=True)
  axis = html_charts.axis_of(unit, values)
  points = html_charts.Line(0, list(enumerate(values, start=1)))
  return parts.figure(html_charts.plot([points], epochs, axis, alt=caption, mark=mark), caption=caption)


def _loss(line: dict) -> str:
  return parts.number(line.get("train/loss"), digits=4)


def _validated(lines: Sequence[dict]) -> str:
  """The number of validation images and pixels, where the metrics tell it."""
  told = [lines[-1].get(f"validation/num_{noun}s") for noun in ("image", "pixel")]
  if not all(map(parts.defined, told)):
    return ""
  return ", ".join(parts.count(int(value), noun) for value, noun in zip(told, ("image", "valid pixel")))
