"""Row "DeepLabV3+" of the paper's Table 1: DeepLabV3+ (Chen et al. 2018) over DenseNet-121, on the fine set alone.

Command:  python launch.py --config=configs/baselines/deeplabv3plus.py --workdir=runs/deeplabv3plus \
              --config.data.fine.path=FINE --config.pretrained=DENSENET
No data:  python launch.py --config=configs/baselines/deeplabv3plus.py:demo --workdir=runs/deeplabv3plus_demo
Weights:  README, "ImageNet weights": those of the paper's encoder; without config.pretrained it starts at random.

The paper prints 90.01 accuracy, 79.57 mF1 and 67.47 mIoU, and says nothing of the network or its training. Our choices:

- the encoder is MineC2FNet's, DenseNet-121, so that systems differ in their decoders alone (the authors of DeepLabV3+
  have Xception and ResNet-101); its last block runs at /16, dilated by 2;
- widths and rates are those of Chen et al., the convolutions plain ones (`minec2f_jax/models/deeplabv3plus.py`);
- the loss is that of Task 2 (Eq. 3), as in the rows "FPN" and "Prithvi"; for BCE alone give 0.0 to
  config.fine.loss.dice, ssim and boundary;
- optimizer, warm-up, plateau rule, batch size and augmentation are those of all systems here.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with DeepLabV3+ on the fine set alone; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.stages = ("fine",)
  config.fine.update(dict(method="supervised", init_from_prior=False))
  config.model = ConfigDict(
    dict(
      architecture="deeplabv3plus_densenet",
      encoder=dict(**config.model.encoder, output_stride=16),  # 16 | 32
      decoder=dict(
        aspp_features=256,
        rates=(6, 12, 18),  # for output_stride=16
        low_level_features=48,
        features=256,
        dropout=0.0,  # 0.1 in the authors' code
        bn_momentum=0.99,  # that of the other systems here, as is the next
        bn_epsilon=1e-3,
      ),
      dtype="auto",
    )
  )
  if arg == "demo":
    config.model.decoder.update(
      dict(aspp_features=32, rates=(2, 4, 6), low_level_features=12, features=32, bn_momentum=0.9)
    )
  return config
