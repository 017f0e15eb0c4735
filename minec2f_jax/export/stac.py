"""A STAC item that describes the model, with the machine learning model extension (MLM) 1.5."""

from collections.abc import Sequence

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
_EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
_COMMON_NAMES = {"swir1": "swir16", "swir2": "swir22"}  # Others are called there as here.
_ASSETS = {
  "model.stablehlo": ("StableHLO program, weights and normalisation inside", "jax.export", ["mlm:model"]),
  "model.safetensors": ("Weights", "safetensors.numpy.save", ["mlm:model", "mlm:weights"]),
  "model.onnx": ("ONNX file, weights and normalisation inside, for tiles of one size", "onnx.save", ["mlm:model"]),
}
_BINARY, _MARKDOWN, _JSON = "application/octet-stream", "text/markdown", "application/json"


def make_item(facts: dict, names: Sequence[str]) -> dict:
  """The item as plain JSON.

  It says nowhere in space or time, for a run does not note where its images lie: geometry is null, which STAC allows,
  and the dates, which STAC asks for, span all that its examples do.

  Args:
    facts: see `minec2f_jax.export`.
    names: of the model's files that there are.
  """
  bands = [
    {
      "name": band["name"],
      "eo:common_name": _COMMON_NAMES.get(band["name"], band["name"]),
      "eo:center_wavelength": band["wavelength_um"],
    }
    for band in facts["bands"]
  ]
  return {
    "type": "Feature",
    "stac_version": "1.1.0",
    "stac_extensions": [MLM, _EO],
    "id": f"minec2f-{facts['model_sha256'][:16]}",
    "geometry": None,
    "properties": {
      "description": f"{facts['name']}: probability of a mine for every pixel of a multispectral image",
      "datetime": None,
      "start_datetime": "1900-01-01T00:00:00Z",
      "end_datetime": "9999-12-31T23:59:59Z",
      **({"gsd": facts["gsd_m"]} if facts["gsd_m"] else {}),
      "bands": bands,
      "mlm:name": facts["name"],
      "mlm:architecture": facts["architecture"],
      "mlm:tasks": ["semantic-segmentation"],
      "mlm:framework": "JAX",
      "mlm:framework_version": facts["jax"],
      "mlm:total_parameters": facts["parameters"],
      "mlm:pretrained": facts["pretrained"] is not None,
      "mlm:pretrained_source": facts["pretrained"],
      "mlm:input": [_input(facts)],
      "mlm:output": [_output(facts)],
    },
    "links": [],
    "assets": {**{name: _asset(name) for name in names}, **_papers()},
  }


def _input(facts) -> dict:
  height, width = (-1, -1) if facts["sizes"] == "any" else facts["sizes"]
  return {
    "name": "reflectance",
    "description": "Surface reflectance, 0 to 1; NaN where there are no data. Programs standardise it themselves.",
    "bands": [band["name"] for band in facts["bands"]],
    "input": {
      "shape": [-1, height, width, len(facts["bands"])],
      "dim_order": ["batch", "height", "width", "bands"],
      "data_type": "float32",
    },
    "value_scaling": None,
    "resize_type": None,
  }


def _output(facts) -> dict:
  height, width = (-1, -1) if facts["sizes"] == "any" else facts["sizes"]
  return {
    "name": "probability",
    "description": "Probability of class 1; NaN where there are no data.",
    "tasks": ["semantic-segmentation"],
    "result": {
      "shape": [-1, height, width],
      "dim_order": ["batch", "height", "width"],
      "data_type": "float32",
    },
    "classification:classes": [
      {"value": 0, "name": "background", "description": "anything but a mine"},
      {"value": 1, "name": "mine", "description": "a mine's footprint"},
    ],
    "post_processing_function": {"format": "python", "expression": "probability > 0.5"},
  }


def _asset(name: str) -> dict:
  title, kind, roles = _ASSETS[name]
  return {"href": f"./{name}", "title": title, "type": _BINARY, "roles": roles, "mlm:artifact_type": kind}


def _papers() -> dict:
  return {
    "README.md": {"href": "./README.md", "title": "Model card", "type": _MARKDOWN, "roles": ["metadata"]},
    "model.json": {"href": "./model.json", "title": "The same facts, plain", "type": _JSON, "roles": ["metadata"]},
    "report.json": {"href": "./report.json", "title": "Hashes and parity", "type": _JSON, "roles": ["metadata"]},
  }
