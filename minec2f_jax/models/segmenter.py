"""Encoder, decoder and head as one network: Task 1's teacher and the single-stream baselines."""

from flax import linen as nn

from minec2f_jax.models import padding


class Segmenter(nn.Module):
  """A segmentation network for images of any size.

  The network runs on the image padded to multiples of 32 pixels (see `padding`), H' x W'. Features and
  decoder map are those of the padded image; the logits are cropped. Mirrored pixels count in the batch's
  statistics, and in whatever else sees a whole map.

  Attributes:
    encoder: `(image, *, train) -> features`, a dict with some of "c1" (/2) to "c5" (/32).
    decoder: `(features, *, train) -> map`.
    head: `map -> logits`.
  """

  encoder: nn.Module
  decoder: nn.Module
  head: nn.Module

  def __call__(self, image, *, train=False):
    """Features, decoder map and logits of an image.

    Args:
      image: [B, H, W, C] float, H and W at least 1.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      {"features": {"c1": ..., "c5": ...} as the encoder has them, "decoder": the decoder's map, for an FPN [B, H'/2,
      W'/2, .], "logits": [B, H, W, 1] float32}.
    """
    features = self.encode(image, train=train)
    return {"features": features, **self.decode(features, size=image.shape[1:3], train=train)}

  def encode(self, image, *, train=False):
    """The encoder's features of [B, H, W, C], those it has of "c1" [B, H'/2, W'/2, .] to "c5" [B, H'/32, W'/32, .]."""
    return self.encoder(padding.pad_image(image), train=train)

  def decode(self, features, *, size=None, train=False):
    """Decoder map and logits of what `encode` returns.

    Args:
      features: as `encode` returns them.
      size: (H, W) of the image, to which the logits are cropped; None leaves them as of the padded image.
      train: as in `__call__`.

    Returns:
      {"decoder": the decoder's map, "logits": [B, H, W, 1] float32}.
    """
    x = self.decoder(features, train=train)
    logits = self.head(x)
    return {"decoder": x, "logits": logits if size is None else padding.crop(logits, size)}
