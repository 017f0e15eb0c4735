"""A short training run of a toy MineC2FNet, after its teacher's, in bfloat16 and in float32."""

import jax
import numpy as np

from configs import fine_hybrid
from minec2f_jax import experiment, methods
from minec2f_jax.training import state as state_lib
from minec2f_jax.training import step as step_lib
from tests import toy
from tests.oracles import parity

STEPS, IMAGES = 30, 8
SIZE = f"{STEPS} steps, {IMAGES}x32x32"


def settled_config(dtype="float32"):
  """A toy run whose end hardly depends on rounding.

  At `toy.shrink`'s own it does: float32 runs whose start differs by a relative 2^-9, bfloat16's precision, end with
  other masks on 8 % of the pixels (mean of 18). Twice the channels, the whole set as one batch, no augmentation, quick
  statistics and small steps bring that to 1 %.
  """
  config = toy.shrink(fine_hybrid.get_config())
  config.model.dtype = dtype
  config.model.encoder.update(dict(growth_rate=8, stem_features=16, bn_momentum=0.7))
  config.model.decoder.update(dict(pyramid_features=32, segmentation_features=16, bn_momentum=0.7))
  config.model.fusion.update(dict(bn_momentum=0.7, levels=("c5",)))
  config.optimizer.update(dict(warmup_epochs=0, learning_rate=3e-3))
  config.data.batch_size = IMAGES
  config.data.augment.update(dict(hflip=0.0, vflip=0.0, rot90=0.0, shift_scale_rotate=0.0))
  return config


def train(config, name, source, prior=None, *, steps=STEPS):
  """(state, last step's metrics, variables, logits of the whole source) after some steps of one stage."""
  wired = experiment.wire(config)[name]
  stage = experiment.make_stage(config, name, wired, source, source)
  key, batches = jax.random.key(0), stage.feed.inputs(0)
  variables = jax.jit(stage.method.init)(key, source.image[:1], prior)
  state = state_lib.init_state(variables, stage.optimizer)
  train_steps = step_lib.make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
  for _ in range(steps):
    inputs = jax.tree.map(lambda x: x[None], next(batches))
    state, metrics = train_steps(state, variables.frozen, stage.feed.held, inputs, key)
  variables, metrics = (
    methods.Variables(state.trainable, variables.frozen, state.extra),
    {k: v[-1] for k, v in metrics.items()},
  )
  return state, metrics, variables, wired.predict(variables, {"image": source.image, "valid": source.valid})


def by_dtype() -> dict[str, tuple]:
  """{"float32" and "bfloat16": (state, last metrics, logits) of a student}, of one teacher in float32."""
  source, runs = toy.ArraySource(IMAGES), {}
  _, _, teacher, _ = train(settled_config(), "coarse", source)
  for dtype in ("float32", "bfloat16"):
    state, metrics, _, logits = train(settled_config(dtype), "fine", source, teacher)
    runs[dtype] = state, metrics, logits
  return runs


def compare(runs) -> list[parity.Row]:
  """The last loss, and the masks, of the two runs of `by_dtype`."""
  (near, near_mask), (exact, exact_mask) = (
    (metrics["loss"], np.asarray(logits) > 0) for _, metrics, logits in (runs["bfloat16"], runs["float32"])
  )
  agreement = np.mean(near_mask == exact_mask)
  note = "both figures are the share of the pixels where the two runs' masks differ; the others agree"
  what = "Training in bfloat16"
  return [
    parity.row(f"{what}: last loss", "float32", SIZE, {"loss": near}, {"loss": exact}, 0.1),
    parity.row(f"{what}: agreement of masks", "float32", SIZE, {"mask": agreement}, {"mask": 1.0}, 0.05, note=note),
  ]


def rows() -> list[parity.Row]:
  return compare(by_dtype())
