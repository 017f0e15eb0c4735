"""The losses in float32 torch, as one would write them for training: Eq. 3 to 5 and 9 to 12 of the paper.

Logits and labels are [B, H, W] float, `valid` is bool [B, H, W]. The gradient stops at the teacher's logits.
"""

import torch
from torch.nn import functional


def masked_mean(values, valid, dim=None):
  """Mean over the valid pixels; 0 without any."""
  dim = tuple(range(values.ndim)) if dim is None else dim
  return torch.where(valid, values, 0).sum(dim) / valid.sum(dim).clamp(min=1)


def bce_map(logits, label):
  return functional.binary_cross_entropy_with_logits(logits, label, reduction="none")


def dice_loss(logits, label, valid, smooth=1e-5):
  probs = torch.where(valid, torch.sigmoid(logits), 0)
  return 1 - (2 * (probs * label).sum() + smooth) / (probs.sum() + label.sum() + smooth)


def ssim_loss(logits, label, valid, size=11, sigma=1.5, k1=0.01, k2=0.03):
  line = torch.arange(size, dtype=torch.float32, device=logits.device) - size // 2
  window = torch.softmax(-0.5 * (line / sigma) ** 2, 0)
  probs = torch.sigmoid(logits)
  a, b = label - 0.5, probs - 0.5
  maps = torch.cat([a, b, a**2 + b**2, a * b])[:, None]
  means = functional.conv2d(functional.conv2d(maps, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
  mean_a, mean_b, mean_squares, mean_product = means[:, 0].chunk(4)
  covariance, variances = mean_product - mean_a * mean_b, mean_squares - (mean_a**2 + mean_b**2)
  mean_label, mean_probs = mean_a + 0.5, mean_b + 0.5
  luminance = (2 * mean_label * mean_probs + k1**2) / (mean_label**2 + mean_probs**2 + k1**2)
  structure = (2 * covariance + k2**2) / (variances + k2**2)
  return masked_mean(1 - luminance * structure, erode(valid, size))


def boundary_loss(logits, label, valid):
  sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=label.device)
  padded = functional.pad(label[:, None], (1, 1, 1, 1), mode="reflect")
  magnitude = functional.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).square().sum(1).sqrt()
  weight = torch.where(erode(functional.pad(valid, (1, 1, 1, 1), value=True), 3), magnitude, 0)
  return masked_mean(weight * bce_map(logits, label), valid)


def erode(valid, size):
  """True where a whole window is valid, without border."""
  return functional.max_pool2d((~valid)[:, None].float(), size, 1)[:, 0] == 0


def segmentation_loss(logits, label, valid):
  """Eq. 3, all weights 1."""
  logits, label = torch.where(valid, logits, 0), torch.where(valid, label, 0)
  parts = (dice_loss, ssim_loss, boundary_loss)
  return masked_mean(bce_map(logits, label), valid) + sum(part(logits, label, valid) for part in parts)


def distillation_loss(student, teacher, label, valid, temperature=2.0, epsilon=1e-6):
  """Eq. 9 to 12 with hybrid selection."""
  with torch.no_grad():
    errors = (masked_mean(bce_map(logits, label), valid, (1, 2)) for logits in (teacher, student))
    better_image = torch.lt(*errors)
    better_pixel = torch.where(label > 0, teacher > student, teacher < student)
    mask = better_image[:, None, None] & better_pixel & valid
  teacher, student = teacher / temperature, student / temperature
  share = torch.sigmoid(teacher)
  mine = functional.logsigmoid(teacher) - functional.logsigmoid(student)
  background = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
  divergence = temperature**2 * (share * mine + (1 - share) * background)
  return torch.where(mask, divergence, 0).sum() / (mask.sum() + epsilon)
