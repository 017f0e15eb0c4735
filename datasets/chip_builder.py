"""What the TFDS builders of mining_fine and mining_coarse share."""

import abc
import collections
import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from datasets import chip_records
from minec2f_jax import console
from minec2f_jax.data import folder, splits
from minec2f_jax.data.rasterfile import Header
from minec2f_jax.errors import UserError


@dataclasses.dataclass(eq=False, kw_only=True)
class ChipConfig(tfds.core.BuilderConfig):
  """A variant: `layout`, and for mining_coarse `selection`, which chips it takes."""

  layout: chip_records.Layout
  selection: str = ""


class ChipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Records from a folder of chips, the manual directory.

  Args:
    plan: what to prepare; None plans the manual directory with encoding "auto" and refuses broken chips.
    **kwargs: of TFDS.
  """

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "The manual directory holds index.csv, images/ and masks/: see the README of the dataset. "
    "`python -m datasets.prepare --help` does all the rest."
  )

  def __init__(self, *, plan: chip_records.Plan | None = None, **kwargs):
    super().__init__(**kwargs)
    self._plan = plan
    self.tally = chip_records.Tally()

  @classmethod
  @abc.abstractmethod
  def make_plan(
    cls, config: ChipConfig, path, *, sensor: str = "auto", skip: Mapping[str, str] | None = None
  ) -> chip_records.Plan:
    """What the folder `path` gives under `config`; see `chip_records.make_plan`."""

  @classmethod
  def why_unwanted(cls, config: ChipConfig, row: folder.Row, header: Header) -> str:
    """Why `config` leaves a sound chip out that has all bands, or ""."""
    del config, row, header
    return ""

  @classmethod
  def why_nothing(cls, config: ChipConfig, plan: chip_records.Plan) -> str:
    """Why a plan without chips has none, and which config would keep most."""
    if not plan.rows:
      return "index.csv has no row of this domain; leave its column 'domain' out, or choose the other data set"
    kinds = collections.Counter(reason.partition(":")[0] for reason in plan.left_out.values())
    listed = "; ".join(f"{count} left out: {kind}" for kind, count in kinds.items())
    said = f"{cls.name}/{config.name}: none of {len(plan.rows)} images is left ({listed})"
    kept = {other.name: cls._count_kept(other, plan) for other in cls._siblings(config)}
    best = max(kept, key=kept.get, default="")  # The first of the best.
    if not kept.get(best):
      return f"{said}; correct them, or give others"
    return f"{said}; --dataset={cls.name}/{best} would keep {kept[best]}"

  @classmethod
  def _siblings(cls, config):
    """Configs that make records of the same size in the same way."""
    layout = config.layout
    return [c for c in cls.BUILDER_CONFIGS if (c.layout.size, c.layout.patches) == (layout.size, layout.patches)]

  @classmethod
  def _count_kept(cls, config, plan):
    reasons = (
      chip_records.lacks(row, header, config.layout.bands) or cls.why_unwanted(config, row, header)
      for row, header in plan.unwanted
    )
    return sum(not reason for reason in reasons)

  def _info(self) -> tfds.core.DatasetInfo:
    layout, metadata = self.builder_config.layout, self.get_metadata()
    shape, text = (layout.size, layout.size), tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      description=metadata.description,
      citation=metadata.citation,
      # Encoding "bytes": ArrayRecord compresses by itself; "zlib" before that takes four times as long for 2 % less.
      features=tfds.features.FeaturesDict(
        {
          "id": text,
          "position": tfds.features.Scalar(dtype=np.int64),
          "image": tfds.features.Tensor(shape=(*shape, len(layout.bands)), dtype=np.float32, encoding="bytes"),
          "label": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
          "valid": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
          "mine": text,
          "country": text,
          "commodity": text,
          "climate_zone": text,
          "region": text,
          "product": text,
          "sensor": text,
          "has_swir": tfds.features.Scalar(dtype=np.bool_),
          "gsd_m": tfds.features.Scalar(dtype=np.float32),
          "source_height": tfds.features.Scalar(dtype=np.int32),
          "source_width": tfds.features.Scalar(dtype=np.int32),
        }
      ),
      metadata=tfds.core.MetadataDict(
        bands=list(layout.bands), reflectance_scale=1.0, size=layout.size, patches=layout.patches
      ),
    )

  def _split_generators(self, dl_manager):
    plan = self._plan or self.make_plan(self.builder_config, dl_manager.manual_dir)
    if plan.broken:
      raise folder.FolderError(folder.describe_broken(plan.root, plan.broken, len(plan.rows)))
    if not plan.chips:
      raise UserError(f"{plan.root}: {self.why_nothing(self.builder_config, plan)}")
    chips = {split: [chip for chip in plan.chips if chip.split == split] for split in splits.SHARES}
    # TFDS cannot write an empty split.
    return {split: self._generate_examples(split, some) for split, some in chips.items() if some}

  def _generate_examples(self, split: str, chips):
    for chip in console.track(chips, total=len(chips), unit="images", title=f"{self.name} {split}"):
      for record in chip_records.records(chip, self.builder_config.layout):
        self.tally.add(split, record)
        yield record["id"], record

  # TFDS announces a download that there is none of.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass
