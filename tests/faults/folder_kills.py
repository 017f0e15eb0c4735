"""Ends a process before each of its words with the file system while it makes or removes a folder."""

import os
import pathlib
import sys
from collections.abc import Callable

from minec2f_jax.training import manifest

_WORDS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def make(place: pathlib.Path, content: bytes):
  """Makes the folder `place` with a file of `content`, and one in a folder of its own."""
  with manifest.made(place, {}) as partial:
    (partial / "deep").mkdir()
    (partial / "deep" / "a").write_bytes(content)
    (partial / "b").write_bytes(b"")


def kill_everywhere(folder, task: str, before: bool) -> tuple[int, list[str]]:
  """Kills `task` at its first word, its second, and so on, sweeping each time.

  Call it from a process with one thread: it forks.

  Args:
    folder: an empty folder.
    task: "make" or "remove".
    before: whether an old folder stands in the place.

  Returns:
    How many words there are, and what was found in the place afterwards: "old", "new", "nothing", and "wrong" for
    anything else (debris beside it, or damage).
  """
  place, found, at = pathlib.Path(folder) / "7", set(), 0
  action = {"make": lambda: make(place, b"new"), "remove": lambda: manifest.remove(place)}[task]
  while True:
    if place.exists():
      manifest.remove(place)
    if before:
      make(place, b"old")
    if not _dies(action, at):
      return at, sorted(found)
    manifest.sweep(folder)
    found.add(_outcome(place))
    at += 1


def _outcome(place: pathlib.Path) -> str:
  beside = [path.name for path in place.parent.iterdir()]
  if not beside:
    return "nothing"
  whole = beside == ["7"] and not manifest.damage(place)
  return (place / "deep" / "a").read_text() if whole else "wrong"


def _dies(action: Callable, at: int) -> bool:
  """Runs `action` in a fork that ends without a word of goodbye before its `at`-th word; whether it did."""
  if pid := os.fork():
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
  seen = 0

  def count(event, _):
    nonlocal seen
    if event in _WORDS:
      if seen == at:
        os._exit(9)
      seen += 1

  try:
    sys.addaudithook(count)
    action()
  finally:
    os._exit(0)
