"""What is measured: task, batch, image size, precision and network; and the paper's config at that size."""

import dataclasses

DENSENET121 = (6, 12, 24, 16)
LEVELS = ("c1", "c2", "c3", "c4", "c5")
BANDS = 6
LEARNING_RATE, WEIGHT_DECAY, EPSILON = 1e-4, 1e-4, 1e-7
STAGES = {"task1": "coarse", "task2": "fine"}


@dataclasses.dataclass(frozen=True)
class Case:
  """One row of the comparison; plain values, so that it travels as JSON."""

  task: str  # "task1": the teacher, BCE. "task2": MineC2FNet beside its frozen teacher.
  batch: int  # Images; 0 = the largest that fits, found by doubling.
  size: int  # Pixels.
  precision: str = "float32"  # or "bfloat16": of features; parameters, statistics and losses stay float32.
  device: str = "cpu"
  parts: tuple[str, ...] = ("train", "infer")  # and "epoch", "start"
  peers: tuple[str, ...] = ("ours", "torch")
  blocks: tuple[int, ...] = DENSENET121
  levels: tuple[str, ...] = LEVELS  # Where the teacher's features are injected.
  images: int = 0  # Of an epoch.
  validation_images: int = 0

  @property
  def name(self) -> str:
    return f"{self.task}-b{self.batch or 'max'}-{self.size}-{self.precision}"


def from_json(values: dict) -> Case:
  return Case(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def make_config(case: Case):
  """The paper's config for this case, without warm-up and early stopping: one epoch is as good as another.

  Warm-up would also write the length of an epoch into the compiled step.
  """
  from configs import fine_hybrid

  config = fine_hybrid.get_config()
  config.data.update(dict(image_size=case.size, batch_size=max(case.batch, 1), sensor="reflectance_x10000"))
  config.model.encoder.block_sizes = case.blocks
  config.model.fusion.levels = case.levels
  config.model.dtype = case.precision
  rules = dict(warmup_epochs=0, stop_patience=10_000)
  config.optimizer.update(dict(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, **rules))
  return config


def choose(device: str, quick: bool) -> list[Case]:
  """The cases of a device, the most telling ones first."""
  if quick:
    return _quick(device)
  return _cpu() if device == "cpu" else _gpu()


def _quick(device: str) -> list[Case]:
  parts = ("train", "infer", "epoch", "start")
  small = dict(batch=2, size=64, device=device, blocks=(1, 1, 1, 1), levels=("c5",), images=4, validation_images=2)
  return [
    Case("task2", peers=("ours", "torch"), parts=parts, **small),
    Case("task1", peers=("ours", "torch", "keras"), parts=("train",), **small),
  ]


def _cpu() -> list[Case]:
  """torch.compile at one case alone: here it compiles for minutes, for Task 2 so long as all other cases take."""
  parts = ("train", "infer", "start")
  return [
    Case("task2", 4, 256, peers=("ours", "torch", "keras"), parts=(*parts, "epoch"), images=16, validation_images=8),
    Case("task1", 4, 256, peers=("ours", "torch", "torch-compile", "keras"), parts=parts),
    Case("task2", 8, 128),
    Case("task1", 8, 128),
    Case("task2", 1, 512),
    Case("task1", 1, 512),
  ]


def _gpu() -> list[Case]:
  """Epochs have the paper's number of images, in whole batches."""
  full = ("ours", "torch", "torch-compile", "torch-graphs", "keras")
  lean = ("ours", "torch", "torch-compile")
  first = []
  for task, images, validation in (("task2", 152, 24), ("task1", 960, 136)):
    parts = ("train", "infer", "epoch", "start")
    more = dict(device="gpu", parts=parts, peers=full, images=images, validation_images=validation)
    first.append(Case(task, 8, 256, "bfloat16", **more))
  rest = []
  for precision in ("bfloat16", "float32"):
    for size in (256, 128, 512):
      for batch in (8, 32, 0):
        for task in ("task2", "task1"):
          rest.append(Case(task, batch, size, precision, device="gpu", peers=lean))
  return first + [case for case in rest if case.name not in {known.name for known in first}]
