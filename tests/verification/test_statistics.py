"""The same scores however the archive is laid out, chunked, split or ordered."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.verification import METRICS, Statistics, collect_statistics, summarise, verify

from .conftest import forecast_of, observations

DETERMINISTIC = [name for name, metric in METRICS.items() if not metric.ensemble]
OPTIONS = {"data_range": (0.0, 100.0), "thresholds": [0.5, 2.0], "neighbourhoods": [1, 3], "reference": "persistence"}


@pytest.fixture(scope="module")
def truth():
    truth = observations(frames=10, y=8, x=9)
    truth[3, 2, 4] = np.nan
    truth[6, :3] = np.nan
    return truth


@pytest.fixture(scope="module")
def archive(truth):
    return forecast_of(truth, init=range(1, 7))


@pytest.fixture(scope="module")
def whole(archive, truth):
    return verify(archive, truth, DETERMINISTIC, **OPTIONS)


@given(order=st.permutations(["init_time", "lead_time", "y", "x"]), other=st.permutations(["time", "y", "x"]))
@settings(max_examples=6, deadline=None)
def test_scores_do_not_depend_on_the_order_of_dimensions(order, other):
    truth = observations(y=8, x=9)
    archive = forecast_of(truth)
    names = ["mse", "csi", "fss", "frame_mse", "psnr"]
    expected = verify(archive, truth, names, **OPTIONS)
    if [dim for dim in order if dim in "yx"] == ["x", "y"]:
        expected = verify(archive.transpose("init_time", "lead_time", "x", "y"), truth, names, **OPTIONS)
    xr.testing.assert_identical(verify(archive.transpose(*order), truth.transpose(*other), names, **OPTIONS), expected)


def test_transposed_space_gives_the_same_scores_to_rounding(archive, truth, whole):
    turned = verify(archive.transpose("init_time", "lead_time", "x", "y"), truth, DETERMINISTIC, **OPTIONS)
    xr.testing.assert_allclose(turned, whole, rtol=1e-12)


@pytest.mark.parametrize(
    "chunks",
    [{"init_time": 1}, {"init_time": 4, "y": 3}, {"lead_time": 1, "x": 2}, {"init_time": -1}],
    ids=["init", "init and y", "lead and x", "one"],
)
@pytest.mark.parametrize("truth_too", [True, False])
def test_scores_of_a_dask_archive_are_bit_identical(archive, truth, whole, chunks, truth_too):
    observed = truth.chunk({"time": 3}) if truth_too else truth
    xr.testing.assert_identical(verify(archive.chunk(chunks), observed, DETERMINISTIC, **OPTIONS), whole)


def test_dask_truth_alone_gives_the_same_scores(archive, truth, whole):
    xr.testing.assert_identical(verify(archive, truth.chunk({"time": 2}), DETERMINISTIC, **OPTIONS), whole)


@given(cuts=st.sets(st.integers(1, 5)), backwards=st.booleans())
@settings(max_examples=5, deadline=None)
def test_states_of_a_split_archive_add_up_to_that_of_the_whole(cuts, backwards):
    truth = observations(frames=10, y=8, x=9)
    archive = forecast_of(truth, init=range(1, 7))
    names = ["mse", "csi", "fss", "frame_mae"]
    edges = [0, *sorted(cuts), 6]
    parts = [
        collect_statistics(archive.isel(init_time=slice(a, b)), truth, names, **OPTIONS)
        for a, b in itertools.pairwise(edges)
    ]
    total = sum(reversed(parts) if backwards else parts, start=Statistics.zero())
    xr.testing.assert_identical(summarise(total), verify(archive, truth, names, **OPTIONS))


def test_states_split_along_lead_time_add_up_too(archive, truth):
    names = ["mse", "csi"]
    parts = [collect_statistics(archive.isel(lead_time=[i]), truth, names, **OPTIONS) for i in (2, 0, 1)]
    expected = verify(archive, truth, names, **OPTIONS)
    xr.testing.assert_allclose(summarise(Statistics.total(parts)), expected, rtol=1e-14)


def test_pixel_states_split_in_space_add_up_too(archive, truth):
    names = ["mse", "mae", "csi"]
    parts = [
        collect_statistics(archive.isel(x=part), truth.isel(x=part), names, **OPTIONS)
        for part in (slice(0, 4), slice(4, None))
    ]
    xr.testing.assert_allclose(summarise(parts[0] + parts[1]), verify(archive, truth, names, **OPTIONS), rtol=1e-12)


def test_zero_is_neutral_and_has_no_scores(archive, truth):
    state = collect_statistics(archive, truth, ["mse"])
    xr.testing.assert_identical((state + Statistics.zero()).forecast, state.forecast)
    xr.testing.assert_identical((Statistics.zero() + state).forecast, state.forecast)
    with pytest.raises(RecipeError, match="hold nothing"):
        summarise(Statistics.zero())


def test_states_of_other_thresholds_are_not_added(archive, truth):
    a = collect_statistics(archive, truth, ["csi"], thresholds=[1.0])
    b = collect_statistics(archive, truth, ["csi"], thresholds=[2.0])
    with pytest.raises(RecipeError, match="statistics"):
        a + b


def test_ratios_are_not_averaged_over_init_times():
    truth = observations(frames=4, y=1, x=2) * 0
    archive = forecast_of(truth, init=(0, 1), leads=(1,), noise=0.0)
    truth[1] = [[5.0, 5.0]]
    truth[2] = [[5.0, 0.0]]
    archive[0, 0] = [[5.0, 0.0]]
    archive[1, 0] = [[5.0, 0.0]]
    assert verify(archive, truth, ["csi"], [1.0])["csi"].item() == 2 / 3  # the mean of 1/2 and 1 is 3/4


def test_a_pixel_missing_anywhere_takes_no_part(archive, truth):
    reference = forecast_of(truth, init=range(1, 7), seed=9)
    forecast = archive.copy()
    forecast[2, 1, 5, 5] = np.nan
    reference[2, 1, 4, 4] = np.nan
    scores = verify(forecast, truth, ["mse"], reference=reference, valid_times="all")
    errors, pixels = [], 0
    for i in range(6):
        for j in range(3):
            e = forecast.values[i, j] - truth.values[i + 1 + j + 1] + 0 * reference.values[i, j]
            if j == 1:
                errors.append(np.nansum(e**2))
                pixels += np.isfinite(e).sum()
    assert scores["count"].values[1] == pixels
    assert scores["mse"].values[1] == pytest.approx(sum(errors) / pixels, rel=1e-13)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 9.96921e36, 1e20, -3.4028235e38])
@pytest.mark.parametrize("chunks", [None, {"init_time": 2}])
def test_values_that_mean_missing_and_do_not_say_so_are_refused_by_role_and_time(archive, truth, value, chunks):
    wrong = archive.astype("f4")
    wrong[2, 0, 0, 0] = value
    wrong = wrong if chunks is None else wrong.chunk(chunks)
    time = str(archive.init_time.values[2].astype("datetime64[m]"))
    with pytest.raises(DataError, match=f"forecast, {time}: 1 (infinite )?values"):
        verify(wrong, truth)
    with pytest.raises(DataError, match=f"reference, {time}: 1 (infinite )?values"):
        verify(archive, truth, reference=wrong)
    wrong = truth.astype("f4")
    wrong[5, 0, 0] = value
    with pytest.raises(DataError, match=f"truth, {truth.time.values[5].astype('datetime64[m]')!s}: 1"):
        verify(archive, wrong)
    verify(archive, wrong.where(abs(wrong) < 1e20))


def test_an_all_missing_forecast_has_counts_of_zero_and_nan_scores(archive, truth):
    scores = verify(archive * np.nan, truth, ["mse", "csi", "psnr", "frame_mse"], reference="persistence")
    assert (scores["count"] == 0).all()
    assert (scores["forecasts"] == 0).all()
    assert np.isnan(scores["mse"]).all()
    assert np.isnan(scores["psnr"]).all()


def test_float32_and_float64_archives_agree_to_float32(archive, truth):
    xr.testing.assert_allclose(
        verify(archive.astype("f4"), truth, ["mse", "mae"]), verify(archive, truth, ["mse", "mae"]), rtol=1e-6
    )


def test_verify_loads_neither_torch_nor_matplotlib_nor_the_optional_libraries():
    code = (
        "import sys, sa_nowcast.verification, sa_nowcast.plotting\n"
        "print(sorted({'torch','matplotlib','scores','skimage','pysteps','cv2','distributed'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc: run on Linux")
@pytest.mark.parametrize("chunks", ["{}", "None"], ids=["dask", "lazily opened"])
def test_an_archive_four_times_the_allowed_memory_is_scored_under_it(tmp_path, chunks):
    """A 512 MB archive in Zarr, scored by a process whose memory may grow by 128 MB."""
    code = f"""
import numpy as np, xarray as xr, dask.array as da
import dask, dask.base, dask.delayed, zarr
from sa_nowcast.verification import verify
def times(n): return np.datetime64('2020-01-01','ns') + np.arange(n) * np.timedelta64(300, 's')
n, leads, size = 128, 4, 512
lead = np.arange(1, leads + 1) * np.timedelta64(300, 's').astype('timedelta64[ns]')
space = {{'y': np.arange(size), 'x': np.arange(size)}}
values = da.random.default_rng(0).random((n, leads, size, size), chunks=(1, leads, size, size)).astype('f4')
forecast = xr.DataArray(values,
    dims=('init_time','lead_time','y','x'), coords={{'init_time': times(n), 'lead_time': lead, **space}}, name='rain')
truth = xr.DataArray(da.random.default_rng(1).random((n + leads, size, size), chunks=(1, size, size)).astype('f4'),
    dims=('time','y','x'), coords={{'time': times(n + leads), **space}}, name='rain')
with dask.config.set(scheduler='synchronous'):
    forecast.to_dataset().to_zarr({str(tmp_path / "f.zarr")!r})
    truth.to_dataset().to_zarr({str(tmp_path / "t.zarr")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    score = f"""
import pathlib, re, xarray as xr, dask, dask.base, dask.delayed
from sa_nowcast.verification import verify
def peak():  # of this program: getrusage would count the memory of the one that started it
    return int(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])
forecast = xr.open_zarr({str(tmp_path / "f.zarr")!r}, chunks={chunks}, decode_timedelta=True)['rain']
truth = xr.open_zarr({str(tmp_path / "t.zarr")!r}, chunks={chunks})['rain']
few = forecast.isel(init_time=slice(0, 1))
options = dict(metrics=['mse','csi','fss'], thresholds=[0.5, 0.9], reference='persistence')
with dask.config.set(scheduler='threads', num_workers=2):
    verify(few, truth, **options)
    before = peak()
    verify(forecast, truth, **options)
print((peak() - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", score], check=True, capture_output=True, text=True)
    assert float(run.stdout) < 128.0
