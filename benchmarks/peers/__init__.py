"""The implementations that `benchmarks.compare` holds side by side, each of them run in a process of its own.

A peer's module has `describe() -> dict` (the device and versions it runs on) and `make(case, variant) -> object` with

  train(steps)    takes that many train steps on one batch that lies on the device, and waits for the last
  infer(steps)    the same for inference
  epoch()         one pass over the chips with data, validation and a saved checkpoint; returns its seconds
  parameters()    how many numbers are trained, which must be the same for all peers
  memory()        {"peak_bytes"}: the device allocator's peak, or {} where the process' own memory is what counts

`minec2f_jax` itself is one of them.
"""

import importlib.util
from typing import NamedTuple


class Peer(NamedTuple):
  """Where an implementation stands and what it can do."""

  title: str
  module: str
  variant: str = ""
  needs: str = ""  # A library that may be missing.
  tasks: tuple[str, ...] = ("task1", "task2")
  parts: tuple[str, ...] = ("train", "infer", "epoch", "start")
  devices: tuple[str, ...] = ("cpu", "gpu")

  def missing(self) -> str:
    """How to install what is missing; "" if nothing is."""
    if not self.needs or importlib.util.find_spec(self.needs):
      return ""
    return f"{self.needs} is not installed: pip install {self.needs}"

  def cannot(self, case) -> str:
    """Why this peer has no part in `case`; "" if it has one."""
    if case.task not in self.tasks:
      return f"{case.task} is not written for {self.title}"
    if case.device not in self.devices:
      return f"only on {' and '.join(self.devices)}"
    return ""


OURS = "ours"
_TORCH = dict(module="benchmarks.peers.torch_peer", needs="torch")
PEERS = {
  OURS: Peer("minec2f_jax", "benchmarks.peers.ours"),
  "torch": Peer("PyTorch, eager", **_TORCH),
  "torch-compile": Peer("PyTorch, torch.compile", variant="default", **_TORCH),
  "torch-graphs": Peer(
    "PyTorch, torch.compile with CUDA graphs", variant="reduce-overhead", devices=("gpu",), **_TORCH
  ),
  "keras": Peer(
    "Keras 3 on JAX", "benchmarks.peers.keras_peer", needs="keras", tasks=("task1",), parts=("train", "infer", "start")
  ),
}
