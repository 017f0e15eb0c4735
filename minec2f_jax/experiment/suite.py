"""A suite: the rows of a table at several seeds, each distinct run trained once, and the table that comes of it.

A folder holds teachers/HASH-seedN and rows/ROW/seedN, each a run as `run.train` leaves it, and suite.json with the
table's files, written anew after each run: a suite that is interrupted has its table, and the same command goes on.
suite.json alone is enough to keep results: what it holds of the same experiment is not trained again, and a later
suite of more rows or seeds adds to it. To train again, delete it with the runs.

All runs share one process: data that rows have in common are read once, and a GPU starts once. A run that ends in an
error of the user's is told and left out; the others go on. What ends the process leaves the runs before it whole.
"""

import gc
import os
import pathlib
import time

import jax
from ml_collections import ConfigDict

from minec2f_jax import console, files, host
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import suite_table
from minec2f_jax.experiment import run, suite_record
from minec2f_jax.experiment.data import open_sources, places
from minec2f_jax.experiment.suite_plan import Job, check_suite, fingerprint, finished, plan, row_config

__all__ = ["Job", "check_suite", "finished", "plan", "row_config", "run_suite"]


def run_suite(config: ConfigDict, workdir, *, cache=None):
  """Trains what of the suite is not finished yet, and writes its table into `workdir`.

  Args:
    config: of `configs.suites.make_suite`.
    workdir: folder of the suite.
    cache: as of `run.train`.

  Raises:
    UserError: before anything starts: the suite or a row's config is faulty, `workdir` holds runs of another, or
      another process is at work there; after all others: the runs that failed, with what they said.
  """
  check_suite(config)
  workdir = pathlib.Path(workdir)
  with files.held(workdir, "--workdir"):
    jobs, kept = plan(config, workdir), suite_record.read(workdir)
    todo = _unfinished(jobs, kept)
    for job in todo:
      run.check_same_run(job.folder, job.config)
    failed = {}
    _write(config, workdir, jobs, kept, failed)
    console.say(f"[suite] {config.title}: {len(jobs)} runs, {len(todo)} of them to train")
    if known := [job for job in jobs if fingerprint(job.config) in kept and not finished(job)]:
      console.say(f"[suite] {len(known)} are known from suite.json alone; delete it to train them again")
    _run_all(config, todo, cache, kept, failed, after=lambda: _write(config, workdir, jobs, kept, failed))
  console.say(f"\n{(workdir / 'table.md').read_text()}\nThe table (md, csv, tex, png) and suite.json are in {workdir}")
  if failed:
    told = "; ".join(f"{folder.relative_to(workdir)}: {message}" for folder, message in failed.items())
    raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {told}")


def _unfinished(jobs: list[Job], kept: dict[str, dict]) -> list[Job]:
  """What is to be trained, in order; a teacher whose results are known only where a row is to learn from it."""
  missing = {job.folder: job for job in jobs if not finished(job)}
  todo = {folder for folder, job in missing.items() if job.rows and fingerprint(job.config) not in kept}
  asked = {pathlib.Path(missing[folder].config.teacher or "") for folder in todo}
  return [job for folder, job in missing.items() if folder in todo | asked]


def _run_all(config: ConfigDict, jobs: list[Job], cache, kept: dict, failed: dict, after):
  opened, began, lost = _Opened(), time.monotonic(), set()
  for number, job in enumerate(jobs):
    left = f", {console.duration((time.monotonic() - began) / number * (len(jobs) - number))} left" if number else ""
    title = f"{' = '.join(config.rows[name].label for name in job.rows) or 'teacher'}, seed {job.seed}"
    console.say(f"\n[suite] run {number + 1} of {len(jobs)}: {title}{left}")
    started = time.monotonic()
    try:
      if job.config.teacher in lost:
        raise UserError(f"its teacher {job.config.teacher} failed")
      run.train(job.config, job.folder, cache=cache, opener=opened)
      # Of the session that came to the end, starting and compiling included.
      key = fingerprint(job.config)
      kept[key] = {"results": None, **kept.get(key, {}), "seconds": round(time.monotonic() - started, 1)}
    except (UserError, FloatingPointError) as error:
      console.say(f"[suite] {title} failed: {error}")
      failed[job.folder] = str(error)
      lost.add(str(job.folder))
    after()
    jax.clear_caches()
    gc.collect()
    host.give_back_memory()


class _Opened:
  """`open_sources` that remembers what it opened last: neighbouring rows mostly learn from the same data."""

  def __init__(self):
    self._key = self._sources = None

  def __call__(self, config: ConfigDict):
    drawn = config.seed if any(config.data[name].coarsen_gsd_m for name in ("coarse", "fine")) else None
    key = (config.data.to_json_best_effort(), drawn, places(config))
    if key != self._key:
      self._key = self._sources = None  # Both at once may not fit.
      self._key, self._sources = key, open_sources(config)
    return self._sources


def _write(config: ConfigDict, workdir: pathlib.Path, jobs: list[Job], kept: dict, failed: dict):
  """suite.json, all that is known of every run, and the table of it."""
  suite = suite_record.gather(config, workdir, jobs, kept, failed)
  suite_record.write(suite, workdir)
  for name, text in suite_table.texts(suite).items():
    files.write_text(workdir / name, text)
  suite_table.draw(suite, partial := workdir / ".table.png")
  os.replace(partial, workdir / "table.png")
