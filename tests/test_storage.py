from __future__ import annotations

import fcntl
import os
import socket
import threading
from pathlib import Path

import pytest

from sa_nowcast.errors import StorageError
from sa_nowcast.storage import whole as storage
from sa_nowcast.storage.whole import locked, partial_beside, put_in_place, remove


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def make(path: Path, kind: str, text: str) -> Path:
    if kind == "folder":
        path.mkdir()
        (path / "file").write_text(text)
    elif kind == "file":
        path.write_text(text)
    return path


def read(path: Path) -> str:
    return (path / "file" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("former", ["file", "folder", "nothing"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_what_is_finished_takes_the_place_of_whatever_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str, former: str, exchange: bool
) -> None:
    if not exchange:  # as on some network file systems
        monkeypatch.setattr(storage, "_exchanged", lambda one, other: False)
    make(tmp_path / "target", former, "former")
    put_in_place(make(tmp_path / "whole", new, "new"), tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert read(tmp_path / "target") == "new"


def test_without_an_exchange_an_error_leaves_the_former_folder_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_exchanged", lambda one, other: False)
    make(tmp_path / "target", "folder", "former")
    make(tmp_path / "whole", "folder", "new")
    rename = os.rename

    def failing(one: Path, other: Path) -> None:
        if one == tmp_path / "whole":
            raise OSError(5, "Input/output error")
        rename(one, other)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        put_in_place(tmp_path / "whole", tmp_path / "target")
    assert read(tmp_path / "target") == "former"


def test_what_a_killed_process_left_is_removed_and_what_a_living_or_far_one_writes_is_not(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    host, target = socket.gethostname(), tmp_path / "a[b].nc"
    dead = tmp_path / f".a[b].nc.{host}-{child}-12345678.partial"
    kept = {f".a[b].nc.{host}-{os.getppid()}-12345678.partial", f".a[b].nc.elsewhere-{child}-12345678.partial"}
    other = {f".other.nc.{host}-{child}-12345678.partial", ".a[b].nc.mine.partial"}
    for name in (dead.name, *kept, *other):
        (tmp_path / name).write_text("half")
    with partial_beside(target) as partial:
        partial.write_text("whole")
        put_in_place(partial, target)
    assert set(names(tmp_path)) == {"a[b].nc", *kept, *other}


def test_a_lock_is_held_by_one_names_its_holder_and_is_gone_at_the_end(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    lock.parent.mkdir()
    lock.write_text("process 1 on nowhere")  # of a killed process: nobody holds it
    with locked(lock, tmp_path / "out"):
        message = rf"out: is being written by process {os.getpid()} on {socket.gethostname()}\."
        with pytest.raises(StorageError, match=message), locked(lock, tmp_path / "out"):
            pass
    assert names(lock.parent) == []


@pytest.mark.parametrize("left", ["", "process 4194304 on {}"], ids=["nothing yet", "of a killed one"])
def test_the_holder_of_a_lock_is_named_also_where_it_is_just_about_to_write_its_name(tmp_path: Path, left: str) -> None:
    lock, name = tmp_path / "out.lock", f"process {os.getpid()} on {socket.gethostname()}"
    lock.write_text(left.format(socket.gethostname()))  # above the largest process number
    with lock.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Timer(0.2, lock.write_text, [name])
        writer.start()
        with pytest.raises(StorageError, match=f"is being written by {name}"), locked(lock, tmp_path / "out"):
            pass
        writer.join()


def test_nothing_is_removed_where_nothing_is_and_a_link_is_removed_without_its_target(tmp_path: Path) -> None:
    remove(tmp_path / "none")
    make(tmp_path / "folder", "folder", "kept")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert read(tmp_path / "folder") == "kept"
