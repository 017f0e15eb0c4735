"""Dealing places to train, validation and test."""

import hashlib
from collections.abc import Mapping, Sequence

SHARES = {"train": 70, "validation": 10, "test": 20}  # Percent of chips; the paper's 70:10:20.


def deal_groups(sizes: Mapping[str, int], fixed: Mapping[str, str], *, missing: Sequence[str]):
  """Group -> split: whole groups dealt towards 70/10/20 % of chips, without a random state.

  In the order of the SHA-256 of its name, each group goes to the split that lacks the largest part
  of its share and has room for the group, else to train; the last groups go to splits still empty.
  So the outcome depends on the groups and their sizes alone, not on the order of rows, and three
  groups suffice for three splits.

  Args:
    sizes: group -> number of chips.
    fixed: group -> split that is settled; groups outside `sizes` are ignored.
    missing: the held-out splits to deal, out of "validation" and "test"; the rest is train.
  """
  splits = {group: fixed[group] for group in sizes if group in fixed}
  total = sum(sizes.values())
  lacking = {s: SHARES[s] * total for s in ("train", *missing)}  # In hundredths of a chip.
  for group, split in splits.items():
    if split in lacking:
      lacking[split] -= 100 * sizes[group]
  free = sorted((g for g in sizes if g not in splits), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
  for position, group in enumerate(free):
    choices = [s for s in lacking if s not in splits.values()]
    if len(free) - position > len(choices):
      choices = [s for s in lacking if lacking[s] >= 100 * sizes[group]] or ["train"]
    splits[group] = max(choices, key=lambda split: lacking[split] / SHARES[split])
    lacking[splits[group]] -= 100 * sizes[group]
  return splits
