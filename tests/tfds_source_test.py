"""Tests of minec2f_jax.data.tfds_source, on a tiny mining_demo."""

import pickle
import tempfile
from concurrent import futures

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from datasets.mining_demo import mining_demo_dataset_builder as builder_lib
from minec2f_jax.data import tfds_source
from minec2f_jax.errors import UserError

CONFIG = builder_lib.MiningDemoConfig(name="fine", coarse=False, seed=2, counts=(5, 2, 2), size=32, gsd_m=50.0)

STORED = (0, 3, 1, 4, 2)  # TFDS shuffles by id.


class TinyDemo(builder_lib.MiningDemo, skip_registration=True):
  """A class of its own: TFDS remembers the configs of a class for the life of the process."""

  BUILDER_CONFIGS = [CONFIG]
  get_metadata = builder_lib.MiningDemo.get_metadata  # TFDS looks for a README beside the class.


class TfdsSourceTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    data_dir = tempfile.TemporaryDirectory()
    cls.addClassCleanup(data_dir.cleanup)
    tfds.disable_progress_bar()
    builder = TinyDemo(data_dir=data_dir.name, file_format="array_record")
    builder.download_and_prepare()
    cls.path = builder.data_dir

  def _open(self, **kwargs):
    return tfds_source.TfdsSource(
      self.path, **{"split": "train", "roles": ("red", "swir2"), "image_size": 32, **kwargs}
    )

  def test_samples_are_reflectance_of_the_wanted_bands(self):
    source = self._open()
    # As stored, for want of positions: published results depend on it.
    self.assertEqual(source.ids, tuple(f"fine_train_{i:04d}" for i in STORED))
    for index, name in enumerate(source.ids):
      want = builder_lib.make_example(CONFIG, 0, int(name[-4:]))
      sample = source[index]
      np.testing.assert_allclose(sample["image"], want["image"][..., [2, 5]] * 1e-4, rtol=1e-6)
      np.testing.assert_array_equal(sample["label"], want["label"])
      np.testing.assert_array_equal(sample["valid"], want["valid"].astype(bool))
    self.assertEqual(self._open(image_size=16)[0]["image"].shape, (16, 16, 2))

  def test_metadata_are_plain_values_and_belong_to_their_sample(self):
    source = self._open()
    for index, name in enumerate(source.ids):
      want = builder_lib.make_example(CONFIG, 0, int(name[-4:]))
      self.assertEqual(
        source.metadata(index),
        {
          "id": name,
          "climate": builder_lib.landscape.CLIMATES[want["climate"]],
          "sensor": builder_lib.landscape.SENSORS[want["sensor"]],
        },
      )

  def test_details_are_named_as_those_of_folders(self):
    source = self._open(image_size=16)
    for index, name in enumerate(source.ids):
      told = source.metadata(index)
      expected = {"climate_zone": told["climate"], "product": told["sensor"], "location_group": name}
      self.assertEqual(source.details(index), {**expected, "gsd_m": (100.0, 100.0)})  # 50 m, halved.

  def test_threads_and_copies_read_the_same(self):
    source = self._open()
    copy = pickle.loads(pickle.dumps(source))
    with futures.ThreadPoolExecutor(4) as pool:
      images = list(pool.map(lambda i: copy[i % 5]["image"], range(40)))
    for i, image in enumerate(images):
      np.testing.assert_array_equal(image, source[i % 5]["image"])

  @parameterized.parameters(
    ({"split": "dev"}, r"no split 'dev', only .*'test', 'train', 'validation'\]$"),
    ({"roles": ("red", "pan")}, r"no bands \['pan'\], only .*config.data.bands$"),
  )
  def test_what_is_not_there_is_refused(self, kwargs, message):
    with self.assertRaisesRegex(UserError, message):
      self._open(**kwargs)

  def test_only_a_version_folder_is_prepared(self):
    self.assertTrue(tfds_source.is_prepared(self.path))
    self.assertFalse(tfds_source.is_prepared(f"{self.path}/.."))


if __name__ == "__main__":
  absltest.main()
