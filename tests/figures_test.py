import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from minec2f_jax.data import label_geometry
from minec2f_jax.evaluation import figures

BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")


class StretchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.image = np.random.default_rng(0).uniform(0, 0.4, (16, 16, 6)).astype(np.float32)
    self.valid = np.ones((16, 16), bool)

  def test_the_2nd_and_98th_percentile_of_the_shown_bands_become_black_and_white(self):
    shown = figures.stretch(self.image, self.valid, BANDS, ("swir2", "nir", "red"))
    low, high = np.percentile(self.image[..., [5, 3, 0]], (2, 98))
    expected = np.clip((self.image[..., [5, 3, 0]] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-6)

  def test_invalid_pixels_are_white_and_do_not_set_the_stretch(self):
    self.valid[0] = False
    spoiled = self.image.copy()
    spoiled[0] = 1e6
    shown = figures.stretch(spoiled, self.valid, BANDS, ("red", "green", "blue"))
    np.testing.assert_array_equal(shown[0], 1.0)
    np.testing.assert_array_equal(
      shown[1:], figures.stretch(self.image, self.valid, BANDS, ("red", "green", "blue"))[1:]
    )

  def test_bands_that_are_missing_fall_back_to_the_first_ones(self):
    shown = figures.stretch(self.image[..., :2], self.valid, ("red", "nir"), ("red", "green", "blue"))
    np.testing.assert_array_equal(shown[..., 1], shown[..., 2])

  @parameterized.parameters(
    (BANDS, ["RGB", "SWIR 2, NIR, red"]),
    (("red", "green", "blue", "nir"), ["RGB"]),
    (("swir1", "nir"), ["image (swir1, nir)"]),
  )
  def test_no_picture_claims_bands_that_the_image_lacks(self, bands, titles):
    self.assertEqual(list(figures.composites(bands)), titles)


class SavePanelTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_the_picture_shows_where_the_teacher_is_distilled(self, with_masks):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    image = np.full((8, 8, 6), 0.2, np.float32)
    label = np.zeros((8, 8), np.uint8)
    label[2:6, 2:6] = 1
    sample = {"id": "one", "image": image, "label": label, "valid": np.ones((8, 8), bool)}
    masks = {"better": np.ones((1, 8, 8), bool), "distilled": label[None] > 0} if with_masks else {}
    figures.save_panel(
      folder / "panel.png",
      samples=[sample],
      bands=BANDS,
      probabilities={"teacher": np.full((1, 8, 8), 0.5)},
      title="test",
      **masks,
    )
    pixels = np.asarray(Image.open(folder / "panel.png").convert("RGB")).reshape(-1, 3)
    # A constant image stretches to black, dimmed to 0.3; each colour covers 70 % of what is under it.
    under = np.full(3, 0.3 * 255)
    for colour in (figures.TEACHER_COLOUR, figures.MINE_COLOUR):
      under = 0.7 * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) + 0.3 * under
      near = np.abs(pixels - under).max(axis=1) <= 2
      self.assertEqual(near.sum() > 100, with_masks)


class SaveCurvesTest(parameterized.TestCase):
  def test_every_stage_has_its_line_and_undefined_scores_leave_gaps(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "curves.png"
    lines = [{"train/loss": 1.0, "validation/miou": None}, *[{"train/loss": 0.5, "validation/miou": 0.4}] * 4]
    figures.save_curves(path, {"coarse": lines, "fine": lines[1:]}, score="miou")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in (figures.TEACHER_COLOUR, figures.MINE_COLOUR):
      rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
      self.assertGreater((np.abs(pixels - rgb).max(axis=1) <= 2).sum(), 100)


class SaveShiftTest(parameterized.TestCase):
  def _colours(self, first, second):
    """Number of pixels in each set's line colour, and the file's bytes."""
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "shift.png"
    sets = {"coarse": first, "fine": second}
    figures.save_shift(path, {n: label_geometry.LabelStatistics(v, 2 * v, None) for n, v in sets.items()})
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    near = []
    for colour in (figures.TEACHER_COLOUR, figures.MINE_COLOUR):
      rgb = 0.5 * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) + 0.5 * 255  # Half transparent on white.
      near.append((np.abs(pixels - rgb).max(axis=1) <= 2).sum())
    return near, path.read_bytes()

  def test_both_sets_are_drawn_half_transparent_and_to_the_same_bytes_again(self):
    first, second = np.random.default_rng(0).random((2, 200)) + [[0.0], [0.5]]
    near, data = self._colours(first, second)
    self.assertGreater(min(near), 2000)
    self.assertEqual(self._colours(first, second)[1], data)

  def test_a_set_without_defined_values_leaves_the_other_one(self):
    near, _ = self._colours(np.full(5, np.nan), np.linspace(0, 1, 50))
    self.assertLess(near[0], 1000)  # Its two patches in the legends.
    self.assertGreater(near[1], 2000)
    self._colours(np.full(5, np.nan), np.full(5, np.nan))


if __name__ == "__main__":
  absltest.main()
