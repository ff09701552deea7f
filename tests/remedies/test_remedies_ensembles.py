"""Members, probabilities and quantiles: what has none, and what cannot be made at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sequences import NETWORK, OPTIONS, rain, weather

import sa_nowcast
from remedies.trial import command, keywords, remedy, value
from sa_nowcast.forecasts import ensembles
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.hindcast import hindcast
from sa_nowcast.models import build
from sa_nowcast.training.fit import fit


def _drawn(members=2, **asked):
    return rain().sa_nowcast.forecast(steps=2, members=members, **asked)


@remedy("forecasts/ensembles.py", "leave tile out")
def test_tiles_of_members():
    yield lambda: _drawn(tile=16)
    yield _drawn


@remedy("forecasts/ensembles.py", "choose one: ds[…]")
def test_thresholds_of_two_variables_at_once():
    ds = weather()
    fix = yield lambda: ds.sa_nowcast.exceedance([1.0], steps=2)
    yield lambda: value(fix, ds=ds).sa_nowcast.exceedance([1.0], steps=2)


@remedy("forecasts/ensembles.py", "give another model, or train this one again")
@pytest.mark.parametrize("how", ["another", "train"])
@pytest.mark.parametrize("bounded", [True, False])
def test_members_that_are_no_numbers(bounded, how):
    data = rain() if bounded else rain() + np.random.default_rng(0).normal(size=rain().shape).astype(np.float32)
    data.attrs = {"units": "1"}

    def train():
        moving = {**NETWORK, "output": "moving"}
        return fit(data, history=4, steps=3, network=moving, progress=False, **OPTIONS)

    model = train()
    broken = replace(model, network=build(model.network.config))
    with torch.no_grad():
        for weight in broken.network.parameters():
            weight.fill_(3e38)
    yield lambda: broken.forecast(data, 2, members=2)
    yield lambda: (default_model() if how == "another" else train()).forecast(data, 2, members=2)


@remedy("forecasts/ensembles.py", "ask for fewer at once, or for a part of the grid")
@pytest.mark.parametrize("how", ["fewer", "part"])
def test_more_members_than_memory_holds(how, monkeypatch):
    # A process of this size has no limit that a test could set: what is free is told instead.
    monkeypatch.setattr(ensembles, "available_memory", lambda device: 9 * 2**20)
    yield lambda: _drawn(members=1000)
    if how == "fewer":
        yield lambda: _drawn(members=20)
    else:
        part = rain().isel(x=slice(8), y=slice(8))
        yield lambda: part.sa_nowcast.forecast(steps=2, members=1000)


@remedy("forecasts/nowcaster.py", "leave product out: members have the distribution of the observed values")
def test_members_of_another_product():
    yield lambda: _drawn(product="matched")
    yield _drawn


@remedy(
    "forecasts/running.py",
    "calibrate it (sa_nowcast.calibrate, sa-nowcast calibrate), take the default model, or train with "
    "network={'output': 'moving'} and distribution=True",
)
@pytest.mark.parametrize("how", ["calibrate", "default", "train"])
@pytest.mark.parametrize("asked", ["members", "exceedance", "quantiles"])
def test_members_of_a_network_without_a_distribution(asked, how, nowcaster):
    def ask(model):
        if asked == "members":
            return model.forecast(rain(), 2, members=2)
        return getattr(model, asked)(rain(), [0.5], 2)

    fix = yield lambda: ask(nowcaster)
    if how == "calibrate":
        yield lambda: ask(sa_nowcast.calibrate(nowcaster, rain(30)))
    elif how == "default":
        yield lambda: ask(default_model())
    else:
        network = NETWORK | eval(fix.partition("network=")[2].partition(" and ")[0])
        trained = keywords(fix.partition(" and ")[2])
        yield lambda: ask(fit(rain(), history=4, steps=2, network=network, progress=False, **OPTIONS, **trained))


@remedy("verification/named.py", 'leave members out, or take sa_nowcast.reference("steps", members=…)')
@pytest.mark.parametrize("how", ["leave out", "steps"])
def test_members_of_a_reference(how):
    pytest.importorskip("pysteps", reason="STEPS needs pysteps: pip install pysteps")
    inits = rain()["time"].values[9:10]
    fix = yield lambda: hindcast(rain(20, 64, 64), "persistence", 2, init_times=inits, members=3)
    model = "persistence" if how == "leave out" else value(fix.partition("take ")[2])
    yield lambda: hindcast(rain(20, 64, 64), model, 2, init_times=inits).compute()


@remedy(
    "derived/fields.py", "forecast with members=24, derive that, and take .quantile([0.1, 0.9], 'realization') of it"
)
@pytest.mark.parametrize("how", ["sums", "areas"])
def test_what_is_derived_of_quantiles(how):
    def derive(forecast):
        own = forecast.sa_nowcast
        return own.accumulate("10min") if how == "sums" else own.over({"all": np.ones(rain().shape[1:], bool)})

    yield lambda: derive(rain().sa_nowcast.quantiles([0.1, 0.9], steps=2))
    yield lambda: derive(rain().sa_nowcast.forecast(steps=2, members=24)).quantile([0.1, 0.9], "realization")


@remedy("hindcast/calibration.py", "leave the archive out: then a hindcast is made that calibrates this model")
def test_an_archive_of_another_model(nowcaster):
    data = rain(30)
    yield lambda: sa_nowcast.calibrate(nowcaster, data, data.sa_nowcast.hindcast(3))
    yield lambda: sa_nowcast.calibrate(nowcaster, data)


@remedy("hindcast/calibration.py", "give a longer period")
@pytest.mark.parametrize("few", ["init times", "pairs"])
def test_too_little_to_calibrate_by(few, nowcaster):
    frames, size = (20, 20) if few == "init times" else (30, 6)
    yield lambda: sa_nowcast.calibrate(nowcaster, rain(frames, size, size))
    yield lambda: sa_nowcast.calibrate(nowcaster, rain(80, size, size))


@remedy("forecasts/calibration.py", "ask for steps=…, or calibrate with steps=…")
@pytest.mark.parametrize("how", [0, 1])
def test_more_lead_times_than_were_calibrated(how, nowcaster):
    model = sa_nowcast.calibrate(nowcaster, rain(30))
    fix = yield lambda: model.forecast(rain(), 4, members=2)
    told = keywords(fix.split(", or ")[how])
    if how:
        model = sa_nowcast.calibrate(nowcaster, rain(30), **told)
    yield lambda: model.forecast(rain(), **(told if not how else {"steps": 4}), members=2)


@remedy("cli/calibrate.py", "leave it out")
def test_options_of_an_archive_that_is_there(saved, tmp_path, monkeypatch):
    frames, archive = tmp_path / "rain.nc", tmp_path / "archive.zarr"
    rain(30).to_netcdf(frames)
    rain(30).sa_nowcast.hindcast(model=saved, to=archive)
    told = ("calibrate", saved, frames, "--archive", archive)
    yield command(monkeypatch, *told, "--steps", 2)
    yield command(monkeypatch, *told)
