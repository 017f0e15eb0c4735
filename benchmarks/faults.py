"""The fault suite: does the bad thing to saves, checkpoints, configs and whole runs, and counts what becomes of it.

Command:  python -m benchmarks.faults [--quick] [--only=kills,flips] [--out=FILE.json]

Runs are those of launch.py on the embedded demo data, struck at random moments and held, bit by bit, against one that
nobody disturbed. Prints a table, writes benchmarks/results/DATE_faults.json, and ends with status 1 if anything went
wrong, which it tells. 25 minutes on two cores; --quick (runs at toy size, few strikes of each kind) three.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

from absl import app, flags, logging

from benchmarks import record
from minec2f_jax import console, files
from minec2f_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Row:
  """What became of one kind of fault."""

  fault: str
  struck: int
  means: str  # what it is to go well
  wrong: list[str]
  figures: str = ""

  @property
  def well(self) -> int:
    return max(self.struck - len(self.wrong), 0)


class Scratch:
  """A folder for one round of the suite, and the sites in it, each made when it is first needed."""

  def __init__(self, folder, *, quick: bool):
    self._folder, self._sites, self.quick = pathlib.Path(folder), {}, quick

  def folder(self, name: str) -> pathlib.Path:
    (path := self._folder / name).mkdir()
    return path

  def site(self, kind: str):
    """The site of that kind, see `tests.faults.sites`."""
    from tests.faults import sites

    if kind not in self._sites:
      console.say(f"[{kind}] data, and a run that nobody disturbs ...")
      self._sites[kind] = sites.make_site(self.folder(kind), kind)
      console.say(f"[{kind}] such a run takes {self._sites[kind].whole.seconds:.0f}s")
    return self._sites[kind]

  def runs(self):
    """The site whose runs are struck."""
    return self.site("toy" if self.quick else "demo")


def kills(scratch: Scratch) -> Iterator[Row]:
  """R1, R4: runs killed at any moment, and runs whose latest checkpoint was damaged as well."""
  kinds = ["kill"] * 3 if scratch.quick else ["kill"] * 50
  yield _strike(scratch, "kill -9 of a run", kinds, "goes on from the last complete save, ends with the same bits")
  kinds = ["flip"] if scratch.quick else ["flip"] * 5
  yield _strike(scratch, "kill -9, and a bit flipped", kinds, "takes the checkpoint before, says so, same bits")


def signals(scratch: Scratch) -> Iterator[Row]:
  """R1: runs that are asked to end."""
  for name, kind, status in (("SIGTERM", "term", 143), ("Ctrl-C", "interrupt", 130)):
    kinds = [kind] * (2 if scratch.quick else 10)
    means = f"status {status}, one sentence, goes on from that step, same bits"
    yield _strike(scratch, f"{name} to a run", kinds, means)


def _strike(scratch: Scratch, fault: str, kinds: list[str], means: str) -> Row:
  from tests.faults import run_kills

  site = scratch.runs()
  found = run_kills.strike_runs(site, kinds, title=fault, workers=1 if scratch.quick else 2)
  places = ", ".join(f"{count} in {place}" for place, count in sorted(found["places"].items()))
  figures = f"{found['runs']} runs came through; {places}"
  if found["too_early"]:
    figures += f"; {found['too_early']} came before launch.py listened, and again"
  if found["flipped"]:
    figures += f"; {found['flipped']} checkpoints damaged"
  if kinds[0] == "kill":
    epochs = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in site.whole.epoch_lengths().items())
    figures += f"; lost {found['lost_epochs']} epochs and {found['lost_s']:.1f} s at most (an epoch: {epochs})"
  if kinds[0] in ("term", "interrupt"):
    figures += f"; the slowest left after {found['slowest_s']:.1f} s"
  return Row(fault, found["struck"], means, found["wrong"], figures)


def saves(scratch: Scratch) -> Iterator[Row]:
  """R1: kills of a process that does nothing but save."""
  count = 5 if scratch.quick else 50
  call = f"save_kills.kill_saves({str(scratch.folder('saves'))!r}, kills={count})"
  found = _apart("save_kills", call)
  wrong = [f"{found['wrong']} lives found what should not be there"] * found["wrong"]
  means = "no debris, no checkpoint damaged or lost that was reported"
  yield Row("kill -9 while saving", found["killed"], means, wrong, f"{found['steps']} checkpoints reported")


def calls(scratch: Scratch) -> Iterator[Row]:
  """R1: an end before each call to the file system."""
  tasks = (("make", False, ["new", "nothing"]), ("make", True, ["new", "old"]), ("remove", True, ["nothing", "old"]))
  count, wrong = 0, []
  for number, (task, before, expected) in enumerate(tasks):
    folder = scratch.folder(f"calls{number}")
    words, found = _apart("folder_kills", f"folder_kills.kill_everywhere({str(folder)!r}, {task!r}, {before})")
    count += words
    if found != expected:
      wrong.append(f"{task} {'over an old one' if before else ''}: left {found}, not {expected}")
  yield Row("end before a file-system call", count, "a checkpoint is whole or not there", wrong)


def _apart(module: str, call: str):
  """What `call` gives in a process that has not used JAX, with one thread: it forks."""
  code = f"import json; from tests.faults import {module}; print(json.dumps({call}))"
  result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
  if result.returncode:
    raise RuntimeError(f"{call}: {result.stderr}")
  return json.loads(result.stdout.splitlines()[-1])


def flips(scratch: Scratch) -> Iterator[Row]:
  """R2, R3: damage to every file of a checkpoint."""
  from tests.faults import flips as driver

  found = driver.strike_all(scratch.folder("flips"), flips=50 if scratch.quick else 400)
  struck = found["flip"] + found["truncate"] + found["delete"]
  wrong = [f"{found[kind]} times {kind}" for kind in ("silent", "unnamed") for _ in range(found[kind])]
  figures = f"{found['flip']} bits flipped, {found['truncate']} files cut, {found['delete']} deleted; resumed or used: "
  figures += f"{found.get('resumed_earlier', 0)} took the one before, {found.get('stopped', 0)} stopped"
  yield Row("damage to a checkpoint", struck, "caught, and the file named; never silent", wrong, figures)


def disks(scratch: Scratch) -> Iterator[Row]:
  """R7: full disks, limits, quotas, read-only disks, under saves and under whole runs."""
  from tests.faults import disks as driver

  if reason := driver.cannot_mount():
    yield Row("disks", 0, "one sentence, the last checkpoint intact", [], f"left out: {reason}")
    return
  folder, each = scratch.folder("disks"), 4 if scratch.quick else 25
  found = driver.alone(f"strike_saves({str(folder)!r}, each={each})")
  for fault, counts in found.items():
    note = "the system's answer is injected" if fault == "quota" else ""
    means = "one sentence with the remedy, the last checkpoint intact"
    yield Row(f"{fault}, a save", counts["struck"], means, counts["wrong"], note)
  site = scratch.site("toy")
  rooms = (60_000,) if scratch.quick else (0, 8_000, 60_000, 250_000, 600_000, 1_000_000)
  limits = (20,) if scratch.quick else (1, 20, 50, 100)
  found = driver.alone(f"strike_run({str(site.folder)!r}, 'toy', rooms={rooms}, limits={limits})")
  for fault, counts in found.items():
    means = "status 1, one sentence, checkpoints intact; with room at last the same bits"
    figures = f"{counts['saved']} lives had room enough" if counts["saved"] else ""
    yield Row(f"{fault}, a run", counts["struck"], means, counts["wrong"], figures)


def seconds(scratch: Scratch) -> Iterator[Row]:
  """R20: a second run in a workdir that is held."""
  from tests.faults import second_runs

  runs = 1 if scratch.quick else 5
  found = second_runs.start_seconds(scratch.site("toy"), runs=runs)
  figures = f"the slowest took {found['slowest_s']:.1f} s, its start included"
  yield Row("second run in a workdir", runs, "status 1, names the process at work", found["wrong"], figures)


def restores(scratch: Scratch) -> Iterator[Row]:
  """R6: restoring what does not fit."""
  from tests.faults import differences

  means = "refused, with the name of the array"
  yield _refusals("state or model of another", differences.restore_states(scratch.folder("states")), means)
  means = "refused, with the field and both values"
  yield _refusals("teacher of another", differences.restore_teachers(scratch.folder("teachers")), means)


def _refusals(fault: str, found: dict, means: str) -> Row:
  wrong = found.pop("wrong")
  return Row(fault, sum(found.values()), means, wrong, ", ".join(f"{count} {kind}" for kind, count in found.items()))


def steps(scratch: Scratch) -> Iterator[Row]:
  """R16: batches that are not finite."""
  from tests.faults import bad_steps

  runs = 4 if scratch.quick else 40
  found = bad_steps.poison(scratch.folder("steps"), runs=runs)
  figures = f"{found['finished']} finished with {found['skipped']} steps skipped, {found['stopped']} stopped by three"
  means = "as many skipped as were spoilt; three in a row stop it, samples named, and it can go on"
  yield Row("runs on NaN and infinities", runs, means, found["wrong"], figures)


def configs(scratch: Scratch) -> Iterator[Row]:
  """Configs that are broken, and what a check says of them."""
  from tests.faults import config_fuzz

  parts = [config_fuzz.run(50, seed=seed) for seed in _track(range(2 if scratch.quick else 10), "configs", "x 50")]
  total = {name: sum(part[name] for part in parts) for name in ("mutations", "refused", "legal")}
  figures = f"{total['refused']} refused, {total['legal']} that may be run accepted"
  means = "refused by field and value, no traceback; sound ones accepted"
  yield Row("mutated config", total["mutations"], means, sum((part["wrong"] for part in parts), []), figures)


def _track(items, title: str, unit: str) -> Iterable:
  return console.track(items, total=len(items), title=title, unit=unit)


FAMILIES: dict[str, Callable[[Scratch], Iterator[Row]]] = {
  each.__name__: each for each in (configs, restores, steps, calls, saves, flips, disks, seconds, signals, kills)
}


def select(names: list[str]) -> list[str]:
  """The families that are asked for.

  Raises:
    UserError: there is no such family.
  """
  if unknown := sorted(set(names) - set(FAMILIES)):
    raise UserError(f"--only: there is no {', '.join(unknown)}; choose some of {', '.join(FAMILIES)}")
  return [name for name in FAMILIES if not names or name in names]


def run(names: list[str], scratch: Scratch) -> list[Row]:
  """Runs the families, one after the other; a driver that fails is a fault of its own."""
  rows, began = [], time.monotonic()
  for number, name in enumerate(names, start=1):
    try:
      for row in FAMILIES[name](scratch):
        rows.append(row)
        console.say(f"[{name}] {row.fault}: {row.well} of {row.struck} went well")
    except Exception as error:  # The others are still of interest.
      rows.append(Row(name, 0, "the driver works", [f"{type(error).__name__}: {error}"]))
      console.say(f"[{name}] {rows[-1].wrong[0]}")
    past = time.monotonic() - began
    console.say(f"[suite] {number}/{len(names)} families in {console.duration(past)}")
  return rows


def table(rows: list[Row]) -> str:
  """The rows for a reader, in Markdown."""
  lines = ["| fault | how often | went well | wrong | to go well means | figures |", "|---|---:|---:|---:|---|---|"]
  for row in rows:
    lines.append(f"| {row.fault} | {row.struck} | {row.well} | {len(row.wrong)} | {row.means} | {row.figures} |")
  return "\n".join(lines)


def report(rows: list[Row], took_s: float, *, quick: bool) -> dict:
  """What the JSON file holds."""
  found = {"date": datetime.date.today().isoformat(), "machine": record.machine(), "quick": quick}
  figures = [{**dataclasses.asdict(row), "well": row.well} for row in rows]
  return {**found, "seconds": round(took_s, 1), "wrong": sum(len(row.wrong) for row in rows), "faults": figures}


def record_path() -> pathlib.Path:
  name = f"{datetime.date.today().isoformat()}_faults{'_quick' if flags.FLAGS.quick else ''}.json"
  return pathlib.Path(__file__).parent / "results" / name


def define_flags():
  """For `main`; not where this module is imported: other commands have flags of the same names."""
  flags.DEFINE_bool("quick", False, "Runs at toy size and few strikes, to see whether everything works.")
  flags.DEFINE_list("only", [], "Some of the families; default: all. A wrong name tells them.")
  flags.DEFINE_string("out", None, "The JSON file; default: benchmarks/results/DATE_faults.json.")


def main(argv):
  signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background lets its children ignore it.
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS.quick:  # What tests set, for a quicker compilation of slower programs.
    os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Where the same program gives the same bits.
  logging.set_verbosity(logging.WARNING)  # Orbax tells at length of every save.
  began = time.monotonic()
  try:
    names = select(flags.FLAGS.only)
    with tempfile.TemporaryDirectory() as folder:
      rows = run(names, Scratch(folder, quick=flags.FLAGS.quick))
    path = pathlib.Path(flags.FLAGS.out) if flags.FLAGS.out else record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, report(rows, time.monotonic() - began, quick=flags.FLAGS.quick))
  except UserError as error:
    sys.exit(f"benchmarks.faults: {error}")
  console.say(f"\n{table(rows)}\n\n{console.duration(time.monotonic() - began)}; {path}")
  if wrong := [f"{row.fault}: {text}" for row in rows for text in row.wrong]:
    console.say("\n".join(["", f"{len(wrong)} went wrong:", *wrong]))
    sys.exit(1)


if __name__ == "__main__":
  define_flags()
  app.run(main)
