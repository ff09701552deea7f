from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sequences import of_two_grids, rounded, wrf

from sa_nowcast.conversion import COMPLETE, VariablePlan, convert, open_zarr, run, verify
from sa_nowcast.errors import DataError, Interrupted, RecipeError, StorageError
from sa_nowcast.storage.shards import LARGEST_SHARD, frames_per_shard


def rain(frames: int = 20, *, dtype: str = "int16", step: str = "5min") -> xr.Dataset:
    """A packed rain sequence as it comes out of a file, half of it dry and a corner missing."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 300, (frames, 12, 10)) * 0.1 * (rng.random((frames, 12, 10)) > 0.5)
    values[:, 0, :3] = np.nan
    values[3] = 0.0
    ds = xr.Dataset(
        {
            "rain": (("time", "y", "x"), values, {"units": "mm h-1", "long_name": "rain", "grid_mapping": "crs"}),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
        },
        {
            "time": pd.date_range("2024-01-01", periods=frames, freq=step),
            "y": ("y", np.arange(12.0)[::-1], {"units": "km", "axis": "Y"}),
            "x": ("x", np.arange(10.0), {"units": "km", "axis": "X"}),
            "height": (("y", "x"), rng.random((12, 10)), {"units": "m"}),
        },
        {"title": "made", "license": "CC-BY-4.0"},
    )
    if dtype != "float64":
        encoding = {"dtype": np.dtype(dtype), "scale_factor": 0.1, "_FillValue": np.dtype(dtype).type(-1)}
        packed = np.where(np.isnan(values), -1, np.rint(values / 0.1)).astype(dtype)
        variable = xr.Variable(ds.rain.dims, packed, {"scale_factor": 0.1, "_FillValue": encoding["_FillValue"]})
        decoded = xr.conventions.decode_cf_variable("rain", variable)
        ds["rain"] = (ds.rain.dims, decoded.values, ds.rain.attrs)
        ds.rain.encoding = encoding
    return ds


def shard_files(store: Path, name: str = "rain") -> list[Path]:
    return sorted(p for p in (store / name / "c").rglob("*") if p.is_file())


# What is written


def test_one_frame_is_a_chunk_many_are_a_shard_with_checksums_and_packed_values(tmp_path: Path) -> None:
    plan = convert(rain(), tmp_path / "out.zarr", frames_per_shard=8)
    array = zarr.open_array(tmp_path / "out.zarr", path="rain", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.dtype == np.int16
    assert array.chunks == (1, 12, 10)
    assert array.shards == (8, 12, 10)
    assert [c.to_dict()["name"] for c in array.compressors] == ["zstd"]
    assert array.compressors[0].checksum
    assert array.fill_value == -1
    assert len(shard_files(tmp_path / "out.zarr")) == 3 == plan.shards
    assert plan.stored_nbytes == sum(f.stat().st_size for f in shard_files(tmp_path / "out.zarr"))


@pytest.mark.parametrize("dtype", ["int16", "float64"])
@pytest.mark.parametrize("reader", ["ours", "xarray"])
def test_the_store_reads_back_equal_with_its_metadata(tmp_path: Path, dtype: str, reader: str) -> None:
    source = rain(dtype=dtype)
    convert(source, tmp_path / "out.zarr", frames_per_shard=6)
    back = open_zarr(tmp_path / "out.zarr") if reader == "ours" else xr.open_zarr(tmp_path / "out.zarr", chunks=None)
    np.testing.assert_array_equal(back.rain.values.view(np.int64), source.rain.values.view(np.int64))
    for name in ("time", "y", "x", "height"):
        np.testing.assert_array_equal(back[name].values, source[name].values)
        assert source[name].attrs.items() <= back[name].attrs.items()
    assert back.rain.attrs == source.rain.attrs
    assert back.crs.attrs == source.crs.attrs
    assert source.attrs.items() <= back.attrs.items()
    assert COMPLETE in back.attrs


def test_dry_chunks_are_written_so_that_a_missing_one_means_missing(tmp_path: Path) -> None:
    dry = rain(dtype="float64")
    dry["rain"] = dry.rain * 0 + 0
    dry["rain"] = dry.rain.fillna(0)
    convert(dry, tmp_path / "out.zarr", frames_per_shard=4)
    for file in shard_files(tmp_path / "out.zarr"):
        index = np.frombuffer(file.read_bytes()[-4 - 16 * 4 : -4], "<u8")
        assert (index != 2**64 - 1).all()


def test_a_file_is_converted_without_unpacking_what_it_packs(tmp_path: Path) -> None:
    rain().to_netcdf(tmp_path / "rain.nc")
    convert(tmp_path / "rain.nc", tmp_path / "out.zarr")
    raw = xr.open_dataset(tmp_path / "rain.nc", mask_and_scale=False).rain
    stored = zarr.open_array(tmp_path / "out.zarr", path="rain", mode="r")[...]
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, raw.values)


def test_values_that_their_packing_cannot_hold_are_refused_before_the_store_exists(tmp_path: Path) -> None:
    source = rain()
    source["rain"].values[7, 5, 5] = 0.05
    with pytest.raises(DataError, match="values change when they are packed as int16 again"):
        convert(source, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_dataset_opened_packed_is_stored_packed(tmp_path: Path) -> None:
    rain().to_netcdf(tmp_path / "rain.nc")
    convert(xr.open_dataset(tmp_path / "rain.nc", mask_and_scale=False), tmp_path / "out.zarr")
    np.testing.assert_array_equal(open_zarr(tmp_path / "out.zarr").rain.values, rain().rain.values)
    assert zarr.open_array(tmp_path / "out.zarr", path="rain").dtype == np.int16


def test_time_comes_first_and_rows_and_columns_last(tmp_path: Path) -> None:
    source = rain().transpose("x", "y", "time")
    convert(source, tmp_path / "out.zarr")
    back = open_zarr(tmp_path / "out.zarr").rain
    assert back.dims == ("time", "y", "x")
    np.testing.assert_array_equal(back.values, source.rain.transpose("time", "y", "x").values)


def test_sequences_stay_before_time_and_text_coordinates_stay(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (7, 5, 6, 8), dtype=np.uint8)
    films = xr.Dataset(
        {"intensity": (("sequence", "time", "y", "x"), values)},
        {
            "time": pd.date_range("1970-01-01", periods=5, freq="40ms"),
            "film": ("sequence", [f"film{i}" for i in range(7)]),
        },
    )
    plan = convert(films, tmp_path / "out.zarr", frames_per_shard=12)
    assert plan.variables[0].shards == (2, 5, 6, 8)
    back = open_zarr(tmp_path / "out.zarr")
    np.testing.assert_array_equal(back.intensity.values, values)
    assert back.film.values.tolist() == films.film.values.tolist()
    assert (back.time.values == films.time.values).all()


def test_missing_times_are_listed_outside_the_time_axis(tmp_path: Path) -> None:
    source = rain().isel(time=[0, 1, 2, 5, 6, 7, 8, 12])
    plan = convert(source, tmp_path / "out.zarr")
    back = xr.open_zarr(tmp_path / "out.zarr")
    whole = rain().time.values
    assert (back.time.values == source.time.values).all()
    assert (back.missing_times.values == whole[[3, 4, 9, 10, 11]]).all()
    assert len(plan.missing_times) == 5
    assert plan.step == np.timedelta64(5, "m")
    again = convert(back, tmp_path / "again.zarr")
    assert again.missing_times.tolist() == plan.missing_times.tolist()


# What is refused


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 1, 2], "2024-01-01T00:05: the time occurs twice, expected each time once"),
        ([0, 2, 1, 3], "2024-01-01T00:05: the time follows 2024-01-01T00:10, expected increasing times"),
    ],
)
def test_times_out_of_order_are_refused(tmp_path: Path, order: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(rain().isel(time=order), tmp_path / "out.zarr")


def test_months_are_refused_as_irregular_and_allowed_by_name(tmp_path: Path) -> None:
    months = rain(12, step="MS")
    with pytest.raises(
        DataError, match=r"2024-03-01T00:00: step is 29 d, expected 31 d or a multiple of it. Fix: pass irregular="
    ):
        convert(months, tmp_path / "out.zarr")
    plan = convert(months, tmp_path / "out.zarr", irregular="allow")
    assert plan.step is None
    assert len(plan.missing_times) == 0
    np.testing.assert_array_equal(open_zarr(tmp_path / "out.zarr").rain.values, months.rain.values)


def test_an_existing_store_is_left_alone_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    convert(rain(), target)
    before = target.stat().st_mtime_ns
    with pytest.raises(StorageError, match="exists already"):
        convert(rain(8), target)
    assert target.stat().st_mtime_ns == before
    convert(rain(8), target, existing="replace")
    assert open_zarr(target).sizes["time"] == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(StorageError, match="is no Zarr store; it is left alone"):
        convert(rain(), tmp_path / "thesis", existing="replace")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_bad_arguments_give_one_clear_line(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    for key, value, message in (
        ("existing", "overwrite", "'refuse' or 'replace'"), ("irregular", "ok", "'refuse' or 'allow'"),
        ("window", 0, "1 to"), ("level", 23, "1 to 22"), ("workers", 0, "1 to"),
        ("variables", ["snow"], "'snow' is not in the source, expected some of rain"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            convert(rain(), target, **{key: value})
    with pytest.raises(RecipeError, match="only a rename is atomic"):
        convert(rain(), "s3://bucket/out.zarr")
    with pytest.raises(RecipeError, match="'taxibj', the nearest"):
        convert(tmp_path, target, engine="taxibjj")
    with pytest.raises(DataError, match="no variable has time and two more dimensions"):
        convert(rain()[["crs"]].assign_coords(time=rain().time), target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere: run as another user")
def test_a_target_that_cannot_be_written_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        convert(rain(), tmp_path / "locked" / "out.zarr")


def test_a_target_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        convert(rain(), tmp_path / "file" / "out.zarr")


# Planning


def test_a_dry_run_returns_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    plan = convert(rain(), tmp_path / "out.zarr", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    text = str(plan)
    assert "20 frames every 5 min, 2024-01-01T00:00 to 2024-01-01T01:35, 0 missing times" in text
    assert (
        "rain (time, y, x) int16: 20 x 12 x 10, 4.8 kB; chunk 1 frame, 240 B; shard 20 frames, 4.8 kB; 1 shards" in text
    )
    assert json.loads(json.dumps(plan.as_dict()))["frames"] == 20
    assert plan.stored_nbytes is None


@given(frame=st.integers(1, 2**32), frames=st.integers(1, 10**6), window=st.integers(1, 100))
def test_shards_hold_eight_windows_unless_they_grow_too_large(frame: int, frames: int, window: int) -> None:
    chosen = frames_per_shard(frame, frames, window)
    assert 1 <= chosen <= frames
    assert chosen == 1 or chosen * frame <= LARGEST_SHARD
    assert chosen >= min(8 * window, frames) or (chosen + 1) * frame > LARGEST_SHARD


@given(
    lead=st.lists(st.integers(1, 6), max_size=2), length=st.integers(1, 30),
    frame=st.lists(st.integers(1, 4), min_size=2, max_size=3), wanted=st.integers(1, 200),
)  # fmt: skip
def test_shards_cover_every_value_once(lead: list[int], length: int, frame: list[int], wanted: int) -> None:
    shape = (*lead, length, *frame)
    plan = VariablePlan.choose("v", tuple(map(str, range(len(shape)))), shape, np.dtype("i2"), len(lead), 20, wanted)
    count = np.zeros(shape, int)
    for index in plan.indices():
        count[plan.region(index)] += 1
    assert (count == 1).all()
    assert all(s % c == 0 for s, c in zip(plan.shards, plan.chunks, strict=True))
    frames = np.prod(plan.shards[: len(lead) + 1])
    assert frames <= max(wanted, 1)


# Stopping and going on


def failing_after(source: xr.Dataset, shards: int, error: BaseException) -> tuple[xr.Dataset, dict[str, int]]:
    """The source, dask-backed in blocks of 4 frames, of which one fails; and a count of its reads."""
    reads = {"count": 0}

    def block(values: np.ndarray, block_info: dict) -> np.ndarray:
        reads["count"] += 1
        if block_info[0]["chunk-location"][0] == shards:
            raise error
        return values

    lazy = source.chunk(time=4)
    encoding = source.rain.encoding
    lazy["rain"] = lazy.rain.copy(
        data=lazy.rain.data.map_blocks(block, dtype=source.rain.dtype, meta=np.empty((0, 0, 0)))
    )
    lazy.rain.encoding = encoding
    reads["count"] = 0
    return lazy, reads


def test_a_conversion_that_failed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    broken, _ = failing_after(rain(), 3, OSError("disk read error"))
    with pytest.raises(DataError, match="rain, 2024-01-01T01:00 to 2024-01-01T01:15: the source cannot be read"):
        convert(broken, target, frames_per_shard=4, workers=1)
    assert not target.exists()
    with pytest.raises(DataError, match="the conversion did not end"):
        open_zarr(target)
    kept = len(shard_files(tmp_path / "out.zarr.partial"))
    assert kept >= 3
    whole, reads = failing_after(rain(), 99, OSError())
    seen: list[tuple[int, int]] = []
    convert(whole, target, frames_per_shard=4, workers=1, progress=lambda d, n: seen.append((d, n)))
    assert reads["count"] <= 2
    assert seen[0][0] >= 3
    assert seen[-1] == (5, 5)
    np.testing.assert_array_equal(open_zarr(target).rain.values, rain().rain.values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr"]


def test_a_shard_that_changed_since_is_written_again(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    broken, _ = failing_after(rain(), 4, OSError())
    with pytest.raises(DataError):
        convert(broken, target, frames_per_shard=4, workers=1)
    file = shard_files(tmp_path / "out.zarr.partial")[0]
    damaged = bytearray(file.read_bytes())
    damaged[10] ^= 1
    file.write_bytes(damaged)
    convert(rain(), target, frames_per_shard=4)
    np.testing.assert_array_equal(open_zarr(target).rain.values, rain().rain.values)


def test_files_whose_values_alone_changed_are_not_mixed_with_what_was_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "rain.nc", tmp_path / "out.zarr"
    rain().to_netcdf(source)
    write, written = run.write_shard, []

    def stopping(*args: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*args))
        return written[-1]

    monkeypatch.setattr(run, "write_shard", stopping)
    with pytest.raises(Interrupted):
        convert(source, target, frames_per_shard=4, workers=1)
    monkeypatch.setattr(run, "write_shard", write)
    corrected = rain()
    corrected["rain"] = corrected.rain.copy(data=corrected.rain.values[:, ::-1])
    source.unlink()
    corrected.to_netcdf(source)
    with pytest.raises(StorageError, match="holds an unfinished conversion of other data or settings"):
        convert(source, target, frames_per_shard=4)
    convert(source, target, frames_per_shard=4, existing="replace")
    np.testing.assert_array_equal(open_zarr(target).rain.values, corrected.rain.values)


def test_the_rest_of_another_conversion_is_not_mixed_in(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    broken, _ = failing_after(rain(), 4, OSError())
    with pytest.raises(DataError):
        convert(broken, target, frames_per_shard=4, workers=1)
    other = rain().assign_coords(time=rain().time + np.timedelta64(1, "D"))
    with pytest.raises(StorageError, match="holds an unfinished conversion of other data or settings"):
        convert(other, target, frames_per_shard=4)
    convert(other, target, frames_per_shard=4, existing="replace")
    assert open_zarr(target).time.values[0] == np.datetime64("2024-01-02")


def test_what_a_former_version_left_unfinished_is_refused_and_replaced_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    broken, _ = failing_after(rain(), 4, OSError())
    with pytest.raises(DataError):
        convert(broken, target, frames_per_shard=4, workers=1)
    # Its journal was one file.
    shutil.rmtree(tmp_path / "out.zarr.partial.journal")
    (tmp_path / "out.zarr.partial.jsonl").write_text('{"fingerprint": "of then"}\n')
    with pytest.raises(StorageError, match="something else stands where the store would grow"):
        convert(rain(), target, frames_per_shard=4)
    convert(rain(), target, frames_per_shard=4, existing="replace")
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]
    np.testing.assert_array_equal(open_zarr(target).rain.values, rain().rain.values)


def test_the_plan_does_not_depend_on_how_numpy_prints(tmp_path: Path) -> None:
    # Importing pysteps changes numpy's print options; a conversion must be resumed all the same.
    plans = []
    for legacy in (False, "1.25"):
        with np.printoptions(legacy=legacy):
            plans.append(convert(rain(), tmp_path / "out.zarr", dry_run=True))
    assert plans[0].fingerprint == plans[1].fingerprint


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="run the same again to go on"):
        convert(rain(), tmp_path / "out.zarr", frames_per_shard=2, workers=1, progress=stop)
    convert(rain(), tmp_path / "out.zarr", frames_per_shard=2)
    verify(tmp_path / "out.zarr")


def test_a_store_that_has_lost_its_metadata_is_replaced_when_asked(tmp_path: Path) -> None:
    convert(rain(), tmp_path / "out.zarr")
    (tmp_path / "out.zarr" / "zarr.json").unlink()
    with pytest.raises(StorageError, match="exists already"):
        convert(rain(), tmp_path / "out.zarr")
    convert(rain(), tmp_path / "out.zarr", existing="replace")
    verify(tmp_path / "out.zarr")


@pytest.mark.parametrize("file", ["zarr.json", "rain/zarr.json", "x/c/0"])
@pytest.mark.parametrize("damage", ["emptied", "altered"])
def test_damage_to_what_an_interrupted_one_laid_out_does_not_come_into_the_store(
    file: str, damage: str, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        convert(rain(), tmp_path / "out.zarr", frames_per_shard=2, workers=1, progress=stop)
    laid_out = tmp_path / "out.zarr.partial" / file
    whole = laid_out.read_bytes()
    laid_out.write_bytes(b"" if damage == "emptied" else whole.replace(b"0", b"1").replace(b"\x00", b"\x01"))
    assert laid_out.read_bytes() != whole
    convert(rain(), tmp_path / "out.zarr", frames_per_shard=2)
    convert(rain(), tmp_path / "sound.zarr", frames_per_shard=2)
    files = [p.relative_to(tmp_path / "sound.zarr") for p in (tmp_path / "sound.zarr").rglob("*") if p.is_file()]
    for name in files:
        assert (tmp_path / "out.zarr" / name).read_bytes() == (tmp_path / "sound.zarr" / name).read_bytes(), name


SLOW_WRITER = """
import sys, time
import sa_nowcast.conversion.run as run
from sa_nowcast.conversion import convert
from test_conversion import rain
def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.2)
convert(rain(), sys.argv[1], frames_per_shard=1, workers=1, progress=slowly)
"""


def test_a_killed_conversion_leaves_no_store_holds_off_others_and_is_resumed(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(target)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 3:
                break
        with pytest.raises(StorageError, match=f"is being written by process {process.pid} on "):
            convert(rain(), target, frames_per_shard=1)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    done: list[int] = []
    convert(rain(), target, frames_per_shard=1, progress=lambda d, n: done.append(d))
    assert 3 <= done[0] < 20
    np.testing.assert_array_equal(open_zarr(target).rain.values, rain().rain.values)


# Reading


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("stored") / "out.zarr"
    convert(rain(), target, frames_per_shard=8)
    return target


def damaged(stored: Path, tmp_path: Path) -> tuple[Path, Path]:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(stored, copy)
    return copy, shard_files(copy)[1]


def test_every_flipped_bit_in_a_chunk_is_caught_and_named(stored: Path, tmp_path: Path) -> None:
    copy, file = damaged(stored, tmp_path)
    whole = file.read_bytes()
    index = np.frombuffer(whole[-4 - 16 * 8 : -4], "<u8").reshape(8, 2)
    rng = np.random.default_rng(0)
    for _ in range(30):
        frame = int(rng.integers(8))
        offset, size = (int(v) for v in index[frame])
        at = offset + int(rng.integers(size))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        try:
            values = open_zarr(copy).rain.values
        except DataError as error:
            time_ = str(rain().time.values[8 + frame].astype("datetime64[m]"))
            assert f"rain, {time_}: chunk {8 + frame}.0.0 in rain/c/1/0/0 is damaged" in str(error)  # noqa: PT017
        else:
            # Zstandard's frame header has a few bits that carry nothing: the values are then what they were.
            np.testing.assert_array_equal(values, rain().rain.values)


def test_a_cut_shard_is_named(stored: Path, tmp_path: Path) -> None:
    copy, file = damaged(stored, tmp_path)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"rain, 2024-01-01T00:40: chunk 8.0.0 in rain/c/1/0/0 is damaged"):
        open_zarr(copy).rain.load()
    with pytest.raises(DataError, match="is damaged"):
        verify(copy)
    np.testing.assert_array_equal(open_zarr(copy, check="mark").rain[:8].values, rain().rain[:8].values)


def test_a_missing_shard_is_named_at_opening_and_at_reading(stored: Path, tmp_path: Path) -> None:
    copy, file = damaged(stored, tmp_path)
    ds = open_zarr(copy)
    file.unlink()
    message = r"rain, 2024-01-01T00:40 to 2024-01-01T01:15: the chunk file rain/c/1/0/0 is missing"
    with pytest.raises(DataError, match=message):
        open_zarr(copy)
    with pytest.raises(DataError, match=message):
        ds.rain.load()
    with pytest.raises(DataError, match=message):
        open_zarr(copy, check="mark").rain[9].load()
    np.testing.assert_array_equal(open_zarr(copy, check="mark").rain[0].values, rain().rain[0].values)


def test_a_store_without_its_mark_is_refused(stored: Path, tmp_path: Path) -> None:
    copy, _ = damaged(stored, tmp_path)
    document = json.loads((copy / "zarr.json").read_text())
    del document["attributes"][COMPLETE]
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"the metadata file zarr\.json is damaged"):
        open_zarr(copy)
    with pytest.raises(DataError, match="has no completion mark"):
        open_zarr(copy, check="mark")
    shutil.rmtree(copy / "sa_nowcast_files")
    with pytest.raises(DataError, match="has no completion mark"):
        open_zarr(copy)
    assert open_zarr(copy, check="nothing").sizes["time"] == 20
    with pytest.raises(DataError, match="no such store"):
        open_zarr(tmp_path / "nothing.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is no Zarr store"):
        open_zarr(tmp_path / "folder")
    with pytest.raises(RecipeError, match="'chunks' or 'mark' or 'nothing'"):
        open_zarr(copy, check="all")  # type: ignore[arg-type]


@given(
    time_=st.one_of(st.integers(-20, 19), st.lists(st.integers(0, 19), max_size=6), st.slices(20)),
    y=st.one_of(st.integers(-12, 11), st.lists(st.integers(0, 11), max_size=4), st.slices(12)),
    x=st.one_of(st.integers(-10, 9), st.lists(st.integers(0, 9), max_size=4), st.slices(10)),
)
def test_every_selection_from_a_store_equals_the_selection_in_memory(
    stored: Path, time_: object, y: object, x: object
) -> None:
    for key, size in ((time_, 20), (y, 12), (x, 10)):
        if isinstance(key, slice) and not len(range(*key.indices(size))):
            return  # xarray itself fails on an empty slice that runs backwards
    key = {"time": time_, "y": y, "x": x}
    np.testing.assert_array_equal(open_zarr(stored, check="mark").rain.isel(key).values, rain().rain.isel(key).values)


def test_a_store_goes_to_other_processes_and_into_dask(stored: Path) -> None:
    ds = open_zarr(stored, chunks={})
    assert ds.rain.chunks == ((1,) * 20, (12,), (10,))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds)).rain.values, rain().rain.values)  # noqa: S301
    lazy = pickle.loads(pickle.dumps(open_zarr(stored)))  # noqa: S301
    np.testing.assert_array_equal(lazy.rain.values, rain().rain.values)


# Other machines and other people's rules


@pytest.mark.slow
def test_a_cluster_named_by_its_address_writes_the_same_store(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="clusters need pip install distributed")
    rain(40).to_netcdf(tmp_path / "rain.nc")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        convert(tmp_path / "rain.nc", tmp_path / "far.zarr", frames_per_shard=4, cluster=cluster.scheduler_address)
    convert(tmp_path / "rain.nc", tmp_path / "near.zarr", frames_per_shard=4)
    for far, near in zip(shard_files(tmp_path / "far.zarr"), shard_files(tmp_path / "near.zarr"), strict=True):
        assert far.read_bytes() == near.read_bytes()


def test_a_year_of_traffic_keeps_its_channels_labels_and_gaps(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="TaxiBJ is HDF5: pip install h5py")
    sys.path.insert(0, str(Path(__file__).parent / "sources"))
    from source_files import taxibj_stamps, write_taxibj

    data = write_taxibj(tmp_path / "BJ16_M32x32_T30_InOut.h5", taxibj_stamps("2015-11-01", 2, (7,)))
    plan = convert(tmp_path / "BJ16_M32x32_T30_InOut.h5", tmp_path / "out.zarr", engine="taxibj")
    assert plan.variables[0].chunks == (1, 2, 32, 32)
    back = open_zarr(tmp_path / "out.zarr")
    np.testing.assert_array_equal(back.crowd_flow.values, data)
    assert back.flow.values.tolist() == ["inflow", "outflow"]
    assert back.missing_times.values.tolist() == np.array(["2015-11-01T03:30"], "datetime64[ns]").tolist()
    assert (back.year == 2016).all()


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_said(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="clusters need pip install distributed")
    with pytest.raises(RecipeError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        convert(rain(), tmp_path / "out.zarr", cluster="tcp://127.0.0.1:9")


def test_threads_and_a_cluster_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="workers: 2, with a cluster"):
        convert(rain(), tmp_path / "out.zarr", workers=2, cluster="tcp://127.0.0.1:9")


# What a short extract by anyone cannot have: three years, a public repository, and a licence that the data lack.
OUT_OF_SCOPE = {"Minimum 3-year coverage", "Creator software GitHub repository", "Creator software GitHub revision"}


def test_the_store_follows_the_mlcast_specification_of_source_data(real_data: Path, tmp_path: Path) -> None:
    spec = pytest.importorskip(
        "mlcast_dataset_validator.specs.source_data.radar_precipitation",
        reason="the validator is on the package index: pip install mlcast-dataset-validator",
    )
    pytest.importorskip("pysteps", reason="the radar files are read by pysteps: pip install pysteps")
    from mlcast_dataset_validator import __version__ as version

    files = [p for i, p in enumerate(sorted((real_data / "radar/knmi").iterdir())) if i < 12 and i not in (4, 5)]
    convert(
        files,
        tmp_path / "knmi.zarr",
        engine="knmi_hdf5",
        attrs={
            "license": "CC-BY-4.0",
            "mlcast_created_on": "2026-01-01T00:00:00",
            "mlcast_created_by": "A Scientist <a.scientist@example.org>",
            "mlcast_created_with": "https://github.com/mlcast-community/mlcast-dataset-nl-knmi@v0.1.0",
            "mlcast_dataset_version": "0.1.0",
            "mlcast_dataset_validator_version": version,
            "mlcast_dataset_identifier": "NL-KNMI-precipitation",
        },
    )
    report, _ = spec.validate_dataset(xr.open_zarr(tmp_path / "knmi.zarr"))
    failed = {
        f"{r.requirement}: {r.detail}"
        for r in report.results
        if r.status == "FAIL" and r.requirement not in OUT_OF_SCOPE
    }
    assert failed == set()
    passed = {r.requirement for r in report.results if r.status == "PASS"}
    assert {"Missing times metadata", "Zarr version compatibility"} <= passed


@pytest.mark.parametrize(
    ("path", "engine", "variable", "dtype"),
    [
        ("mrms/mrms_precip_rate_2019-06-10.nc", None, "precip_rate", "int16"),
        ("radar/fmi/20170509/*12[0-5]*", "fmi_pgm", "equivalent_reflectivity_factor", "uint8"),
        ("radar/knmi/*0[01]??.h5", "knmi_hdf5", "precipitation_amount", "uint16"),
        ("radar/mch/20150515/*16??F*", "mch_gif", "precipitation_amount", "float32"),
        ("radar/bom/*_0[01]*", None, "precipitation", "int16"),
        ("era5", None, "t2m", "float32"),
        ("winds", None, "UWND", "float32"),
    ],
)
def test_real_sources_are_stored_packed_and_read_back_equal(
    real_data: Path, tmp_path: Path, path: str, engine: str | None, variable: str, dtype: str
) -> None:
    from sa_nowcast.sources import open_source

    if engine is not None:
        pytest.importorskip("pysteps", reason="radar composites are read by pysteps: pip install pysteps")
    source = (
        open_source(real_data / path, engine=engine).isel(time=slice(12))
        if "mrms" in path
        else open_source(real_data / path, engine=engine)
    )
    convert(source, tmp_path / "out.zarr")
    assert zarr.open_array(tmp_path / "out.zarr", path=variable).dtype == dtype
    back = xr.open_zarr(tmp_path / "out.zarr", chunks=None)[variable]
    np.testing.assert_array_equal(back.values, source[variable].values, strict=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated")
def test_a_store_of_format_2_becomes_one_of_format_3(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "satellite/msg_hrv_2020-04-01_v2.zarr"
    convert(path, tmp_path / "out.zarr", workers=2)
    source, back = xr.open_zarr(path, chunks=None), xr.open_zarr(tmp_path / "out.zarr", chunks=None)
    assert back.data.dtype == np.int16
    np.testing.assert_array_equal(back.data.values, source.data.values)
    np.testing.assert_array_equal(back.x.values, source.x.values)


def test_rounded_times_are_stored_as_the_exact_ones(tmp_path: Path) -> None:
    exact = rain(20)
    jittered = exact.assign_coords(time=rounded(exact["rain"])["time"])
    convert(jittered, tmp_path / "a.zarr")
    stored = open_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(stored["time"].values, exact["time"].values)
    assert stored["time"].encoding["units"] == "seconds since 1970-01-01"
    plan = convert(jittered.isel(time=[*range(8), *range(10, 20)]), tmp_path / "b.zarr")
    np.testing.assert_array_equal(plan.missing_times, exact["time"].values[8:10])


def test_a_file_of_wrf_is_converted_with_its_times_and_places(tmp_path: Path) -> None:
    convert(wrf(8), tmp_path / "a.zarr", variables=["T2"])
    stored = open_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(stored["Time"].values, wrf(8)["XTIME"].values)
    assert {"XLAT", "XLONG"} <= set(stored.coords)
    np.testing.assert_array_equal(stored["T2"].values, wrf(8)["T2"].values)


def test_variables_on_several_grids_are_each_stored_in_their_own_order(tmp_path: Path) -> None:
    ds = (
        of_two_grids(rain(12)["rain"].drop_vars("height"))
        .drop_vars(["model", "time_model"])
        .transpose("x", "xs", "time", "y", "ys")
    )
    convert(ds, tmp_path / "a.zarr")
    stored = open_zarr(tmp_path / "a.zarr")
    assert (stored["rain"].dims, stored["satellite"].dims) == (("time", "y", "x"), ("time", "ys", "xs"))


def test_times_beyond_nanoseconds_are_not_converted(tmp_path: Path) -> None:
    far = rain(4).assign_coords(time=np.datetime64("3000-01-01", "s") + np.arange(4) * np.timedelta64(300, "s"))
    with pytest.raises(DataError, match="4 of 4 times are in the years 3000 to 3000"):
        convert(far, tmp_path / "a.zarr")
