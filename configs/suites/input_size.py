"""Table 4 of the supplement: the size of the input, fine and coarse set each by itself (its test rows).

Bands are not stated. The row "fine, 256" prints the numbers of the plain RGB+NIR network of Tables 3 to 5 (89.00,
75.39, 62.35), so RGB+NIR here, and its "F1 score" is their mF1. Images are resized to the input as a whole; the rows
with patches of 128 pixels, cut from images at their own size, are shown as printed: chips are not cut into patches
here. The demo's chips have 128 pixels, and its sizes are half as large.
"""

from ml_collections import ConfigDict

from configs import suites

_PRINTED = {  # (domain, size, patches) -> accuracy, mF1, mIoU
  ("fine", 128, False): (86.92, 68.08, 54.59),
  ("fine", 128, True): (84.47, 53.73, 43.15),
  ("fine", 256, False): (89.00, 75.39, 62.35),
  ("fine", 512, False): (90.25, 75.96, 63.91),
  ("coarse", 128, False): (87.78, 83.58, 72.85),
  ("coarse", 128, True): (72.41, 63.66, 50.89),
  ("coarse", 256, False): (88.11, 84.38, 74.02),
  ("coarse", 512, False): (87.56, 83.36, 72.76),
}
_STAGE = {"fine": suites.FINE_ONLY, "coarse": suites.COARSE_ONLY}


def get_config(arg: str = "") -> ConfigDict:
  """Rows "fine_128" to "coarse_512"."""
  rows = {
    f"{domain}_{size}" + ("_patches" if patches else ""): _row(domain, size, patches, scores, demo=arg == "demo")
    for (domain, size, patches), scores in _PRINTED.items()
  }
  return suites.make_suite("Table 4 of the supplement: input size", rows, arg)


def _row(domain: str, size: int, patches: bool, scores: tuple[float, float, float], *, demo: bool) -> ConfigDict:
  ours = size // 2 if demo else size
  label = f"{size}" + (", patches" if patches else "") + (f" (ours: {ours})" if demo and not patches else "")
  return suites.make_row(
    label,
    _STAGE[domain],
    {"data": {"bands": suites.RGB_NIR, "image_size": ours}},
    **dict(zip(("accuracy", "mf1", "miou"), scores)),
    domain=domain,
    table=f"Table 4 of the supplement: input size, {domain} set (FPN, RGB+NIR)",
    trained=not patches,
  )
