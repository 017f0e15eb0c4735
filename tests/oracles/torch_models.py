"""Reference networks in torch, written from the papers: DenseNet with torchvision's names, CBAM, gated fusion,
diffusion refinement, FPN and MineC2FNet. Submodules other than DenseNet's have our names. Layout is [B, C, H, W].
"""

import torch
from torch import nn
from torch.nn import functional

LEVELS = ("c1", "c2", "c3", "c4", "c5")
MOMENTUM = 0.1  # What the running statistics take of a batch: our bn_momentum=0.9.


def norm(channels, epsilon=1e-5):
  return nn.BatchNorm2d(channels, eps=epsilon, momentum=MOMENTUM)


def rectify(x):
  """ReLU in place: of a BN's output, which its own gradient does not need."""
  return functional.relu(x, inplace=True)


def grow(x, factor):
  return functional.interpolate(x, scale_factor=factor, mode="nearest")


class DenseLayer(nn.Module):
  def __init__(self, channels, growth):
    super().__init__()
    self.norm1 = norm(channels)
    self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
    self.norm2 = norm(4 * growth)
    self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

  def forward(self, x):
    new = self.conv2(rectify(self.norm2(self.conv1(rectify(self.norm1(x))))))
    return torch.cat([x, new], 1)


class DenseNet(nn.Module):
  """Huang et al. 2017, Table 1; image -> {"c1" ... "c5"}, transitions tapped at their convolution."""

  def __init__(self, bands=6, block_sizes=(6, 12, 24, 16), growth=32, stem=64):
    super().__init__()
    self.features = nn.ModuleDict({"conv0": nn.Conv2d(bands, stem, 7, 2, 3, bias=False), "norm0": norm(stem)})
    self.blocks, self.widths, channels = len(block_sizes), [stem], stem
    for b, size in enumerate(block_sizes, start=1):
      names = {f"denselayer{l + 1}": DenseLayer(channels + l * growth, growth) for l in range(size)}
      self.features[f"denseblock{b}"] = nn.ModuleDict(names)
      channels += size * growth
      if b < self.blocks:
        conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.features[f"transition{b}"] = nn.ModuleDict({"norm": norm(channels), "conv": conv})
        channels //= 2
      self.widths.append(channels)
    self.features["norm5"] = norm(channels)

  def forward(self, image):
    net = self.features
    taps = {"c1": rectify(net["norm0"](net["conv0"](image)))}
    x = functional.max_pool2d(taps["c1"], 3, 2, 1)
    for b in range(1, self.blocks + 1):
      for layer in net[f"denseblock{b}"].values():
        x = layer(x)
      if b < self.blocks:
        transition = net[f"transition{b}"]
        x = taps[f"c{b + 1}"] = transition["conv"](rectify(transition["norm"](x)))
        x = functional.avg_pool2d(x, 2)
    taps[f"c{self.blocks + 1}"] = rectify(net["norm5"](x))
    return taps


class CBAM(nn.Module):
  """Woo et al. 2018, Sec. 3, with BN after the spatial convolution."""

  def __init__(self, channels, reduction=16):
    super().__init__()
    hidden = max(channels // reduction, 1)
    self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
    self.spatial_conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
    self.spatial_norm = norm(1)

  def forward(self, x):
    mlp = lambda v: self.expand(functional.relu(self.reduce(v)))
    weight = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))
    x = x * weight[:, :, None, None]
    pooled = torch.stack([x.max(1).values, x.mean(1)], 1)
    return x * torch.sigmoid(self.spatial_norm(self.spatial_conv(pooled)))


class ConvexFusion(nn.Module):
  """g F_T + (1 - g) F_S with a gate for every channel."""

  def __init__(self, channels):
    super().__init__()
    self.gate = nn.Conv2d(2 * channels, channels, 1)

  def forward(self, teacher, student):
    gate = torch.sigmoid(self.gate(torch.cat([teacher, student], 1)))
    return gate * teacher + (1 - gate) * student


class GatedConvolution(nn.Module):
  """Takikawa et al. 2019, Eq. 1 and 2: the student's features gated by a projection of the teacher's."""

  def __init__(self, channels):
    super().__init__()
    self.teacher_projection = nn.Conv2d(channels, 1, 1)
    self.gate_norm1, self.gate_hidden = norm(channels + 1), nn.Conv2d(channels + 1, channels + 1, 1)
    self.gate, self.gate_norm2 = nn.Conv2d(channels + 1, 1, 1), norm(1)
    self.output = nn.Conv2d(channels, channels, 1, bias=False)

  def forward(self, teacher, student):
    x = self.gate_norm1(torch.cat([student, self.teacher_projection(teacher)], 1))
    alpha = torch.sigmoid(self.gate_norm2(self.gate(functional.relu(self.gate_hidden(x)))))
    return self.output(student * (1 + alpha))


class Refinement(nn.Module):
  """The paper's Eq. 6 to 8."""

  def __init__(self, channels, steps=2):
    super().__init__()
    self.steps = steps
    for t in range(1, steps + 1):
      self.add_module(f"step{t}_conv", nn.Conv2d(channels, channels, 3, padding=1, bias=False))
      self.add_module(f"step{t}_norm", norm(channels))
      self.add_module(f"step{t}_cbam", CBAM(channels))

  def forward(self, x):
    for t in range(1, self.steps + 1):
      conv, normalise, attend = (self.get_submodule(f"step{t}_{part}") for part in ("conv", "norm", "cbam"))
      x = x + attend(rectify(normalise(conv(x))))
    return x


class Injection(nn.Module):
  """Fusion, CBAM, refinement."""

  def __init__(self, channels):
    super().__init__()
    self.fusion, self.cbam, self.refinement = ConvexFusion(channels), CBAM(channels), Refinement(channels)

  def forward(self, teacher, student):
    return self.refinement(self.cbam(self.fusion(teacher, student)))


class FPN(nn.Module):
  """Kirillov et al. 2019 in segmentation_models' flavour; {"c1" ... "c5"} -> [B, 128, H/2, W/2]."""

  def __init__(self, widths=(64, 128, 256, 512, 1024)):
    super().__init__()
    self.top = nn.Conv2d(widths[-1], 256, 1)
    for n, width in enumerate(widths[:-1], start=1):
      self.add_module(f"lateral_c{n}", nn.Conv2d(width, 256, 1))
      for k, inputs in ((1, 256), (2, 128)):
        self.add_module(f"segment_c{n}_conv{k}", nn.Conv2d(inputs, 128, 3, padding=1, bias=False))
        self.add_module(f"segment_c{n}_norm{k}", norm(128, 1e-3))
    self.final_conv, self.final_norm = nn.Conv2d(512, 128, 3, padding=1, bias=False), norm(128, 1e-3)

  def forward(self, taps):
    x, maps = self.top(taps["c5"]), []
    for n in (4, 3, 2, 1):
      x = grow(x, 2) + self.get_submodule(f"lateral_c{n}")(taps[f"c{n}"])
      y = x
      for k in (1, 2):
        y = self.get_submodule(f"segment_c{n}_conv{k}")(y)
        y = rectify(self.get_submodule(f"segment_c{n}_norm{k}")(y))
      maps.insert(0, grow(y, 2 ** (n - 1)) if n > 1 else y)
    return rectify(self.final_norm(self.final_conv(torch.cat(maps, 1))))


class Segmenter(nn.Module):
  """image -> {"features", "decoder", "logits"}; with `levels`, MineC2FNet, which also takes a teacher's features."""

  def __init__(self, bands=6, levels=(), block_sizes=(6, 12, 24, 16)):
    super().__init__()
    self.encoder = DenseNet(bands, block_sizes)
    widths = self.encoder.widths
    self.decoder, self.head = FPN(widths), nn.Conv2d(128, 1, 3, padding=1)
    self.levels = levels
    for level in levels:
      self.add_module(f"injection_{level}", Injection(widths[LEVELS.index(level)]))

  def forward(self, image, teacher=None):
    taps = self.encoder(image)
    for level in self.levels:
      taps[level] = self.get_submodule(f"injection_{level}")(teacher[level], taps[level])
    x = self.decoder(taps)
    logits = self.head(functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
    return {"features": taps, "decoder": x, "logits": logits}
