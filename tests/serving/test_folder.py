"""No request gets out of the folder, and what is read is what a service published."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sa_nowcast.errors import DataError, StorageError
from sa_nowcast.serving.folder import Published

NAME = "20190610T002200Z"


def test_files_are_what_was_published(folder: Path, ask) -> None:
    path = f"forecasts/{NAME}/forecast.nc"
    assert ask(f"/files/{path}").body == (folder / path).read_bytes()
    assert ask(f"/files/{path}").headers["content-type"] == "application/x-netcdf"
    listed = ask("/forecasts/latest").json["files"]
    assert {f["path"]: f["size"] for f in listed}[path] == (folder / path).stat().st_size
    assert ask("/files/observed.zarr/zarr.json").status == 200


ELSEWHERE = [
    "../secret",
    "forecasts/../../secret",
    "forecasts/%2e%2e/%2e%2e/secret",
    "forecasts/..%2f..%2fsecret",
    "forecasts/%252e%252e/%252e%252e/secret",
    "%2e%2e%2fsecret",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "forecasts/..%5c..%5csecret",
    "forecasts/%00",
    "forecasts//latest",
    "forecasts/./latest",
    "forecasts/out/secret",
    "forecasts/link",
    "observed.zarr/pipe",
    "forecasts",
    "forecasts/.hidden",
    "state/journal.json",
    "service.json",
    "status.json",
    "",
]


def test_nothing_else_is_handed_out(copy: Path, serve) -> None:
    (copy.parent / "secret").write_text("classified")
    (copy / "forecasts" / ".hidden").write_text("classified")
    (copy / "forecasts" / "out").symlink_to(copy.parent)
    (copy / "forecasts" / "link").symlink_to(copy.parent / "secret")
    os.mkfifo(copy / "observed.zarr" / "pipe")
    with serve(copy) as ask:
        for path in ELSEWHERE:
            for at in (f"/files/{path}", f"/page/{path}", f"/forecasts/{path}"):
                answer = ask(at)
                assert answer.status == 404, (at, answer)
                assert b"classified" not in answer.body


def test_a_link_in_place_of_a_forecast_is_none(copy: Path, tmp_path: Path) -> None:
    (copy / "forecasts" / NAME).rename(tmp_path / "elsewhere")
    (copy / "forecasts" / NAME).symlink_to(tmp_path / "elsewhere")
    assert Published(copy).names() == []
    with pytest.raises(FileNotFoundError):
        Published(copy).open(f"forecasts/{NAME}/forecast.nc")


def test_the_latest_is_the_named_one_or_the_newest(copy: Path) -> None:
    published, forecasts = Published(copy), copy / "forecasts"
    (forecasts / "20190610T002400Z").mkdir()
    assert published.latest() == NAME
    for named in ("20190610T001000Z", "../..", "\xff"):
        (copy / "latest").write_bytes(named.encode("latin1"))
        assert published.latest() == "20190610T002400Z"
    (copy / "latest").unlink()
    assert published.names() == [NAME, "20190610T002400Z"]
    assert published.latest() == "20190610T002400Z"


def test_folders_of_no_service_are_refused_in_one_line(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent: is no folder\. Fix: name the folder that a service publishes to"):
        Published(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no service publishes there \(no service.json\)"):
        Published(tmp_path)
    (copy / "status.json").write_text('{"state": ')
    with pytest.raises(
        StorageError, match=r"status.json: cannot be read \(Expecting value.*Fix: start the service again"
    ):
        Published(copy)
    (copy / "status.json").write_text("[]")
    with pytest.raises(StorageError, match="is not what a service writes"):
        Published(copy)
    (copy / "status.json").unlink()
    with pytest.raises(StorageError, match=r"status.json: cannot be read \(No such file"):
        Published(copy)
