import contextlib
import io
import json
import math
import pathlib
import tempfile
from unittest import mock

import numpy as np
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

  def test_damaged_lines_are_left_out_and_told_but_for_a_last_one_that_was_cut(self):
    path, out = self.folder / "metrics.jsonl", io.StringIO()
    path.write_bytes(b'{"step": 1}\n{"st\xffep": 2}\n[3]\n{"step": 4}\n{"ste')
    with contextlib.redirect_stdout(out):
      self.assertEqual(logging.read_metrics(path), [{"step": 1}, {"step": 4}])
    self.assertIn("line 2, 3 cannot be read", out.getvalue())

  def test_without_a_folder_nothing_is_written(self):
    writer = logging.MetricsWriter(None)
    writer.write(1, {"loss": 1.0})
    writer.close()


class TallyTest(parameterized.TestCase):
  def test_three_bad_steps_are_found_though_a_good_one_follows_in_the_same_call(self):
    tally = logging.Tally(step=4, skipped_in_a_row=1)  # Step 3 was bad.
    metrics = {"loss": np.array([9.0, 9.0, 1.0, 9.0]), "skipped": np.array([1.0, 1.0, 0.0, 1.0])}
    self.assertEqual(tally.add(metrics), [3, 4, 5])
    self.assertEqual((tally.skipped_steps, tally.step), ([7], 8))
    self.assertEqual(tally.sums, {"loss": 1.0, "skipped": 3.0})

  def test_a_good_step_ends_the_row(self):
    tally = logging.Tally()
    for bad in (1.0, 1.0, 0.0, 1.0, 1.0, 0.0):
      self.assertLess(len(tally.add({"skipped": np.array([bad])})), 3)
    self.assertEmpty(tally.skipped_steps)


if __name__ == "__main__":
  absltest.main()
