"""Two thousand broken and lying GeoTIFFs, read in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[1]


class HostileTest(absltest.TestCase):
  def test_each_mutant_reads_or_raises_the_one_error_and_nothing_crashes_hangs_or_swells(self):
    with tempfile.TemporaryDirectory() as folder:
      result = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "2000", folder],
        cwd=ROOT,
        env={**os.environ, "CPL_LOG": os.devnull},
        capture_output=True,
        text=True,
        timeout=300,
      )
    self.assertEqual(result.returncode, 0, result.stderr[-2000:])  # A crash of the interpreter is a negative one.
    report = json.loads(result.stdout)
    self.assertEqual(report["files"], 2000)
    self.assertEqual(report["strange"], [])
    self.assertLess(report["slowest_s"], 5.0)
    self.assertLess(report["rss_mib"], 1024)
    for kind in ("cut", "bits", "header", "lie", "splice", "vrt", "bomb"):
      self.assertGreater(report["told"].get(f"{kind} refused", 0), 0, f"no mutant of kind {kind} was refused")
    self.assertNotIn("vrt read", report["told"])


if __name__ == "__main__":
  absltest.main()
