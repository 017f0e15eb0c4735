"""The losses in torch, float64, straight from their formulas (methods of the paper's Eq. 3 to 12)."""

import numpy as np
import torch
from torch.nn import functional


def bce_map(logits, label):
  return functional.binary_cross_entropy_with_logits(logits, label, reduction="none")


def bce(student, teacher, label):
  return bce_map(student, label).mean()


def dice(student, teacher, label, smooth=1e-5):
  probs = torch.sigmoid(student)
  return 1 - (2 * (probs * label).sum() + smooth) / (probs.sum() + label.sum() + smooth)


def ssim(student, teacher, label, sigma=1.5, k1=0.01, k2=0.03):
  offsets = torch.arange(-5, 6, dtype=torch.float64)
  line = torch.exp(-(offsets**2) / (2 * sigma**2))
  window = torch.outer(line, line) / line.sum() ** 2
  mean = lambda x: functional.conv2d(x[:, None], window[None, None])
  probs = torch.sigmoid(student)
  my, mp = mean(label), mean(probs)
  luminance = (2 * my * mp + k1**2) / (my**2 + mp**2 + k1**2)
  variances = mean(label**2) - my**2 + mean(probs**2) - mp**2
  structure = (2 * (mean(label * probs) - my * mp) + k2**2) / (variances + k2**2)
  return 1 - (luminance * structure).mean()


def boundary(student, teacher, label):
  sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
  padded = functional.pad(label[:, None], (1, 1, 1, 1), mode="reflect")
  dx, dy = (functional.conv2d(padded, kernel[None, None])[:, 0] for kernel in (sobel, sobel.T))
  return (torch.sqrt(dx**2 + dy**2) * bce_map(student, label)).mean()


def hybrid_distillation(student, teacher, label, temperature=2.0, epsilon=1e-6):
  image = bce_map(teacher, label).mean((1, 2)) < bce_map(student, label).mean((1, 2))
  pixel = (2 * label - 1) * (teacher - student) > 0
  mask = (image[:, None, None] & pixel).double()
  both = lambda logits: torch.stack([-functional.softplus(-logits), -functional.softplus(logits)])
  kl = functional.kl_div(both(student / temperature), both(teacher / temperature), reduction="none", log_target=True)
  return temperature**2 * (mask * kl.sum(0)).sum() / (mask.sum() + epsilon)


LOSSES = {
  "BCE": bce,
  "Dice": dice,
  "SSIM": ssim,
  "boundary": boundary,
  "hybrid distillation": hybrid_distillation,
}


def value_and_grad(name, student, teacher, label):
  """(value, gradient by the student's logits) as float64 arrays."""
  student, teacher, label = (torch.from_numpy(np.asarray(x, np.float64)) for x in (student, teacher, label))
  student.requires_grad_(True)
  value = LOSSES[name](student, teacher, label)
  value.backward()
  return value.detach().numpy(), student.grad.numpy()
