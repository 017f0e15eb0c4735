"""Digests of data: what changes them, what does not, and what they say of a change."""

import hashlib
import pathlib
import tempfile
from unittest import mock

import hypothesis
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from minec2f_jax import console
from minec2f_jax.data import digest, folder, pipeline
from minec2f_jax.errors import UserError
from tests import toy
from tests.rasters import write_geotiff
from tests.toy_folder import NAMES, write_folder


class StoredSource(toy.ArraySource):
  """One that is read from somewhere: beside its samples it has bytes."""

  def stored(self, index):
    return [b"image of ", self.ids[index].encode()]


def _by_hand(source) -> str:
  """The content hash as the module's text describes it, written anew."""
  framed = lambda part: len(part).to_bytes(8, "little") + part
  pairs = b""
  for index, name in enumerate(source.ids):
    content = b""
    for field in ("image", "label", "valid"):
      array = source[index][field]
      content += framed(f"{field} {array.dtype.str} {array.shape}".encode()) + framed(array.tobytes())
    pairs += hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest()
  return hashlib.sha256(pairs).hexdigest()


class DigestTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.source = toy.ArraySource(3, size=4, bands=2)
    self.digest = digest.digest(self.source)

  def _difference(self, source) -> str:
    return digest.difference(self.digest, digest.digest(source))

  def test_it_is_the_hash_of_ids_types_shapes_and_bytes(self):
    self.assertEqual(self.digest["images"], 3)
    self.assertEqual(self.digest["of"], "samples")
    self.assertEqual(self.digest["sha256"], _by_hand(self.source))

  @parameterized.parameters(1, 2, 16)
  def test_threads_change_nothing(self, num_threads):
    self.assertEqual(digest.digest(self.source, num_threads=num_threads), self.digest)

  def test_samples_held_in_memory_have_the_digest_of_their_source(self):
    self.assertEqual(digest.digest(pipeline.CachedSource(self.source)), self.digest)

  def test_arrays_laid_out_otherwise_in_memory_are_the_same(self):
    self.source.image = np.asfortranarray(self.source.image)
    self.assertEqual(self._difference(self.source), "")

  @hypothesis.given(field=st.sampled_from(["image", "label"]), place=st.integers(0, 2**20), bit=st.integers(0, 7))
  @hypothesis.settings(max_examples=30, deadline=None)
  def test_one_bit_anywhere_is_another_content(self, field, place, bit):
    source = toy.ArraySource(3, size=4, bands=2)
    flat = getattr(source, field).reshape(-1).view(np.uint8)
    flat[place % flat.size] ^= 1 << bit
    self.assertStartsWith(self._difference(source), "other contents")

  def test_one_pixel_that_is_no_longer_valid_is_another_content(self):
    self.source.valid[1, 2, 3] = False
    self.assertStartsWith(self._difference(self.source), "other contents")

  def test_the_same_bytes_in_another_shape_are_another_content(self):
    reshaped = toy.ArraySource(3, size=4, bands=2)
    reshaped.image = reshaped.image.reshape(3, 2, 8, 2)
    self.assertStartsWith(self._difference(reshaped), "other contents")

  def test_another_id_is_named_as_such(self):
    self.source.ids = ("toy0", "toy1", "other")
    self.assertStartsWith(self._difference(self.source), "other ids")

  def test_bytes_do_not_run_from_one_id_into_the_next(self):
    self.source.ids = ("toy0", "toy1t", "oy2")
    self.assertStartsWith(self._difference(self.source), "other ids")

  def test_another_order_is_a_difference_for_training_depends_on_it(self):
    self.assertStartsWith(self._difference(pipeline.Subset(self.source, [0, 2, 1])), "other ids")

  def test_another_number_is_named_with_both(self):
    self.assertEqual(
      self._difference(pipeline.Subset(self.source, [0, 1])), "other number of images (3 recorded, 2 now)"
    )

  def test_samples_exchanged_under_their_ids_are_another_content(self):
    self.source.image[[0, 1]] = self.source.image[[1, 0]]
    self.assertStartsWith(self._difference(self.source), "other contents")

  def test_digests_of_two_kinds_are_not_compared(self):
    with self.assertRaisesRegex(ValueError, "stored.*samples"):
      digest.difference(self.digest, digest.digest(StoredSource(3), of="stored"))

  def test_a_sample_that_cannot_be_read_ends_it(self):
    class Broken(toy.ArraySource):
      def __getitem__(self, index):
        if index == 1:
          raise UserError("toy1.tif cannot be read")
        return super().__getitem__(index)

    with self.assertRaisesRegex(UserError, "toy1.tif"):
      digest.digest(Broken(3))

  def test_a_source_that_is_streamed_is_hashed_as_it_is_stored(self):
    stored = StoredSource(3, size=4, bands=2)
    self.assertEqual(digest.natural_kind(stored), "stored")
    self.assertEqual(digest.natural_kind(pipeline.CachedSource(stored)), "samples")
    before = digest.digest(stored, of="stored")
    stored.image[:] = 0  # Not looked at.
    self.assertEqual(digest.digest(stored, of="stored"), before)
    self.assertEqual(before["ids"], self.digest["ids"])

  def test_all_sources_together_have_one_line_and_their_own_digests(self):
    sources = {("coarse", "train"): self.source, ("fine", "test"): StoredSource(2)}
    with mock.patch.object(console, "say") as say:
      found = digest.digests(sources, {("coarse", "train"): "samples", ("fine", "test"): "stored"})
    say.assert_called_once()
    self.assertIn("5 images", say.call_args.args[0])
    self.assertEqual(
      found,
      {("coarse", "train"): self.digest, ("fine", "test"): digest.digest(sources["fine", "test"], of="stored")},
    )


class FolderDigestTest(absltest.TestCase):
  def test_files_packed_otherwise_hold_the_same_samples_until_a_value_changes(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    write_folder(root)
    read = lambda: digest.digest(
      folder.open_folder(root, domain="fine", split="train", roles=NAMES, sensor="reflectance_x10000", image_size=32)
    )
    before = read()
    image = np.round(toy.ArraySource(12).image[1].transpose(2, 0, 1) * 1e4).astype(np.int16)
    old = (root / "images" / "toy1.tif").read_bytes()
    write_geotiff(root / "images" / "toy1.tif", image, NAMES, compress="deflate")
    self.assertNotEqual((root / "images" / "toy1.tif").read_bytes(), old)
    self.assertEqual(read(), before)
    image[5, 31, 31] += 1
    write_geotiff(root / "images" / "toy1.tif", image, NAMES)
    self.assertStartsWith(digest.difference(before, read()), "other contents")

  def test_a_streamed_folder_is_hashed_by_its_files(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    write_folder(root)
    source = folder.open_folder(root, domain="fine", split="train", roles=NAMES, sensor="reflectance_x10000")
    self.assertEqual(digest.natural_kind(source), "stored")
    before = digest.digest(source, of="stored")
    name = f"{source.ids[0]}.tif"
    for path in (root / "images" / name, root / "masks" / name):
      content = path.read_bytes()
      path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
      self.assertStartsWith(digest.difference(before, digest.digest(source, of="stored")), "other contents")
      path.write_bytes(content)
    self.assertEqual(digest.digest(source, of="stored"), before)


if __name__ == "__main__":
  absltest.main()
