"""Reference networks in Keras 3 on its JAX backend: keras.applications' DenseNet, and an FPN and a U-Net
written from their descriptions (segmentation_models' flavour; of the FPN: no smoothing on the pyramid, nearest,
concatenated, bilinear at the end).

Importing this needs keras and raises ImportError where it is absent or runs on another backend.
"""

import contextlib
import os
import warnings
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

if keras.backend.backend() != "jax":
  raise ImportError(f"keras runs on {keras.backend.backend()!r} here; the parity needs KERAS_BACKEND=jax.")

TAPS = ("conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv", "relu")  # c1 to c5
DENSENET121 = (6, 12, 24, 16)
WIDTHS = (64, 128, 256, 512, 1024)


def densenet(size: int, bands: int, block_sizes=DENSENET121) -> keras.Model:
  """image -> the five taps."""
  options = dict(weights=None, include_top=False, input_shape=(size, size, bands))
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*expects 1 or 3 input channels.*")
    if block_sizes == DENSENET121:
      net = keras.applications.DenseNet121(**options)
    else:  # Shallower ones are not exported.
      from keras.src.applications import densenet as unexported

      net = unexported.DenseNet(block_sizes, **options)
  return keras.Model(net.input, [net.get_layer(name).output for name in TAPS])


def fpn(size: int, widths=WIDTHS) -> keras.Model:
  """The five taps of an image of `size` pixels -> (decoder map, logits)."""
  taps = [keras.Input((size // 2**n, size // 2**n, width)) for n, width in enumerate(widths, start=1)]
  return keras.Model(taps, _decode(taps))


def fpn_densenet(size: int, bands: int, block_sizes=DENSENET121) -> keras.Model:
  """image -> (decoder map, logits)."""
  encoder = densenet(size, bands, block_sizes)
  return keras.Model(encoder.input, _decode(encoder.outputs))


@contextlib.contextmanager
def in_float64():
  """Within it, models are made and run in float64.

  On the JAX backend Keras' rules of promotion turn float64 into float32 whatever the policy says, and its BN asks
  them; so that table (no public name of Keras') is changed too.
  """
  from keras.src.backend.common import dtypes

  floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
  with jax.enable_x64(True), mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, {"float64": "float64"}):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
      yield
    finally:
      keras.config.set_floatx(floatx)
      keras.config.set_dtype_policy(policy)


def evaluate(model: keras.Model, inputs):
  """The outputs at inference."""
  outputs, _ = jax.jit(lambda *args: model.stateless_call(*args, training=False))(*_values(model), inputs)
  return outputs


def train(model: keras.Model, inputs, loss):
  """One forward and backward pass in training mode.

  Args:
    loss: outputs -> scalar.

  Returns:
    (outputs, {id of a trainable Keras variable: gradient}, {id of another one: its new value}).
  """

  def objective(trainable, others):
    outputs, others = model.stateless_call(trainable, others, inputs, training=True)
    return loss(outputs), (outputs, others)

  grads, (outputs, others) = jax.jit(jax.grad(objective, has_aux=True))(*_values(model))
  by_id = lambda variables, values: {id(variable): np.asarray(value) for variable, value in zip(variables, values)}
  return outputs, by_id(model.trainable_variables, grads), by_id(model.non_trainable_variables, others)


def _values(model):
  return [x.value for x in model.trainable_variables], [x.value for x in model.non_trainable_variables]


def unet_densenet(size: int, bands: int, block_sizes=DENSENET121) -> keras.Model:
  """image -> (five taps, decoder map, logits), as segmentation_models' `Unet` with its defaults."""
  layers, encoder = keras.layers, densenet(size, bands, block_sizes)
  *skips, x = encoder.outputs
  for stage, (width, skip) in enumerate(zip((256, 128, 64, 32, 16), (*reversed(skips), None))):
    x = layers.UpSampling2D(2, interpolation="nearest")(x)
    x = x if skip is None else layers.Concatenate()([x, skip])
    for part in "ab":
      x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"decoder_stage{stage}{part}_conv")(x)
      x = layers.ReLU()(layers.BatchNormalization(epsilon=1e-3, name=f"decoder_stage{stage}{part}_bn")(x))
  logits = layers.Conv2D(1, 3, padding="same", name="final_conv")(x)
  return keras.Model(encoder.input, [*encoder.outputs, x, logits])


def _decode(taps):
  layers = keras.layers

  def conv_norm_relu(x, stage):
    x = layers.Conv2D(128, 3, padding="same", use_bias=False, name=f"{stage}_conv")(x)
    return layers.ReLU()(layers.BatchNormalization(epsilon=1e-3, name=f"{stage}_bn")(x))

  x, maps = layers.Conv2D(256, 1, name="fpn_stage_p5_pre_conv")(taps[-1]), []
  for stage in (5, 4, 3, 2):
    lateral = layers.Conv2D(256, 1, name=f"fpn_stage_p{stage}_conv")(taps[stage - 2])
    x = layers.Add()([layers.UpSampling2D(2, interpolation="nearest")(x), lateral])
    y = conv_norm_relu(conv_norm_relu(x, f"segm_stage{stage}a"), f"segm_stage{stage}b")
    factor = 2 ** (stage - 2)
    maps.insert(0, layers.UpSampling2D(factor, interpolation="nearest")(y) if factor > 1 else y)
  x = decoder = conv_norm_relu(layers.Concatenate()(maps), "final_stage")
  x = layers.UpSampling2D(2, interpolation="bilinear")(x)
  return [decoder, layers.Conv2D(1, 3, padding="same", name="head_conv")(x)]
