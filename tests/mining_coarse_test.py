"""Tests of datasets.mining_coarse: which chips each selection takes."""

import pathlib
import tempfile

import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from datasets.mining_coarse import mining_coarse_dataset_builder as builder_lib
from minec2f_jax.data.tfds_source import TfdsSource
from minec2f_jax.errors import UserError
from tests.chip_folder import write_chip, write_index

BUILDER = builder_lib.MiningCoarse
CONFIGS = {config.name: config for config in BUILDER.BUILDER_CONFIGS}
# id: (height, width, area_km2), around every threshold.
CHIPS = {
  "tiny": (7, 9, 0.04),
  "below": (130, 128, 9.799999),
  "exact": (99, 140, 9.8),
  "hundred": (100, 100, 9.80001),
  "broad": (127, 300, 30.0),
  "full": (128, 128, 12.0),
}


class CoarseTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _folder(self, *, header="id,domain,split,sensor,area_km2", chips=CHIPS):
    for name, (height, width, _) in chips.items():
      write_chip(self.root, name, height=height, width=width)
    write_index(self.root, header, *[f"{name},coarse,train,reflectance,{area}" for name, (*_, area) in chips.items()])

  @parameterized.parameters(
    ("full", set(CHIPS)),
    ("min128", {"below", "full"}),
    ("fine_filtered", {"exact", "hundred", "broad", "full"}),
    ("fine_filtered_100", {"hundred", "broad", "full"}),
    ("fine_filtered_100-128px-patches", {"hundred", "broad", "full"}),
  )
  def test_a_selection_takes_exactly_what_it_says(self, config, kept):
    self._folder()
    plan = BUILDER.make_plan(CONFIGS[config], self.root)
    self.assertEqual({chip.row.id for chip in plan.chips}, kept)
    self.assertEqual(set(plan.left_out), set(CHIPS) - kept)
    self.assertEmpty(plan.broken)

  def test_every_selection_has_all_bands_and_sizes_and_the_filtered_one_of_six_bands_is_the_default(self):
    self.assertLen(CONFIGS, 4 * 3 * 6)
    self.assertEqual(BUILDER.BUILDER_CONFIGS[0].name, "fine_filtered")
    for name, bands in (("fine_filtered", 6), ("fine_filtered-rgb_nir", 4), ("full-rgb-128px-patches", 3)):
      self.assertEqual(CONFIGS[name].layout.bands, ("red", "green", "blue", "nir", "swir1", "swir2")[:bands])
    self.assertEqual((CONFIGS["full"].layout.size, CONFIGS["min128-512px"].layout.size), (256, 512))

  def test_why_a_chip_is_left_out_is_told(self):
    self._folder()
    self.assertEqual(BUILDER.make_plan(CONFIGS["fine_filtered_100"], self.root).left_out, {
      "tiny": "mine smaller than 9.8 km2",
      "below": "mine smaller than 9.8 km2",
      "exact": "image shorter than 100 pixels",
    })  # fmt: skip

  @parameterized.parameters(
    ("fine_filtered", 6, "2 left out: mine smaller than 9.8 km2.*mining_coarse/full would keep 2"),
    ("min128-128px", 6, "2 left out: image shorter than 128 pixels.*mining_coarse/full-128px would keep 2"),
    ("fine_filtered", 3, "no band nir and swir1 and swir2.*mining_coarse/full-rgb would keep 2"),
    ("full-rgb_nir", 3, "2 left out: no band nir.*mining_coarse/full-rgb would keep 2"),
  )
  def test_where_nothing_is_left_a_config_that_keeps_something_is_named(self, config, bands, message):
    for name in "ab":
      write_chip(self.root, name, bands=bands, height=8, width=8)
    # Where areas are unknown, configs that ask for one are no way out.
    write_index(self.root, "id,area_km2", *(["a,1", "b,2"] if config == "fine_filtered" else ["a,", "b,"]))
    plan = BUILDER.make_plan(CONFIGS[config], self.root)
    self.assertEmpty(plan.chips)
    self.assertRegex(BUILDER.why_nothing(CONFIGS[config], plan), f"{config}: none of 2 images is left .*{message}$")

  def test_missing_areas_are_refused_with_the_command_that_writes_them(self):
    self._folder(chips={name: (8, 8, "") for name in "abcdefg"})
    with self.assertRaisesRegex(UserError, r"area_km2.*7 of 7 rows \(a, b, c, d, e, \.\.\.\).*datasets.chips"):
      BUILDER.make_plan(CONFIGS["fine_filtered"], self.root)
    self.assertLen(BUILDER.make_plan(CONFIGS["full"], self.root).chips, 7)
    with self.assertRaisesRegex(UserError, "--dataset=mining_coarse/full-rgb-128px$"):
      BUILDER.make_plan(CONFIGS["fine_filtered_100-rgb-128px"], self.root)

  def test_a_chip_is_in_the_same_split_in_every_selection(self):
    chips = {f"c{i}": (8, 8, float(i)) for i in range(20)}
    for name, (height, width, _) in chips.items():
      write_chip(self.root, name, height=height, width=width)
    write_index(self.root, "id,area_km2", *[f"{name},{area}" for name, (*_, area) in chips.items()])
    full, filtered = (
      {chip.row.id: chip.split for chip in BUILDER.make_plan(CONFIGS[name], self.root).chips}
      for name in ("full", "fine_filtered")
    )
    self.assertLen(filtered, 10)
    self.assertEqual(filtered, {name: full[name] for name in filtered})

  def test_rows_of_the_other_domain_are_no_concern(self):
    for name in "ab":
      write_chip(self.root, name, height=8, width=8)
    write_index(self.root, "id,domain", "a,coarse", "b,fine")
    plan = BUILDER.make_plan(CONFIGS["full"], self.root)
    self.assertEqual([row.id for row in plan.rows], ["a"])

  def test_it_prepares_through_tfds_and_reads_back(self):
    self._folder()
    tfds.disable_progress_bar()
    builder = BUILDER(data_dir=self.root / "data", config="fine_filtered_100-128px", file_format="array_record")
    write_index(
      self.root,
      "id,area_km2,split",
      "hundred,10,train",
      "broad,10,validation",
      "full,10,test",
    )
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=self.root))
    source = TfdsSource(builder.data_dir, split="test", roles=("nir",), image_size=128)
    self.assertEqual(source.ids, ("full",))
    self.assertEqual(source[0]["image"].shape, (128, 128, 1))


if __name__ == "__main__":
  absltest.main()
