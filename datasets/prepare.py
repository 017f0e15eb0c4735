"""Prepares a dataset for training: python -m datasets.prepare --dataset=mining_fine --manual_dir=DIR."""

import functools
import os
import shlex

from absl import app, flags

from datasets import command


def define_flags(to: flags.FlagValues):
  """Defines the command's flags; not on import, for other commands have flags of the same names."""
  text = functools.partial(flags.DEFINE_string, flag_values=to)
  switch = functools.partial(flags.DEFINE_boolean, flag_values=to)
  text(
    "dataset", None, "mining_fine, mining_coarse (with a config, as mining_fine/rgb), or mining_demo.", required=True
  )
  text("manual_dir", None, "Folder with index.csv, images/ and masks/.")
  text("data_dir", "data", "Folder under which the dataset is made.")
  text("sensor", "auto", "How images that index.csv says nothing about encode reflectance.")
  switch("skip_broken", False, "Leave out images that cannot be used, instead of stopping.")
  switch("verify", False, "Check the files of a prepared dataset against its manifest.")


def main(argv):
  command.run(_run, argv, name="datasets.prepare", again="starts afresh")


def _run(options):
  _demo(options) if options.dataset.partition("/")[0] == "mining_demo" else _prepare(options)


def _demo(options):
  from datasets import mining_demo
  from minec2f_jax import console
  from minec2f_jax.errors import UserError

  given = [name for name in ("manual_dir", "sensor", "skip_broken", "verify") if options[name].present]
  if given or options.dataset != "mining_demo":
    raise UserError("mining_demo is made from nothing: give no config, and no flag but --data_dir")
  paths = mining_demo.prepare(os.path.expanduser(options.data_dir))
  console.say("To train on it, give launch.py:")
  console.say(shlex.join(f"--config.data.{domain}.path={path}" for domain, path in paths.items()))


def _prepare(options):
  from datasets import preparation
  from minec2f_jax import console
  from minec2f_jax.data import sensors
  from minec2f_jax.errors import UserError

  if options.sensor not in sensors.CHOICES:
    raise UserError(f"--sensor={options.sensor} is unknown; choose one of {', '.join(sensors.CHOICES)}")
  target = preparation.find(options.dataset, options.data_dir)
  if not (options.manual_dir or options.verify):
    raise UserError(
      f"--manual_dir is not set: give the folder that holds index.csv (datasets/{target.builder.name}/README.md)"
    )
  if options.verify:
    preparation.verify(target)
  if options.manual_dir:
    summary = preparation.prepare(target, options.manual_dir, sensor=options.sensor, skip_broken=options.skip_broken)
  else:
    summary = preparation.read_summary(target)
  console.say(preparation.describe(target, summary))


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  app.run(main)
