"""Table 5 of the supplement: which coarse images to learn from; teachers alone, on the fine test set.

The paper's four sets were chosen by the size of images and by the area of mines. Such choices are made when chips are
made, so each row needs a folder of its own, and one without is to be left out:
  --config.rows.full.overrides.data.coarse.path=ALL            44,319 images in the paper
  --config.rows.least_128.overrides.data.coarse.path=LARGE     12,155, of at least 128 x 128 pixels
  --config.rows.fine_filtered.overrides.data.coarse.path=LIKE  1,380, with mines as large as the fine set's (9.81 km²)
  --config.rows.fine_filtered_100.trained=False                1,280; what "100" stands for is not stated
Bands are not stated; all six here. The demo's coarse set has one composition, so ":demo" trains nothing to compare.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import suites


def get_config(arg: str = "") -> ConfigDict:
  """Rows "full" to "fine_filtered_100"."""
  if arg:
    raise ValueError('this suite compares coarse sets of yours; the demo has one, so leave out ":demo".')
  own = lambda: {"data": {"coarse": {"path": placeholder(str)}}}
  row = lambda label, **paper: suites.make_row(label, suites.COARSE_ONLY, own(), **paper)
  rows = dict(
    full=row("Full coarse", accuracy=70.60, mf1=55.99, miou=42.31),
    least_128=row("Coarse-128", accuracy=72.98, mf1=58.41, miou=44.43),
    fine_filtered=row("Coarse-FineFiltered", accuracy=73.34, mf1=59.31, miou=45.52),
    fine_filtered_100=row("Coarse-FineFiltered-100", accuracy=71.67, mf1=57.27, miou=43.35),
  )
  return suites.make_suite("Table 5 of the supplement: coarse sets", rows, arg)
