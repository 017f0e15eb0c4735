"""Tests of datasets.mining_fine: the paper's list, the splits, and the way from a GeoTIFF to a record and back."""

import collections
import csv
import hashlib
import pathlib
import tempfile

import numpy as np
import pyproj
import rasterio
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from datasets import chip_builder, chip_records
from datasets.mining_fine import mines
from datasets.mining_fine import mining_fine_dataset_builder as builder_lib
from minec2f_jax.data import folder
from minec2f_jax.data.tfds_source import TfdsSource
from minec2f_jax.errors import UserError
from tests.chip_folder import NAMES, write_chip, write_index
from tests.rasters import write_geotiff

SIX = chip_records.BANDS["rgb_nir_swir"]
METADATA = dict(mine="", mine_id="", country="", commodity="", climate_zone="", region="", product="")


class MinesTest(parameterized.TestCase):
  def test_list_is_read_as_it_stands_in_the_file(self):
    with open(mines.LIST, newline="", encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
    self.assertLen(mines.read_mines(), 205)
    self.assertEqual(
      [(m.mine_id, m.mine, m.climate_zone, m.product, m.split) for m in mines.read_mines()],
      [(r["mine_id"], r["mine_name"], r["climate_zone"], r["sensor"], r["split"]) for r in rows],
    )
    self.assertEqual(collections.Counter(r["split"] for r in rows), {"train": 139, "validation": 22, "test": 44})

  def test_contradictions_are_found(self):
    found = "\n".join(mines.contradictions())
    for sentence in (
      "Cerro_Corona is in train (Landsat 8, mine_id 85) and validation (Sentinel 2, mine_id 16)",
      "Thompson is in train (Landsat 8, mine_id 224) and validation (Landsat 8, mine_id 61)",
      "Antucoya is in test 2 times",
      "Orapa is in test 2 times",
      "Santa_Rita is in test 2 times",
      "train: 139 mines are listed, the text says 153 images",
      "validation: tropical/arid/temperate/cold/polar are 6/3/2/5/6 in the list, 4/4/4/4/4 in Table 11",
      "test: tropical/arid/temperate/cold/polar are 14/17/10/1/2 in the list, 8/21/9/1/2 in Table 11",
    ):
      self.assertIn(sentence, found)
    self.assertLen(mines.contradictions(), 8)

  @parameterized.parameters(
    ("61", "Thompson", "Landsat 8", "validation"),
    ("224", "", "", ""),  # Somebody's own 224th mine.
    ("224", "thompson", "", "train"),
    ("", "north mara", "sentinel-2", "train"),
    ("", "Cerro Corona", "Sentinel 2", "validation"),
    ("", "Cerro Corona", "Landsat 8", "train"),
    ("", "Orapa", "", "test"),  # Two rows, one split.
    ("", "North_Mara", "Landsat 8", ""),
    ("", "Côte", "Sentinel 2", ""),
    ("", "", "Sentinel 2", ""),
  )
  def test_official_split(self, mine_id, mine, product, split):
    self.assertEqual(mines.official_split(mine_id, mine, product), split)

  @parameterized.parameters("Landsat 8", "")
  def test_thompson_without_its_id_is_refused_and_both_places_named(self, product):
    with self.assertRaisesRegex(UserError, "224.*and validation .*61.*mine_id"):
      mines.official_split("", "Thompson", product)

  def test_blanks_are_filled_and_what_is_there_is_compared(self):
    got = mines.complete({**METADATA, "mine": "ity", "country": "Co\u0302te d'Ivoire", "climate_zone": "1"})
    self.assertEqual(
      got,
      dict(
        mine="Ity",
        mine_id="210",
        country="Côte d’Ivoire",
        commodity="Au",
        climate_zone="tropical",
        region="Africa",
        product="Landsat 8",
      ),
    )

  def test_of_two_rows_only_what_both_say_is_filled_in(self):
    got = mines.complete({**METADATA, "mine": "Antucoya", "product": "Sentinel 2"})
    self.assertEqual((got["country"], got["region"]), ("Chile", "South America"))
    self.assertEqual((got["commodity"], got["climate_zone"]), ("", ""))
    self.assertEqual(mines.complete({**got, "commodity": "Cu"})["climate_zone"], "arid")

  def test_other_mines_are_left_alone(self):
    metadata = {**METADATA, "mine": "Mine of my own", "country": "Peru"}
    self.assertEqual(mines.complete(metadata), metadata)

  def test_a_contradiction_names_both_values(self):
    with self.assertRaisesRegex(UserError, "country 'Chile' where the paper's list says 'Peru'.*Alpamarca, mine_id 3"):
      mines.complete({**METADATA, "mine": "Alpamarca", "country": "Chile"})
    with self.assertRaisesRegex(UserError, "mine_id '61' where the paper's list says '60'.*Tara"):
      mines.complete({**METADATA, "mine": "Tara", "mine_id": "61"})


class FineTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.data_dir = self.root / "data"

  def _plan(self, config="rgb", **kwargs):
    configs = {c.name: c for c in builder_lib.MiningFine.BUILDER_CONFIGS}
    return builder_lib.MiningFine.make_plan(configs[config], self.root, **kwargs)

  def _config(self, bands=SIX, size=32, patches=False):
    return chip_builder.ChipConfig(
      name=f"x{len(bands)}-{size}-{patches}", layout=chip_records.Layout(bands, size, patches)
    )

  def _build(self, config, data_dir=None, *, planned=False, **kwargs):
    tfds.disable_progress_bar()
    plan = builder_lib.MiningFine.make_plan(config, self.root, **kwargs) if planned else None
    builder = builder_lib.MiningFine(
      data_dir=data_dir or self.data_dir, config=config, file_format="array_record", plan=plan
    )
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=self.root))
    return pathlib.Path(builder.data_dir)


class SplitsTest(FineTest):
  def _splits(self, *lines):
    write_index(self.root, *lines)
    for line in lines[1:]:
      write_chip(self.root, line.split(",")[0], bands=3, height=4, width=4)
    plan = self._plan()
    return {chip.row.id: chip.split for chip in plan.chips}, plan

  def test_named_splits_are_kept_and_a_move_is_told(self):
    got, plan = self._splits(
      "id,split,mine,product", "a,test,Tara,Sentinel 2", "b,validation,Tizapa,Sentinel 2", "c,,,", "d,train,Thompson,"
    )
    self.assertEqual(got, {"a": "test", "b": "validation", "c": "train", "d": "train"})
    self.assertIn("2 of them are in another split than the list says, as index.csv wants: a, b", plan.notes)

  def test_mines_of_the_list_get_its_split_and_are_completed(self):
    got, plan = self._splits(
      "id,mine,mine_id,product", "a,Tara,,Sentinel 2", "b,Thompson,61,", "c,Spence,,Landsat 8", "d,Antucoya,,Sentinel 2"
    )
    self.assertEqual(got, {"a": "train", "b": "validation", "c": "test", "d": "test"})
    self.assertEqual(plan.chips[1].row.metadata["country"], "Canada")
    self.assertEqual(plan.notes[0], "4 of 4 images are of mines on the paper's list")
    self.assertLen(plan.notes, 1 + len(mines.contradictions()))

  def test_others_are_dealt_around_them(self):
    own = [f"o{i},,,own{i // 2}" for i in range(26)]
    got, _ = self._splits(
      "id,mine,product,location_group", "a,Tara,Sentinel 2,1", "b,Chatree,Sentinel 2,2", "c,Spence,Landsat 8,3",
      "e,,,3", *own
    )  # fmt: skip
    self.assertEqual((got["a"], got["b"], got["c"], got["e"]), ("train", "validation", "test", "test"))
    counts = collections.Counter(got.values())
    self.assertEqual(counts["validation"], 3)  # 10 % of 30, in groups of two beside the one that is there.
    self.assertEqual(counts["test"], 6)
    for i in range(0, 26, 2):
      self.assertEqual(got[f"o{i}"], got[f"o{i + 1}"])

  def test_without_the_paper_s_mines_the_folder_deals(self):
    got, plan = self._splits("id,mine", *[f"o{i},Own {i}" for i in range(10)])
    self.assertEqual(collections.Counter(got.values()), {"train": 7, "validation": 1, "test": 2})
    self.assertEmpty(plan.notes)

  def test_all_rows_that_do_not_fit_the_list_are_named_at_once(self):
    with self.assertRaisesRegex(
      UserError, r"(?s)2 rows do not fit.*a: Thompson is in .*224.*61.*c: commodity 'Au' where .*'PbZn'.*leave mine_id"
    ):
      self._splits("id,mine,product,commodity", "a,Thompson,Landsat 8,", "b,Spence,,", "c,Tara,Sentinel 2,Au")

  def test_a_group_whose_mines_the_list_parts_is_refused(self):
    with self.assertRaisesRegex(UserError, "group '7' lies in both train and validation"):
      self._splits("id,mine,mine_id,location_group", "a,Cerro Corona,85,7", "b,Cerro Corona,16,7")


class BandsTest(FineTest):
  def setUp(self):
    super().setUp()
    for seed, (name, bands) in enumerate(dict(a=6, b=4, c=3, d=6).items()):
      write_chip(self.root, name, bands=bands, height=8, width=8, seed=seed)
    write_index(self.root, "id,split", "a,train", "b,train", "c,validation", "d,test")

  @parameterized.parameters(
    ("rgb", "abcd", {}),
    ("rgb_nir", "abd", {"c": "no band nir"}),
    ("rgb_nir_swir", "ad", {"b": "no band swir1 and swir2", "c": "no band nir and swir1 and swir2"}),
  )
  def test_images_without_a_band_are_left_out_by_name(self, config, kept, left_out):
    plan = self._plan(config)
    self.assertEqual("".join(chip.row.id for chip in plan.chips), kept)
    self.assertEqual((plan.left_out, plan.broken), (left_out, {}))

  def test_default_is_six_bands_in_the_paper_s_order_at_256(self):
    layout = builder_lib.MiningFine.BUILDER_CONFIGS[0].layout
    self.assertEqual(builder_lib.MiningFine.BUILDER_CONFIGS[0].name, "rgb_nir_swir")
    self.assertEqual(layout, chip_records.Layout(("red", "green", "blue", "nir", "swir1", "swir2"), 256, False))
    names = {c.name for c in builder_lib.MiningFine.BUILDER_CONFIGS}
    self.assertLen(names, 18)
    self.assertContainsSubset({"rgb", "rgb-512px", "rgb_nir-128px-patches", "rgb_nir_swir-256px-patches"}, names)

  def test_two_bands_of_one_role_are_broken_not_missing(self):
    write_geotiff(self.root / "images" / "a.tif", np.zeros((7, 8, 8), np.float32), (*NAMES, "B12"))
    plan = self._plan("rgb_nir_swir")
    self.assertRegex(plan.broken["a"], "more than one band for a role")
    self.assertNotIn("a", plan.left_out)

  def test_skipping_moves_no_other_image(self):
    write_index(self.root, "id", "a", "b", "c", "d")
    before = {chip.row.id: chip.split for chip in self._plan().chips}
    plan = self._plan(skip={"b": "ugly"})
    self.assertEqual({c.row.id: c.split for c in plan.chips}, {k: v for k, v in before.items() if k != "b"})
    self.assertEqual(plan.left_out, {"b": "ugly"})

  def test_broken_images_stop_tfds_too(self):
    (self.root / "masks" / "d.tif").unlink()
    with self.assertRaisesRegex(UserError, r"(?s)1 of 4 chips cannot be used.*d: .*d.tif: no such file"):
      self._build(self._config(chip_records.RGB))


class RoundTripTest(FineTest):
  def test_integers_with_scale_and_nodata_come_back_bit_for_bit(self):
    rng = np.random.default_rng(5)
    stored = rng.integers(1, 10000, (6, 32, 32)).astype(np.uint16)
    stored[:, :3], stored[2, 9, 9] = 65535, 65535
    mask = rng.integers(0, 2, (1, 32, 32)).astype(np.int16)
    mask[0, 20, 20] = -1
    for name in ("images", "masks"):
      (self.root / name).mkdir()
    write_geotiff(self.root / "images" / "a.tif", stored, NAMES, nodata=65535)
    with rasterio.open(self.root / "images" / "a.tif", "r+") as dst:
      dst.scales = (1e-4,) * 6
    write_geotiff(self.root / "masks" / "a.tif", mask)
    write_index(self.root, "id,split,sensor", "a,train,reflectance_x10000")
    source = TfdsSource(self._build(self._config()), split="train", roles=SIX, image_size=32)

    with rasterio.open(self.root / "images" / "a.tif") as src:  # The oracle: rasterio and NumPy alone.
      dn, scale, nodata = src.read([3, 2, 1, 4, 5, 6]), np.float32(src.scales[0]), src.nodata
    with rasterio.open(self.root / "masks" / "a.tif") as src:
      label = src.read(1)
    valid = (dn != nodata).all(axis=0) & (label >= 0)
    image = np.where(valid, dn.astype(np.float32) * scale, np.float32(0)).transpose(1, 2, 0)
    sample = source[0]
    np.testing.assert_array_equal(sample["valid"], valid)
    np.testing.assert_array_equal(sample["image"].view(np.uint32), image.view(np.uint32))
    np.testing.assert_array_equal(sample["label"], np.where(valid, label, 0))
    self.assertEqual(sample["image"].dtype, np.float32)
    self.assertEqual(int((~valid).sum()), 3 * 32 + 2)

  def test_metadata_of_a_record_are_those_of_index_and_file(self):
    write_chip(self.root, "a", height=48, width=64)
    write_chip(self.root, "b", bands=3, crs=None)
    write_index(
      self.root, "id,location_group,mine,product,climate_zone", "a,1,Tara,Sentinel 2,", "b,1,Zeche Ü,Landsat 8,cold"
    )
    path = self._build(self._config(chip_records.RGB))
    source = TfdsSource(path, split="train", roles=("blue", "red"), image_size=32)
    told = {source.metadata(i)["id"]: source.metadata(i) for i in range(2)}
    # 10 m pixels, 64 x 48 of them resized to 32 x 32: 20 m and 15 m, on the ellipsoid at x = 500 km, scale 0.9996.
    self.assertAlmostEqual(told["a"].pop("gsd_m"), 17.5 / 0.9996, delta=2e-3)
    self.assertTrue(np.isnan(told["b"].pop("gsd_m")))
    self.assertEqual(
      told["a"],
      dict(
        id="a",
        position=0,
        mine="Tara",
        country="Ireland",
        commodity="PbZn",
        climate_zone="temperate",
        region="Europe",
        product="Sentinel 2",
        sensor="auto",
        has_swir=True,
        source_height=48,
        source_width=64,
      ),
    )
    self.assertEqual((told["b"]["mine"], told["b"]["country"], told["b"]["has_swir"]), ("Zeche Ü", "", False))
    details = {source.ids[i]: source.details(i) for i in range(2)}
    np.testing.assert_allclose(details["a"].pop("gsd_m"), [17.5 / 0.9996] * 2, atol=2e-3)
    kept = {name: told["a"][name] for name in ("mine", "country", "commodity", "climate_zone", "region", "product")}
    self.assertEqual(details["a"], {**kept, "location_group": "Tara, Ireland"})
    self.assertNotIn("gsd_m", details["b"])
    known = TfdsSource(path, split="train", roles=("blue", "red"), image_size=16, gsd_m=20.0)
    sides = {known.ids[i]: known.details(i)["gsd_m"] for i in range(2)}
    np.testing.assert_allclose(sides["a"], [35 / 0.9996] * 2, atol=4e-3)  # The record tells its own.
    self.assertEqual(sides["b"], (40.0, 40.0))  # 32 pixels of 20 m as 16.
    info = tfds.builder_from_directory(path).info
    self.assertEqual(
      dict(info.metadata), dict(bands=["red", "green", "blue"], reflectance_scale=1.0, size=32, patches=False)
    )

  def test_degrees_are_converted_to_metres(self):
    write_chip(self.root, "a", height=16, width=16)
    with rasterio.open(self.root / "images" / "a.tif", "r+") as dst:
      dst.crs, dst.transform = "EPSG:4326", rasterio.Affine(1e-4, 0, -60, 0, -1e-4, -30)
    write_index(self.root, "id,split", "a,train")
    record = next(chip_records.records(self._plan("rgb").chips[0], chip_records.Layout(chip_records.RGB, 8, False)))
    lon, lat = -60 + 8e-4, -30 - 8e-4
    sides = pyproj.Geod(ellps="WGS84").inv([lon, lon], [lat, lat], [lon + 2e-4, lon], [lat, lat - 2e-4])[2]
    self.assertAlmostEqual(record["gsd_m"], np.mean(sides), delta=1e-3)

  def test_patches_are_windows_of_the_image(self):
    image, mask = write_chip(self.root, "a", height=70, width=40)
    write_chip(self.root, "b", height=20, width=64)
    write_index(self.root, "id,location_group", "a,1", "b,1")
    config = self._config(patches=True)
    source = TfdsSource(self._build(config), split="train", roles=SIX, image_size=32)
    self.assertEqual(source.ids, ("a_r00c00", "a_r01c00", "b_r00c00", "b_r00c01"))
    self.assertEqual([source.metadata(i)["position"] for i in range(4)], [0, 1, 2, 3])
    index = source.ids.index("a_r01c00")
    np.testing.assert_array_equal(source[index]["image"], image[[2, 1, 0, 3, 4, 5], 32:64, :32].transpose(1, 2, 0))
    np.testing.assert_array_equal(source[index]["label"], mask[32:64, :32])
    self.assertAlmostEqual(source.metadata(index)["gsd_m"], 10 / 0.9996, delta=1e-3)
    self.assertEqual([source.details(i)["location_group"] for i in range(4)], ["a", "a", "b", "b"])
    short = source[source.ids.index("b_r00c01")]
    self.assertTrue(short["valid"][:20].all() and not short["valid"][20:].any())
    plan = builder_lib.MiningFine.make_plan(config, self.root)
    self.assertEqual(
      plan.notes,
      (
        "patches: 752 of 4080 pixels (18.4%) are dropped, at the right and the bottom of images",  # 70 * 40 - 64 * 32
        "patches: 1 images are shorter than 32 pixels and filled up with invalid ones",
      ),
    )

  def test_folder_and_records_train_in_the_same_order(self):
    names = [f"m{i * 37 % 100}" for i in range(16)]  # In no order of their own.
    for seed, name in enumerate(names):
      write_chip(self.root, name, height=20 + seed, width=40, seed=seed)
    write_index(self.root, "id,domain", "x,coarse", *[f"{name},fine" for name in names])
    path = self._build(self._config())
    for split in ("train", "validation", "test"):
      chips = folder.open_folder(self.root, domain="fine", split=split, roles=SIX, image_size=32)
      records = TfdsSource(path, split=split, roles=SIX, image_size=32)
      self.assertEqual(chips.ids, records.ids)
      for i, name in enumerate(chips.ids):
        self.assertEqual(records.metadata(i)["position"], names.index(name))
        for key, array in chips[i].items():
          np.testing.assert_array_equal(array, records[i][key], err_msg=f"{name} {key}")

  def test_patches_come_in_the_order_of_the_index_and_left_out_rows_keep_their_place(self):
    for name, bands, width in (("z", 6, 1300), ("y", 3, 8), ("b", 6, 24)):
      write_chip(self.root, name, bands=bands, height=24, width=width)
    write_index(self.root, "id,location_group", "z,1", "y,1", "b,1")
    source = TfdsSource(self._build(self._config(size=12, patches=True)), split="train", roles=SIX, image_size=12)
    wide = [f"z_r{i:02d}c{j:02d}" for i in range(2) for j in range(108)]  # By name, c100 stands before c99.
    self.assertEqual(source.ids, (*wide, "b_r00c00", "b_r00c01", "b_r01c00", "b_r01c01"))
    self.assertEqual(source.metadata(216)["position"], 217)

  def test_two_preparations_give_the_same_bytes(self):
    for seed, name in enumerate("abcdef"):
      write_chip(self.root, name, seed=seed)
    write_index(self.root, "id,location_group", *[f"{name},{name}" for name in "abcdef"])
    paths = [self._build(self._config(), self.root / str(i), planned=bool(i)) for i in range(2)]
    hashes = [{f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.iterdir())} for path in paths]
    self.assertLen([name for name in hashes[0] if "array_record" in name], 3)
    self.assertEqual(*hashes)


if __name__ == "__main__":
  absltest.main()
