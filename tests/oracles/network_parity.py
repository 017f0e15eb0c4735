"""The networks' parity, one function a group of rows; the defaults are full size, tests take less.

Keras and torch are imported by the functions that need them and may be absent (ImportError).
"""

import numpy as np

from minec2f_jax import models
from tests.oracles import carry, parity

LEVELS = ("c1", "c2", "c3", "c4", "c5")
WIDTHS = (64, 128, 256, 512, 1024)
DENSENET121 = (6, 12, 24, 16)
BANDS = 6


def image(size, seed=1):
  return np.random.default_rng(seed).normal(size=(1, size, size, BANDS)).astype(np.float32)


def config(blocks, *, torch=False) -> dict:
  """A model config; with `torch`, with the constants that are torch's custom."""
  norm = {"bn_momentum": 0.9} if torch else {}
  encoder = {"block_sizes": blocks, **norm, **({"bn_epsilon": 1e-5} if torch else {})}
  return {"encoder": encoder, "decoder": norm, "fusion": norm}


def keras_densenet_eval(size=256, blocks=DENSENET121) -> list[parity.Row]:
  from tests.oracles import keras_models

  net, x = models.DenseNet(blocks), image(size)
  variables = carry.random_variables(net, x, train=False)
  theirs = keras_models.densenet(size, BANDS, blocks)
  carry.to_keras(theirs, variables, carry.keras_names(blocks))
  expected = dict(zip(LEVELS, keras_models.evaluate(theirs, x)))
  return _by_output(f"{_name(blocks)} tap", "keras", x, parity.apply(net, variables, x, train=False), expected)


def keras_densenet_train(size=256, blocks=DENSENET121) -> list[parity.Row]:
  from tests.oracles import keras_models

  net, x = models.DenseNet(blocks), image(size)
  variables = carry.random_variables(net, x, train=False)
  make = lambda: keras_models.densenet(size, BANDS, blocks)
  return parity.keras_training(_name(blocks), net, variables, x, make, carry.keras_names(blocks), LEVELS)


def keras_fpn(size=256) -> list[parity.Row]:
  """Decoder and head on random features."""
  from tests.oracles import keras_models

  rng, net = np.random.default_rng(1), models.make_segmenter({})
  shapes = {level: (1, size >> n, size >> n, width) for n, (level, width) in enumerate(zip(LEVELS, WIDTHS), start=1)}
  features = {level: rng.normal(size=shape).astype(np.float32) for level, shape in shapes.items()}
  variables = carry.random_variables(net, features, method="decode")
  theirs = keras_models.fpn(size)
  carry.to_keras(theirs, variables, carry.fpn_names("decoder/", "head/"))
  expected = dict(zip(("decoder", "logits"), keras_models.evaluate(theirs, list(features.values()))))
  ours = parity.apply(net, variables, features, method="decode")
  return _by_output("FPN on random features:", "keras", features["c1"], ours, expected, f"{size}x{size}")


def keras_fpn_densenet(size=256, blocks=DENSENET121) -> list[parity.Row]:
  from tests.oracles import keras_models

  net, x = models.make_segmenter(config(blocks)), image(size)
  variables = carry.random_variables(net, x)
  theirs = keras_models.fpn_densenet(size, BANDS, blocks)
  carry.to_keras(theirs, variables, {**carry.keras_names(blocks, "encoder/"), **carry.fpn_names("decoder/", "head/")})
  ours = parity.apply(net, variables, x)
  expected = dict(zip(("decoder", "logits"), keras_models.evaluate(theirs, x)))
  return _by_output(f"FPN-{_name(blocks)}", "keras", x, {name: ours[name] for name in expected}, expected)


def keras_unet_densenet(size=256, blocks=DENSENET121, training=True) -> list[parity.Row]:
  """At inference, then a step of its training."""
  from tests.oracles import keras_models

  net, x = models.make_segmenter({"architecture": "unet_densenet", "encoder": {"block_sizes": blocks}}), image(size)
  variables, what, keys = carry.random_variables(net, x), f"U-Net-{_name(blocks)}", (*LEVELS, "decoder", "logits")
  names = {**carry.keras_names(blocks, "encoder/"), **carry.unet_names("decoder/", "head/")}
  make = lambda: keras_models.unet_densenet(size, BANDS, blocks)
  theirs = make()
  carry.to_keras(theirs, variables, names)
  expected = dict(zip(keys, keras_models.evaluate(theirs, x)))
  rows = _by_output(what, "keras", x, parity.apply(net, variables, x), expected)
  if not training:
    return rows
  return rows + parity.keras_training(what, net, variables, x, make, names, keys)


def torch_deeplabv3plus(
  size=256, blocks=DENSENET121, features=256, rates=(6, 12, 18), training=True
) -> list[parity.Row]:
  """At /16: inference, then a step of its training; two images, for torch takes no statistics of one pooled value."""
  from tests.oracles import torch_models

  settings = config(blocks, torch=True)
  settings = {
    "architecture": "deeplabv3plus_densenet",
    "encoder": {**settings["encoder"], "output_stride": 16},
    "decoder": {**settings["decoder"], "aspp_features": features, "features": features, "rates": rates},
  }
  net, x = models.make_segmenter(settings), np.concatenate([image(size), image(size, seed=2)])
  variables, names = carry.random_variables(net, x), carry.torch_names(blocks, "encoder/")
  theirs = carry.to_torch(torch_models.DeepLabV3Plus(BANDS, blocks, features, rates), variables, names)
  ours, expected = parity.apply(net, variables, x), parity.flat_outputs(parity.run_torch(theirs, x))
  what = f"DeepLabV3+-{_name(blocks)} at /16"
  rows = _by_output(what, "torch", x, ours, expected)
  if not training:
    return rows
  return rows + parity.torch_training(what, net, variables, (x,), theirs, names)


def torch_densenet(size=256, blocks=DENSENET121, noise=True) -> list[parity.Row]:
  from tests.oracles import torch_models

  net, x = models.DenseNet(blocks, bn_epsilon=1e-5, bn_momentum=0.9), image(size)
  variables, names = carry.random_variables(net, x, train=False), carry.torch_names(blocks)
  theirs = carry.to_torch(torch_models.DenseNet(BANDS, blocks), variables, names)
  ours, expected = parity.apply(net, variables, x, train=False), parity.run_torch(theirs, x)
  rows = _by_output(f"{_name(blocks)} tap", "torch", x, ours, expected)
  return rows + parity.torch_training(_name(blocks), net, variables, (x,), theirs, names, noise=noise)


def torch_fpn_densenet(size=256, blocks=DENSENET121) -> list[parity.Row]:
  from tests.oracles import torch_models

  net, x = models.make_segmenter(config(blocks, torch=True)), image(size)
  variables, names = carry.random_variables(net, x), carry.torch_names(blocks, "encoder/")
  theirs = carry.to_torch(torch_models.Segmenter(BANDS, block_sizes=blocks), variables, names)
  ours, expected = parity.apply(net, variables, x), parity.flat_outputs(parity.run_torch(theirs, x))
  what = f"FPN-{_name(blocks)}"
  rows = _by_output(what, "torch", x, {"logits": ours["logits"]}, {"logits": expected["logits"]})
  return rows + parity.torch_training(what, net, variables, (x,), theirs, names)


def torch_minec2fnet(size=256, blocks=DENSENET121, training=True) -> list[parity.Row]:
  """The student, injected at five levels, with its teacher in front: at inference, then a step of its training."""
  from tests.oracles import torch_models

  settings, x, names = config(blocks, torch=True), image(size), carry.torch_names(blocks, "encoder/")
  teacher, student = models.make_segmenter(settings), models.make_minec2fnet(settings)
  teacher_variables = carry.random_variables(teacher, x, seed=5)
  features = {name: value for name, value in parity.apply(teacher, teacher_variables, x).items() if name in LEVELS}
  variables = carry.random_variables(student, x, features)
  torch_teacher = carry.to_torch(torch_models.Segmenter(BANDS, block_sizes=blocks), teacher_variables, names)
  theirs = carry.to_torch(torch_models.Segmenter(BANDS, LEVELS, blocks), variables, names)
  expected = parity.run_torch(theirs, x, parity.run_torch(torch_teacher, x)["features"])
  ours = parity.apply(student, variables, x, features)
  rows = _by_output("MineC2FNet", "torch", x, {"logits": ours["logits"]}, {"logits": expected["logits"]})
  if not training:
    return rows
  return rows + parity.torch_training("MineC2FNet", student, variables, (x, features), theirs, names)


def torch_modules(size=256, widths=WIDTHS) -> list[parity.Row]:
  """CBAM, both gated fusions and the refinement on maps as an image of `size` pixels gives at each level."""
  from tests.oracles import torch_models

  norm = {"bn_momentum": 0.9}
  gscnn = models.GatedFusion(kind="gscnn", gate_channels="one", **norm)
  pairs = {
    "CBAM": (models.CBAM(**norm), torch_models.CBAM, 1),
    "Gated fusion, convex": (models.GatedFusion(**norm), torch_models.ConvexFusion, 2),
    "Gated fusion, Gated-SCNN": (gscnn, torch_models.GatedConvolution, 2),
    "Refinement, 2 steps": (models.Refinement(**norm), torch_models.Refinement, 1),
  }
  rows = []
  for what, (net, make, inputs) in pairs.items():
    levels = []
    for width in widths:
      side = size >> (1 + WIDTHS.index(width))
      shape = (1, side, side, width)
      args = tuple(np.random.default_rng(k).normal(size=shape).astype(np.float32) for k in range(inputs))
      variables = carry.random_variables(net, *args, train=False)
      theirs = carry.to_torch(make(width), variables)
      ours, expected = parity.apply(net, variables, *args, train=False), parity.run_torch(theirs, *args)
      found = [parity.row(what, "torch", "", ours, parity.flat_outputs(expected))]
      levels.append(found + parity.torch_training(what, net, variables, args, theirs))
    rows += [parity.worst(same, f"{len(widths)} levels of {size}x{size}") for same in zip(*levels)]
  return rows


def _by_output(what, against, x, ours, expected, size=None):
  if ours.keys() != expected.keys():
    raise ValueError(f"{what}: {sorted(ours)} here, {sorted(expected)} there.")
  size = size or parity.size_of(x)
  return [parity.row(f"{what} {name}", against, size, {name: ours[name]}, {name: expected[name]}) for name in ours]


def _name(blocks):
  return "DenseNet-121" if tuple(blocks) == DENSENET121 else f"DenseNet {tuple(blocks)}"
