"""The paper's tables as suites: each row a config, what it overrides, and the numbers that the paper prints.

A suite is a ConfigDict with `title` and `rows`; a row holds `label`, `config` (path), `overrides` (nested as the
config is) and `paper` (accuracy, mf1, miou in percent). `resolve` turns a row into its experiment.
"""

import importlib

from ml_collections import ConfigDict

RGB = ("red", "green", "blue")
RGB_NIR = (*RGB, "nir")
RGB_NIR_SWIR = (*RGB_NIR, "swir1", "swir2")

# The plain FPN on the fine set. MineC2FNet without injection and without distillation is the same network with the
# same loss, but would train a teacher that nobody asks.
FINE_ONLY = {"stages": ("fine",), "fine": {"method": "supervised", "init_from_prior": False}}
NO_INJECTION = {"model": {"fusion": {"levels": ()}}}
NO_DISTILLATION = {"distillation": {"selection": "none"}}


def make_row(
  label: str, *overrides: dict, accuracy: float, mf1: float, miou: float, config: str = "configs/fine_hybrid.py"
) -> ConfigDict:
  """A row of a table; later `overrides` win over earlier ones."""
  merged = ConfigDict()
  for override in overrides:
    merged.update(override)
  return ConfigDict(
    dict(label=label, config=config, overrides=merged, paper=dict(accuracy=accuracy, mf1=mf1, miou=miou))
  )


def resolve(row: ConfigDict, arg: str = "") -> ConfigDict:
  """The experiment of `row`; `arg` ("" or "demo") goes to its config."""
  module = importlib.import_module(row.config.removesuffix(".py").replace("/", "."))
  config = module.get_config(arg)
  config.update(row.overrides)
  return config
