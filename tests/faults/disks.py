"""Disks that are full, read-only or cut short, beneath saves and beneath whole runs.

Both functions mount what they need. Call them through `alone`, in a process with mounts of its own, which nobody else
sees and which end with it.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
from unittest import mock

import numpy as np

from minec2f_jax import console
from minec2f_jax.errors import UserError
from minec2f_jax.training import checkpoints, manifest
from tests.faults import lives, run_ends, sites, stage

_UNSHARE = ("unshare", "--mount", "--map-root-user")
_ROOM = 4 << 20  # Bytes of a mounted disk.
_REASONS = {
  "full disk": "No space left on device.*make room",
  "file-size limit": r"File too large.*ulimit -f",
  "quota": "Disk quota exceeded.*make room",
  "read-only disk": "Read-only file system.*make it writable",
}


def cannot_mount() -> str:
  """Why no disk can be mounted here; "" if one can."""
  try:
    result = subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
  except OSError as error:
    return f"no disks can be mounted: {error}"
  return "" if result.returncode == 0 else "this machine lets nobody mount disks"


def alone(call: str) -> dict:
  """What `call`, an expression with functions of this module, gives in a process with mounts of its own."""
  code = f"import json; from tests.faults.disks import *; print(json.dumps({call}))"
  command = [*_UNSHARE, sys.executable, "-c", code]
  result = subprocess.run(command, cwd=lives.ROOT, capture_output=True, text=True, check=False)
  if result.returncode:
    raise RuntimeError(f"{call}: {result.stderr[-2000:]}")  # Orbax is loud about each array that it cannot write.
  return json.loads(result.stdout.splitlines()[-1])


def strike_saves(folder, *, each: int, seed: int = 0) -> dict:
  """Saves a small stage again and again while its disk is in the way.

  Args:
    folder: an empty folder; a small disk is mounted there.
    each: how often each fault strikes; every second time without having asked for room before writing, so that the
      disk's refusal comes in the middle of a save.
    seed: of how much room is left, or how long files may be.

  Returns:
    Fault -> {"struck": saves that were refused, "saved": saves that had room enough, "wrong": a text for each that
    was not told in one sentence with cause and remedy, or that cost what had been saved before}. Quotas are injected:
    the system's answer, without a disk that has one.
  """
  folder, rng = pathlib.Path(folder), np.random.default_rng(seed)
  _mount(folder, "-t", "tmpfs", "-o", f"size={_ROOM}")
  stage.save(folder, [0.1])
  found, step = {}, 1
  for fault, strike in _STRIKES.items():
    counts = found[fault] = {"struck": 0, "saved": 0, "wrong": []}
    for number in range(each):
      step, text = _strike_save(folder, strike, step, number, rng)
      counts["struck" if text else "saved"] += 1
      counts["wrong"] += _wrong(fault, text, folder, step)
  return found


def _strike_save(folder: pathlib.Path, strike, step: int, number: int, rng) -> tuple[int, str]:
  """The latest step on the disk after a save under `strike`, and what was said of it."""
  with contextlib.closing(checkpoints.Checkpoints(folder)) as saver, contextlib.ExitStack() as stack:
    if number % 2:
      stack.enter_context(mock.patch.object(manifest, "reserve"))
    with strike(folder, rng):
      try:
        saver.save(stage.state_at(step + 1), stage.progress_at(step + 1), 1 / (step + 1))
        saver.wait()
      except UserError as error:
        return step, str(error)
      except Exception as error:
        return step, f"TRACEBACK {type(error).__name__}: {error}"
  return step + 1, ""


def _wrong(fault: str, text: str, folder: pathlib.Path, step: int) -> list[str]:
  wrong = []
  if text and ("\n" in text or not re.search(_REASONS[fault], text)):
    wrong.append(f"{fault}: {text}")
  left = run_ends.debris(folder)
  with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saver:
    if left or not stage.is_step(saver.restore_latest(stage.state_at(0)), step):
      wrong.append(f"{fault}: checkpoint {step} is not what it was, or something was left: {left}")
  return wrong


@contextlib.contextmanager
def _full(folder: pathlib.Path, rng):
  """Leaves room for a part of a save, at most."""
  _fill(folder, int(rng.integers(0, 120_000)))
  yield
  (folder / "ballast").unlink()


def _fill(folder: pathlib.Path, room: int):
  """Fills a disk but for `room` bytes."""
  free = os.statvfs(folder)
  (folder / "ballast").write_bytes(bytes(max(free.f_bavail * free.f_frsize - room, 0)))


@contextlib.contextmanager
def _limited(folder: pathlib.Path, rng):
  del folder
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(rng.integers(0, 400)), before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _over_quota(folder: pathlib.Path, rng):
  """The system says so at one of the calls that want room; who never asks meets it at the first folder."""
  del folder
  error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
  answers = iter([None] * int(rng.integers(0, 3)))

  def refuse(*_):
    if next(answers, error):
      raise error

  with mock.patch("os.posix_fallocate", refuse), mock.patch("os.fsync", side_effect=error):
    yield


@contextlib.contextmanager
def _read_only(folder: pathlib.Path, rng):
  del rng
  _mount(folder, "-o", f"remount,ro,size={_ROOM}")
  try:
    yield
  finally:
    _mount(folder, "-o", f"remount,rw,size={_ROOM}")


_STRIKES = {
  "full disk": _full,
  "file-size limit": _limited,
  "quota": _over_quota,
  "read-only disk": _read_only,
}


def _mount(folder: pathlib.Path, *options: str):
  subprocess.run(["mount", *options, "none", str(folder)], check=True)


def strike_run(folder, kind: str, *, rooms, limits) -> dict:
  """One whole run of launch.py whose disk is in the way again and again, and then no more.

  Args:
    folder: of a site (`sites.make_site`).
    kind: of the site.
    rooms: bytes that its disk has left, growing: the run goes on each time until there is no more room.
    limits: the same of file sizes, in kB (ulimit -f).

  Returns:
    Fault -> {"struck": lives that it ended, "saved": lives that had room enough, "wrong": a text for whatever was not
    told in one sentence with status 1, cost a checkpoint, or made the end another}.
  """
  site = sites.Site(pathlib.Path(folder), kind, None, None)
  workdir, found = site.folder / "disk", {}
  workdir.mkdir()
  _mount(workdir, "-t", "tmpfs", "-o", f"size={2 * _ROOM}")
  plan = [("full disk", room) for room in rooms] + [("file-size limit", limit) for limit in limits]
  plan += [("read-only disk", None), ("none", None)]
  for fault, size in plan:
    counts = found.setdefault(fault, {"struck": 0, "saved": 0, "wrong": []})
    life = _live(site, workdir, fault, size)
    counts["saved" if life.status == 0 else "struck"] += 1
    counts["wrong"] += [f"{fault} ({size}), a run: {text}" for text in _wrong_life(life, fault, workdir)]
    console.say(f"[disks under a run] {fault} {'' if size is None else size}: status {life.status}")
  last = found.pop("none")
  different = run_ends.differences(workdir, site.folder / "whole") if last["saved"] else ["it did not end"]
  if different or last["wrong"]:
    found["full disk"]["wrong"].append(f"a run on a disk with room at last: {different} {last['wrong']}")
  return found


def _live(site: sites.Site, workdir: pathlib.Path, fault: str, size: int | None) -> lives.Life:
  before = ("bash", "-c", f'ulimit -f {size}; exec "$@"', "_") if fault == "file-size limit" else ()
  if fault == "full disk":
    _fill(workdir, size)
  with _read_only(workdir, None) if fault == "read-only disk" else contextlib.nullcontext():
    life = site.start(workdir.name, before=before)
    life.hear(limit_s=sites.LIMIT_S)
  (workdir / "ballast").unlink(missing_ok=True)
  return life


def _wrong_life(life: lives.Life, fault: str, workdir: pathlib.Path) -> list[str]:
  wrong = [life.told()] * bool(life.told()) + run_ends.damaged(workdir)
  if life.status not in (0, 1):
    wrong.append(f"status {life.status}: {life.errors}")
  reason = _REASONS.get(fault, "").partition(".*")[0]
  if life.status == 1 and not re.search(reason, life.errors):
    wrong.append(f"the cause is not told: {life.errors.strip()}")
  return wrong
