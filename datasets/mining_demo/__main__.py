"""Prepares both configs of the demo: python -m datasets.mining_demo --data_dir=DIR."""

from absl import app, flags

from datasets import mining_demo

_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder under which mining_demo/ is made.")


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument {argv[1]!r}; the only option is --data_dir=DIR.")
  for name, path in mining_demo.prepare(_DATA_DIR.value).items():
    print(f"{name}: {path}")


if __name__ == "__main__":
  app.run(main)
