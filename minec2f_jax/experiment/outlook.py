"""What a run needs of disk, memory and time beside what there is: findings of the doctor that rest on estimates."""

import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from minec2f_jax import console, devices
from minec2f_jax.experiment import estimates
from minec2f_jax.models import factory

# Python, JAX, and what compilers leave: 1.0 GB with the demo's networks, 1.5 GB with those of full size, on a CPU.
_PROCESS = 1.5e9
_TIGHT = 0.8  # of what there is: to need more is worth a warning


class Finding(NamedTuple):
  """One line of the report."""

  level: str  # "ok", "warning" or "error"
  what: str
  value: str  # what was found
  remedy: str = ""


class Split(NamedTuple):
  """What a look into one split has shown."""

  images: int
  bytes: int  # of all its samples, decoded
  images_per_s: float  # that one thread reads


Places = Mapping[tuple[str, str], Split]  # (domain, split) -> what is known of it
Costs = Mapping[str, estimates.Cost]  # of every stage that is to be trained


def disk(costs: Costs, workdir: pathlib.Path) -> Finding:
  """Room for the checkpoints of all stages, less what lies there already."""
  there = sum(path.stat().st_size for name in costs for path in (workdir / name).rglob("*") if path.is_file())
  need = max(sum(cost.disk_bytes for cost in costs.values()) - there, 0)
  free = shutil.disk_usage(nearest(workdir)).free
  return _compare("disk", need, free, "checkpoints", "make room, or choose another --workdir")


def memory(config, costs: Costs, splits: Places) -> Iterator[Finding]:
  """Room for samples, weights and a step, on the host and, where that is another place, on the device."""
  cached = sum(splits[place].bytes for place in _cached(config, splits))
  at_work = max(cost.state_bytes + cost.frozen_bytes + cost.temporary_bytes for cost in costs.values())
  leaving = max(cost.state_bytes for cost in costs.values())  # A copy on its way to the disk.
  on_cpu, free = jax.default_backend() == "cpu", device_memory()
  room = config.data.cache_gb * 1e9 - cached if on_cpu else free / 2
  held = min(cached, config.data.device_gb * 1e9, room)
  remedy = "give a smaller config.data.batch_size, image_size or {}"
  if on_cpu:
    parts = f"samples {size(cached + held)}, step {size(at_work)}, the program itself {size(_PROCESS)}"
    need = cached + held + at_work + leaving + _PROCESS
    yield _compare("memory", need, host_memory(), parts, remedy.format("cache_gb"))
  else:
    parts = f"samples {size(cached)}, the program itself {size(_PROCESS)}"
    yield _compare("memory", cached + leaving + _PROCESS, host_memory(), parts, remedy.format("cache_gb"))
    parts = f"samples {size(held)}, step {size(at_work)}"
    yield _compare("device memory", held + at_work, free, parts, remedy.format("device_gb"))


def time(config, costs: Costs, splits: Places) -> Iterator[Finding]:
  """How long each stage and all of them may take, after a second of measuring how fast the machine is."""
  dtype = factory.resolve_dtype(config.model.get("dtype", "float32"))
  speed = estimates.measure_speed(dtype)
  rates = f"{speed.flops / 1e9:.0f} GFLOP/s in matrix products of {dtype}, {speed.bytes / 1e9:.0f} GB/s in memory"
  yield Finding("ok", "speed", f"{rates}; a run is taken to reach {estimates.EFFICIENCY:.0%} of these")
  total_s = 0.0
  for name, cost in costs.items():
    if any((stream, "train") not in splits for stream in config[name].streams):
      yield Finding("warning", f"{name} time", "not estimated", "mend the data first")
      continue
    stage_s, finding = _stage_time(config, name, cost, splits, speed)
    total_s += stage_s
    yield finding
  yield Finding("ok", "time", f"about {console.duration(total_s)} at most (estimate), without compiling")


def _stage_time(config, name: str, cost: estimates.Cost, splits: Places, speed) -> tuple[float, Finding]:
  work_s, read_s = estimates.seconds(cost.step, speed, devices=devices.make_mesh(config.data.batch_size).size), 0.0
  for place in ((stream, "train") for stream in config[name].streams):
    if place not in _cached(config, splits):
      threads = max(1, min(config.data.read_threads, os.cpu_count()))
      read_s += config.data.batch_size / (splits[place].images_per_s * threads)
  step_s = max(work_s, read_s)
  stage_s = cost.epochs * (cost.steps_per_epoch * step_s + estimates.seconds(cost.validation, speed))
  value = (
    f"about {console.duration(stage_s)} at most (estimate): {cost.epochs} epochs of {cost.steps_per_epoch} steps, each "
    f"about {step_s:.2g} s for {cost.step.flops / 1e9:.3g} GFLOP"
  )
  if read_s <= work_s:
    return stage_s, Finding("ok", f"{name} time", value)
  remedy = f"a step waits {read_s:.2g} s for its images; pack the set (datasets.prepare), or raise config.data.cache_gb"
  return stage_s, Finding("warning", f"{name} time", value, remedy)


def _cached(config, splits: Places) -> list[tuple[str, str]]:
  """The splits that `open_sources` will decode into memory."""
  chosen, left = [], config.data.cache_gb * 1e9
  for place, split in splits.items():
    if split.bytes <= left:
      chosen.append(place)
      left -= split.bytes
  return chosen


def _compare(what: str, need: float, there: float, parts: str, remedy: str) -> Finding:
  value = f"about {size(need)} needed (estimate: {parts}), {size(there)} free"
  level = "error" if need > there else "warning" if need > _TIGHT * there else "ok"
  return Finding(level, what, value, "" if level == "ok" else remedy)


def size(count: float) -> str:
  """`count` bytes as people write it."""
  if math.isinf(count):
    return "unknown"
  return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def nearest(path: pathlib.Path) -> pathlib.Path:
  """`path`, or the nearest folder above it that exists."""
  return next(there for there in (path, *path.parents) if there.exists())


def device_memory() -> float:
  """Free bytes on the first device; infinite where it does not tell."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)


def host_memory() -> float:
  """Bytes that this process may still take: of the machine, and of its control group; infinite where none tells."""
  free = [math.inf]
  try:
    lines = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
    free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = pathlib.Path("/sys/fs/cgroup")
    free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
  except (OSError, ValueError, KeyError):  # Another system, or no limit ("max").
    pass
  return min(free)
