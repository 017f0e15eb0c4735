"""Table 3: the parts of attentive feature injection, on RGB+NIR.

The paper does not say whether distillation is on. The row without any part equals Table 4's "No Distill.", so no row
here distils.
"""

from ml_collections import ConfigDict

from configs import suites


def get_config(arg: str = "") -> ConfigDict:
  """Rows "none" to "gf_cbam_dr"."""
  bands = {"data": {"bands": suites.RGB_NIR}}
  common = {**bands, **suites.NO_DISTILLATION}
  fusion = lambda cbam, steps: {"model": {"fusion": {"cbam": cbam, "refinement_steps": steps}}}
  rows = dict(
    none=suites.make_row("–", bands, suites.FINE_ONLY, accuracy=89.00, mf1=75.39, miou=62.35),
    gf=suites.make_row("GF", common, fusion(False, 0), accuracy=90.31, mf1=76.72, miou=64.35),
    gf_cbam=suites.make_row("GF + CBAM", common, fusion(True, 0), accuracy=91.33, mf1=79.15, miou=67.79),
    gf_cbam_dr=suites.make_row("GF + CBAM + DR", common, accuracy=91.08, mf1=79.84, miou=68.41),
  )
  return suites.make_suite("Table 3: attentive feature injection (RGB+NIR)", rows, arg)
