"""Lets a run of launch.py say when it saves, validates and reports: a config's file calls `install`."""

import contextlib
import os

from minec2f_jax.evaluation import evaluate
from minec2f_jax.experiment import run
from minec2f_jax.training import manifest


def install():
  """Wraps what a run calls; the marks are lines of their own on stdout, each written at once."""
  made, report, score = manifest.made, run.report, evaluate.evaluate

  @contextlib.contextmanager
  def marked(folder, note):
    with _within(f"save of {folder}"), made(folder, note) as partial:
      yield partial

  manifest.made = marked
  run.report = _wrapped("report", report)
  evaluate.evaluate = _wrapped("validation", score)


def _wrapped(name: str, function):
  def call(*args, **kwargs):
    with _within(name):
      return function(*args, **kwargs)

  return call


@contextlib.contextmanager
def _within(name: str):
  _say(f"@ begins {name}")
  yield
  _say(f"@ ended {name}")  # Not of what an error ends.


def _say(text: str):
  os.write(1, f"\n{text}\n".encode())  # Another thread may have written a line but for its end.
