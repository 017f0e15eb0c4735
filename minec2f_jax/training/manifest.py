"""Folders that are whole or not there: a manifest, written last, names every file, its size and its SHA-256.

A folder is made beside its place as `.NAME.partial`, brought to the disk and renamed, so that one without a dot is
whole unless something damaged it later. A kill leaves only names with a dot, and `sweep` removes them.

The manifest is sealed: it carries the hash of its content, and its bytes must be those that `seal` writes for that
content. A flipped bit in the content misses the hash, one in the hash misses the content, one in a blank the bytes.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence

from minec2f_jax import files
from minec2f_jax.errors import UserError

NAME = "manifest.json"
_PARTIAL, _REPLACED, _REMOVED = ".partial", ".replaced", ".removed"
_REMEDIES = {
  **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
  **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable"),
  **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "remove the file that stands where a folder should"),
  errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}


class CheckpointError(UserError):
  """A checkpoint that is absent, damaged, cannot be written, or does not fit the model which should take it."""


class DamagedError(CheckpointError):
  """A sealed file that is absent or not as it was written."""


def seal(content: dict) -> bytes:
  """JSON of `content` with its own hash; read by `unseal`."""
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
  return (json.dumps({"content": content, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def unseal(path) -> dict:
  """The content that `seal` got.

  Raises:
    DamagedError: the file cannot be read, or any bit of it has changed.
  """
  try:
    raw = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise DamagedError(f"{path} cannot be read ({error.strerror})") from error
  try:
    content = json.loads(raw)["content"]
    sealed = isinstance(content, dict) and seal(content) == raw
  except (ValueError, KeyError, TypeError, RecursionError):
    sealed = False
  if not sealed:
    raise DamagedError(f"{path} is not as it was written")
  return content


def damage(folder) -> list[str]:
  """What is wrong with `folder`, a phrase a file, naming it; empty if every bit is as `made` left it.

  Costs one reading of every file (SHA-256 runs at some 1.5 GB/s). Files that the manifest lacks do not count.
  """
  return _faults(pathlib.Path(folder), hashes=True)


def looks_whole(folder) -> bool:
  """Whether the manifest is whole and the files have their sizes: the cheap part of `damage`."""
  return not _faults(pathlib.Path(folder), hashes=False)


def _faults(folder: pathlib.Path, *, hashes: bool) -> list[str]:
  try:
    entries = unseal(folder / NAME)["files"]
  except DamagedError as error:
    return [str(error)]
  return [fault for name in sorted(entries) if (fault := _fault(folder / name, entries[name], hashes))]


def _fault(path: pathlib.Path, entry: dict, hashes: bool) -> str:
  try:
    size = path.stat().st_size
    if size != entry["bytes"]:
      return f"{path} has {size} bytes where {entry['bytes']} were written"
    if hashes and files.sha256(path) != entry["sha256"]:
      return f"{path} has another SHA-256 than what was written"
  except OSError as error:
    return f"{path} cannot be read ({error.strerror})"
  return ""


@contextlib.contextmanager
def made(folder, note: dict) -> Iterator[pathlib.Path]:
  """Yields an empty folder to fill, which takes `folder`'s place with a manifest; or none of it, on any error.

  A kill leaves what stood there before, once `sweep` has been called, or the new one.

  Args:
    folder: the place; what stands there is replaced.
    note: plain JSON that the manifest holds beside the entry "files".
  """
  folder = pathlib.Path(folder)
  partial = _beside(folder, _PARTIAL)
  try:
    _discard(partial)
    partial.mkdir()
    yield partial
    _write_manifest(partial, note)
    _put(partial, folder)
  except BaseException:
    with contextlib.suppress(OSError):
      sweep(folder.parent)
    raise


def remove(folder):
  """Removes a folder such that a kill leaves all of it or none of it under its name."""
  folder = pathlib.Path(folder)
  gone = _beside(folder, _REMOVED)
  _discard(gone)
  folder.rename(gone)
  _discard(gone)


def sweep(parent):
  """Removes what killed or failed `made` and `remove` left in `parent`, and puts back what they had moved aside."""
  for path in sorted(pathlib.Path(parent).glob(".*")):
    if path.suffix == _REPLACED and not (place := path.with_name(path.stem[1:])).exists():
      path.rename(place)
    elif path.suffix in (_PARTIAL, _REPLACED, _REMOVED):
      _discard(path)


def reserve(folder, sizes: Sequence[int]):
  """Asks the system for room for files of `sizes` bytes at once, and gives it back.

  Raises:
    OSError: there is none, or no file may be that long.
  """
  if not hasattr(os, "posix_fallocate"):  # macOS: the writing itself will tell.
    return
  paths = [pathlib.Path(folder) / f"room{number}" for number in range(len(sizes))]
  try:
    for path, size in zip(paths, sizes):
      with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
  finally:
    for path in paths:
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def told(place, after: str) -> Iterator[None]:
  """Turns what the system refuses, inside or through tensorstore, into one sentence.

  Args:
    place: what is being written.
    after: what to do once the cause is mended; it follows "make room, ".

  Raises:
    CheckpointError: names `place`, the system's reason and the remedy. Errors of other kinds pass.
  """
  try:
    yield
  except (OSError, ValueError) as error:  # Tensorstore raises ValueErrors that quote the system's number.
    found = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number is None:
      raise
    remedy = _REMEDIES.get(number, "mend the disk")
    raise CheckpointError(f"{place} cannot be written ({os.strerror(number)}): {remedy}, {after}.") from error


def _write_manifest(folder: pathlib.Path, note: dict):
  everything = sorted(folder.rglob("*"))
  entries = {
    path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    for path in everything
    if path.is_file()
  }
  (folder / NAME).write_bytes(seal({**note, "files": entries}))
  for path in (*everything, folder / NAME, folder):
    _sync(path)


def _put(partial: pathlib.Path, folder: pathlib.Path):
  old = _beside(folder, _REPLACED)
  if folder.exists():
    folder.rename(old)
  partial.rename(folder)
  _sync(folder.parent)
  if old.exists():
    gone = _beside(folder, _REMOVED)  # Under a name that `sweep` never puts back, however little of it is left.
    _discard(gone)
    old.rename(gone)
    _discard(gone)


def _beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
  return path.with_name(f".{path.name}{suffix}")


def _discard(path: pathlib.Path):
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def _sync(path: pathlib.Path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError:
    if not path.is_dir():  # Some network file systems cannot sync a folder.
      raise
  finally:
    os.close(descriptor)
