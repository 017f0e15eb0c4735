"""Row "Replay" of the paper's Table 1: fitting coarse images beside the fine ones (Rolnick et al. 2019).

Command:  python launch.py --config=configs/baselines/replay.py --workdir=runs/replay \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/replay.py:demo --workdir=runs/replay_demo

The paper prints 88.81 accuracy, 76.50 mF1 and 63.61 mIoU; of the method it says that coarse images are chosen by how
consistent they are with a model of the fine set. So, in two stages:

1. "selector": the plain network on the fine set alone;
2. "fine": each coarse training image is kept if the selector's prediction and its label overlap enough
   (fine/selection.json tells which), and the plain network is trained anew on these and the fine images together.

All numbers are our choice. Nothing of the coarse set's Task 1 takes part, and nothing is distilled; the original is
reinforcement learning with a buffer of everything seen, half of each batch out of it (sampling="each").
--config.fine.selection.least=0.0 keeps all coarse images, 1.1 none: then Task 2 is the plain network on the fine set,
bit for bit.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "stages": ("selector", "fine"),
  "selector": {
    "method": "supervised",
    "streams": ("fine",),
    "validation": "fine",
    "epochs": 100,
    "init_from_prior": False,
    "loss": {**BCE, "dice_kind": "soft", "dice_reduce": "batch", "ssim_kind": "ssim"},
  },
  "fine": {
    "method": "replay",
    "streams": ("coarse", "fine"),
    "sampling": "union",  # batches out of all images together; "each": batch_size of either domain in every batch
    "init_from_prior": False,
    "loss": BCE,
    "selection": {
      "judge": "selector",  # the stage whose model predicts the coarse images
      "stream": "coarse",
      "score": "iou",  # iou | f1 of mine, image by image
      "least": 0.5,  # images that score less are left out
      "most": 0,  # at most so many, best first; 0 keeps all that score enough
    },
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with the two stages of Replay; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  if arg == "demo":
    config.selector.epochs = config.fine.epochs
  return config
