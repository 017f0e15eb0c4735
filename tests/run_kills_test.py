"""A whole run of launch.py, killed; the fault suite has the long form. One to three minutes: JAX starts five times."""

import tempfile

from absl.testing import absltest

from tests.faults import run_kills


class RunKillsTest(absltest.TestCase):
  def test_a_killed_run_ends_as_one_left_alone(self):
    counts = run_kills.kill_run(self.enterContext(tempfile.TemporaryDirectory()), kills=2, stages=("coarse",))
    self.assertEqual(counts["killed"], 2)
    self.assertGreater(counts["runs"], 0)
    for fault in ("failed", "different", "debris", "unused"):
      self.assertEqual(counts[fault], 0, (fault, counts))
    self.assertLessEqual(counts["lost_epochs"], 2, counts)  # One under way to the disk, and one not yet.


if __name__ == "__main__":
  absltest.main()
