"""What the commands of this folder do alike: how they end when something is wrong."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from minec2f_jax.errors import UserError


def run(work: Callable, argv: Sequence[str], *, name: str, again: str, verbosity: int = logging.WARNING):
  """Calls `work(flags.FLAGS)`; what a person can mend ends it with one line and status 1, Ctrl-C with status 130.

  Args:
    work: the command.
    argv: what absl left of the arguments.
    name: how the command is called, stands before every message.
    again: what the same command does after an interruption.
    verbosity: of absl's log, unless --verbosity sets it; libraries are talkative.
  """
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(verbosity)
  try:
    work(flags.FLAGS)
  except UserError as error:
    sys.exit(f"{name}: {error}")
  except OSError as error:  # A full disk, a folder that is not to be written.
    sys.exit(f"{name}: a file cannot be read or written: {error}; make room, or choose another folder")
  except KeyboardInterrupt:
    sys.stderr.write(f"\n{name}: interrupted; the same command {again}\n")
    sys.exit(130)
