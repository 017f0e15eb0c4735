"""Row "SPPA" of the paper's Table 1: class-incremental segmentation by alignment of features (Lin et al. 2022, ECCV).

Command:  python launch.py --config=configs/baselines/sppa.py --workdir=runs/sppa \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/sppa.py:demo --workdir=runs/sppa_demo
Reuse:    --config.teacher=runs/hybrid skips Task 1 and takes that run's teacher.

The paper prints 54.68 accuracy, 48.32 mF1 and 31.85 mIoU, less than a coarse model alone, and nothing of how a method
for new classes was made to serve without any. Ours, in three stages:

1. "coarse": Task 1 as all systems have it, background and coarse mine;
2. "projector": an autoencoder of the coarse network's deepest features on fine images, without their labels. Its best
   weights are those through which the coarse network still scores best on coarse validation images;
3. "fine": the class that is new is the fine mine. Of the background, pixels that the coarse network calls mine become
   the class "margin", if it is sure of them; pixels that it doubts do not count. What is scored is the new class.

new_class=False is the other reading: the same two classes, labels in place of the coarse network's answers, and of the
losses alignment and structure alone.

All weights are the original's. It was written from the paper's formulas; the published code is not at hand under a
license that this project could take over. What differs from it:

- DenseNet-121 with FPN: projected are the 1024 channels at /32, to 256 (there 2048, to 512); structure and prototype
  are those of the FPN's map at /2;
- one old class and one new class: the loss that keeps new classes apart is 0, and left out; Gram matrices are of the
  old class's means in the images of a batch;
- the entropy below which the coarse network is believed keeps 80 % of a class's pixels of all batches so far, in steps
  of 0.01 from 0.1 to 0.5; the original collects its entropies before training;
- the prototype follows the batches' means by prototype_momentum, which is our choice;
- optimizer, schedule, batch size and augmentation are those of all systems here, in all stages.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "stages": ("coarse", "projector", "fine"),
  "projector": {
    "method": "projector",
    "streams": ("fine",),
    "validation": "coarse",
    "epochs": 100,
    "init_from_prior": True,
    "loss": {**BCE, "bce": 0.0, "dice_kind": "soft", "dice_reduce": "batch", "ssim_kind": "ssim"},
  },
  "fine": {"method": "sppa", "init_from_prior": True, "loss": BCE},
  "sppa": {
    "new_class": True,
    "features": 256,  # of the projector: as in the original a quarter of the encoder's
    "align_weight": 30.0,
    "intra_weight": 0.1,
    "inter_weight": 10.0,
    "compact_weight": 0.01,
    "keep": 0.8,  # share of the coarse network's answers that count
    "prototype_momentum": 0.9,
  },
}


def get_overrides(arg: str = "") -> dict:
  """What SPPA states otherwise than `fine_hybrid`; `arg` as there."""
  if arg != "demo":
    return OVERRIDES
  epochs = fine_hybrid.get_config(arg).fine.epochs
  own = {**OVERRIDES["sppa"], "features": 32}
  return {**OVERRIDES, "projector": {**OVERRIDES["projector"], "epochs": epochs}, "sppa": own}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with the three stages of SPPA; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(get_overrides(arg))
  return config
