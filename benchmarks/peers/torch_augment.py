"""The augmentation in torch: the same laws and borders as `minec2f_jax.data.augment`, one `grid_sample` a batch."""

import math

import torch
from torch.nn import functional


def augment(image, label, valid):
  """Every image of the batch transformed at random, each on its own, with the paper's probabilities and limits.

  Args:
    image: [B, C, H, W] float.
    label: [B, H, W] float.
    valid: [B, H, W] bool.

  Returns:
    (image, label, valid) of the same shapes.
  """
  return warp(image, label, valid, random_pull(len(image), image.shape[-1], image.device))


def random_pull(count: int, size: int, device):
  """[count, 2, 3]: from an output pixel (x, y) to where it is read. Flips, quarter turns, shift-scale-rotate."""
  fires = torch.rand(4, count, device=device) < 0.5
  turns = torch.where(fires[2], torch.randint(0, 4, (count,), device=device), 0)
  u = torch.rand(4, count, device=device) * 2 - 1
  scale, angle = 1 + 0.3 * u[0], math.radians(15.0) * u[1]
  # The inverse of: scale and turn about the middle, then shift.
  a, b = torch.cos(angle) / scale, torch.sin(angle) / scale
  middle = (size - 1) / 2
  linear = torch.stack([a, -b, b, a], 1).view(count, 2, 2)
  shifted = (middle + 0.1 * size * u[2:].T)[:, None]
  # Here and below sums of products: a matrix product might round to TF32, too coarse for pixel positions.
  offset = middle - (linear * shifted).sum(2, keepdim=True)
  pull = torch.where(fires[3, :, None, None], torch.cat([linear, offset], 2), torch.eye(2, 3, device=device))
  return _compose(_dihedral(fires[0], fires[1], turns, size), pull)


def warp(image, label, valid, pull):
  """The batch read through `pull` [B, 2, 3]: image bilinear, label nearest, mirrored at the outermost pixels."""
  size = image.shape[-1]
  line = torch.arange(size, dtype=torch.float32, device=image.device)
  column, row = line, line[:, None]
  x, y = (pull[:, i, :, None, None].unbind(1) for i in (0, 1))
  grid = torch.stack([x[0] * column + x[1] * row + x[2], y[0] * column + y[1] * row + y[2]], 3) * (2 / (size - 1)) - 1

  def read(x, mode):
    return functional.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=True)

  smooth = read(torch.cat([image, valid[:, None].to(image.dtype)], 1), "bilinear")
  valid = smooth[:, -1] > 1 - 1e-4
  image = torch.where(valid[:, None], smooth[:, :-1], 0)
  return image, torch.where(valid, read(label[:, None], "nearest")[:, 0], 0), valid


def _dihedral(hflip, vflip, turns, size: int):
  """[B, 2, 3], the pull matrix of a flipped image turned by `turns` quarters."""
  swap = (turns % 2).float()
  flip_x = (hflip ^ ((turns == 1) | (turns == 2))).float()
  flip_y = (vflip ^ ((turns == 2) | (turns == 3))).float()
  x, y = 1 - 2 * flip_x, 1 - 2 * flip_y
  rows = [x * (1 - swap), x * swap, flip_x * (size - 1), y * swap, y * (1 - swap), flip_y * (size - 1)]
  return torch.stack(rows, 1).view(-1, 2, 3)


def _compose(outer, inner):
  linear, offset = outer[..., :2], outer[..., 2:]
  product = (linear[..., None] * inner[:, None]).sum(2)
  return torch.cat([product[..., :2], product[..., 2:] + offset], 2)
