"""Trains and evaluates MineC2FNet: python launch.py --config=configs/fine_hybrid.py --workdir=DIR."""

import os
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from minec2f_jax import host

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. configs/fine_hybrid.py:demo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics, tables and figures.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do; train also evaluates at the end.")
_CACHE = flags.DEFINE_string(
  "compilation_cache", "~/.cache/minec2f_jax/xla", "Folder of compiled programs, shared by all runs; empty = off."
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells at length of every save.
  import jax  # After the flags: --help need not start it.

  from minec2f_jax import experiment
  from minec2f_jax.errors import UserError

  if _CACHE.value:
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(_CACHE.value))
  try:
    run = {"train": experiment.train, "evaluate": experiment.evaluate}[_MODE.value]
    run(_CONFIG.value, os.path.abspath(os.path.expanduser(_WORKDIR.value)))
  except (UserError, FloatingPointError) as error:
    sys.exit(f"launch.py: {error}")


def _parse_flags(argv):
  try:
    left = flags.FLAGS(argv)
    getattr(_CONFIG.value, "seed", None)  # A file that could not be loaded says so at its first use.
    return left
  except (flags.Error, AttributeError, KeyError, OSError) as error:  # No such config or field, a value of another type.
    message = str(error.args[0] if error.args else error)
    if "Traceback" in message:  # An exception in the config's own code: its last line says what.
      message = f"the config file cannot be loaded: {message.strip().splitlines()[-1]}"
    sys.exit(f"launch.py: {message}")


def _stop(signum, frame):
  """Ends the process at once. Checkpoints are written beside their place and renamed, so none can be half."""
  del frame
  # Not an exception: raised inside a callback of a library it would be swallowed, and the run would go on.
  os.write(2, b"\nlaunch.py: interrupted; the same command goes on from the last saved epoch.\n")
  os._exit(128 + signum)


if __name__ == "__main__":
  host.use_huge_pages()
  signal.signal(signal.SIGINT, _stop)
  signal.signal(signal.SIGTERM, _stop)
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=_parse_flags)
