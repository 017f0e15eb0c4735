"""What float32 and bfloat16 cost: losses beside float64, networks in bfloat16 beside float32."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from minec2f_jax import distillation, losses, models
from tests.oracles import carry, network_parity, parity

LOSSES = {
  "BCE": lambda student, teacher, label: losses.bce_loss(student, label),
  "Dice": lambda student, teacher, label: losses.dice_loss(student, label),
  "SSIM": lambda student, teacher, label: losses.ssim_loss(student, label),
  "boundary": lambda student, teacher, label: losses.boundary_loss(student, label),
  "hybrid distillation": lambda student, teacher, label: distillation.distillation_loss(student, teacher, label),
}
SCALES, SEEDS = (1.0, 4.0, 16.0), (0, 1, 2)  # of the logits' draws
BFLOAT16_TOLERANCE = 0.1
BFLOAT16_NOTE = "bfloat16 has 8 significant bits (4e-3), and rounding adds up over the layers"


def draw_logits(batch, size, scale, seed):
  """(student, teacher, label) [B, H, W] float32: blobs, and logits that mostly agree with them."""
  rng = np.random.default_rng(seed)
  smooth = lambda sigma: ndimage.gaussian_filter(rng.normal(size=(batch, size, size)), (0, sigma, sigma)) * 2 * sigma
  blobs = smooth(6)
  logits = [scale * (2 * blobs + smooth(3) + 0.5 * rng.normal(size=blobs.shape)) for _ in range(2)]
  return (*(x.astype(np.float32) for x in logits), (blobs > 0.5).astype(np.float32))


def loss_rows(batch=8, size=256) -> list[parity.Row]:
  """Every loss and its gradient by the student's logits, float32, beside the same code in float64 and torch's.

  A row has the worst of all draws: one alone says little where digits cancel.
  """
  references = {"float64 (JAX)": _jax_in_float64}
  try:
    from tests.oracles import torch_losses

    references["float64 (torch)"] = torch_losses.value_and_grad
  except ImportError:
    pass
  place, found = f"{batch}x{size}x{size}", {}
  compiled = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in LOSSES.items()}
  for scale, seed in itertools.product(SCALES, SEEDS):
    arrays = draw_logits(batch, size, scale, seed)
    for name, against in itertools.product(LOSSES, references):
      ours, exact = compiled[name](*arrays), references[against](name, *arrays)
      for n, what in enumerate((f"Loss {name}", f"Loss {name}: gradient")):
        draw = f"scale {scale:.0f}, seed {seed}"
        row = parity.row(what, against, place, {draw: ours[n]}, {draw: exact[n]})
        found.setdefault((what, against), []).append(row)
  return [parity.worst(rows, place) for rows in found.values()]


def _jax_in_float64(name, *arrays):
  with jax.enable_x64(True):
    value, grad = jax.jit(jax.value_and_grad(LOSSES[name]))(*(jnp.asarray(x, jnp.float64) for x in arrays))
    if value.dtype != jnp.float64:
      raise TypeError(f"{name} in float64 gives {value.dtype}.")
    return np.asarray(value), np.asarray(grad)


def bfloat16_rows(size=256, blocks=network_parity.DENSENET121, with_student=True) -> list[parity.Row]:
  """Taps, decoder map and logits of the teacher and the student: bfloat16 beside float32, the same parameters."""
  settings, x = network_parity.config(blocks), network_parity.image(size)
  teacher = models.make_segmenter(settings)
  teacher_variables = carry.random_variables(teacher, x, seed=5)
  exact = parity.apply(teacher, teacher_variables, x)
  near = parity.apply(models.make_segmenter({**settings, "dtype": "bfloat16"}), teacher_variables, x)
  rows = _drift("FPN-DenseNet", x, near, exact)
  if not with_student:
    return rows
  level = lambda outputs: {name: outputs[name] for name in network_parity.LEVELS}
  student = models.make_minec2fnet(settings)
  variables = carry.random_variables(student, x, level(exact))
  exact_student = parity.apply(student, variables, x, level(exact))
  student = models.make_minec2fnet({**settings, "dtype": "bfloat16"})
  return rows + _drift("MineC2FNet", x, parity.apply(student, variables, x, level(near)), exact_student)


def bfloat16_dtypes(size=32, blocks=(1, 1, 1, 1)) -> dict[str, set]:
  """The dtypes that a training step of the student in bfloat16 has, by what they are of."""
  settings = {**network_parity.config(blocks), "dtype": "bfloat16"}
  teacher, student, x = models.make_segmenter(settings), models.make_minec2fnet(settings), network_parity.image(size)
  label = jnp.zeros(x.shape[:3])

  def run(x):
    outputs = teacher.apply(teacher.init(jax.random.key(0), x), x)
    variables = student.init(jax.random.key(1), x, outputs["features"])

    def objective(params):
      now, updates = student.apply(
        {**variables, "params": params}, x, outputs["features"], train=True, mutable=["batch_stats"]
      )
      logits = now["logits"][..., 0]
      loss, parts = losses.segmentation_loss(logits, label)
      transferred = distillation.distillation_loss(logits, outputs["logits"][..., 0], label)
      return loss + transferred, {**now, "losses": (loss, parts, transferred), "batch_stats": updates["batch_stats"]}

    (_, seen), grads = jax.value_and_grad(objective, has_aux=True)(variables["params"])
    return {**seen, "params": variables["params"], "gradients": grads}

  seen = jax.eval_shape(run, x)
  return {name: {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} for name, tree in seen.items()}


def _drift(what, x, near, exact):
  return [
    parity.row(
      f"{what} {name}, bfloat16",
      "float32",
      parity.size_of(x),
      {name: near[name]},
      {name: exact[name]},
      BFLOAT16_TOLERANCE,
      note=BFLOAT16_NOTE,
    )
    for name in exact
  ]
