"""What a run writes while it runs: JSONL and TensorBoard files, and its pace."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping

import tensorboardX

from minec2f_jax import console


def json_number(value: float) -> float | None:
  """`value` for a JSON file, which knows no NaN: undefined scores become null."""
  return float(value) if math.isfinite(value) else None


class MetricsWriter:
  """Appends scalars to `metrics.jsonl` and to TensorBoard event files in one folder.

  A resumed run passes the step it starts from: lines of later steps, which the killed run wrote after its last
  checkpoint, are dropped, so that every step stands there once.
  """

  def __init__(self, folder, *, start_step: int = 0):
    self._path = pathlib.Path(folder) / "metrics.jsonl"
    kept = []
    if self._path.exists():
      kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= start_step]
    partial = self._path.with_name("metrics.jsonl.partial")
    partial.write_text("".join(line + "\n" for line in kept))
    partial.replace(self._path)
    self._events = tensorboardX.SummaryWriter(str(folder), purge_step=start_step + 1, flush_secs=10)

  def write(self, step: int, scalars: Mapping[str, float]):
    """Writes `scalars` of `step`."""
    with self._path.open("a") as file:
      file.write(json.dumps({"step": step, **{name: json_number(v) for name, v in scalars.items()}}) + "\n")
    for name, value in scalars.items():
      self._events.add_scalar(name, value, step)

  def close(self):
    """Flushes the event file."""
    self._events.close()


def _step_of(line: str) -> float:
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError):  # The last line of a killed run may be cut.
    return math.inf


class Clock:
  """Rate and time left of a stage."""

  def __init__(self, *, total_steps: int, images_per_step: int):
    self._total, self._images = total_steps, images_per_step
    self._steps, self._busy_s = 0, 0.0
    self._began = self._mark = self._spoken = time.monotonic()

  def start(self):
    """Training begins, or goes on after evaluation and saving."""
    self._mark = time.monotonic()

  def tick(self, steps: int):
    """So many more steps are done, or under way."""
    now = time.monotonic()
    self._steps += steps
    self._busy_s += now - self._mark
    self._mark = now

  def due(self, *, every_s: float = 15.0) -> bool:
    """Whether nothing has been said for `every_s` seconds; a terminal hears more than a log file."""
    now = time.monotonic()
    if now - self._spoken < (every_s if sys.stdout.isatty() else 4 * every_s):
      return False
    self._spoken = now
    return True

  @property
  def images_per_s(self) -> float | None:
    """Throughput of training alone; None before the first step."""
    return self._steps * self._images / self._busy_s if self._busy_s else None

  def left(self, step: int) -> str:
    """Time until the last step, evaluation and saving included, as text; early stopping may come before."""
    if not self._steps:
      return "?"
    return console.duration((self._total - step) * (time.monotonic() - self._began) / self._steps)
