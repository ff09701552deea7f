from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from sequences import NETWORK, OPTIONS
from source_files import digit_folder

import sa_nowcast
from sa_nowcast.conversion import convert, open_zarr
from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames
from sa_nowcast.sources import MovingMnist, MovingMnistBackendEntrypoint, chain, open_kth
from sa_nowcast.sources.moving_mnist import sequences
from sa_nowcast.stream import SequenceDataset


def films(count: int = 5, length: int = 4) -> xr.Dataset:
    """Sequences as the sources label them, with what varies by sequence, in time, and in neither."""
    values = np.random.default_rng(0).integers(0, 256, (count, length, 6, 8), dtype=np.uint8)
    return sequences(values, source="made", first=10).assign_coords(
        person=("sequence", np.arange(count) % 3, {"long_name": "who"}),
        film=("sequence", [f"film{i}" for i in range(count)]),
        frame=("time", np.arange(length)),
        area=(("y", "x"), np.ones((6, 8))),
    )


def written(path: Path, ds: xr.Dataset) -> xr.Dataset:
    np.save(path, ds["intensity"].values.transpose(1, 0, 2, 3))
    return xr.open_dataset(path, engine=MovingMnistBackendEntrypoint)


def test_sequences_follow_each_other_with_one_missing_frame_between_them() -> None:
    ds, chained = films(), chain(films())
    assert chained["intensity"].dims == ("time", "y", "x")
    seconds = (chained["time"].values - ds["time"].values[0]) / np.timedelta64(1, "s")
    assert seconds.tolist() == [5 * s + t for s in range(5) for t in range(4)]
    np.testing.assert_array_equal(chained["intensity"].values, ds["intensity"].values.reshape(20, 6, 8))
    assert Frames.from_xarray(chained, gaps="skip").segments == tuple((4 * s, 4 * s + 4) for s in range(5))


def test_what_belongs_to_a_sequence_or_to_its_frames_is_repeated() -> None:
    chained = chain(films())
    assert chained["sequence"].values.tolist() == [10 + s for s in range(5) for _ in range(4)]
    assert chained["film"].values.tolist() == [f"film{s}" for s in range(5) for _ in range(4)]
    assert chained["person"].attrs == {"long_name": "who"}
    assert chained["frame"].values.tolist() == [0, 1, 2, 3] * 5
    for name in ("sequence", "person", "film", "frame"):
        assert chained[name].dims == ("time",)
        assert name in chained.coords
    xr.testing.assert_identical(chained["area"], films()["area"])
    one = chained.isel(time=chained["film"] == "film3")["intensity"]
    np.testing.assert_array_equal(one.values, films()["intensity"].values[3])


def test_attributes_and_packing_are_kept_and_the_former_chunks_are_not() -> None:
    ds = films().assign_attrs(title="t")
    ds["intensity"].encoding = {"scale_factor": 0.5, "dtype": "int16", "chunks": (1, 4, 6, 8), "preferred_chunks": {}}
    chained = chain(ds)
    assert chained.attrs == ds.attrs
    assert chained["intensity"].attrs == ds["intensity"].attrs
    assert chained["intensity"].encoding == {"scale_factor": 0.5, "dtype": "int16"}
    assert chained["time"].attrs["standard_name"] == "time"
    assert chained["y"].attrs == ds["y"].attrs


def test_arrays_in_memory_are_not_copied() -> None:
    ds = films()
    assert np.shares_memory(chain(ds)["intensity"].values, ds["intensity"].values)


def test_any_order_of_dimensions_gives_the_same_frames() -> None:
    for order in (("time", "sequence", "y", "x"), ("y", "time", "x", "sequence")):
        turned = chain(films().transpose(*order, ...))["intensity"]
        xr.testing.assert_equal(turned.transpose("time", "y", "x"), chain(films())["intensity"])


def test_channels_stay_a_dimension_behind_time() -> None:
    ds = films()
    two = xr.concat([ds["intensity"], ds["intensity"] + 1], "channel").to_dataset(name="two")
    chained = chain(two)
    assert chained["two"].dims == ("time", "channel", "y", "x")
    np.testing.assert_array_equal(chained["two"][:, 1].values, chain(ds)["intensity"].values + 1)
    assert SequenceDataset(chained, 2, 2, gaps="skip").sample_shape == (4, 2, 6, 8)


def test_a_mapped_file_is_not_read(tmp_path: Path) -> None:
    ds = films()
    chained = chain(written(tmp_path / "a.npy", ds))
    assert chained["intensity"].chunks is not None
    np.testing.assert_array_equal(chained["intensity"].values, chain(ds)["intensity"].values)
    gone = written(tmp_path / "b.npy", ds)
    (tmp_path / "b.npy").unlink()
    lazy = chain(gone)  # would fail where it read the file
    with pytest.raises(DataError, match="is not a whole NumPy file"):
        lazy["intensity"].values  # noqa: B018


def test_dask_arrays_stay_lazy_however_they_are_chunked() -> None:
    for chunks in ({"sequence": 2}, {"time": 3}, {"sequence": 2, "time": 1, "y": 3}):
        chained = chain(films().chunk(chunks))
        assert chained["intensity"].chunks is not None
        np.testing.assert_array_equal(chained["intensity"].values, chain(films())["intensity"].values)


def test_a_store_on_disk_is_read_by_whole_chunks(tmp_path: Path) -> None:
    films(40).drop_vars("film").to_zarr(
        tmp_path / "a.zarr", encoding={"intensity": {"chunks": (3, 4, 6, 8)}}, consolidated=False
    )
    chained = chain(xr.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False))
    assert all(c % 12 == 0 for c in chained["intensity"].chunks[0][:-1])
    np.testing.assert_array_equal(chained["intensity"].values, chain(films(40))["intensity"].values)
    chained.to_zarr(tmp_path / "b.zarr", consolidated=False)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "b.zarr", consolidated=False).load(), chained.load())


@pytest.mark.parametrize("mapped", [False, True])
def test_every_sequence_is_exactly_one_window_and_equal_to_it(tmp_path: Path, mapped: bool) -> None:
    digits = MovingMnist(digit_folder(tmp_path / "digits"), seed=1, check_hash=False)
    made = digits.dataset(0, 30)
    ds = written(tmp_path / "mnist_test_seq.npy", made) if mapped else made
    options = {"in_memory": False, "cache_bytes": 2**20} if mapped else {}
    windows = SequenceDataset(chain(ds), 10, 10, gaps="skip", **options)  # type: ignore[arg-type]
    assert len(windows) == 30
    seen = set()
    for sample in range(30):
        sequence = windows.window(sample).start // 20
        seen.add(sequence)
        np.testing.assert_array_equal(windows[sample][:, 0].numpy(), made["intensity"].values[sequence])
    assert seen == set(range(30))


def test_chained_sequences_are_converted_and_read_back_equal(tmp_path: Path) -> None:
    chained = chain(films())
    convert(chained, tmp_path / "a.zarr", window=4)
    again = open_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(again["intensity"].values, chained["intensity"].values)
    for name in ("time", "sequence", "person", "film"):
        assert again[name].values.tolist() == chained[name].values.tolist()
    assert len(SequenceDataset(tmp_path / "a.zarr", 2, 2, gaps="skip")) == 5


def test_a_network_is_trained_on_chained_sequences(tmp_path: Path) -> None:
    ds = MovingMnist(digit_folder(tmp_path), seed=1, check_hash=False).dataset(0, 12).isel(time=slice(7))
    nowcaster = sa_nowcast.fit(
        chain(ds), history=4, steps=3, gaps="skip", network=NETWORK, scaling="minmax", progress=False, **OPTIONS
    )
    forecast = nowcaster.forecast(chain(ds.isel(sequence=[0])))
    assert forecast.sizes["lead_time"] == 3
    assert np.isfinite(forecast).all()


def test_a_dataset_without_sequences_is_returned_as_it_is() -> None:
    one = films().isel(sequence=2)
    assert chain(one) is one


def with_times(rows: list[list[int]]) -> xr.Dataset:
    times = np.datetime64("2020-01-01", "ns") + np.array(rows) * np.timedelta64(10**9, "ns")
    return films(2, 3).drop_vars("time").assign_coords(time=(("sequence", "time"), times))


def test_sequences_with_times_of_their_own_keep_them_beside_the_axis() -> None:
    ds = with_times([[0, 2, 4], [1000, 1002, 1004]])
    chained = chain(ds)
    np.testing.assert_array_equal(chained["sequence_time"].values, ds["time"].values.ravel())
    seconds = (chained["time"].values - np.datetime64("2020-01-01", "ns")) / np.timedelta64(1, "s")
    assert seconds.tolist() == [0, 2, 4, 8, 10, 12]
    xr.testing.assert_identical(chain(ds.transpose(..., "sequence"))["time"], chained["time"])


@pytest.mark.parametrize(
    ("ds", "message"),
    [
        (with_times([[0, 2, 4], [10, 13, 16]]), "sequence 1, 2020-01-01T00:00:13: step is 3 s.*expected 2 s"),
        (with_times([[0, 2, 4], [10, 12, 15]]), "sequence 1, 2020-01-01T00:00:15: step is 3 s.*expected 2 s"),
        (with_times([[0, 2, 5], [10, 12, 14]]), "sequence 0, 2020-01-01T00:00:05: step is 3 s"),
        (with_times([[0, 2, 4], [12, 10, 8]]), "sequence 1, 2020-01-01T00:00:10: times are not sorted"),
        (films(2, 1), "1 frame, which has no time step"),
        (films(0), "dimension sequence has no entries"),
        (films().drop_vars(["time", "frame"]), "dimension time has no coordinate"),
        (films().isel(time=0, drop=True), "no time dimension among sequence, y, x"),
        (films().isel(sequence=0, drop=True).assign_coords(sequence=[1, 2]), "no variable has the dimensions"),
    ],
)
def test_what_has_no_one_step_is_refused_with_one_clear_line(ds: xr.Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        chain(ds)


def test_a_data_array_is_refused() -> None:
    with pytest.raises(DataError, match=r"a DataArray, expected a Dataset\. Fix: da\.to_dataset"):
        chain(films()["intensity"])  # type: ignore[arg-type]


def test_films_of_kth_are_chained_without_decoding(tmp_path: Path, real_data: Path) -> None:
    pytest.importorskip("av", reason="films are decoded with PyAV: pip install av")
    film = tmp_path / "person01_boxing_d1_uncomp.avi"
    film.symlink_to(real_data / "video" / "vtest.avi")
    (tmp_path / "segments.txt").write_text("person01_boxing_d1\tframes\t1-40, 41-70\n")
    ds = open_kth(film, length=10, size=32, segments=tmp_path / "segments.txt")
    chained = chain(ds)
    windows = SequenceDataset(chained, 5, 5, gaps="skip", shuffle=False)
    assert len(windows) == ds.sizes["sequence"] == 7
    for number in (0, 6):
        expected = torch.from_numpy(ds["intensity"][number].values.astype(np.float32))
        assert torch.equal(windows[number][:, 0], expected)
    assert chained["segment"].values.tolist() == np.repeat(ds["segment"].values, 10).tolist()
