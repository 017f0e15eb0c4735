import math

import matplotlib
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.evaluation import figures, html_pixels, html_report
from tests import html_case, html_page


class PixelsTest(parameterized.TestCase):
  def _card(self, probability, label=((1, 1), (0, 0)), valid=None) -> html_page.Element:
    label = np.array(label, np.uint8)
    card = html_report.Card(
      "a",
      "why",
      np.zeros((*label.shape, 1), np.float32),
      label,
      np.ones(label.shape, bool) if valid is None else np.array(valid),
      {"m": np.array(probability)},
      {},
    )
    return html_page.read(html_pixels.card(card, ("nir",)))

  def test_hit_miss_false_alarm_and_background_have_their_colours(self):
    root = self._card([[0.9, 0.2], [0.7, 0.5]])  # 0.5 is not above the threshold.
    _, label, probability, error = root.all("img")
    white, blue, orange, dark = [0xF7] * 3, [0x00, 0x72, 0xB2], [0xE6, 0x9F, 0x00], [0x26] * 3
    np.testing.assert_array_equal(html_page.pixels(error.attributes["src"]), [[white, blue], [orange, dark]])
    np.testing.assert_array_equal(html_page.pixels(label.attributes["src"]), [[white, white], [dark, dark]])
    self.assertEqual(root.all("figcaption")[-1].text, "m: miss 1 pixel, false alarm 1 pixel")
    magma = matplotlib.colormaps["magma"]
    expected = [[magma(p)[:3] for p in line] for line in ((0.9, 0.2), (0.7, 0.5))]
    np.testing.assert_allclose(html_page.pixels(probability.attributes["src"]) / 255, expected, atol=0.01)

  def test_pixels_without_data_are_grey_in_all_panels_and_count_nowhere(self):
    root = self._card([[0.9, 0.2], [0.7, np.nan]], valid=[[True, False], [False, False]])
    for image in root.all("img"):
      shown = html_page.pixels(image.attributes["src"])
      self.assertTrue((shown[[0, 1, 1], [1, 0, 1]] == 0x8F).all())
      self.assertFalse((shown[0, 0] == 0x8F).all())
    self.assertEqual(root.all("figcaption")[-1].text, "m: miss 0 pixels, false alarm 0 pixels")

  def test_outcomes_agree_with_a_confusion_count(self):
    rng = np.random.default_rng(0)
    label, predicted, valid = rng.random((3, 32, 32)) > [[[0.6]], [[0.4]], [[0.2]]]
    found = np.bincount(figures.outcomes(label, predicted, valid).ravel(), minlength=5)
    expected = {
      "background": ~label & ~predicted & valid,
      "miss": label & ~predicted & valid,
      "no data": ~valid,
      "false alarm": ~label & predicted & valid,
      "hit": label & predicted & valid,
    }
    self.assertEqual(dict(zip(figures.OUTCOME_COLOURS, found)), {k: v.sum() for k, v in expected.items()})

  def test_colours_differ_for_colour_blind_people_and_in_grey(self):
    colours = np.array([list(bytes.fromhex(c[1:])) for c in figures.OUTCOME_COLOURS.values()]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    # Machado, Oliveira & Fernandes 2009, severity 1.0: protanopia, deuteranopia, tritanopia.
    seen = {
      "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
      "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
      "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    for name, matrix in seen.items():
      there = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
      apart = [np.linalg.norm(there[i] - there[j]) for i in range(5) for j in range(i)]
      self.assertGreater(min(apart), 0.25, name)
    grey = (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 2.2)
    self.assertGreater(np.diff(grey).min(), 0.1)  # They are listed from dark to light.

  def test_the_legend_shows_these_colours(self):
    legend = html_page.read(html_pixels.legend())
    shown = [html_page.pixels(image.attributes["src"]) for image in legend.all("img")]
    names = [item.text.partition(":")[0].strip() for item in legend.all("li")]
    self.assertEqual(names[:3], ["hit", "miss", "false alarm"])
    for name, swatch in zip(names[:3], shown):
      self.assertEqual(bytes(swatch[0, 0].tolist()).hex(), figures.OUTCOME_COLOURS[name][1:])

  def test_large_images_are_thinned_and_say_so(self):
    label = np.zeros((600, 300), np.uint8)
    label[::3, ::3] = 1
    root = self._card(label.astype(float), label=label)
    self.assertEqual(html_page.pixels(root.all("img")[1].attributes["src"]).shape, (200, 100, 3))
    self.assertIn("of 600 × 300 pixels, one in 3 is shown along each side", root.text)
    self.assertIn("label: mine, 20,000 pixels", root.text)

  def test_a_picture_of_many_colours_stays_near_them(self):
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 0.4, (64, 64, 3)).astype(np.float32)
    card = (
      html_case.shared_page()
      .cards["fine test"][0]
      ._replace(image=image, valid=np.ones((64, 64), bool), label=np.zeros((64, 64)))
    )
    card = card._replace(probabilities={}, scores={})
    root = html_page.read(html_pixels.card(card, ("red", "green", "blue")))
    expected = figures.stretch(image, card.valid, ["red", "green", "blue"], ("red", "green", "blue"))
    shown = html_page.pixels(root.all("img")[0].attributes["src"]) / 255
    self.assertLess(np.abs(shown - expected).mean(), 0.06)  # The worst there is: colours that fill the whole cube.

  @parameterized.parameters(
    (("red", "green", "blue"), ["RGB"]),
    (("nir", "red", "green"), ["image (nir, red, green)"]),
    (("nir",), ["image (nir)"]),
    (html_case.BANDS, ["RGB", "SWIR 2, NIR, red"]),
  )
  def test_pictures_are_made_of_the_bands_there_are(self, bands, titles):
    card = html_case.shared_page().cards["fine test"][0]
    card = card._replace(image=card.image[..., : len(bands)])
    captions = [c.text for c in html_page.read(html_pixels.card(card, bands)).all("figcaption")]
    self.assertEqual(captions[: len(titles)], titles)
    self.assertStartsWith(captions[len(titles)], "label: mine")

  def test_an_image_without_valid_pixels_is_all_grey_and_says_so(self):
    card = html_case.shared_page().cards["fine test"][0]
    card = card._replace(
      valid=np.zeros_like(card.valid),
      image=np.full_like(card.image, np.inf),
      probabilities={"student": np.full(card.label.shape, np.nan)},
      scores={"student": math.nan},
    )
    root = html_page.read(html_pixels.card(card, html_case.BANDS))
    self.assertIn("student undefined (no mine in label and prediction); it has no pixel with data", root.text)
    self.assertLen(root.all("img"), 5)
    for image in root.all("img"):
      shown = html_page.pixels(image.attributes["src"])
      self.assertEqual({tuple(p) for p in shown.reshape(-1, 3).tolist()}, {(0x8F, 0x8F, 0x8F)})


if __name__ == "__main__":
  absltest.main()
