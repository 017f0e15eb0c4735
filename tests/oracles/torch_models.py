"""Reference networks in torch, written from the papers: DenseNet with torchvision's names, CBAM, gated fusion,
diffusion refinement, FPN, MineC2FNet and DeepLabV3+. Submodules other than DenseNet's have our names. Layout is
[B, C, H, W].
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
  def __init__(self, channels, growth, dilation=1):
    super().__init__()
    self.norm1 = norm(channels)
    self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
    self.norm2 = norm(4 * growth)
    self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=dilation, dilation=dilation, bias=False)

  def forward(self, x):
    new = self.conv2(rectify(self.norm2(self.conv1(rectify(self.norm1(x))))))
    return torch.cat([x, new], 1)


class DenseNet(nn.Module):
  """Huang et al. 2017, Table 1; image -> {"c1" ... "c5"}, transitions tapped at their convolution.

  With `dilated` the last block is at /16.
  """

  def __init__(self, bands=6, block_sizes=(6, 12, 24, 16), growth=32, stem=64, dilated=False):
    super().__init__()
    self.dilated = dilated
    self.features = nn.ModuleDict({"conv0": nn.Conv2d(bands, stem, 7, 2, 3, bias=False), "norm0": norm(stem)})
    self.blocks, self.widths, channels = len(block_sizes), [stem], stem
    for b, size in enumerate(block_sizes, start=1):
      dilation = 2 if dilated and b == self.blocks else 1
      names = {f"denselayer{l + 1}": DenseLayer(channels + l * growth, growth, dilation) for l in range(size)}
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
        x = x if self.dilated and b == self.blocks - 1 else functional.avg_pool2d(x, 2)
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


class ASPP(nn.Module):
  """Chen et al. 2017, arXiv:1706.05587, Sec. 3.3."""

  def __init__(self, channels, features, rates):
    super().__init__()
    self.dilated = len(rates)
    for name in ("point", "pool"):
      self.add_module(f"{name}_conv", nn.Conv2d(channels, features, 1, bias=False))
    for n, rate in enumerate(rates, start=1):
      self.add_module(f"dilated{n}_conv", nn.Conv2d(channels, features, 3, padding=rate, dilation=rate, bias=False))
    self.project_conv = nn.Conv2d((len(rates) + 2) * features, features, 1, bias=False)
    for name in ("point", "pool", "project", *(f"dilated{n + 1}" for n in range(len(rates)))):
      self.add_module(f"{name}_norm", norm(features, 1e-3))

  def forward(self, x):
    layer = lambda name, x: rectify(self.get_submodule(f"{name}_norm")(self.get_submodule(f"{name}_conv")(x)))
    branches = [layer(name, x) for name in ("point", *(f"dilated{n + 1}" for n in range(self.dilated)))]
    pooled = layer("pool", functional.adaptive_avg_pool2d(x, 1))
    return layer("project", torch.cat([*branches, pooled.expand_as(branches[0])], 1))


class DeepLabDecoder(nn.Module):
  """Chen et al. 2018, Sec. 3.1, with plain convolutions; {"c2", "c5"} -> [B, features, H/4, W/4]."""

  def __init__(self, low, high, features, rates):
    super().__init__()
    self.aspp = ASPP(high, features, rates)
    self.low_level_conv, self.low_level_norm = nn.Conv2d(low, 48, 1, bias=False), norm(48, 1e-3)
    for n, channels in ((1, features + 48), (2, features)):
      self.add_module(f"conv{n}", nn.Conv2d(channels, features, 3, padding=1, bias=False))
      self.add_module(f"norm{n}", norm(features, 1e-3))

  def forward(self, taps):
    low = rectify(self.low_level_norm(self.low_level_conv(taps["c2"])))
    x = functional.interpolate(self.aspp(taps["c5"]), size=low.shape[2:], mode="bilinear", align_corners=False)
    x = rectify(self.norm1(self.conv1(torch.cat([x, low], 1))))
    return rectify(self.norm2(self.conv2(x)))


class DeepLabV3Plus(nn.Module):
  """image -> {"features", "decoder", "logits"}; the last convolution stands behind the enlargement."""

  def __init__(self, bands=6, block_sizes=(6, 12, 24, 16), features=256, rates=(6, 12, 18)):
    super().__init__()
    self.encoder = DenseNet(bands, block_sizes, dilated=True)
    self.decoder = DeepLabDecoder(self.encoder.widths[1], self.encoder.widths[-1], features, rates)
    self.head = nn.Conv2d(features, 1, 1)

  def forward(self, image):
    taps = self.encoder(image)
    x = self.decoder(taps)
    logits = self.head(functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False))
    return {"features": taps, "decoder": x, "logits": logits}
