"""A function as a StableHLO program that JAX alone runs, on images of any size."""

import contextlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import export


def serialize(
  probability: Callable, variables, *, channels: int, size: int, platforms: Sequence[str]
) -> tuple[bytes, str | list[int]]:
  """The program of `probability` with the weights in it, and which image sizes it takes.

  Args:
    probability: of `make_probability`.
    variables: its first argument.
    channels: of the image.
    size: height and width for networks that need to know them (position tables); the number of images is free always.
    platforms: what it is to run on, out of "cpu", "cuda", "rocm" and "tpu".

  Returns:
    (what `jax.export.deserialize` takes, "any" or [height, width]).
  """

  def function(image):
    # Else XLA folds sums of kernels into constants, which rounds otherwise than the network that was trained.
    return probability(jax.lax.optimization_barrier(variables), image)

  def trace(height, width):
    image = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
    with _nameless():
      return bytes(export.export(jax.jit(function), platforms=tuple(platforms))(image).serialize())

  batch, height, width = export.symbolic_shape("batch, height, width")
  try:
    return trace(height, width), "any"
  except (jax.errors.InconclusiveDimensionOperation, jax.errors.ConcretizationTypeError):
    return trace(size, size), [size, size]


@contextlib.contextmanager
def _nameless():
  """Programs made meanwhile do not name the files they come from: same model, same bytes, on every machine."""
  name, usual = "jax_traceback_in_locations_limit", jax.config.jax_traceback_in_locations_limit
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, usual)


def load(content: bytes) -> Callable:
  """`image -> probability` of what `serialize` returned."""
  return jax.jit(export.deserialize(bytearray(content)).call)
