"""Every kind of file that holds no weights, or that means harm: one clear error, and nothing of it is run."""

import importlib.util
import os
import pickle
import struct
import sys
import unittest
import zipfile
from unittest import mock

import h5py
import numpy as np
from absl.testing import absltest, parameterized
from safetensors.numpy import save_file

from minec2f_jax.models import weight_files
from tests import weights
from tests.pretrained_case import WRITERS, PretrainedTestCase

TORCH = importlib.util.find_spec("torch")


class Marker:
  """Unpickled by Python, it would write the file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f"touch '{self.path}'",)


class WrongFileTest(PretrainedTestCase):
  @parameterized.parameters(
    (b"", "is empty"),
    (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "is a web page.*DOCTYPE"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    (b"epoch,loss\n0,1\n", "is no weight file that is known here"),
    (b"PK\x03\x04 and then nothing", "damaged archive"),
    (b"\x89HDF\r\n\x1a\n and then nothing", "damaged or cut off"),
    (struct.pack("<Q", 10**12) + b'{"a":{}}', "damaged or cut off"),
    (struct.pack("<Q", 54) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', "damaged or cut off"),
  )  # fmt: skip
  def test_what_is_no_weight_file_is_refused_by_what_it_is(self, content, pattern):
    self.path.write_bytes(content)
    self._refused(pattern)

  @parameterized.product(kind=list(WRITERS), share=[0.5, 0.99])
  def test_a_truncated_file_is_refused(self, kind, share):
    WRITERS[kind](self.path, weights.random_encoder())
    content = self.path.read_bytes()
    self.path.write_bytes(content[: int(share * len(content))])
    self._refused("damaged or cut off")

  def test_a_folder_and_a_missing_file_are_refused(self):
    self._refused("No such file")
    self.path.mkdir()
    self._refused("Is a directory")

  def test_a_numpy_archive_is_refused(self):
    with open(self.path, "wb") as file:
      np.savez(file, kernel=np.ones(3))
    self._refused(r"NumPy archive \(kernel\.npy\)")

  @parameterized.product(protocol=[2, 4], torch_there=[True, False])
  def test_a_pickle_that_would_run_code_does_not(self, protocol, torch_there):
    self.path.write_bytes(pickle.dumps({"features.conv0.weight": Marker(self.root / "ran")}, protocol=protocol))
    self._check_not_run(torch_there)

  @parameterized.parameters(True, False)
  def test_a_checkpoint_that_would_run_code_does_not(self, torch_there):
    with zipfile.ZipFile(self.path, "w") as archive:
      archive.writestr("archive/data.pkl", pickle.dumps(Marker(self.root / "ran"), protocol=2))
      archive.writestr("archive/version", "3\n")
    self._check_not_run(torch_there)

  def _check_not_run(self, torch_there):
    if torch_there and not TORCH:
      self.skipTest("torch is not installed")
    with mock.patch.dict(sys.modules, {} if torch_there else {"torch": None}):
      self._refused("nothing of it was run" if torch_there else "cannot be read without torch.*safetensors")
    self.assertFalse((self.root / "ran").exists())
    pickle.loads(pickle.dumps(Marker(self.root / "ran")))  # The proof that it would have.
    self.assertTrue((self.root / "ran").exists())

  @parameterized.parameters("h5py", "safetensors")
  def test_a_library_that_is_absent_is_named_with_the_command(self, library):
    WRITERS["keras" if library == "h5py" else library](self.path, weights.random_encoder())
    with mock.patch.dict(sys.modules, {library: None}):
      self._refused(rf"cannot be read without {library}; pip install 'minec2f_jax\[pretrained\]'")

  def test_hdf5_that_points_into_another_file_is_refused(self):
    secret = self.root / "secret"
    secret.write_bytes(bytes(16))
    with h5py.File(self.path, "w") as file:
      file.create_dataset("bn/bn/gamma:0", (4,), np.float32, external=[(str(secret), 0, 16)])
    self._refused("lies in another file")

  def test_hdf5_that_declares_terabytes_is_refused_unread(self):
    with h5py.File(self.path, "w") as file:
      file.create_dataset("bn/bn/gamma:0", (10**12,), np.float32, chunks=(10**6,))
    self._refused(r"declares 4000\.0 GB")

  def test_hdf5_without_layer_names_says_how_to_get_them(self):
    weights.write_keras_3(self.path, weights.random_encoder(), named=False)
    self._refused("does not say which layer it belongs to.*save again")

  def test_text_in_place_of_numbers_is_refused(self):
    with h5py.File(self.path, "w") as file:
      file["bn/bn/gamma:0"] = "numbers"
    self._refused("not numbers")

  def test_a_file_is_read_by_its_content_not_its_name(self):
    path = self.root / "weights.h5"
    weights.write_safetensors(path, weights.random_encoder())
    self.assertEqual(weight_files.read(path).format, "safetensors")


class HostileFileTest(PretrainedTestCase):
  @parameterized.parameters(
    ("features.conv0.weight", (0, 3, 7, 7), "stem_features=0"),
    ("features.conv0.weight", (10**12, 0, 7, 7), "stem_features=1000000000000"),
    ("features.denseblock1.denselayer1.conv1.weight", (0, 4, 1, 1), "bottleneck=0"),
    ("features.denseblock1.denselayer1.conv2.weight", (0, 16, 3, 3), "growth_rate=0"),
  )
  def test_layers_without_width_are_refused(self, name, shape, pattern):
    self._write(lambda tensors: tensors.update({name: np.zeros(shape, np.float32)}))
    if pattern.endswith("=0"):
      self._refused(rf"holds a DenseNet with [^;]*{pattern}", encoder=None)
    self._refused(rf"holds a DenseNet with [^;]*{pattern}")

  @parameterized.parameters(
    "denseblock{}.denselayer1.norm1.weight", "denseblock1.denselayer{}.norm1.weight", "blocks.{}.norm1.weight"
  )
  def test_numbers_of_thousands_of_digits_in_names_are_refused_in_a_short_message(self, name):
    save_file({name.format("9" * 5000): np.ones(3, np.float32)}, self.path)
    self.assertLess(len(self._refused("holds no DenseNet and no Prithvi", encoder=None)), 800)

  @parameterized.parameters([["denseblock1.denselayer0"]], [[f"denseblock{b}.denselayer1" for b in range(1, 1000)]])
  def test_layers_and_blocks_that_no_densenet_has_are_refused(self, layers_):
    names = ["conv0.weight", "norm5.weight", *(f"{layer}.norm1.weight" for layer in layers_)]
    save_file({name: np.ones((1, 1, 1, 1), np.float32) for name in names}, self.path)
    self._refused(r"some file: (holds no DenseNet|does not fit this DenseNet \()", encoder=None)

  @parameterized.parameters("{}", "features.{}")
  def test_names_do_nothing_to_a_terminal(self, name):
    name = name.format("evil\nminec2f: all fine\x1b[31m")
    save_file({name: np.ones(3, np.float32)}, self.path)
    message = self._refused("evil", encoder=None)
    self._write(lambda tensors: tensors.update({name: np.ones(3, np.float32)}))
    for text in (message, self._refused("evil")):
      self.assertTrue(text.isprintable(), text)
      self.assertIn(r"'" + name.split("evil")[0] + r"evil\nminec2f: all fine\x1b[31m'", text)

  def test_hdf5_without_data_is_refused(self):
    with h5py.File(self.path, "w") as file:
      file["bn/bn/gamma:0"], file["bn/bn/beta:0"] = h5py.Empty("f4"), h5py.Empty("f4")
    self._refused(r"some file: 2 datasets hold nothing: bn/bn/beta:0, bn/bn/gamma:0; give")

  @unittest.skipUnless(TORCH, "torch is not installed")
  def test_a_packed_checkpoint_of_too_many_bytes_is_not_unpacked(self):
    import torch

    torch.save({"a": torch.zeros(100_000)}, self.root / "plain")
    with zipfile.ZipFile(self.root / "plain") as plain, zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as packed:
      for name in plain.namelist():
        packed.writestr(name, plain.read(name))
    self.assertLess(self.path.stat().st_size, 4000)
    with mock.patch.object(weight_files, "_MAX_BYTES", 100_000), mock.patch.object(torch, "load") as load:
      self._refused(r"declares 0\.0 GB")
    load.assert_not_called()


if __name__ == "__main__":
  absltest.main()
