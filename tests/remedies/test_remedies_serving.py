"""What a service published: its folder, and the address at which it is shown."""

from __future__ import annotations

import json

import pytest

from remedies.trial import keywords, remedy
from sa_nowcast.serving.folder import Published
from sa_nowcast.serving.running import bind


def _start(folder):
    """Do what a service does first."""
    folder.mkdir(exist_ok=True)
    for name in ("service.json", "status.json"):
        (folder / name).write_text(json.dumps({"state": "ok"}))


@remedy("serving/folder.py", "name the folder that a service publishes to")
def test_a_folder_that_is_not_there(tmp_path):
    _start(tmp_path / "nowcasts")
    yield lambda: Published(tmp_path / "nowcast")
    yield lambda: Published(tmp_path / "nowcasts")


@remedy("serving/folder.py", "name the folder of the service's recipe")
def test_a_folder_of_no_service(tmp_path):
    _start(tmp_path / "nowcasts")
    yield lambda: Published(tmp_path)
    yield lambda: Published(tmp_path / "nowcasts")


@remedy("serving/folder.py", "start the service again, which writes it")
@pytest.mark.parametrize("content", ['{"state":', "[]"])
def test_a_state_that_cannot_be_read(tmp_path, content):
    _start(tmp_path)
    (tmp_path / "status.json").write_text(content)
    yield lambda: Published(tmp_path)
    _start(tmp_path)


@remedy("serving/running.py", "pass host='127.0.0.1'")
@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine(host):
    fix = yield lambda: bind(host, 0)
    yield lambda: bind(**{"port": 0, **keywords(fix)}).close()


@remedy("serving/running.py", "pass port=0 for any that is free")
def test_a_port_in_use():
    with bind("127.0.0.1", 0) as taken:
        fix = yield lambda: bind("127.0.0.1", taken.getsockname()[1])
        yield lambda: bind("127.0.0.1", **keywords(fix)).close()
