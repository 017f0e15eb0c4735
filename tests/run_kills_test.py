"""A run of launch.py, killed and asked to end; benchmarks.faults has the long form. A minute: JAX starts six times."""

import tempfile

from absl.testing import absltest

from tests.faults import run_kills, sites

# A strike that comes too late, on whatever machine, is made again.
STRIKES = (("kill", "steps"), ("term", "steps"), ("kill", "save"), ("interrupt", "validation"))


class RunKillsTest(absltest.TestCase):
  def test_a_run_that_is_killed_and_asked_to_end_ends_as_one_left_alone(self):
    site = sites.make_site(self.enterContext(tempfile.TemporaryDirectory()), "toy")
    kinds, phases = zip(*STRIKES)
    found = run_kills.strike_runs(site, kinds, phases=phases, title="toy")
    self.assertEqual(found["wrong"], [])
    self.assertEqual(found["struck"], len(STRIKES))
    self.assertGreater(found["runs"], 0)


if __name__ == "__main__":
  absltest.main()
