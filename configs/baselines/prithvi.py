"""Row "Prithvi" of the paper's Table 1: Prithvi-EO-1.0-100M (Jakubik et al. 2023), fine-tuned on the fine set alone.

Command:  python launch.py --config=configs/baselines/prithvi.py --workdir=runs/prithvi \
              --config.data.fine.path=FINE --config.pretrained=Prithvi_EO_V1_100M.pt
No data:  python launch.py --config=configs/baselines/prithvi.py:demo --workdir=runs/prithvi_demo
Weights:  README, "ImageNet weights". Without config.pretrained the ViT starts at random, which is not Prithvi.

The paper prints 66.14 accuracy, 66.21 mF1 and 49.74 mIoU, and of the training only that it was on the fine set with
RGB, NIR and SWIR bands. Encoder, neck and head are those of the authors' fine-tuning examples (burn scars, floods).
What differs from these:

- one logit and the loss of Task 2 (Eq. 3), where theirs have two classes, with Dice or a weighted cross-entropy;
- no auxiliary head beside the main one, which their loss counts in with weight 1;
- optimizer, warm-up, plateau rule, batch size and augmentation are those of all systems here; theirs are Adam with
  1.3e-5 (burn scars) or AdamW with 1.5e-5 and weight decay 0.05 (floods), polynomial decay and batches of four;
- positions are made for the grid at hand (16x16 patches at 256 pixels) and one frame.

As in theirs, the encoder is trained with the rest. Of a forward pass's 191 GMAC an image, 167 are neck and head:
bfloat16, the default on a GPU, helps there.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with Prithvi on the fine set alone; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.stages = ("fine",)
  config.fine.update(dict(method="supervised", init_from_prior=False))
  config.model = _model()
  if arg == "demo":
    config.model.encoder.update(dict(width=48, depth=2, heads=2))
    config.model.decoder.features = 16
    # From random weights the score stands still for some ten epochs.
    config.optimizer.update(dict(plateau_patience=20, stop_patience=20))
  return config


def _model() -> ConfigDict:
  return ConfigDict(
    dict(
      architecture="prithvi",
      encoder=dict(  # ViT-B/16, as published
        width=768,
        depth=12,
        heads=12,
        mlp_ratio=4,
        norm_epsilon=1e-5,  # torch's default, which the published code has
      ),
      decoder=dict(  # as in the authors' examples
        features=256,
        dropout=0.1,
        bn_momentum=0.9,  # torch's 0.1
        bn_epsilon=1e-5,
      ),
      dtype="auto",
    )
  )
