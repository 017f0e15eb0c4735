"""Named arrays from other frameworks' weight files, read such that nothing which stands in them is run.

A file is known by its first bytes, whatever it is called. h5py, safetensors and torch are imported when a file needs
them: `pip install 'minec2f_jax[pretrained]'` brings the first two.
"""

import re
import warnings
import zipfile
from typing import NamedTuple

import numpy as np

from minec2f_jax.errors import UserError
from minec2f_jax.models.weight_check import listed, shown

_MAX_BYTES = 4 << 30  # VGG-19, the largest that people mistake for a DenseNet, has 0.6 GB.
# What Keras 3 calls 0, 1, ... in a layer's `vars`, by the class that its group is named after.
_KERAS_VARS = {
  "conv2d": ("kernel", "bias"),
  "dense": ("kernel", "bias"),
  "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
_INSTALL = "pip install 'minec2f_jax[pretrained]'"
_AGAIN = "download it again, or copy it whole"
_CONVERT = (
  "take a .safetensors of the same weights, or write one where you trust the file, with "
  "safetensors.torch.save_file(model.state_dict(), PATH)"
)


class WeightFile(NamedTuple):
  """What a weight file holds."""

  format: str  # "Keras HDF5", "Keras 3 HDF5", "safetensors" or "PyTorch"
  tensors: dict[str, np.ndarray]  # the file's own names (HDF5: paths) -> float32 or integer arrays


def read(path) -> WeightFile:
  """Every tensor of a weight file.

  Args:
    path: an HDF5 file of Keras (`save_weights`, `save` or the legacy layout of keras.applications), a `.safetensors`
      file, or a checkpoint of PyTorch (only where torch is installed, and with its `weights_only`).

  Raises:
    UserError: no such file, not a weight file, damaged, or not to be read safely here.
  """
  reader = _reader(path)
  layout, tensors = reader(path)
  if not tensors:
    raise UserError(f"{path}: holds no tensor; give the file of a network's weights")
  return WeightFile(layout, tensors)


def _reader(path):
  """The function that reads the kind of file which the first bytes tell."""
  try:
    with open(path, "rb") as file:
      head = file.read(64)
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of one weight file") from error
  if head.startswith(b"\x89HDF\r\n\x1a\n"):
    return _read_hdf5
  if head.startswith(b"PK\x03\x04"):
    return _zip_reader(path)
  if head[8:9] == b"{":  # Before it stands the header's length, which may begin as a pickle does.
    return _read_safetensors
  if head.startswith(b"\x80"):  # A pickle: PyTorch before 1.6, torchvision's published files among them.
    return _read_torch
  raise UserError(f"{path}: {_what_else(head)}")


def _what_else(head: bytes) -> str:
  if not head:
    return f"is empty; {_AGAIN}"
  if head.lstrip()[:1] == b"<":
    return (
      f"is a web page (it begins with {_text(head, 30)}), not weights; open the address in a browser, then {_AGAIN}"
    )
  if head.startswith(b"version https://git-lfs"):
    return "is a Git LFS pointer, not the weights that it stands for; fetch those (git lfs pull)"
  return (
    f"is no weight file that is known here (it begins with {_text(head, 12)}); give Keras' .h5, a .safetensors, or "
    "PyTorch's .pth"
  )


def _text(head: bytes, length: int) -> str:
  return repr(head[:length].decode("ascii", "replace").replace("\ufffd", "?"))


def _zip_reader(path):
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      size = sum(info.file_size for info in archive.infolist())
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
    raise UserError(f"{path}: is a damaged archive ({shown(str(error))}); {_AGAIN}") from error
  if any(name.endswith("/data.pkl") for name in names):
    _check_bytes(path, size)  # Packed, a few kB can become gigabytes.
    return _read_torch
  if "model.weights.h5" in names:
    raise UserError(
      f"{path}: is a whole Keras model; take model.weights.h5 out of it (it is a ZIP archive), or call "
      'model.save_weights("NAME.weights.h5")'
    )
  kind = "NumPy archive" if names and all(name.endswith(".npy") for name in names) else "ZIP archive"
  raise UserError(
    f"{path}: is a {kind} ({listed(names) or 'empty'}), not weights of Keras or PyTorch; give Keras' .h5, a "
    ".safetensors, or PyTorch's .pth"
  )


def _absent(path, library: str, remedy: str) -> UserError:
  return UserError(f"{path}: cannot be read without {library}; {remedy}")


def _damaged(path, error: Exception) -> UserError:
  reason = shown((str(error).splitlines() or [type(error).__name__])[0])
  return UserError(f"{path}: is damaged or cut off ({reason}); {_AGAIN}")


# HDF5 ----------------------------------------------------------------------------------------------------------------


def _read_hdf5(path):
  try:
    import h5py
  except ImportError as error:
    raise _absent(path, "h5py", _INSTALL) from error
  try:
    with h5py.File(path, "r") as file:
      return _read_keras(path, file, h5py)
  except UserError:
    raise
  except (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError) as error:
    raise _damaged(path, error) from error


def _read_keras(path, file, h5py):
  datasets = {}
  # Visits what stands in this file once, and follows no link to another.
  file.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
  _check_datasets(path, datasets)
  layout, tensors = "Keras HDF5", {}
  for name, dataset in datasets.items():
    if "vars" in name.split("/"):
      layout, name = "Keras 3 HDF5", _name_in_keras_3(path, name, dataset)
    if name in tensors:
      raise UserError(f"{path}: holds {shown(name)} twice; save the weights of one network")
    tensors[name] = _as_array(path, name, dataset[()])
  return layout, tensors


def _check_datasets(path, datasets):
  for name, dataset in datasets.items():
    if dataset.is_virtual or dataset.external:  # Would read whatever file it names.
      raise UserError(f"{path}: {shown(name)} lies in another file; give weights that are whole in one file")
  if null := [name for name, dataset in datasets.items() if dataset.size is None]:
    raise UserError(f"{path}: {len(null)} datasets hold nothing: {listed(null)}; give weights with all their numbers")
  _check_bytes(path, sum(dataset.size * dataset.dtype.itemsize for dataset in datasets.values()))


def _name_in_keras_3(path, name: str, dataset) -> str:
  """`layers/conv2d_5/vars/0`, where the group `vars` says which layer it is, as `layers/NAME/kernel`."""
  group, _, index = name.rpartition("/")
  above, _, kind = group.removesuffix("/vars").rpartition("/")
  layer = dataset.parent.attrs.get("name")
  if kind == "optimizer":
    return name
  if layer is None:
    raise UserError(
      f"{path}: {shown(group)} does not say which layer it belongs to, as other versions of Keras do; load it into its "
      'model and save again, with a current Keras 3, or with tf.keras\' model.save_weights("NAME.h5")'
    )
  weights = _KERAS_VARS.get(kind.rstrip("0123456789").rstrip("_"), ())
  return f"{above}/{layer}/{weights[int(index)] if index.isdigit() and int(index) < len(weights) else index}"


# PyTorch -------------------------------------------------------------------------------------------------------------


def _read_safetensors(path):
  try:
    import safetensors
  except ImportError as error:
    raise _absent(path, "safetensors", _INSTALL) from error
  try:
    with safetensors.safe_open(path, framework="numpy") as file:  # Checks the header against the file's size.
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, OSError, MemoryError, ValueError, OverflowError) as error:
    raise _damaged(path, error) from error
  except (TypeError, KeyError, AttributeError) as error:
    raise UserError(f"{path}: holds numbers of a type that NumPy lacks ({error}); save it in float32") from error
  return "safetensors", {name: _as_array(path, name, array) for name, array in tensors.items()}


def _read_torch(path):
  try:
    import torch
  except ImportError as error:  # Python's own unpickler would run whatever code the file names.
    raise _absent(path, "torch", f"install torch 2.6 or newer, or {_CONVERT}") from error
  if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
    raise UserError(  # CVE-2025-32434: code runs in spite of `weights_only`.
      f"{path}: torch {torch.__version__} cannot read it safely; install torch 2.6 or newer, or {_CONVERT}"
    )
  try:
    with warnings.catch_warnings(action="ignore"):
      state = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # A hostile pickle can make its reader raise anything.
    asked = re.search(r"GLOBAL (\w[\w.]*\.\w+)", str(error))
    seen = f"asks for {shown(asked[1])}, more than tensors" if asked else "is damaged, cut off, or no tensors alone"
    remedy = _CONVERT if asked else f"{_AGAIN}, or {_CONVERT}"
    raise UserError(f"{path}: {seen}, and nothing of it was run; {remedy}") from error
  for key in ("state_dict", "model_state_dict", "model"):
    if isinstance(state, dict) and isinstance(state.get(key), dict):
      state = state[key]
  if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
    held = listed(map(str, state)) if isinstance(state, dict) else type(state).__name__
    raise UserError(f"{path}: is not a state_dict, names with tensors, but {held}; {_CONVERT}")
  _check_bytes(path, sum(4 * tensor.numel() for tensor in state.values()))  # Strides of 0 make much of little.
  return "PyTorch", {str(name): _from_torch(path, name, tensor) for name, tensor in state.items()}


def _from_torch(path, name, tensor):
  try:
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
  except (RuntimeError, TypeError) as error:  # Quantized, sparse, without data.
    raise UserError(f"{path}: {shown(str(name))} is no plain tensor ({error}); save it in float32") from error
  return _as_array(path, name, array)


def _check_bytes(path, size: int):
  if size > _MAX_BYTES:
    raise UserError(f"{path}: declares {size / 1e9:.1f} GB of weights, more than any network here; {_AGAIN}")


def _as_array(path, name, array) -> np.ndarray:
  array = np.asarray(array)
  if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
    return array.astype(np.float32)
  if array.dtype.kind not in "iub":
    raise UserError(f"{path}: {shown(str(name))} holds {array.dtype}, not numbers; give a network's weights")
  return array
