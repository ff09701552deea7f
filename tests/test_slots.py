"""A store that grows while it is read."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.errors import StorageError
from sa_nowcast.storage.slots import STATUS, SlotStore

FIRST, STEP = np.datetime64("2020-01-01T00:00", "ns"), np.timedelta64(300, "s")


def made(place: Path, step: np.timedelta64 = STEP, first: np.datetime64 = FIRST) -> SlotStore:
    store = SlotStore(place, "time", step)
    template = xr.Dataset(
        {
            "rain": (("time", "y", "x"), np.zeros((0, 4, 3), np.float32), {"units": "mm h-1"}),
            STATUS: ("time", np.zeros(0, np.int64)),
        },
        {"time": ("time", np.empty(0, "M8[ns]"), {"standard_name": "time"}), "y": np.arange(4.0), "x": np.arange(3.0)},
    )
    store.create(first, template, {"id": "a"})
    return store


def entry(value: float) -> dict[str, np.ndarray]:
    return {"rain": np.full((4, 3), value, np.float32), STATUS: np.int64(0)}


def test_entries_may_come_late_and_what_is_not_there_reads_as_missing(tmp_path: Path) -> None:
    store = made(tmp_path / "a.zarr")
    for place in (0, 3, 2):
        store.put(FIRST + place * STEP, entry(place))
    with xr.open_zarr(tmp_path / "a.zarr") as ds:
        assert ds["time"].values.tolist() == (FIRST + np.arange(4) * STEP).tolist()
        np.testing.assert_array_equal(ds["rain"][:, 1, 1], np.float32([0, np.nan, 2, 3]))
        assert ds[STATUS].values.tolist() == [0, -1, 0, 0]
        assert ds["rain"].attrs["units"] == "mm h-1"
    again = SlotStore(tmp_path / "a.zarr", "time", STEP)
    assert (again.size, again.owner()["id"]) == (4, "a")
    assert again.get(FIRST + STEP, "rain") is None
    assert again.written("rain") == [FIRST + i * STEP for i in (0, 2, 3)]
    again.remove(FIRST, (STATUS, "rain"))
    assert not again.has(FIRST, "rain")
    with pytest.raises(StorageError, match="before its first time"):
        again.put(FIRST - STEP, entry(1))


def test_more_entries_than_one_chunk_of_times_holds(tmp_path: Path) -> None:
    first, step = FIRST + np.timedelta64(5, "ms"), np.timedelta64(1500, "ms")
    store = made(tmp_path / "a.zarr", step, first)
    for place in (0, 4095, 4096, 9000):
        store.put(first + place * step, entry(place))
    with xr.open_zarr(tmp_path / "a.zarr") as ds:
        assert (ds["time"].values == first + np.arange(9001) * step).all()
        assert float(ds["rain"][9000, 0, 0]) == 9000


def test_a_store_whose_process_was_killed_while_it_grew_goes_on(tmp_path: Path) -> None:
    store = made(tmp_path / "a.zarr")
    store.put(FIRST, entry(1))
    for name in ("rain", "time"):  # what was rewritten before the root was
        file = tmp_path / "a.zarr" / name / "zarr.json"
        own = json.loads(file.read_text())
        own["shape"][0] = 3
        file.write_text(json.dumps(own))
    again = SlotStore(tmp_path / "a.zarr", "time", STEP)
    assert again.size == 1
    with xr.open_zarr(tmp_path / "a.zarr") as ds:
        assert ds.sizes["time"] == 1
    again.put(FIRST + STEP, entry(2))
    with xr.open_zarr(tmp_path / "a.zarr") as ds:
        assert ds["rain"][:, 0, 0].values.tolist() == [1, 2]


def test_a_reader_sees_each_entry_whole_or_missing_while_it_grows(tmp_path: Path) -> None:
    store, wrong, over = made(tmp_path / "a.zarr"), [], threading.Event()
    store.put(FIRST, entry(0))

    def read() -> None:
        while not over.is_set():
            with xr.open_zarr(tmp_path / "a.zarr", chunks=None) as ds:
                values = ds["rain"].values.reshape(ds.sizes["time"], -1)
                same = (values == values[:, :1]) | np.isnan(values[:, :1])
                if not same.all() or not (ds["time"].values == FIRST + np.arange(ds.sizes["time"]) * STEP).all():
                    wrong.append(values)

    reader = threading.Thread(target=read)
    reader.start()
    for place in range(1, 25):
        store.put(FIRST + place * STEP, entry(place))
        store.put(FIRST + (place - 1) * STEP, entry(place))
    over.set()
    reader.join()
    assert wrong == []
