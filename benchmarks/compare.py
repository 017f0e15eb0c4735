"""minec2f_jax beside PyTorch and Keras 3: train step, inference, epoch, first step, memory, on this machine.

Command:  python -m benchmarks.compare [--quick] [--cases='task2-*'] [--peers=ours,torch] [--minutes=9]

Each implementation runs in a process of its own; they take turns, one computes at a time, and ratios are paired within
the run. Results go to benchmarks/results/DATE_compare_{cpu,gpu}.json after every case. The same command goes on where
it was stopped: a case is not measured again as long as the code stays as it is. Needs torch and keras for their rows
(`pip install torch keras`); without them the table says so. 25 minutes on two cores, --quick (a small network, figures
that mean little) under three.
"""

import dataclasses
import datetime
import fnmatch
import hashlib
import importlib.metadata
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import peers, record
from benchmarks.peers import cases, client, measure, tables
from minec2f_jax import console, files
from minec2f_jax.errors import UserError

_QUICK = flags.DEFINE_bool("quick", False, "A small network and few rounds, to see whether everything runs.")
_CASES = flags.DEFINE_list("cases", [], "Names of cases, or patterns of them as in a shell; default: all.")
_PEERS = flags.DEFINE_list("peers", [], f"Some of {', '.join(peers.PEERS)}; default: what each case calls for.")
_DEVICE = flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu"], "Where to measure.")
_MINUTES = flags.DEFINE_float("minutes", 0.0, "Start no case after so many minutes; 0 = no limit.")
_OUT = flags.DEFINE_string("out", None, "The JSON file; default: benchmarks/results/DATE_compare_DEVICE.json.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "torch", "keras")
# What the figures depend on; a change makes them stale.
SOURCES = ("minec2f_jax", "configs", "benchmarks/peers", "tests/oracles")


def source_digest() -> str:
  """A hash of the code that is measured."""
  digest = hashlib.sha256()
  for path in sorted(path for top in SOURCES for path in (ROOT / top).rglob("*.py")):
    digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()[:16]


def select(every: list[cases.Case], patterns: list[str], chosen: list[str]) -> list[cases.Case]:
  """The cases that match, each with the peers that are asked for.

  Raises:
    UserError: there is no such case or peer.
  """
  if unknown := sorted(set(chosen) - set(peers.PEERS)):
    raise UserError(f"--peers: there is no {', '.join(unknown)}; choose some of {', '.join(peers.PEERS)}")
  if wrong := [p for p in patterns if not any(fnmatch.fnmatch(case.name, p) for case in every)]:
    raise UserError(f"--cases: nothing is called {', '.join(wrong)}; there are {', '.join(c.name for c in every)}")
  matching = [case for case in every if not patterns or any(fnmatch.fnmatch(case.name, p) for p in patterns)]
  return [dataclasses.replace(case, peers=tuple(chosen)) if chosen else case for case in matching]


def sort_out(case: cases.Case) -> tuple[list[str], dict]:
  """(the peers that can be measured, {the others: {"failed": why}})."""
  reasons = {name: peers.PEERS[name].cannot(case) or peers.PEERS[name].missing() for name in case.peers}
  return [name for name, why in reasons.items() if not why], {n: {"failed": why} for n, why in reasons.items() if why}


def is_finished(entry: dict | None, case: cases.Case, able: list[str], digest: str) -> bool:
  """Whether a record's entry answers for the case: measured with this code, in this form, every peer that can be."""
  if not entry or entry["source"] != digest or set(able) - set(entry["measured"]):
    return False
  return dataclasses.replace(cases.from_json(entry["case"]), peers=case.peers) == case


def open_record(path: pathlib.Path, device: str, ceilings) -> dict:
  """What the file holds, or a new record.

  Raises:
    UserError: it comes from another machine.
  """
  machine = record.machine()
  if not path.exists():
    found = {"date": datetime.date.today().isoformat(), "machine": machine, "device": device, "cases": {}}
    return {**found, "versions": versions(), "ceilings": ceilings()}
  found = json.loads(path.read_text())
  if (found["device"], found["machine"], found["versions"]) != (device, machine, versions()):
    raise UserError(f"{path} was measured on another machine, or with other versions; give another --out, or delete it")
  return found


def versions() -> dict:
  found = {}
  for name in LIBRARIES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def run(device: str, path: pathlib.Path, scratch: pathlib.Path) -> dict:
  """Measures what is not measured yet; returns the record, which is also in the file."""
  began, digest = time.monotonic(), source_digest()
  with client.Client(peers.OURS, device=device, cache=scratch / "machine") as probe:
    found = probe.ask("hello")
    todo = select(cases.choose(found["device"], _QUICK.value), _CASES.value, _PEERS.value)
    path = path or record_path(found["device"])
    results = open_record(path, f"{found['device']}: {found['kind']}", lambda: probe.ask("ceilings"))
  for case in todo:
    able, rows = sort_out(case)
    if is_finished(results["cases"].get(case.name), case, able, digest):
      continue
    if _MINUTES.value and time.monotonic() - began > 60 * _MINUTES.value:
      console.say(f"{case.name}: left for the next call, --minutes={_MINUTES.value:g} are over")
      continue
    rounds = measure.QUICK_ROUNDS if _QUICK.value else measure.ROUNDS
    rows = {**measure.measure(case, able, scratch, console.say, rounds=rounds), **rows}
    check_same_network(rows)
    ordered = {name: rows[name] for name in case.peers}
    entry = {"case": dataclasses.asdict(case), "source": digest, "measured": able, "rows": ordered}
    results["cases"][case.name] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, results)
  console.say(f"\n{tables.markdown(results)}\n{path}")
  return results


def check_same_network(rows: dict):
  """Marks as failed whoever trains another number of parameters than ours."""
  expected = rows.get(peers.OURS, {}).get("parameters")
  for row in rows.values():
    found = row.get("parameters", expected)
    if expected and found != expected:
      row["failed"] = f"another network: {found} parameters, not {expected}"


def record_path(device: str) -> pathlib.Path:
  name = f"{datetime.date.today().isoformat()}_compare_{device}{'_quick' if _QUICK.value else ''}.json"
  return pathlib.Path(__file__).parent / "results" / name


def main(argv):
  del argv
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # An exception, so that workers end with this process.
  if not _QUICK.value:  # What tests set, for a quicker compilation of slower programs.
    os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
  try:
    with tempfile.TemporaryDirectory() as scratch:
      run(_DEVICE.value, _OUT.value and pathlib.Path(_OUT.value), pathlib.Path(scratch))
  except (UserError, client.WorkerError) as error:
    sys.exit(f"benchmarks.compare: {error}")


if __name__ == "__main__":
  app.run(main)
