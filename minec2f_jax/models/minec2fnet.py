"""MineC2FNet: a segmenter with a frozen teacher's features injected (paper Sec. 4.3, Fig. 3).

The teacher is no part of the module: its features come in as an argument, because its parameters
live outside the trainable tree, and because one run of it per step serves both the injection and
the teacher's logits.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax.models import padding
from minec2f_jax.models.cbam import CBAM
from minec2f_jax.models.gated_fusion import GatedFusion
from minec2f_jax.models.refinement import Refinement

LEVELS = ("c1", "c2", "c3", "c4", "c5", "decoder")


class AttentiveInjection(nn.Module):
  """Attentive feature injection at one level: gated fusion, then CBAM, then diffusion refinement.

  Each part can be switched off, as in the paper's ablation (Table 3).

  Attributes:
    gate: "convex" or "gscnn" (see `GatedFusion`), or "none": the student's features alone go on.
    gate_channels: "full" or "one".
    cbam: whether a CBAM follows the fusion.
    cbam_reduction: of all CBAMs, the refinement's too.
    cbam_spatial_bn: of all CBAMs.
    refinement_steps: T_r of Eq. 6-8; 0 switches the refinement off.
    zero_init: let the refinement start as the identity.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  gate: str = "convex"
  gate_channels: str = "full"
  cbam: bool = True
  cbam_reduction: int = 16
  cbam_spatial_bn: bool = True
  refinement_steps: int = 2
  zero_init: bool = False
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, teacher_features, student_features, *, train):
    """The injected features.

    Args:
      teacher_features: [B, H, W, C] float; may be None if `gate` is "none".
      student_features: [B, H, W, C] float.
      train: whether BN uses the batch's statistics.

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: if `gate` is not known.
    """
    common = {"bn_momentum": self.bn_momentum, "bn_epsilon": self.bn_epsilon, "dtype": self.dtype}
    attention = {"reduction": self.cbam_reduction, "spatial_bn": self.cbam_spatial_bn}
    x = student_features
    if self.gate not in ("convex", "gscnn", "none"):
      raise ValueError(f'gate is {self.gate!r}; it must be "convex", "gscnn" or "none".')
    if self.gate != "none":
      x = GatedFusion(kind=self.gate, gate_channels=self.gate_channels, **common, name="fusion")(
        teacher_features, x, train=train
      )
    if self.cbam:
      x = CBAM(**attention, **common, name="cbam")(x, train=train)
    if self.refinement_steps:
      x = Refinement(steps=self.refinement_steps, zero_init=self.zero_init, **attention, **common, name="refinement")(
        x, train=train
      )
    return x


class MineC2FNet(nn.Module):
  """The student of Task 2.

  `encoder`, `decoder` and `head` have the names of `Segmenter`'s, so that a student can start from
  a teacher's tree, or a pretrained one, by key; what is new is called `injection_{level}`.

  Attributes:
    encoder, decoder, head: as in `Segmenter`.
    injection: the `AttentiveInjection` that every level gets its own copy of.
    fusion_levels: which of "c1" to "c5" (encoder outputs) and "decoder" (the map before the head)
      are injected. The paper does not say where; all five encoder outputs are our choice. () is a
      plain segmenter.
  """

  encoder: nn.Module
  decoder: nn.Module
  head: nn.Module
  injection: nn.Module = AttentiveInjection()
  fusion_levels: tuple[str, ...] = ("c1", "c2", "c3", "c4", "c5")

  @nn.compact
  def __call__(self, image, teacher_features, *, train=False):
    """Injected features, decoder map and logits of an image.

    Args:
      image: [B, H, W, C] float, H and W at least 1. As in `Segmenter`, all maps but the logits are those
        of the image padded to multiples of 32 pixels, and so is what injection (gates, CBAM) sees.
      teacher_features: dict with the frozen teacher's map of every level in `fusion_levels`, shaped
        like the student's: what a `Segmenter` returns for the same image. More is ignored, and with
        `gate="none"` all is. Gradient stopped.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      As `Segmenter`: {"features", "decoder", "logits" [B, H, W, 1] float32}. "features" and
      "decoder" are what the decoder and the head receive, after the injection.

    Raises:
      ValueError: if a level is not known, or its teacher features are missing or of another shape.
    """
    unknown = sorted(set(self.fusion_levels) - set(LEVELS))
    if unknown:
      raise ValueError(f"fusion_levels has {unknown}; allowed are {LEVELS}.")

    def inject(level, student):
      if level not in self.fusion_levels:
        return student
      teacher = None
      if self.injection.gate != "none":
        teacher = jax.lax.stop_gradient(_teacher_map(teacher_features, level, student.shape))
      return self.injection.copy(name=f"injection_{level}")(teacher, student, train=train)

    encoded = self.encoder(padding.pad_image(image), train=train)
    features = {level: inject(level, x) for level, x in encoded.items()}
    x = inject("decoder", self.decoder(features, train=train))
    return {"features": features, "decoder": x, "logits": padding.crop(self.head(x), image.shape[1:3])}


def _teacher_map(teacher_features, level, shape):
  if level not in teacher_features:
    raise ValueError(
      f"the fusion at {level!r} needs the teacher's map, but teacher_features has only "
      f"{sorted(teacher_features)}: pass it, or take {level!r} out of fusion_levels."
    )
  teacher = teacher_features[level]
  if teacher.shape != shape:
    raise ValueError(
      f"at {level!r} the teacher's map is {teacher.shape} and the student's {shape}: both need "
      "the same architecture and image size."
    )
  return teacher
