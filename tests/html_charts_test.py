import math
import re

from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from minec2f_jax.evaluation import html_charts, html_parts
from tests import html_page


class ChartsTest(parameterized.TestCase):
  @settings(max_examples=200, deadline=None)
  @given(st.lists(st.floats(-1e12, 1e12) | st.just(math.nan), min_size=1, max_size=20))
  def test_axes_hold_all_values_between_few_round_ticks(self, values):
    known = [value for value in values if not math.isnan(value)]
    if not known:
      return
    axis = html_charts.axis_of("x", values)
    slack = 1e-6 * (axis.high - axis.low)
    self.assertLessEqual(axis.low - slack, min(known))
    self.assertGreaterEqual(axis.high + slack, max(known))
    self.assertLess(axis.low, axis.high)
    self.assertBetween(len(axis.ticks), 2, 8)

  def test_a_tick_is_a_round_number(self):
    self.assertEqual(html_charts.axis_of("x", [0.13, 0.78]).ticks, (0.0, 0.2, 0.4, 0.6, 0.8))
    self.assertEqual(html_charts.axis_of("epoch", [1, 3], whole=True).ticks, (1.0, 2.0, 3.0))
    self.assertEqual(html_charts.axis_of("x", [1.0, 1.0]).ticks[0], 0.4)

  def test_a_line_goes_through_its_points_and_breaks_where_one_is_undefined(self):
    axis = html_charts.Axis("x", 0.0, 4.0, (0.0, 4.0))
    line = html_charts.Line(0, [(0, 0.0), (1, 4.0), (2, None), (3, math.nan), (4, 2.0)])
    root = html_page.read(html_charts.plot([line], axis, axis, alt="a", mark=(1, 4.0)))
    (path,) = root.all("path", kind="line s0")
    # By hand: the area is 52..348 wide and 190..12 high.
    self.assertEqual(path.attributes["d"], "M52.0 190.0L126.0 12.0M348.0 101.0")
    self.assertLen(root.all("circle", kind="dot s0"), 3)
    (ring,) = root.all("circle", kind="ring")
    self.assertEqual((ring.attributes["cx"], ring.attributes["cy"]), ("126.0", "12.0"))

  def test_reliability_draws_the_bins_that_have_pixels(self):
    points = [
      {"low": 0.0, "high": 0.5, "mean_probability": 0.25, "mine_share": 0.5, "count": 99},
      {"low": 0.5, "high": 1.0, "mean_probability": math.nan, "mine_share": math.nan, "count": 0},
    ]
    root = html_page.read(html_charts.reliability([(1, points)], alt="a"))
    (path,) = root.all("path", kind="line s1")
    self.assertEqual(path.attributes["d"], "M126.0 160.0")  # A quarter of 52..348, half of 308..12.
    (bar,) = root.all("rect", kind="bar s1")
    self.assertEqual(bar.attributes["height"], "74.0")  # The highest one fills its area.

  def test_lines_differ_in_more_than_colour(self):
    swatches = html_page.read(html_charts.legend([(0, "a"), (1, "b"), (2, "c"), (7, "d")])).all("li")
    kinds = [re.sub(r" s\d", "", str([(e.tag, sorted(e.attributes.items())) for e in s.all()])) for s in swatches]
    self.assertLen(set(kinds), 4)
    self.assertEqual([s.text.strip() for s in swatches], ["a", "b", "c", "d"])


class PartsTest(parameterized.TestCase):
  @parameterized.parameters((None, "–"), (math.nan, "–"), (math.inf, "–"), (0.12345, "12.35"), (0, "0.00"))
  def test_percent(self, value, expected):
    self.assertEqual(html_parts.percent(value), expected)

  @settings(max_examples=100, deadline=None)
  @given(st.text(st.characters()))
  def test_any_text_comes_back_as_it_was_but_for_what_html_cannot_hold(self, text):
    markup = html_parts.paragraph(text)
    markup.encode()
    self.assertEqual(html_page.read(markup).all("p")[0].text, html_parts._UNPRINTABLE.sub("\ufffd", text))

  def test_counts_have_their_noun(self):
    self.assertEqual([html_parts.count(n, "image") for n in (0, 1, 12000)], ["0 images", "1 image", "12,000 images"])


if __name__ == "__main__":
  absltest.main()
