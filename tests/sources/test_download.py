from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.sources import fetch
from sa_nowcast.sources.download import PUBLIC, RemoteFile, fetch_file

pytest.importorskip("pooch", reason="downloads need pooch: pip install pooch")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}", folder
        http_server.shutdown()
        thread.join()


def test_a_file_is_downloaded_checked_and_not_again(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "a.bin").write_bytes(b"abc")
    file = RemoteFile(f"{url}/a.bin", "sha256:" + hashlib.sha256(b"abc").hexdigest())
    assert fetch_file(file, tmp_path / "here").read_bytes() == b"abc"
    (folder / "a.bin").unlink()
    assert fetch_file(file, tmp_path / "here").read_bytes() == b"abc"


def test_an_archive_is_unpacked_beside_it(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    with zipfile.ZipFile(folder / "films.zip", "w") as archive:
        archive.writestr("person01_boxing_d1_uncomp.avi", b"film")
    digest = hashlib.sha1((folder / "films.zip").read_bytes(), usedforsecurity=False).hexdigest()
    fetch_file(RemoteFile(f"{url}/films.zip", f"sha1:{digest}", unpack=True), tmp_path / "here")
    assert (tmp_path / "here" / "person01_boxing_d1_uncomp.avi").read_bytes() == b"film"


def test_a_wrong_hash_is_refused_and_nothing_stays(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "a.bin").write_bytes(b"altered")
    with pytest.raises(DataError, match="another hash, expected sha256:00"):
        fetch_file(RemoteFile(f"{url}/a.bin", "sha256:" + "00" * 32), tmp_path / "here")
    assert not (tmp_path / "here" / "a.bin").exists()


def test_a_server_that_does_not_answer_is_said(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be downloaded"):
        fetch_file(RemoteFile(f"{server[0]}/nothing", "md5:" + "0" * 32), tmp_path)


def test_data_that_are_not_public_are_said_so() -> None:
    with pytest.raises(DataError, match="cannot be downloaded by a program"):
        fetch("taxibj", "here")
    with pytest.raises(RecipeError, match="'moving_mnist', the nearest"):
        fetch("movingmnist", "here")


def test_every_public_file_has_a_hash() -> None:
    for files in PUBLIC.values():
        for file in files:
            kind, _, digest = file.hash.partition(":")
            assert len(digest) == {"md5": 32, "sha1": 40, "sha256": 64}[kind]
            assert file.url.startswith("https://")
