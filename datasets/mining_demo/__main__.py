"""Prepares the demo: python -m datasets.mining_demo --data_dir=DIR; --scenery=DIR writes scenes and outlines to try."""

from absl import app, flags

from datasets import mining_demo

_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder under which mining_demo/ is made.")
_SCENERY = flags.DEFINE_string(
  "scenery", None, "Folder to write scenes/*.tif, coarse.geojson and fine.geojson into, instead of the data set."
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument {argv[1]!r}; there are --data_dir=DIR and --scenery=DIR.")
  if _SCENERY.value:
    from datasets.mining_demo import scenery

    scenery.write_scenery(_SCENERY.value)
    print(f"{_SCENERY.value}: scenes/, coarse.geojson, fine.geojson")
    return
  for name, path in mining_demo.prepare(_DATA_DIR.value).items():
    print(f"{name}: {path}")


if __name__ == "__main__":
  app.run(main)
