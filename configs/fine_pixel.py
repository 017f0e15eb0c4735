"""Task 2 with pixel-level selection (Eq. 10).

Command:  python launch.py --config=configs/fine_pixel.py --workdir=runs/pixel --config.teacher=runs/hybrid \
              --config.data.fine.path=FINE
"""

from configs import fine_hybrid


def get_config(arg: str = ""):
  """`fine_hybrid` with selection="pixel"."""
  config = fine_hybrid.get_config(arg)
  config.distillation.selection = "pixel"
  return config
