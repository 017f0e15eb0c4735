"""Prepares a dataset for training: python -m datasets.prepare --dataset=mining_fine --manual_dir=DIR."""

import os
import sys

from absl import app, flags, logging

_DATASET = flags.DEFINE_string(
  "dataset", None, "mining_fine, mining_coarse (with a config, as mining_fine/rgb), or mining_demo."
)
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder with index.csv, images/ and masks/.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder under which the dataset is made.")
_SENSOR = flags.DEFINE_string("sensor", "auto", "How images that index.csv says nothing about encode reflectance.")
_SKIP_BROKEN = flags.DEFINE_bool("skip_broken", False, "Leave out images that cannot be used, instead of stopping.")
_VERIFY = flags.DEFINE_bool("verify", False, "Check the files of a prepared dataset against its manifest.")


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # TFDS tells at length of every file.
  from minec2f_jax.errors import UserError  # After the flags: --help need not load TFDS.

  try:
    _demo() if _DATASET.value.partition("/")[0] == "mining_demo" else _prepare()
  except UserError as error:
    sys.exit(f"datasets.prepare: {error}")
  except OSError as error:
    sys.exit(f"datasets.prepare: a file cannot be read or written: {error}; make room, or choose another --data_dir")
  except KeyboardInterrupt:
    sys.stderr.write("\ndatasets.prepare: interrupted; nothing half is left, the same command starts afresh\n")
    sys.exit(130)


def _demo():
  from datasets import mining_demo
  from minec2f_jax import console
  from minec2f_jax.errors import UserError

  given = [flag.name for flag in (_MANUAL_DIR, _SENSOR, _SKIP_BROKEN, _VERIFY) if flag.present]
  if given or _DATASET.value != "mining_demo":
    raise UserError("mining_demo is made from nothing: give no config, and no flag but --data_dir")
  paths = mining_demo.prepare(os.path.expanduser(_DATA_DIR.value))
  console.say("To train on it, give launch.py:")
  console.say(" ".join(f"--config.data.{domain}.path={path}" for domain, path in paths.items()))


def _prepare():
  from datasets import preparation
  from minec2f_jax import console
  from minec2f_jax.data import sensors
  from minec2f_jax.errors import UserError

  if _SENSOR.value not in sensors.CHOICES:
    raise UserError(f"--sensor={_SENSOR.value} is unknown; choose one of {', '.join(sensors.CHOICES)}")
  target = preparation.find(_DATASET.value, _DATA_DIR.value)
  if not (_MANUAL_DIR.value or _VERIFY.value):
    raise UserError(
      f"--manual_dir is not set: give the folder that holds index.csv (datasets/{target.builder.name}/README.md)"
    )
  if _VERIFY.value:
    preparation.verify(target)
  if _MANUAL_DIR.value:
    summary = preparation.prepare(target, _MANUAL_DIR.value, sensor=_SENSOR.value, skip_broken=_SKIP_BROKEN.value)
  else:
    summary = preparation.read_summary(target)
  console.say(preparation.describe(target, summary))


if __name__ == "__main__":
  flags.mark_flag_as_required("dataset")
  app.run(main)
