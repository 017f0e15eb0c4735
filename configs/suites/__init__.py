"""The paper's tables as suites: what all rows share, each row's overrides, and the numbers that the paper prints.

Command:  python launch.py --mode=suite --config=configs/suites/table4.py --workdir=runs/table4 \
              --config.base.data.coarse.path=COARSE --config.base.data.fine.path=FINE
No data:  python launch.py --mode=suite --config=configs/suites/table4.py:demo --workdir=runs/table4_demo
Shorter:  --config.seeds="(0,)" --config.base.coarse.epochs=20 --config.base.fine.epochs=20
Some:     --config.order="('pixel', 'hybrid')" shows and trains these rows, --config.rows.image.trained=False shows a
          row and does not train it
One row:  --config.rows.pixel.overrides.distillation.selection=image changes what the row states; all else is the base's

A suite is a ConfigDict with `title`, `seeds` (each row is trained with each), `base` (the experiment that all rows
start from; --config.base.* reaches them all), `rows`, and `order` (of the rows). A row holds
  label       its name in the table
  table       title of the table that it belongs to
  domain      on whose test split its last stage is scored
  trained     False: the row shows the paper's numbers alone
  overrides   nested as the base is; they win over it, and a `model` that names its architecture replaces the base's
  paper       accuracy, mf1, miou in percent, as printed; None where the paper has no such row
Rows that come to the same experiment share one run, and rows whose Task 1 is the same share their teacher.

Every row's experiment is a run like any other: rows/ROW/seedN holds its config.json, checkpoints, curves and panels.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid

RGB = ("red", "green", "blue")
RGB_NIR = (*RGB, "nir")
RGB_NIR_SWIR = (*RGB_NIR, "swir1", "swir2")

# The plain FPN on the fine set. MineC2FNet without injection and without distillation is the same network with the
# same loss, but would train a teacher that nobody asks.
FINE_ONLY = {"stages": ("fine",), "fine": {"method": "supervised", "init_from_prior": False}}
COARSE_ONLY = {"stages": ("coarse",)}
NO_INJECTION = {"model": {"fusion": {"levels": ()}}}
NO_DISTILLATION = {"distillation": {"selection": "none"}}


def make_suite(title: str, rows: dict[str, ConfigDict], arg: str = "") -> ConfigDict:
  """A suite of `rows` on `configs/fine_hybrid.py`; `arg` as there, "" or "demo"."""
  for row in rows.values():
    row.table = row.table or title
  return ConfigDict(dict(title=title, seeds=(0, 1, 2), base=fine_hybrid.get_config(arg), rows=rows, order=tuple(rows)))


def make_row(
  label: str,
  *overrides: dict,
  accuracy: float | None = None,
  mf1: float | None = None,
  miou: float | None = None,
  domain: str = "fine",
  table: str = "",
  trained: bool = True,
) -> ConfigDict:
  """A row of a table; later `overrides` win over earlier ones, and without a `table` it belongs to the suite's."""
  merged = ConfigDict()
  for override in overrides:
    merged.update(override)
  paper = dict(accuracy=accuracy, mf1=mf1, miou=miou)
  return ConfigDict(dict(label=label, table=table, domain=domain, trained=trained, overrides=merged, paper=paper))
