"""What is read: the bits that xarray gives, each stored byte about once, the same with workers, named when damaged."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from sequences import rain, traffic, weather

from sa_nowcast.conversion import convert
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.frames import Frames
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import SequenceDataset, Share, StepSampler, batches, loader, prepare
from sa_nowcast.stream.blocks import FrameBlocks, MemoryBlocks, ZarrBlocks

SMALL: dict[str, Any] = {"in_memory": False, "cache_bytes": 20_000}
PACKINGS: dict[str, dict[str, Any]] = {
    "int16": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1},
    "int16 in float32": {"dtype": "int16", "scale_factor": np.float32(0.01), "_FillValue": -1},
    "uint8 with offset": {"dtype": "uint8", "scale_factor": 0.25, "add_offset": -2.0, "_FillValue": 255},
    "int32": {"dtype": "int32", "scale_factor": 0.001, "add_offset": 1.5, "_FillValue": -(2**31)},
    "two fill values": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "missing_value": -1},
    "float32": {"dtype": "float32"},
    "float32 with fill": {"dtype": "float32", "_FillValue": np.float32(-99)},
    "float64": {"dtype": "float64"},
}


def holey(frames: int = 60) -> xr.DataArray:
    """Return showers with missing pixels, and pixels that are exactly a packed number."""
    field = rain(frames)
    return field.where(np.random.default_rng(0).random(field.shape) > 0.1)


def write(path: Path, data: xr.DataArray | xr.Dataset, shard: int | None = 8, **packing: Any) -> Path:
    ds = data if isinstance(data, xr.Dataset) else data.to_dataset(name=data.name or "rain")
    encoding = {}
    for name, variable in ds.data_vars.items():
        chunks = [1 if d == "time" else n for d, n in variable.sizes.items()]
        shards = [shard if d == "time" else n for d, n in variable.sizes.items()]
        encoding[name] = {"chunks": tuple(chunks), **({"shards": tuple(shards)} if shard else {}), **packing}
        encoding[name]["compressors"] = zarr.codecs.ZstdCodec(checksum=True)
    ds.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    return path


def blocks_of(dataset: SequenceDataset) -> list[Any]:
    return dataset._reader.blocks  # type: ignore[attr-defined, no-any-return]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same bits, NaN included."""
    return one.shape == other.shape and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def assert_reads_alike(dataset: SequenceDataset, frames: Frames, samples: int) -> None:
    for sample in range(samples):
        window = dataset.window(sample)
        expected = frames.read(window.start, window.start + dataset.length, window.rows, window.columns)
        assert dataset[sample].numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
def test_a_store_is_read_from_its_chunks_bit_by_bit_as_through_xarray(tmp_path: Path, packing: dict[str, Any]) -> None:
    path = write(tmp_path / "a.zarr", holey(), **packing)
    dataset = SequenceDataset(path, 4, 3, crop=(11, 9), **SMALL)
    assert isinstance(blocks_of(dataset)[0], ZarrBlocks)
    assert_reads_alike(dataset, Frames.from_xarray(xr.open_zarr(path, chunks=None, consolidated=False)), 80)


LAYOUTS: dict[str, Callable[[xr.Dataset], xr.Dataset | xr.DataArray]] = {
    "opened": lambda ds: ds,
    "a variable": lambda ds: ds["rain"],
    "later times": lambda ds: ds.isel(time=slice(13, 55)),
    "rows reversed": lambda ds: ds.isel(y=slice(None, None, -1)),
    "a region": lambda ds: ds.isel(y=slice(3, 20), x=slice(5, None)),
    "other dimension order": lambda ds: ds.transpose("x", "time", "y"),
    "packed": lambda ds: ds,
}


@pytest.mark.parametrize("dask", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_of_a_store_is_read_from_its_chunks_too(tmp_path: Path, layout: str, dask: bool) -> None:
    path = write(tmp_path / "a.zarr", holey().isel(x=slice(None, None, -1)), **PACKINGS["int16"])
    opened = xr.open_zarr(path, chunks={} if dask else None, consolidated=False, mask_and_scale=layout != "packed")
    data = LAYOUTS[layout](opened)
    dataset = SequenceDataset(data, 4, 3, **SMALL)
    assert isinstance(blocks_of(dataset)[0], ZarrBlocks) or (dask and layout == "packed")
    assert_reads_alike(dataset, Frames.from_xarray(data), 30)


CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "arithmetic": lambda ds: ds * 2,
    "shifted": lambda ds: ds.shift(time=1),
    "rolled": lambda ds: ds.roll(time=3),
    "every second frame": lambda ds: ds.isel(time=slice(None, None, 2)),
    "values replaced": lambda ds: ds.assign(rain=ds["rain"].copy(data=np.flip(ds["rain"].values, 0))),
    "times swapped": lambda ds: ds.isel(time=slice(None, None, -1)).assign_coords(time=ds["time"].values),
}


@pytest.mark.parametrize("dask", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_on_its_way_is_read_as_changed(tmp_path: Path, change: str, dask: bool) -> None:
    path = write(tmp_path / "a.zarr", holey(), **PACKINGS["int16"])
    data = CHANGES[change](xr.open_zarr(path, chunks={} if dask else None, consolidated=False))
    dataset = SequenceDataset(data, 4, 2, **SMALL)
    assert isinstance(blocks_of(dataset)[0], FrameBlocks)
    assert_reads_alike(dataset, Frames.from_xarray(data), 20)


def test_several_variables_and_channels_are_read_alike(tmp_path: Path) -> None:
    for name, data in (("weather", weather(40)), ("traffic", traffic(40))):
        path = write(tmp_path / f"{name}.zarr", data)
        dataset = SequenceDataset(path, 3, 2, **SMALL)
        assert isinstance(blocks_of(dataset)[0], ZarrBlocks)
        assert dataset.sample_shape[1] == 2
        opened = xr.open_zarr(path, chunks=None, consolidated=False)
        # by name: a store without consolidated metadata lists its variables in any order
        assert_reads_alike(dataset, Frames.from_xarray(opened, variables=sorted(map(str, opened.data_vars))), 40)


def test_netcdf_is_streamed_in_blocks_alike(tmp_path: Path) -> None:
    holey().to_netcdf(tmp_path / "a.nc", encoding={"rain": PACKINGS["int16"]})
    dataset = SequenceDataset(tmp_path / "a.nc", 4, 3, **SMALL)
    assert isinstance(blocks_of(dataset)[0], FrameBlocks)
    assert_reads_alike(dataset, Frames.from_xarray(xr.open_dataset(tmp_path / "a.nc")), 60)


def bytes_read() -> int:
    """Return what this process has read from files so far, by whatever library."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("shard", [None, 24])
def test_an_epoch_reads_every_stored_byte_about_once(tmp_path: Path, shard: int | None) -> None:
    noise = np.random.default_rng(0).integers(0, 30_000, (1200, 64, 64)) / 100
    data = rain(1200, 64, 64).copy(data=noise.astype(np.float32))
    path = write(tmp_path / "a.zarr", data, shard, **PACKINGS["int16"])
    stored = sum(f.stat().st_size for f in (path / "rain").rglob("*") if f.is_file())
    dataset = SequenceDataset(path, 4, 4, in_memory=False, cache_bytes=stored // 8)
    before = bytes_read()
    windows = sum(len(b) for b in loader(dataset, 8))
    assert windows == 1193
    assert 0.9 <= (bytes_read() - before) / stored <= 1.15
    assert dataset.layout.lanes > 1


def test_what_is_in_memory_is_sent_to_no_worker_where_it_came_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", holey(300))
    streamed, loaded = SequenceDataset(path, 4, 3, **SMALL), SequenceDataset(path, 4, 3)
    assert isinstance(blocks_of(loaded)[0], MemoryBlocks)
    for dataset in (streamed, loaded):
        sent = pickle.dumps(dataset)
        assert len(sent) < 60_000 < loaded.grid.height * loaded.grid.width * 4 * 300
        assert same(pickle.loads(sent)[7], dataset[7])  # noqa: S301


def test_workers_and_resumed_runs_see_the_same_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", holey(), **PACKINGS["int16"])
    options: dict[str, Any] = {"crop": 8, "flips": True, "turns": True, "seed": 5, **SMALL}
    alone = list(batches(SequenceDataset(path, 4, 3, **options), StepSampler(3, 20)))
    assert len({b.numpy().tobytes() for b in alone}) == 20
    resumed = list(batches(SequenceDataset(path, 4, 3, **options), StepSampler(3, 20, first=11)))
    helped = list(batches(SequenceDataset(path, 4, 3, **options), StepSampler(3, 20, first=3), workers=2))
    for got, expected in ((resumed, alone[11:]), (helped, alone[3:])):
        assert all(same(a, b) for a, b in zip(got, expected, strict=True))
    # two ranks together see what one process with twice the batch sees
    ranks = [batches(SequenceDataset(path, 4, 3, **options), StepSampler(3, 10, 0, Share(r, 2))) for r in range(2)]
    whole = batches(SequenceDataset(path, 4, 3, **options), StepSampler(6, 10))
    for one, other, both in zip(*ranks, whole, strict=True):
        assert same(both[0::2], one)
        assert same(both[1::2], other)


def test_a_worker_that_dies_is_an_error_and_so_is_one_that_meets_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", holey())
    stream = iter(loader(SequenceDataset(path, 4, 3, **SMALL), 2, batches=10_000, workers=1))
    next(stream)
    children = [p for p in torch.multiprocessing.active_children() if "DataLoader" not in p.name]
    os.kill(children[0].pid or 0, signal.SIGKILL)
    with pytest.raises(StorageError, match="a worker process ended unexpectedly"):
        list(stream)
    damage(path)
    with pytest.raises(DataError, match="DATA rain, 2020-06-01T0"):
        list(loader(SequenceDataset(path, 4, 3, **SMALL), 2, workers=1))


def damage(path: Path) -> None:
    """Flip a bit in the middle of the third shard."""
    file = path / "rain" / "c" / "2" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def test_a_damaged_chunk_is_named_with_variable_and_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", holey())
    damage(path)
    with pytest.raises(DataError, match=r"DATA rain, 2020-06-01T0[12]:\d\d: storage could not give the values"):
        list(loader(SequenceDataset(path, 4, 3, **SMALL)))


def test_a_lost_shard_of_a_converted_store_is_named(tmp_path: Path) -> None:
    convert(holey().to_dataset(), tmp_path / "a.zarr")
    dataset = SequenceDataset(tmp_path / "a.zarr", 4, 3, **SMALL)
    for file in (tmp_path / "a.zarr" / "rain" / "c").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(
        DataError, match=r"rain, 2020-06-01T0\d:\d\d: storage .* the chunk file rain/c/0/0/0 is missing"
    ):
        dataset[0]


def test_an_infinite_value_is_named(tmp_path: Path) -> None:
    data = holey()
    data[17, 3, 4] = np.inf
    path = write(tmp_path / "a.zarr", data)
    with pytest.raises(DataError, match=r"rain, 2020-06-01T01:25: 1 infinite values"):
        list(loader(SequenceDataset(path, 4, 3, **SMALL)))


@pytest.mark.parametrize("value", [9.96921e36, 1e20, -1e34])
def test_a_fill_value_that_nobody_declared_is_named(value: float, tmp_path: Path) -> None:
    data = holey()
    data[17, 3, 4] = value
    path = write(tmp_path / "a.zarr", data)
    with pytest.raises(DataError, match=r"rain, 2020-06-01T01:25: 1 values such as .*not declared"):
        list(loader(SequenceDataset(path, 4, 3, **SMALL)))


OTHERS: dict[str, tuple[Callable[[], xr.DataArray], str]] = {
    "grid": (lambda: rain(12, 24, 19), "grid: 24 x 19, expected 24 x 20 as in"),
    "step": (lambda: rain(12, step="10min"), "step: 10 min, expected 5 min as in"),
    "units": (lambda: rain(12).assign_attrs(units="kg m-2 s-1"), "units: .*expected mm h-1 as in"),
    "spacing": (lambda: rain(12).assign_coords(x=2000.0 * np.arange(20)), "spacing: .*expected"),
    "name": (lambda: rain(12).rename("snow"), "channels: snow, expected rain"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_sources_that_differ_are_refused_by_name(tmp_path: Path, other: str) -> None:
    make, message = OTHERS[other]
    paths = [write(tmp_path / "a.zarr", rain(12)), write(tmp_path / "b.zarr", make())]
    with pytest.raises(DataError, match=rf"b\.zarr, {message}"):
        SequenceDataset(paths, 4, 3)


def test_several_sources_are_one_stream(tmp_path: Path) -> None:
    later = rain(20, seed=1)
    later["time"] = later["time"] + np.timedelta64(1, "D")
    paths = [write(tmp_path / "a.zarr", rain(30)), write(tmp_path / "b.zarr", later)]
    dataset = SequenceDataset(paths, 4, 3, **SMALL)
    assert len(dataset) == 24 + 14
    expected = {0: rain(30), 1: later}
    for sample in range(len(dataset)):
        part = expected[dataset.source(sample)].sel(time=dataset.times(sample))
        np.testing.assert_array_equal(dataset[sample][:, 0].numpy(), part.values)
    test = SequenceDataset(paths, 4, 3, period="test", shuffle=False)
    train = SequenceDataset(paths, 4, 3, period="train", shuffle=False)
    assert {test.source(k) for k in range(len(test))} == {1}
    assert train.times(len(train) - 1)[-1] < test.times(0)[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"history": 0}, RecipeError, "history: 0"),
        ({"history": 30}, DataError, r"windows: none of 33 frames.*\(the longest stretch without a gap has 20\)"),
        ({"stride": 0}, RecipeError, "stride: 0"),
        ({"crop": 0}, RecipeError, "crop"),
        ({"turns": True}, RecipeError, "turns: samples of 24 x 20, expected squares"),
        ({"wet_fraction": 2.0}, RecipeError, "wet_fraction"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SequenceDataset(rain(20), **{"history": 4, "steps": 3, **options})


def test_loaders_refuse_what_cannot_be() -> None:
    dataset = SequenceDataset(rain(20), 4, 3, device="cpu")
    for options in ({"workers": -1}, {"batch_size": 0}, {"rank": 2, "ranks": 2}):
        with pytest.raises(RecipeError):
            loader(dataset, **options)  # type: ignore[arg-type]


def test_crops_are_wet_where_the_data_are() -> None:
    field = xr.zeros_like(rain(20, 64, 64))
    field[:, 40:56, 8:24] = 5.0
    options: dict[str, Any] = {"crop": 16, "wet_threshold": 1.0, "seed": 2}
    dry, wet = (SequenceDataset(field, 4, 3, wet_fraction=f, **options) for f in (0.0, 0.1))
    shares = [[float((d[k] >= 1).float().mean()) for k in range(60)] for d in (dry, wet)]
    assert np.mean(np.asarray(shares[1]) >= 0.1) > 2 * np.mean(np.asarray(shares[0]) >= 0.1)
    for k in range(20):
        window = wet.window(k)
        expected = field.values[window.start : window.start + 7, window.rows, window.columns]
        np.testing.assert_array_equal(wet[k][:, 0].numpy(), expected)


def test_flips_and_turns_are_the_eight_of_a_square_and_off_by_default() -> None:
    field = rain(8, 12, 12)
    plain = SequenceDataset(field, 4, 3, seed=1)
    moved = SequenceDataset(field, 4, 3, seed=1, flips=True, turns=True)
    seen = set()
    for k in range(60):
        x = plain[k].numpy()
        versions = [np.rot90(f, q, (-2, -1)) for f in (x, x[..., ::-1]) for q in range(4)]
        which = [i for i, v in enumerate(versions) if np.array_equal(v, moved[k].numpy())]
        assert which
        seen.add(which[0])
    assert seen == set(range(8))


def test_data_that_live_on_a_device_give_the_same_samples() -> None:
    there, here = (SequenceDataset(holey(), 4, 3, crop=8, flips=True, device=d) for d in ("cpu", None))
    for k in range(30):
        assert there[k].numpy().tobytes() == here[k].numpy().tobytes()
    with pytest.raises(RecipeError, match="data that are on a device"):
        pickle.dumps(there)


def test_the_accessor_gives_a_loader_whose_batches_a_network_can_take() -> None:
    data = holey()
    batches_ = data.sa_nowcast.loader(history=4, steps=3, batch_size=8, crop=16)
    scaling = batches_.sequence.fit_scaling("standard")
    assert scaling == Scaling.fit("standard", batches_.sequence.channels, [Frames.from_xarray(data).read(0, 60)])
    assert len(batches_) == 7
    first = list(batches_)
    assert [len(b) for b in first] == [8] * 6 + [6]
    x, valid = prepare(first[0], scaling, 4)
    assert x.shape == valid.shape == (8, 7, 1, 16, 16)
    assert torch.isfinite(x).all()
    second = list(batches_)
    assert not same(first[0], second[0])
    batches_.set_epoch(0)
    assert same(next(iter(batches_)), first[0])


def test_torchs_own_loader_can_be_used() -> None:
    dataset = SequenceDataset(rain(20), 4, 3)
    for ours, theirs in zip(loader(dataset, 4), torch.utils.data.DataLoader(dataset, 4), strict=True):
        assert same(ours, theirs)
