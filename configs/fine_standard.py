"""Task 2 with plain distillation: every pixel of every image.

Command:  python launch.py --config=configs/fine_standard.py --workdir=runs/standard --config.teacher=runs/hybrid \
              --config.data.fine.path=FINE
"""

from configs import fine_hybrid


def get_config(arg: str = ""):
  """`fine_hybrid` with selection="standard"."""
  config = fine_hybrid.get_config(arg)
  config.distillation.selection = "standard"
  return config
