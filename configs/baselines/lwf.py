"""Row "LwF" of the paper's Table 1: Learning without Forgetting (Li & Hoiem 2016, arXiv:1606.09282).

Command:  python launch.py --config=configs/baselines/lwf.py --workdir=runs/lwf \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/lwf.py:demo --workdir=runs/lwf_demo
Reuse:    --config.teacher=runs/hybrid skips Task 1 and takes that run's teacher.

The paper prints 90.22 accuracy, 78.94 mF1 and 67.02 mIoU, and nothing of the training. Task 1 is that of all systems.
What differs from the original:

- both tasks have the same classes, so there is one head, the old one, and no warm-up of a new one;
- a pixel is what an image is there: labels and answers are compared pixel by pixel;
- optimizer, schedule, batch size and augmentation are those of all systems here.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "fine": {"method": "lwf", "init_from_prior": True, "loss": BCE},
  "lwf": {
    "weight": 1.0,  # the original's lambda
    "temperature": 2.0,  # the original's T
    "temperature_squared": False,  # as in the original; True scales by T^2, as Hinton et al. do
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with LwF as Task 2; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  return config
