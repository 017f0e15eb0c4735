"""Prithvi's networks beside torch's: the encoder, and the decoder with its head; the weights are drawn there.

Needs torch (ImportError). The defaults are full size, ViT-B/16; tests take less.
"""

import numpy as np
import torch

from minec2f_jax.models import prithvi, vit
from tests.oracles import layers, parity, torch_vit

NOTE = "weights drawn by torch: kernels N(0, 1 / fan-in), scales N(1, 0.3), biases, class token and means N(0, 1)"


def encoder_pair(image, *, bands=prithvi.BANDS, norm_epsilon=1e-5, **fields):
  """Our encoder with torch's random weights, {"params"}; and torch's tokens of the same image in Prithvi's order."""
  grid = (1, image.shape[1] // 16, image.shape[2] // 16)
  oracle = torch_vit.randomize(torch_vit.Encoder(grid=grid, epsilon=norm_epsilon, **fields))
  net = vit.ViTEncoder(norm_epsilon=norm_epsilon, **fields)
  weights = {name: tensor.numpy() for name, tensor in oracle.state_dict().items() if name != "pos_embed"}
  shapes = layers.init_shapes(net, image, train=False)
  variables, _ = prithvi.encoder_params(weights, bands=bands, variables=shapes)
  ordered = image[..., [bands.index(band) for band in prithvi.BANDS]]
  with torch.no_grad():
    tokens = oracle(torch.tensor(ordered.transpose(0, 3, 1, 2)[:, :, None]))
  return net, variables, tokens[:, 1:].reshape(-1, *grid[1:], net.width).numpy()


def decoder_variables(oracle):
  """{"params", "batch_stats"} of the decoder and {"params"} of the head, from a `torch_vit.Decoder`."""
  weights = {name: tensor.numpy() for name, tensor in oracle.state_dict().items()}
  neck = {}
  for n in (1, 2):
    for letter, layer in (("a", 0), ("b", 3)):
      neck[f"upscale{n}{letter}"] = {
        "kernel": weights[f"fpn{n}.{layer}.weight"].transpose(2, 3, 0, 1),
        "bias": weights[f"fpn{n}.{layer}.bias"],
      }
    neck[f"norm{n}"] = {"scale": weights[f"fpn{n}.1.ln.weight"], "bias": weights[f"fpn{n}.1.ln.bias"]}
  params = {
    "neck": neck,
    "conv": {"kernel": weights["conv.weight"].transpose(2, 3, 1, 0)},
    "norm": {"scale": weights["bn.weight"], "bias": weights["bn.bias"]},
  }
  stats = {"norm": {"mean": weights["bn.running_mean"], "var": weights["bn.running_var"]}}
  head = {"kernel": weights["conv_seg.weight"][:, :, 0, 0].T, "bias": weights["conv_seg.bias"]}
  return {"params": params, "batch_stats": stats}, {"params": head}


def encoder_rows(size=256, **fields) -> list[parity.Row]:
  image = np.random.default_rng(1).normal(size=(1, size, size, len(prithvi.BANDS))).astype(np.float32)
  net, variables, expected = encoder_pair(image, **fields)
  ours = parity.apply(net, variables, image, train=False)
  what = f"ViT encoder, width {net.width}, depth {net.depth}: c4"
  return [parity.row(what, "torch", parity.size_of(image), ours, {"c4": expected}, note=NOTE)]


def decoder_rows(size=256, *, width=768, features=256, classes=2) -> list[parity.Row]:
  """Neck, convolution and BN, and the head on its map, of random tokens as an image of `size` pixels has them."""
  oracle = torch_vit.randomize(torch_vit.Decoder(width=width, features=features, classes=classes))
  variables, head = decoder_variables(oracle)
  x = np.random.default_rng(0).normal(size=(1, size // 16, size // 16, width)).astype(np.float32)
  maps, logits = parity.run_torch(oracle, x)
  decoded = parity.apply(prithvi.PrithviDecoder(features=features), variables, {"c4": x}, train=False)["output"]
  pixels = parity.apply(prithvi.PixelHead(classes=classes), head, decoded)["output"]
  ours, expected = {"map": decoded, "logits": pixels}, {"map": maps, "logits": logits}
  names = {"map": "Prithvi neck and decoder: map", "logits": "Prithvi neck, decoder and head: logits"}
  place = parity.size_of(np.broadcast_to(0, (1, size, size)))
  return [parity.row(names[k], "torch", place, {k: ours[k]}, {k: expected[k]}, note=NOTE) for k in names]
