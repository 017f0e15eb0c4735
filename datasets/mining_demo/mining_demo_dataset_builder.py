"""TFDS builder of the demo: six-band synthetic landscapes with coarse or fine mine labels."""

import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import time

import numpy as np
import tensorflow_datasets as tfds

from datasets.mining_demo import landscape, spectra
from minec2f_jax.data import coarsen
from minec2f_jax.errors import UserError

REFLECTANCE_SCALE = 1e-4  # Stored integers times this are reflectance, as in Sentinel-2 products.
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(eq=False, kw_only=True)
class MiningDemoConfig(tfds.core.BuilderConfig):
  """What one variant of the demo holds.

  Attributes:
    coarse: whether the labels are coarsened (see `minec2f_jax.data.coarsen`) or exact.
    seed: root of every image's own seed; different configs need different ones, or they show the same mines.
    counts: images in train, validation and test.
    size: height and width in pixels.
    gsd_m: pixel size in metres.
  """

  coarse: bool = False
  seed: int = 0
  counts: tuple[int, int, int] = (40, 16, 40)
  size: int = 128
  gsd_m: float = 20.0


class MiningDemo(tfds.core.GeneratorBasedBuilder):
  """Synthetic six-band mines; coarse and fine labels of different places."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    MiningDemoConfig(
      name="coarse",
      coarse=True,
      seed=1,
      counts=(160, 24, 40),
      description="Many places, labels like hurriedly drawn polygons.",
    ),
    MiningDemoConfig(name="fine", coarse=False, seed=2, counts=(40, 16, 40), description="Few places, exact labels."),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    config, metadata = self.builder_config, self.get_metadata()
    shape = (config.size, config.size)
    return tfds.core.DatasetInfo(
      builder=self,
      description=metadata.description,
      citation=metadata.citation,
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "image": tfds.features.Tensor(shape=(*shape, len(spectra.ROLES)), dtype=np.uint16, encoding="zlib"),
          "label": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="zlib"),
          "valid": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="zlib"),
          "climate": tfds.features.ClassLabel(names=landscape.CLIMATES),
          "sensor": tfds.features.ClassLabel(names=landscape.SENSORS),
        }
      ),
      metadata=tfds.core.MetadataDict(
        bands=list(spectra.ROLES), reflectance_scale=REFLECTANCE_SCALE, gsd_m=config.gsd_m
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing is downloaded.
    counts = self.builder_config.counts
    return {s: self._generate_examples(i, s, n) for i, (s, n) in enumerate(zip(_SPLITS, counts))}

  def _generate_examples(self, split_number: int, split: str, count: int):
    for index in range(count):
      example = make_example(self.builder_config, split_number, index)
      example["id"] = f"{self.builder_config.name}_{split}_{index:04d}"
      yield example["id"], example


def make_example(config: MiningDemoConfig, split_number: int, index: int) -> dict:
  """Returns one record but its id; a function of (config.seed, split, index), so order does not matter."""
  rng = np.random.default_rng([config.seed, split_number, index])
  scene = landscape.landscape(rng, size=config.size, gsd_m=config.gsd_m)
  label = coarsen.coarsen(rng, scene.fine, gsd_m=config.gsd_m) if config.coarse else scene.fine
  return {
    "image": np.round(scene.image / REFLECTANCE_SCALE).astype(np.uint16),
    "label": label * scene.valid,
    "valid": scene.valid.astype(np.uint8),
    "climate": scene.zone - 1,
    "sensor": scene.sensor,
  }


def prepare(data_dir) -> dict[str, str]:
  """Returns the version folder of each config, {"coarse": path, "fine": path}, made if it is not there.

  TFDS writes into a temporary sibling and renames it when complete: whatever ends the process halfway,
  the next call starts afresh, and of two processes the one that comes second uses the first one's.

  Raises:
    UserError: if a version folder exists but is incomplete, as after an interrupted copy.
  """
  tfds.disable_progress_bar()
  return {c.name: _prepare_config(c, data_dir) for c in MiningDemo.BUILDER_CONFIGS}


def _prepare_config(config: MiningDemoConfig, data_dir) -> str:
  # TFDS wants an absolute path only sometimes; the trainer always does.
  path = pathlib.Path(data_dir).resolve() / "mining_demo" / config.name / str(MiningDemo.VERSION)
  if _complete(path):
    return os.fspath(path)
  if path.exists():
    raise UserError(f"{path} exists but is no complete dataset: delete that folder and start again.")
  print(f"mining_demo/{config.name}: making {sum(config.counts)} images ...", file=sys.stderr, flush=True)
  start = time.perf_counter()
  builder = MiningDemo(data_dir=path.parents[2], config=config.name, file_format="array_record")
  try:
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download that there is none of.
      builder.download_and_prepare()
  except OSError:  # The rename fails where another process was faster.
    if not _complete(path):
      raise
  except RuntimeError as error:  # So array_record tells of a disk that is full.
    raise OSError(" ".join(str(error).split())) from error
  print(f"mining_demo/{config.name}: done in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
  return os.fspath(path)


def _complete(path: pathlib.Path) -> bool:
  return (path / "dataset_info.json").is_file() and (path / "features.json").is_file()
