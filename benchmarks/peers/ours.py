"""minec2f_jax as a peer: the library's own stages, train step, predict function and trainer."""

import contextlib
import copy
import io
import os
import pathlib
import queue
import re
import tempfile
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import cases, chips
from minec2f_jax import experiment
from minec2f_jax.data import resident
from minec2f_jax.methods import Variables
from minec2f_jax.models import count_parameters
from minec2f_jax.training import state as state_lib
from minec2f_jax.training import step as step_lib
from minec2f_jax.training import trainer

_EPOCH = re.compile(r"\] epoch \d+/")  # In the line that the trainer ends each epoch with.


def describe() -> dict:
  device = jax.devices()[0]
  return {"device": "cpu" if device.platform == "cpu" else "gpu", "kind": device.device_kind, "jax": jax.__version__}


def make(case: cases.Case, variant: str) -> "Ours":
  del variant
  return Ours(case)


class Ours:
  """A stage of the library at one case, with its state and one batch on the device."""

  def __init__(self, case: cases.Case):
    self._case, self._config = case, cases.make_config(case)
    kept = experiment.programs_of(self._config, os.environ["JAX_COMPILATION_CACHE_DIR"] + "/programs")
    self._wired = experiment.wire(self._config, programs=kept)
    self._name = cases.STAGES[case.task]
    stage, self._prior = self._stage(self._name), None
    if case.task == "task2":
      self._prior = trainer.start(self._stage("coarse"), jax.random.key(0), None)
    variables = trainer.start(stage, jax.random.key(0), self._prior)
    self._parameters = count_parameters({"params": variables.trainable})["trainable"]
    self._frozen, self._epochs = variables.frozen, None
    self._state = _on_device(state_lib.init_state(variables, stage.optimizer))
    self._inputs = _on_device(jax.tree.map(lambda places: places[None], next(stage.feed.inputs(0))))  # Of one step.
    key = jax.random.key(0)
    with contextlib.redirect_stdout(io.StringIO()):
      self._steps = trainer.compile_steps(stage, self._state, self._frozen, self._inputs, key)
    train_steps = step_lib.make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
    self._lower = lambda: train_steps.lower(self._state, self._frozen, stage.feed.held, self._inputs, key)
    self._batch = jax.device_put(chips.batch(case.batch, case.size))

  def train(self, steps: int):
    for _ in range(steps):
      self._state, metrics = self._steps(self._state, self._inputs)
    jax.block_until_ready((self._state, metrics))

  def infer(self, steps: int):
    variables = Variables(self._state.trainable, self._frozen, self._state.extra)
    for _ in range(steps):
      logits = self._wired[self._name].predict(variables, self._batch)
    jax.block_until_ready(logits)

  def epoch(self) -> float:
    self._epochs = self._epochs or Epochs(self._case, self._config, self._wired, self._prior)
    return self._epochs.next()

  def parameters(self) -> int:
    return self._parameters

  def memory(self) -> dict:
    stats = jax.devices()[0].memory_stats() or {}
    return {"peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}

  def cost(self) -> dict:
    """What XLA counts of a train step: operations of the program as written, bytes of the compiled one."""
    lowered = self._lower()
    compiled = lowered.compile()  # It no longer shows the operations inside a library's kernels.
    memory = compiled.memory_analysis()
    return {
      "flops": _first(lowered.cost_analysis()).get("flops"),
      "bytes_accessed": _first(compiled.cost_analysis()).get("bytes accessed"),
      "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }

  def _stage(self, name: str) -> trainer.Stage:
    source = resident.hold(chips.Chips(self._case.batch, self._case.size))
    return experiment.make_stage(self._config, name, self._wired[name], source, source)


class Epochs:
  """The trainer at work on a folder of chips, held at the end of every epoch until the next one is asked for.

  Its data come by `experiment.open_sources`, so that whatever way of feeding the library chooses is what is timed.
  """

  def __init__(self, case: cases.Case, config, wired, prior):
    self._go, self._done = threading.Semaphore(0), queue.Queue()
    arguments = (case, copy.deepcopy(config), wired, prior)
    threading.Thread(target=self._run, args=arguments, daemon=True).start()

  def next(self) -> float:
    """Seconds of one more epoch; the first one also decodes the chips and compiles.

    They end with the last of the work: the checkpoint, which the trainer writes beside the next epoch, would otherwise
    go uncounted and slow down whoever's turn comes next.
    """
    began = time.perf_counter()
    self._go.release()
    if isinstance(outcome := self._done.get(), BaseException):
      raise outcome
    return _end_of_work() - began

  def _run(self, case: cases.Case, config, wired, prior):
    name = cases.STAGES[case.task]
    config[name].epochs, config.stages = 10_000, (name,)
    self._go.acquire()
    try:
      with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(_Gate(self._pause)):
        root = pathlib.Path(scratch)
        chips.write_folder(root / "chips", case.images, case.validation_images, case.size)
        config.data[name].path = str(root / "chips")
        sources = experiment.open_sources(config)
        splits = (sources[name, "train"], sources[name, "validation"])
        stage = experiment.make_stage(config, name, wired[name], *splits)
        trainer.run_stage(stage, jax.random.key(0), prior, root / name)
    except BaseException as error:
      self._done.put(error)

  def _pause(self):
    self._done.put(None)
    self._go.acquire()


class _Gate(io.TextIOBase):
  """A console that calls `pause` when the trainer has told of an epoch."""

  def __init__(self, pause):
    self._pause = pause

  def write(self, text: str) -> int:
    if _EPOCH.search(text):
      self._pause()
    return len(text)


def _end_of_work(look_s: float = 0.05) -> float:
  """Waits until this process does nothing any more; returns when that began."""
  while True:
    mark, used = time.perf_counter(), time.process_time()
    time.sleep(look_s)
    if time.process_time() - used < 0.1 * look_s:
      return mark


def ceilings() -> dict:
  """What the machine can do through XLA, {"matmul_PRECISION_flops_per_s", "copy_bytes_per_s"}: [median, best] each."""
  cpu = jax.default_backend() == "cpu"
  n, size = (2048, 2**28) if cpu else (8192, 2**31)
  found = {}
  for dtype in ("float32",) if cpu else ("float32", "bfloat16"):
    a, b = (jax.random.normal(key, (n, n)).astype(dtype) for key in jax.random.split(jax.random.key(0)))
    multiply = jax.jit(jnp.matmul)
    found[f"matmul_{dtype}_flops_per_s"] = _rates(2 * n**3, lambda: multiply(a, b))  # noqa: B023
  # In place: on a CPU, first touching the pages of a new array takes five times as long as filling them.
  scale, held = jax.jit(lambda x: x * 0.5, donate_argnums=0), [jnp.ones(size // 4)]

  def copy_array():
    held[0] = scale(held[0])
    return held[0]

  return {**found, "copy_bytes_per_s": _rates(2 * size, copy_array)}  # Read and written.


def _rates(amount: float, run, times: int = 20) -> list[float]:
  jax.block_until_ready(run())
  seconds = []
  for _ in range(times):
    began = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - began)
  return [amount / float(np.median(seconds)), amount / min(seconds)]


def _on_device(tree):
  return jax.device_put(tree, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def _first(analysis):
  """Some versions of JAX give one analysis a device."""
  return analysis[0] if isinstance(analysis, list) else analysis or {}
