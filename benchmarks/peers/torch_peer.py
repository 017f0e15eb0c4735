"""PyTorch as a peer: channels_last, autocast for bfloat16, fused AdamW, cuDNN's choice by trial, TF32 as JAX has it.

The networks are those of `tests/oracles/torch_models.py`, held against ours number by number in the parity tests.
"""

import contextlib
import io
import time

import torch
from torch.utils import data

from benchmarks.peers import cases, chips, torch_augment, torch_losses
from tests.oracles import torch_models

MEAN = (0.1229, 0.1081, 0.0775, 0.2497, 0.2204, 0.1611)  # In the order of chips.BANDS.
STD = (0.1399, 0.1270, 0.1282, 0.1368, 0.1292, 0.1155)


def describe() -> dict:
  cuda = torch.cuda.is_available()
  kind = torch.cuda.get_device_name() if cuda else "cpu"
  return {"device": "gpu" if cuda else "cpu", "kind": kind, "torch": torch.__version__}


def make(case: cases.Case, variant: str) -> "Torch":
  return Torch(case, variant)


class Task(torch.nn.Module):
  """The networks of a task; `loss` and `logits` are all that touches them."""

  def __init__(self, case: cases.Case):
    super().__init__()
    distilled = case.task == "task2"
    self.student = torch_models.Segmenter(cases.BANDS, case.levels if distilled else (), case.blocks)
    self.teacher = torch_models.Segmenter(cases.BANDS, (), case.blocks).requires_grad_(False) if distilled else None
    for name, values in (("mean", MEAN), ("std", STD)):
      self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

  def train(self, mode: bool = True):
    super().train(mode)
    if self.teacher is not None:
      self.teacher.eval()
    return self

  def loss(self, image, label, valid):
    """The task's loss on network inputs; outside autocast from the logits on."""
    if self.teacher is None:
      logits = self.student(image)["logits"][:, 0].float()
      with torch.autocast(image.device.type, enabled=False):
        return torch_losses.masked_mean(torch_losses.bce_map(logits, label), valid)
    with torch.no_grad():
      taught = self.teacher(image)
    logits = self.student(image, taught["features"])["logits"][:, 0].float()
    with torch.autocast(image.device.type, enabled=False):
      transferred = torch_losses.distillation_loss(logits, taught["logits"][:, 0].float(), label, valid)
      return torch_losses.segmentation_loss(logits, label, valid) + transferred

  def augmented_loss(self, image, label, valid):
    """The loss on reflectance [B, C, H, W], augmented and normalised."""
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):  # Pixel positions need float32.
      image, label, valid = torch_augment.augment(image, label, valid)
      image = self.normalize(image, valid)
    return self.loss(image, label, valid)

  def logits(self, image, valid):
    image = self.normalize(image, valid)
    features = self.teacher.encoder(image) if self.teacher is not None else None
    return self.student(image, features)["logits"][:, 0]

  def normalize(self, image, valid):
    image = torch.where(valid[:, None], (image - self.mean) / self.std, 0)
    return image.contiguous(memory_format=torch.channels_last)


class Torch:
  """A task at one case, with its optimizer and one batch on the device."""

  def __init__(self, case: cases.Case, variant: str):
    self._case, self._device = case, torch.device("cuda" if case.device == "gpu" else "cpu")
    torch.manual_seed(0)
    if self._cuda:
      torch.backends.cudnn.benchmark = True
      torch.backends.cudnn.allow_tf32 = True
      torch.set_float32_matmul_precision("high")  # TF32, XLA's default for float32.
    self._task = Task(case).to(self._device, memory_format=torch.channels_last)
    self._trained = [p for p in self._task.parameters() if p.requires_grad]
    self._optimizer = torch.optim.AdamW(
      self._trained, lr=cases.LEARNING_RATE, weight_decay=cases.WEIGHT_DECAY, eps=cases.EPSILON, fused=True
    )
    self._loss, self._logits = self._task.augmented_loss, self._task.logits
    if variant:
      mode = None if variant == "default" else variant
      self._loss, self._logits = (torch.compile(f, mode=mode, dynamic=False) for f in (self._loss, self._logits))
    self._batch = self._to_device(_collate([chip for chip in chips.Chips(case.batch, case.size)]))
    self._loaders = None

  @property
  def _cuda(self) -> bool:
    return self._device.type == "cuda"

  def train(self, steps: int):
    self._task.train()
    for _ in range(steps):
      self._step(self._batch)
    self._wait()

  def infer(self, steps: int):
    self._task.eval()
    for _ in range(steps):
      self._infer(self._batch)
    self._wait()

  def epoch(self) -> float:
    self._loaders = self._loaders or self._make_loaders()
    train, validation = self._loaders
    began = time.perf_counter()
    self._task.train()
    losses = [self._step(self._to_device(batch)).clone() for batch in train]
    torch.stack(losses).mean().item()
    self._task.eval()
    counts = torch.zeros(3, device=self._device)
    for batch in validation:
      image, label, valid = self._to_device(batch)
      found, mined = (self._infer((image, label, valid)) > 0) & valid, (label > 0) & valid
      counts += torch.stack([(found & mined).sum(), found.sum(), mined.sum()])
    counts.tolist()
    torch.save({"model": self._task.state_dict(), "optimizer": self._optimizer.state_dict()}, io.BytesIO())
    return time.perf_counter() - began

  def parameters(self) -> int:
    return sum(p.numel() for p in self._trained)

  def memory(self) -> dict:
    return {"peak_bytes": torch.cuda.max_memory_allocated()} if self._cuda else {}

  def _step(self, batch):
    torch.compiler.cudagraph_mark_step_begin()
    self._optimizer.zero_grad(set_to_none=True)
    with self._autocast():
      loss = self._loss(*batch)
    loss.backward()
    self._optimizer.step()
    return loss.detach()

  def _infer(self, batch):
    torch.compiler.cudagraph_mark_step_begin()
    image, _, valid = batch
    with torch.inference_mode(), self._autocast():
      return self._logits(image, valid)

  def _autocast(self):
    if self._case.precision != "bfloat16":
      return contextlib.nullcontext()
    return torch.autocast(self._device.type, torch.bfloat16)

  def _to_device(self, batch):
    image, label, valid = (x.to(self._device, non_blocking=True) for x in batch)
    return image.to(memory_format=torch.channels_last), label, valid

  def _wait(self):
    if self._cuda:
      torch.cuda.synchronize()

  def _make_loaders(self):
    case = self._case
    common = dict(batch_size=case.batch, collate_fn=_collate, pin_memory=self._cuda)
    if self._cuda:  # On a CPU, workers would take its cores from the step, and the chips are decoded.
      common |= dict(num_workers=4, persistent_workers=True)
    train = chips.Chips(case.images, case.size)
    validation = chips.Chips(case.validation_images, case.size, start=case.images)
    return data.DataLoader(train, shuffle=True, drop_last=True, **common), data.DataLoader(validation, **common)


def _collate(samples):
  """(image [B, C, H, W] in channels_last, label [B, H, W] float, valid [B, H, W])."""
  image, label, valid = (
    torch.stack([torch.from_numpy(s[name]) for s in samples]) for name in ("image", "label", "valid")
  )
  return image.permute(0, 3, 1, 2), label.float(), valid
