"""The worked example of docs/data.md, from synthetic scenes to a data set: every command of it runs."""

import csv
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from minec2f_jax.data import geotiff, polygons

ROOT = pathlib.Path(__file__).resolve().parents[1]


def commands():
  """The commands of the first block of shell in docs/data.md, continuation lines joined, without launch.py."""
  block = re.search(r"```sh\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)[1]
  lines = [line.partition("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
  return [line for line in lines if line]


class WorkedExampleTest(parameterized.TestCase):
  def test_each_command_does_what_the_text_says(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = {}
    for line in commands():
      program, *arguments = shlex.split(line)
      self.assertEqual(program, "python")
      if arguments[0] == "launch.py":
        continue  # Trained in the tests of the experiment.
      result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
      )
      self.assertEqual(result.returncode, 0, f"{line}\n{result.stderr}")
      said[arguments[1]] = result.stdout
    coarse, fine = (
      [row["split"] for row in csv.DictReader((folder / "try" / name / "index.csv").open())]
      for name in ("coarse", "fine")
    )
    self.assertEqual((len(coarse), len(fine)), (8, 4))
    self.assertEqual({*coarse}, {"train", "validation", "test"})
    self.assertEqual({*fine}, {"train", "validation", "test"})
    self.assertTrue((folder / "try" / "shift" / "shift.png").is_file())
    self.assertIn("--config.data.fine.path=", said["datasets.prepare"])
    exact = polygons.read_polygons(folder / "try" / "fine.geojson").polygons
    label, _ = geotiff.read_mask(folder / "try" / "fine" / "masks" / f"{exact[0].id}.tif")
    # Pixels of 10 m, against the area on the ellipsoid; a hundredth covers the scale of UTM.
    self.assertAlmostEqual(label.sum() * 1e-4, exact[0].area_km2, delta=0.01 * exact[0].area_km2)


if __name__ == "__main__":
  absltest.main()
