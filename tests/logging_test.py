import json
import math
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from minec2f_jax.training import logging


class ClockTest(parameterized.TestCase):
  def test_rate_leaves_out_evaluation_but_time_left_does_not(self):
    now = [100.0]
    with mock.patch("time.monotonic", lambda: now[0]):
      clock = logging.Clock(total_steps=10, images_per_step=8)
      self.assertIsNone(clock.images_per_s)
      self.assertEqual(clock.left(0), "?")
      for pause, steps in ((0, 1), (6, 2)):  # Before the second call 6 s pass.
        now[0] += pause
        clock.start()
        clock.tick(steps)  # Under way,
        now[0] += 2 * steps
        clock.tick(0)  # and done.
    self.assertEqual(clock.images_per_s, 4.0)  # Three steps of eight images in 6 s.
    with mock.patch("time.monotonic", lambda: now[0]):
      self.assertEqual(clock.left(3), "28s")  # Seven steps at (2 + 6 + 4) / 3 s.


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
