"""Row "UDAforRS" of the paper's Table 1: adaptation to the fine set without its labels (Li et al. 2022).

Command:  python launch.py --config=configs/baselines/udaforrs.py --workdir=runs/udaforrs \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/udaforrs.py:demo --workdir=runs/udaforrs_demo
Weights:  README, "ImageNet weights", as all systems with the paper's encoder.

The paper prints 75.16 accuracy, 72.42 mF1 and 57.49 mIoU, and says nothing of what the system was shown. Here it learns
coarse images with their labels and fine images without: fine training labels are taken out before a batch is made
(`minec2f_jax/experiment/stages.py`). With fine.validation="fine" the learning rate, stopping and the best weights still
follow fine validation labels, as those of all systems do; with "coarse" no fine label has a say in training. (Files of
fine masks are still opened: their share of mine is told and their hash is noted; `valid` tells which fine pixels have a
label, not which it is; after training the fine test split is scored.) One stage, from ImageNet weights or at random:
Task 1 does not come before.

All numbers are the original's but for what follows. What differs from it:

- the network is the paper's FPN with DenseNet-121, not a MiT-B5 with DAFormer's head; its two classes are one logit;
- DenseNet has batch normalisation everywhere, MiT none. The teacher normalises by the batch that it answers, as the
  original's, which stays in training mode; teacher_statistics="ema" averages the student's running statistics instead.
  Those of inference are collected from source and mixed images alike;
- strong augmentation, which the original's code skips for images of more than three bands, jitters contrast and
  brightness of each band, in standard deviations, and blurs (`minec2f_jax/perturbations.py`); it is drawn an image, not
  a batch;
- pixels that are not valid count nowhere: not in class frequencies, means, nor as sure neighbours;
- optimizer, warm-up, plateau rule, stopping, batch size and augmentation are those of all systems here; the original
  has 4,000 steps of AdamW with poly decay.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "stages": ("fine",),
  "fine": {
    "method": "udaforrs",
    "streams": ("coarse", "fine"),  # labelled, unlabelled
    "validation": "fine",  # "coarse" reads no fine label
    "init_from_prior": False,
    "loss": BCE,  # of source images
  },
  "udaforrs": {
    "ema": 0.9,  # what the teacher keeps of itself a step
    "teacher_statistics": "batch",  # batch | ema
    "class_temperature": 0.1,
    "class_momentum": 0.9,
    "confidence": 0.7,  # least probability of a sure pixel
    "quality_window": 7,  # pixels
    "mix_weight": 1.0,  # of the loss on mixed images
    "jitter_strength": 0.2,
    "jitter": 0.8,  # probability
    "blur": 0.5,  # probability
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with UDAforRS in one stage on both sets; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  return config
