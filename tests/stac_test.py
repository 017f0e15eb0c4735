"""Tests of minec2f_jax.data.stac and stac_bands: items as the usual catalogues write them, and a local server."""

import builtins
import copy
import importlib
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
from unittest import mock

import affine
import numpy as np
import shapely
from absl.testing import absltest, parameterized

from minec2f_jax.data import geotiff, grids, scenes, sensors, stac, stac_bands

SIX = sensors.ROLES
RGB = ("red", "green", "blue")
GRID = grids.Grid("EPSG:32719", affine.Affine(10, 0, 5e5, 0, -10, 7.5e6), 12, 12)
SQUARE = [[-69.0, -22.61], [-68.9, -22.61], [-68.9, -22.5], [-69.0, -22.5], [-69.0, -22.61]]
L30, S30 = "HLS.L30.T19KDQ.2021152T143000.v2.0", "HLS.S30.T19KDQ.2021152T143000.v2.0"
# Role of the eo extension and number of each Sentinel-2 band used here, with its pixel size.
SENTINEL2 = (
  ("blue", "B02", 10), ("green", "B03", 10), ("red", "B04", 10), ("nir", "B08", 10), ("nir08", "B8A", 20),
  ("swir16", "B11", 20), ("swir22", "B12", 20),
)  # fmt: skip


def make_item(name, assets, *, collection="c", **properties):
  return {
    "type": "Feature",
    "stac_version": "1.0.0",
    "stac_extensions": [],
    "id": name,
    "collection": collection,
    "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
    "bbox": [-69.0, -22.61, -68.9, -22.5],
    "properties": {"datetime": "2021-06-12T14:37:39Z", **properties},
    "links": [],
    "assets": assets,
  }


def earth_search(baseline="03.00", offset=0, **properties):
  """Sentinel-2 as Earth Search v1 has it: keys by colour, JPEG 2000 beside the GeoTIFFs, a picture of three bands."""
  raster = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": offset}]
  assets = {}
  for common, number, gsd in SENTINEL2:
    described = {"eo:bands": [{"name": common, "common_name": common}], "gsd": gsd, "raster:bands": raster}
    assets[common] = {"href": f"./{number}.tif", "roles": ["data", "reflectance"], **described}
    assets[f"{common}-jp2"] = {"href": f"s3://sentinel-s2-l2a/{number}.jp2", **described}
  colours = [{"name": c, "common_name": c} for c in RGB]
  assets["visual"] = {"href": "./TCI.tif", "eo:bands": colours, "roles": ["visual"], "gsd": 10}
  assets["scl"] = {"href": "./SCL.tif", "gsd": 20, "raster:bands": [{"data_type": "uint8"}]}
  assets["thumbnail"] = {"href": "./preview.jpg", "roles": ["thumbnail"]}
  told = {
    "platform": "sentinel-2a",
    "constellation": "sentinel-2",
    "eo:cloud_cover": 12.5,
    "s2:product_type": "S2MSI2A",
  }
  return make_item(
    "S2A_19KDQ_20210612_0_L2A", assets, collection="sentinel-2-l2a",
    **{**told, "s2:processing_baseline": baseline, **properties},
  )  # fmt: skip


def planetary_computer(baseline="03.00"):
  """Sentinel-2 as the Planetary Computer has it: keys by number, no raster:bands, a picture that calls itself data."""
  commons = {"nir08": "rededge"}
  assets = {
    number: {
      "href": f"./{number}_{gsd}m.tif", "gsd": gsd, "roles": ["data"],
      "eo:bands": [{"name": number, "common_name": commons.get(common, common)}],
    }
    for common, number, gsd in SENTINEL2
  }  # fmt: skip
  numbers = [{"name": n, "common_name": c} for c, n in zip(RGB, ("B04", "B03", "B02"))]
  assets["visual"] = {"href": "./AAA_TCI_10m.tif", "roles": ["data"], "gsd": 10, "eo:bands": numbers}
  assets["SCL"] = {"href": "./SCL_20m.tif", "gsd": 20, "roles": ["data"]}
  return make_item(
    "S2A_MSIL2A_20210612T143739_R096_T19KDQ_20210613T003739", assets, collection="sentinel-2-l2a",
    platform="Sentinel-2A", constellation="Sentinel 2", **{"s2:processing_baseline": baseline, "eo:cloud_cover": 3},
  )  # fmt: skip


def landsat(name="LC08_L2SP_233084_20210601_02_T1", offset=-0.2):
  """Landsat Collection 2 Level-2 as the Planetary Computer and Earth Search have it."""
  raster = [{"scale": 2.75e-05, "offset": offset, "data_type": "uint16", "nodata": 0}]
  commons = ("blue", "green", "red", "nir08", "swir16", "swir22")
  assets = {
    common: {
      "href": f"./{name}_SR_B{i}.TIF", "raster:bands": raster,
      "eo:bands": [{"name": f"SR_B{i}", "common_name": common}],
    }
    for i, common in enumerate(commons, start=2)
  }  # fmt: skip
  assets["lwir11"] = {"href": f"./{name}_ST_B10.TIF", "eo:bands": [{"name": "ST_B10", "common_name": "lwir11"}]}
  assets["qa_pixel"] = {"href": f"./{name}_QA_PIXEL.TIF", "raster:bands": [{"data_type": "uint16"}]}
  assets["qa_aerosol"] = {"href": f"./{name}_QA_AEROSOL.TIF"}
  return make_item(name, assets, collection="landsat-c2-l2", platform="landsat-8", gsd=30, **{"eo:cloud_cover": 1.55})


def hls(name, collection, numbers):
  """HLS as LP DAAC has it: keys alone."""
  assets = {n: {"href": f"https://data.example/{name}.{n}.tif"} for n in (*numbers, "Fmask")}
  return make_item(name, assets, collection=collection, platform="landsat-8", **{"eo:cloud_cover": 0})


def copernicus():
  """Sentinel-2 as the Copernicus Data Space has it: STAC 1.1, every resolution of a band, JPEG 2000."""
  assets = {}
  for common, number, finest in SENTINEL2:
    for gsd in (g for g in (10, 20, 60) if g >= finest):
      assets[f"{number}_{gsd}m"] = {
        "href": f"./R{gsd}m/T19KDQ_{number}_{gsd}m.jp2", "gsd": gsd, "raster:scale": 0.0001, "raster:offset": -0.1,
        "data_type": "uint16", "bands": [{"name": number, "eo:common_name": common}],
      }  # fmt: skip
  item = make_item(
    "S2A_MSIL2A_20230612T143739_N0509_R096_T19KDQ_20230612T205000", assets, collection="sentinel-2-l2a",
    constellation="sentinel-2", **{"processing:version": "05.09", "product:type": "S2MSI2A"},
  )  # fmt: skip
  return {**item, "stac_version": "1.1.0"}


class StacTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, content, name="item.json"):
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)

  def read(self, content, roles=SIX, **kwargs):
    return stac.read_items(self.write(content), roles=roles, **kwargs)

  def scene(self, content, **kwargs):
    result = self.read(content, **kwargs)
    self.assertEqual(dict(result.rejected), {})
    return result.scenes[0]

  def reason(self, content, **kwargs):
    result = self.read(content, **kwargs)
    self.assertEmpty(result.scenes)
    (place,) = result.rejected
    self.assertIn("item.json", place)
    return result.rejected[place]

  def files(self, scene):
    return [os.path.relpath(band.path, self.root) for _, band in scene.bands]


class CatalogueTest(StacTest):
  def test_earth_search(self):
    scene = self.scene(earth_search())
    self.assertEqual([role for role, _ in scene.bands], list(SIX))
    self.assertEqual(self.files(scene), ["B02.tif", "B03.tif", "B04.tif", "B08.tif", "B11.tif", "B12.tif"])
    self.assertEqual(scene.quality, ("scl", geotiff.Band(str(self.root / "SCL.tif"), 1)))
    self.assertEqual((scene.sensor, scene.date, scene.cloud_share), ("sentinel2_l2a", "2021-06-12", 0.125))
    self.assertTrue(scene.footprint.equals(shapely.Polygon(SQUARE)))
    self.assertEqual(pickle.loads(pickle.dumps(scene)), scene)

  @parameterized.parameters(
    ("02.12", "sentinel2_l2a"), ("04.00", "sentinel2_l2a_baseline04"), ("05.11", "sentinel2_l2a_baseline04")
  )
  def test_planetary_computer_tells_the_offset_by_the_baseline_alone(self, baseline, sensor):
    scene = self.scene(planetary_computer(baseline))
    expected = ["B02_10m.tif", "B03_10m.tif", "B04_10m.tif", "B08_10m.tif", "B11_20m.tif", "B12_20m.tif"]
    self.assertEqual(self.files(scene), expected)
    self.assertEqual((scene.sensor, scene.quality[0]), (sensor, "scl"))

  def test_landsat(self):
    scene = self.scene(landsat())
    self.assertEqual([f[-9:] for f in self.files(scene)], [f"SR_B{i}.TIF" for i in range(2, 8)])
    self.assertEqual((scene.sensor, scene.quality[0], scene.cloud_share), ("landsat_c2_l2", "qa_pixel", 0.0155))

  @parameterized.parameters(
    (L30, "HLSL30_2.0", ("B02", "B03", "B04", "B05", "B06", "B07", "B09"), "hls_l30"),
    (L30, "hls2-l30", ("B02", "B03", "B04", "B05", "B06", "B07", "B10"), "hls_l30"),
    (S30, "HLSS30.v2.0", ("B02", "B03", "B04", "B8A", "B11", "B12", "B08"), "hls_s30"),
    (S30, "hls2-s30", ("B02", "B03", "B04", "B8A", "B11", "B12", "B05"), "hls_s30"),
  )
  def test_hls_takes_the_bands_of_its_own_product(self, name, collection, numbers, sensor):
    scene = self.scene(hls(name, collection, numbers), allow_remote=True)
    self.assertEqual(
      [b.path for _, b in scene.bands], [f"/vsicurl/https://data.example/{name}.{n}.tif" for n in numbers[:6]]
    )
    self.assertEqual((scene.sensor, scene.quality[0], scene.cloud_share), (sensor, "fmask", 0.0))

  def test_hls_s30_takes_the_narrow_nir_even_where_the_broad_one_is_called_nir(self):
    item = hls(S30, "hls2-s30", ("B02", "B03", "B04", "B8A", "B08", "B11", "B12"))
    item["assets"]["B08"]["eo:bands"] = [{"name": "B08", "common_name": "nir"}]
    item["assets"]["B8A"]["eo:bands"] = [{"name": "B8A", "common_name": "nir08"}]
    self.assertEndsWith(dict(self.scene(item, allow_remote=True).bands)["nir"].path, "B8A.tif")

  def test_copernicus_data_space(self):
    self.assertRegex(
      self.reason(copernicus()), r"no asset for \['blue'.*B02_10m \(.jp2\).*needs the driver JP2OpenJPEG"
    )
    scene = self.scene(copernicus(), drivers=("GTiff", "JP2OpenJPEG"))
    expected = [
      f"R{g}m/T19KDQ_{n}_{g}m.jp2" for n, g in zip(("B02", "B03", "B04", "B08", "B11", "B12"), (10,) * 4 + (20,) * 2)
    ]
    self.assertEqual(self.files(scene), expected)
    self.assertEqual(scene.sensor, "sentinel2_l2a_baseline04")

  def test_geotiff_is_preferred_to_jpeg2000(self):
    scene = self.scene(earth_search(), drivers=("GTiff", "JP2OpenJPEG"))
    self.assertTrue(all(f.endswith(".tif") for f in self.files(scene)))

  def test_nir08_stands_in_where_nir_is_missing(self):
    item = earth_search()
    del item["assets"]["nir"], item["assets"]["nir-jp2"]
    self.assertEqual(self.files(self.scene(item))[3], "B8A.tif")

  def test_several_bands_in_one_asset_and_plain_floats(self):
    names = ("blue", "green", "red", "nir", "swir16", "swir22")
    described = {"eo:bands": [{"common_name": n} for n in names], "raster:bands": [{"data_type": "float32"}] * 6}
    scene = self.scene(make_item("x", {"image": {"href": "a.tif", **described}}))
    self.assertEqual(
      scene.bands, tuple((r, geotiff.Band(str(self.root / "a.tif"), i)) for i, r in enumerate(SIX, start=1))
    )
    self.assertEqual((scene.sensor, scene.quality, scene.cloud_share), ("auto", None, None))

  def test_bands_that_the_file_names_in_another_order_than_the_item_are_refused_on_reading(self):
    described = {"eo:bands": [{"common_name": n} for n in RGB], "raster:bands": [{"data_type": "float32"}] * 3}
    scene = self.scene(make_item("x", {"image": {"href": "a.tif", **described}}), roles=RGB)
    values = np.full((3, 12, 12), 0.1, np.float32)
    geotiff.write_geotiff(self.root / "a.tif", values, GRID, descriptions=RGB)
    self.assertTrue(scenes.read_scene(scene, GRID, roles=RGB)[1].all())
    geotiff.write_geotiff(self.root / "a.tif", values, GRID, descriptions=RGB[::-1])
    with self.assertRaisesRegex(scenes.SceneError, "a.tif, band 3, is taken for 'blue', but the file calls it 'red'"):
      scenes.read_scene(scene, GRID, roles=RGB)


class EncodingTest(StacTest):
  @parameterized.parameters(
    ("03.00", 0, None, "sentinel2_l2a"),
    ("04.00", -0.1, None, "sentinel2_l2a_baseline04"),
    ("05.09", -0.1, False, "sentinel2_l2a_baseline04"),
    ("05.09", 0, True, "sentinel2_l2a"),  # Taken off already.
    (None, 0, True, "sentinel2_l2a"),
  )
  def test_baseline_flag_and_bands_that_agree_tell_the_encoding(self, baseline, offset, flag, expected):
    item = earth_search(baseline, offset, **{"earthsearch:boa_offset_applied": flag})
    self.assertEqual(self.scene(item).sensor, expected)

  @parameterized.parameters(
    ("05.09", -0.1, True, "sentinel2_l2a", 0.0),
    ("05.09", 0, False, "sentinel2_l2a_baseline04", -0.1),
    ("03.00", -0.1, None, "sentinel2_l2a", 0.0),
  )
  def test_an_item_that_contradicts_itself_is_refused_until_someone_decides(
    self, baseline, offset, flag, means, expected
  ):
    item = earth_search(baseline, offset, **{"earthsearch:boa_offset_applied": flag})
    reason = self.reason(item)
    for part in (
      f"baseline {baseline}",
      f"means '{means}'",
      f"(0.0001, {expected})",
      f"[(0.0001, {float(offset)})]",
      "set --sensor",
    ):
      self.assertIn(part, reason)
    if flag is not None:
      self.assertIn(f"boa_offset_applied={flag}", reason)
    for sensor in ("sentinel2_l2a", "sentinel2_l2a_baseline04"):
      self.assertEqual(self.scene(item, sensor=sensor).sensor, sensor)
    self.assertRegex(
      self.reason(item, sensor="landsat_c2_l2"), "--sensor=landsat_c2_l2 has.*'?sentinel2_l2a.*correct one"
    )

  def test_a_named_sensor_must_not_contradict_an_item_that_agrees_with_itself(self):
    pattern = r"--sensor=sentinel2_l2a has \(scale, offset\) \(0.0001, 0.0\).*says sentinel2_l2a_baseline04 .*-0.1"
    self.assertRegex(self.reason(earth_search("04.00", -0.1), sensor="sentinel2_l2a"), pattern)
    self.assertRegex(self.reason(planetary_computer("04.00"), sensor="sentinel2_l2a"), "says sentinel2_l2a_baseline04")
    self.assertRegex(self.reason(landsat(), sensor="reflectance_x10000"), "says landsat_c2_l2")
    # The same numbers, but top of atmosphere; and another product's band numbers.
    self.assertRegex(self.reason(planetary_computer(), sensor="sentinel2_l1c"), "says sentinel2_l2a ")
    self.assertRegex(self.reason(planetary_computer(), sensor="hls_s30"), "says sentinel2_l2a ")
    self.assertEqual(self.scene(planetary_computer(), sensor="reflectance_x10000").sensor, "reflectance_x10000")

  def test_landsat_scaled_otherwise_is_refused(self):
    self.assertRegex(self.reason(landsat(offset=-0.1)), r"\(2.75e-05, -0.2\), but its bands say \[\(2.75e-05, -0.1\)\]")

  def test_landsat_7_is_refused_by_name(self):
    self.assertRegex(self.reason(landsat("LE07_L2SP_233084_20100601_02_T1")), "LE07_L2SP.*of Landsat 8 and 9")

  def test_an_item_that_does_not_tell_is_refused_until_someone_does(self):
    item = planetary_computer()
    del item["properties"]["s2:processing_baseline"]
    self.assertRegex(self.reason(item), "cannot tell the encoding.*baseline.*set --sensor")
    self.assertEqual(self.scene(item, sensor="sentinel2_l2a").sensor, "sentinel2_l2a")
    unknown = make_item("x", {c: {"href": f"{c}.tif"} for c in RGB})
    self.assertRegex(self.reason(unknown, roles=RGB), "cannot tell the encoding")
    self.assertEqual(self.scene(unknown, roles=RGB, sensor="hls").sensor, "hls")

  def test_level_1c_is_told_apart(self):
    item = planetary_computer("05.00")
    item["id"] = item["id"].replace("MSIL2A", "MSIL1C")
    item["collection"] = "sentinel-2-l1c"
    self.assertEqual(self.scene(item).sensor, "sentinel2_l1c_baseline04")


class SourceTest(StacTest):
  def test_a_collection_and_a_folder_hold_many_items(self):
    features = [earth_search(), landsat()]
    names = sorted(i["id"] for i in features)
    found = self.read({"type": "FeatureCollection", "features": features})
    self.assertEqual([s.id for s in found.scenes], names)
    (self.root / "item.json").unlink()
    for i, feature in enumerate(features):
      self.write(feature, f"{i}/{i}.json")
    self.write({"type": "Catalog", "id": "c", "stac_version": "1.0.0", "links": []}, "catalog.json")
    self.write({"type": "Feature", "properties": {}, "geometry": None}, "mine.geojson")
    found = stac.read_items(self.root, roles=SIX)
    self.assertEqual([s.id for s in found.scenes], names)
    self.assertEmpty(found.rejected)
    self.assertIn(str(self.root / "0" / "B02.tif"), [b.path for s in found.scenes for _, b in s.bands])
    both = stac.read_items([self.root / "0" / "0.json", str(self.root / "1")], roles=SIX)
    self.assertEqual(both, found)

  def test_one_bad_item_does_not_hide_the_others(self):
    broken = {k: v for k, v in landsat().items() if k != "assets"} | {"assets": "none"}
    nowhere = {**landsat("LC09_L2SP_233084_20210601_02_T1"), "geometry": None, "bbox": None}
    found = self.read({"type": "FeatureCollection", "features": [broken, earth_search(), 7, nowhere]})
    self.assertLen(found.scenes, 1)
    path = str(self.root / "item.json")
    self.assertRegex(found.rejected[f"{path}, item 0"], "not a STAC item.*correct it or leave it out")
    self.assertRegex(found.rejected[f"{path}, item 2"], "not a STAC item")
    self.assertRegex(found.rejected[f"{path}, item LC09_L2SP_233084_20210601_02_T1"], "its geometry cannot be read")
    self.write("{", "0.json")
    (self.root / "1.json").write_text("{")
    found = stac.read_items(self.root, roles=SIX)
    self.assertLen(found.scenes, 1)
    self.assertRegex(found.rejected[str(self.root / "1.json")], "not readable as JSON")

  @parameterized.parameters(
    {"raster:bands": "none"}, {"eo:bands": [7]}, {"raster:bands": [{"scale": "x"}]}, {"proj:transform": ["x"]}
  )
  def test_fields_of_another_type_are_told(self, **fields):
    item = planetary_computer()
    item["assets"]["B04"].update(fields)
    del item["assets"]["B04"]["gsd"]
    self.assertRegex(self.reason(item), "not as STAC defines it .*; correct the item")

  def test_an_item_without_geometry_lies_in_its_box(self):
    item = {**landsat(), "geometry": None, "bbox": [-69.0, -22.61, 10.0, -68.9, -22.5, 90.0]}
    self.assertEqual(self.scene(item).footprint.bounds, (-69.0, -22.61, -68.9, -22.5))
    crossing = {**landsat(), "geometry": None, "bbox": [179.0, -20, -179.0, -18]}
    parts = shapely.get_parts(self.scene(crossing).footprint)
    self.assertEqual([part.bounds for part in parts], [(179.0, -20, 180, -18), (-180, -20, -179.0, -18)])
    point = {**landsat(), "geometry": {"type": "Point", "coordinates": [0, 0]}}
    self.assertRegex(self.reason(point), "its geometry has no area")

  def test_the_same_item_twice_is_one_scene_and_two_under_one_id_are_refused(self):
    once, other = landsat(), copy.deepcopy(landsat())
    other["properties"]["eo:cloud_cover"] = 99
    self.assertLen(self.read({"type": "FeatureCollection", "features": [once, once]}).scenes, 1)
    found = self.read({"type": "FeatureCollection", "features": [once, other]})
    self.assertRegex(*found.rejected.values(), "another item has the same id")

  @parameterized.parameters(
    ({"type": "Collection", "id": "c"}, "of type 'Collection'; give items, item collections, or the folder"),
    ([1, 2], "of type 'list'"),
  )
  def test_a_source_that_is_no_item_is_an_error(self, content, pattern):
    with self.assertRaisesRegex(stac_bands.StacError, pattern):
      self.read(content)

  def test_a_source_that_is_not_there_is_an_error(self):
    with self.assertRaisesRegex(stac_bands.StacError, "nowhere.json: not readable as JSON.*check the path"):
      stac.read_items(self.root / "nowhere.json", roles=SIX)

  def test_roles_without_an_asset_are_named_beside_what_is_there(self):
    item = planetary_computer()
    del item["assets"]["B11"]
    self.assertRegex(self.reason(item), r"no asset for \['swir1'\]: seen B02 \(.tif\), B03")
    with self.assertRaisesRegex(sensors.SensorError, "'modis' is unknown"):
      self.read(item, sensor="modis")

  def test_remote_sources_and_assets_need_leave(self):
    with self.assertRaisesRegex(
      stac_bands.StacError, "https://x.example/i.json: an address; allow it with --allow_remote"
    ):
      stac.read_items("https://x.example/i.json", roles=SIX)
    remote = hls(L30, "hls2-l30", ("B02", "B03", "B04"))
    self.assertRegex(
      self.reason(remote, roles=RGB), "asset https://data.example/.* is remote; allow it with --allow_remote"
    )

  @parameterized.parameters(
    ("s3://bucket/a/b.tif", "/vsis3/bucket/a/b.tif"),
    ("https://x.example/b.tif?token=1", "/vsicurl/https://x.example/b.tif?token=1"),
    ("file:///data/b%20c.tif", "/data/b c.tif"),
    ("/data/b.tif", "/data/b.tif"),
  )
  def test_addresses_become_paths_that_gdal_opens(self, href, expected):
    scene = self.scene(make_item("x", {"red": {"href": href}}), roles=("red",), sensor="hls", allow_remote=True)
    self.assertEqual(scene.bands[0][1], geotiff.Band(expected, 1))

  @parameterized.parameters(
    "ftp://x.example/b.tif", "gs://bucket/b.tif", "/vsizip/a.zip/b.tif", "/vsicurl/http://x/b.tif"
  )
  def test_other_addresses_are_refused(self, href):
    item = make_item("x", {"red": {"href": href}})
    reason = self.reason(item, roles=("red",), sensor="hls", allow_remote=True)
    self.assertEqual(reason, f"asset {href}: only files and addresses that begin with https:// or s3:// can be read")

  @parameterized.parameters("pystac", "pystac_client")
  def test_a_missing_extra_is_one_sentence_with_the_remedy(self, package):
    whole = importlib.import_module

    def absent(name):
      if name == package:
        raise ImportError(name)
      return whole(name)

    with mock.patch.object(importlib, "import_module", absent):
      with self.assertRaisesRegex(stac_bands.StacError, rf"'{package}': pip install -e '\.\[stac\]'"):
        stac.search("https://x.example", collections=["c"], roles=RGB) if "client" in package else self.read(landsat())

  def test_importing_the_module_needs_no_extra(self):
    whole = builtins.__import__

    def absent(name, *args, **kwargs):
      if name.partition(".")[0] in ("pystac", "pystac_client"):
        raise ImportError(name)
      return whole(name, *args, **kwargs)

    with mock.patch.object(builtins, "__import__", absent):
      importlib.reload(stac)


class RemoteTest(StacTest):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}))
    # A process of its own: GDAL waits for bytes while it holds the lock that a thread of this one would need.
    (self.root / "found.json").write_text(json.dumps(self.items()))
    command = [sys.executable, "-m", "tests.stac_server", str(self.root), str(self.root / "found.json")]
    serving = self.enterContext(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    self.addCleanup(serving.terminate)
    self.url = f"http://127.0.0.1:{int(serving.stdout.readline())}"

  def items(self):
    return [earth_search(), hls(L30, "hls2-l30", ("B02", "B03", "B04"))]

  def test_a_remote_item_and_its_files_are_read_through_windows(self):
    item = planetary_computer("04.00")
    for i, number in enumerate(("B04", "B03", "B02"), start=2):
      values = np.full((1, 12, 12), 1000 * i, np.uint16)
      geotiff.write_geotiff(self.root / f"{number}_10m.tif", values, GRID, descriptions=[None])
    geotiff.write_geotiff(self.root / "SCL_20m.tif", np.full((1, 12, 12), 9, np.uint8), GRID, descriptions=[None])
    self.write(item)
    found = stac.read_items(f"{self.url}/item.json", roles=RGB, allow_remote=True)
    (scene,) = found.scenes
    self.assertEqual(scene.bands[0][1].path, f"/vsicurl/{self.url}/B02_10m.tif")
    image, valid, cloud = scenes.read_scene(scene, GRID, roles=RGB, allow_remote=True)
    np.testing.assert_allclose(image, np.broadcast_to([0.1, 0.2, 0.3], (12, 12, 3)), rtol=1e-5)
    self.assertTrue(valid.all() and cloud.all())
    with self.assertRaisesRegex(geotiff.GeoTiffError, "no such file"):
      scenes.read_scene(scene, GRID, roles=RGB)

  def test_an_api_is_searched(self):
    found = stac.search(
      f"{self.url}/api", collections=["hls2-l30"], bbox=(-70, -23, -68, -22), datetime="2021", roles=RGB
    )
    self.assertEqual([s.id for s in found.scenes], [L30])
    self.assertStartsWith(found.scenes[0].bands[0][1].path, "/vsicurl/https://data.example/")

  def test_an_address_that_is_no_api_is_one_error(self):
    with self.assertRaisesRegex(stac_bands.StacError, f"{self.url}/none: no answer of a STAC API.*check address"):
      stac.search(f"{self.url}/none", collections=["c"], roles=RGB)
    with self.assertRaisesRegex(stac_bands.StacError, "item.json: not readable as JSON"):
      stac.read_items(f"{self.url}/item.json", roles=RGB, allow_remote=True)


if __name__ == "__main__":
  absltest.main()
