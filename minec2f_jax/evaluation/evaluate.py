"""Scores and probabilities of a trained model on a source of samples."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from minec2f_jax import devices, metrics
from minec2f_jax.data import pipeline, resident
from minec2f_jax.methods import Method, Variables
from minec2f_jax.programs import NOT_KEPT, Programs


def make_predict(method: Method, normalize: Callable, programs: Programs = NOT_KEPT) -> Callable:
  """A compiled `(variables, batch) -> [B, H, W]` logits.

  Validation, tests and figures share it, so that each method's network compiles once for them all.

  Args:
    method: whose `logits`.
    normalize: `(image, valid) -> image`, reflectance to network input.
    programs: where it is kept.
  """

  def predict(variables: Variables, batch):
    return method.logits(*variables, normalize(batch["image"], batch["valid"]))[..., 0]

  return programs.wrap("predict", predict)


count_pixels = jax.jit(metrics.confusion_counts)


def evaluate(
  predict: Callable, variables: Variables, source: pipeline.Source, *, batch_size: int
) -> metrics.ConfusionMatrix:
  """The confusion matrix of `variables` on every valid pixel of `source`, at threshold 0.5."""
  counts = [
    (count_pixels(predict(variables, batch), batch["label"], batch["valid"]), count)
    for batch, count in batches(variables, source, batch_size)
  ]
  matrix = metrics.ConfusionMatrix.empty()
  for found, count in jax.device_get(counts):  # Not before: the device need not wait for the host between batches.
    matrix = matrix.update(found[:count])
  return matrix


def predict_all(predict: Callable, variables: Variables, source: pipeline.Source, *, batch_size: int) -> np.ndarray:
  """Logits [N, H, W] of all samples of `source`, in its order."""
  found = batches(variables, source, batch_size)
  return np.concatenate([np.asarray(predict(variables, batch))[:count] for batch, count in found])


def batches(variables: Variables, source: pipeline.Source, batch_size: int) -> Iterator[tuple[pipeline.Sample, int]]:
  """`pipeline.eval_batches` on the devices of `variables`; of a resident source without a way through the host."""
  mesh = devices.mesh_of(variables)
  if not isinstance(source, resident.ResidentSource):
    for batch, count in pipeline.eval_batches(source, batch_size=batch_size):
      yield devices.cut(batch, mesh), count
    return
  for places, count in pipeline.eval_indices(len(source), batch_size=batch_size):
    yield devices.cut(_take(source.arrays, places), mesh), count


_take = jax.jit(resident.take)
