"""The finished strips of a map under way, in a folder: a killed map goes on behind the last of them.

plan.json      what decides the map's bytes; strips of another plan are thrown away
STRIP.strip    a line of JSON (plan's hash, rows, SHA-256 of what follows), then the stored probabilities [rows, W],
               deflated; whole or not there
"""

import hashlib
import json
import pathlib
import shutil
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from minec2f_jax import files
from minec2f_jax.errors import UserError

FOLDER = ".partial"
_PLAN = "plan.json"
_LEVEL = 1  # Of deflate: strips are read once.


def hash_of(plan: Mapping) -> str:
  """SHA-256 of plain JSON, whatever the order of its keys."""
  return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


class Strips:
  """The strips of one plan in a folder of their own."""

  def __init__(self, folder, plan: Mapping, *, width: int, dtype: str):
    """Opens the folder, empty but for strips of `plan`.

    Args:
      folder: is made.
      plan: plain JSON.
      width: of the map in pixels.
      dtype: of the stored values.

    Raises:
      UserError: it cannot be written.
    """
    self.folder, self._hash, self._width, self._dtype = pathlib.Path(folder), hash_of(plan), width, np.dtype(dtype)
    self.restarted = self._is_of_another(plan)
    try:
      if self.restarted:
        shutil.rmtree(self.folder)
      self.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f"{self.folder}: cannot be written ({error}); choose another --output") from error
    files.write_json(self.folder / _PLAN, plan)

  def _is_of_another(self, plan: Mapping) -> str:
    """The first field in which the folder's plan is another, "" if it is this one or there is none."""
    if not self.folder.exists():
      return ""
    try:
      found = json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
      here = json.loads(json.dumps(plan))
      return next((key for key in sorted({*found, *here}) if found.get(key) != here.get(key)), "")
    except (OSError, ValueError, TypeError):
      return _PLAN

  def _path(self, index: int) -> pathlib.Path:
    return self.folder / f"{index:06d}.strip"

  def write(self, index: int, stored: np.ndarray):
    """Keeps strip `index`, [h, W]."""
    body = zlib.compress(np.ascontiguousarray(stored), _LEVEL)
    head = {"plan": self._hash, "rows": len(stored), "sha256": hashlib.sha256(body).hexdigest()}
    files.write_bytes(self._path(index), json.dumps(head).encode() + b"\n", body)

  def read(self, index: int) -> np.ndarray | None:
    """Strip `index`, None if it is not there, not whole or of another plan."""
    try:
      line, _, body = self._path(index).read_bytes().partition(b"\n")
      head = json.loads(line)
      if head["plan"] != self._hash or head["sha256"] != hashlib.sha256(body).hexdigest():
        return None
    except (OSError, ValueError, KeyError, TypeError):
      return None
    return np.frombuffer(zlib.decompress(body), self._dtype).reshape(head["rows"], self._width)

  def count(self, total: int) -> int:
    """How many of the first strips are there without a gap."""
    return next((index for index in range(total) if self.read(index) is None), total)

  def blocks(self, total: int, height: int) -> Iterator[np.ndarray]:
    """All rows of the map again, `height` at a time, the last ones maybe fewer; in one array, which is used again.

    Raises:
      UserError: a strip is gone or damaged.
    """
    block, filled = np.empty((height, self._width), self._dtype), 0
    for index in range(total):
      strip = self.read(index)
      if strip is None:
        raise UserError(f"{self._path(index)}: is damaged; the same command makes it again")
      while len(strip):
        some = strip[: height - filled]
        block[filled : filled + len(some)] = some
        filled, strip = filled + len(some), strip[len(some) :]
        if filled == height:
          yield block
          filled = 0
    if filled:
      yield block[:filled]

  def remove(self):
    """Deletes the folder."""
    shutil.rmtree(self.folder, ignore_errors=True)
