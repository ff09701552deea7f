"""Archives as they are opened from a store, scored here and by the workers of a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr

from sa_nowcast.hindcast import hindcast
from sa_nowcast.verification import collect, compare, verify
from sa_nowcast.verification.inputs import pair

from .conftest import observations

ASKED = {"metrics": ["mse", "csi", "fss"], "thresholds": [1.0], "neighbourhoods": [3], "reference": "persistence"}


@pytest.fixture
def stored(tmp_path):
    """Truth and an archive of persistence, opened lazily by plain xarray: one init time a chunk."""
    truth = observations(frames=40, y=64, x=48)
    truth.to_dataset().chunk(time=4).to_zarr(tmp_path / "truth.zarr", zarr_format=3, consolidated=False)
    hindcast(truth, "persistence", 4, init_times=slice(None, truth["time"].values[-5]), to=tmp_path / "a.zarr")
    archive = xr.open_zarr(tmp_path / "a.zarr", decode_timedelta=True)["rain"]
    return truth, xr.open_zarr(tmp_path / "truth.zarr", consolidated=False)["rain"], archive


def test_an_archive_opened_by_plain_xarray_gives_the_scores_of_the_one_in_memory(stored):
    truth, lazy, archive = stored
    assert archive["valid_time"].chunks is not None  # in other chunks than the forecast
    expected = verify(archive.load().copy(), truth, **ASKED)
    xr.testing.assert_identical(verify(archive, lazy, **ASKED), expected)
    together = compare({"a": archive, "b": archive}, lazy, **ASKED)
    xr.testing.assert_identical(together["a"]["csi"], expected["csi"])


@pytest.mark.parametrize("chunks", [(7, 1, 1, 1, 40, 2, 2), (1,) * 54, (54,)])
def test_blocks_cover_every_init_time_once_and_hold_what_they_should(chunks, monkeypatch):
    truth = observations(frames=58)
    archive = verify_input(truth, chunks)
    each = archive[0].nbytes
    monkeypatch.setattr(collect, "BLOCK_BYTES", 8 * each)
    monkeypatch.setattr(collect, "LEAST_BLOCK_BYTES", 4 * each)
    blocks = list(collect.init_blocks(pair(archive, truth)))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(54))
    sizes = [block.stop - block.start for block in blocks]
    assert max(sizes) <= 8
    ends = np.cumsum(chunks)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        # Chunks are not torn unless they are larger than a block, and are put together while they are small.
        inside = next(end - start for start, end in zip([0, *ends], ends, strict=False) if block.stop <= end)
        assert block.stop in ends or inside > 8
        if after is not None and set(chunks) == {1}:
            assert block.stop - block.start == 4


def verify_input(truth, chunks):
    from .conftest import forecast_of

    return forecast_of(truth, init=range(1, 55)).chunk(init_time=chunks)


@pytest.mark.slow
def test_the_workers_of_a_cluster_give_the_same_numbers_in_bounded_memory(stored):
    distributed = pytest.importorskip("distributed", reason="clusters need pip install distributed")
    _, lazy, archive = stored
    here = verify(archive, lazy, **ASKED)

    def peak() -> float:  # in MiB
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="600MiB", dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        xr.testing.assert_identical(verify(archive, lazy, **ASKED), here)
        before = client.run(peak)
        steps = np.timedelta64(5, "m") * np.arange(206)
        times = archive["init_time"].values[0] + steps
        frames = dask.array.ones((206, 256, 256), chunks=(1, -1, -1), dtype=np.float32)
        long = xr.DataArray(frames, dims=("time", "y", "x"), coords={"time": times})
        large = xr.DataArray(
            dask.array.zeros((200, 6, 256, 256), chunks=(1, -1, -1, -1), dtype=np.float32),
            dims=("init_time", "lead_time", "y", "x"),
            coords={"init_time": times[:200], "lead_time": steps[1:7]},
        )
        np.testing.assert_array_equal(verify(large, long, ["mse"])["mse"], 1)
        grown = {worker: after - before[worker] for worker, after in client.run(peak).items()}
    assert large.nbytes == 300 * 2**20
    # Measured 157 and 166: the truth, which many blocks share, and a few blocks in float64.
    assert max(grown.values()) < 220, grown
