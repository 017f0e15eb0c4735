"""Tests of minec2f_jax.data.contact_sheet: what a person sees."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from minec2f_jax.data import contact_sheet

YELLOW, GREY = (255, 196, 0), (225, 225, 225)


def chip(height=20, width=30, *, seed=0, **kwargs):
  image = np.random.default_rng(seed).uniform(0.05, 0.4, (height, width, 3)).astype(np.float32)
  label = np.zeros((height, width), np.uint8)
  label[5:12, 6:20] = 1
  values = dict(title="CHL_0123456789ab", note="1.2 km2", split="train", valid=np.ones_like(label, bool))
  return contact_sheet.Chip(**{**values, "image": image, "label": label, **kwargs})


class ContactSheetTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, 40, []), (1, 40, [0]), (3, 40, [0, 1, 2]), (100, 3, [0, 50, 99]), (41, 40, [i for i in range(41) if i != 20])
  )
  def test_chips_are_picked_evenly_with_both_ends(self, total, limit, expected):
    self.assertEqual(contact_sheet.evenly_spaced(total, limit), expected)

  def test_an_enlarged_thumbnail_shows_the_outline_at_the_mask_s_border(self):
    one = chip(20, 20)
    picture = np.asarray(contact_sheet.thumbnail(one.image, one.valid, one.label, 80))
    outline = (picture == YELLOW).all(-1)
    mine = one.label.repeat(4, 0).repeat(4, 1).astype(bool)
    expected = np.zeros_like(outline)
    expected[20:48, 24:80] = mine[20:48, 24:80]
    expected[21:47, 25:] = False  # Where the mask leaves the chip, there is no border.
    np.testing.assert_array_equal(outline, expected)

  def test_a_wide_chip_keeps_its_proportions_on_grey(self):
    one = chip(20, 40)
    picture = np.asarray(contact_sheet.thumbnail(one.image, one.valid, one.label, 80))
    rows = np.flatnonzero(~(picture == GREY).all((1, 2)))
    self.assertEqual((picture.shape, rows.min(), rows.max()), ((80, 80, 3), 20, 59))

  def test_invalid_pixels_are_grey_and_do_not_disturb_the_others(self):
    one = chip(16, 16, label=np.zeros((16, 16), np.uint8))
    valid = one.valid.copy()
    valid[:, :8] = False
    shown = [
      np.asarray(contact_sheet.thumbnail(np.where(valid[..., None], one.image, fill), valid, one.label, 16))
      for fill in (0.0, np.nan, 1e9)
    ]
    self.assertTrue((shown[0][:, :8] == GREY).all())
    np.testing.assert_array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[0], shown[2])

  def test_a_chip_of_one_colour_or_without_data_can_be_drawn(self):
    flat = chip(image=np.full((20, 30, 3), 0.3, np.float32))
    empty = chip(valid=np.zeros((20, 30), bool))
    sheet = contact_sheet.draw([flat, empty], title="two")
    self.assertGreater(sheet.width, 2 * contact_sheet.TILE_PX)

  @parameterized.parameters((0, 0), (1, 1), (8, 1), (9, 2), (40, 5))
  def test_a_sheet_has_eight_chips_a_row(self, count, rows):
    sheet = contact_sheet.draw([chip(seed=i) for i in range(count)], title="chips")
    self.assertEqual((sheet.height - 44) // (contact_sheet.TILE_PX + 46), rows)
    self.assertLess(sheet.width, 8 * 200)

  def test_the_same_chips_give_the_same_file(self):
    with tempfile.TemporaryDirectory() as folder:
      paths = [pathlib.Path(folder) / name for name in ("a.png", "b.png")]
      for path in paths:
        contact_sheet.save(path, contact_sheet.draw([chip(title="x" * 60)], title="one"))
      self.assertEqual(paths[0].read_bytes(), paths[1].read_bytes())
      self.assertEqual(Image.open(paths[0]).format, "PNG")
      self.assertLen(list(pathlib.Path(folder).iterdir()), 2)


if __name__ == "__main__":
  absltest.main()
