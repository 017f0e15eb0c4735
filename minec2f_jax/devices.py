"""One batch over many devices: those of one process, or of several on different hosts.

The state lies whole on every device, the batch is cut along its first axis, and JAX's partitioner makes of the program
for one device the one for all. So statistics of batch normalisation, losses and random draws are those of the whole
batch, whatever the number of devices; only the order of sums differs.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from minec2f_jax.errors import UserError

PyTree = Any
_BATCH = "batch"


def join(coordinator_address: str, num_processes: int | None, process_id: int | None):
  """Makes this process one of several that train together; call it before anything asks for a device.

  Args:
    coordinator_address: "host:port" of the first process; "auto": a cluster (Slurm, Open MPI, Kubernetes, Cloud TPU)
      tells address, number and place.
    num_processes: how many there are.
    process_id: which this one is, from 0.

  Raises:
    UserError: they do not find each other.
  """
  jax.config.update("jax_enable_preemption_service", False)  # It would take the signals of `training.interrupt`.
  place = () if coordinator_address == "auto" else (coordinator_address, num_processes, process_id)
  try:
    # The others wait for the first one's report.
    jax.distributed.initialize(*place, shutdown_timeout_seconds=3600)
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f"--coordinator_address={coordinator_address}: the processes do not find each other "
      f"({' '.join(str(error).split())}); start all of them with the same address and number, each with its own "
      "--process_id"
    ) from error


def first_mesh() -> Mesh:
  """The first device of this process alone."""
  return Mesh(np.array(jax.local_devices()[:1]), (_BATCH,))


def make_mesh(batch_size: int) -> Mesh:
  """As many devices as can share a batch evenly, the same number of every process.

  Raises:
    UserError: the processes cannot.
  """
  processes = jax.process_count()
  if batch_size % processes:
    raise UserError(
      f"config.data.batch_size={batch_size}: {processes} processes cannot share a batch; give a multiple of {processes}"
    )
  share, of_each = batch_size // processes, jax.local_device_count()
  used = max(count for count in range(1, of_each + 1) if share % count == 0)
  devices = [[device for device in jax.devices() if device.process_index == i][:used] for i in range(processes)]
  return Mesh(np.array(devices).ravel(), (_BATCH,))


def describe(batch_size: int) -> str:
  """What a batch is trained on, for the console."""
  mesh, all_of_them = make_mesh(batch_size), jax.device_count()
  kind, processes = mesh.devices.item(0).device_kind, jax.process_count()
  if all_of_them == 1:
    return kind
  idle = (
    f" of {all_of_them}, which do not divide config.data.batch_size={batch_size}" if mesh.size < all_of_them else ""
  )
  return f"{mesh.size}{idle} x {kind}" + (f" in {processes} processes" if processes > 1 else "")


def sharding(mesh: Mesh, *axes: str | None) -> jax.sharding.Sharding:
  """Of an array whose axes are cut as `axes` say; without any it lies whole on every device of `mesh`."""
  # One device: kept programs (see `minec2f_jax.programs`) know no mesh.
  return SingleDeviceSharding(mesh.devices.item()) if mesh.size == 1 else NamedSharding(mesh, PartitionSpec(*axes))


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
  """`tree`, which is the same in all processes, whole on every device of `mesh`.

  Always committed: an argument that is only sometimes committed compiles a program again.
  """
  own = jax.device_put(tree, sharding(mesh.local_mesh))
  if not mesh.is_multi_process:
    return own
  return jax.tree.map(lambda x: _joined(x, x.shape, sharding(mesh)), own)


def here(tree: PyTree, mesh: Mesh) -> PyTree:
  """What `everywhere` made, as arrays of this process alone; nothing is copied."""
  if not mesh.is_multi_process:
    return tree
  return jax.tree.map(lambda x: _joined(x, x.shape, sharding(mesh.local_mesh)), tree)


def _joined(array: jax.Array, shape: tuple[int, ...], where: jax.sharding.Sharding) -> jax.Array:
  shards = [shard.data for shard in array.addressable_shards]
  return jax.make_array_from_single_device_arrays(shape, where, shards)


def cut(tree: PyTree, mesh: Mesh, *, axis: int = 0) -> PyTree:
  """Batches over the devices of `mesh`.

  Args:
    tree: arrays with the batch, or in several processes each one's part of it, at `axis`.
    mesh: of `make_mesh`.
    axis: that is cut.
  """
  where = sharding(mesh, *[None] * axis, _BATCH)
  if not mesh.is_multi_process:
    return jax.device_put(tree, where)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, np.asarray(x)), tree)


def keep_cut(batch: PyTree, mesh: Mesh) -> PyTree:
  """`batch` inside jit, held to being cut over `mesh`."""
  return batch if mesh.size == 1 else jax.lax.with_sharding_constraint(batch, sharding(mesh, _BATCH))


def keep_whole(tree: PyTree, mesh: Mesh) -> PyTree:
  """`tree` inside jit, held to lying whole on every device of `mesh`."""
  return tree if mesh.size == 1 else jax.lax.with_sharding_constraint(tree, sharding(mesh))


def mesh_of(tree: PyTree) -> Mesh:
  """Where `everywhere` has put `tree`; the first device for anything else."""
  found = getattr(jax.tree.leaves(tree)[0], "sharding", None)
  return found.mesh if isinstance(found, NamedSharding) else first_mesh()


def is_first() -> bool:
  """Whether this process speaks and writes for all."""
  return jax.process_index() == 0


def part() -> tuple[int, int]:
  """(number of this process, number of processes)."""
  return jax.process_index(), jax.process_count()


def leave():
  """Waits for the other processes, and parts from them."""
  if jax.process_count() > 1:
    jax.distributed.shutdown()


def meet(place: str):
  """Returns when all processes have come to `place`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(place)


@contextlib.contextmanager
def first_before_others(place: str) -> Iterator[None]:
  """What is inside is done by the first process, and after that by the others, who find it done."""
  if not is_first():
    meet(place)
  yield
  if is_first():
    meet(place)


def of_first(scores: dict[str, float]) -> dict[str, float]:
  """The first process' `scores`, in all: other hardware may round otherwise, and all must decide alike."""
  if jax.process_count() == 1:
    return scores
  values = multihost_utils.broadcast_one_to_all(np.array(list(scores.values()), np.float64).view(np.uint32))
  return dict(zip(scores, np.asarray(values).view(np.float64).tolist()))


def largest(number: int | None) -> int | None:
  """The largest of all processes' positive numbers, None if none has one."""
  if jax.process_count() == 1:
    return number
  return int(np.max(multihost_utils.process_allgather(np.int32(number or 0)))) or None
