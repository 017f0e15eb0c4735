import itertools

import jax
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.data import pipeline
from tests import toy


def _order(batches, count):
  """Which sample stands where in the next `count` batches, told by its first pixel."""
  return [tuple(batch["fine"]["image"][:, 0, 0, 0]) for batch in itertools.islice(batches, count)]


class TrainBatchesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.source = toy.ArraySource(5, size=4)

  def _batches(self, **options):
    return pipeline.train_batches({"fine": self.source}, batch_size=2, **{"seed": 3, **options})

  def test_order_is_a_function_of_seed_and_step(self):
    order = _order(self._batches(), 12)
    self.assertEqual(order, _order(self._batches(), 12))
    self.assertEqual(order[7:], _order(self._batches(start_step=7), 5))
    self.assertNotEqual(order, _order(self._batches(seed=4), 12))

  def test_readers_and_restarts_change_no_bit_of_any_batch(self):
    sources = {"fine": self.source, "coarse": toy.ArraySource(7, size=4, seed=1)}

    def draw(num_threads, start_step, count):
      batches = pipeline.train_batches(sources, batch_size=3, seed=3, start_step=start_step, num_threads=num_threads)
      return [
        {stream: {name: array.tobytes() for name, array in fields.items()} for stream, fields in batch.items()}
        for batch in itertools.islice(batches, count)
      ]

    expected = draw(0, 0, 20)
    for num_threads in (0, 2, 4):
      self.assertEqual(draw(num_threads, 0, 20), expected)
      for start in (1, 6, 13):
        self.assertEqual(draw(num_threads, start, 20 - start), expected[start:])

  @parameterized.parameters(1, 2, 3)
  def test_the_parts_of_several_processes_make_up_the_batches_of_one(self, count):
    sources = {"fine": self.source, "coarse": toy.ArraySource(7, size=4, seed=1)}
    draw = lambda **part: list(itertools.islice(pipeline.train_batches(sources, batch_size=6, seed=3, **part), 5))
    parts = [draw(part=(i, count)) for i in range(count)]
    for whole, *pieces in zip(draw(), *parts):
      joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)
      jax.tree.map(np.testing.assert_array_equal, joined, whole)

  def test_every_pass_holds_every_sample_once_in_a_new_order(self):
    seen = list(itertools.chain(*_order(self._batches(), 10)))
    passes = [seen[i : i + 5] for i in range(0, 20, 5)]
    everything = sorted(self.source.image[:, 0, 0, 0])
    for one in passes:
      self.assertEqual(sorted(one), everything)
    self.assertGreater(len(set(map(tuple, passes))), 1)

  def test_streams_keep_their_own_order(self):
    sources = {"fine": self.source, "coarse": toy.ArraySource(3, size=4, seed=1)}
    both = pipeline.train_batches(sources, batch_size=2, seed=3)
    batch = next(both)
    self.assertEqual(set(batch), {"fine", "coarse"})
    self.assertEqual(batch["coarse"]["image"].shape, (2, 4, 4, 6))


class EvalBatchesTest(parameterized.TestCase):
  def test_all_samples_come_once_and_the_last_batch_is_filled_with_invalid_ones(self):
    source = toy.ArraySource(5, size=4)
    batches = list(pipeline.eval_batches(source, batch_size=2))
    self.assertEqual([count for _, count in batches], [2, 2, 1])
    images = np.concatenate([batch["image"][:count] for batch, count in batches])
    np.testing.assert_array_equal(images, source.image)
    self.assertFalse(batches[-1][0]["valid"][1:].any())


class CachedTest(parameterized.TestCase):
  def test_a_cached_source_is_read_once(self):
    class Counting(toy.ArraySource):
      reads = 0

      def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)

    source = Counting(4, size=4)
    held = pipeline.CachedSource(source)
    for _ in range(2):
      for i in range(4):
        np.testing.assert_array_equal(held[i]["image"], source.image[i])
    self.assertEqual(source.reads, 4)

  def test_the_size_of_a_source_is_that_of_its_decoded_samples(self):
    source = toy.ArraySource(5, size=4)
    whole = source.image.nbytes + source.label.nbytes + source.valid.nbytes
    self.assertEqual(pipeline.sample_bytes(source), whole)

  def test_a_subset_keeps_ids_and_samples_together(self):
    source = toy.ArraySource(4, size=4)
    subset = pipeline.Subset(source, [2, 0])
    self.assertEqual(subset.ids, ("toy2", "toy0"))
    np.testing.assert_array_equal(subset[1]["image"], source.image[0])

  def test_joined_sources_follow_each_other_and_an_empty_one_is_passed_over(self):
    sources = {
      "a": toy.ArraySource(2, size=4),
      "b": toy.ArraySource(0, size=4),
      "c": toy.ArraySource(3, size=4, seed=1),
    }
    joined = pipeline.Joined(sources)
    self.assertLen(joined, 5)
    self.assertEqual(joined.ids, ("a/toy0", "a/toy1", "c/toy0", "c/toy1", "c/toy2"))
    images = np.concatenate([sources["a"].image, sources["c"].image])
    for i in range(5):
      np.testing.assert_array_equal(joined[i]["image"], images[i])


if __name__ == "__main__":
  absltest.main()
