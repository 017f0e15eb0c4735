"""The arrows of the house: imports only point down, and the losses stay light."""

import ast
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Module (or room) -> what of the project it may import.
PURE = ("minec2f_jax.ops",)
PLAIN = ("minec2f_jax.errors", "minec2f_jax.console", "minec2f_jax.files")  # Of use in any room that does I/O.
ALLOWED = {
  "minec2f_jax.ops": (),
  "minec2f_jax.losses": PURE,
  "minec2f_jax.distillation": ("minec2f_jax.losses", *PURE),
  "minec2f_jax.adaptation": PURE,
  "minec2f_jax.perturbations": PURE,
  "minec2f_jax.incremental": ("minec2f_jax.losses", *PURE),
  "minec2f_jax.metrics": PURE,
  "minec2f_jax.errors": (),
  "minec2f_jax.fields": (),
  "minec2f_jax.console": (),
  "minec2f_jax.files": ("minec2f_jax.errors",),
  "minec2f_jax.host": (),
  "minec2f_jax.flag_errors": ("minec2f_jax.errors",),
  "minec2f_jax.map_flags": (),
  "minec2f_jax.devices": ("minec2f_jax.errors",),
  "minec2f_jax.programs": tuple(f"minec2f_jax.{name}" for name in ("errors", "files", "host")),
  **{f"minec2f_jax.models.{name}": ("minec2f_jax.models", *PLAIN) for name in ("pretrained", "weight_files")},
  "minec2f_jax.models": ("minec2f_jax.models", *PURE),
  "minec2f_jax.methods": (
    "minec2f_jax.methods",
    "minec2f_jax.models",
    "minec2f_jax.losses",
    "minec2f_jax.distillation",
    "minec2f_jax.adaptation",
    "minec2f_jax.perturbations",
    "minec2f_jax.fields",
    "minec2f_jax.incremental",
    *PURE,
  ),
  "minec2f_jax.data": ("minec2f_jax.data", *PLAIN, *PURE),
  "minec2f_jax.training": (
    "minec2f_jax.training",
    "minec2f_jax.methods",
    "minec2f_jax.devices",
    "minec2f_jax.programs",
    *PLAIN,
  ),
  "minec2f_jax.evaluation": (
    "minec2f_jax.evaluation",
    "minec2f_jax.methods",
    "minec2f_jax.metrics",
    "minec2f_jax.data",
    "minec2f_jax.training.logging",
    "minec2f_jax.devices",
    "minec2f_jax.programs",
    *PLAIN,
  ),
  # Beside evaluation: works on maps, whoever made them.
  "minec2f_jax.mapping": (
    "minec2f_jax.mapping",
    "minec2f_jax.data",
    "minec2f_jax.evaluation.html_parts",
    "minec2f_jax.evaluation.html_style",
    *(f"minec2f_jax.{name}" for name in ("devices", "programs", "host", "__version__")),
    *PLAIN,
  ),
  # Converters run it in an environment of their own: no rasters, no checkpoints.
  "minec2f_jax.export": (
    "minec2f_jax.export",
    "minec2f_jax.methods",
    "minec2f_jax.models",
    "minec2f_jax.data.sensors",
    *PLAIN,
  ),
  "minec2f_jax.experiment": ("minec2f_jax",),
  "configs": ("configs",),
  # A command on data draws its own figures and tells its pace, as launch's do.
  "datasets": (
    "datasets",
    "minec2f_jax.data",
    *PLAIN,
    "minec2f_jax.evaluation.figures",
  ),
  "launch": (
    "minec2f_jax.experiment",
    "minec2f_jax.training.interrupt",
    *(f"minec2f_jax.{name}" for name in ("console", "devices", "errors", "flag_errors", "host", "map_flags")),
  ),
}
# Libraries that one file alone may import.
KEPT_IN = {
  "orbax": {"minec2f_jax/training/checkpoints.py"},
  "rasterio": {f"minec2f_jax/data/{name}.py" for name in ("rasterfile", "geotiff", "grids", "coarsen")}
  | {f"minec2f_jax/mapping/{name}.py" for name in ("seams", "cog")},  # Polygonises; writes window by window.
  "geopandas": {"minec2f_jax/data/polygons.py", "minec2f_jax/mapping/layers.py"},
  "pystac": {"minec2f_jax/data/stac.py"},
  "pystac_client": {"minec2f_jax/data/stac.py"},
  "apache_beam": {"datasets/chips.py"},
  "h5py": {"minec2f_jax/models/weight_files.py"},
  "safetensors": {"minec2f_jax/models/weight_files.py", "minec2f_jax/export/weights.py"},
  "jax2onnx": {"minec2f_jax/export/to_onnx.py"},
  "onnx": {"minec2f_jax/export/to_onnx.py"},
  "onnxruntime": {"minec2f_jax/export/to_onnx.py"},
  "torch": {"minec2f_jax/models/weight_files.py"},
  "matplotlib": {"minec2f_jax/evaluation/figures.py"},
  "tensorflow": set(),
}


def _sources():
  for top in ("minec2f_jax", "configs", "datasets"):
    yield from sorted((ROOT / top).rglob("*.py"))
  yield ROOT / "launch.py"


def _imports(path: pathlib.Path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(path: pathlib.Path) -> str:
  return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _within(name: str, rooms) -> bool:
  return any(name == room or name.startswith(room + ".") for room in rooms)


# A command, and the one door for weights from elsewhere: no network imports them.
READERS = ("minec2f_jax.models.pretrained", "minec2f_jax.models.weight_files")


class ArchitectureTest(parameterized.TestCase):
  def test_imports_only_point_down(self):
    for path in _sources():
      module = _module(path)
      if module == "minec2f_jax":
        continue
      room = next((room for room in ALLOWED if _within(module, [room])), None)
      self.assertIsNotNone(room, f"{path} stands in no room of the house")
      for name in _imports(path):
        if _within(name, ("minec2f_jax", "configs", "datasets", "launch")):
          allowed = any(_within(name, [target]) or target == name.rpartition(".")[0] for target in ALLOWED[room])
          self.assertTrue(allowed, f"{module} must not import {name}")

  def test_each_heavy_library_is_known_to_its_own_file_alone(self):
    for path in _sources():
      for name in _imports(path):
        library = name.partition(".")[0]
        if library in KEPT_IN:
          self.assertIn(str(path.relative_to(ROOT)), KEPT_IN[library], f"{path} imports {name}")

  def test_nothing_below_training_does_io_or_reads_a_clock(self):
    for path in _sources():
      if _within(
        _module(path),
        (
          "minec2f_jax.ops",
          "minec2f_jax.losses",
          "minec2f_jax.distillation",
          "minec2f_jax.adaptation",
          "minec2f_jax.perturbations",
          "minec2f_jax.incremental",
          "minec2f_jax.metrics",
          "minec2f_jax.models",
          "minec2f_jax.methods",
        ),
      ) and not _within(_module(path), READERS):
        for name in _imports(path):
          self.assertNotIn(name.partition(".")[0], {"os", "io", "pathlib", "time", "datetime", "random", "absl"}, path)

  def test_the_pure_library_loads_nothing_heavy(self):
    names = ("losses", "distillation", "adaptation", "incremental", "perturbations", "metrics", "ops")
    heavy = ("tensorflow", "tensorflow_datasets", "rasterio", "orbax", "grain", "flax")
    code = (
      f"import importlib, sys\nfor name in {names}:\n  importlib.import_module(f'minec2f_jax.{{name}}')\n"
      f"  print(name, [module for module in {heavy} if module in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    self.assertEqual(result.stdout.splitlines(), [f"{name} []" for name in names])

  def test_help_starts_without_jax_and_tensorflow(self):
    code = (
      "import sys; sys.argv = ['launch.py']; import launch; "
      "print(*[m for m in ('jax', 'tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    self.assertEqual(result.stdout.strip(), "")


if __name__ == "__main__":
  absltest.main()
