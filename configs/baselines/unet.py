"""Row "U-Net" of the paper's Table 1: U-Net (Ronneberger et al. 2015) over DenseNet-121, on the fine set alone.

Command:  python launch.py --config=configs/baselines/unet.py --workdir=runs/unet \
              --config.data.fine.path=FINE --config.pretrained=DENSENET
No data:  python launch.py --config=configs/baselines/unet.py:demo --workdir=runs/unet_demo
Weights:  README, "ImageNet weights": those of the paper's encoder; without config.pretrained it starts at random.

The paper prints 89.79 accuracy, 79.52 mF1 and 67.26 mIoU, and says nothing of the network or its training. Our choices:

- the encoder is MineC2FNet's, DenseNet-121 with its five features, so that systems differ in their decoders alone;
- the decoder is that of segmentation_models for Keras, the library that the paper's FPN is likely of: doubling by
  nearest neighbour, concatenation, two 3x3 convolutions with BN, no dropout (`minec2f_jax/models/unet.py`);
- the loss is that of Task 2 (Eq. 3), as in the rows "FPN" and "Prithvi"; for BCE alone give 0.0 to
  config.fine.loss.dice, ssim and boundary;
- optimizer, warm-up, plateau rule, batch size and augmentation are those of all systems here.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with a U-Net on the fine set alone; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.stages = ("fine",)
  config.fine.update(dict(method="supervised", init_from_prior=False))
  config.model = ConfigDict(
    dict(
      architecture="unet_densenet",
      encoder=config.model.encoder,
      decoder=dict(  # as in segmentation_models
        features=(256, 128, 64, 32, 16),  # channels from /16 to the image's resolution
        bn_momentum=0.99,
        bn_epsilon=1e-3,
      ),
      dtype="auto",
    )
  )
  if arg == "demo":
    config.model.decoder.update(dict(features=(48, 32, 24, 16, 8), bn_momentum=0.9))
  return config
