"""Trains and evaluates MineC2FNet: python launch.py --config=configs/fine_hybrid.py --workdir=DIR."""

import argparse
import functools
import os
import re
import sys
import traceback

from minec2f_jax import host
from minec2f_jax.training import interrupt

if __name__ == "__main__":  # Before the other imports: they take a third of a second, and a signal may come in it.
  host.use_huge_pages()
  interrupt.install("launch.py")

from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from minec2f_jax import flag_errors, map_flags  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. configs/fine_hybrid.py:demo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics, tables and figures.")
_MODE = flags.DEFINE_enum(
  "mode",
  "train",
  ["train", "evaluate", "doctor", "efficiency", "reproduce", "suite", *map_flags.MODES],
  "What to do. train also evaluates at the end; evaluate scores the run in --workdir again, without --config or "
  "--config.NAME=VALUE as it was, else on what they name; doctor looks over a run before it starts; efficiency "
  "measures size and speed of the networks; reproduce trains a finished one again and compares (--config only if its "
  "data have moved); suite trains all rows of a table (configs/suites/) and writes it. After training: predict maps "
  "scenes; vectorize makes polygons with areas of maps, and compares two of them; quicklook draws a map; sample draws "
  "points of a map to be labelled, and area estimates the mines' area from them; export writes a model for other "
  "programs.",
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "Folder for what is written. For evaluate: needed where the data are not those of the run in --workdir.",
)
_PREDICTIONS = flags.DEFINE_bool(
  "predictions", False, "For train and evaluate: also write every test image's probability map, as a GeoTIFF."
)
_CACHE = flags.DEFINE_string(
  "compilation_cache", "~/.cache/minec2f_jax/xla", "Folder of compiled programs, shared by all runs; empty = off."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address",
  None,
  "To train with several processes, on one host or on many: host:port of the first one, the same for all; auto: the "
  "cluster tells (Slurm, Open MPI, Kubernetes, Cloud TPU).",
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", lower_bound=0)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells at length of every save.
  import jax  # After the flags: --help need not start it.

  from minec2f_jax import console, devices, experiment
  from minec2f_jax.errors import UserError
  from minec2f_jax.experiment import doctor, efficiency, map_modes, reproduce, suite

  cache = os.path.expanduser(_CACHE.value)
  if os.path.isfile(cache):
    console.say(f"--compilation_cache={_CACHE.value} is a file: nothing is kept for the next start")
    cache = ""
  if cache:
    jax.config.update("jax_compilation_cache_dir", cache)
  try:
    if _COORDINATOR.value:
      devices.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
      if not devices.is_first():
        console.mute()
    programs = cache and f"{cache}/programs"
    if _MODE.value in map_flags.MODES:
      map_modes.run(_MODE.value, _CONFIG.value, map_flags.given(_MODE.value), cache=programs)
      return
    run = {
      "train": functools.partial(experiment.train, predictions=_PREDICTIONS.value),
      "evaluate": functools.partial(
        experiment.evaluate, output=_OUTPUT.value and _absolute(_OUTPUT.value), predictions=_PREDICTIONS.value
      ),
      "efficiency": efficiency.run_efficiency,
      "suite": suite.run_suite,
      "doctor": lambda config, workdir, cache: doctor.doctor(config, workdir),
      "reproduce": lambda config, workdir, cache: reproduce.reproduce(workdir, config, cache=cache),
    }[_MODE.value]
    run(_CONFIG.value, _absolute(_WORKDIR.value), cache=programs)
  except (UserError, FloatingPointError) as error:
    _leave_at_once(1, str(error)) if _COORDINATOR.value else sys.exit(f"launch.py: {error}")
  except jax.errors.JaxRuntimeError as error:
    what = flag_errors.line(error)
    if "RESOURCE_EXHAUSTED" in what:
      _leave_at_once(1, f"a device has too little memory ({what}); try a smaller --config.data.batch_size.")
    if not _COORDINATOR.value:
      raise
    _leave_at_once(1, f"another process is gone ({what}); start all again, and they go on from what is saved.")
  except Exception:
    if not _COORDINATOR.value:
      raise
    _leave_at_once(1, traceback.format_exc())
  except interrupt.Interrupted as error:
    devices.leave()
    # Threads may be at work on a validation that nobody waits for.
    _leave_at_once(128 + error.signum, f"interrupted; the same command goes on {error.place}.")


def _leave_at_once(status: int, message: str):
  """Ends this process without waiting for the others of its run, which may wait for it."""
  sys.stdout.flush()
  sys.stderr.write(f"launch.py: {message}\n")
  sys.stderr.flush()
  os._exit(status)


def _absolute(path: str) -> str:
  return os.path.abspath(os.path.expanduser(path))


def _add_noted_config(argv):
  """Lets --config.NAME=VALUE change what a run has noted, where it is to be evaluated and no --config is given."""
  given = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
  for name in ("mode", "workdir", "checkpoint", "config"):
    given.add_argument(f"-{name}", f"--{name}")
  try:
    found, others = given.parse_known_args(argv[1:])
  except argparse.ArgumentError:  # A flag without a value; the real parser says so.
    return
  overrides = [text for text in others if re.match("--?(no)?config[.]", text)]
  run = {"evaluate": found.workdir, **dict.fromkeys(("predict", "export"), found.checkpoint)}.get(found.mode)
  if run and not found.config and overrides:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "minec2f_jax", "experiment", "noted.py")
    argv.insert(1, f"--config={path}:{run}")


def _parse_flags(argv):
  try:
    _add_noted_config(argv)
    left = flags.FLAGS(argv)
    getattr(_CONFIG.value, "seed", None)  # A file that could not be loaded says so at its first use.
  except Exception as error:  # Of absl, of ml_collections, or of the config's own code, which may raise anything.
    sys.exit(f"launch.py: {flag_errors.explain(error, argv)}")
  if fault := map_flags.fault(_MODE.value) or _fault_in_flags() or _in_several_processes():
    sys.exit(f"launch.py: {fault}")
  return left


def _fault_in_flags() -> str:
  """What is wrong with the flags of this file; "" if nothing is."""
  mode, config = _MODE.value, _CONFIG.value
  if config is not None and not isinstance(config, ConfigDict):
    return f"the config is a {type(config).__name__}: let get_config() return a ConfigDict."
  if _PREDICTIONS.value and mode not in ("train", "evaluate"):
    return f"--mode={mode} makes no predictions: leave out --predictions."
  if mode in map_flags.MODES:
    return f"--workdir is not for --mode={mode}; leave it out." if _WORKDIR.value is not None else ""
  if config is None and mode not in ("evaluate", "reproduce"):
    return f"--mode={mode} needs --config, e.g. --config=configs/fine_hybrid.py."
  if not _WORKDIR.value:
    return f"--workdir is {'missing' if _WORKDIR.value is None else 'empty'}: give a folder."
  if _OUTPUT.value is not None and mode != "evaluate":
    return f"--output is not for --mode={mode}, which writes into --workdir."
  return ""


def _in_several_processes() -> str:
  """What is wrong with the flags for them; "" if nothing is."""
  given = (_PROCESSES.value is not None, _PROCESS.value is not None)
  if _COORDINATOR.value is None:
    return "--num_processes and --process_id need --coordinator_address=HOST:PORT." if any(given) else ""
  if _MODE.value != "train":
    return f"--mode={_MODE.value} runs in one process: leave out --coordinator_address."
  if _COORDINATOR.value == "auto":
    return (
      "--coordinator_address=auto finds out --num_processes and --process_id: leave them out." if any(given) else ""
    )
  if not all(given):
    return f"--coordinator_address={_COORDINATOR.value} needs --num_processes and --process_id, too."
  if _PROCESS.value >= _PROCESSES.value:
    return f"--process_id={_PROCESS.value}: of {_PROCESSES.value} processes the last is {_PROCESSES.value - 1}."
  return ""


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
