"""Flags of launch.py's modes that use a trained run: maps, polygons, areas, and models for other programs."""

from typing import Any, NamedTuple

from absl import flags

_TEXT, _WHOLE, _NUMBER = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float


class Takes(NamedTuple):
  """What a mode takes beside --config and --compilation_cache."""

  needed: tuple[str, ...]
  optional: tuple[str, ...] = ()


# The flags bear the names of the arguments that they become, see `experiment.map_modes`.
MODES = {
  "predict": Takes(("checkpoint", "input", "output"), ("tile", "overlap", "tta", "threshold", "pixel_size_m", "dtype")),
  "vectorize": Takes(
    ("input", "output"), ("min_area_m2", "fill_holes_m2", "simplify_m", "boundaries", "compare", "formats")
  ),
  "quicklook": Takes(("input", "output"), ("scene",)),
  "sample": Takes(("input", "output"), ("sample_points", "sample_seed")),
  "area": Takes(("input", "reference"), ("output",)),
  "export": Takes(("checkpoint", "output"), ("platforms",)),
}

_TEXT(
  "checkpoint",
  None,
  "For predict and export: the workdir of a run, whose last stage is meant; for predict also the folder of a stage in "
  "it.",
)
flags.DEFINE_multi_string(
  "input",
  None,
  "For predict: a scene's GeoTIFF, its single bands' (the flag once for each), or a folder of scenes. For vectorize: "
  "maps, or a folder of maps. For quicklook, sample and area: a map. A map is a folder that predict wrote, or a mask's "
  "GeoTIFF.",
)
_WHOLE("tile", None, "For predict: pixels a side of what the network sees at once; default: as in training.")
_WHOLE("overlap", None, "For predict: pixels that neighbouring tiles share; default: half a tile.")
flags.DEFINE_bool("tta", None, "For predict: the mean over the eight symmetries of a square, for eight times the work.")
_NUMBER("threshold", None, "For predict: probability above which a pixel is a mine; default: 0.5.")
_NUMBER("pixel_size_m", None, "For predict: size of the pixels that the network sees; default: as in training.")
flags.DEFINE_enum("dtype", None, ["uint16", "uint8"], "For predict: of stored probabilities; default: uint16.")
_NUMBER("min_area_m2", None, "For vectorize: smaller mines are left out.")
_NUMBER("fill_holes_m2", None, "For vectorize: smaller holes are filled.")
_NUMBER("simplify_m", None, "For vectorize: outlines may move by about so much where that saves corners.")
_TEXT("boundaries", None, "For vectorize: vector file of countries (ISO3_CODE, COUNTRY_NAME).")
_TEXT("compare", None, "For vectorize: an earlier map of the same place, or its mines' vector file.")
_TEXT("scene", None, "For quicklook: the scene's GeoTIFF, to be shown under the outlines.")
_WHOLE("sample_points", None, "For sample: how many points are drawn; default: as many as the accuracy wanted needs.")
_WHOLE("sample_seed", None, "For sample: another seed, other points.")
_TEXT("reference", None, "For area: the sample with its labels (CSV or vector file).")
flags.DEFINE_list("formats", None, "For vectorize: among gpkg, geojson, parquet; default: all three.")
flags.DEFINE_list("platforms", None, "For export: what the program may run on, cpu among them; default: cpu,cuda.")
_SHARED = ("output",)  # Also for modes that launch.py itself knows.


def given(mode: str) -> dict[str, Any]:
  """The flags of `mode` that the command line sets, by name."""
  takes = MODES[mode]
  values = {name: flags.FLAGS[name].value for name in (*takes.needed, *takes.optional)}
  return {name: value for name, value in values.items() if value is not None}


def fault(mode: str) -> str:
  """What is wrong with the flags that are set, in one sentence; "" if nothing is."""
  takes = MODES.get(mode, Takes(()))
  known = {name for one in MODES.values() for name in (*one.needed, *one.optional)} - set(_SHARED)
  for name in sorted(known):
    if flags.FLAGS[name].present and name not in (*takes.needed, *takes.optional):
      modes = " and ".join(other for other, one in MODES.items() if name in (*one.needed, *one.optional))
      return f"--{name} is for --mode={modes}; leave it out with --mode={mode}."
  for name in takes.needed:
    if not flags.FLAGS[name].value:
      told, _, _ = flags.FLAGS[name].help.partition(";\n")  # What absl adds.
      return f"--mode={mode} needs --{name}. {told}"
  return ""
