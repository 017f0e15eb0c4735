"""The parity table: our networks and losses beside Keras, torch and float64, at full size, on the CPU.

Command:  python -m benchmarks.parity

Needs keras and torch (`pip install keras torch`). All weights and BN statistics are random, carried over by name; no
file is downloaded. Prints one line a comparison, writes docs/parity.md, and ends with status 1 if a difference is
larger than its tolerance. 12 minutes of processor time; 20 minutes on two cores shared with other work.
"""

import datetime
import importlib.metadata
import importlib.util
import os
import sys
import time

from absl import app, flags

from benchmarks import record
from minec2f_jax import console, files
from minec2f_jax.errors import UserError

_OUT = flags.DEFINE_string("out", "docs/parity.md", "Where the table goes.")

LIBRARIES = ("jax", "flax", "keras", "torch", "numpy")
ABOUT = """\
# Parity

Written by `python -m benchmarks.parity`. {machine}.

Each row of networks runs two implementations with the same random weights **and random BN statistics** (kernels
N(0, 1 / fan-in), scales U(0.5, 1.5), biases N(0, 0.2), means N(0, 0.3), variances U(0.5, 2), unless a note says
otherwise), carried over by name; every weight of both sides is met exactly once. "max abs" is the largest difference
over all arrays of the row; "max rel" is the largest difference of an array divided by that array's largest value, and
"worst" is the array it was found in (beneath one millionth of the largest gradient, gradients are held against that).
The computation is float32 unless the row says otherwise.

- `keras` is keras.applications.DenseNet121 on Keras' JAX backend, and an FPN as a Keras functional model with
  segmentation_models' layers. `torch` is written from the papers in `tests/oracles/torch_models.py`, with torchvision's
  names for DenseNet; Prithvi's networks in `tests/oracles/torch_vit.py`, with the names of its published files.
- Training rows are one forward and backward pass with BN on the batch; the loss is the sum of every output's mean of
  squares. Gradients are those of all parameters, in float64 on both sides (the head sums in float32 even then): a value
  that rounding puts on the other side of a ReLU's 0 changes a gradient by a step. The row "gradients, float32" shows
  how far from float64 that takes ours, its note how far torch's own.
- Moving variance: torch takes in the unbiased variance, flax the biased one. The row compares
  kept + (moved - kept) (n - 1) / n of torch's, n = values per channel. Keras on JAX takes in the biased one (unlike on
  TensorFlow): no correction.
- Losses: the worst of {draws} draws of logits (standard deviations from 1.4 to 23, see `tests/oracles/precision.py`).
- bfloat16: parameters, statistics, gradients, logits and losses are float32, features bfloat16 (tested). The training
  rows are {steps} steps of a toy student, in both precisions, after one teacher (`tests/oracles/short_run.py`).
- The programs are the optimised ones that users run, here and in `tests/parity_test.py`; the other tests have XLA skip
  its costly passes.

"""


def groups():
  from tests.oracles import network_parity, precision, short_run, vit_parity

  return (
    network_parity.keras_densenet_eval,
    network_parity.keras_densenet_train,
    network_parity.keras_fpn,
    network_parity.keras_fpn_densenet,
    network_parity.torch_densenet,
    network_parity.torch_modules,
    network_parity.torch_fpn_densenet,
    network_parity.torch_minec2fnet,
    network_parity.keras_unet_densenet,
    network_parity.torch_deeplabv3plus,
    vit_parity.encoder_rows,
    vit_parity.decoder_rows,
    precision.loss_rows,
    precision.bfloat16_rows,
    short_run.rows,
  )


def markdown(rows) -> str:
  """The rows as a table, with their notes beneath."""
  notes = list(dict.fromkeys(row.note for row in rows if row.note))
  lines = ["| what | against | size | max abs | max rel | tolerance | worst |", "|---|---|---|---:|---:|---:|---|"]
  for row in rows:
    mark = f" [{notes.index(row.note) + 1}]" if row.note else ""
    verdict = "" if row.ok else " **exceeded**"
    lines.append(
      f"| {row.what} | {row.against} | {row.size} | {row.max_abs:.1e} | {row.max_rel:.1e}{verdict} |"
      f" {row.tolerance:.0e}{mark} | {row.worst.removeprefix('params/').removeprefix('batch_stats/')} |"
    )
  return "\n".join([*lines, "", *(f"[{n}] {note[0].upper()}{note[1:]}.  " for n, note in enumerate(notes, start=1))])


def machine() -> str:
  here = record.machine()
  versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
  today = datetime.date.today()
  return (
    f"{today.day} {today:%B %Y}, {here['processor']}, {here['cores']} cores, Python {here['python']}, {versions}, CPU"
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  missing = [name for name in ("keras", "torch") if importlib.util.find_spec(name) is None]
  if missing:
    sys.exit(f"benchmarks.parity: needs {' and '.join(missing)}: pip install {' '.join(missing)}")
  os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # The table is of the programs that users run.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # A GPU's convolutions may round to TF32.
  import jax

  from tests.oracles import precision, short_run

  rows, began = [], time.monotonic()
  for group in groups():
    for row in group():
      rows.append(row)
      console.say(
        f"{row.what:58s} {row.against:15s} {row.size:22s} abs {row.max_abs:.1e} rel {row.max_rel:.1e} "
        f"{'<=' if row.ok else '> '} {row.tolerance:.0e}  {row.worst}"
      )
    jax.clear_caches()
  about = ABOUT.format(machine=machine(), draws=len(precision.SCALES) * len(precision.SEEDS), steps=short_run.STEPS)
  try:
    files.write_text(_OUT.value, about + markdown(rows) + "\n")
  except UserError as error:
    sys.exit(f"benchmarks.parity: {error}")
  exceeded = [row.what for row in rows if not row.ok]
  console.say(
    f"{len(rows)} comparisons in {console.duration(time.monotonic() - began)}, {len(exceeded)} exceeded: {_OUT.value}"
  )
  if exceeded:
    sys.exit(1)


if __name__ == "__main__":
  app.run(main)
