"""Task 1 alone: the teacher, trained on the coarse set with BCE.

Command:  python launch.py --config=configs/coarse.py --workdir=runs/coarse --config.data.coarse.path=COARSE
"""

from configs import fine_hybrid


def get_config(arg: str = ""):
  """`fine_hybrid` without Task 2."""
  config = fine_hybrid.get_config(arg)
  config.stages = ("coarse",)
  return config
