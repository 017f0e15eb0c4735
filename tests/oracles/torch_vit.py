"""The masked autoencoder's encoder and Prithvi's decoder in torch, from the papers' descriptions.

Dosovitskiy et al. 2021 (arXiv:2010.11929), He et al. 2022 (arXiv:2111.06377). The tensors are named as in the files of
Prithvi-EO-1.0-100M. The attention is torch's own.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)

  def forward(self, x):
    x = x.transpose(0, 1)
    y, _ = functional.multi_head_attention_forward(
      x, x, x, x.shape[-1], self.heads, self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.proj.weight,
      self.proj.bias, need_weights=False,
    )  # fmt: skip
    return y.transpose(0, 1)


class MLP(nn.Module):
  def __init__(self, width, hidden):
    super().__init__()
    self.fc1 = nn.Linear(width, hidden)
    self.fc2 = nn.Linear(hidden, width)

  def forward(self, x):
    return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
  def __init__(self, width, heads, epsilon):
    super().__init__()
    self.norm1 = nn.LayerNorm(width, eps=epsilon)
    self.attn = Attention(width, heads)
    self.norm2 = nn.LayerNorm(width, eps=epsilon)
    self.mlp = MLP(width, 4 * width)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
  def __init__(self, width, bands):
    super().__init__()
    self.proj = nn.Conv3d(bands, width, (1, 16, 16), stride=(1, 16, 16))

  def forward(self, x):
    return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
  """`grid` is (frames, rows, columns) of patches."""

  def __init__(self, *, grid, width=768, depth=12, heads=12, bands=6, epsilon=1e-5):
    super().__init__()
    self.patch_embed = PatchEmbed(width, bands)
    self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    self.pos_embed = nn.Parameter(positions(*grid, width), requires_grad=False)
    self.blocks = nn.ModuleList([Block(width, heads, epsilon) for _ in range(depth)])
    self.norm = nn.LayerNorm(width, eps=epsilon)

  def forward(self, x):
    """[B, bands, frames, H, W] -> [B, 1 + patches, width], the class token first."""
    x = self.patch_embed(x) + self.pos_embed[:, 1:]
    cls = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
    x = torch.cat([cls, x], dim=1)
    for block in self.blocks:
      x = block(x)
    return self.norm(x)


def positions(frames, rows, columns, width):
  """[1, 1 + patches, width], one number after the other."""
  table = [[0.0] * width]
  for t in range(frames):
    for row in range(rows):
      for column in range(columns):
        wave = []
        for position, size in ((column, 6 * width // 16), (row, 6 * width // 16), (t, 4 * width // 16)):
          angles = [position / 10000 ** (2 * k / size) for k in range(size // 2)]
          wave += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        table.append(wave)
  return torch.tensor([table])


class ChannelNorm(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.ln = nn.LayerNorm(width, eps=1e-6)

  def forward(self, x):
    return self.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Decoder(nn.Module):
  """Neck, fully convolutional head with one convolution, classifier."""

  def __init__(self, *, width=768, features=256, classes=2):
    super().__init__()
    up = lambda: nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
    self.fpn1 = nn.Sequential(up(), ChannelNorm(width), nn.GELU(), up())
    self.fpn2 = nn.Sequential(up(), ChannelNorm(width), nn.GELU(), up())
    self.conv = nn.Conv2d(width, features, 3, padding=1, bias=False)
    self.bn = nn.BatchNorm2d(features)
    self.conv_seg = nn.Conv2d(features, classes, 1)

  def forward(self, x):
    """[B, width, H, W] -> map [B, features, 16 H, 16 W], logits [B, classes, 16 H, 16 W]. No dropout."""
    x = functional.relu(self.bn(self.conv(self.fpn2(self.fpn1(x)))))
    return x, self.conv_seg(x)


def randomize(module, seed=0):
  """All weights random, scales and statistics too; kernels such that activations keep their size."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, tensor in module.state_dict().items():
      if "pos_embed" in name or "num_batches" in name:
        continue
      noise = torch.randn(tensor.shape, generator=generator)
      if name.endswith("running_var"):
        noise = 0.5 + 1.5 * torch.rand(tensor.shape, generator=generator)
      elif tensor.ndim > 1 and name != "cls_token":
        noise = noise / math.sqrt(tensor.numel() / tensor.shape[0])
      elif name.endswith("weight"):
        noise = 1 + 0.3 * noise
      tensor.copy_(noise)
  return module.eval()
