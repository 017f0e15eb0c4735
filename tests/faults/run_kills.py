"""Strikes whole runs again and again, at any moment of them, and holds their ends against that of one left alone."""

import collections
import dataclasses
import itertools
import pathlib
import queue
import shutil
import signal
from collections.abc import Sequence
from concurrent import futures

import numpy as np

from minec2f_jax import console
from tests.faults import flips, lives, run_ends, sites

# "flip" kills, and then damages the latest checkpoint if there is one before it.
SIGNALS = {"kill": signal.SIGKILL, "flip": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
_GIVE_UP = 3  # failed runs


def strike_runs(
  site: sites.Site,
  kinds: Sequence[str],
  *,
  title: str,
  seed: int = 0,
  phases: Sequence[str] = (),
  per_run: int = 5,
  workers: int = 1,
) -> dict:
  """Strikes runs in `site` once for each of `kinds`, and starts each again until it is through.

  Args:
    site: of the runs.
    kinds: what strikes, of `SIGNALS`. A strike that comes after its run's end is made again in another.
    title: stands before lines of progress, and names workdirs.
    seed: of the moments.
    phases: of `lives.PHASES`, one a strike: the moments are in them; none: half of the moments are anywhere from the
      process' start on, half in a phase drawn at random.
    per_run: a run is left to come through after so many strikes.
    workers: so many runs at a time.

  Returns:
    "struck": how many strikes landed, "places": in which phases; "too_early": signals that came while Python was
    starting, and were sent again; "runs" that came through; "flipped": how many checkpoints were damaged;
    "lost_epochs", "lost_s": the most that a strike cost of what had been trained since the last complete save;
    "slowest_s": the longest from a signal to the end; "wrong": a text for whatever went otherwise than promised (a
    status, a message, a restart that did not go on from the last complete save, other bits at the end, files left).
  """
  plan = _Plan(kinds, phases)
  tallies = [_Tally() for _ in range(workers)]
  with futures.ThreadPoolExecutor(workers) as pool:
    work = [
      pool.submit(_work, site, plan, tally, (seed, n), f"{title} {n}", per_run) for n, tally in enumerate(tallies)
    ]
    for _ in console.track(plan.landings(work), total=len(kinds), unit="strikes", title=title):
      pass
    for one in work:
      one.result()
  most = {name: max(getattr(tally, name) for tally in tallies) for name in ("lost_epochs", "lost_s", "slowest_s")}
  sums = {name: sum(tally.counts[name] for tally in tallies) for name in ("struck", "runs", "flipped", "too_early")}
  places = sum((tally.places for tally in tallies), collections.Counter())
  return {**sums, **most, "places": dict(places), "wrong": sum((tally.wrong for tally in tallies), [])}


class _Plan:
  """Which strikes are still to be made; several workers ask it."""

  def __init__(self, kinds: Sequence[str], phases: Sequence[str]):
    self._todo = collections.deque(itertools.zip_longest(kinds, phases, fillvalue=None))
    self._landed, self._total = queue.Queue(), len(kinds)

  def take(self) -> tuple[str, str | None] | None:
    """The kind and phase of the next strike; None if there is none."""
    try:
      return self._todo.popleft()
    except IndexError:
      return None

  def put_back(self, strike: tuple[str, str | None]):
    self._todo.appendleft(strike)

  def land(self):
    self._landed.put(None)

  def landings(self, work: Sequence[futures.Future]):
    """Yields at every strike that lands; ends when all have, or nobody works on."""
    count = 0
    while count < self._total and not (all(one.done() for one in work) and self._landed.empty()):
      try:
        self._landed.get(timeout=1)
      except queue.Empty:
        continue
      count += 1
      yield count


class _Tally:
  """What one worker has seen."""

  def __init__(self):
    self.counts, self.places, self.wrong = collections.Counter(), collections.Counter(), []
    self.lost_epochs, self.lost_s, self.slowest_s = 0, 0.0, 0.0

  def complain(self, name: str, text: str):
    self.wrong.append(f"{name}: {text}")


@dataclasses.dataclass
class _Outcome:
  """One process of a run when it has ended."""

  life: lives.Life
  workdir: pathlib.Path
  strike: tuple[str, str | None] | None
  found: dict[str, int]  # stage -> its latest checkpoint on the disk
  flipped: pathlib.Path | None = None

  @property
  def landed(self) -> bool:
    """Whether the strike ended it."""
    if self.strike is None or self.life.hung:
      return False
    signum = SIGNALS[self.strike[0]]
    return self.life.status == (-signum if signum == signal.SIGKILL else 128 + signum)

  @property
  def too_early(self) -> bool:
    """Whether a signal that asks came before launch.py listened: nothing had begun, and nothing is lost."""
    signum = self.strike and SIGNALS[self.strike[0]]
    return signum in (signal.SIGTERM, signal.SIGINT) and self.life.status == -signum and not self.life.lines


def _work(site: sites.Site, plan: _Plan, tally: _Tally, seed, name: str, per_run: int):
  """Runs that are struck, one after the other, until all strikes are made."""
  rng = np.random.default_rng(seed)
  for number in itertools.count():
    workdir = site.folder / f"{name} {number}"
    last = _run(site, workdir, plan, tally, per_run, rng)
    if last is None:
      return
    _check_end(site, last, tally)
    if len(tally.wrong) >= _GIVE_UP:
      return


def _run(site, workdir: pathlib.Path, plan: _Plan, tally: _Tally, per_run: int, rng) -> _Outcome | None:
  """The last process of a run, which came through or failed; None if there is nothing left to strike."""
  before, strikes = None, 0
  while True:
    strike = plan.take() if strikes < per_run else None
    if strike is None and before is None:
      return None
    now = _live(site, workdir, strike, rng)
    if before:
      _compare_restart(before, now.life, tally, workdir.name)
    before = now
    if now.landed:
      strikes += 1
      _note_landed(plan, tally, now, rng)
    elif strike:
      plan.put_back(strike)
    if now.too_early:
      tally.counts["too_early"] += 1
      continue
    if told := now.life.told():
      tally.complain(workdir.name, f"{strike and strike[0]} in {now.life.place()}: {told}")
    if not now.landed:
      return now


def _live(site: sites.Site, workdir: pathlib.Path, strike, rng: np.random.Generator) -> _Outcome:
  life = site.start(workdir.name)
  if strike:
    life.strike(SIGNALS[strike[0]], _moment(site.whole, *strike, rng))
  life.hear(limit_s=sites.LIMIT_S)
  return _Outcome(life, workdir, strike, run_ends.steps_on_disk(workdir))


def _moment(whole: lives.Life, kind: str, phase: str | None, rng: np.random.Generator) -> lives.Moment:
  lengths = whole.lengths()
  if kind == "flip":  # After two saves, as a rule.
    return lives.Moment("steps", 3, rng.uniform(0, lengths["steps"]))
  if phase is None and rng.integers(2):
    return lives.Moment("start", 1, rng.uniform(0, whole.seconds))
  phase, nth = (phase, 1) if phase else (rng.choice(sorted(lengths)), rng.integers(1, 3))
  return lives.Moment(str(phase), int(nth), rng.uniform(0, lengths[phase]))


def _note_landed(plan: _Plan, tally: _Tally, now: _Outcome, rng: np.random.Generator):
  plan.land()
  tally.counts["struck"] += 1
  tally.places[now.life.place()] += 1
  tally.slowest_s = max(tally.slowest_s, now.life.ended - now.life.sent_at)
  if now.strike[0] == "flip":
    now.flipped = _flip(now.workdir, rng)
    tally.counts["flipped"] += now.flipped is not None


def _flip(workdir, rng: np.random.Generator):
  """Flips a bit of the latest checkpoint of the stage that is under way, if one before it can take its place."""
  stages = [
    folder for folder in sorted(workdir.glob("*/checkpoints")) if not (folder.parent / "finished.json").exists()
  ]
  steps = sorted(int(path.name) for folder in stages[:1] for path in folder.iterdir() if path.name.isdecimal())
  if len(steps) < 2:
    return None
  path = rng.choice(sorted(path for path in (stages[0] / str(steps[-1])).rglob("*") if path.is_file()))
  flips.strike(path, "flip", rng)
  return path


def _compare_restart(before: _Outcome, life: lives.Life, tally: _Tally, name: str):
  """Whether a restart went on from where it should, and what was lost."""
  said = "".join(line for _, line in life.lines)
  if before.flipped and life.resumed() and not (f"{before.flipped} " in said and "is taken instead" in said):
    tally.complain(name, f"a bit of {before.flipped} was flipped, and nobody said so")
  asked = before.life.interrupted_at()
  for stage, (epoch, step) in life.resumed().items():
    whole = max(before.found.get(stage, 0), before.life.saved().get(stage, 0))
    if step < whole and not before.flipped:
      tally.complain(name, f"{stage} went on from step {step}, not from {whole}, which had been saved")
    if asked and asked[0] == stage and step != asked[1]:
      tally.complain(name, f"{stage} went on from step {step}, not from {asked[1]}, as it had said")
    if not before.flipped and not asked:
      _measure_loss(before.life, stage, epoch, tally)


def _measure_loss(before: lives.Life, stage: str, epoch: int, tally: _Tally):
  over = {number: at for (name, number), at in before.epochs().items() if name == stage}
  starts = [(at, line) for at, line in before.lines if "] compiled in" in line]
  tally.lost_epochs = max(tally.lost_epochs, sum(number > epoch for number in over))
  if starts and starts[-1][1].startswith(f"[{stage}]") and before.place() in ("steps", "validation", "save"):
    kept = max([starts[-1][0], *(at for number, at in over.items() if number <= epoch)])
    tally.lost_s = max(tally.lost_s, round(before.ended - kept, 2))


def _check_end(site: sites.Site, last: _Outcome, tally: _Tally):
  name, life = last.workdir.name, last.life
  if life.status:
    tally.complain(name, f"ended with status {life.status} in {life.place()}: {life.errors.strip()}")
    return
  tally.counts["runs"] += 1
  if left := run_ends.debris(last.workdir):
    tally.complain(name, f"left {left}")
  if different := run_ends.differences(last.workdir, site.folder / "whole"):
    tally.complain(name, f"ended otherwise than the run left alone: {different}")
  if not (left or different):
    shutil.rmtree(last.workdir)
