"""Prepares the demo: python -m datasets.mining_demo --data_dir=DIR; --scenery=DIR writes scenes and outlines to try."""

import functools

from absl import app, flags

from datasets import command
from minec2f_jax import console


def define_flags(to: flags.FlagValues):
  """Defines the command's flags; not on import, for other commands have flags of the same names."""
  text = functools.partial(flags.DEFINE_string, flag_values=to)
  text("data_dir", "data", "Folder under which mining_demo/ is made.")
  scenery = "Folder to write scenes/*.tif, coarse.geojson and fine.geojson into, instead of the data set."
  text("scenery", None, scenery)


def main(argv):
  command.run(_make, argv, name="datasets.mining_demo", again="starts afresh")


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
