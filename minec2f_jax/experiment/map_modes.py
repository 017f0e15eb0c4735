"""The modes of launch.py that use a trained run: what `map_flags` has read becomes arguments here.

Each imports what it needs: one needs no network, another no vector files.
"""

from collections.abc import Callable, Sequence
from typing import Any

from minec2f_jax.errors import UserError


def run(mode: str, config, options: dict[str, Any], *, cache):
  """Does what `mode` says.

  Args:
    mode: a key of `map_flags.MODES`.
    config: None for the one that the run has noted; of use to modes that load a run.
    options: `map_flags.given(mode)`.
    cache: folder of programs, as for `experiment.train`.
  """
  _MODES[mode](config, cache, **options)


def _predict(config, cache, *, checkpoint, input, output, **how):
  from minec2f_jax.experiment import mapper

  mapper.predict(config, checkpoint, inputs=input, output=output, cache=cache, **how)


def _export(config, cache, *, checkpoint, output, **how):
  from minec2f_jax.experiment import exporter

  how = {name: tuple(value) for name, value in how.items()}  # Of flags.
  exporter.export(config, checkpoint, output, cache=cache, **how)


def _vectorize(config, cache, *, input, output, **how):
  from minec2f_jax.mapping import vectorize

  vectorize.vectorize(input, output, **how)


def _quicklook(config, cache, *, input, output, scene=None):
  from minec2f_jax.mapping import quicklook

  quicklook.draw(_one(input), scene, output)


def _sample(config, cache, *, input, output, sample_points=None, sample_seed=0):
  from minec2f_jax.mapping import sample

  sample.draw(_one(input), output, sample.Design(total=sample_points, seed=sample_seed))


def _area(config, cache, *, input, reference, output=None):
  from minec2f_jax.mapping import area_estimate

  area_estimate.estimate(_one(input), reference, output)


def _one(inputs: Sequence[str]) -> str:
  if len(inputs) > 1:
    raise UserError(
      f"--input is given {len(inputs)} times ({', '.join(inputs)}), and this mode takes one map; give one."
    )
  return inputs[0]


_MODES: dict[str, Callable] = {
  "predict": _predict,
  "vectorize": _vectorize,
  "quicklook": _quicklook,
  "sample": _sample,
  "area": _area,
  "export": _export,
}
