"""Table 4: the selection of attentive knowledge transfer.

Bands and injection are not stated. "No Distill. (Base)" prints the numbers of the plain RGB+NIR network (Tables 3 and
5), so the rows differ from it in distillation alone: RGB+NIR, nothing injected.
"""

from ml_collections import ConfigDict

from configs import suites


def get_config(arg: str = "") -> ConfigDict:
  """Rows "none" to "hybrid"."""
  bands = {"data": {"bands": suites.RGB_NIR}}
  common = {**bands, **suites.NO_INJECTION}
  select = lambda selection: {"distillation": {"selection": selection}}
  rows = dict(
    none=suites.make_row("No distillation", bands, suites.FINE_ONLY, accuracy=89.00, mf1=75.39, miou=62.35),
    standard=suites.make_row("Standard", common, select("standard"), accuracy=89.38, mf1=75.79, miou=62.59),
    image=suites.make_row("Image-level", common, select("image"), accuracy=90.42, mf1=78.79, miou=67.17),
    pixel=suites.make_row("Pixel-level", common, select("pixel"), accuracy=91.14, mf1=79.30, miou=67.84),
    hybrid=suites.make_row("Hybrid", common, select("hybrid"), accuracy=91.10, mf1=79.61, miou=67.91),
  )
  return suites.make_suite("Table 4: attentive knowledge transfer (RGB+NIR)", rows, arg)
