"""Forecasts from many init times, their labels, archives and files."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from psutil import Process
from sequences import NETWORK, OPTIONS, rain, weather
from workers import MiB, workers_of

import sa_nowcast
from remedies.trial import keywords, remedy, value
from sa_nowcast import open_zarr
from sa_nowcast.forecasts.cf import write_forecast
from sa_nowcast.hindcast import hindcast
from sa_nowcast.interop import to_geotiff
from sa_nowcast.scaling import Scaling
from sa_nowcast.training.fit import fit


def _made(data=None, model="persistence", steps=2, **options):
    return hindcast(rain() if data is None else data, model, steps, **options)


# --- the archive


@remedy("hindcast/archive.py", "name another path")
@pytest.mark.parametrize("there", ["notes", "a store"])
def test_something_else_stands_there(there, tmp_path):
    place = tmp_path / "a.zarr"
    if there == "notes":
        place.mkdir()
        (place / "notes").write_text("mine")
    else:
        rain().to_dataset().to_zarr(place)
    existing = "replace" if there == "notes" else "resume"
    yield lambda: _made(to=place, existing=existing)
    yield lambda: _made(to=tmp_path / "b.zarr", existing=existing)


@remedy("hindcast/archive.py", "name another path, or replace it (existing='replace')")
@pytest.mark.parametrize("how", ["path", "replace"])
def test_another_hindcast_stands_there(how, tmp_path):
    _made(to=tmp_path / "a.zarr")
    fix = yield lambda: _made(steps=3, to=tmp_path / "a.zarr")
    if how == "path":
        yield lambda: _made(steps=3, to=tmp_path / "b.zarr")
    else:
        yield lambda: _made(steps=3, to=tmp_path / "a.zarr", **keywords(fix))


@remedy("hindcast/archive.py", "write it again (existing='replace')")
def test_a_hindcast_without_its_mark(tmp_path):
    from sa_nowcast.conversion import COMPLETE

    _made(to=tmp_path / "a.zarr")
    del zarr.open_group(tmp_path / "a.zarr", mode="r+").attrs[COMPLETE]
    fix = yield lambda: _made(to=tmp_path / "a.zarr")
    yield lambda: _made(to=tmp_path / "a.zarr", **keywords(fix))


@remedy("computing/clusters.py", "…, or start workers with … more", "start workers with … more")
@pytest.mark.parametrize("how", ["smaller", "workers", "one"])
def test_workers_that_cannot_hold_a_task(how, tmp_path):
    """Of a shard of one init time nothing can be smaller."""
    given = {"data": rain(24, 192, 192), "steps": 8, "to": tmp_path / "a.zarr", "shard_size": 1 if how == "one" else 16}

    def on_worker(room, **options):
        # The worker is a part of this process, whose own memory is a few MiB more or less at each call.
        with workers_of(Process().memory_info().rss + room) as cluster:
            _made(**given | {"cluster": cluster} | options)

    few = (2 if how == "one" else 20) * MiB
    fix = yield lambda: on_worker(few)
    smaller, _, more = fix.rpartition(", or ")
    if how == "smaller":
        chosen = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", smaller)}
        yield lambda: on_worker(few + 20 * MiB, **chosen)
    else:
        more = int(re.search(r"with (\d+) MiB more", more)[1]) * MiB
        yield lambda: on_worker(few + more + 20 * MiB)


@remedy("storage/growing.py", "finish or remove it, or name another path")
@pytest.mark.parametrize("how", ["remove", "path"])
def test_something_else_where_the_archive_would_grow(how, tmp_path):
    partial = tmp_path / "a.zarr.partial"
    partial.mkdir()
    (partial / "notes").write_text("mine")
    yield lambda: _made(to=tmp_path / "a.zarr")
    if how == "remove":
        shutil.rmtree(partial)
    yield lambda: _made(to=tmp_path / ("a.zarr" if how == "remove" else "b.zarr"))


def _at(number, action):
    def progress(done: int, total: int) -> None:
        if done == (total if number is None else number):
            action()

    return progress


@remedy("storage/growing.py", "run the same again to go on")
def test_a_hindcast_that_was_stopped(tmp_path):
    def stop() -> None:
        raise KeyboardInterrupt

    options = {"to": tmp_path / "a.zarr", "batch_size": 2, "shard_size": 2}
    yield lambda: _made(**options, progress=_at(4, stop))
    yield lambda: _made(**options)


@remedy("storage/growing.py", "run again")
def test_a_shard_that_vanished(tmp_path):
    def lose() -> None:
        shards = tmp_path / "a.zarr.partial" / "rain" / "c"
        next(file for file in shards.rglob("*") if file.is_file()).unlink()

    options = {"to": tmp_path / "a.zarr", "batch_size": 2, "shard_size": 2}
    yield lambda: _made(**options, progress=_at(None, lose))
    yield lambda: _made(**options)


@remedy("hindcast/call.py", "to='archive.zarr', or compute the lazy hindcast while a dask client is active")
@pytest.mark.parametrize("how", ["to", "client"])
def test_a_cluster_without_an_archive(how, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="clusters need pip install distributed")
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None, protocol="tcp") as cluster:
        fix = yield lambda: _made(cluster=cluster)
        if how == "to":
            monkeypatch.chdir(tmp_path)
            yield lambda: _made(cluster=cluster, **keywords(fix))
        else:
            with distributed.Client(cluster):
                yield lambda: _made().compute()


@remedy("storage/growing.py", "write a folder, then copy it; only a rename is atomic")
def test_an_archive_on_another_machine(tmp_path):
    yield lambda: _made(to=f"file://{tmp_path}/a.zarr")
    _made(to=tmp_path / "here.zarr")
    shutil.copytree(tmp_path / "here.zarr", tmp_path / "a.zarr")
    yield lambda: open_zarr(tmp_path / "a.zarr").load()


@remedy("verification/named.py", "leave tile out")
def test_tiles_of_a_reference():
    yield lambda: _made(tile=64)
    yield _made


@remedy("verification/named.py", "leave inflow out")
def test_the_inflow_of_a_reference():
    yield lambda: _made(inflow="missing")
    yield _made


@remedy("verification/named.py", "leave product out")
def test_another_product_of_a_reference():
    yield lambda: _made(product="matched")
    yield _made


# --- init times


@remedy("forecasts/labels.py", "stride=… beside the slice", "stride=2 beside the slice")
@pytest.mark.parametrize("step", [3, "10min"])
def test_a_slice_with_a_step(step):
    times = rain()["time"].values
    fix = yield lambda: _made(init_times=slice(times[4], None, step))
    yield lambda: _made(init_times=slice(times[4], None), **keywords(fix))


@remedy("forecasts/labels.py", "give earlier frames, or choose other init times")
@pytest.mark.parametrize("how", ["earlier", "others"])
def test_a_period_without_history(how, nowcaster):
    whole = rain()
    times = whole["time"].values
    late = whole.isel(time=slice(8, None))
    yield lambda: hindcast(late, nowcaster, init_times=slice(times[8], times[10]))
    if how == "earlier":
        yield lambda: hindcast(whole, nowcaster, init_times=slice(times[8], times[10]))
    else:
        yield lambda: hindcast(late, nowcaster, init_times=slice(times[11], None))


@remedy(
    "forecasts/labels.py",
    "give earlier frames, fill the gap, or pass a slice of init times, which leaves such ones out",
)
@pytest.mark.parametrize("how", ["earlier", "fill", "slice"])
def test_an_init_time_without_history(how, nowcaster):
    whole = rain()
    times = whole["time"].values
    part = whole.isel(time=slice(8, None)) if how == "earlier" else whole.isel(time=[*range(8), *range(9, 20)])
    yield lambda: hindcast(part, nowcaster, init_times=times[[10, 13]])
    if how == "slice":
        yield lambda: hindcast(part, nowcaster, init_times=slice(times[10], times[13]))
    else:
        yield lambda: hindcast(whole, nowcaster, init_times=times[[10, 13]])


@remedy("forecasts/job.py", "leave this init time out, or pass missing='nan'")
@pytest.mark.parametrize("how", ["leave out", "nan"])
def test_a_history_without_a_value(how, nowcaster):
    data = rain()
    data[9] = np.nan
    times = data["time"].values
    fix = yield lambda: hindcast(data, nowcaster, init_times=times[[5, 10]], missing="refuse").compute()
    if how == "nan":
        yield lambda: hindcast(data, nowcaster, init_times=times[[5, 10]], **keywords(fix)).compute()
    else:
        yield lambda: hindcast(data, nowcaster, init_times=times[[5]], missing="refuse").compute()


@remedy("forecasts/job.py", "write the file again from its source")
def test_a_source_that_cannot_be_read(tmp_path):
    store = tmp_path / "rain.zarr"
    options = {"zarr_format": 3, "consolidated": False, "encoding": {"rain": {"chunks": (1, 24, 20)}}}
    rain().to_dataset().to_zarr(store, **options)
    (store / "rain" / "c" / "7" / "0" / "0").write_bytes(b"damaged")
    yield lambda: _made(xr.open_zarr(store, consolidated=False, chunks={})).compute()
    rain().to_dataset().to_zarr(store, mode="w", **options)


@remedy("verification/named.py", "give the same grid")
def test_the_climatology_of_another_grid():
    data = rain(600)
    other = data.assign_coords(x=data["x"] + 500)

    def make(training):
        return hindcast(data[-4:], sa_nowcast.reference("climatology", training=training), 1).compute()

    yield lambda: make(other)
    yield lambda: make(data)


# --- labels, files, scaling, accessors


@remedy("forecasts/labels.py", "leave steps out, or choose earlier lead times")
@pytest.mark.parametrize("how", ["steps", "earlier"])
def test_a_lead_time_beyond_the_steps(how, nowcaster):
    yield lambda: nowcaster.forecast(rain(), 2, lead_times=["15min"])
    if how == "steps":
        yield lambda: nowcaster.forecast(rain(), lead_times=["15min"])
    else:
        yield lambda: nowcaster.forecast(rain(), 2, lead_times=["10min"])


@remedy("forecasts/labels.py", "choose one with .isel(init_time=0)")
def test_an_archive_as_one_forecast(nowcaster, tmp_path):
    ds = hindcast(rain(), nowcaster).compute()
    fix = yield lambda: to_geotiff(ds, tmp_path / "a", crs="EPSG:3035")
    yield lambda: to_geotiff(value(fix.replace(" .", " ds."), ds=ds), tmp_path / "a", crs="EPSG:3035")


@remedy("forecasts/cf.py", "choose another folder")
def test_a_forecast_that_cannot_be_written(nowcaster, tmp_path):
    forecast = nowcaster.forecast(rain())
    (tmp_path / "file").write_text("no folder")
    yield lambda: write_forecast(forecast, tmp_path / "file" / "a.nc")
    yield lambda: write_forecast(forecast, tmp_path / "a.nc")


@remedy("accessors/gridded.py", "choose it, as in ds['name'].sa_nowcast")
def test_a_dataset_of_several_forecasts(nowcaster):
    one = nowcaster.forecast(rain())
    ds = xr.Dataset({"name": one, "other": one})
    fix = yield ds.sa_nowcast.to_cf
    yield lambda: value(fix, ds=ds).to_cf()


def _train(data, **options):
    return fit(data, **{"history": 4, "steps": 3, "network": NETWORK, "progress": False, **OPTIONS, **options})


@remedy("scaling.py", "use scaling='standard', or ds.where(ds >= 0) if they mean missing")
@pytest.mark.parametrize("how", ["standard", "missing"])
def test_negative_rain(how):
    ds = rain()
    ds.values[:, 0, 0] = -9.0 - 0.37 * np.arange(len(ds))
    fix = yield lambda: _train(ds)
    if how == "standard":
        yield lambda: _train(ds, **keywords(fix.partition(",")[0]))
    else:
        mended = value(fix.partition("or ")[2], ds=ds)
        yield lambda: _train(mended)


@remedy("scaling.py", "choose another period or variable")
@pytest.mark.parametrize("how", ["period", "variable"])
def test_a_variable_without_a_value(how):
    ds = weather(20)
    ds["temperature"][:14] = np.nan
    yield lambda: _train(ds, gaps="skip")
    if how == "variable":
        yield lambda: _train(ds[["rain"]])
    else:
        yield lambda: _train(ds.isel(time=slice(14, None)), history=2, steps=1, validation=0.0)


@remedy("scaling.py", "choose a period in which something happens")
def test_a_period_in_which_nothing_happens():
    data = rain(40)
    data[:30] = 0.0
    yield lambda: _train(data[:30])
    yield lambda: _train(data[20:], validation=0.0)


@remedy("scaling.py", "correct or remove the attribute")
@pytest.mark.parametrize("how", ["correct", "remove"])
def test_bounds_that_are_none(how):
    data = rain().assign_attrs(valid_range="0 to 300")
    yield lambda: _train(data)
    right = data.assign_attrs(valid_range=[0.0, 300.0]) if how == "correct" else data.drop_attrs(deep=False)
    yield lambda: _train(right.assign_attrs(units="mm h-1"))


@remedy("scaling.py", "train the model again, or fetch it again from where it came")
def test_constants_of_a_scaling_that_are_none(nowcaster):
    constants = nowcaster.scaling.to_dict()
    yield lambda: Scaling.from_dict([{**constants[0], "wrong": 1}])
    again = _train(rain())
    yield lambda: Scaling.from_dict(again.scaling.to_dict())
