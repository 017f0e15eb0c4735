"""What `datasets.chips` says at its end: what became of the polygons, and what to do next."""

import collections
import pathlib
import shlex
from collections.abc import Sequence

from datasets import chip_records
from minec2f_jax import console
from minec2f_jax.data import chips, sensors, splits
from minec2f_jax.errors import UserError

FILTERED_KM2 = 9.8  # What mining_coarse/fine_filtered, its default, takes; the builder itself would load TFDS.


def say_counts(output: pathlib.Path, outcomes: Sequence[chips.Outcome], busy_s: float):
  """Says how many chips there are, and why others are not."""
  made, refused = _made(outcomes), [outcome for outcome in outcomes if not outcome.hashes]
  kept = sum(outcome.reused for outcome in made)
  counts = collections.Counter(outcome.row["split"] for outcome in made)
  shares = ", ".join(f"{split} {counts[split]}" for split in splits.SHARES)
  console.say(f"chips: {len(made)} ({shares}), {kept} of them from an earlier run, {console.duration(busy_s)} in all")
  if refused:
    console.say(f"quarantine: {len(refused)} polygons ({_kinds(refused)}), see {output / 'quarantine.csv'}")
  lacking = [split for split in splits.SHARES if not counts[split]]
  if made and lacking:
    console.say(f"no chip in {', '.join(lacking)}: lower --block_km, or add imagery of other places")


def say_next(output: pathlib.Path, outcomes: Sequence[chips.Outcome], *, domain: str, roles: Sequence[str]):
  """Says which commands take the set.

  Raises:
    UserError: there is no chip in it.
  """
  made = _made(outcomes)
  if not made:
    raise UserError(f"no chip could be made ({_kinds(outcomes)}); the reasons are in {output / 'quarantine.csv'}")
  place = shlex.quote(str(output))
  console.say(f"look at {output / 'contact_sheet.png'}")
  dataset = dataset_of(domain, roles, max(float(outcome.row["area_km2"]) for outcome in made))
  if dataset:
    console.say(f"pack them: python -m datasets.prepare --dataset={dataset} --manual_dir={place}")
  bands = "" if set(roles) == set(sensors.ROLES) else f' --config.data.bands="{tuple(roles)}"'
  console.say(f"or train at once: --config.data.{domain}.path={place}{bands}")


def dataset_of(domain: str, roles: Sequence[str], largest_km2: float) -> str:
  """The value of `datasets.prepare --dataset` that takes chips of these bands, "" where none does.

  Args:
    domain: "coarse" or "fine".
    roles: bands of the chips.
    largest_km2: area of the largest polygon; the paper's choice of coarse chips has a least one.
  """
  fitting = [name for name, bands in chip_records.BANDS.items() if set(bands) == set(roles)]
  if not fitting:
    return ""
  config = "" if fitting[0] == "rgb_nir_swir" else fitting[0]
  if domain == "coarse" and (config or largest_km2 < FILTERED_KM2):
    selection = "fine_filtered" if largest_km2 >= FILTERED_KM2 else "full"
    config = f"{selection}-{config}" if config else selection
  return f"mining_{domain}/{config}" if config else f"mining_{domain}"


def _made(outcomes):
  return [outcome for outcome in outcomes if outcome.hashes]


def _kinds(refused):
  kinds = collections.Counter(outcome.reasons[0][1].partition(":")[0] for outcome in refused)
  return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
