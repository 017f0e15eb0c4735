"""Row "GSMF-RS-DIL" of the paper's Table 1: domain-incremental learning for remote sensing (Huang et al. 2024).

Command:  python launch.py --config=configs/baselines/gsmf_rs_dil.py --workdir=runs/gsmf_rs_dil \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/gsmf_rs_dil.py:demo --workdir=runs/gsmf_rs_dil_demo
Reuse:    --config.teacher=runs/gsmf_rs_dil skips Task 1 and takes that run's; other systems' is another network.

The paper prints 88.83 accuracy, 85.02 mF1 and 71.25 mIoU, and nothing of the training. Task 1 trains GS-AUFPN with an
auxiliary head, Task 2 a copy of it whose first block is frozen and which the old network's predictions and features
hold. Of the original there is the published code alone to go by. What differs from it:

- the encoder is DenseNet-121 in place of ResNet-101: frozen are its stem, first block and transition, distilled its
  maps at /8, /16 and /32 that the decoder reads (transition convolutions, linear, and the last ReLU);
- mine against background is one logit; predictions are compared at the image's resolution, where it is known which
  pixels are valid, there at /4; the old network's entropy, a constant, is subtracted;
- the old network answers in inference mode. There it stays in training mode, so that its targets depend on the other
  images of a batch and on dropout: as_coded=True;
- AdamW, warm-up, plateau rule, batch size and augmentation are those of all systems here. Kept is that Task 2 learns at
  1/10 of Task 1's rate.

As there, BN of what is frozen keeps its scale and bias, normalises with the batch and follows the fine images with its
running statistics. The feature loss is averaged over channels too, so it is small: normalizer="positions" is the mean
of the divergences themselves.

`OVERRIDES` without the network are its losses alone, for the FPN of the other systems: `fine_hybrid` updated with them.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import BCE

OVERRIDES = {
  "coarse": {"method": "deep_supervision"},
  "fine": {"method": "gsmf_rs_dil", "init_from_prior": True, "loss": BCE},
  "deep_supervision": {
    "weight": 0.4,  # this and the next as in the original
    "level": "c4",  # the encoder's map at /16
    "features": 256,
    "dropout": 0.1,
  },
  "gsmf_rs_dil": {
    "prediction_weight": 0.5,  # this and the next as in the original
    "feature_weight": 1.0,
    "temperature": 2.0,  # of the predictions; as in the original, without its square
    "temperature_squared": False,
    "normalizer": "elements",  # elements | positions
    "frozen_blocks": 1,  # of the encoder, with the stem; 0 freezes nothing
    "rate": 0.1,  # of the learning rate; in the original 1e-5 to Task 1's 1e-4
    "as_coded": False,
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with the two stages of GSMF-RS-DIL on GS-AUFPN; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  config.model = ConfigDict(
    dict(
      architecture="gs_aufpn_densenet",
      encoder=config.model.encoder,
      decoder=dict(  # widths and dropout as in the original
        features=256,
        nodes=64,  # of the graph
        node_features=128,
        reduction=16,  # of the channel gates
        dropout=0.1,
        bn_momentum=0.99,  # that of the other systems here
        bn_epsilon=1e-5,  # torch's
      ),
      dtype="auto",
    )
  )
  if arg == "demo":
    config.model.decoder.update(dict(features=32, nodes=8, node_features=16, reduction=4, bn_momentum=0.9))
    config.deep_supervision.features = 32
  return config
