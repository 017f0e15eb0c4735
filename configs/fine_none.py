"""Task 2 without distillation: feature injection and Eq. 3 alone (Table 4's base, with injection).

Command:  python launch.py --config=configs/fine_none.py --workdir=runs/none --config.teacher=runs/hybrid \
              --config.data.fine.path=FINE
"""

from configs import fine_hybrid


def get_config(arg: str = ""):
  """`fine_hybrid` with selection="none"."""
  config = fine_hybrid.get_config(arg)
  config.distillation.selection = "none"
  return config
