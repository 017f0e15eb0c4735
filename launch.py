"""Trains and evaluates MineC2FNet: python launch.py --config=configs/fine_hybrid.py --workdir=DIR."""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

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
  except KeyboardInterrupt:
    sys.exit("\nlaunch.py: interrupted; the same command goes on from the last finished epoch.")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)
