"""TFDS builders, one folder a dataset. Not installed: the name would shadow another package called `datasets`."""
