"""MineC2FNet as the paper has it: Task 1 on the coarse set, then Task 2 with feature injection and hybrid selection.

Command:  python launch.py --config=configs/fine_hybrid.py --workdir=runs/hybrid \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/fine_hybrid.py:demo --workdir=runs/demo
Reuse:    --config.teacher=runs/hybrid skips Task 1 and takes that run's teacher.

"paper" below marks values that the paper prints; its learning rate, weight decay, temperature, number of
refinement steps, fusion levels and gate width were lost or never given, so those are our choice.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; `arg` is what stands after the colon of --config: "" or "demo"."""
  config = ConfigDict()
  config.seed = 0
  config.stages = ("coarse", "fine")  # run in this order; each stage's model is the next one's prior
  config.teacher = placeholder(str)  # workdir of a finished Task 1, used instead of the stage "coarse"
  config.pretrained = placeholder(str)  # paper: ImageNet weights for teacher and student; a file of yours (see README)
  config.pretrained_adapter = "inflate"  # not given; inflate | conv1x1 (with model.encoder.input_adapter) | scratch
  config.pretrained_sha256 = placeholder(str)  # what the file must have; a run notes it in its config.json
  config.monitor = "miou"  # paper: learning rate, stopping and best weights follow validation mIoU
  config.checkpoint_minutes = 10.0  # within an epoch that lasts longer; epochs end with one unless the disk is busy
  config.data = _data()
  config.model = _model()
  config.optimizer = ConfigDict(
    dict(
      learning_rate=1e-4,  # lost in the paper; our choice
      weight_decay=1e-4,  # lost in the paper; our choice
      warmup_epochs=5,  # paper
      clip_norm=0.0,  # off
      plateau_factor=0.5,  # paper
      plateau_patience=3,  # paper
      plateau_min_delta=1e-4,  # Keras' default
      stop_patience=10,  # paper
    )
  )
  config.coarse = ConfigDict(
    dict(
      method="supervised",  # Task 1
      streams=("coarse",),
      validation="coarse",
      epochs=100,  # paper
      init_from_prior=False,
      loss=_loss(bce=1.0),  # paper, Sec. 4.2: BCE alone
    )
  )
  config.fine = ConfigDict(
    dict(
      method="attentive_distillation",  # Task 2
      streams=("fine",),
      validation="fine",
      epochs=100,  # paper
      init_from_prior=False,  # paper: ImageNet weights for both; True starts the student from the teacher
      loss=_loss(bce=1.0, dice=1.0, ssim=1.0, boundary=1.0),  # paper, Eq. 3, which gives no weights
    )
  )
  config.distillation = ConfigDict(
    dict(
      weight=1.0,  # lambda of Eq. 2; the paper gives none
      selection="hybrid",  # paper: none | standard | image | pixel | hybrid
      temperature=2.0,  # not given
      epsilon=1e-6,  # Eq. 12, not given
      normalizer="selected",  # Eq. 12; 'all' divides by every valid pixel (a reading of Eq. 9-10)
    )
  )
  if arg == "demo":
    _shrink_to_demo(config)
  elif arg:
    raise ValueError(f'a config takes ":demo" or nothing, not {arg!r}.')
  return config


def _loss(*, bce: float = 0.0, dice: float = 0.0, ssim: float = 0.0, boundary: float = 0.0) -> ConfigDict:
  return ConfigDict(
    dict(
      bce=bce,
      dice=dice,
      ssim=ssim,
      boundary=boundary,
      dice_kind="soft",  # soft | generalized; the paper describes the first, its citation holds both
      dice_reduce="batch",  # batch | image; not given
      ssim_kind="ssim",  # ssim | ssl; named SSIM, while the work cited proposes the second
    )
  )


def _data() -> ConfigDict:
  return ConfigDict(
    dict(
      bands=("red", "green", "blue", "nir", "swir1", "swir2"),  # paper's order
      image_size=256,  # paper; whole images are resized to it
      batch_size=8,  # paper
      sensor="auto",  # how stored numbers become reflectance; see minec2f_jax.data.sensors
      read_threads=4,  # that read ahead where samples are not in memory; the batches are the same with any number
      cache_gb=8.0,  # decoded samples of all splits are kept in memory up to this size
      device_gb=8.0,  # and on the device up to this size (on a CPU out of cache_gb); 0 sends every batch, the same ones
      data_dir="data",  # where builders put prepared data
      # Surface reflectance of each band over the globe (HLS; published with Prithvi-EO-1.0-100M). The paper's
      # normalisation is not given.
      mean=dict(blue=0.0775, green=0.1081, red=0.1229, nir=0.2497, swir1=0.2204, swir2=0.1611),
      std=dict(blue=0.1282, green=0.1270, red=0.1399, nir=0.1368, swir1=0.1292, swir2=0.1155),
      augment=dict(  # paper, Sec. 7.3.1
        hflip=0.5, vflip=0.5, rot90=0.5, shift_scale_rotate=0.5, shift_limit=0.1, scale_limit=0.3, rotate_limit_deg=15.0
      ),
      coarse=_domain(),
      fine=_domain(),
    )
  )


def _domain() -> dict:
  return dict(
    path=placeholder(str),  # a folder with index.csv, or a prepared TFDS dataset
    builder="",  # the builder under datasets/ that makes it when path is not given
    coarsen_gsd_m=0.0,  # > 0: make coarse labels out of fine masks with pixels of so many metres
    skip=(),  # ids to leave out
  )


def _model() -> ConfigDict:
  # bn_momentum is Keras' 0.99. From random weights the statistics of inference need some 500 steps to settle with it,
  # and validation scores before that mean little: on few images take 0.9.
  return ConfigDict(
    dict(
      encoder=dict(  # paper: DenseNet-121
        block_sizes=(6, 12, 24, 16),
        growth_rate=32,
        stem_features=64,
        tap="conv",
        bn_momentum=0.99,
        bn_epsilon=1.001e-5,
        input_adapter=False,  # True: a 1x1 convolution to three bands before the stem (pretrained_adapter="conv1x1")
      ),
      decoder=dict(  # paper: FPN; widths as in the Keras library of the paper's time
        pyramid_features=256, segmentation_features=128, merge="concat", dropout=0.0, bn_momentum=0.99, bn_epsilon=1e-3
      ),
      fusion=dict(  # paper, Sec. 4.3
        levels=("c1", "c2", "c3", "c4", "c5"),  # not given; () injects nothing
        gate="convex",  # convex | gscnn | none; the paper cites Gated-SCNN, describes a convex gate
        gate_channels="full",  # not given; full | one
        cbam=True,
        cbam_reduction=16,
        cbam_spatial_bn=True,
        refinement_steps=2,  # not given; 0 switches Diffusion Refinement off
        zero_init=False,
        bn_momentum=0.99,
        bn_epsilon=1e-5,
      ),
      dtype="auto",  # of the computation: float32 on a CPU, bfloat16 elsewhere; weights and losses are always float32
    )
  )


def _shrink_to_demo(config: ConfigDict):
  """The embedded demo data and a network small enough for two CPU cores."""
  config.data.coarse.builder = config.data.fine.builder = "mining_demo"
  config.data.image_size = 128
  config.model.encoder.update(dict(block_sizes=(2, 3, 4, 3), growth_rate=12, stem_features=24, bn_momentum=0.9))
  config.model.decoder.update(dict(pyramid_features=32, segmentation_features=24, bn_momentum=0.9))
  config.model.fusion.update(dict(refinement_steps=1, cbam_reduction=4, bn_momentum=0.9))
  config.optimizer.update(dict(learning_rate=3e-3, warmup_epochs=1))
  config.fine.init_from_prior = True  # There are no ImageNet weights at hand here.
  config.coarse.epochs = 12
  config.fine.epochs = 20
