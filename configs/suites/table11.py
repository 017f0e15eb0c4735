"""Table 11 of the supplement: MineC2FNet by Köppen-Geiger climate zone of the fine test images.

One run shows all rows: each is a group of the same test images. The paper's numbers of training, validation and test
images stand behind a zone's name; one test image of the cold zone and two of the polar one say little.

The zones come from the data: a column `climate_zone` of index.csv with tropical, arid, temperate, cold or polar. Rows
of zones that no test image names stay without scores of ours, and the notes below the table say so; so it is with the
demo.
"""

from ml_collections import ConfigDict

from configs import suites

_PRINTED = {  # Zone -> images for training, validation, test; accuracy, mF1, mIoU
  "tropical": ("25/4/8", 95.19, 86.44, 67.63),
  "arid": ("63/4/21", 90.78, 82.93, 72.21),
  "temperate": ("24/4/9", 95.24, 86.45, 77.34),
  "cold": ("16/4/1", 85.82, 72.99, 57.47),
  "polar": ("11/4/2", 87.41, 81.87, 69.42),
}


def get_config(arg: str = "") -> ConfigDict:
  """Rows "tropical" to "polar"."""
  rows = {
    zone: suites.make_row(
      f"{zone.capitalize()} (paper: {images})",
      accuracy=accuracy,
      mf1=mf1,
      miou=miou,
      group=("climate zone", zone),
    )
    for zone, (images, accuracy, mf1, miou) in _PRINTED.items()
  }
  return suites.make_suite("Table 11: MineC2FNet by climate zone (RGB+NIR+SWIR)", rows, arg)
