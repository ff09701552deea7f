"""Stores at an address, read from moto's S3 server in a process of its own; Google and Azure are read from it too."""

from __future__ import annotations

import json
import logging
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from object_server import ObjectServer
from sequences import rain

import sa_nowcast
from sa_nowcast import cli
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, SaNowcastError, StorageError
from sa_nowcast.hindcast import hindcast
from sa_nowcast.sources import open_source
from sa_nowcast.sources.opening import kind_of, open_data, open_forecast
from sa_nowcast.storage.addresses import plain
from sa_nowcast.storage.remote import RemoteStore, stamp_of
from sa_nowcast.stream import SequenceDataset, loader

SECRET = "not-to-be-printed"


pytestmark = pytest.mark.usefixtures("s3")


@pytest.fixture(scope="module")
def folder(object_server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores that are also in the bucket `data`."""
    path = tmp_path_factory.mktemp("stores")
    data = rain(12).to_dataset()
    dry = {"rain": {"_FillValue": None, "chunks": (4, 24, 20)}}  # 0 is what format 2 fills with, and no rain
    data.to_zarr(path / "v3.zarr", zarr_format=3, consolidated=True)
    data.to_zarr(path / "alone.zarr", zarr_format=3, consolidated=False)
    data.to_zarr(path / "v2.zarr", zarr_format=2, consolidated=True, encoding=dry)
    sa_nowcast.convert(data, path / "converted.zarr")
    for store in path.iterdir():
        object_server.put(store, "data", f"radar/{store.name}", public=store.name != "v2.zarr")
    return path


@pytest.mark.parametrize("name", ["v3", "alone", "v2", "converted"])
@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated")
def test_a_store_in_a_bucket_opens_as_the_one_in_a_folder(name: str, folder: Path) -> None:
    here, there = open_source(folder / f"{name}.zarr"), open_source(f"s3://data/radar/{name}.zarr")
    assert there.identical(here)
    assert there["rain"].encoding["chunks"] == here["rain"].encoding["chunks"]
    assert there.encoding["source"] == f"s3://data/radar/{name}.zarr"


def test_google_azure_and_a_web_server_give_the_same_store(
    s3: ObjectServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"gcs_base_url": s3.url, "disable_oauth": True}
    keys = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    (tmp_path / "account.json").write_text(json.dumps(account | keys))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", s3.url)
    here = open_source(folder / "v3.zarr")
    for root in ("gs://data", "az://data", f"{s3.url}/data"):
        assert open_source(f"{root}/radar/v3.zarr").identical(here)


def test_without_credentials_public_stores_are_read_and_others_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert open_source("s3://data/radar/v3.zarr").identical(open_source(folder / "v3.zarr"))
    with pytest.raises(StorageError, match="without credentials, and the environment has none"):
        open_source("s3://data/radar/v2.zarr")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("s3://dato/radar/v3.zarr", DataError, "no such bucket at http://127.0.0.1"),
        ("s3://data/radar/v4.zarr", DataError, "looked for zarr.json, .zmetadata, .zgroup. Fix: write s3://data/rad"),
        ("s3://data/radar/v3.zarr/rain", DataError, "is a Zarr array"),
        ("s3://private-data/v3.zarr", StorageError, "with the credentials of the environment (403 AccessDenied)"),
        ("s3://frankfurt-data/v3.zarr", StorageError, "another region than us-east-1"),
        ("http://127.0.0.1:9/v3.zarr", StorageError, "the server 127.0.0.1:9 cannot be reached after 3 retries"),
        ("ftp://data/v3.zarr", RecipeError, "addresses that begin with ftp:// are not read"),
        (f"s3://somebody:{SECRET}@data/v3.zarr", RecipeError, "the address held a user"),
        (f"https://data/v3.zarr?X-Amz-Signature={SECRET}", RecipeError, "the address held a user"),
        ("s3:///v3.zarr", RecipeError, "no bucket in the address"),
        ("az://data/v3.zarr", RecipeError, "the settings of the environment"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_line(address: str, kind: type[SaNowcastError], words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)) as caught:
        open_source(address)
    line = str(caught.value)
    assert plain(address).rpartition("/")[0] in line or "bucket" in line
    assert "\n" not in line
    assert SECRET not in line
    assert caught.value.__cause__ is None or not type(caught.value.__cause__).__module__.startswith("obstore")


def test_a_web_server_needs_consolidated_metadata(s3: ObjectServer, folder: Path) -> None:
    with pytest.raises(DataError, match="a web server does not list"):
        open_source(f"{s3.url}/data/radar/alone.zarr")


def test_secrets_stay_in_the_environment(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    opened = sa_nowcast.open_zarr("s3://data/radar/converted.zarr", chunks={})
    sent = pickle.dumps(opened)
    texts = [sent.decode("latin1"), repr(opened), str(opened.encoding), caplog.text, repr(RemoteStore("s3://data/x"))]
    assert not any(SECRET in text for text in texts)
    received: xr.Dataset = pickle.loads(sent)  # noqa: S301
    assert received.identical(sa_nowcast.open_zarr(folder / "converted.zarr"))


def test_a_converted_store_that_lost_a_shard_or_has_another_is_not_read(s3: ObjectServer, folder: Path) -> None:
    address = s3.put(folder / "converted.zarr", "data", "broken.zarr")
    s3.put(folder / "converted.zarr/zarr.json", "data", "broken.zarr/rain/c/0/0/0")
    with pytest.raises(DataError, match="its SHA-256 differs"):
        open_source(address)["rain"].load()
    s3.delete("data", "broken.zarr/rain/c/0/0/0")
    with pytest.raises(DataError, match="is missing"):
        open_source(address)["rain"].load()


def test_what_a_store_holds_is_known_again_and_a_change_of_it_too(s3: ObjectServer, folder: Path) -> None:
    address = s3.put(folder / "v3.zarr", "data", "changing.zarr")
    before = stamp_of(address)
    assert before == stamp_of(address)
    s3.put(folder / "v3.zarr/zarr.json", "data", "changing.zarr/rain/c/0/0/0")
    assert before != stamp_of(address)


def test_an_archive_in_a_bucket_is_a_forecast(s3: ObjectServer, tmp_path: Path) -> None:
    archive = hindcast(rain(12), "persistence", 3, to=tmp_path / "archive.zarr")
    address = s3.put(tmp_path / "archive.zarr", "data", "archive.zarr")
    assert kind_of(address) == "forecast"
    np.testing.assert_array_equal(open_forecast(address).values, archive.values)


def _of_mlcast(path: Path) -> Path:
    """Write a store that follows the specification of source data, but for its length and who made it."""
    spec = pytest.importorskip(
        "mlcast_dataset_validator.specs.source_data.radar_precipitation",
        reason="the validator is on the package index: pip install mlcast-dataset-validator",
    )
    pyproj = pytest.importorskip("pyproj", reason="pip install pyproj")
    from mlcast_dataset_validator import __version__ as version

    crs = pyproj.CRS("+proj=laea +lat_0=52 +lon_0=10 +datum=WGS84")
    data = rain(12, 256, 256).rename("rainfall_flux")
    data.attrs |= {"standard_name": "rainfall_flux", "units": "kg m-2 h-1", "grid_mapping": "crs"}
    x, y = np.meshgrid(data["x"], data["y"])
    longitude, latitude = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    ds = data.assign_coords(
        latitude=(("y", "x"), latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        longitude=(("y", "x"), longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    ).to_dataset()
    wkt = {"spatial_ref": crs.to_wkt(), "crs_wkt": crs.to_wkt()}
    ds["crs"] = xr.DataArray(np.int32(0), attrs=crs.to_cf() | wkt)
    attrs = {
        "license": "CC-BY-4.0",
        "mlcast_created_on": "2026-01-01T00:00:00",
        "mlcast_created_by": "A Scientist <a.scientist@example.org>",
        "mlcast_created_with": "https://github.com/mlcast-community/mlcast-dataset-nl-knmi@v0.1.0",
        "mlcast_dataset_version": "0.1.0",
        "mlcast_dataset_validator_version": version,
        "mlcast_dataset_identifier": "NL-KNMI-precipitation",
    }
    sa_nowcast.convert(ds, path, attrs=attrs, y="y", x="x")
    report, _ = spec.validate_dataset(xr.open_zarr(path))
    others = {"Minimum 3-year coverage", "Creator software GitHub repository", "Creator software GitHub revision"}
    failed = {f"{r.requirement}: {r.detail}" for r in report.results if r.status == "FAIL"}
    assert {line for line in failed if line.partition(":")[0] not in others} == set()
    return path


@pytest.mark.slow
def test_a_store_of_the_mlcast_standard_opens_by_the_name_of_its_variable(s3: ObjectServer, tmp_path: Path) -> None:
    here = _of_mlcast(tmp_path / "NL-KNMI-precipitation.zarr")
    address = s3.put(here, "data", "NL-KNMI-precipitation.zarr")
    wanted = rain(12, 256, 256).values
    np.testing.assert_array_equal(open_source(address)["rainfall_flux"], wanted)
    np.testing.assert_array_equal(open_data(address, variables=["rainfall_flux"])["rainfall_flux"], wanted)
    dataset = SequenceDataset(address, 3, 2, variables=["rainfall_flux"], shuffle=False)
    np.testing.assert_array_equal(next(iter(loader(dataset, 1)))[0, :, 0], wanted[:5])
    again = tmp_path / "again.zarr"
    assert _run("convert", address, str(again), "--variable", "rainfall_flux", "--quiet") == 0
    np.testing.assert_array_equal(open_source(again)["rainfall_flux"], wanted)


def _run(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sa-nowcast", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("folder")
def test_the_command_line_inspects_and_converts_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("inspect", "s3://data/radar/v3.zarr", "--json") == 0
    assert json.loads(capsys.readouterr().out)["zarr_format"] == 3
    assert _run("convert", "s3://data/radar/v3.zarr", str(tmp_path / "here.zarr"), "--quiet") == 0
    assert sa_nowcast.open_zarr(tmp_path / "here.zarr")["rain"].equals(rain(12))


@pytest.mark.usefixtures("folder")
def test_without_obstore_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingLibraryError, match=re.escape(install("remote"))):
        open_source("s3://data/radar/v3.zarr")
