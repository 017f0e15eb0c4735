"""Keras 3 on its JAX backend as a peer: Task 1's FPN-DenseNet through `compile(jit_compile=True)`, `fit`, `predict`.

Keras leaves augmentation and losses to its user, who on this backend may call any JAX function: the augmentation is
ours, inside Keras' compiled step, so that network, training loop and optimizer alone differ. There is no mask of valid
pixels, which the others pay for. The network is that of `tests/oracles/keras_models.py`.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.peers import cases, chips  # noqa: E402
from minec2f_jax.data import augment  # noqa: E402
from tests.oracles import keras_models  # noqa: E402


def describe() -> dict:
  device = jax.devices()[0]
  kind = "cpu" if device.platform == "cpu" else "gpu"
  return {"device": kind, "kind": device.device_kind, "keras": keras.__version__, "jax": jax.__version__}


def make(case: cases.Case, variant: str) -> "Keras":
  del variant
  return Keras(case)


class Augmented(keras.Model):
  """A functional model whose train step augments first, drawing anew at every step."""

  def train_step(self, state, data):
    image, label = data
    iterations = state[2][0]  # Of the optimizer's variables the first.
    batch = {"image": image, "label": label[..., 0], "valid": jax.numpy.ones(image.shape[:3], bool)}
    batch = augment.augment(jax.random.fold_in(jax.random.key(0), iterations), batch)
    return super().train_step(state, (batch["image"], batch["label"][..., None]))


class Repeated(keras.utils.PyDataset):
  """The same batch `steps` times."""

  def __init__(self, batch: tuple, steps: int):
    super().__init__()
    self._batch, self._steps = batch, steps

  def __len__(self) -> int:
    return self._steps

  def __getitem__(self, index: int) -> tuple:
    return self._batch


class Keras:
  """Task 1 at one case, with its optimizer and one batch on the device."""

  def __init__(self, case: cases.Case):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if case.precision == "bfloat16" else "float32")
    self._model = _make_model(case)
    batch = chips.batch(case.batch, case.size)
    self._batch = jax.device_put((batch["image"], batch["label"][..., None].astype(np.float32)))

  def train(self, steps: int):
    self._model.fit(Repeated(self._batch, steps), verbose=0)  # It ends with the loss as a float.

  def infer(self, steps: int):
    self._model.predict(Repeated(self._batch[:1], steps), verbose=0)

  def parameters(self) -> int:
    return sum(int(np.prod(x.shape)) for x in self._model.trainable_variables)

  def memory(self) -> dict:
    stats = jax.devices()[0].memory_stats() or {}
    return {"peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}


def _make_model(case: cases.Case) -> keras.Model:
  config = cases.make_config(case).data
  mean, variance = ([config[name][band] ** power for band in config.bands] for name, power in (("mean", 1), ("std", 2)))
  net = keras_models.fpn_densenet(case.size, cases.BANDS, case.blocks)
  image = keras.Input((case.size, case.size, cases.BANDS))
  logits = net(keras.layers.Normalization(mean=mean, variance=variance)(image))[1]
  model = Augmented(image, keras.layers.Activation("linear", dtype="float32")(logits))
  model.compile(
    optimizer=keras.optimizers.AdamW(cases.LEARNING_RATE, weight_decay=cases.WEIGHT_DECAY, epsilon=cases.EPSILON),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    jit_compile=True,
  )
  return model
