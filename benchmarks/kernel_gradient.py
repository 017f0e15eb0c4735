"""The gradient of a convolution by its kernel on a CPU: ours (models/convolution.py), XLA's own, PyTorch's.

Command:  python -m benchmarks.kernel_gradient

Shapes are those of the full-size networks at batch 4 and 256 px. The three take turns; medians of ten, in one run.
Writes benchmarks/results/DATE_kernel_gradient.json. Half a minute.
"""

import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from jax import lax

from benchmarks import record
from minec2f_jax import console
from minec2f_jax.models import convolution

SHAPES = (  # batch, height = width, channels in and out, height = width of the kernel
  (4, 128, 128, 128, 3),
  (4, 64, 256, 128, 3),
  (4, 64, 128, 32, 3),
  (4, 32, 128, 32, 3),
  (4, 16, 128, 32, 3),
  (4, 64, 128, 128, 2),
  (4, 32, 128, 128, 2),
)
ROUNDS = 10


def main():
  rows = [_measure(*shape) for shape in SHAPES]
  path = record.write("kernel_gradient", {"unit": "ms", "rows": rows})
  console.say(f"{'':40s}{'ours':>9}{'XLA':>9}{'PyTorch':>9}   ms")
  for row in rows:
    times = "".join(f"{row[name]:>9.2f}" if row[name] else f"{'-':>9}" for name in ("ours", "xla", "torch"))
    console.say(f"{row['what']:40s}{times}")
  console.say(str(path))


def _measure(batch, size, channels, features, edge) -> dict:
  rng = np.random.default_rng(0)
  x, cotangent = (rng.standard_normal((batch, size, size, c), np.float32) for c in (channels, features))
  kernel = rng.standard_normal((edge, edge, channels, features), np.float32)
  padding = ((edge // 2, (edge - 1) // 2),) * 2
  native = lambda x, kernel: lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  ours = lambda x, kernel: convolution.conv(x, kernel, padding)
  jobs = {"ours": _gradient(ours, x, kernel, cotangent), "xla": _gradient(native, x, kernel, cotangent)}
  if edge % 2:  # PyTorch pads both ends alike.
    jobs |= _torch(x, kernel, cotangent, edge // 2)
  seconds = {name: [] for name in jobs}
  for _ in range(ROUNDS + 1):
    for name, job in jobs.items():
      began = time.perf_counter()
      job()
      seconds[name].append(time.perf_counter() - began)
  medians = {name: 1e3 * statistics.median(found[1:]) for name, found in seconds.items()}
  what = f"{batch} x {size} x {size} x {channels} to {features}, {edge} x {edge}"
  return {"what": what, "ours": medians["ours"], "xla": medians["xla"], "torch": medians.get("torch")}


def _gradient(conv, x, kernel, cotangent):
  run = jax.jit(lambda x, kernel, cotangent: jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](cotangent))
  return lambda: jax.block_until_ready(run(x, kernel, cotangent))


def _torch(x, kernel, cotangent, padding) -> dict:
  try:
    import torch
  except ImportError:
    return {}
  x, cotangent = (torch.tensor(a).permute(0, 3, 1, 2) for a in (x, cotangent))
  kernel = torch.tensor(kernel).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
  options = (None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, [False, True, False])
  return {"torch": lambda: torch.ops.aten.convolution_backward(cotangent, x, kernel, *options)}


if __name__ == "__main__":
  main()
