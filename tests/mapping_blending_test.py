"""Tests of minec2f_jax.mapping.windows, blending and scaling: the lattice, its weights, and other pixel sizes."""

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minec2f_jax.data import resize
from minec2f_jax.mapping import blending, scaling
from minec2f_jax.mapping.windows import Axis, reflected


@st.composite
def axes(draw):
  tile = draw(st.integers(1, 300))
  return Axis(draw(st.integers(1, 600)), tile, draw(st.integers(0, tile - 1)))


class LatticeTest(parameterized.TestCase):
  @settings(deadline=None, max_examples=200)
  @given(axes())
  def test_strips_follow_each_other_and_no_later_tile_reaches_back_into_one(self, axis):
    strips = [axis.strip(index) for index in range(axis.count)]
    self.assertEqual([strips[0][0], strips[-1][1]], [0, axis.size])
    for (_, end), (first, _), index in zip(strips, strips[1:], range(1, axis.count)):
      self.assertEqual(end, first)
      self.assertGreaterEqual(axis.start(index), end)
    self.assertGreaterEqual(axis.start(axis.count - 1) + axis.tile, axis.size)

  @settings(deadline=None, max_examples=200)
  @given(axes(), st.data())
  def test_the_first_tile_over_a_pixel_holds_it_and_none_before_does(self, axis, data):
    pixel = data.draw(st.integers(0, axis.size - 1))
    first = axis.first_over(pixel)
    self.assertLessEqual(axis.start(first), pixel)
    self.assertLess(pixel, axis.start(first) + axis.tile)
    if first:
      self.assertLessEqual(axis.start(first - 1) + axis.tile, pixel)

  def test_a_scene_of_a_tile_is_one_tile(self):
    self.assertEqual(Axis(64, 64, 32).count, 1)

  @parameterized.parameters((1, 5), (2, 9), (7, 30))
  def test_beyond_its_edge_a_side_is_mirrored_as_numpy_does(self, size, end):
    expected = np.pad(np.arange(size), (0, end - size), mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(reflected(0, end, size), expected)


class WeightsTest(parameterized.TestCase):
  @settings(deadline=None, max_examples=200)
  @given(axes(), axes())
  def test_weights_sum_to_one_in_every_pixel(self, rows, columns):
    sums = []
    for axis in (rows, columns):
      weights, total = blending.partition(axis), np.zeros(axis.size + axis.tile + axis.stride)
      for index in range(axis.count):
        self.assertTrue((weights(index) > 0).all())
        total[axis.start(index) :][: axis.tile] += weights(index)
      sums.append(total[: axis.size])
    self.assertLessEqual(np.abs(np.outer(*sums) - 1).max(), 1e-6)

  @settings(deadline=None, max_examples=20)
  @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.data())
  def test_a_constant_map_stays_constant_to_1e_6(self, height, width, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    rows, columns = Axis(height, tile, overlap), Axis(width, tile, overlap)
    blended = blending.Accumulator(rows, columns)
    for row in range(rows.count):
      for column in range(columns.count):
        blended.add(row, column, np.full((tile, tile), 0.7, np.float32))
      np.testing.assert_allclose(blended.finish(row), 0.7, atol=1e-6)

  def test_neighbours_at_half_a_tile_meet_at_equal_weight(self):
    axis = Axis(12, 8, 4)  # By hand: squared sine and cosine meet in the middle of the pixels they share, 4..7.
    first, second = (blending.partition(axis)(index) for index in (0, 1))
    expected = np.cos(np.pi / 8 * (np.arange(4) + 0.5)) ** 2
    np.testing.assert_allclose(first[4:], expected, atol=1e-12)
    np.testing.assert_allclose(second[:4], 1 - expected, atol=1e-12)


class ScalingTest(parameterized.TestCase):
  @parameterized.parameters(((128, 96), 2.0), ((60, 61), 1.5), ((20, 30), 0.4), ((33, 7), 3.0))
  def test_all_pixels_are_those_of_pillow(self, shape, step):
    image = np.random.default_rng(0).uniform(size=(*shape, 1)).astype(np.float32)
    sizes = [int(np.ceil(size / step - 1e-6)) for size in shape]
    rows, columns = (scaling.Side(source, size, step) for source, size in zip(shape, sizes))
    found, valid = scaling.to_network(image, np.ones(shape, bool), rows, columns, ((0, sizes[0]), (0, sizes[1])))
    box = (0, 0, shape[1], shape[0])
    if all(size * step == source for size, source in zip(sizes, shape)):
      wanted = np.asarray(Image.fromarray(image[..., 0]).resize(sizes[::-1], Image.Resampling.BILINEAR, box))
      np.testing.assert_allclose(found[..., 0], wanted, atol=1e-5)
    self.assertTrue(valid.all())

  def test_a_chip_with_gaps_comes_out_as_in_training(self):
    rng = np.random.default_rng(1)
    image, valid = rng.uniform(size=(64, 64, 2)).astype(np.float32), rng.uniform(size=(64, 64)) > 0.4
    image[~valid] = 0.0
    sides = (scaling.Side(64, 32, 2.0), scaling.Side(64, 32, 2.0))
    found, known = scaling.to_network(image, valid, *sides, ((0, 32), (0, 32)))
    wanted, _, wanted_known = resize.resize_chip(image, np.zeros((64, 64), np.uint8), valid, 32)
    self.assertLess((known != wanted_known).mean(), 0.01)  # Ties of the weight, at half, fall by rounding.
    both = known & wanted_known
    np.testing.assert_allclose(found[both], wanted[both], atol=1e-5)

  @parameterized.parameters(2.0, 0.6, 1.37)
  def test_a_window_comes_out_as_in_the_whole(self, step):
    rng = np.random.default_rng(2)
    source, size = 50, int(np.ceil(50 / step - 1e-6))
    image, valid, side = rng.uniform(size=(50, 50, 1)).astype(np.float32), rng.uniform(size=(50, 50)) > 0.1, None
    side = scaling.Side(source, size, step)
    whole = scaling.to_network(image, valid, side, side, ((0, size), (0, size)))
    window = (3, size - 4), (5, size)
    under = np.s_[slice(*side.reach(*window[0])), slice(*side.reach(*window[1]))]
    part = scaling.to_network(image[under], valid[under], side, side, window)
    np.testing.assert_allclose(part[0], whole[0][3 : size - 4, 5:], atol=1e-6)

  @parameterized.parameters(2.0, 0.6, 1.0)
  def test_what_is_complete_depends_on_nothing_below(self, step):
    side = scaling.Side(40, int(np.ceil(40 / step - 1e-6)), step)
    for end in range(1, 41):
      done = side.complete(end)
      self.assertTrue(done == 0 or side.reach(0, done)[1] <= end)
      self.assertTrue(done == side.size or side.reach(done, done + 1)[1] > end)


if __name__ == "__main__":
  absltest.main()
