"""Synthetic mines for demonstrations and tests; see README.md."""


def prepare(data_dir) -> dict[str, str]:
  """Returns the prepared folders, {"coarse": ..., "fine": ...}; makes what is not there yet."""
  # Imported here: TFDS is slow to load, and the landscapes do without it.
  from datasets.mining_demo import mining_demo_dataset_builder

  return mining_demo_dataset_builder.prepare(data_dir)
