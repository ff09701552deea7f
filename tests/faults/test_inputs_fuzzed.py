"""Recipes and datasets of every kind, made by hypothesis: the right answer or one line, never a traceback."""

from __future__ import annotations

import itertools
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.recipe import parse_recipe
from sa_nowcast.recipe.tree import shipped_recipes
from sa_nowcast.scaling import ChannelScaling, Scaling
from sa_nowcast.sources import open_taxibj
from sa_nowcast.sources.idx import read_digits
from sa_nowcast.stream import SequenceDataset
from sa_nowcast.stream.batch import prepare
from sa_nowcast.windows import window_starts

SEED = int(os.environ.get("SA_NOWCAST_FAULTS_SEED", "0"))


def hammered(test: Any, repetitions: int) -> None:
    """Run a hypothesis test so many times."""
    print(f"seed {SEED}, {repetitions} examples")
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    how = settings(
        max_examples=repetitions, deadline=None, database=None, derandomize=False, suppress_health_check=health
    )
    seed(SEED)(how(test))()


# --- recipes

SHIPPED = sorted(p.read_text() for p in shipped_recipes().values())
LINES = [line for text in SHIPPED for line in text.splitlines()]
ODD = st.one_of(
    st.text(max_size=20), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from([
        "1e999", "9" * 400, "&a [*a]", "!!python/name:os.system", "{" * 50, "- - - -", "\t", "'", "|", "? :", "${HOME}",
        "../..", "-1", "1e6", ".nan",
    ]),
)  # fmt: skip


@st.composite
def recipes(draw: Any) -> str:
    """Return a shipped recipe with some lines changed, lost, doubled, moved, or cut."""
    lines = list(draw(st.sampled_from(SHIPPED)).splitlines())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        what = draw(st.sampled_from(["value", "value", "value", "lose", "double", "indent", "other", "text", "cut"]))
        if what == "value":
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon or ':'} {draw(ODD)}"
        elif what == "lose":
            del lines[at]
            lines = lines or [""]
        elif what == "double":
            lines.insert(at, lines[at])
        elif what == "indent":
            lines[at] = " " * draw(st.integers(0, 6)) + lines[at].lstrip()
        elif what == "other":
            lines[at] = draw(st.sampled_from(LINES))
        elif what == "text":
            lines[at] = draw(st.text(max_size=40))
        else:
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
    return "\n".join(lines)


@pytest.mark.faults(150, 10_000)
def test_any_recipe_is_read_or_refused_in_one_line_within_two_seconds(repetitions: int) -> None:
    ends, longest = {"read": 0, "refused": 0}, [0.0]

    @given(recipes())
    def check(text: str) -> None:
        begin = time.process_time()
        try:
            parse_recipe(text)
            ends["read"] += 1
        except RecipeError as error:
            assert "\n" not in str(error)  # noqa: PT017
            ends["refused"] += 1
        longest[0] = max(longest[0], time.process_time() - begin)

    hammered(check, repetitions)
    print(f"{ends}, slowest {longest[0]:.2f} s")
    assert longest[0] < 2


# --- datasets

TROUBLES = ["duplicate", "unsorted", "irregular", "nat", "zone", "cftime", "text", "infinite", "no time", "empty"]
EPOCH = np.datetime64("2021-03-01T00:00", "ns")


@st.composite
def datasets(draw: Any) -> dict[str, Any]:
    """Return a small dataset, what is odd about it, and the plain values that it stands for."""
    frames, height, width = draw(st.integers(1, 14)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    step = draw(st.sampled_from([1, 5, 7, 30]))
    positions = list(range(frames))
    for _ in range(draw(st.integers(0, 2))):  # gaps
        if len(positions) > 1:
            del positions[draw(st.integers(0, len(positions) - 1))]
    minutes = [p * step for p in positions]
    trouble = draw(st.sampled_from(["none"] * 8 + TROUBLES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.round(rng.uniform(-5, 50, (len(positions), height, width)), 1)
    for _ in range(draw(st.integers(0, 3))):  # missing pixels and frames
        t = draw(st.integers(0, len(positions) - 1))
        if draw(st.booleans()):
            values[t] = np.nan
        else:
            values[t, draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = np.nan
    return {
        "values": values, "minutes": minutes, "step": step, "trouble": trouble,
        "south_up": draw(st.booleans()) and height > 1, "east_first": draw(st.booleans()) and width > 1,
        "order": draw(st.permutations(["time", "y", "x"])), "packed": draw(st.booleans()),
        "history": draw(st.integers(1, 5)), "steps": draw(st.sampled_from([0, 1, 2, 3, 10**6])),
        "stride": draw(st.integers(1, 3)),
    }  # fmt: skip


def between(minutes: list[int]) -> int:
    """Where the third of irregular frames is, in seconds: a third of the way from the second to the fourth."""
    return 60 * minutes[1] + (60 * minutes[3] - 60 * minutes[1]) // 3


def built(case: dict[str, Any]) -> xr.DataArray:
    """Return the case as a user would have it."""
    values, minutes, trouble = case["values"], list(case["minutes"]), case["trouble"]
    times: Any = EPOCH + np.array(minutes) * np.timedelta64(60 * 10**9, "ns")
    if trouble == "duplicate" and len(times) > 1:
        times[1] = times[0]
    elif trouble == "unsorted" and len(times) > 1:
        times = times[::-1].copy()
    elif trouble == "irregular" and len(times) > 3:
        times[2] = EPOCH + np.timedelta64(between(minutes), "s")
    elif trouble == "nat":
        times[-1] = np.datetime64("NaT")
    elif trouble == "zone":
        times = pd.DatetimeIndex(times).tz_localize("Europe/Oslo")
    elif trouble == "cftime":
        times = xr.date_range("2021-02-01", periods=len(times), freq="5min", calendar="360_day", use_cftime=True)
    elif trouble == "text":
        values = values.astype(str)
    elif trouble == "infinite":
        values = values.copy()
        values[-1, 0, 0] = np.inf
    height, width = values.shape[1:]
    y, x = 1000.0 * np.arange(height)[::-1], 1000.0 * np.arange(width)
    coords = {"time": times, "y": y, "x": x}
    if trouble == "no time":
        del coords["time"]
    # A quantity that may be negative: of rain, whole numbers below zero are codes for missing.
    da = xr.DataArray(values, dims=("time", "y", "x"), coords=coords, name="rain", attrs={"units": "degC"})
    da = da[:, :: -1 if case["south_up"] else 1, :: -1 if case["east_first"] else 1]
    if trouble == "empty":
        da = da[:0]
    if case["packed"] and trouble not in ("text", "infinite"):
        packed = np.where(np.isnan(da.values), -32768, np.round(da.values * 10)).astype(np.int16)
        attrs = {**da.attrs, "scale_factor": 0.1, "_FillValue": np.int16(-32768)}
        da = xr.DataArray(packed, dims=da.dims, coords=da.coords, name="rain", attrs=attrs)
    return da.transpose(*case["order"])


def slow_windows(seconds: list[int], step: int, length: int, stride: int) -> list[int]:
    """Every start from which `length` frames follow each other, every `stride`-th after each gap; by counting."""
    starts, run = [], 0
    for i in range(len(seconds)):
        run = run + 1 if i and seconds[i] - seconds[i - 1] == step else 0
        whole = all(i + k < len(seconds) and seconds[i + k] - seconds[i] == k * step for k in range(length))
        if whole and run % stride == 0:
            starts.append(i)
    return starts


def slow_step(seconds: list[int]) -> int | None:
    """The most frequent difference, the smallest of equals; None where there is none."""
    differences = [b - a for a, b in itertools.pairwise(seconds)]
    return min(set(differences), key=lambda d: (-differences.count(d), d)) if differences else None


def slow_filled(raw: Any, history: int) -> Any:
    """Missing pixels as the latest valid value before, else the earliest within the history, else 0; one by one."""
    out = np.zeros_like(raw)
    for t, row, column in np.ndindex(raw.shape):
        before = [raw[k, row, column] for k in range(t, -1, -1) if not np.isnan(raw[k, row, column])]
        after = [raw[k, row, column] for k in range(history) if not np.isnan(raw[k, row, column])]
        out[t, row, column] = (before + after + [0.0])[0]
    return out


SAME = Scaling((ChannelScaling("affine", "mm h-1", 0.0, 1.0),))


@pytest.mark.faults(200, 10_000)
def test_any_data_set_gives_the_windows_and_masks_that_counting_gives_or_one_line(repetitions: int) -> None:
    ends = {"windows": 0, "refused": 0, "samples": 0}

    @given(datasets())
    def check(case: dict[str, Any]) -> None:
        da, minutes, history, steps = built(case), case["minutes"], case["history"], case["steps"]
        seconds, n = [60 * m for m in minutes], len(minutes)
        if case["trouble"] == "irregular" and n > 3:
            seconds[2] = between(minutes)
        step = slow_step(seconds)
        broken = {
            "duplicate": n > 1, "unsorted": n > 1,
            "nat": True, "cftime": True, "text": True, "no time": True, "empty": True,
        }.get(case["trouble"], False)  # fmt: skip
        try:
            frames = Frames.from_xarray(da, gaps="skip")
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert broken or step is None, (case, error)  # noqa: PT017
            ends["refused"] += 1
            return
        assert not broken, case
        assert step is not None, case
        if len({b - a for a, b in itertools.pairwise(seconds)}) > 1:
            with pytest.raises(DataError):
                Frames.from_xarray(da)  # gaps are refused unless they are meant
        if case["trouble"] == "infinite":
            with pytest.raises(DataError, match="infinite"):
                frames.read(0, n)
            ends["refused"] += 1
            return
        found = frames.read(0, n)[:, 0]
        expected = np.round(case["values"], 1)
        # Packed tenths unpack within half a step of float32 of what they were: 50 has an ulp of 4e-6.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        starts = slow_windows(seconds, step, history + max(steps, 1), case["stride"])
        if steps:
            mine = window_starts(frames.segments, history + steps, (0, n), stride=case["stride"])
            assert list(mine) == starts, case
        try:
            dataset = SequenceDataset(da, history, steps, gaps="skip", stride=case["stride"], shuffle=False)
        except (DataError, RecipeError) as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert steps == 0 or not starts, (case, error)  # noqa: PT017
            ends["refused"] += 1
            return
        assert steps
        assert len(dataset) == len(starts), case
        ends["windows"] += len(starts)
        for number in {0, len(starts) - 1}:
            sample = dataset[number]
            raw = expected[starts[number] : starts[number] + history + steps]
            np.testing.assert_allclose(sample[:, 0].numpy(), raw, rtol=0, atol=1e-5)
            seen = prepare(sample[None], SAME, history)
            there = ~np.isnan(raw)
            np.testing.assert_array_equal(seen.valid_BTCHW[0, :, 0].numpy(), there)
            np.testing.assert_allclose(seen.x_BTCHW[0, :, 0].numpy(), slow_filled(raw, history), rtol=0, atol=1e-5)
            ends["samples"] += 1

    hammered(check, repetitions)
    print(ends)
    assert min(ends.values()) > 0


# --- readers of files


@pytest.mark.faults(100, 5000)
def test_any_bytes_for_digits_are_read_or_refused_in_one_line(repetitions: int, tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    sizes = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), min_size=3, max_size=3)
    head = st.tuples(st.sampled_from([b"\x00\x00\x08\x03", b"\x00\x00\x08\x01", b""]), sizes)

    @given(head, st.binary(max_size=40))
    def check(start: tuple[bytes, list[int]], rest: bytes) -> None:
        file.write_bytes(start[0] + struct.pack(">3I", *start[1]) + rest)
        try:
            found = read_digits(tmp_path, "train", check_hash=False)
            assert found.shape == tuple(start[1])
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017

    hammered(check, repetitions)


@pytest.mark.parametrize("damaged", ["BJ16_M32x32_T30_InOut.h5", "BJ_Meteorology.h5"])
@pytest.mark.faults(20, 10_000)
def test_any_damage_to_a_taxibj_file_is_read_or_refused_in_one_line(
    repetitions: int, damaged: str, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py", reason="TaxiBJ is HDF5: pip install h5py")
    flow, weather = tmp_path / "BJ16_M32x32_T30_InOut.h5", tmp_path / "BJ_Meteorology.h5"
    dates = np.array([f"20160101{s:02d}".encode() for s in range(1, 7)])
    with h5py.File(flow, "w") as made:
        made["data"] = np.arange(6 * 2 * 32 * 32, dtype=np.float32).reshape(6, 2, 32, 32) % 100
        made["date"] = dates
        first = made["data"].id.get_offset()
        last = first + made["data"].id.get_storage_size()
    with h5py.File(weather, "w") as made:
        made["date"], made["Weather"] = dates, np.eye(6, 17)
        made["Temperature"], made["WindSpeed"] = np.linspace(-5, 0, 6), np.linspace(0, 3, 6)
    file = tmp_path / damaged
    whole = file.read_bytes()
    # Damaged counts are other counts; all else of the file is structure and dates.
    structure = st.integers(0, len(whole) - 1)
    if file == flow:
        structure = st.one_of(st.integers(0, first + 8), st.integers(last - 8, len(whole) - 1))

    ends = {"read": 0, "refused": 0}

    @given(st.lists(st.tuples(structure, st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 3))
    def check(changes: list[tuple[int, int]], cut: int) -> None:
        data = bytearray(whole)
        for at, value in changes:
            data[at] = value
        file.write_bytes(bytes(data[: len(data) // cut]) if cut else bytes(data))
        try:
            frames = Frames.from_xarray(open_taxibj(flow, meteorology=weather), gaps="skip")
            frames.read(0, len(frames))
            ends["read"] += 1
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
            ends["refused"] += 1

    hammered(check, repetitions)
    print(f"{damaged}: {ends['refused']} refused, {ends['read']} read")
