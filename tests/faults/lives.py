"""Processes of launch.py under watch: what they say and when, and a signal that reaches each at a chosen moment."""

import collections
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# What begins with a line of the console or of `marks`; "start" begins with the process.
PHASES = {
  "data": r"\[\w+\] train: ",
  "compilation": r"\[\w+\] \w+ in \w+, on ",
  "steps": r"\[\w+\] (compiled in|epoch \d+/\d+  loss)",
  "validation": "@ begins validation",
  "save": "@ begins save",
  "report": "@ begins report",
}
_ENDED = {"@ ended save": "save", "@ ended validation": "validation"}


class Moment(NamedTuple):
  """So long after the `nth` beginning of `phase`."""

  phase: str
  nth: int
  delay_s: float


class Life:
  """One process of a run: what it said, and when."""

  def __init__(self, arguments: Sequence[str], *, settings: dict[str, str], before: Sequence[str] = ()):
    """Starts `before` launch.py `arguments` with `settings` in its environment."""
    self.lines, self.began, self.hung, self.sent_at = [], time.monotonic(), False, None
    self._strike, self._seen, self._errors = None, collections.Counter(), tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      [*before, sys.executable, "launch.py", *arguments],
      cwd=ROOT,
      env={**os.environ, **settings},
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
    )

  def strike(self, signum: int, moment: Moment):
    """Sends the signal at that moment, if it comes."""
    self._strike = (signum, moment)
    if moment.phase == "start":
      self._set_timer()

  def _set_timer(self):
    signum, moment = self._strike
    timer = threading.Timer(moment.delay_s, self.send, [signum])
    timer.daemon = True
    timer.start()

  def send(self, signum: int):
    """Sends the signal now; nothing if the process has ended."""
    self.sent_at = time.monotonic()
    self._process.send_signal(signum)

  @property
  def pid(self) -> int:
    return self._process.pid

  def hear(self, *, limit_s: float, until: str | None = None) -> int | None:
    """Hears the process to its end, and returns its status; or to the first line with `until`, and returns None."""
    watch = threading.Timer(limit_s, self._give_up)
    watch.daemon = True
    watch.start()
    for line in self._process.stdout:
      self.lines.append((time.monotonic(), line))
      self._note(line)
      if until and until in line:
        watch.cancel()
        return None
    self.status = self._process.wait()
    watch.cancel()
    self.ended = time.monotonic()
    self._errors.seek(0)
    self.errors = self._errors.read()
    self._errors.close()
    return self.status

  def _give_up(self):
    self.hung = True
    self._process.kill()

  def _note(self, line: str):
    phase = next((name for name, start in PHASES.items() if re.match(start, line)), None)
    self._seen[phase] += 1
    if phase and self._strike and self._strike[1][:2] == (phase, self._seen[phase]):
      self._set_timer()

  @property
  def seconds(self) -> float:
    return self.ended - self.began

  def place(self) -> str:
    """The phase that it ended in; a save goes on beside others, and counts first."""
    phase, saves = "start", 0
    for _, line in self.lines:
      begun = next((name for name, start in PHASES.items() if re.match(start, line)), None)
      ended = next((name for start, name in _ENDED.items() if line.startswith(start)), None)
      saves += (begun == "save") - (ended == "save")
      if begun and begun != "save" and phase != "report":
        phase = begun
    return "save" if saves else phase

  def lengths(self) -> dict[str, float]:
    """Phase -> seconds to the next one, or of a save to its end, on the mean."""
    begins = [(at, name) for at, line in self.lines for name, start in PHASES.items() if re.match(start, line)]
    ends = iter([at for at, line in self.lines if line.startswith("@ ended save")])
    lengths = collections.defaultdict(list)
    lengths["save"] = [max(next(ends, self.ended) - at, 0) for at, name in begins if name == "save"]
    begins = [(self.began, "start"), *(begin for begin in begins if begin[1] != "save")]
    report = next((n for n, (_, name) in enumerate(begins) if name == "report"), len(begins))
    begins = begins[: report + 1]  # Which validates, too.
    for (at, name), (after, _) in zip(begins, [*begins[1:], (self.ended, "")]):
      lengths[name].append(after - at)
    return {name: sum(each) / len(each) for name, each in lengths.items()}

  def epochs(self) -> dict[tuple[str, int], float]:
    """(stage, epoch) -> when it was said to be over."""
    found = ((at, re.match(r"\[(\w+)\] epoch (\d+)/\d+  loss", line)) for at, line in self.lines)
    return {(match[1], int(match[2])): at for at, match in found if match}

  def epoch_lengths(self) -> dict[str, float]:
    """Stage -> seconds from the end of an epoch to that of the next, on the mean."""
    over = self.epochs()
    stages = {name: [at for (stage, _), at in over.items() if stage == name] for name, _ in over}
    return {name: (ends[-1] - ends[0]) / (len(ends) - 1) for name, ends in stages.items() if len(ends) > 1}

  def saved(self) -> dict[str, int]:
    """Stage -> the last step whose checkpoint it had brought to the disk."""
    found = (re.match(r"@ ended save of .*/(\w+)/checkpoints/(\d+)$", line) for _, line in self.lines)
    return {match[1]: int(match[2]) for match in found if match}

  def resumed(self) -> dict[str, tuple[int, int]]:
    """Stage -> epoch and step that it went on from."""
    found = (re.match(r"\[(\w+)\] goes on after epoch (\d+) \(step (\d+)\)", line) for _, line in self.lines)
    return {match[1]: (int(match[2]), int(match[3])) for match in found if match}

  def told(self) -> str:
    """What is wrong with the way in which it told of its end on stderr; "" if nothing is."""
    lines = [line for line in self.errors.splitlines() if line]
    if self.hung:
      return "it hung and was killed"
    if "Traceback" in self.errors:
      return f"a traceback: {lines[-1]}"
    if self.status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
      asked = [line for line in lines if line.startswith("launch.py: asked to end; ")]
      rest = [line for line in lines if line not in asked]
      sentence = "launch.py: interrupted; the same command goes on "
      return "" if len(asked) < 2 and len(rest) == 1 and rest[0].startswith(sentence) else f"not one sentence: {lines}"
    if self.status == 1:
      one = len(lines) >= 1 and [line for line in lines if line.startswith("launch.py: ")] == lines[-1:]
      return "" if one else f"not one sentence: {lines}"
    return ""

  def interrupted_at(self) -> tuple[str, int] | None:
    """Stage and step that it said to go on after; None if it said of none."""
    found = re.search(r"goes on in \[(\w+)\] after step (\d+), epoch", self.errors)
    return (found[1], int(found[2])) if found else None
