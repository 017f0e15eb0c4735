"""Row "CCDA" of the paper's Table 1: adaptation to the fine set without its labels, in two steps (Shenaj et al. 2022).

Command:  python launch.py --config=configs/baselines/ccda.py --workdir=runs/ccda \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/ccda.py:demo --workdir=runs/ccda_demo
Reuse:    --config.teacher=runs/ccda skips Task 1 and takes that run's; other systems' was not adapted.

The paper prints 78.90 accuracy, 72.90 mF1 and 57.00 mIoU, and says nothing of what the system was shown. The number
stands between a coarse model and those that see fine labels, so here it sees none: coarse images with labels, fine
images without, as UDAforRS, by the same means (`configs/baselines/udaforrs.py`, on validation too: the published code
can take the weights that are best on the target domain, in both steps). CCDA with fine labels, which its idea of
classes that become finer suggests, is `configs/baselines/ccda_sup.py`.

1. "coarse": cross-entropy on coarse images, and maximum squares on fine images after the first 100 steps;
2. "fine": the same, and distillation of the coarse stage's answers on fine images. Classes stay what they were.

Weights and formulas are the original's. What differs from it:

- mine against background is one logit of the paper's FPN, in place of DeepLabV3 on ResNet-101;
- both tasks have the same two classes, so that coarse-to-fine distillation is plain distillation (less the old
  network's entropy, a constant) and the head starts as it was;
- maximum squares are divided by the number of images twice, as in the published code: beside the original's batches of
  2 they weigh less here;
- pixels that are not valid count nowhere;
- optimizer, schedule, batch size and augmentation are those of all systems here; head and encoder learn alike.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "coarse": {
    "method": "ccda_start",
    "streams": ("coarse", "fine"),  # labelled, unlabelled
    "validation": "fine",  # "coarse" in both stages reads no fine label
  },
  "fine": {
    "method": "ccda",
    "streams": ("coarse", "fine"),
    "validation": "fine",
    "init_from_prior": True,
    "loss": BCE,
  },
  "ccda": {
    "squares_weight": 0.1,
    "exponent": 0.2,  # 0 weighs all classes alike
    "start_after": 100,  # steps of the coarse stage without maximum squares
    "distillation_weight": 10.0,
    "split": False,  # True: coarse mine becomes fine mine and margin
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with the two steps of CCDA; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  return config
