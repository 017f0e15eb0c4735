"""What the fields of a config may hold, in the words of somebody who has not seen `experiment.schema`."""

ROLES = ("blue", "green", "red", "nir", "swir1", "swir2")
SCORES = ("accuracy", "iou_background", "iou_mine", "miou", "f1_background", "f1_mine", "mf1", "precision_mine",
          "recall_mine", "image_iou_mine", "image_f1_mine", "image_miou")  # fmt: skip
TEXTS = {
  "monitor": SCORES,
  "data.sensor": ("auto", "reflectance", "hls"),
  "validation": ("coarse", "fine"),
  "dice_kind": ("soft", "generalized"),
  "dice_reduce": ("batch", "image"),
  "ssim_kind": ("ssim", "ssl"),
  "selection": ("none", "standard", "image", "pixel", "hybrid"),
  "normalizer": ("selected", "all"),
  "tap": ("conv", "norm"),
  "merge": ("concat", "sum"),
  "gate": ("convex", "gscnn", "none"),
  "gate_channels": ("full", "one"),
  "dtype": ("auto", "float32", "bfloat16"),
}
# Surely a use, surely none: (low, high) of the first, (low, high) beyond which the second begins.
WHOLE = {
  "seed": ((0, 10**9), (0, 2**32 - 1)),
  "epochs": ((20, 10**4), (1, 10**7)),
  "warmup_epochs": ((0, 5), (0, 20)),
  "plateau_patience": ((1, 100), (1, 10**7)),
  "stop_patience": ((1, 100), (1, 10**7)),
  "image_size": ((24, 64), (11, 10**5)),
  "batch_size": ((1, 64), (1, 10**6)),
  "read_threads": ((0, 64), (0, 10**5)),
  "refinement_steps": ((0, 3), (0, 1000)),
  "depth": ((1, 3), (1, 1000)),
  "mlp_ratio": ((1, 4), (1, 1000)),
  "bottleneck": ((1, 4), (1, 1000)),
  **dict.fromkeys(
    ("growth_rate", "stem_features", "pyramid_features", "segmentation_features", "cbam_reduction", "features"),
    ((1, 64), (1, 10**5)),
  ),
}
REAL = {
  "compression": ((0.5, 1), (1e-3, 1)),
  "learning_rate": ((1e-6, 1.0), (1e-40, 1e3)),
  "weight_decay": ((0, 1), (0, 1e3)),
  "clip_norm": ((0.01, 100), (0, 1e9)),
  "plateau_factor": ((0.01, 0.99), (1e-9, 1 - 1e-9)),
  "plateau_min_delta": ((0, 0.1), (0, 1)),
  "checkpoint_minutes": ((1, 600), (0.01, 1e5)),
  "cache_gb": ((0, 1000), (0, 1e9)),
  "device_gb": ((0, 1000), (0, 1e9)),
  "shift_limit": ((0, 0.9), (0, 1)),
  "scale_limit": ((0, 0.9), (0, 1 - 1e-9)),
  "rotate_limit_deg": ((0, 180), (0, 180)),
  "temperature": ((0.1, 100), (1e-40, 1e9)),
  "dropout": ((0, 0.9), (0, 1 - 1e-9)),
  "bn_momentum": ((0, 0.999), (0, 1 - 1e-9)),
  "data.mean": ((0, 1), (-0.2, 2)),
  "data.std": ((0.01, 1), (1e-40, 2)),
  "weight": ((0.01, 100), (1e-40, 1e9)),
  **dict.fromkeys(("hflip", "vflip", "rot90", "shift_scale_rotate"), ((0, 1), (0, 1))),
  **dict.fromkeys(("epsilon", "bn_epsilon", "norm_epsilon"), ((1e-9, 1e-2), (1e-40, 1))),
  **dict.fromkeys(("bce", "dice", "ssim", "boundary"), ((0.01, 100), (0, 1e9))),
}


def may_hold(path, value, plain) -> bool | None:
  """Whether a field of a config may hold a value, all else being as it is; None where that is a matter of taste."""
  name, stages = path[-1], plain["stages"]
  for key in (name, ".".join(path), ".".join(path[:2])):
    if key in TEXTS:
      return isinstance(value, str) and value in TEXTS[key]
    if key in WHOLE or key in REAL:
      return _may_count(path, value, plain, *(WHOLE[key] if key in WHOLE else REAL[key]), whole=key in WHOLE)
  if name in ("cbam", "cbam_spatial_bn", "zero_init"):
    return isinstance(value, bool)
  if name == "data_dir":
    return _is_text(value)
  if path == ("pretrained",):
    return value is None or _is_text(value)
  if name == "path":  # There is no such data set.
    return value is None
  return CONTEXT[name](path, value, plain, stages)


def _may_count(path, value, plain, sure, limits, *, whole: bool) -> bool | None:
  if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
    return False
  if not limits[0] <= value <= limits[1]:
    if path[-1] == "image_size" and value > 0 and "fine" not in plain["stages"]:
      return None  # No SSIM, no window.
    return _is_idle_weight(path, plain) if value == 0 and path[-1] == "weight" else False
  if value == 0 and path[-2:-1] == ("loss",):
    others = [plain[path[0]]["loss"][part] for part in ("bce", "dice", "ssim", "boundary") if part != path[-1]]
    return True if any(others) or path[0] not in plain["stages"] else False if path[0] == "coarse" else None
  return True if sure[0] <= value <= sure[1] else None


def _is_idle_weight(path, plain) -> bool | None:
  distils = "fine" in plain["stages"] and plain["fine"]["method"] != "supervised"
  return False if distils and plain["distillation"]["selection"] != "none" else None


def _may_name(path, value, choices, least: int = 0) -> bool:
  named = isinstance(value, tuple | list) and all(isinstance(x, str) and x in choices for x in value)
  return named and len(set(value)) == len(value) >= least


def _is_text(value) -> bool:
  return isinstance(value, str) and value.strip() != ""


def _may_teach(path, value, plain, stages):
  if isinstance(value, str) and value in (".", "data"):  # That there are.
    return "fine" in stages
  return value is None


def _may_be_hash(path, value, plain, stages):
  return value is None or _is_text(value) and plain["pretrained"] is not None


def _may_adapt(path, value, plain, stages):
  if not isinstance(value, str) or value not in ("inflate", "conv1x1", "scratch"):
    return False
  return plain["pretrained"] is None or (value == "conv1x1") == plain["model"]["encoder"]["input_adapter"]


def _may_be_adapted(path, value, plain, stages):
  if not isinstance(value, bool):
    return False
  return plain["pretrained"] is None or (plain["pretrained_adapter"] == "conv1x1") == value


def _may_be_stages(path, value, plain, stages):
  # The other method needs a teacher, and nobody else comes before it.
  first = [["fine"], ["fine", "coarse"]] if plain["fine"]["method"] == "supervised" else []
  return isinstance(value, tuple | list) and list(value) in [["coarse"], ["coarse", "fine"], *first]


def _may_be_method(path, value, plain, stages):
  if not isinstance(value, str) or value not in ("supervised", "attentive_distillation"):
    return False
  if value == "supervised" or plain[path[0]]["method"] == value:
    return True
  return False if path[0] in stages else None


def _may_start(path, value, plain, stages):
  if value is not True:
    return value is False
  if path[0] not in stages:
    return None
  return path[0] == "fine" and "coarse" in stages


def _may_skip(path, value, plain, stages):
  if not isinstance(value, tuple | list) or not all(isinstance(x, str) and x.strip() for x in value):
    return False
  return not value or not plain["data"][path[1]]["builder"]


def _may_coarsen(path, value, plain, stages):
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  if path[1] == "fine" or value == 0 or plain["data"]["coarse"]["builder"]:
    return value == 0
  return True if 1 <= value <= 100 else None if 1e-6 < value < 1e4 else False


def _may_be_blocks(path, value, plain, stages):
  if not isinstance(value, tuple | list) or len(value) != 4:
    return False
  counts = [_may_count(path, x, plain, (1, 3), (1, 10**4), whole=True) for x in value]
  return False if False in counts else None if None in counts else True


def _may_be_width(path, value, plain, stages):
  if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**5 or value % 16:
    return False
  return value % plain["model"]["encoder"]["heads"] == 0


def _may_be_heads(path, value, plain, stages):
  if isinstance(value, bool) or not isinstance(value, int) or not 0 < value:
    return False
  return plain["model"]["encoder"]["width"] % value == 0


CONTEXT = {
  "teacher": _may_teach,
  "pretrained_sha256": _may_be_hash,
  "pretrained_adapter": _may_adapt,
  "input_adapter": _may_be_adapted,
  "stages": _may_be_stages,
  "bands": lambda path, value, *_: _may_name(path, value, ROLES, 1),
  "streams": lambda path, value, *_: _may_name(path, value, ("coarse", "fine"), 1) and len(value) == 1,
  "levels": lambda path, value, *_: _may_name(path, value, ("c1", "c2", "c3", "c4", "c5", "decoder")),
  "builder": lambda path, value, *_: isinstance(value, str) and value in ("", "mining_demo"),
  "architecture": lambda path, value, *_: isinstance(value, str) and value == "prithvi",
  "method": _may_be_method,
  "init_from_prior": _may_start,
  "skip": _may_skip,
  "coarsen_gsd_m": _may_coarsen,
  "block_sizes": _may_be_blocks,
  "width": _may_be_width,
  "heads": _may_be_heads,
}
