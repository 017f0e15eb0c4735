"""Table 13 (supplement): the parts of the student loss, in the plain network on the fine set.

The network is not stated; the first row's 65.18 lies near the plain FPN of Tables 1 and 5, far below MineC2FNet.
"""

from ml_collections import ConfigDict

from configs import suites


def get_config(arg: str = "") -> ConfigDict:
  """Rows "bce" to "bce_dice_ssim_boundary"."""
  loss = lambda dice, ssim, boundary: {"fine": {"loss": dict(bce=1.0, dice=dice, ssim=ssim, boundary=boundary)}}
  row = lambda label, *weights, **paper: suites.make_row(label, suites.FINE_ONLY, loss(*weights), **paper)
  rows = dict(
    bce=row("BCE", 0.0, 0.0, 0.0, accuracy=90.96, mf1=77.33, miou=65.18),
    bce_dice=row("BCE + Dice", 1.0, 0.0, 0.0, accuracy=90.16, mf1=77.83, miou=65.45),
    bce_dice_ssim=row("BCE + Dice + SSIM", 1.0, 1.0, 0.0, accuracy=90.39, mf1=78.32, miou=66.42),
    bce_dice_ssim_boundary=row("BCE + Dice + SSIM + boundary", 1.0, 1.0, 1.0, accuracy=91.02, mf1=78.74, miou=66.87),
  )
  return suites.make_suite("Table 13: student losses (FPN on the fine set)", rows, arg)
