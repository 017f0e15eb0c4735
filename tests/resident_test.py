import itertools

import jax
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.data import feed, pipeline, resident, sensors
from tests import toy

INTEGER_SENSORS = sorted({(s.scale, s.offset): name for name, s in sensors.SENSORS.items() if s.scale < 1}.values())


class Source(toy.ArraySource):
  """A source whose reflectance comes from 16-bit numbers, some of them invalid."""

  def __init__(self, sensor: str, *, lowest: int = 0, count: int = 5, size: int = 16):
    super().__init__(count, size=size)
    rng = np.random.default_rng(0)
    dn = rng.integers(lowest, lowest + 2**16, self.image.shape)
    dn.flat[:2] = lowest, lowest + 2**16 - 1
    self.valid = rng.random(self.valid.shape) < 0.8
    self.valid[0, 0, 0] = True
    self.image = np.where(self.valid[..., None], sensors.to_reflectance(dn, sensors.SENSORS[sensor]), np.float32(0))


def _assert_same_bits(test, ours, theirs):
  for name in ("image", "label", "valid"):
    a, b = np.asarray(ours[name]), np.asarray(theirs[name])
    test.assertEqual((a.dtype, a.shape), (b.dtype, b.shape))
    test.assertEqual(a.tobytes(), b.tobytes(), name)


class ResidentSourceTest(parameterized.TestCase):
  @parameterized.product(sensor=INTEGER_SENSORS, lowest=[0, -(2**15)])
  def test_every_16_bit_number_comes_back_bit_for_bit_at_half_the_memory(self, sensor, lowest):
    source = Source(sensor, lowest=lowest)
    held = resident.hold(source)
    self.assertEqual(held.arrays["image"].dtype, np.uint16)
    batch = jax.jit(resident.take)(held.arrays, np.arange(5))
    _assert_same_bits(self, batch, {"image": source.image, "label": source.label, "valid": source.valid})
    pixels = 5 * 16 * 16
    self.assertEqual(held.device_bytes, pixels * (6 * 2 + 1 + 1) + 2**16 * 4)

  @parameterized.parameters("resampled", "negative zero", "not zero where invalid")
  def test_what_is_no_16_bit_number_stays_float32_and_comes_back_bit_for_bit(self, what):
    source = Source("sentinel2_l2a")
    source.valid[1, :2, :2] = True, False
    if what == "resampled":
      source.image[2, 3, 3, 1] = np.nextafter(np.float32(0.1234), np.float32(1))
      source.valid[2, 3, 3] = True
    else:
      source.image[1, 0, 1] = -0.0 if what == "negative zero" else 0.5
      source.image[1, 1, 1] = source.image[1, 0, 1]
    held = resident.hold(source)
    self.assertIsNone(held.arrays["table"])
    batch = jax.jit(resident.take)(held.arrays, np.arange(5))
    _assert_same_bits(self, batch, {"image": source.image, "label": source.label, "valid": source.valid})

  def test_one_resampled_chip_makes_all_float32_and_counts_as_such(self):
    source = Source("hls")
    source.image[4] *= 1.1
    size = 5 * 16 * 16 * (6 * 4 + 1 + 1)
    self.assertIsNone(resident.hold(source, max_bytes=size - 1))
    self.assertEqual(resident.hold(source, max_bytes=size).device_bytes, size)

  def test_it_is_still_a_source(self):
    source = Source("hls")
    held = resident.hold(source)
    self.assertEqual((held.ids, len(held)), (source.ids, 5))
    _assert_same_bits(self, held[3], source[3])


class FeedTest(parameterized.TestCase):
  @parameterized.parameters(0, 3)
  def test_both_kinds_give_the_same_batches_bit_for_bit(self, start):
    sources = {"coarse": Source("landsat_c2_l2"), "fine": Source("hls", lowest=-100, count=7)}
    held = {name: resident.hold(source) for name, source in sources.items()}
    feeds = [feed.make_feed(s, batch_size=3, seed=11) for s in (sources, held)]
    self.assertEqual([f.resident for f in feeds], [False, True])
    sent, kept = ([jax.jit(f.take)(f.held, x) for x in itertools.islice(f.inputs(start), 6)] for f in feeds)
    for a, b in zip(sent, kept, strict=True):
      for name in sources:
        _assert_same_bits(self, a[name], b[name])

  def test_parts_and_unions_of_held_sets_give_the_batches_of_sent_ones_without_another_copy(self):
    sources = {"coarse": Source("landsat_c2_l2"), "fine": Source("hls", lowest=-100, count=7)}
    held = {name: resident.hold(source) for name, source in sources.items()}
    feeds = []
    for given in (sources, held):
      some = resident.subset(resident.subset(given["coarse"], [0, 4, 1, 2]), [3, 1, 0])
      union = resident.join({"coarse": some, "fine": given["fine"]})
      self.assertLen(union, 10)
      self.assertEqual(union.ids[:4], ("coarse/toy2", "coarse/toy4", "coarse/toy0", "fine/toy0"))
      feeds.append(feed.make_feed({"union": union}, batch_size=4, seed=11))
    self.assertIs(union.arrays[0]["image"], held["coarse"].arrays["image"])
    self.assertEqual([f.resident for f in feeds], [False, True])
    sent, kept = ([jax.jit(f.take)(f.held, x) for x in itertools.islice(f.inputs(0), 5)] for f in feeds)
    for a, b in zip(sent, kept, strict=True):
      _assert_same_bits(self, a["union"], b["union"])

  def test_a_union_with_nothing_of_a_set_is_the_other_one(self):
    source = resident.hold(Source("hls"))
    self.assertIs(resident.join({"coarse": resident.subset(source, []), "fine": source}), source)

  def test_one_stream_that_is_not_held_sends_all(self):
    source = Source("hls")
    mixed = feed.make_feed({"coarse": resident.hold(source), "fine": source}, batch_size=2, seed=0)
    self.assertFalse(mixed.resident)


class OrderTest(parameterized.TestCase):
  def test_each_pass_meets_every_sample_once(self):
    places = [step["fine"] for step in itertools.islice(pipeline.train_indices({"fine": 7}, batch_size=3, seed=1), 14)]
    for one_pass in np.concatenate(places).reshape(6, 7):
      self.assertCountEqual(one_pass, range(7))

  def test_evaluation_meets_every_sample_in_order(self):
    batches = list(pipeline.eval_indices(5, batch_size=2))
    self.assertEqual([count for _, count in batches], [2, 2, 1])
    np.testing.assert_array_equal(np.concatenate([places[:count] for places, count in batches]), range(5))


if __name__ == "__main__":
  absltest.main()
