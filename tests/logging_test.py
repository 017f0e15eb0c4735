import json
import math
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from minec2f_jax.training import logging


class ClockTest(parameterized.TestCase):
  def test_rate_leaves_out_the_first_step_and_evaluation_but_time_left_does_not(self):
    now = [100.0]
    with mock.patch("time.monotonic", lambda: now[0]):
      clock = logging.Clock(total_steps=10, images_per_step=8)
      self.assertIsNone(clock.images_per_s)
      self.assertEqual(clock.left(0), "?")
      for pause, step_s in ((0, 60), (0, 2), (6, 2)):  # The first compiles for a minute; before the third, 6 s pass.
        now[0] += pause
        clock.start()
        now[0] += step_s
        clock.tick()
    self.assertEqual(clock.images_per_s, 4.0)  # Two steps of eight images in 4 s.
    with mock.patch("time.monotonic", lambda: now[0]):
      self.assertEqual(clock.left(3), "35s")  # Seven steps at (2 + 6 + 2) / 2 s.


class MetricsWriterTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _steps(self):
    return [json.loads(line)["step"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

  def test_a_resumed_writer_drops_what_was_written_after_its_start(self):
    writer = logging.MetricsWriter(self.folder)
    for step in (5, 10, 15):
      writer.write(step, {"loss": 1.0})
    writer.close()
    logging.MetricsWriter(self.folder, start_step=10).close()
    self.assertEqual(self._steps(), [5, 10])

  def test_an_undefined_score_is_null_because_json_has_no_nan(self):
    writer = logging.MetricsWriter(self.folder)
    writer.write(1, {"iou": math.nan, "loss": 0.5})
    writer.close()
    line = json.loads((self.folder / "metrics.jsonl").read_text(), parse_constant=self.fail)
    self.assertEqual(line, {"step": 1, "iou": None, "loss": 0.5})


if __name__ == "__main__":
  absltest.main()
