"""What a run leaves beside its results: nothing; its rights: those that the umask says; and no call to anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from nursery import Nursery
from test_signals import STAGES, Given, given

__all__ = ["given"]


@pytest.mark.parametrize("mask", [0o027, 0o002], ids=oct)
def test_files_and_folders_have_the_rights_that_the_umask_leaves_and_nothing_else_is_left(
    mask: int, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    inputs, _ = given
    for stage in ("run", "convert", "hindcast", "verify"):
        nursery.well("masked", mask, str(tmp_path), *(a.format(inputs) for a in STAGES[stage]))
    for path in tmp_path.rglob("*"):
        rights = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.stat().st_mode & 0o777 == rights, (path, oct(path.stat().st_mode))
        assert "partial" not in path.name
        assert path.name != ".lock"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "out.zarr", "run", "scores.csv"]


def test_neither_an_import_nor_a_run_uses_the_network(nursery: Nursery, given: Given, tmp_path: Path) -> None:
    # All of this folder's processes are under the same guard, from before their imports on.
    refused = nursery.one("call_out")
    assert refused.code == 99
    assert "ConnectionRefusedError: socket.getaddrinfo" in refused.error
    nursery.well("import_all")
    inputs, _ = given
    for stage, arguments in STAGES.items():
        (tmp_path / stage).mkdir()
        nursery.well("cli", str(tmp_path / stage), *(a.format(inputs) for a in arguments))


def test_nothing_is_written_but_below_the_folder_of_the_output(nursery: Nursery, given: Given, tmp_path: Path) -> None:
    """Temporary files are beside what they become."""
    inputs, _ = given
    (tmp_path / "here").mkdir()
    seen = nursery.one("watched", str(tmp_path / "here"), "convert", f"{inputs}/rain.nc", "../there.zarr", "--quiet")
    assert f"os.mkdir {tmp_path}/there.zarr.partial" in seen.error
    for stage, arguments in STAGES.items():
        (tmp_path / stage).mkdir()
        nursery.well("watched", str(tmp_path / stage), *(a.format(inputs) for a in arguments))
