"""What is known of each kind of network that there are weight files of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn


class Family(NamedTuple):
  """A kind of network that there are weight files of."""

  name: str  # what messages call it, after "a"
  files: str  # which files to give
  module: type[nn.Module]
  # `tensors -> fields`: those of `module` that a file's names and shapes tell; {} if it holds another network.
  fields: Callable[[Mapping[str, np.ndarray]], dict[str, Any]]
  # `(tensors, *, bands, adapter, encoder) -> (variables, module, ignored)`, as of `pretrained.Encoder`. Raises a
  # `weight_check.Misfit` that names all that does not fit, or a UserError about the request.
  fit: Callable[..., tuple[dict, nn.Module, tuple[str, ...]]]
  # `module -> {label: text}`: what the summary tells of the network.
  notes: Callable[[nn.Module], dict[str, str]]
