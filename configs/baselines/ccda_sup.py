"""CCDA with fine labels: the class of coarse mines becomes two finer ones (Shenaj et al. 2022). No row of the paper's.

Command:  python launch.py --config=configs/baselines/ccda_sup.py --workdir=runs/ccda_sup \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/ccda_sup.py:demo --workdir=runs/ccda_sup_demo
Reuse:    --config.teacher=runs/hybrid skips Task 1 and takes that run's teacher.

What the original is about, classes that are told apart later, on mines: what a coarse model calls mine is fine mine,
as labelled, or the margin around it. The fine set has labels now, the coarse set gives images alone in Task 2: on them
answers are to be certain and, mine and margin together, to stay the coarse model's. The new head starts with coarse
mine's weights for both, the bias less log 2, so that at first both together are exactly as probable as it was. What is
scored is fine mine. Task 1 is that of all systems. For the rest see `configs/baselines/ccda.py`.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import ccda

OVERRIDES = {
  "fine": {**ccda.OVERRIDES["fine"], "streams": ("fine", "coarse")},  # labelled, unlabelled
  "ccda": {**ccda.OVERRIDES["ccda"], "split": True},
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with CCDA as Task 2 on fine labels; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  return config
