"""Tables of the networks' parameter names, shapes and counts, kept as text in tests/golden/.

Command:  python -m tests.oracles.golden   writes them anew (a changed name breaks every checkpoint: think twice).
"""

import collections
import functools
import pathlib

import jax
import jax.numpy as jnp

from minec2f_jax import models
from tests.oracles import carry, layers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "golden"
DENSENET121 = (6, 12, 24, 16)


@functools.cache
def tables() -> dict[str, str]:
  """{file name: text} of DenseNet-121 beside Keras' and torchvision's names, and of the default MineC2FNet."""
  image = jax.ShapeDtypeStruct((1, 256, 256, 6), jnp.float32)
  densenet = layers.init_shapes(models.DenseNet(), image, train=False)
  teacher, student = models.make_segmenter({}), models.make_minec2fnet({})
  features = jax.eval_shape(lambda x: teacher.init_with_output(jax.random.key(0), x)[0]["features"], image)
  minec2fnet = layers.init_shapes(student, image, features)
  minec2fnet = {kind: {name: x for name, x in tree.items() if name != "encoder"} for kind, tree in minec2fnet.items()}
  return {
    "densenet121.txt": table(densenet, carry.densenet_names(DENSENET121)),
    "minec2fnet.txt": table(minec2fnet, carry.fpn_names("decoder/", "head/"), "# without encoder: densenet121.txt\n"),
  }


def table(variables, names, head="") -> str:
  """One line a module: name, its leaves with their shapes, how many numbers, and what others call it."""
  rows, counts = collections.defaultdict(list), collections.Counter()
  for kind in ("params", "batch_stats"):
    for path, leaf in _leaves(variables.get(kind, {})):
      module, _, name = path.rpartition("/")
      rows[module].append((name, leaf))
      counts[kind] += leaf.size
  lines = [head + f"# trainable {counts['params']}, BN statistics {counts['batch_stats']}"]
  for module in sorted(rows):
    leaves = " ".join(f"{name}:{'x'.join(map(str, leaf.shape))}" for name, leaf in sorted(rows[module]))
    theirs = names.get(module, ())
    theirs = (theirs,) if isinstance(theirs, str) else theirs
    lines.append(" ".join((module, leaves, str(sum(leaf.size for _, leaf in rows[module])), *theirs)))
  return "\n".join(lines) + "\n"


def _leaves(tree, prefix=""):
  for name, part in tree.items():
    if isinstance(part, dict):
      yield from _leaves(part, f"{prefix}{name}/")
    else:
      yield prefix + name, part


def main():
  for name, text in tables().items():
    (FOLDER / name).write_text(text)


if __name__ == "__main__":
  main()
