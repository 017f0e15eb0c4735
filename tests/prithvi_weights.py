"""A toy-size file of Prithvi's masked autoencoder: its names and shapes, tensors at random."""

import numpy as np
from safetensors.numpy import save_file

from minec2f_jax.models import vit

WIDTH = 32
NET = vit.ViTEncoder(width=WIDTH, depth=2, heads=2)
# What files of the masked autoencoder hold, at the toy width.
ENCODER = {
  "cls_token": (1, 1, WIDTH),
  "patch_embed.proj.weight": (WIDTH, 6, 1, 16, 16),
  "patch_embed.proj.bias": (WIDTH,),
  "norm.weight": (WIDTH,),
  "norm.bias": (WIDTH,),
}
for block in "01":
  ENCODER |= {
    f"blocks.{block}.norm1.weight": (WIDTH,),
    f"blocks.{block}.norm1.bias": (WIDTH,),
    f"blocks.{block}.attn.qkv.weight": (3 * WIDTH, WIDTH),
    f"blocks.{block}.attn.qkv.bias": (3 * WIDTH,),
    f"blocks.{block}.attn.proj.weight": (WIDTH, WIDTH),
    f"blocks.{block}.attn.proj.bias": (WIDTH,),
    f"blocks.{block}.norm2.weight": (WIDTH,),
    f"blocks.{block}.norm2.bias": (WIDTH,),
    f"blocks.{block}.mlp.fc1.weight": (4 * WIDTH, WIDTH),
    f"blocks.{block}.mlp.fc1.bias": (4 * WIDTH,),
    f"blocks.{block}.mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    f"blocks.{block}.mlp.fc2.bias": (WIDTH,),
  }
DECODER = {
  "mask_token": (1, 1, 8),
  "decoder_pos_embed": (1, 13, 8),
  "decoder_embed.weight": (8, WIDTH),
  "decoder_blocks.0.attn.qkv.weight": (24, 8),
  "decoder_norm.bias": (8,),
  "decoder_pred.weight": (1536, 8),
}


def random_weights(*, seed=0) -> dict[str, np.ndarray]:
  """A file of the first release, float32: three frames of 2x2 patches."""
  rng = np.random.default_rng(seed)
  weights = {name: rng.normal(size=shape) for name, shape in (ENCODER | DECODER).items()}
  first = vit.position_table(2, 2, WIDTH).reshape(4, WIDTH)
  others = [np.concatenate([first[:, : WIDTH * 3 // 4], rng.normal(size=(4, WIDTH // 4))], 1) for _ in range(2)]
  weights["pos_embed"] = np.concatenate([np.zeros((1, WIDTH)), first, *others])[None]
  return {name: array.astype(np.float32) for name, array in weights.items()}


def later_names(weights) -> dict[str, np.ndarray]:
  """`weights` as the later code names them."""
  return {f"decoder.{name}" if name in DECODER else f"encoder.{name}": array for name, array in weights.items()}


def write_safetensors(path, weights):
  save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)
