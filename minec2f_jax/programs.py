"""Traced programs in a folder: a second start neither runs the networks' Python code nor, by XLA's cache, compiles."""

import contextlib
import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Callable

import jax
from jax import export

from minec2f_jax import files, host
from minec2f_jax.errors import UserError

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SUFFIX = ".stablehlo"
_DIGEST_BYTES = 32
# On a CPU XLA may hand matrix products and convolutions to YNNPACK. That makes our networks no faster, and to load such
# programs takes half of a second start (docs/performance.md).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def identity(*facts) -> str:
  """A hash of everything that programs may depend on besides their arguments' shapes.

  Args:
    *facts: what the caller's closures hold, as values whose `repr` says all of it: a config, the length of an epoch.

  Returns:
    One of `facts`, of this package's code, of the libraries' versions, and of JAX's settings and devices.
  """
  devices = [(device.platform, device.device_kind) for device in jax.devices()]  # Starting them changes settings.
  settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
  versions = [importlib.metadata.version(name) for name in _LIBRARIES]
  return _hash([source_sha256(), versions, sorted(settings.items()), devices, facts])


@functools.cache
def source_sha256() -> str:
  """A hash of this package's code, once a process: what is edited beside it does not run in it."""
  root = pathlib.Path(__file__).parent
  return _hash([(path.relative_to(root).as_posix(), files.sha256(path)) for path in sorted(root.rglob("*.py"))])


def _hash(value) -> str:
  return hashlib.sha256(repr(value).encode()).hexdigest()


class Programs:
  """Where programs are kept between processes; without a folder they are not."""

  def __init__(self, folder=None, name: str = ""):
    """Opens a place.

    Args:
      folder: for the files of many configs; made at the first of them. None keeps nothing.
      name: the `identity` of what is wrapped.
    """
    self.folder, self.name = folder and pathlib.Path(folder), name

  def within(self, *facts) -> "Programs":
    """This place for closures that hold more `facts`."""
    return Programs(self.folder, _hash([self.name, facts]))

  def wrap(self, name: str, function: Callable, *, donate: bool = False, compiler_options=None) -> "Program":
    """`function` as a program called `name`.

    Args:
      name: tells the functions of one `identity` apart.
      function: from pytrees of arrays to dicts, tuples and lists of arrays.
      donate: whether the first argument's memory may become the result's.
      compiler_options: of XLA.
    """
    return Program(self.folder, _hash([self.name, name]), function, donate, compiler_options)

  def once(self, name: str, check: Callable[[], None]):
    """Runs `check` unless it has come to its end before."""
    mark = self.folder and self.folder / f"{_hash([self.name, name])}.passed"
    if mark and mark.exists():
      return
    check()
    if mark:
      _keep(mark, b"")


class Program:
  """A function that is traced and compiled once for each kind of arguments; made by `Programs.wrap`."""

  def __init__(self, folder: pathlib.Path | None, name: str, function: Callable, donate: bool, compiler_options):
    self._folder, self._name = folder, name
    usual = CPU_OPTIONS if jax.default_backend() == "cpu" else {}
    options = dict(donate_argnums=0 if donate else (), compiler_options={**usual, **(compiler_options or {})})
    self._jit = functools.partial(jax.jit, **options)
    self._function, self._direct, self._compiled = function, self._jit(function), {}

  def __call__(self, *arguments):
    if not self._kept:
      return self._direct(*arguments)
    return self.compile(*arguments)(*arguments)

  def compile(self, *arguments) -> Callable:
    """The compiled function of such arguments."""
    if not self._kept:
      return _compiled(self._direct.lower(*arguments))
    key = self._key(arguments)
    if key not in self._compiled:
      try:
        exported = self._load(key) or self._trace(key, arguments)
      except NotImplementedError:  # What no file can hold, such as a call back to Python.
        return _compiled(self._direct.lower(*arguments))
      run = self._jit(lambda first, *others: exported.call(first, list(others)))
      first, *others = (jax.tree.leaves(argument) for argument in arguments)
      self._compiled[key] = _compiled(run.lower(first, *others))
    compiled = self._compiled[key]
    return lambda *again: compiled(*(jax.tree.leaves(argument) for argument in again))

  @property
  def _kept(self) -> bool:
    return self._folder is not None and jax.device_count() == 1

  def _key(self, arguments) -> str:
    leaves, tree = jax.tree.flatten(arguments)
    kinds = [(jax.numpy.shape(leaf), str(leaf.dtype), bool(getattr(leaf, "weak_type", False))) for leaf in leaves]
    return _hash([self._name, str(tree), kinds])

  def _load(self, key: str) -> export.Exported | None:
    """The program in the folder, if it is there and whole."""
    with contextlib.suppress(OSError):
      content = (self._folder / f"{key}{_SUFFIX}").read_bytes()
      digest, program = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
      if hashlib.sha256(program).digest() == digest:
        return export.deserialize(bytearray(program))
    return None

  def _trace(self, key: str, arguments) -> export.Exported:
    """The program of `arguments`, which is now in the folder too."""
    trees = [jax.tree.structure(argument) for argument in arguments]

    def function(first, others):  # Lists: a file cannot hold the types of all containers.
      return self._function(*(jax.tree.unflatten(tree, leaves) for tree, leaves in zip(trees, [first, *others])))

    first, *others = (jax.tree.leaves(argument) for argument in arguments)
    exported = export.export(jax.jit(function))(first, others)
    program = bytes(exported.serialize())
    _keep(self._folder / f"{key}{_SUFFIX}", hashlib.sha256(program).digest() + program)
    return exported


NOT_KEPT = Programs()


def _compiled(lowered):
  compiled = lowered.compile()
  host.give_back_memory()  # Else it stays beside what steps take: 4.9 instead of 3.4 GB in the teacher's at batch 4.
  return compiled


def _keep(path: pathlib.Path, content: bytes):
  """Writes a file that will be missed by nobody if it cannot be."""
  with contextlib.suppress(UserError, OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, content)
