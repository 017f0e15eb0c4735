"""Tests of minec2f_jax.mapping.quicklook."""

import base64
import io
import re
import xml.etree.ElementTree

import numpy as np
import rasterio
import shapely
from absl.testing import absltest, parameterized
from PIL import Image

from minec2f_jax.errors import UserError
from minec2f_jax.mapping import quicklook, quicklook_page, quicklook_picture
from tests import map_case

SIZE = 40
PLACE = map_case.UTM


class QuicklookTest(map_case.MapTest):
  def setUp(self):
    super().setUp()
    self.mask = np.zeros((SIZE, SIZE), np.uint8)
    self.mask[10:30, 5:25], self.mask[15:20, 10:15], self.mask[:, 36:] = 1, 0, 255

  def scene(self, name="scene.tif", place=PLACE, names=("B4", "B2", "B3"), shape=(SIZE, SIZE)):
    """Bands of one value each: red 3000, blue 1000, green 2000; a ramp over the columns in all."""
    ramp = np.broadcast_to(np.arange(shape[1]) * 10, shape)
    bands = np.stack([ramp + value for value in (3000, 1000, 2000)]).astype(np.int16)
    crs, transform = place
    size = dict(count=len(bands), height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype)
    with rasterio.open(self.root / name, "w", driver="GTiff", crs=crs, transform=transform, **size) as dst:
      dst.write(bands)
      dst.descriptions = tuple(names) or (None,) * 3
    return self.root / name

  def draw(self, scene, place=PLACE, **note):
    path = self.put(self.mask, "T23 <a>", place=place, probability=np.full(self.mask.shape, 49150), **note)
    png, page = quicklook.draw(path, scene, self.root / "out", tile=16)
    self.assertEqual((png.name, page.name), ("T23 <a>.png", "T23 <a>.html"))
    return Image.open(png), page.read_text(encoding="utf-8")

  def test_the_picture_shows_scene_mine_and_what_is_not_valid_where_they_are(self):
    picture, _ = self.draw(self.scene())
    left, top, side = 20, 60, 1200  # Margin, title, and 40 pixels at 30 each.
    at = lambda row, column: np.array(
      picture.getpixel((left + int(column * side / SIZE), top + int(row * side / SIZE))), int
    )
    self.assertEqual(picture.width, side + 2 * left)
    np.testing.assert_allclose(at(5, 38), list(bytes.fromhex(quicklook_picture.NOTHING[1:])), atol=1)
    np.testing.assert_allclose(at(20, 5) - list(bytes.fromhex(quicklook_picture.OUTLINE[1:])), 0, atol=60)
    plain, inside, hole = at(5, 12.5), at(12.5, 12.5), at(17.5, 12.5)
    np.testing.assert_allclose(plain, hole, atol=2)
    tinted = (1 - quicklook_picture.TINT) * plain + quicklook_picture.TINT * np.array([255, 196, 0])
    np.testing.assert_allclose(inside, tinted, atol=3)

  def test_one_page_holds_everything_and_asks_nobody(self):
    _, page = self.draw(self.scene())
    self.assertIn("T23 &lt;a&gt;", page)
    self.assertNotIn("<script", page)
    self.assertEmpty([link for link in re.findall(r'(?:src|href)="([^"]*)"', page) if not link.startswith("data:")])
    self.assertIn("0.0375 km² in 1 outlines", page)
    self.assertIn("0.0375 km², mean probability 75 %", page)
    (svg,) = re.findall(r"<svg viewBox=.*?</svg>", page, re.DOTALL)
    paths = xml.etree.ElementTree.fromstring(svg).findall(".//path[@class='mine']")
    self.assertLen(paths, 1)
    self.assertEqual(paths[0].get("d").count("M"), 2)  # Outline and hole.
    numbers = np.array(re.findall(r"[\d.]+", paths[0].get("d")), float).reshape(-1, 2)
    np.testing.assert_allclose(numbers.min(axis=0) / 30, [5, 10])
    np.testing.assert_allclose(numbers.max(axis=0) / 30, [25, 30])
    photo = Image.open(io.BytesIO(base64.b64decode(re.search(r"jpeg;base64,([^\"]+)", page)[1])))
    self.assertEqual(photo.size, (1200, 1200))

  def test_ground_is_shown_in_proportion(self):
    place = map_case.PLACES["degrees_60_north"]  # There a degree of longitude is half as long as one of latitude.
    picture, _ = self.draw(self.scene(place=place), place)
    self.assertEqual(picture.height - 60 - 50 - 20 - 3 * 24, 1200)
    self.assertIn("km", quicklook_picture.bar(self._drawing(metres=10.0), 1200)[1])

  def _drawing(self, **changes):
    blank = np.zeros((4, 4, 3), np.uint8)
    return quicklook_picture.Drawing(blank, (1200, 1200), [], [], 1.0, "t", {})._replace(**changes)

  @parameterized.parameters((10.0, 1200, 200, "2 km"), (0.33, 1200, 50 / 0.33, "50 m"), (2.0, 900, 100, "200 m"))
  def test_the_scale_bar_is_a_round_length(self, metres, width, length, text):
    found = quicklook_picture.bar(self._drawing(metres=metres), width)
    self.assertAlmostEqual(found[0], length)
    self.assertEqual(found[1], text)

  def test_bands_are_found_by_name_or_shown_as_they_come(self):
    picture, page = self.draw(self.scene())
    self.assertIn("natural colours", page)
    red, green, blue = picture.getpixel((20 + 900, 60 + 100))  # Stretched apart: all the same.
    self.assertBetween(max(red, green, blue) - min(red, green, blue), 0, 2)
    path = self.root / "maps" / "T23 <a>"
    quicklook.draw(path, self.scene("x.tif", names=()), self.root / "x")
    self.assertIn("the first bands, whose names tell no colours", next((self.root / "x").glob("*.html")).read_text())

  def test_red_green_and_blue_may_be_files_of_their_own_or_none(self):
    path = self.put(self.mask, "m", place=PLACE)
    scenes = [self.scene(f"{name}.tif", names=(name, f"a {name}", f"b {name}")) for name in ("red", "green", "blue")]
    quicklook.draw(path, scenes, self.root / "a")
    self.assertIn("natural colours", (self.root / "a" / "m.html").read_text())
    quicklook.draw(path, None, self.root / "b")
    self.assertIn("no scene was given", (self.root / "b" / "m.html").read_text())

  @parameterized.named_parameters(("nothing", 0), ("not_valid", 255), ("all_mine", 1))
  def test_extreme_masks_can_be_drawn(self, value):
    self.mask[:] = value
    _, page = self.draw(None)
    self.assertEqual("No mine is mapped here." in page, value != 1)

  def test_another_scene_is_refused(self):
    with self.assertRaisesRegex(UserError, "does not lie where .* does; give the scene that was mapped"):
      self.draw(self.scene(shape=(SIZE, SIZE + 9)))

  def test_pages_with_very_many_outlines_say_that_some_are_left_out(self):
    footprint = quicklook_picture.Footprint(shapely.box(1, 1, 3, 3), 0.1, None, (1.0, 2.0))
    most = quicklook_page.MOST_OUTLINES
    page = quicklook_page.render(self._drawing(mines=[footprint] * (most + 5)))
    self.assertEqual(page.count('class="mine"'), most)
    self.assertIn("Of 5,005 outlines the 5,000 largest are drawn here", page)

  def test_the_same_map_gives_the_same_bytes(self):
    path, scene = self.put(self.mask, "m", place=PLACE), self.scene()
    made = [
      [p.read_bytes() for p in quicklook.draw(path, scene, self.root / name, tile=tile)]
      for name, tile in (("a", 7), ("b", 64))
    ]
    self.assertEqual(made[0], made[1])


if __name__ == "__main__":
  absltest.main()
