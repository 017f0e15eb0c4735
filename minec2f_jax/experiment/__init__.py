"""A whole run: the one room that reads a config and wires data, methods, training and evaluation together."""

from minec2f_jax.experiment.checks import check_config
from minec2f_jax.experiment.data import DOMAINS, open_source, open_sources
from minec2f_jax.experiment.run import train
from minec2f_jax.experiment.scoring import evaluate
from minec2f_jax.experiment.stages import Wired, load_stage, make_stage, programs_of, stage_spec, stages_of, wire

__all__ = [
  "DOMAINS",
  "Wired",
  "check_config",
  "evaluate",
  "load_stage",
  "make_stage",
  "open_source",
  "open_sources",
  "programs_of",
  "stage_spec",
  "stages_of",
  "train",
  "wire",
]
