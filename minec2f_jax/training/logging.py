"""What a run writes while it runs: JSONL and TensorBoard files, and its pace."""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tensorboardX

from minec2f_jax import console, files
from minec2f_jax.errors import UserError


def json_number(value: float) -> float | None:
  """`value` for a JSON file, which knows no NaN: undefined scores become null."""
  return float(value) if math.isfinite(value) else None


class MetricsWriter:
  """Appends scalars to `metrics.jsonl` and to TensorBoard event files in one folder.

  A resumed run passes the step it starts from: lines of later steps, which the killed run wrote after its last
  checkpoint, are dropped, so that every step stands there once.
  """

  def __init__(self, folder, *, start_step: int = 0):
    """Opens `folder`; None writes nothing."""
    self._path = folder and pathlib.Path(folder) / "metrics.jsonl"
    if not folder:
      return
    kept = [entry for entry in read_metrics(self._path) if entry["step"] <= start_step]
    files.write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in kept))
    with self._told():
      self._events = tensorboardX.SummaryWriter(str(folder), purge_step=start_step + 1, flush_secs=10)

  def write(self, step: int, scalars: Mapping[str, float]):
    """Writes `scalars` of `step`.

    Raises:
      UserError: they cannot be written.
    """
    if not self._path:
      return
    with self._told():
      with self._path.open("a") as file:
        file.write(json.dumps({"step": step, **{name: json_number(v) for name, v in scalars.items()}}) + "\n")
      for name, value in scalars.items():
        if not self._events.file_writer.event_writer._worker.is_alive():  # Its queue would block for ever.
          raise OSError("the event file could not be written")
        self._events.add_scalar(name, value, step)

  def close(self):
    """Flushes the event file."""
    if not self._path:
      return
    with self._told():
      self._events.close()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise UserError(
        f"metrics cannot be written to {self._path.parent} ({error.strerror or error}): make room, and the same "
        "command goes on from the last checkpoint, which is intact."
      ) from error


def read_metrics(path) -> list[dict]:
  """The lines of a metrics.jsonl, {"step": 4, "train/loss": 0.5, ...} each; a file that is not there has none.

  Damaged lines are left out, and told but for the last: a killed run may have cut it.
  """
  path = pathlib.Path(path)
  lines = path.read_text(errors="replace").splitlines() if path.exists() else []
  entries = [_entry(line) for line in lines]
  if damaged := [str(number) for number, entry in enumerate(entries[:-1], start=1) if entry is None]:
    console.say(f"{path}: line {', '.join(damaged)} cannot be read and is left out")
  return [entry for entry in entries if entry is not None]


def _entry(line: str) -> dict | None:
  with contextlib.suppress(ValueError):
    entry = json.loads(line)
    if isinstance(entry, dict) and isinstance(entry.get("step"), int):
      return entry
  return None


class Tally:
  """Sums of an epoch's metrics, and which steps were skipped last.

  Added up step by step in float64, so that an epoch that is interrupted comes to the same sums, bit for bit.
  """

  def __init__(self, sums: Mapping[str, float] | None = None, *, step: int = 0, skipped_in_a_row: int = 0):
    """Goes on at `step`, with the sums of the epoch that it lies in, after so many skipped steps."""
    self.sums, self.step = dict(sums or {}), step
    self.skipped_steps = list(range(step - skipped_in_a_row, step))

  def add(self, metrics: Mapping[str, np.ndarray]) -> list[int]:
    """Adds `{name: [steps]}`, of which "skipped" is 1 for the steps whose other metrics do not count.

    Returns:
      The longest row of skipped steps among them, with those that lead up to it.
    """
    columns, longest = {name: values.tolist() for name, values in metrics.items()}, []
    for row in range(len(columns["skipped"])):
      skipped = bool(columns["skipped"][row])
      self.skipped_steps = [*self.skipped_steps, self.step] if skipped else []
      longest = max(longest, self.skipped_steps, key=len)
      self.step += 1
      counted = ["skipped"] if skipped else columns
      for name in columns:
        self.sums[name] = self.sums.get(name, 0.0) + (columns[name][row] if name in counted else 0.0)
    return longest

  def means(self, steps: int) -> dict[str, float]:
    """The means over the counted ones of an epoch's `steps`, NaN if there are none, and the number "skipped"."""
    counted = steps - self.sums["skipped"]
    means = {name: total / counted if counted else math.nan for name, total in self.sums.items()}
    return {**means, "skipped": self.sums["skipped"]}


class Clock:
  """Rate and time left of a stage."""

  def __init__(self, *, total_steps: int, images_per_step: int):
    self._total, self._images = total_steps, images_per_step
    self._steps, self._busy_s = 0, 0.0
    self._began = self._mark = self._spoken = time.monotonic()

  def begin(self):
    """The first step is about to begin: what came before, such as compiling, does not count."""
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
