"""Readings of several workers that take turns, and what is paired out of them."""

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable

from benchmarks import peers
from benchmarks.peers import cases, client

ROUNDS = {"train": 5, "infer": 5, "epoch": 2}
QUICK_ROUNDS = {"train": 2, "infer": 2, "epoch": 1}
_TARGET_S = {"cpu": 2.0, "gpu": 1.0}  # What one reading should last at least.
_PAUSE_S = 0.2  # Until the threads of the one that has just worked stop spinning.
_LARGEST_START, _LARGEST_END = 8, 1024


def measure(case: cases.Case, names, scratch: pathlib.Path, say: Callable[[str], None], *, rounds=ROUNDS) -> dict:
  """{peer: row} of one case; what fails becomes {"failed": why} and disturbs nobody else.

  A row has "cold_s" and "warm_s" (process start to the end of the first train step, with an empty and with a filled
  cache of compiled programs), "parameters", "train", "infer" and "epoch" (seconds a step or epoch, one a round),
  "other_cores" (for each of these, how many cores other processes kept busy during each reading), "memory" and "cost",
  as far as the case asks for them.
  """
  if not case.batch:
    return {name: _largest(case, name, scratch, say) for name in names}
  rows = _together(case, names, scratch, say, rounds)
  crowded = [name for name, row in rows.items() if row.get("out_of_memory") and len(names) > 1]
  for name in crowded:  # It may have been the others' memory.
    rows[name] = {**_together(case, [name], scratch, say, rounds)[name], "alone": True}
  for name in names:
    if "failed" not in rows[name]:
      _restart(case, name, scratch, rows[name], say)
    shutil.rmtree(scratch / case.name / name, ignore_errors=True)
  return rows


def steps_for(seconds: float, device: str) -> int:
  """How many steps a reading takes if one step lasts `seconds`."""
  return max(1, math.ceil(_TARGET_S[device] / max(seconds, 1e-4)))


def paired_ratios(ours: list[float], theirs: list[float]) -> tuple[float, float, float] | None:
  """(median, smallest, largest) of theirs / ours round by round: above 1 ours is faster. None without pairs."""
  ratios = [b / a for a, b in zip(ours, theirs)]
  return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def _together(case: cases.Case, names, scratch: pathlib.Path, say, rounds) -> dict:
  rows = {name: {} for name in names}
  with contextlib.ExitStack() as stack:
    workers = {}
    for name in names:
      say(f"{case.name}: {name} starts")
      with _failures(rows[name]):
        worker = stack.enter_context(_client(case, name, scratch))
        workers[name] = worker
        rows[name] |= _start(worker, case, "cold_s")
    for part in ("train", "infer", "epoch"):
      if part in case.parts:
        _alternate(part, case, workers, rows, say, rounds[part])
    if (ours := workers.get(peers.OURS)) and "failed" not in rows[peers.OURS]:
      with _failures(rows[peers.OURS]):
        rows[peers.OURS]["cost"] = ours.ask("cost")
  return rows


def _alternate(part: str, case: cases.Case, workers: dict, rows: dict, say, rounds: int):
  """Adds {part: readings}; first each worker alone warms up, which also tells how many steps a reading needs."""
  able = {name: worker for name, worker in workers.items() if part in peers.PEERS[name].parts}
  steps, readings, others = {}, {name: [] for name in able}, {name: [] for name in able}
  say(f"{case.name}: {part}, {rounds} rounds of {', '.join(able)}")
  for turn in range(-1, rounds):
    for name, worker in able.items():
      if "failed" in rows[name]:
        continue
      with _failures(rows[name]):
        if turn < 0:
          steps[name] = _warm_up(worker, part, case.device)
        else:
          seconds, foreign = _watched(worker, part, steps[name])
          readings[name].append(seconds)
          others[name].append(foreign)
      time.sleep(_PAUSE_S)
  for name in able:
    rows[name][part] = readings[name]
    rows[name].setdefault("other_cores", {})[part] = others[name]


def _warm_up(worker, part: str, device: str) -> int:
  """Runs whatever still has to be compiled or tried out; returns the steps of a reading."""
  _read(worker, part, 1)
  return 1 if part == "epoch" else steps_for(_read(worker, part, 2), device)


def _read(worker, part: str, steps: int) -> float:
  """Seconds of one step, or of one epoch."""
  if part == "epoch":
    return worker.ask("epoch")["seconds"]
  return worker.ask(part, steps=steps)["seconds"] / steps


def _watched(worker, part: str, steps: int) -> tuple[float, float]:
  """`_read`, and how many cores other processes kept busy meanwhile."""
  own, everyone = worker.load()
  began = time.perf_counter()
  seconds = _read(worker, part, steps)
  elapsed = time.perf_counter() - began
  own, everyone = (after - before for after, before in zip(worker.load(), (own, everyone)))
  return seconds, max(everyone - own, 0.0) / os.sysconf("SC_CLK_TCK") / elapsed


def _restart(case: cases.Case, name: str, scratch: pathlib.Path, row: dict, say):
  """Adds the warm start and the peak memory of train steps, which a compilation before them would hide."""
  if "start" not in case.parts:
    return
  say(f"{case.name}: {name} starts again")
  with _failures(row), _client(case, name, scratch) as worker:
    row |= _start(worker, case, "warm_s")
    worker.ask("train", steps=2)
    row["memory"] = worker.ask("memory")


def _largest(case: cases.Case, name: str, scratch: pathlib.Path, say) -> dict:
  """The row of the largest batch, doubled from 8 on, that trains: each in a process of its own, nobody beside it."""
  row, batch = {"failed": f"not even {_LARGEST_START} images fit"}, _LARGEST_START
  while batch <= _LARGEST_END:
    found, bigger = {}, dataclasses.replace(case, batch=batch, parts=("train",))
    say(f"{case.name}: {name} tries {batch} images")
    with _failures(found), _client(bigger, name, scratch) as worker:
      found |= _start(worker, bigger, "cold_s")
      steps = _warm_up(worker, "train", case.device)
      found |= {"batch": batch, "train": [_read(worker, "train", steps) for _ in range(3)]}
      found["memory"] = worker.ask("memory")
    shutil.rmtree(scratch / bigger.name, ignore_errors=True)
    if "failed" in found:
      return row if found["out_of_memory"] and "batch" in row else found
    row, batch = found, 2 * batch
  return row


def _client(case: cases.Case, name: str, scratch: pathlib.Path) -> client.Client:
  return client.Client(name, device=case.device, cache=scratch / case.name / name)


def _start(worker: client.Client, case: cases.Case, field: str) -> dict:
  """{field: seconds from the start of the process to the end of the first step, "parameters", "versions"}."""
  versions = worker.ask("hello")
  parameters = worker.ask("build", case=dataclasses.asdict(case))["parameters"]
  seconds = time.perf_counter() - worker.began
  if versions["device"] != case.device:
    raise client.WorkerError(f"runs on the {versions['device']}, not on the {case.device}")
  return {field: seconds, "parameters": parameters, "versions": versions}


@contextlib.contextmanager
def _failures(row: dict):
  """Notes in `row` why a worker failed, and goes on."""
  try:
    yield
  except client.WorkerError as error:
    row |= {"failed": str(error), "out_of_memory": error.out_of_memory}
