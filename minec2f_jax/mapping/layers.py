"""Writes vector files: GeoPackage, GeoJSON and GeoParquet, whole or not at all, the same bytes for the same rows."""

import contextlib
import importlib.util
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import shapely

from minec2f_jax.errors import UserError

_CRS = "EPSG:4326"
_CLOCK = "OGR_CURRENT_DATE"  # A GeoPackage notes when it was written.
_EPOCH = "1970-01-01T00:00:00.000Z"
_DECIMALS = 8  # Of a degree, 1 mm: with the usual 7, a pixel of 10 m loses up to 0.1 % of its area.


def check_formats(formats: Sequence[str]):
  """Raises where a format is unknown, or what writes it is not installed."""
  unknown = sorted(set(formats) - set(WRITERS))
  if unknown or not formats:
    raise UserError(f"format {', '.join(unknown) or 'none'}: choose among {', '.join(WRITERS)}")
  if "parquet" in formats and importlib.util.find_spec("pyarrow") is None:
    raise UserError(
      "GeoParquet is written by pyarrow, which is not installed; pip install pyarrow, or leave parquet out"
    )


def write(
  folder, name: str, columns: Mapping[str, Sequence], geometries: Sequence, *, formats: Sequence[str]
) -> list[pathlib.Path]:
  """Writes folder/name.FORMAT for each format, and returns the paths.

  Args:
    folder: is made.
    name: of the files and of their layer.
    columns: name -> value of each row; numpy arrays keep their type even without a row.
    geometries: shapely polygons or points in longitude and latitude.
    formats: among "gpkg", "geojson" and "parquet".

  Raises:
    UserError: a file cannot be written, or `check_formats`.
  """
  import geopandas  # Loads pandas and GDAL.

  check_formats(formats)
  folder = make_folder(folder)
  frame = geopandas.GeoDataFrame(dict(columns), geometry=np.asarray(geometries, object), crs=_CRS)
  return [_write_one(frame, folder / f"{name}.{kind}", name, kind) for kind in formats]


def make_folder(folder) -> pathlib.Path:
  """The folder, which is made."""
  folder = pathlib.Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{folder}: cannot be made ({error}); choose another output") from error
  return folder


def _write_one(frame, path: pathlib.Path, layer: str, kind: str) -> pathlib.Path:
  try:
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
      partial = pathlib.Path(beside) / path.name
      WRITERS[kind](frame, partial, layer)
      os.replace(partial, path)
  except Exception as error:  # GDAL, Arrow and the system each raise types of their own.
    raise UserError(
      f"{path}: cannot be written ({type(error).__name__}: {error}); make room, or choose another output"
    ) from error
  return path


def _gpkg(frame, path, layer):
  with _clock_stopped():
    _ogr(frame, path, layer=layer, driver="GPKG", layer_options={"FID": "FID", "GEOMETRY_NAME": "geom"})


def _geojson(frame, path, layer):
  rounded = frame.set_geometry(shapely.transform(frame.geometry.array, lambda xy: np.round(xy, _DECIMALS)))
  options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(_DECIMALS)}
  _ogr(rounded.set_crs(_CRS), path, layer=layer, driver="GeoJSON", layer_options=options)


def _parquet(frame, path, layer):
  frame.to_parquet(path, index=False)


WRITERS = {"gpkg": _gpkg, "geojson": _geojson, "parquet": _parquet}


def _ogr(frame, path, **kwargs):
  kind = "Polygon" if frame.empty else None
  with warnings.catch_warnings(action="ignore"):  # Of layers without rows.
    frame.to_file(path, engine="pyogrio", geometry_type=kind, **kwargs)


@contextlib.contextmanager
def _clock_stopped() -> Iterator[None]:
  import pyogrio

  before = pyogrio.get_gdal_config_option(_CLOCK)
  pyogrio.set_gdal_config_options({_CLOCK: _EPOCH})
  try:
    yield
  finally:
    pyogrio.set_gdal_config_options({_CLOCK: before})
