"""Where whole runs are put at risk: data, a config, and one run that nobody disturbs to hold the others against."""

import pathlib
from typing import NamedTuple

from configs import fine_hybrid
from tests import toy_folder
from tests.faults import lives, marks

LIMIT_S = 600.0  # More than any run takes: who is at work for longer hangs.
_CONFIG = """
import pathlib
from tests.faults import sites
get_config = lambda: sites.{kind}_config(pathlib.Path({folder!r}))
"""
_SETTINGS = {
  "demo": {"JAX_PLATFORMS": "cpu"},
  "toy": {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  },
}


class Site(NamedTuple):
  """A folder with all that runs need; they differ in their workdirs alone."""

  folder: pathlib.Path
  kind: str
  first: lives.Life  # compiled all that the others find
  whole: lives.Life  # nobody disturbed it; its workdir is whole

  def start(self, name: str, *flags: str, before=()) -> lives.Life:
    """Starts launch.py in the workdir `name`, with more `flags`, at the end of the command `before`."""
    return _start(self.folder, self.kind, name, *flags, before=before)


def _start(folder: pathlib.Path, kind: str, name: str, *flags: str, before=()) -> lives.Life:
  arguments = [f"--config={folder / 'config.py'}", f"--workdir={folder / name}"]
  arguments += [f"--compilation_cache={folder / 'cache'}", *flags]
  return lives.Life(arguments, settings=_SETTINGS[kind], before=before)


def demo_config(folder: pathlib.Path):
  """The demo of the paper's run, some epochs a stage; imported by a run's config file, it marks the run, too."""
  marks.install()
  config = fine_hybrid.get_config("demo")
  config.data.data_dir = str(folder / "data")
  config.coarse.epochs = config.fine.epochs = 3
  config.optimizer.plateau_patience = 1  # The learning rate falls, if ever, in so few epochs.
  return config


def toy_config(folder: pathlib.Path):
  """Task 1 at toy size; marked as the demo's."""
  marks.install()
  config = toy_folder.run_config(folder / "data")
  config.stages, config.coarse.epochs, config.optimizer.plateau_patience = ("coarse",), 12, 1
  return config


def make_site(folder, kind: str) -> Site:
  """Writes the data and runs once; the demo twice, as whoever compiles is slow to be a measure of moments.

  Args:
    folder: an empty folder.
    kind: "demo", or "toy" (a network of a few hundred parameters, one stage).

  Raises:
    RuntimeError: a run that nobody disturbs fails.
  """
  folder = pathlib.Path(folder).absolute()
  if kind == "toy":
    toy_folder.write_folder(folder / "data")
  (folder / "config.py").write_text(_CONFIG.format(kind=kind, folder=str(folder)))
  first = _start(folder, kind, "whole")
  _hear(first)
  if kind == "toy":
    return Site(folder, kind, first, first)
  (folder / "whole").rename(folder / "first")
  whole = _start(folder, kind, "whole")
  _hear(whole)
  return Site(folder, kind, first, whole)


def _hear(life: lives.Life):
  if life.hear(limit_s=LIMIT_S):
    raise RuntimeError(f"a run that nobody disturbed ended with status {life.status}: {life.errors}")
