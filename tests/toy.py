"""Toy sizes for tests: the real networks in miniature, and sources of random images."""

import numpy as np

ENCODER = dict(block_sizes=(1, 1, 1, 1), growth_rate=4, stem_features=4, bn_momentum=0.9)
DECODER = dict(pyramid_features=8, segmentation_features=4, bn_momentum=0.9)


class ArraySource:
  """A source over arrays: blobs that the first band shows, so that they can be learned."""

  def __init__(self, count: int = 4, *, size: int = 32, bands: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    centres = rng.uniform(0.3, 0.7, (count, 2, 1, 1)) * size
    distance = np.hypot(rows - centres[:, 0], columns - centres[:, 1])
    self.label = (distance < rng.uniform(0.2, 0.35, (count, 1, 1)) * size).astype(np.uint8)
    self.image = rng.normal(0.15, 0.02, (count, size, size, bands)).astype(np.float32)
    self.image[..., 0] += 0.2 * self.label
    self.valid = np.ones((count, size, size), bool)
    self.ids = tuple(f"toy{i}" for i in range(count))

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int):
    return {"image": self.image[index], "label": self.label[index], "valid": self.valid[index]}


def shrink(config, *, epochs: int = 1):
  """`config` at toy size: 32 x 32 pixels, batches of two, a network of a few hundred parameters."""
  config.data.update(dict(image_size=32, batch_size=2))
  config.model.encoder.update(ENCODER)
  config.model.decoder.update(DECODER)
  fusion = config.model.fusion
  fusion.cbam_reduction = 1  # Of so few channels all must live.
  fusion.levels = fusion.levels[-2:]  # Each level costs seconds of compilation.
  fusion.refinement_steps = min(fusion.refinement_steps, 1)
  config.optimizer.update(dict(warmup_epochs=1, learning_rate=1e-2))
  for name in {"coarse", "fine", *config.stages}:
    config[name].epochs = epochs
  return config


def simplify(config):
  """`config` with little to compile: the plainest injection, and the losses of every pixel by itself."""
  config.model.fusion.update(dict(levels=("c5",), cbam=False, refinement_steps=0))
  config.fine.loss.update(dict(ssim=0.0, boundary=0.0))
  return config
