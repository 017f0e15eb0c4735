"""Prepares the demo: python -m datasets.mining_demo --data_dir=DIR; --scenery=DIR writes scenes and outlines to try."""

import functools
import sys

from absl import app, flags, logging

from minec2f_jax import console
from minec2f_jax.errors import UserError


def define_flags(to: flags.FlagValues):
  """Defines the command's flags; not on import, for other commands have flags of the same names."""
  text = functools.partial(flags.DEFINE_string, flag_values=to)
  text("data_dir", "data", "Folder under which mining_demo/ is made.")
  scenery = "Folder to write scenes/*.tif, coarse.geojson and fine.geojson into, instead of the data set."
  text("scenery", None, scenery)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # TFDS tells at length of every file.
  try:
    _make(flags.FLAGS)
  except UserError as error:
    sys.exit(f"datasets.mining_demo: {error}")
  except (OSError, RuntimeError) as error:  # array_record tells of a full disk by the latter.
    sys.exit(f"datasets.mining_demo: a file cannot be written: {error}; make room, or choose another folder")
  except KeyboardInterrupt:
    sys.stderr.write("\ndatasets.mining_demo: interrupted; the same command starts afresh\n")
    sys.exit(130)


def _make(options):
  if options.scenery:
    from datasets.mining_demo import scenery

    scenery.write_scenery(options.scenery)
    console.say(f"{options.scenery}: scenes/, coarse.geojson, fine.geojson")
    return
  from datasets import mining_demo

  for name, path in mining_demo.prepare(options.data_dir).items():
    console.say(f"{name}: {path}")


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  app.run(main)
