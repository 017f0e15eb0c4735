"""Table 1: MineC2FNet beside other systems, on RGB+NIR+SWIR.

Trained are the rows whose method is here; the others show what the paper prints. --config.rows.prithvi.trained=False
leaves a row out. The last two rows are not the paper's. --config.base.fine.epochs=20 does not reach Replay's model of
the fine set; --config.rows.replay.overrides.selector.epochs=20 does. Pretrained weights are given by network:
  --config.base.pretrained=DENSENET                    for FPN and MineC2FNet
  --config.rows.prithvi.overrides.pretrained=PRITHVI   without it, Prithvi's row is a ViT that starts at random
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import suites
from configs.baselines import finetune, lwf, lwm, prithvi, replay

# Label -> accuracy, mF1, mIoU; in the paper's order, of which each part is a group of methods.
_BEFORE = {"unet": ("U-Net", 89.79, 79.52, 67.26), "deeplabv3plus": ("DeepLabV3+", 90.01, 79.57, 67.47)}
_ADAPTING = {"udaforrs": ("UDAforRS", 75.16, 72.42, 57.49), "bus": ("BUS", 60.22, 59.21, 42.35)}
_INCREMENTAL = {
  "sppa": ("SPPA", 54.68, 48.32, 31.85),
  "ccda": ("CCDA", 78.90, 72.90, 57.00),
  "mdil_ss": ("MDIL-SS", 88.62, 85.36, 71.99),
  "gsmf_rs_dil": ("GSMF-RS-DIL", 88.83, 85.02, 71.25),
}


def get_config(arg: str = "") -> ConfigDict:
  """Rows "unet" to "finetune"."""
  row = lambda label, *overrides, **paper: suites.make_row(label, *overrides, **paper)
  printed = lambda rows: {
    name: suites.make_row(label, accuracy=accuracy, mf1=mf1, miou=miou, trained=False)
    for name, (label, accuracy, mf1, miou) in rows.items()
  }
  rows = dict(
    **printed(_BEFORE),
    fpn=row("FPN", suites.FINE_ONLY, accuracy=90.65, mf1=80.06, miou=68.26),
    prithvi=row("Prithvi", _prithvi(arg), accuracy=66.14, mf1=66.21, miou=49.74),
    **printed(_ADAPTING),
    lwf=row("LwF", lwf.OVERRIDES, accuracy=90.22, mf1=78.94, miou=67.02),
    lwm=row("LwM", lwm.OVERRIDES, accuracy=90.60, mf1=79.36, miou=67.43),
    replay=row("Replay", _replay(arg), accuracy=88.81, mf1=76.50, miou=63.61),
    **printed(_INCREMENTAL),
    minec2fnet=row("MineC2FNet", accuracy=92.33, mf1=84.10, miou=73.64),
    coarse=row("Coarse alone", suites.COARSE_ONLY),
    finetune=row("Coarse, then fine", finetune.OVERRIDES),
  )
  return suites.make_suite("Table 1: MineC2FNet and other systems (RGB+NIR+SWIR)", rows, arg)


def _replay(arg: str) -> dict:
  """What configs/baselines/replay.py states otherwise than the base."""
  return {**replay.OVERRIDES, "selector": replay.get_config(arg).selector.to_dict()}


def _prithvi(arg: str) -> dict:
  """What configs/baselines/prithvi.py states otherwise than the base."""
  config = prithvi.get_config(arg)
  optimizer = {name: config.optimizer[name] for name in ("plateau_patience", "stop_patience")} if arg == "demo" else {}
  own = {"pretrained": placeholder(str), "pretrained_adapter": "inflate", "pretrained_sha256": placeholder(str)}
  return {**suites.FINE_ONLY, **own, "model": config.model, "optimizer": optimizer}
