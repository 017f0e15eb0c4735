"""The paper's tables as suites: what all rows share, each row's overrides, and the numbers that the paper prints.

Command:  python launch.py --mode=suite --config=configs/suites/table4.py --workdir=runs/table4 \
              --config.base.data.coarse.path=COARSE --config.base.data.fine.path=FINE
No data:  python launch.py --mode=suite --config=configs/suites/table4.py:demo --workdir=runs/table4_demo

A suite is a ConfigDict with `title`, `seeds` (each row is trained with each), `base` (the experiment that all rows
start from; --config.base.* reaches them all), `rows`, and `order` (of the rows; those left out are not trained). A row
holds `label`, `overrides` (nested as the base is; they win over it) and `paper` (accuracy, mf1, miou in percent).
"""

from ml_collections import ConfigDict

from configs import fine_hybrid

RGB = ("red", "green", "blue")
RGB_NIR = (*RGB, "nir")
RGB_NIR_SWIR = (*RGB_NIR, "swir1", "swir2")

# The plain FPN on the fine set. MineC2FNet without injection and without distillation is the same network with the
# same loss, but would train a teacher that nobody asks.
FINE_ONLY = {"stages": ("fine",), "fine": {"method": "supervised", "init_from_prior": False}}
NO_INJECTION = {"model": {"fusion": {"levels": ()}}}
NO_DISTILLATION = {"distillation": {"selection": "none"}}


def make_suite(title: str, rows: dict[str, ConfigDict], arg: str = "") -> ConfigDict:
  """A suite of `rows` on `configs/fine_hybrid.py`; `arg` as there, "" or "demo"."""
  return ConfigDict(dict(title=title, seeds=(0, 1, 2), base=fine_hybrid.get_config(arg), rows=rows, order=tuple(rows)))


def make_row(label: str, *overrides: dict, accuracy: float, mf1: float, miou: float) -> ConfigDict:
  """A row of a table; later `overrides` win over earlier ones."""
  merged = ConfigDict()
  for override in overrides:
    merged.update(override)
  return ConfigDict(dict(label=label, overrides=merged, paper=dict(accuracy=accuracy, mf1=mf1, miou=miou)))
