"""What the paper does not state: learning rate, temperature, and where features are injected. MineC2FNet, all bands.

Compare the column of validation scores, not the test's: choices made on the test set make it say too much. Rows of the
second and third table take the base's learning rate (--config.base.optimizer.learning_rate), those of the first one's
Task 1, too, has the row's.
"""

from ml_collections import ConfigDict

from configs import suites

_LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
_LEVELS = ("c1", "c2", "c3", "c4", "c5")
_FUSION_LEVELS = (("c5",), ("c4", "c5"), ("c3", "c4", "c5"), _LEVELS, (*_LEVELS, "decoder"))


def get_config(arg: str = "") -> ConfigDict:
  """Rows "learning_rate_1" to "learning_rate_4", "temperature_...", "levels_..."."""
  tables = {
    "learning rate": [(f"{value:g}", {"optimizer": {"learning_rate": value}}) for value in _LEARNING_RATES],
    "temperature": [(f"{value:g}", {"distillation": {"temperature": value}}) for value in _TEMPERATURES],
    "levels": [(", ".join(levels), {"model": {"fusion": {"levels": levels}}}) for levels in _FUSION_LEVELS],
  }
  rows = {
    f"{title.replace(' ', '_')}_{number}": suites.make_row(label, overrides, table=f"MineC2FNet by {title}")
    for title, choices in tables.items()
    for number, (label, overrides) in enumerate(choices, start=1)
  }
  return suites.make_suite("What the paper does not state", rows, arg)
