import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from scipy import ndimage

from minec2f_jax.data import augment

RNG = np.random.default_rng(0)
SIZE = 16
WARP = jax.jit(augment.warp)
NEVER = dict(hflip=0.0, vflip=0.0, rot90=0.0, shift_scale_rotate=0.0)


def run(seed, batch, **options):
  return jax.jit(functools.partial(augment.augment, **options))(jax.random.key(seed), batch)


def make_batch(size, height=SIZE, width=SIZE, holes=False):
  image = RNG.uniform(size=(size, height, width, 3)).astype(np.float32)
  valid = np.ones((size, height, width), bool)
  if holes:
    valid[:, 4:6, 7:9] = False
  label = RNG.integers(0, 2, (size, height, width)).astype(np.uint8)
  return {"image": image * valid[..., None], "label": label * valid, "valid": valid}


def float64_forward(height, width, scale, angle_deg, shift_x, shift_y):
  """Forward matrix as a product: shift x to-centre x rotate-and-scale x from-centre."""
  move = lambda x, y: np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
  c, s = scale * np.cos(np.radians(angle_deg)), scale * np.sin(np.radians(angle_deg))
  turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
  x, y = width / 2 - 0.5, height / 2 - 0.5
  return move(shift_x * width, shift_y * height) @ move(x, y) @ turn @ move(-x, -y)


def scipy_warp(channel, pull, order):
  """`pull` is 3 x 3 in (x, y); SciPy wants (row, column)."""
  swapped = pull[[1, 0, 2]][:, [1, 0, 2]]
  return ndimage.affine_transform(channel.astype(np.float64), swapped, order=order, mode="mirror", prefilter=False)


AMOUNTS = (
  dict(scale=1.0, angle_deg=0.0, shift_x=0.25, shift_y=-0.1),
  dict(scale=0.7, angle_deg=15.0, shift_x=0.1, shift_y=0.1),
  dict(scale=1.3, angle_deg=-15.0, shift_x=-0.07, shift_y=0.03),
  dict(scale=0.31, angle_deg=77.0, shift_x=0.9, shift_y=-1.7),  # Mirrored more than once.
)


class MatrixTest(parameterized.TestCase):
  @parameterized.parameters(*AMOUNTS)
  def test_affine_matrix_is_the_product_of_its_steps(self, **amounts):
    out = jax.jit(functools.partial(augment.affine_matrix, 12, 20))(**amounts)
    np.testing.assert_allclose(out, float64_forward(12, 20, **amounts)[:2], rtol=1e-5, atol=1e-5)

  def test_positive_angles_turn_counter_clockwise_as_seen(self):
    # By 90 degrees the top right corner goes to the top left; y points down.
    matrix = augment.affine_matrix(9, 9, scale=1.0, angle_deg=90.0, shift_x=0.0, shift_y=0.0)
    np.testing.assert_allclose(matrix @ jnp.array([8.0, 0.0, 1.0]), [0.0, 0.0], atol=1e-5)

  def test_nothing_drawn_is_exactly_the_identity(self):
    matrix = augment.affine_matrix(9, 12, scale=1.0, angle_deg=0.0, shift_x=0.0, shift_y=0.0)
    np.testing.assert_array_equal(matrix, np.eye(2, 3))

  @parameterized.parameters(*AMOUNTS)
  def test_invert_affine_equals_numpy(self, **amounts):
    forward = float64_forward(12, 20, **amounts)
    out = jax.jit(augment.invert_affine)(forward[:2].astype(np.float32))
    np.testing.assert_allclose(out, np.linalg.inv(forward)[:2], rtol=1e-5, atol=1e-4)

  def test_compose_equals_numpy(self):
    outer, inner = (float64_forward(12, 20, **amounts) for amounts in AMOUNTS[1:3])
    out = jax.jit(augment.compose)(jnp.float32(outer[:2]), jnp.float32(inner[:2]))
    np.testing.assert_allclose(out, (outer @ inner)[:2], rtol=1e-5, atol=1e-5)


class WarpTest(parameterized.TestCase):
  @parameterized.product(amounts=AMOUNTS, size=((16, 16), (12, 20)))
  def test_equals_scipy(self, amounts, size):
    batch = make_batch(1, *size)
    image, label, valid = (batch[k][0] for k in ("image", "label", "valid"))
    pull = np.linalg.inv(float64_forward(*size, **amounts))
    out, out_label, out_valid = WARP(image, label, valid, pull[:2])
    for c in range(3):  # atol: float32 positions of up to 60 pixels.
      np.testing.assert_allclose(out[..., c], scipy_warp(image[..., c], pull, 1), atol=1e-4)
    np.testing.assert_array_equal(out_label, scipy_warp(label, pull, 0))
    self.assertTrue(np.all(out_valid))
    self.assertEqual((out.dtype, out_label.dtype, out_valid.dtype), (np.float32, np.uint8, bool))

  @parameterized.parameters(*AMOUNTS)
  def test_a_pixel_counts_only_if_all_that_it_is_made_of_does(self, **amounts):
    batch = make_batch(1, holes=True)
    image, label, valid = (batch[k][0] for k in ("image", "label", "valid"))
    pull = np.linalg.inv(float64_forward(SIZE, SIZE, **amounts))
    # Bilinear share of invalid pixels; exactly 0 is needed, up to the rounding of the position.
    share = scipy_warp(~valid, pull, 1)
    out = WARP(image, label, valid, pull[:2])
    np.testing.assert_array_equal(out[2][share > 1e-4], False)
    np.testing.assert_array_equal(out[2][share == 0], True)
    self.assertTrue(np.any(share > 1e-4))
    np.testing.assert_array_equal(out[0][~out[2]], 0.0)
    np.testing.assert_array_equal(out[1][~out[2]], 0)

  def test_values_under_the_mask_are_never_used(self):
    batch = make_batch(1, holes=True)
    image, label, valid = (batch[k][0] for k in ("image", "label", "valid"))
    pull = np.linalg.inv(float64_forward(SIZE, SIZE, **AMOUNTS[1]))[:2]
    bad = np.where(valid[..., None], image, np.nan), np.where(valid, label, np.uint8(255)), valid
    for out, expected in zip(WARP(*bad, pull), WARP(image, label, valid, pull)):
      np.testing.assert_array_equal(out, expected)

  def test_an_exact_shift_does_not_touch_the_neighbours_validity(self):
    batch = make_batch(1, holes=True)
    image, label, valid = (batch[k][0] for k in ("image", "label", "valid"))
    bad = np.where(valid[..., None], image, np.float32(np.nan))
    out = WARP(bad, label, valid, np.float32([[1, 0, -3], [0, 1, -2]]))
    np.testing.assert_array_equal(out[2][2:, 3:], valid[:-2, :-3])
    np.testing.assert_array_equal(out[0][2:, 3:], image[:-2, :-3])


class AugmentTest(parameterized.TestCase):
  @parameterized.product(hflip=(False, True), vflip=(False, True), turns=(0, 1, 2, 3))
  def test_flips_and_turns_are_bitwise_those_of_numpy(self, hflip, vflip, turns):
    batch = make_batch(1, holes=True)
    pull = augment.dihedral_pull(SIZE, SIZE, hflip=jnp.array(hflip), vflip=jnp.array(vflip), turns=jnp.array(turns))
    inputs = [batch[k][0] for k in ("image", "label", "valid")]
    for x, out in zip(inputs, WARP(*inputs, pull)):
      x = x[:, ::-1] if hflip else x
      x = x[::-1] if vflip else x
      np.testing.assert_array_equal(out, np.rot90(x, turns))

  def test_without_shift_scale_rotate_every_image_is_bitwise_one_of_its_eight_views(self):
    batch = make_batch(100, 8, 8, holes=True)
    out = run(0, batch, shift_scale_rotate=0.0)
    seen = set()
    for b in range(100):
      views = [
        (f, k)
        for f in (1, -1)
        for k in range(4)
        if np.array_equal(np.rot90(batch["image"][b, :, ::f], k), out["image"][b])
      ]
      self.assertLen(views, 1)
      flip, turns = views[0]
      for name in ("label", "valid"):
        np.testing.assert_array_equal(np.rot90(batch[name][b, :, ::flip], turns), out[name][b])
      seen.add(views[0])
    self.assertLen(seen, 8)

  @parameterized.parameters(("hflip", np.s_[:, :, ::-1]), ("vflip", np.s_[:, ::-1]))
  def test_probability_one_always_flips_the_named_axis(self, name, view):
    batch = make_batch(3, 12, 20)
    out = run(0, batch, **{**NEVER, name: 1.0})
    for key in ("image", "label", "valid"):
      np.testing.assert_array_equal(out[key], batch[key][view])

  def test_quarter_turns_are_uniform_including_none(self):
    batch = {
      "image": np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1).repeat(400, 0),
      "label": np.zeros((400, 2, 2), np.uint8),
      "valid": np.ones((400, 2, 2), bool),
    }
    out = run(1, batch, **{**NEVER, "rot90": 1.0})
    counts = np.unique(np.asarray(out["image"])[:, 0, 0, 0], return_counts=True)[1]
    self.assertLen(counts, 4)
    self.assertBetween(counts.min(), 70, 100)  # 100 +- 8.7; 3.5 deviations.

  def test_half_of_the_images_are_shifted_scaled_and_rotated(self):
    batch = make_batch(400, 4, 4)
    out = run(2, batch, **{**NEVER, "shift_scale_rotate": 0.5})
    changed = np.any(out["image"] != batch["image"], axis=(1, 2, 3))
    self.assertBetween(changed.sum(), 160, 240)  # 200 +- 10.

  def test_amounts_fill_their_limits_and_stay_inside(self):
    draw = functools.partial(
      augment.random_pull,
      height=64,
      width=64,
      hflip=0.0,
      vflip=0.0,
      rot90=0.0,
      shift_scale_rotate=1.0,
      shift_limit=0.1,
      scale_limit=0.3,
      rotate_limit_deg=15.0,
    )
    pulls = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 2000)))
    forward = np.linalg.inv(np.concatenate([pulls, np.tile([[[0.0, 0.0, 1.0]]], (2000, 1, 1))], axis=1))
    scale = np.sqrt(np.linalg.det(forward[:, :2, :2]))
    angle = np.degrees(np.arctan2(forward[:, 0, 1], forward[:, 0, 0]))
    centre = np.array([31.5, 31.5, 1.0])
    shift = (forward @ centre - centre)[:, :2] / 64
    for value, low, high in ((scale, 0.7, 1.3), (angle, -15, 15), (shift, -0.1, 0.1)):
      span = high - low
      self.assertBetween(value.min(), low - 1e-5 * span, low + 0.01 * span)
      self.assertBetween(value.max(), high - 0.01 * span, high + 1e-5 * span)

  def test_equals_scipy_on_the_flipped_image(self):
    # The border mirrored at pixel centres looks the same before and after a flip or turn, so the
    # single composed matrix must equal two steps.
    batch = make_batch(1)
    pull = np.linalg.inv(float64_forward(SIZE, SIZE, **AMOUNTS[1]))
    dihedral = augment.dihedral_pull(SIZE, SIZE, hflip=jnp.array(True), vflip=jnp.array(False), turns=jnp.array(1))
    out, _, _ = WARP(
      *[batch[k][0] for k in ("image", "label", "valid")], augment.compose(dihedral, jnp.float32(pull[:2]))
    )
    flipped = np.rot90(batch["image"][0, :, ::-1])
    for c in range(3):
      np.testing.assert_allclose(out[..., c], scipy_warp(flipped[..., c], pull, 1), atol=1e-4)

  def test_one_key_gives_one_result_and_images_differ_from_each_other(self):
    batch = make_batch(1)
    batch = {name: np.repeat(x, 8, axis=0) for name, x in batch.items()}
    call = jax.jit(augment.augment)
    first, second = call(jax.random.key(3), batch), call(jax.random.key(3), batch)
    np.testing.assert_array_equal(first["image"], second["image"])
    self.assertGreater(len({np.asarray(x).tobytes() for x in first["image"]}), 4)
    other = call(jax.random.key(4), batch)
    self.assertTrue(np.any(first["image"] != other["image"]))

  def test_other_entries_pass_through(self):
    batch = {**make_batch(2), "index": np.arange(2)}
    out = run(0, batch)
    self.assertEqual(set(out), set(batch))
    np.testing.assert_array_equal(out["index"], [0, 1])

  def test_quarter_turns_of_images_that_are_not_square_are_refused(self):
    with self.assertRaisesRegex(ValueError, "they are 12x20; use square chips or rot90=0"):
      run(0, make_batch(1, 12, 20))
    out = run(0, make_batch(1, 12, 20), rot90=0.0)
    self.assertEqual(out["image"].shape, (1, 12, 20, 3))
