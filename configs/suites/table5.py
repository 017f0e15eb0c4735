"""Table 5: which bands help, in the plain network on the fine set.

The loss is not stated; Eq. 3 here. The paper's three plain RGB+NIR+SWIR networks score 65.18 (Table 13, BCE), 67.29
(here) and 68.26 (Table 1).
"""

from ml_collections import ConfigDict

from configs import suites


def get_config(arg: str = "") -> ConfigDict:
  """Rows "rgb" to "rgb_nir_swir"."""
  bands = lambda names: {"data": {"bands": names}}
  rows = dict(
    rgb=suites.make_row("RGB", suites.FINE_ONLY, bands(suites.RGB), accuracy=87.08, mf1=71.12, miou=57.09),
    rgb_nir=suites.make_row("RGB+NIR", suites.FINE_ONLY, bands(suites.RGB_NIR), accuracy=89.00, mf1=75.39, miou=62.35),
    rgb_nir_swir=suites.make_row(
      "RGB+NIR+SWIR", suites.FINE_ONLY, bands(suites.RGB_NIR_SWIR), accuracy=89.68, mf1=79.29, miou=67.29
    ),
  )
  return suites.make_suite("Table 5: bands (FPN on the fine set)", rows, arg)
