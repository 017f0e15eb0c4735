"""Table 14 of the supplement: confusion matrices of MineC2FNet and two systems that learn domains one after the other.

Every suite shows the pooled confusion matrix of its rows; here the paper's stand beside them. Accuracy, mF1 and mIoU
are those of Table 1, and so are the rows that are trained. Table 1's accuracies are TN + TP of Table 14, and the mF1 of
MDIL-SS and GSMF-RS-DIL follows from their matrices too. No printed mIoU does, nor MineC2FNet's mF1: its matrix gives
mF1 90.50 and mIoU 82.92, not 84.10 and 73.64. So the paper averages these in a way that it does not state; ours are of
the pooled matrix.
"""

from ml_collections import ConfigDict

from configs import suites
from configs.suites import table1

_PRINTED = {  # Row of Table 1 -> TN, FP, FN, TP
  "mdil_ss": (67.90, 4.96, 6.42, 20.72),
  "gsmf_rs_dil": (69.63, 5.89, 5.28, 19.20),
  "minec2fnet": (68.10, 3.52, 4.15, 24.23),
}


def get_config(arg: str = "") -> ConfigDict:
  """Rows "mdil_ss", "gsmf_rs_dil" and "minec2fnet"."""
  known = table1.get_config(arg).rows
  rows = {
    name: suites.make_row(
      known[name].label,
      known[name].overrides.to_dict(),
      **known[name].paper,
      confusion=confusion,
      trained=known[name].trained,
    )
    for name, confusion in _PRINTED.items()
  }
  return suites.make_suite("Table 14: MineC2FNet beside two domain-incremental systems (RGB+NIR+SWIR)", rows, arg)
