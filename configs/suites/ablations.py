"""Tables 3, 4, 5 and 13 in one suite: what they have in common is trained once.

Of their 16 rows 13 differ: the plain RGB+NIR network stands in three tables, and the plain network on all bands with
all parts of the loss in two. Tables 3 and 4 share their teacher.
"""

import importlib

from ml_collections import ConfigDict

from configs import suites

_TABLES = ("table3", "table4", "table5", "table13")


def get_config(arg: str = "") -> ConfigDict:
  """Rows "table3_none" to "table13_bce_dice_ssim_boundary"."""
  parts = {name: importlib.import_module(f"configs.suites.{name}").get_config(arg) for name in _TABLES}
  rows = {f"{name}_{row}": part.rows[row] for name, part in parts.items() for row in part.order}
  return suites.make_suite("Tables 3, 4, 5 and 13: ablations", rows, arg)
