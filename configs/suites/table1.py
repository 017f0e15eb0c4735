"""Table 1: MineC2FNet beside other systems, on RGB+NIR+SWIR.

--config.rows.prithvi.trained=False leaves a row out. The last four rows are not the paper's. Stages that a row has for
itself have their own fields: --config.base.fine.epochs=20 reaches neither Replay's model of the fine set
(--config.rows.replay.overrides.selector.epochs=20 does) nor SPPA's projector
(--config.rows.sppa.overrides.projector.epochs=20). Pretrained weights are given by network:
  --config.base.pretrained=DENSENET                    for all but Prithvi
  --config.rows.prithvi.overrides.pretrained=PRITHVI   without it, Prithvi's row is a ViT that starts at random
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import suites
from configs.baselines import (
  bus,
  ccda,
  ccda_sup,
  deeplabv3plus,
  finetune,
  gsmf_rs_dil,
  lwf,
  lwm,
  mdil_ss,
  prithvi,
  replay,
  sppa,
  udaforrs,
  unet,
)


def get_config(arg: str = "") -> ConfigDict:
  """Rows "unet" to "finetune"."""
  row = lambda label, *overrides, **paper: suites.make_row(label, *overrides, **paper)
  rows = dict(
    unet=row("U-Net", _network(unet, arg), accuracy=89.79, mf1=79.52, miou=67.26),
    deeplabv3plus=row("DeepLabV3+", _network(deeplabv3plus, arg), accuracy=90.01, mf1=79.57, miou=67.47),
    fpn=row("FPN", suites.FINE_ONLY, accuracy=90.65, mf1=80.06, miou=68.26),
    prithvi=row("Prithvi", _prithvi(arg), accuracy=66.14, mf1=66.21, miou=49.74),
    udaforrs=row("UDAforRS", udaforrs.OVERRIDES, accuracy=75.16, mf1=72.42, miou=57.49),
    bus=row("BUS", bus.get_overrides(arg), accuracy=60.22, mf1=59.21, miou=42.35),
    lwf=row("LwF", lwf.OVERRIDES, accuracy=90.22, mf1=78.94, miou=67.02),
    lwm=row("LwM", lwm.OVERRIDES, accuracy=90.60, mf1=79.36, miou=67.43),
    replay=row("Replay", _replay(arg), accuracy=88.81, mf1=76.50, miou=63.61),
    sppa=row("SPPA", sppa.get_overrides(arg), accuracy=54.68, mf1=48.32, miou=31.85),
    ccda=row("CCDA", ccda.OVERRIDES, accuracy=78.90, mf1=72.90, miou=57.00),
    mdil_ss=row("MDIL-SS", mdil_ss.OVERRIDES, accuracy=88.62, mf1=85.36, miou=71.99),
    gsmf_rs_dil=row("GSMF-RS-DIL", _gsmf_rs_dil(arg), accuracy=88.83, mf1=85.02, miou=71.25),
    minec2fnet=row("MineC2FNet", accuracy=92.33, mf1=84.10, miou=73.64),
    minec2fnet_from_teacher=row("MineC2FNet, student from the teacher", {"fine": {"init_from_prior": True}}),
    ccda_sup=row("CCDA, with fine labels", ccda_sup.OVERRIDES),
    coarse=row("Coarse alone", suites.COARSE_ONLY),
    finetune=row("Coarse, then fine", finetune.OVERRIDES),
  )
  return suites.make_suite("Table 1: MineC2FNet and other systems (RGB+NIR+SWIR)", rows, arg)


def _network(baseline, arg: str) -> dict:
  """The network of a config in configs/baselines/ that differs from FPN's in it alone."""
  return {**suites.FINE_ONLY, "model": baseline.get_config(arg).model}


def _gsmf_rs_dil(arg: str) -> dict:
  """What configs/baselines/gsmf_rs_dil.py states otherwise than the base."""
  config = gsmf_rs_dil.get_config(arg)
  return {name: config[name] for name in (*gsmf_rs_dil.OVERRIDES, "model")}


def _replay(arg: str) -> dict:
  """What configs/baselines/replay.py states otherwise than the base."""
  return {**replay.OVERRIDES, "selector": replay.get_config(arg).selector.to_dict()}


def _prithvi(arg: str) -> dict:
  """What configs/baselines/prithvi.py states otherwise than the base."""
  config = prithvi.get_config(arg)
  optimizer = {name: config.optimizer[name] for name in ("plateau_patience", "stop_patience")} if arg == "demo" else {}
  own = {"pretrained": placeholder(str), "pretrained_adapter": "inflate", "pretrained_sha256": placeholder(str)}
  return {**suites.FINE_ONLY, **own, "model": config.model, "optimizer": optimizer}
