"""The config that a run has noted, for those who come back to it.

Also a file for --config, as `.../noted.py:WORKDIR`: launch.py puts it there, so that --config.NAME=VALUE changes what
the run has noted.
"""

import os
import pathlib
from collections.abc import Callable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from minec2f_jax.errors import UserError
from minec2f_jax.training import checkpoints


def read_plain(workdir) -> dict:
  """The content of config.json in the workdir of a run, or of the run that the folder of a stage lies in.

  Raises:
    UserError: there is none, or it is damaged.
  """
  folder = pathlib.Path(os.path.expanduser(workdir))
  path = (folder.parent if (folder / "stage.json").exists() else folder) / "config.json"
  if not path.exists():
    raise UserError(f"{workdir}: there is no run (no {path.name}); give the folder of one that is finished.")
  plain = checkpoints.read_json(path)
  if not isinstance(plain, dict):
    raise UserError(f"{path}: is not what a run writes; restore it.")
  return plain


def get_config(workdir) -> ConfigDict:
  """The config of the run in `workdir`, of which a command line may set every field; not checked yet.

  Raises:
    UserError: as `read_plain`.
  """
  return ConfigDict(_restored(read_plain(workdir), nothing=lambda: placeholder(str)))


def to_config(plain: dict) -> ConfigDict:
  """The config of which `plain` is the JSON."""
  return ConfigDict(_restored(plain, nothing=lambda: None))


def _restored(value, *, nothing: Callable[[], object]):
  """JSON has lists for tuples, and configs have no lists; a bare None, which no flag could set, becomes `nothing`."""
  if isinstance(value, dict):
    return {name: _restored(entry, nothing=nothing) for name, entry in value.items()}
  if isinstance(value, list):
    return tuple(_restored(entry, nothing=nothing) for entry in value)
  return nothing() if value is None else value
