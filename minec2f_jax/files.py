"""Files that are whole or not there, their hashes, and folders held against a second run."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping

from minec2f_jax.errors import UserError

_PARTIAL = ".partial"
_UMASK = os.umask(0)  # Can only be read by setting it, which is no thing to do beside other threads.
os.umask(_UMASK)


def write_bytes(path, *parts: bytes | memoryview):
  """Writes a file such that a kill, a full disk or another writer leaves the old one or the new one, never half of it.

  Args:
    path: of the file.
    *parts: of its content, one behind the other.

  Raises:
    UserError: it cannot be written.
  """
  path, partial = pathlib.Path(path), None
  try:
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
    with open(descriptor, "wb") as file:
      file.writelines(parts)
    os.chmod(partial, 0o666 & ~_UMASK)  # mkstemp lets nobody else read.
    os.replace(partial, path)
  except OSError as error:
    if partial:
      pathlib.Path(partial).unlink(missing_ok=True)
    raise UserError(f"{path}: cannot be written ({error}); make room, or choose another folder") from error


def write_text(path, text: str):
  """`write_bytes` of UTF-8; a file that says so already keeps its date."""
  content = text.encode()
  with contextlib.suppress(OSError):
    if pathlib.Path(path).read_bytes() == content:
      return
  write_bytes(path, content)


def write_json(path, value):
  """`write_text` of JSON, which is the same for the same value; NaN and infinities, which JSON lacks, become null."""
  write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path) -> str:
  """SHA-256 of a file in hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder) -> Iterator[None]:
  """Holds `folder` against other processes of this machine that ask for it, and clears what killed ones left there.

  The lock ends with the process, however it ends. Network file systems may not carry it.

  Raises:
    UserError: another process holds it.
  """
  folder = pathlib.Path(folder)
  with open(folder / ".lock", "a+", encoding="utf-8") as file:
    _lock(file, folder)
    file.truncate(0)
    file.write(f"{os.getpid()}\non {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M')}\n")
    file.flush()
    for left in folder.rglob(f".*{_PARTIAL}"):
      others = any((place / ".lock").exists() for place in left.parents if folder in place.parents)
      if not (left.is_dir() or others):  # Folders that are half made are their makers' matter.
        left.unlink(missing_ok=True)
    yield


@contextlib.contextmanager
def held(folder: pathlib.Path, flag: str) -> Iterator[None]:
  """Makes `folder` and holds it against a second process (`locked`); one in which nothing came to be goes again.

  Args:
    folder: that is written to.
    flag: that named it, for errors, "--workdir" for instance.

  Raises:
    UserError: it cannot be written, or another process holds it.
  """
  with contextlib.ExitStack() as stack:
    try:
      new = not folder.exists()
      folder.mkdir(parents=True, exist_ok=True)
      stack.enter_context(locked(folder))
    except OSError as error:
      raise UserError(f"{flag}={folder} cannot be written: {error}. Give another.") from error
    try:
      yield
    finally:
      if new and [path.name for path in folder.iterdir()] == [".lock"]:
        shutil.rmtree(folder)


def require_free(folder):
  """Raises the UserError of `locked` if another process holds `folder`; writes nothing."""
  with contextlib.suppress(FileNotFoundError), open(pathlib.Path(folder) / ".lock", encoding="utf-8") as file:
    _lock(file, folder)


def _lock(file, folder):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    file.seek(0)
    holder, _, place = file.read().strip().partition("\n")
    raise UserError(
      f"{folder}: process {holder or 'unknown'} is at work there{place and f' ({place})'}; wait for it, or choose "
      "another folder"
    ) from error


def _plain(value):
  if isinstance(value, Mapping):
    return {key: _plain(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(entry) for entry in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
