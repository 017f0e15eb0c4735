"""What long work says on the console while it runs."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

_mute = False


def duration(seconds: float) -> str:
  """`seconds` as people write it: 42s, 3m05s, 2h10m."""
  seconds = int(round(seconds))
  if seconds < 60:
    return f"{seconds}s"
  return f"{seconds // 60}m{seconds % 60:02d}s" if seconds < 3600 else f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def mute():
  """Lets this process say nothing more: of several that work together one speaks."""
  global _mute
  _mute = True


def say(text: str):
  """One line on the console, at once."""
  if _mute:
    return
  try:
    print(text, flush=True)
  except OSError as error:  # The log lies on a full disk, or its reader has gone: no reason to lose the run.
    sys.stdout = open(os.devnull, "w")  # Also for what Python flushes at its end.
    with contextlib.suppress(OSError):
      print(f"nothing more is said here: the output cannot be written ({error})", file=sys.stderr, flush=True)


def track(
  items: Iterable,
  *,
  total: float,
  unit: str,
  title: str,
  every_s: float = 15.0,
  amount: Callable[[object], float] = lambda item: 1,
) -> Iterator:
  """Yields `items` one by one and says how many are done, at which rate, and how long the rest will take.

  Args:
    items: what to go through.
    total: how many there are, or of `amount` all together.
    unit: what one is called in the plural, e.g. "chips".
    title: stands before each line, e.g. "chips".
    every_s: seconds between two lines on a terminal; a log file hears less.
    amount: of an item, where they are of different size.
  """
  pause_s = every_s if sys.stdout.isatty() else 4 * every_s
  began = spoken = time.monotonic()
  done = 0
  for item in items:
    now = time.monotonic()
    if done and now - spoken >= pause_s:
      spoken = now
      rate = done / (now - began)
      left = duration((total - done) / rate)
      say(f"[{title}] {_short(done)}/{_short(total)} {unit}, {_pace(rate)} {unit}/s, {left} left")
    yield item
    done += amount(item)
  busy_s = max(time.monotonic() - began, 1e-9)
  say(f"[{title}] {_short(total)} {unit} in {duration(busy_s)} ({_pace(total / busy_s)} {unit}/s)")


def _short(number: float) -> str:
  return f"{number:.1f}" if isinstance(number, float) else str(number)


def _pace(rate: float) -> str:
  return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
