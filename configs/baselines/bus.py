"""Row "BUS" of the paper's Table 1: open-set adaptation to the fine set without its labels (Choe et al. 2024).

Command:  python launch.py --config=configs/baselines/bus.py --workdir=runs/bus \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/bus.py:demo --workdir=runs/bus_demo
Weights:  README, "ImageNet weights", as all systems with the paper's encoder.

The paper prints 60.22 accuracy, 59.21 mF1 and 42.35 mIoU. What the system sees is what UDAforRS sees, by the same means
(`configs/baselines/udaforrs.py`, on validation too): fine training labels never come into a batch.

BUS looks for objects of classes that the source does not have. Fine images have none, so the row is expected to be
weak: whatever the teacher is not sure of becomes a third class, "unknown", and is scored as background;
unknown_is="ignored" scores the better one of background and mine. One stage, as UDAforRS.

attach_period is to be a quarter of training, in steps. The original's, of 40,000 steps, stands here; with early
stopping nobody knows it before. For 100 epochs give 25 * (images of the larger set // batch size).

All other numbers are the original's, but mask_block (64 there, of larger images). What differs from it:

- the network is the paper's FPN with DenseNet-121, not HRDA over a MiT-B5 with DAFormer's head. Features of DECON are
  those before the head, at half resolution (there a quarter), where regions are eroded and dilated by 3x3;
- DECON draws up to contrast_samples anchors and negatives of the whole batch, in place of all within one random
  window; the mean that anchors are drawn to is that of the whole batch, too;
- no MobileSAM votes on pseudo-labels, and no distance to ImageNet features holds the encoder: both need weights that
  are not at hand. Mine is the one "thing" class;
- a copy at half size (OpenReMix) counts where all four of its pixels were mine, and keeps its numbers: the original's
  code rounds normalised images to whole ones there;
- the student's batch statistics, which a MiT lacks, are collected from source and mixed images, not from those with
  holes. Teacher, strong augmentation and invalid pixels are as in UDAforRS;
- AdamW's rates, schedule, batch size and augmentation are those of all systems here; head and encoder learn alike.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import udaforrs

_OWN = {
  "ema": 0.999,  # what the teacher keeps of itself a step
  "teacher_statistics": "batch",  # batch | ema
  "unknown_threshold": 0.5,  # up to this probability the teacher's best class becomes unknown
  "confidence": 0.968,  # the share of pixels with so much in a batch weighs its pseudo-labels
  "mix_weight": 1.0,
  "mask_weight": 1.0,  # MIC
  "mask_block": 32,  # pixels
  "mask_ratio": 0.7,
  "contrast_weight": 1.0,  # DECON
  "contrast_samples": 1024,
  "attach_share": 0.3,  # the last part of each period, in which unknown pixels go into source images
  "attach_period": 10_000,  # steps
  "jitter_strength": 0.2,
  "jitter": 0.8,  # probability
  "blur": 0.5,  # probability
  "unknown_is": "background",  # background | ignored, where mines are predicted
}


def get_overrides(arg: str = "") -> dict:
  """What BUS states otherwise than `fine_hybrid`; `arg` as there."""
  # Images of half the size, and 400 steps.
  demo = {"ema": 0.99, "mask_block": 16, "attach_period": 100} if arg == "demo" else {}
  fine = {**udaforrs.OVERRIDES["fine"], "method": "bus"}
  return {"stages": udaforrs.OVERRIDES["stages"], "fine": fine, "bus": {**_OWN, **demo}}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with BUS in one stage on both sets; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(get_overrides(arg))
  return config
