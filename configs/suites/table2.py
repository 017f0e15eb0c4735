"""Table 2: the teacher and the student on the coarse test set, whose labels are coarse.

The student, which has learned finer outlines, is expected to agree less with them. --config.rows.*.domain=fine scores
the same runs on the fine test set.
"""

from ml_collections import ConfigDict

from configs import suites


def get_config(arg: str = "") -> ConfigDict:
  """Rows "coarse" and "minec2fnet", which share the teacher."""
  row = lambda label, *overrides, **paper: suites.make_row(label, *overrides, domain="coarse", **paper)
  rows = dict(
    coarse=row("Coarse baseline", suites.COARSE_ONLY, accuracy=87.33, mf1=83.31, miou=72.49),
    minec2fnet=row("MineC2FNet", accuracy=76.81, mf1=56.12, miou=44.29),
  )
  return suites.make_suite("Table 2: on the coarse test set", rows, arg)
