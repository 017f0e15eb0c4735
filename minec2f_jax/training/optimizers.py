"""AdamW with warm-up, and the epoch-wise rules on the validation score (paper Sec. 4.5 and 7.3.3)."""

import dataclasses
import math
import operator
from collections.abc import Callable

import jax
import optax


def make_optimizer(
  *,
  learning_rate: float,
  weight_decay: float,
  warmup_steps: int,
  clip_norm: float = 0.0,
  rates: Callable | None = None,
) -> optax.GradientTransformation:
  """AdamW as Keras has it: decay on every variable, epsilon 1e-7, linear warm-up to the base rate.

  Args:
    learning_rate: base rate, reached at step `warmup_steps`.
    weight_decay: decoupled; a step removes `learning_rate * weight_decay` of each variable.
    warmup_steps: step i < warmup_steps uses `learning_rate * (i + 1) / warmup_steps`. The paper says "5 epochs,
      linearly", not whether the rate moves by epoch or by step; here by step.
    clip_norm: clip the gradient's global norm to this; 0 = off, as in the paper.
    rates: a method's `rates`, factors of the update of each parameter, its decay included; None = 1 everywhere.
  """

  def schedule(step):
    return learning_rate * optax.linear_schedule(1 / max(warmup_steps, 1), 1.0, max(warmup_steps - 1, 1))(step)

  adamw = optax.adamw(schedule if warmup_steps > 1 else learning_rate, eps=1e-7, weight_decay=weight_decay)
  parts = [optax.clip_by_global_norm(clip_norm), adamw] if clip_norm else [adamw]
  if rates is not None:
    parts.append(optax.stateless(lambda updates, params: jax.tree.map(operator.mul, updates, rates(params))))
  return optax.chain(*parts) if len(parts) > 1 else adamw


@dataclasses.dataclass(frozen=True)
class ScoreRules:
  """Keras' ReduceLROnPlateau and EarlyStopping on one score that should grow. Counts are epochs."""

  warmup_epochs: int = 5
  plateau_factor: float = 0.5
  plateau_patience: int = 3
  plateau_min_delta: float = 1e-4  # Keras' default; the paper gives none.
  stop_patience: int = 10


@dataclasses.dataclass(frozen=True)
class Progress:
  """Where the rules stand after `epoch` epochs. Plain numbers: it is saved as JSON beside the weights."""

  epoch: int = 0
  best_score: float = -math.inf
  best_epoch: int = 0
  plateau_score: float = -math.inf
  plateau_wait: int = 0
  lr_scale: float = 1.0
  sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of the epoch under way, see `logging.Tally`

  def stalled(self, rules: ScoreRules) -> bool:
    """Whether early stopping ends the run here."""
    return self.epoch - self.best_epoch >= rules.stop_patience


def after_epoch(progress: Progress, score: float, rules: ScoreRules) -> Progress:
  """`progress` one epoch later, given that epoch's validation score (NaN counts as worst).

  During warm-up the plateau rule only watches: "following the warm-up, a ReduceLROnPlateau callback was
  activated" (Sec. 7.3.3).
  """
  score = -math.inf if math.isnan(score) else score
  epoch = progress.epoch + 1
  best = score > progress.best_score or not progress.best_epoch
  changes = {"best_score": score, "best_epoch": epoch} if best else {}
  if score > progress.plateau_score + rules.plateau_min_delta:
    changes |= {"plateau_score": score, "plateau_wait": 0}
  elif epoch > rules.warmup_epochs:
    wait = progress.plateau_wait + 1
    reduce = wait >= rules.plateau_patience
    changes |= {
      "plateau_wait": 0 if reduce else wait,
      "lr_scale": progress.lr_scale * (rules.plateau_factor if reduce else 1.0),
    }
  return dataclasses.replace(progress, epoch=epoch, **changes)
