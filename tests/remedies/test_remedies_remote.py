"""Stores at an address."""

from __future__ import annotations

import pytest
import zarr
from sequences import rain

from remedies.trial import remedy
from sa_nowcast.conversion import convert
from sa_nowcast.sources import open_source

ADDRESSES = "storage/addresses.py"
REMOTE = "storage/remote.py"


@pytest.fixture
def address(s3, tmp_path):
    rain(6).to_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=3, consolidated=True)
    return s3.put(tmp_path / "rain.zarr", "data", "radar/rain.zarr")


@remedy(ADDRESSES, "leave them out and set … in the environment", "leave them out")
@pytest.mark.parametrize("how", ["s3", "http"])
def test_an_address_with_a_secret_in_it(how, address, s3, tmp_path):
    s3.put(tmp_path / "rain.zarr", "data", "public.zarr", public=True)
    web = f"{s3.url}/data/public.zarr"
    yield lambda: open_source("s3://me:mine@data/radar/rain.zarr" if how == "s3" else f"{web}?X-Amz-Signature=a")
    yield lambda: open_source(address if how == "s3" else web)


@remedy(REMOTE, "copy the store there again")
def test_a_shard_that_was_lost(s3, tmp_path):
    convert(rain(6), tmp_path / "rain.zarr")
    place = s3.put(tmp_path / "rain.zarr", "data", "lost.zarr")
    s3.delete("data", "lost.zarr/rain/c/0/0/0")
    yield lambda: open_source(place).load()
    s3.put(tmp_path / "rain.zarr", "data", "lost.zarr")


@remedy(REMOTE, "run zarr.consolidate_metadata on the store where it is written, or give its s3:// address")
@pytest.mark.parametrize("how", ["consolidate", "s3"])
def test_a_web_server_that_does_not_list(how, s3, tmp_path):
    rain(6).to_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=3, consolidated=False)
    place = s3.put(tmp_path / "rain.zarr", "data", "alone.zarr", public=True)
    yield lambda: open_source(f"{s3.url}/data/alone.zarr")
    if how == "s3":
        yield lambda: open_source(place)
    else:
        zarr.consolidate_metadata(tmp_path / "rain.zarr")
        s3.put(tmp_path / "rain.zarr", "data", "alone.zarr", public=True)


@remedy(REMOTE, "run it again later, or with fewer workers")
def test_a_server_that_throttles(address, s3):
    s3.set(throttle=1000)
    yield lambda: open_source(address)
    s3.set(throttle=0)


@remedy(REMOTE, "set AWS_REGION to the region of the bucket")
def test_a_bucket_of_another_region(address, s3, tmp_path, monkeypatch):
    s3.put(tmp_path / "rain.zarr", "frankfurt-data", "rain.zarr")
    yield lambda: open_source("s3://frankfurt-data/rain.zarr")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")


@remedy(REMOTE, "check the network…")
def test_a_server_that_is_not_there(address, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fix = yield lambda: open_source(address)
    assert "AWS_ENDPOINT_URL, which is http://127.0.0.1:9" in fix
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)


@remedy(REMOTE, "run it again later")
def test_a_server_that_fails(address, s3):
    s3.set(fail=1)
    yield lambda: open_source(address)
    s3.set(fail=0)


@remedy(REMOTE, "give an address that anyone may read")
def test_a_web_server_that_refuses(address, s3, tmp_path):
    places = iter([f"{s3.url}/data/radar/rain.zarr", f"{s3.url}/data/public.zarr"])
    s3.put(tmp_path / "rain.zarr", "data", "public.zarr", public=True)
    yield lambda: open_source(next(places))


@remedy(REMOTE, "set … in the environment")
def test_no_credentials(address, s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fix = yield lambda: open_source(address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert name in fix
        monkeypatch.setenv(name, s3.environment[name])


@remedy(REMOTE, "set … to those of an account that may list and read it…")
def test_credentials_that_do_not_reach(address, s3, monkeypatch):
    s3.set(refuse=1)
    yield lambda: open_source(address)
    s3.set(refuse=0)


@remedy(REMOTE, "name a bucket that is there…")
def test_no_such_bucket(address):
    places = iter(["s3://dato/radar/rain.zarr", address])
    yield lambda: open_source(next(places))


@remedy(REMOTE, "give the address of the folder that holds one of them")
def test_no_store_on_a_web_server(address, s3, tmp_path):
    s3.put(tmp_path / "rain.zarr", "data", "public.zarr", public=True)
    places = iter([f"{s3.url}/data/public", f"{s3.url}/data/public.zarr"])
    yield lambda: open_source(next(places))


@remedy(REMOTE, "write …://…/…", "name a store that is there; …://…/… holds …")
@pytest.mark.parametrize("name", ["rein.zarr", "q"])
def test_no_such_store(name, address):
    places = iter([f"s3://data/radar/{name}", address])
    fix = yield lambda: open_source(next(places))
    assert "rain.zarr" in fix


@remedy(REMOTE, "set …… rightly")
def test_an_azure_account_that_is_not_named(address, s3, tmp_path, monkeypatch):
    s3.put(tmp_path / "rain.zarr", "data", "public.zarr", public=True)
    fix = yield lambda: open_source("az://data/public.zarr")
    assert "AZURE_STORAGE_ACCOUNT_NAME" in fix
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", s3.url)
