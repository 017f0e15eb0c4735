"""Tests of minec2f_jax.data.folder, on folders written here and, where present, on real ones."""

import pathlib
import pickle
import tempfile
import warnings

import numpy as np
import rasterio
from absl.testing import absltest, parameterized

from minec2f_jax.data import folder
from tests.rasters import DATA, write_geotiff

RGB = ("red", "green", "blue")
SPLITS = ("train", "validation", "test")


def grown(mask, name):
  """Stands in for a coarsening: one pixel more to the right for chip a, to the left for others."""
  return np.maximum(mask, np.roll(mask, 1 if name == "a" else -1, axis=1))


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.root = pathlib.Path(directory.name)
    (self.root / "images").mkdir()
    (self.root / "masks").mkdir()

  def _index(self, *lines):
    (self.root / "index.csv").write_text("\n".join(lines) + "\n")

  def _chip(self, name, *, height=6, width=6, seed=0, image=None, mask=None):
    rng = np.random.default_rng(seed)
    if image is None:
      image = rng.random((3, height, width)).astype(np.float32)
    if mask is None:
      mask = rng.integers(0, 2, (1, height, width)).astype(np.uint8)
    write_geotiff(self.root / "images" / f"{name}.tif", image, ("blue", "green", "red"))
    write_geotiff(self.root / "masks" / f"{name}.tif", mask)
    return image, mask[0]

  def _open(self, **kwargs):
    return folder.open_folder(self.root, **{"domain": "fine", "split": "train", "roles": RGB, **kwargs})


class ReadTest(FolderTest):
  def test_a_sample_holds_reflectance_label_and_validity(self):
    image, mask = np.full((3, 6, 6), 0.2, np.float32), np.ones((1, 6, 6), np.int16)
    image[1, 0, 0], mask[0, 5, 5] = np.nan, -1
    self._chip("a", image=image, mask=mask)
    self._index("id", "a")
    sample = self._open()[0]
    expected = np.ones((6, 6), bool)
    expected[0, 0] = expected[5, 5] = False
    np.testing.assert_array_equal(sample["valid"], expected)
    np.testing.assert_array_equal(sample["label"], expected)
    np.testing.assert_array_equal(sample["image"], np.where(expected[..., None], np.float32(0.2), 0).repeat(3, -1))
    self.assertEqual(
      {name: (array.dtype, array.shape) for name, array in sample.items()},
      {"image": (np.float32, (6, 6, 3)), "label": (np.uint8, (6, 6)), "valid": (bool, (6, 6))},
    )

  def test_rows_keep_the_order_of_the_index_and_pickle(self):
    arrays = {name: self._chip(name, seed=seed) for seed, name in enumerate("cab")}
    self._index("id,split,location_group,note", "c,train,n,x", "v,validation,v,", "a,train,m,x", "t,test,t,", "b,,n,x")
    self._chip("v")
    self._chip("t")
    source = pickle.loads(pickle.dumps(self._open()))
    self.assertEqual((source.ids, source.groups), (("c", "a", "b"), ("n", "m", "n")))
    self.assertLen(source, 3)
    for name, sample in zip(source.ids, source, strict=True):
      image, mask = arrays[name]
      np.testing.assert_array_equal(sample["image"], np.moveaxis(image[::-1], 0, -1))
      np.testing.assert_array_equal(sample["label"], mask)
    np.testing.assert_array_equal(source[-1]["label"], source[np.int64(2)]["label"])
    with self.assertRaises(IndexError):
      source[3]

  def test_details_are_what_row_and_file_tell_and_nothing_else(self):
    self._chip("a", height=6, width=12)
    write_geotiff(self.root / "images" / "b.tif", self._chip("b")[0], ("blue", "green", "red"), crs=None)
    self._index("id,location_group,area_km2,climate_zone,mine", "a,1,2.5,arid,", "b,1,,,Tara")
    source = self._open(image_size=4)
    found = source.details(0)
    np.testing.assert_allclose(found.pop("gsd_m"), (15 / 0.9996, 30 / 0.9996), rtol=1e-5)
    path = self.root / "images" / "a.tif"
    self.assertEqual(found, {"area_km2": 2.5, "climate_zone": "arid", "location_group": "1", "image": path})
    self.assertEqual(set(source.details(1)), {"mine", "location_group", "image"})
    told = self._open(gsd_m=20.0)  # Of the files: one of the two tells it.
    np.testing.assert_allclose(told.details(0)["gsd_m"], (10 / 0.9996, 10 / 0.9996), rtol=1e-5)
    self.assertEqual(told.details(1)["gsd_m"], (20.0, 20.0))

  def test_named_paths_and_sensors_of_a_row_are_used(self):
    (self.root / "elsewhere").mkdir()
    write_geotiff(self.root / "elsewhere" / "dn.tif", np.full((3, 4, 4), 3500, np.uint16), ("B4", "B3", "B2"))
    write_geotiff(self.root / "elsewhere" / "m.tif", np.ones((1, 4, 4), np.uint8))
    self._chip("b")
    self._index(
      "id,image,mask,sensor,location_group", "a,elsewhere/dn.tif,elsewhere/m.tif,sentinel2_l2a_baseline04,1", "b,,,,1"
    )
    source = self._open()
    np.testing.assert_allclose(source[0]["image"], 0.25, rtol=1e-6)
    self.assertEqual(source[1]["image"].shape, (6, 6, 3))

  def test_resizing_to_the_asked_size(self):
    self._chip("a", height=6, width=9)
    self._index("id", "a")
    sample = self._open(image_size=4)[0]
    self.assertEqual((sample["image"].shape, sample["label"].shape), ((4, 4, 3), (4, 4)))

  def test_coarsening_knows_which_chip_it_draws(self):
    mask = np.zeros((1, 6, 6), np.uint8)
    mask[0, :, 2] = 1
    for name in "ab":
      self._chip(name, mask=mask)
    self._index("id,location_group", "a,1", "b,1")
    labels = [sample["label"][0].tolist() for sample in self._open(domain="coarse", coarsen=grown)]
    self.assertEqual(labels, [[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]])

  def test_coarsening_is_for_coarse_labels_at_native_resolution_and_stays_valid(self):
    mask = np.zeros((1, 6, 6), np.int16)
    mask[0, :, 1], mask[0, 3, 2] = 1, -1
    self._chip("a", mask=mask)
    self._index("id", "a")
    coarse = self._open(domain="coarse", coarsen=grown)[0]
    expected = np.zeros((6, 6), np.uint8)
    expected[:, 1:3] = 1
    expected[3, 2] = 0  # Ignored before, ignored after.
    np.testing.assert_array_equal(coarse["label"], expected)
    self.assertFalse(coarse["valid"][3, 2])
    np.testing.assert_array_equal(self._open(coarsen=grown)[0]["label"], mask[0] > 0)
    shrunk = self._open(domain="coarse", coarsen=grown, image_size=3)[0]
    np.testing.assert_array_equal(shrunk["label"], expected[1::2, 1::2])  # Grown, then picked.


class MetadataTest(FolderTest):
  def test_what_the_index_tells_of_a_mine_is_kept_and_the_rest_is_blank(self):
    self._index("id,mine,product,climate_zone,area_km2,note", "a, North Mara ,Sentinel 2,,9.8,x", "b,,,,,")
    a, b = folder.read_index(self.root, domain="fine")
    self.assertEqual(tuple(a.metadata), folder.METADATA)
    self.assertEqual({k: v for k, v in a.metadata.items() if v}, {"mine": "North Mara", "product": "Sentinel 2"})
    self.assertEqual((a.area_km2, set(b.metadata.values())), (9.8, {""}))
    self.assertTrue(np.isnan(b.area_km2))

  @parameterized.parameters("12 km2", "-1", "inf", "nan")
  def test_an_area_that_is_no_number_is_refused(self, area):
    self._index("id,area_km2", f"a,{area}")
    with self.assertRaisesRegex(folder.FolderError, f"line 2: area_km2='{area}' must be a number"):
      folder.read_index(self.root, domain="fine")

  def test_a_row_is_read_at_its_own_size(self):
    image, mask = self._chip("a", height=5, width=7)
    self._index("id", "a")
    (row,) = folder.read_index(self.root, domain="fine")
    got, label, valid = folder.read_row(row, ("green",))
    np.testing.assert_array_equal(got[..., 0], image[1])
    np.testing.assert_array_equal(label, mask)
    self.assertTrue(valid.all())
    self.assertEqual(folder.why_broken(row, RGB), "")
    write_geotiff(row.mask, np.zeros((1, 5, 5), np.uint8))
    self.assertEqual(folder.why_broken(row, RGB), "image has 5 x 7 pixels, its mask 5 x 5")
    with self.assertRaisesRegex(folder.FolderError, "chip 'a': image has 5 x 7"):
      folder.read_row(row, RGB)

  def test_the_rest_can_be_dealt_around_what_is_named(self):
    self._index("id,split,location_group", "a,train,x", "b,validation,y", *[f"c{i},,z{i}" for i in range(8)], "d,,x")
    rows = folder.read_index(self.root, domain="fine")
    got = folder.split_groups(self.root, rows, "fine", deal_rest=True)
    self.assertEqual((got["x"], got["y"]), ("train", "validation"))
    self.assertEqual(sorted(got[f"z{i}"] for i in range(8)).count("test"), 2)
    self.assertEqual(folder.split_groups(self.root, rows[:3], "fine", deal_rest=True)["z0"], "test")

  def test_the_message_on_broken_chips_is_as_long_as_wanted(self):
    broken = {f"c{i}": "ugly" for i in range(4)}
    self.assertEqual(folder.describe_broken("p", broken, 9).count("ugly"), 4)
    self.assertRegex(folder.describe_broken("p", broken, 9, limit=3), r"(?s)4 of 9.*c2: ugly\n  \.\.\. and 1 more$")
    self.assertEqual(folder.describe_broken("p", broken, 4).count("ugly"), 1)


class BrokenFolderTest(FolderTest):
  @parameterized.named_parameters(
    ("no_id", ("name", "a"), "must hold 'id'"),
    ("column_twice", ("id,split,split", "a,train,test"), "none twice"),
    ("id_twice", ("id", "a", "b", "a"), "line 4: id 'a' stands in line 2"),
    ("empty_id", ("id,split", ",train"), "line 2: no id"),
    ("unknown_split", ("id,split", "a,val"), "line 2: split='val' must be one of.*validation"),
    ("unknown_domain", ("id,domain", "a,medium"), "line 2: domain='medium'.*coarse"),
    ("unknown_sensor", ("id,sensor", "a,spot"), "line 2: sensor='spot'.*sentinel2_l2a"),
    ("cells_missing", ("id,split", "a"), "line 2: not as many cells"),
    ("cells_too_many", ("id,split", "a,train,b"), "line 2: not as many cells"),
    ("absolute_path", ("id,image", "a,/etc/passwd"), "line 2: image path '/etc/passwd' leaves"),
    ("parent_path", ("id,mask", "a,masks/../../b.tif"), "line 2: mask path .* leaves"),
    ("id_as_path", ("id", "../../a"), "line 2: image path .* leaves"),
    ("straddling_group", ("id,split,location_group", "a,train,7", "b,test,7"), "group '7' lies in both train and test"),
    ("other_domain_only", ("id,domain", "a,coarse"), "no fine chip in split 'train'"),
  )
  def test_a_bad_index_is_refused_with_its_line(self, lines, message):
    self._chip("a")
    self._index(*lines)
    with self.assertRaisesRegex(folder.FolderError, message):
      self._open()

  def test_no_index_and_a_binary_index_are_refused(self):
    with self.assertRaisesRegex(folder.FolderError, "index.csv: no such file"):
      self._open()
    (self.root / "index.csv").write_bytes(b"id\n\xff\xfe\n")
    with self.assertRaisesRegex(folder.FolderError, "not a UTF-8 CSV"):
      self._open()

  def test_a_byte_order_mark_is_no_part_of_the_first_column(self):
    self._chip("a")
    (self.root / "index.csv").write_bytes(b"\xef\xbb\xbfid\r\na\r\n")
    self.assertEqual(self._open().ids, ("a",))

  def test_every_broken_pair_is_named_and_can_be_skipped(self):
    for name in "abcd":
      self._chip(name)
    write_geotiff(self.root / "images" / "b.tif", np.zeros((3, 6, 2), np.float32), RGB)
    (self.root / "masks" / "c.tif").unlink()
    self._index("id,location_group", "a,1", "b,1", "c,1", "d,1")
    with self.assertRaisesRegex(
      folder.FolderError,
      r"(?s)2 of 4 chips.*b: image has 6 x 2 pixels, "
      r"its mask 6 x 6.*c: .*c.tif: no such file.*config.data.fine.skip=\"\('b', 'c'\)\"",
    ):
      self._open()
    self.assertEqual(self._open(skip=("b", "c")).ids, ("a", "d"))

  def test_a_pair_broken_in_another_split_shows_before_training(self):
    self._chip("a")
    self._chip("b")
    write_geotiff(self.root / "masks" / "b.tif", np.zeros((1, 4, 4), np.uint8))
    self._index("id,split", "a,train", "b,test")
    with self.assertRaisesRegex(folder.FolderError, "b: image has 6 x 6 pixels, its mask 4 x 4"):
      self._open(split="train")

  def test_a_band_no_file_has_is_told_once(self):
    for name in "abc":
      self._chip(name)
    self._index("id", "a", "b", "c")
    with self.assertRaisesRegex(
      folder.FolderError,
      r"3 of 3 chips.*(?s:.)*no band for \['nir'\]"
      r"(?s:.)*and 2 more$",
    ):
      self._open(roles=(*RGB, "nir"))

  def test_skipping_an_unknown_id_is_refused(self):
    self._chip("a")
    self._index("id", "a")
    with self.assertRaisesRegex(folder.FolderError, r"config.data.fine.skip.*\['z'\]"):
      self._open(skip=("z",))

  @parameterized.parameters({"domain": "medium"}, {"split": "val"})
  def test_unknown_arguments_are_refused(self, **kwargs):
    with self.assertRaisesRegex(folder.FolderError, "coarse.*validation"):
      self._open(**kwargs)


class SplitsTest(FolderTest):
  def _splits(self, domain="fine"):
    opened = {}
    for split in SPLITS:
      try:
        opened[split] = self._open(domain=domain, split=split)
      except folder.FolderError as err:
        self.assertIn("no " + domain, str(err))
    return {split: source.ids for split, source in opened.items()}

  def _fill(self, *lines):
    self._index(*lines)
    for line in lines[1:]:
      self._chip(line.split(",")[0])

  def test_without_columns_each_chip_is_a_group_of_either_domain(self):
    self._fill("id", *[f"c{i}" for i in range(10)])
    dealt = self._splits()
    self.assertEqual([len(dealt[s]) for s in SPLITS], [7, 1, 2])
    self.assertEqual(self._splits("coarse"), dealt)
    self.assertLen(set().union(*dealt.values()), 10)

  def test_complete_splits_are_taken_as_they_are_and_blank_is_train(self):
    self._fill("id,split,location_group", "a,test,1", "b,validation,2", "c,train,3", "d,,4", "e,,1")
    self.assertEqual(self._splits(), {"train": ("c", "d"), "validation": ("b",), "test": ("a", "e")})

  def test_rows_that_say_validation_keep_it_when_test_is_dealt(self):
    self._fill("id,split", "v,validation", *[f"c{i},train" for i in range(9)])
    got = self._splits()
    self.assertEqual(got["validation"], ("v",))
    self.assertLen(got["test"], 2)
    self.assertLen(got["train"], 7)

  def test_a_group_the_other_domain_tests_on_is_no_training_group(self):
    self._fill(
      "id,domain,split,location_group",
      "f1,fine,train,1",
      "f2,fine,validation,2",
      "f3,fine,test,3",
      *[f"c{i},coarse,train,{i}" for i in range(1, 9)],
    )
    coarse = self._splits("coarse")
    self.assertIn("c2", coarse["validation"])
    self.assertIn("c3", coarse["test"])
    self.assertEqual(self._splits("fine"), {"train": ("f1",), "validation": ("f2",), "test": ("f3",)})

  def test_skipping_a_chip_moves_no_other(self):
    self._fill("id", *[f"c{i}" for i in range(10)])
    before = self._splits()
    left_out = before["train"][0]
    for split in SPLITS:
      self.assertEqual(
        self._open(split=split, skip=left_out).ids, tuple(name for name in before[split] if name != left_out)
      )

  def test_an_empty_split_is_told_with_the_counts(self):
    self._fill("id", "a")
    with self.assertRaisesRegex(folder.FolderError, "no fine chip in split 'test'.*'train': 1"):
      self._open(split="test")


class RealFoldersTest(parameterized.TestCase):
  def _folder(self, name):
    if not (DATA / name / "index.csv").is_file():
      self.skipTest(f"MINEC2F_DATA has no {name}/")
    return DATA / name

  def test_water_chips_of_both_domains(self):
    path = self._folder("water")
    kwargs = dict(roles=(*RGB, "nir", "swir1", "swir2"), sensor="reflectance_x10000")
    fine, coarse = (
      {s: folder.open_folder(path, domain=d, split=s, **kwargs) for s in SPLITS} for d in ("fine", "coarse")
    )
    self.assertEqual([len(fine[s]) for s in SPLITS], [60, 17, 32])  # As its index.csv says.
    self.assertEqual(sum(len(coarse[s]) for s in SPLITS), 133)
    groups = [set(coarse[s].groups) for s in SPLITS]
    self.assertTrue(all(groups))
    self.assertFalse(groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    sample = fine["test"][0]
    with warnings.catch_warnings(action="ignore"), rasterio.open(path / "images" / f"{fine['test'].ids[0]}.tif") as src:
      raw = np.moveaxis(src.read([3, 2, 1, 4, 5, 6]), 0, -1)
    np.testing.assert_allclose(sample["image"], raw / 1e4, rtol=1e-6)
    self.assertTrue(sample["valid"].all())

  def test_water_without_its_encoding_is_refused(self):
    with self.assertRaisesRegex(folder.FolderError, "dtype int16.*reflectance_x10000"):
      folder.open_folder(self._folder("water"), domain="fine", split="test", roles=RGB)

  def test_tailings_tile_023_is_refused_by_name_and_can_be_skipped(self):
    kwargs = dict(domain="fine", split="test", roles=RGB)
    with self.assertRaisesRegex(
      folder.FolderError,
      r"(?s)1 of 40.*023: image has 448 x 48 pixels, "
      r"its mask 448 x 448.*config.data.fine.skip=\"\('023',\)",
    ):
      folder.open_folder(self._folder("tailings"), **kwargs)
    source = folder.open_folder(self._folder("tailings"), skip=("023",), image_size=64, **kwargs)
    sample = source[0]
    self.assertEqual(sample["image"].shape, (64, 64, 3))
    self.assertBetween(float(sample["image"].mean()), 0.02, 0.4)

  def test_tailings_have_no_nir(self):
    with self.assertRaisesRegex(folder.FolderError, r"no band for \['nir'\]: seen 1='B2', 2='B3'"):
      folder.open_folder(self._folder("tailings"), domain="fine", split="test", roles=(*RGB, "nir"), skip=("023",))


if __name__ == "__main__":
  absltest.main()
