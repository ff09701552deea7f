"""Saved nowcasters, the data that they accept, networks and memory."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray as xr
from sequences import NETWORK, OPTIONS, georeferenced, rain, traffic, weather

import sa_nowcast
from remedies.trial import as_path, command, keywords, remedy, value, without_privileges
from sa_nowcast.bundle import files as bundle
from sa_nowcast.errors import ModelError
from sa_nowcast.forecasts import default_model
from sa_nowcast.models import acceleration, build, preset
from sa_nowcast.models.estimate import estimate_memory, require_memory
from sa_nowcast.sources.opening import open_forecast
from sa_nowcast.training.fit import fit


@pytest.fixture
def radar(tmp_path: Path) -> Path:
    path = tmp_path / "radar.nc"
    georeferenced(rain()).to_netcdf(path)
    return path


@remedy("bundle/files.py", "choose another path")
def test_something_that_is_no_model_stands_there(nowcaster, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes").write_text("mine")
    yield lambda: nowcaster.save(tmp_path / "a", overwrite=True)
    yield lambda: nowcaster.save(tmp_path / "b", overwrite=True)


@remedy("bundle/files.py", "choose another path, or pass overwrite=True")
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("how", ["path", "overwrite"])
def test_a_model_stands_there(how, empty, nowcaster, tmp_path):
    path = tmp_path / "a"
    path.mkdir() if empty else nowcaster.save(path)
    fix = yield lambda: nowcaster.save(path)
    yield (lambda: nowcaster.save(tmp_path / "b")) if how == "path" else lambda: nowcaster.save(path, **keywords(fix))


@remedy("bundle/files.py", "choose another folder")
def test_a_model_that_cannot_be_written(nowcaster, tmp_path):
    (tmp_path / "file").write_text("no folder")
    yield lambda: nowcaster.save(tmp_path / "file" / "a")
    yield lambda: nowcaster.save(tmp_path / "a")


@remedy("bundle/files.py", "name …")
@pytest.mark.parametrize("wrong", [".", "rian.nowcaster"])
def test_a_model_beside_or_below(wrong, saved):
    fix = yield lambda: sa_nowcast.load(saved.parent / wrong)
    yield lambda: sa_nowcast.load(as_path(fix.removeprefix("name ")))


@remedy("bundle/files.py", "name the folder of a saved nowcaster")
def test_no_model_there(nowcaster, tmp_path):
    yield lambda: sa_nowcast.load(tmp_path / "a" / "b")
    path = nowcaster.save(tmp_path / "c")
    yield lambda: sa_nowcast.load(path)


DAMAGES = {
    "not JSON": lambda folder: (folder / bundle.MODEL).write_text("{"),
    "no format number": lambda folder: (folder / bundle.MODEL).write_text("{}"),
    "altered": lambda folder: (folder / bundle.MODEL).write_text((folder / bundle.MODEL).read_text() + " "),
    "a link out": lambda folder: _relinked(folder / bundle.WEIGHTS, Path("/dev/zero")),
    "too large": lambda folder: (folder / bundle.MODEL).write_bytes(b" " * (bundle.MAX_JSON_BYTES + 1)),
    "no weights": lambda folder: (folder / bundle.WEIGHTS).unlink(),
    "truncated": lambda folder: (folder / bundle.WEIGHTS).write_bytes((folder / bundle.WEIGHTS).read_bytes()[:99]),
    "beyond all sizes": lambda folder: _grown(folder / bundle.WEIGHTS, bundle.MAX_WEIGHTS_BYTES + 1),
    "altered calibration": lambda folder: _other_calibration(folder),
    "no tensors": lambda folder: _other_weights(folder, b"no tensors"),
}


def _relinked(file: Path, to: Path) -> None:
    file.unlink()
    file.symlink_to(to)


def _grown(file: Path, size: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(size)  # sparse


def _other_weights(folder: Path, data: bytes) -> None:
    content = json.loads((folder / bundle.MODEL).read_text())
    content["weights_sha256"] = bundle.hashlib.sha256(data).hexdigest()
    content["sha256"] = bundle._digest({k: v for k, v in content.items() if k != "sha256"})
    (folder / bundle.MODEL).write_bytes(bundle._text(content).encode())
    (folder / bundle.WEIGHTS).write_bytes(data)


def _other_calibration(folder: Path) -> None:
    content = json.loads((folder / bundle.MODEL).read_text())
    content[bundle.CALIBRATED] = {"sha256": "0" * 64}
    (folder / bundle.MODEL).write_bytes(bundle._text(content).encode())


@remedy("bundle/files.py", "train the model again, or fetch it again from where it came")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_fetched_again(damage, saved, tmp_path):
    elsewhere = shutil.copytree(saved, tmp_path / "elsewhere")
    DAMAGES[damage](saved)
    yield lambda: sa_nowcast.load(saved)
    shutil.rmtree(saved)
    shutil.copytree(elsewhere, saved)


@remedy("bundle/files.py", "make it readable, as by chmod u+r …")
def test_a_model_that_may_not_be_read(saved):
    (saved / bundle.MODEL).chmod(0)

    def load():
        with without_privileges():
            return sa_nowcast.load(saved)

    fix = yield load
    subprocess.run(fix.partition("as by ")[2], shell=True, check=True)  # noqa: S602
    assert (saved / bundle.MODEL).stat().st_mode & stat.S_IRUSR


@remedy("bundle/files.py", "install a newer sa-nowcast")
def test_a_model_of_a_newer_version(nowcaster, tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(bundle, "FORMAT", bundle.FORMAT + 1)
        path = nowcaster.save(tmp_path / "model")
    yield lambda: sa_nowcast.load(path)
    monkeypatch.setattr(bundle, "FORMAT", bundle.FORMAT + 1)  # what a newer version knows


@remedy("forecasts/default_model.py", "install sa_nowcast again")
def test_an_installation_without_the_model_that_ships(tmp_path, monkeypatch):
    shipped = default_model.FOLDER
    monkeypatch.setattr(default_model, "FOLDER", tmp_path / "model")
    default_model.default_model.cache_clear()
    yield default_model.default_model
    shutil.copytree(shipped, tmp_path / "model")
    yield default_model.default_model
    default_model.default_model.cache_clear()


@remedy("forecasts/model.py", "save it without half")
def test_a_weight_beyond_half_precision(nowcaster, tmp_path):
    large = replace(nowcaster, network=build(nowcaster.network.config))
    with torch.no_grad():
        next(large.network.parameters()).fill_(1e6)
    yield lambda: large.half().save(tmp_path / "model")
    yield lambda: large.save(tmp_path / "model")


@remedy("forecasts/model.py", "train it again")
def test_weights_and_description_that_do_not_fit(saved):
    weights, content = bundle.read_bundle(saved)
    weights = {name: torch.zeros(1) for name in weights}
    shutil.rmtree(saved)
    bundle.write_bundle(saved, weights, {k: v for k, v in content.items() if "sha256" not in k}, overwrite=False)
    yield lambda: sa_nowcast.load(saved)
    again = fit(rain(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    again.save(saved, overwrite=True)


@remedy("forecasts/model.py", "train it again, or take the version of sa_nowcast that made it")
def test_a_lagrangian_network_of_an_earlier_version(tmp_path):
    moving = {**NETWORK, "output": "moving"}
    model = fit(rain(), history=4, steps=3, network=moving, progress=False, **OPTIONS)
    saved = model.save(tmp_path / "old.nowcaster")
    weights, content = bundle.read_bundle(saved)
    former = {name: weight for name, weight in weights.items() if not name.startswith(("leads.", "growth"))}
    shutil.rmtree(saved)
    bundle.write_bundle(saved, former, {k: v for k, v in content.items() if "sha256" not in k}, overwrite=False)
    yield lambda: sa_nowcast.load(saved)
    fit(rain(), history=4, steps=3, network=moving, progress=False, **OPTIONS).save(saved, overwrite=True)


@remedy("forecasts/labels.py", "give earlier frames, fill the gap, or choose another init_time")
@pytest.mark.parametrize("how", ["earlier", "fill", "choose"])
def test_a_history_that_is_too_short(how, nowcaster):
    whole = rain()
    holed = whole.isel(time=[*range(8), *range(9, 12)]) if how != "earlier" else whole.isel(time=slice(3))
    yield lambda: nowcaster.forecast(holed)
    if how == "choose":
        yield lambda: nowcaster.forecast(holed, init_time=holed["time"].values[6])
    else:
        yield lambda: nowcaster.forecast(whole.isel(time=slice(12)))


@remedy("forecasts/job.py", "choose another init_time")
def test_a_frame_of_the_history_without_a_value(nowcaster):
    data = rain()
    data[18] = float("nan")
    yield lambda: nowcaster.forecast(data)
    yield lambda: nowcaster.forecast(data, init_time=data["time"].values[17])


@remedy(
    "forecasts/job.py",
    "choose another init_time, or open with sa_nowcast.sources.open_source(path), which keeps 0",
)
@pytest.mark.parametrize("how", ["time", "open"])
def test_a_dry_frame_whose_zeros_a_file_calls_missing(how, nowcaster, tmp_path):
    data, path = rain(), tmp_path / "rain.zarr"
    data[18:] = 0.0
    data.to_dataset().to_zarr(path, zarr_format=2, consolidated=False)
    metadata = json.loads((path / "rain" / ".zarray").read_text()) | {"fill_value": 0.0}
    (path / "rain" / ".zarray").write_text(json.dumps(metadata))
    opened = xr.open_dataset(path, engine="zarr", consolidated=False, mask_and_scale=True)
    fix = yield lambda: nowcaster.forecast(opened)
    if how == "time":
        yield lambda: nowcaster.forecast(opened, init_time=data["time"].values[17])
    else:
        yield lambda: nowcaster.forecast(value(fix.partition("open with ")[2], path=path))


@remedy("forecasts/nowcaster.py", "leave inflow out, or take the default model")
@pytest.mark.parametrize("how", ["leave out", "default"])
def test_the_inflow_of_a_network_that_knows_no_motion(how, nowcaster):
    yield lambda: nowcaster.forecast(rain(), inflow="missing")
    if how == "default":
        yield lambda: rain().sa_nowcast.forecast(steps=2, inflow="missing")
    else:
        yield lambda: nowcaster.forecast(rain())


@remedy("forecasts/running.py", "give another model, or train this one again")
@pytest.mark.parametrize("how", ["another", "train"])
def test_a_model_that_forecasts_no_numbers(how, nowcaster):
    broken = replace(nowcaster, network=build(nowcaster.network.config))
    with torch.no_grad():
        for weight in broken.network.parameters():
            weight.fill_(3e38)
    yield lambda: broken.forecast(rain())
    model = nowcaster
    if how == "train":
        model = fit(rain(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    yield lambda: model.forecast(rain())


@remedy("forecasts/terms.py", "ds.sel(…=…)", "give the channels of training, by the same names")
@pytest.mark.parametrize("case", ["channels", "variables"])
def test_other_channels_than_those_of_training(case, weather_nowcaster, traffic_nowcaster):
    if case == "channels":
        ds, model = traffic().sel(channel=["out", "in"]), traffic_nowcaster
    else:
        ds, model = weather().rename(rain="precipitation"), weather_nowcaster
    fix = yield lambda: model.forecast(ds)
    mended = ds.rename(precipitation="rain") if case == "variables" else value(fix, ds=ds)
    yield lambda: model.forecast(mended)


@remedy("forecasts/terms.py", "convert the values, and set the attribute units of … to …")
def test_other_units_than_those_of_training(nowcaster):
    data = (rain() / 3600).assign_attrs(units="m s-1")
    fix = yield lambda: nowcaster.forecast(data)
    name, units = re.search("attribute units of (.*) to '(.*)'", fix).groups()
    assert name == data.name
    yield lambda: nowcaster.forecast((data * 3600).rename(name).assign_attrs(units=units))


@remedy("forecasts/terms.py", "resample in time, or train a model at this step")
@pytest.mark.parametrize("how", ["resample", "train"])
def test_another_step_than_that_of_training(how, nowcaster):
    data = rain(step="150s")
    yield lambda: nowcaster.forecast(data)
    if how == "resample":
        yield lambda: nowcaster.forecast(data.resample(time="5min").mean())
    else:
        model = fit(data, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
        yield lambda: model.forecast(data)


@remedy("forecasts/terms.py", "regrid, train a model for this grid, or pass grid='any' to try it all the same")
@pytest.mark.parametrize("how", ["regrid", "train", "any"])
def test_another_grid_than_that_of_training(how, nowcaster):
    data = rain()
    data = data.assign_coords(x=data["x"] * 2, y=data["y"] * 2)
    data["x"].attrs, data["y"].attrs = rain()["x"].attrs, rain()["y"].attrs
    fix = yield lambda: nowcaster.forecast(data)
    if how == "regrid":
        regridded = data.interp(x=rain()["x"], y=rain()["y"])
        yield lambda: nowcaster.forecast(regridded)
    elif how == "train":
        model = fit(data, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
        yield lambda: model.forecast(data)
    else:
        yield lambda: nowcaster.forecast(data, **keywords(fix))


@remedy("forecasts/terms.py", "reproject, or pass grid='any'")
@pytest.mark.parametrize("how", ["reproject", "any"])
def test_another_projection_than_that_of_training(how):
    model = fit(georeferenced(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    data = georeferenced()
    data["crs"].attrs["latitude_of_projection_origin"] = 10.0
    fix = yield lambda: model.forecast(data)
    yield lambda: model.forecast(georeferenced()) if how == "reproject" else model.forecast(data, **keywords(fix))


@remedy("sources/opening.py", "make one with sa-nowcast forecast or sa-nowcast hindcast")
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("made_by", ["forecast", "hindcast"])
def test_no_forecast_there(made_by, there, radar, saved, tmp_path, monkeypatch):
    fix = yield lambda: open_forecast(str(radar if there else tmp_path / "none.nc"))
    words = next(w for w in re.findall(r"sa-nowcast (\w+)", fix) if w == made_by)
    target = tmp_path / ("made.nc" if made_by == "forecast" else "made.zarr")
    where = [target] if made_by == "hindcast" else ["-o", target]
    command(monkeypatch, words, radar, "--model", saved, *where)()
    yield lambda: open_forecast(str(target))


def _memory(batch, *, grid=(64, 64), training=True, **fields):
    config = preset("small", channels=1, **fields)
    return lambda available: require_memory(
        config, grid, batch, history=4, steps=3, training=training, available=available
    )


def _needed(batch, *, grid=(64, 64), training=True, **fields):
    return estimate_memory(preset("small", channels=1, **fields), grid, batch, history=4, steps=3, training=training)


@remedy("models/estimate.py", "use a batch of …", "use a batch of …, or set checkpoint_steps: 1")
@pytest.mark.parametrize("how", ["batch", "steps", "batch alone"])
def test_a_batch_that_memory_cannot_hold(how):
    frugal = {"checkpoint_steps": 1} if how == "batch alone" else {}
    available = _needed(4, **frugal)
    fix = yield lambda: _memory(8, **frugal)(available)
    if how == "steps":
        name, steps = re.search(r"set (\w+): (\d+)", fix).groups()
        available = max(available, _needed(8, **{name: int(steps)}))
        yield lambda: _memory(8, **{name: int(steps)})(available)
    else:
        yield lambda: _memory(int(re.search(r"batch of (\d+)", fix)[1]), **frugal)(available)


@remedy("models/estimate.py", "use a batch of 1 with checkpoint_steps: 1")
def test_one_sample_that_memory_cannot_hold():
    available = _needed(1, checkpoint_steps=1)
    fix = yield lambda: _memory(8)(available)
    batch, name, steps = re.search(r"batch of (\d+) with (\w+): (\d+)", fix).groups()
    yield lambda: _memory(int(batch), **{name: int(steps)})(available)


@remedy("models/estimate.py", "use a larger patch than …, fewer hidden channels, or a smaller grid")
@pytest.mark.parametrize(
    "smaller", [{"patch": 8}, {"hidden": (2,)}, {"grid": (16, 16)}], ids=["patch", "hidden", "grid"]
)
def test_a_network_that_memory_cannot_hold(smaller):
    available = max(_needed(1, checkpoint_steps=1, **smaller), 1)
    yield lambda: _memory(1, checkpoint_steps=1)(available)
    yield lambda: _memory(1, checkpoint_steps=1, **smaller)(available)


@remedy("models/estimate.py", "take a smaller grid, or tile=…")
@pytest.mark.parametrize("how", ["grid", "tile"])
def test_a_grid_that_memory_cannot_hold_for_a_forecast(how):
    available = 2 * _needed(1, grid=(128, 128), training=False)
    fix = yield lambda: _memory(1, grid=(1024, 1024), training=False)(available)
    tile = keywords(fix)["tile"] if how == "tile" else 128
    yield lambda: _memory(1, grid=(tile, tile), training=False)(available)


@remedy("models/estimate.py", "take a smaller grid")
def test_a_small_grid_that_memory_cannot_hold_for_a_forecast():
    available = _needed(1, grid=(16, 16), training=False)
    yield lambda: _memory(1, training=False)(available)
    yield lambda: _memory(1, grid=(16, 16), training=False)(available)


@remedy("models/rollout.py", "choose as many variables as the network was built for")
def test_frames_of_more_channels_than_the_network():
    net = build(preset("small", channels=2))
    yield lambda: net(torch.zeros(1, 4, 3, 16, 16), 2)
    yield lambda: net(torch.zeros(1, 4, 3, 16, 16)[:, :, :2], 2)


@remedy("models/rollout.py", "fill missing values before the network, and leave them out of the loss")
def test_frames_with_missing_values():
    net, frames = build(preset("small", channels=1)), torch.zeros(1, 4, 1, 16, 16)
    frames[0, 1, 0, 3, 3] = float("nan")
    yield lambda: net(frames, 2)
    assert torch.isfinite((net(frames.nan_to_num(), 2) - 1)[torch.ones(1, 2, 1, 16, 16, dtype=torch.bool)].mean())
    yield lambda: net(frames.nan_to_num(), 2)


def _captured(**options):
    net = build(preset("small", channels=1))
    optimiser = torch.optim.Adam(net.parameters(), **options)
    loss = torch.nn.functional.mse_loss
    return lambda: acceleration.GraphedTrainingStep(net, optimiser, loss, torch.zeros(1, 4, 1, 16, 16), 2)


@remedy("models/acceleration.py", "make it with capturable=True", goes_on_to=ModelError)
def test_an_optimiser_that_no_graph_can_capture():
    """Without a CUDA device the next error says so."""
    fix = yield _captured()
    yield _captured(**keywords(fix))


@remedy("models/acceleration.py", "train without graph on this device")
def test_a_graph_without_a_device():
    yield _captured(capturable=True)
    yield lambda: fit(
        rain(), history=4, steps=3, network=NETWORK, progress=False, **{**OPTIONS, "acceleration": "none"}
    )


@remedy("models/fc_lstm.py", "build it with grid=(…, …)")
def test_another_grid_than_the_weights_are_bound_to():
    x = torch.rand(1, 3, 1, 6, 5)
    fix = yield lambda: build("fc-lstm", hidden=(4,))(x)
    yield lambda: build("fc-lstm", hidden=(4,), **keywords(fix))(x)
