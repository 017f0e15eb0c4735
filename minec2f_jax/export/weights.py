"""A method's variables as a safetensors file, by the names of a run's checkpoints: "trainable/head/kernel"."""

import numpy as np
from flax import traverse_util

from minec2f_jax.errors import UserError
from minec2f_jax.methods import Variables
from minec2f_jax.models import weight_files


def to_bytes(variables: Variables) -> bytes:
  """The file's content, the same for the same variables.

  Args:
    variables: nested dicts of arrays.

  Raises:
    UserError: safetensors is not installed.
  """
  try:
    from safetensors import numpy as safetensors
  except ImportError as error:
    raise UserError("the weights cannot be written without safetensors: pip install 'minec2f_jax[export]'") from error
  leaves = traverse_util.flatten_dict(variables._asdict(), sep="/")
  # Without a copy in C order, safetensors would write a transposed array's memory as it lies.
  return safetensors.save({name: np.ascontiguousarray(leaf) for name, leaf in sorted(leaves.items())})


def read(path) -> Variables:
  """The variables in a file of `to_bytes`.

  Raises:
    UserError: no such file, or damaged, or another kind of file.
  """
  tree = traverse_util.unflatten_dict(weight_files.read(path).tensors, sep="/")
  if "trainable" not in tree or not set(tree) <= set(Variables._fields):
    raise UserError(f"{path}: holds {sorted(tree)}, not what an export writes; take its model.safetensors")
  return Variables(**{name: tree.get(name, {}) for name in Variables._fields})
