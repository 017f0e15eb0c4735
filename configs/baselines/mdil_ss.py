"""Row "MDIL-SS" of the paper's Table 1: multi-domain incremental learning (Garg et al. 2022, arXiv:2110.12205).

Command:  python launch.py --config=configs/baselines/mdil_ss.py --workdir=runs/mdil_ss \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/mdil_ss.py:demo --workdir=runs/mdil_ss_demo
Reuse:    --config.teacher=runs/mdil_ss skips Task 1 and takes that run's; other systems' has no adapters.

The paper prints 88.62 accuracy, 85.36 mF1 and 71.99 mIoU, and nothing of the training. The domains are the coarse and
the fine set; both see the fine images, and what is scored is the fine domain's network. What differs from the original:

- the networks: DenseNet-121 with FPN in place of ERFNet; an adapter stands beside each of the 58 3x3 convolutions
  (there beside each pair of a 3x1 and a 1x3), and all 121 BN of the encoder, decoder and head are a domain's own;
- adapters start at zero, there at random: pretrained weights answer as they did;
- the divergence is the Kullback-Leibler divergence that the paper has, and the coarse domain's network answers in
  inference mode. The published code takes probabilities for their logarithms, averages over the classes too, and lets
  the fine images move the coarse domain's running statistics: as_coded=True;
- BCE without weights of classes; AdamW, warm-up, plateau rule, batch size and augmentation are those of all systems
  here. Kept is that shared convolutions learn at 1/100 of the rate.

As in the published code the fine domain starts from the coarse one's adapters, BN and decoder, but for the output
convolution and the encoder's running statistics: with bn_momentum=0.99 these need some 500 steps to settle.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "model": {"encoder": {"adapters": True}},
  "fine": {"method": "mdil_ss", "init_from_prior": True, "loss": BCE},
  "mdil_ss": {
    "weight": 0.1,  # the original's lambda
    "shared_rate": 0.01,  # of the learning rate, for the shared convolutions; as in the original, 5e-6 to 5e-4
    "as_coded": False,
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with MDIL-SS as Task 2 and adapters for both tasks; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  return config
