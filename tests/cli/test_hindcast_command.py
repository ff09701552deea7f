"""hindcast and convert: what would stop them is said by a dry run; Ctrl-C ends them with 75, and they go on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from command_line import PROGRAM, Here, environment
from sequences import georeferenced, rain

import sa_nowcast


def test_a_dry_run_of_hindcast_writes_nothing_and_fails_where_the_run_would(
    here: Here, radar: Path, saved: Path, tmp_path: Path, no_folder: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    common = ("hindcast", radar, tmp_path / "a.zarr", "--model", saved, "--quiet")
    here(*common, "--dry-run", "--json")
    document = json.loads(here.out)
    assert document["dims"] == {"init_time": 37, "lead_time": 3, "y": 24, "x": 20}
    assert document["units"] == "mm h-1"
    assert sorted(tmp_path.iterdir()) == before
    assert here(*common).code == 0
    for dry in ([], ["--dry-run"]):
        here.fails(5, "holds another hindcast", *common, "--steps", "2", *dry)
        line = f"STORAGE {no_folder / 'a.zarr'}: cannot be written (Not a directory)"
        here.fails(5, line, "hindcast", radar, no_folder / "a.zarr", "--model", saved, "--quiet", *dry)
        here.fails(3, "no such file", "hindcast", "none.nc", tmp_path / "b.zarr", "--model", saved, "--quiet", *dry)
        here.fails(4, "no such folder", "hindcast", radar, tmp_path / "b.zarr", "--model", "none", "--quiet", *dry)


def test_a_dry_run_of_convert_fails_where_the_run_would(
    here: Here, radar: Path, tmp_path: Path, no_folder: Path
) -> None:
    here("convert", radar, tmp_path / "a.zarr", "--dry-run", "--json")
    assert json.loads(here.out)["frames"] == 40
    assert not (tmp_path / "a.zarr").exists()
    assert here("convert", radar, tmp_path / "a.zarr", "--quiet").code == 0
    for dry in ([], ["--dry-run"]):
        here.fails(5, "exists already", "convert", radar, tmp_path / "a.zarr", "--quiet", *dry)
        here.fails(5, f"{no_folder / 'a.zarr'}: cannot be written", "convert", radar, no_folder / "a.zarr", *dry)
        here.fails(2, "'rian' is not in the source", "convert", radar, tmp_path / "b", "--variable", "rian", *dry)
        here.fails(2, "'engien' is not known", "convert", radar, tmp_path / "b", "--engine", "engien", *dry)


def test_climatology_averages_the_frames_until_a_time_or_those_of_another_file(here: Here, tmp_path: Path) -> None:
    frames = georeferenced(rain(96, step="1h"))
    source, target = tmp_path / "weather.nc", tmp_path / "usual.zarr"
    frames.to_netcdf(source)
    until = str(frames["time"].values[47])[:16]
    common = ("hindcast", source, target, "--steps", "2", "--from", str(frames["time"].values[48])[:16], "--quiet")
    here.fails(2, "no training period is given", *common, "--model", "climatology")
    here.fails(2, "--training-until: 'someday'", *common, "--model", "climatology", "--training-until", "someday")
    here.fails(3, "no frame until 1990", *common, "--model", "climatology", "--training-until", "1990-01-01")
    here.fails(2, "--cycle: given for persistence", *common, "--model", "persistence", "--cycle", "day")
    assert here(*common, "--model", "climatology", "--training-until", until).code == 0
    made = sa_nowcast.open_zarr(str(target))
    early, first = frames.isel(time=slice(0, 48)), frames["time"].values[49]
    same_hour = early["time"].dt.hour == pd.Timestamp(first).hour
    name = "rain"
    expected = early[name].isel(time=same_hour.values).mean("time")
    np.testing.assert_allclose(made[name].isel(init_time=0, lead_time=0), expected, rtol=1e-5)  # float32
    early.to_netcdf(tmp_path / "early.nc")
    other = ("hindcast", source, tmp_path / "other.zarr", *common[3:], "--model", "climatology")
    assert here(*other, "--training", tmp_path / "early.nc").code == 0
    xr.testing.assert_equal(sa_nowcast.open_zarr(str(tmp_path / "other.zarr"))[name], made[name])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["hindcast", "convert", "verify"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_ends_a_command_with_one_line_and_75_and_the_same_call_goes_on(
    command: str, number: signal.Signals, saved: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "long.nc", tmp_path / "out.zarr"
    georeferenced(rain(3000, 64, 64)).to_netcdf(source)
    arguments = {
        "hindcast": ["hindcast", str(source), str(target), "--model", str(saved), "--quiet"],
        "convert": ["convert", str(source), str(target), "--quiet", "--window", "1"],
        "verify": ["verify", str(target), str(source), "--metric", "ssim", "--data-range", "0", "30"],
    }[command]
    if command == "verify":
        make = ["hindcast", str(source), str(target), "--model", "persistence", "--steps", "3", "--quiet"]
        subprocess.run([*PROGRAM, *make], check=True, capture_output=True, env=environment())
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A job in the background of a shell has Ctrl-C switched off, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    try:
        said = _wait_until_at_work(process, command, target)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (75, ""), said + err
    (line,) = err.splitlines()
    assert line.startswith("INTERRUPTED")
    assert "run the same again" in line
    if command != "verify":
        assert not target.exists()
        again = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False, env=environment())
        assert again.returncode == 0, again.stderr
        assert target.exists()


def _wait_until_at_work(process: subprocess.Popen[str], command: str, target: Path) -> str:
    """Wait until chunks are written, or scores are being made; return what was said until then."""
    assert process.stderr is not None
    said = ""
    if command == "verify":
        while "scoring" not in said:
            said += process.stderr.readline()
            assert process.poll() is None, said
    else:
        partial = target.with_name(target.name + ".partial")
        while not list(partial.rglob("c/*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    time.sleep(0.3)
    return said


def test_the_product_of_a_hindcast_is_chosen(here: Here, radar: Path, saved: Path, tmp_path: Path) -> None:
    common = ("hindcast", radar, tmp_path / "a.zarr", "--stride", "9", "--quiet")
    here(*common, "--model", saved, "--product", "matched")
    with sa_nowcast.open_zarr(tmp_path / "a.zarr") as archive, xr.open_dataset(radar) as ds:
        wanted = ds.sa_nowcast.hindcast(model=str(saved), product="matched", stride=9)
        np.testing.assert_array_equal(archive["rain"], wanted)
        assert archive["rain"].attrs["sa_nowcast_product"] == "matched"
    here.fails(5, "holds another hindcast", *common, "--model", saved)
    line = "product: 'matched' of persistence, expected a network. Fix: leave product out"
    here.fails(2, line, *common, "--model", "persistence", "--steps", "2", "--product", "matched")
