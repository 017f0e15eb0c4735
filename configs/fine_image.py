"""Task 2 with image-level selection (Eq. 9).

Command:  python launch.py --config=configs/fine_image.py --workdir=runs/image --config.teacher=runs/hybrid \
              --config.data.fine.path=FINE
"""

from configs import fine_hybrid


def get_config(arg: str = ""):
  """`fine_hybrid` with selection="image"."""
  config = fine_hybrid.get_config(arg)
  config.distillation.selection = "image"
  return config
