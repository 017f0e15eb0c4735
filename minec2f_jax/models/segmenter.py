"""Encoder, decoder and head as one network: Task 1's teacher and the single-stream baselines."""

from flax import linen as nn


class Segmenter(nn.Module):
  """A segmentation network.

  Attributes:
    encoder: `(image, *, train) -> features`, a dict "c1" (/2) to "c5" (/32).
    decoder: `(features, *, train) -> map`.
    head: `map -> logits`.
  """

  encoder: nn.Module
  decoder: nn.Module
  head: nn.Module

  def __call__(self, image, *, train=False):
    """Features, decoder map and logits of an image.

    Args:
      image: [B, H, W, C] float; H and W are multiples of 32 for the DenseNet-FPN.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      {"features": {"c1": ..., "c5": ...}, "decoder": [B, H/2, W/2, .], "logits": [B, H, W, 1]
      float32}.
    """
    features = self.encode(image, train=train)
    return {"features": features, **self.decode(features, train=train)}

  def encode(self, image, *, train=False):
    """The encoder's features, {"c1": [B, H/2, W/2, .], ..., "c5": [B, H/32, W/32, .]}."""
    return self.encoder(image, train=train)

  def decode(self, features, *, train=False):
    """{"decoder": [B, H/2, W/2, .], "logits": [B, H, W, 1] float32} from what `encode` returns."""
    x = self.decoder(features, train=train)
    return {"decoder": x, "logits": self.head(x)}
