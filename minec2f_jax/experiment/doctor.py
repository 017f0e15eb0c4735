"""Looks over a run before it starts: what is wrong with it, what it needs and how long it may take."""

import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from minec2f_jax import console, files
from minec2f_jax.data import pipeline
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import estimates, outlook, record
from minec2f_jax.experiment.checks import check_config
from minec2f_jax.experiment.data import open_source, places
from minec2f_jax.experiment.outlook import Finding, Split
from minec2f_jax.experiment.run import check_same_run, load_pretrained
from minec2f_jax.experiment.stages import load_stage, starting, wire
from minec2f_jax.training import checkpoints

_READ = 5  # samples of a split; the first warms the reader up
_NVIDIA = pathlib.Path("/dev/nvidia0")


def doctor(config, workdir):
  """Checks config, devices, data, teacher, weights, disk and memory, and says what the run will take; trains nothing.

  Every finding is said at once, a line each: "ok", "warning" or "error", what, what was found, and a remedy. Nothing is
  written into `workdir`. Missing data of a builder (config.data.*.builder) are made, as the run would.

  Args:
    config: of the run.
    workdir: absolute path of the run's folder; need not exist.

  Raises:
    UserError: something is wrong; the message names all that is, the lines tell more.
  """
  found = []
  for finding in examine(config, pathlib.Path(workdir)):
    console.say(f"{finding.level:<8} {finding.what:<18} {finding.value}{finding.remedy and ': ' + finding.remedy}")
    found.append(finding)
  wrong = list(dict.fromkeys(finding.what for finding in found if finding.level == "error"))
  if wrong:
    raise UserError(f"{workdir}: the run cannot start or cannot end; wrong: {', '.join(wrong)} (see the lines above)")
  console.say(f"nothing is wrong; warnings: {sum(finding.level == 'warning' for finding in found)}")


def examine(config, workdir: pathlib.Path) -> Iterator[Finding]:
  """All findings on a run, what others rest upon first."""
  devices = list(_guarded("devices", _devices))
  yield from devices
  if any(finding.level == "error" for finding in devices):
    return  # Without a device not even a config can be checked.
  faults = [finding for finding in _guarded("config", check_config, config) if finding.level == "error"]
  sound, splits = not faults, {}
  yield from faults or [Finding("ok", "config", f"stages {', '.join(config.stages)}, seed {config.seed}")]
  for what, check, *arguments in (
    ("data", _data, config, splits),
    ("teacher", _teacher, config, workdir),
    ("pretrained", _pretrained, config, workdir),
    ("run", _run, config, workdir),
    ("workdir", _folder, "workdir", workdir),
    ("compilation cache", _cache),
  ):
    yield from _guarded(what, check, *arguments, sound=sound)
  if sound:
    costs = estimates.stage_costs(config, {place: split.images for place, split in splits.items()})
    yield outlook.disk(costs, workdir)
    yield from outlook.memory(config, costs, splits)
    yield from outlook.time(config, costs, splits)


def _guarded(what: str, check: Callable, *arguments, sound: bool = True) -> Iterator[Finding]:
  """The findings of `check`; what it raises as one more. In a config that is not `sound` anything may be missing."""
  try:
    yield from check(*arguments) or ()
  except UserError as error:
    yield Finding("error", what, str(error))
  except Exception as error:
    if sound:
      raise
    yield Finding("warning", what, f"not checked ({type(error).__name__}: {error})", "mend the config first")


def _devices() -> Iterator[Finding]:
  try:
    devices = jax.devices()
  except RuntimeError as error:
    message = " ".join(str(error).split())
    raise UserError(
      f"JAX finds no device ({message}); set JAX_PLATFORMS to what this machine has, or unset it"
    ) from error
  free = outlook.device_memory()
  room = "" if math.isinf(free) else f", {outlook.size(free)} free on the first"
  value = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}{room})"
  if devices[0].platform == "cpu" and _NVIDIA.exists():
    yield Finding("warning", "devices", value, "there is an NVIDIA card; pip install 'minec2f_jax[cuda]' to use it")
  else:
    yield Finding("ok", "devices", value)


def _data(config, splits: dict[tuple[str, str], Split]) -> Iterator[Finding]:
  """One finding for every split, but one alone for all that fail alike; fills `splits`."""
  told = set()
  for domain, split in places(config):
    what = f"{domain} {split}"
    try:
      source = open_source(config, domain, split)
      splits[domain, split], finding = _look_into(what, source, config.data.batch_size)
      yield finding
    except UserError as error:
      if (domain, str(error)) not in told:
        yield Finding("error", what, str(error))
      told.add((domain, str(error)))


def _look_into(what: str, source: pipeline.Source, batch_size: int) -> tuple[Split, Finding]:
  chosen = np.linspace(0, len(source) - 1, min(_READ, len(source))).astype(int).tolist()
  samples, began = [source[chosen[0]]], time.monotonic()
  samples += [source[i] for i in chosen[1:] or chosen]
  rate = (len(samples) - 1) / max(time.monotonic() - began, 1e-9)
  valid, mined = (np.mean([sample[name].mean() for sample in samples]) for name in ("valid", "label"))
  size = pipeline.sample_bytes(source)
  value = (
    f"{len(source)} images, {outlook.size(size)} decoded, one thread reads {rate:.0f} a second; of {len(chosen)} read, "
    f"{valid:.0%} of the pixels valid, {mined:.1%} mine"
  )
  level, remedy = "ok", ""
  if not valid:
    level, remedy = "warning", "no pixel is valid; look at these files' values and labels"
  elif not mined and what.endswith("train"):
    level, remedy = "warning", "a network that sees no mine finds none; look at the labels if that holds for all"
  elif len(source) < batch_size and what.endswith("train"):
    level, remedy = "warning", f"fewer than config.data.batch_size={batch_size}, so that a batch holds some twice"
  return Split(len(source), size, rate), Finding(level, what, value, remedy)


def _teacher(config, workdir: pathlib.Path) -> Iterator[Finding]:
  if config.teacher:
    teacher = load_stage(config, "coarse", wire(config)["coarse"].method, config.teacher)
    record.require_same_teacher(workdir, config, record.model_sha256(teacher))
    yield Finding("ok", "teacher", f"{config.teacher} is whole and fits")


def _pretrained(config, workdir: pathlib.Path) -> Iterator[Finding]:
  names = [name for name in starting(config) if not checkpoints.has_checkpoints(workdir / name)]
  _, encoder = load_pretrained(config, workdir, names)
  if encoder is not None:
    yield Finding("ok", "pretrained", f"{config.pretrained} fits (SHA-256 {encoder.sha256[:12]}...)")
  elif config.pretrained:
    yield Finding("ok", "pretrained", "not read: no stage is left that starts from it")
  elif names:
    yield Finding("ok", "pretrained", f"none; from random weights: {', '.join(names)}")


def _run(config, workdir: pathlib.Path) -> Iterator[Finding]:
  files.require_free(workdir)
  config, _ = load_pretrained(config, workdir, [])
  check_same_run(workdir, config)
  started = [name for name in config.stages if checkpoints.has_checkpoints(workdir / name)]
  for name in started:
    yield from _damage(name, workdir / name)
  ended = [name for name in started if (workdir / name / "finished.json").exists()]
  state = f"goes on; started {', '.join(started)}; finished {', '.join(ended) or 'none'}" if started else "starts anew"
  yield Finding("ok", "run", state)


def _damage(name: str, folder: pathlib.Path) -> Iterator[Finding]:
  faults, steps = checkpoints.damage(folder)
  if faults:
    level = "error" if len(faults) == steps else "warning"
    value = f"of {steps} checkpoints damaged: {'; '.join(faults)}"
    yield Finding(level, f"{name} checkpoints", value, "put the files back from a copy; an older one is taken instead")


def _folder(what: str, path: pathlib.Path) -> Iterator[Finding]:
  """Whether `path` can be written, or made where it does not exist; tries nothing out."""
  there = outlook.nearest(path)
  if not there.is_dir():
    raise UserError(f"{there} is a file, so that {path} cannot be a folder; choose another")
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(f"{there} cannot be written (read-only, or another user's); choose another folder")
  yield Finding("ok", what, f"{path} can be written" if there == path else f"{path} can be made")


def _cache() -> Iterator[Finding]:
  path = jax.config.jax_compilation_cache_dir
  if not path:
    yield Finding("ok", "compilation cache", "off, every start compiles anew")
    return
  try:
    yield from _folder("compilation cache", pathlib.Path(path))
  except UserError as error:  # The run only takes longer.
    yield Finding("warning", "compilation cache", str(error), "give another with --compilation_cache")
