from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sequences import rain

from sa_nowcast.errors import DataError, ModelError, RecipeError
from sa_nowcast.frames import Channel, Frames
from sa_nowcast.scaling import DB_THRESHOLD, KINDS, ChannelScaling, Kind, Scaling

RAIN = Channel("rain", "mm h-1", {"units": "mm h-1"})
HEAT = Channel("temperature", "K", {"units": "K"})
SCALINGS = {
    "affine": ChannelScaling("affine", "K", 280.0, 12.5),
    "minmax": ChannelScaling("minmax", "K", 220.0, 100.0),
    "standard": ChannelScaling("standard", "K", 281.3, 7.7),
    "log1p": ChannelScaling("log1p", "mm h-1", 0.0, 0.83, lower=0.0),
    "db": ChannelScaling("db", "mm h-1", -15.0, 9.1, lower=0.0),
}
FIELDS = hnp.arrays(
    np.float32, (3, 2, 4, 5), elements=st.floats(0, 300, width=32) | st.sampled_from([np.float32("nan"), 0.0, 0.1])
)


def parts(seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.5, 4.0, (12, channels, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("kind", get_args(Kind))
@given(field=FIELDS)
def test_values_come_back_from_the_network_space(kind: str, field: np.ndarray) -> None:
    scaling = SCALINGS[kind]
    back = scaling.to_physical(scaling.to_network(field))
    expected = np.where(field < DB_THRESHOLD, 0, field) if kind == "db" else field
    # float32: z carries a rounding of 2**-24 relative to the largest intermediate (offset 280, exponent 6 for log and
    # decibel), and the exponential multiplies it by that exponent; 1e-5 relative and 1e-4 absolute are ten times that.
    np.testing.assert_allclose(back, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", get_args(Kind))
@given(field=FIELDS)
def test_torch_and_numpy_give_the_same_numbers_and_nan_stays_nan(kind: str, field: np.ndarray) -> None:
    scaling = Scaling((SCALINGS[kind], SCALINGS[kind]))
    ours = scaling.to_network(field)
    theirs = scaling.to_network(torch.from_numpy(field), torch)
    assert theirs.dtype == torch.float32
    # Their logarithms differ in the last bit of float32 (2**-23 = 1.2e-7 relative; 4 of those after the division).
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=5e-7, atol=5e-7)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(field))
    back = scaling.to_physical(torch.from_numpy(ours.astype(np.float32)), torch)
    # An exponential of a number up to 30 turns one bit there into 30 bits here.
    np.testing.assert_allclose(back.numpy(), scaling.to_physical(ours.astype(np.float32)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(back.numpy()), np.isnan(field))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_network_gone_astray_gives_finite_numbers(kind: str) -> None:
    wild = torch.tensor([-1e30, -1e6, 0.0, 1e6, 1e30])
    scaling = ChannelScaling(kind, None, 0.0, 1.0)  # type: ignore[arg-type]
    assert torch.isfinite(scaling.to_physical(wild, torch)).all()


def test_fitted_moments_are_those_of_all_training_values_whatever_the_parts() -> None:
    values = parts(channels=2) * 3 + 250
    values[2, 0, 1] = np.nan
    whole = values.astype(np.float64)
    for pieces in ([values], [values[:5], values[5:6], values[6:]], [*values[:, None]]):
        scaling = Scaling.fit("standard", [HEAT, HEAT], pieces)
        for i, fitted in enumerate(scaling.channels):
            # Sums of 500 doubles in another order: a few times 2**-52.
            assert fitted.offset == pytest.approx(np.nanmean(whole[:, i]), rel=1e-13)
            assert fitted.scale == pytest.approx(np.nanstd(whole[:, i]), rel=1e-11)
        scaling = Scaling.fit("minmax", [HEAT, HEAT], pieces)
        assert scaling.channels[0].offset == np.nanmin(whole[:, 0])
        assert scaling.channels[0].scale == np.nanmax(whole[:, 0]) - np.nanmin(whole[:, 0])
        scaling = Scaling.fit("log1p", [RAIN, RAIN], pieces)
        assert scaling.channels[1].scale == pytest.approx(np.nanstd(np.log1p(whole[:, 1])), rel=1e-11)


def test_standard_scaling_gives_mean_0_and_deviation_1_and_minmax_gives_0_to_1() -> None:
    values = parts() + 250
    z = Scaling.fit("standard", [HEAT], [values]).to_network(values.astype(np.float64))
    assert abs(z.mean()) < 1e-12  # doubles of size 250 / 3, 500 of them
    assert z.std() == pytest.approx(1, rel=1e-12)
    z = Scaling.fit("minmax", [HEAT], [values]).to_network(values.astype(np.float64))
    assert (z.min(), z.max()) == (0, 1)


@pytest.mark.parametrize("kind", ["log1p", "db"])
def test_dry_pixels_are_exactly_0_for_the_network(kind: str) -> None:
    scaling = Scaling.fit(kind, [RAIN], [parts()])
    assert (scaling.to_network(np.zeros((1, 1, 2, 2), np.float32)) == 0).all()
    assert (scaling.to_physical(np.zeros((1, 1, 2, 2), np.float32)) == 0).all()


@pytest.mark.parametrize(
    ("attrs", "kind"),
    [
        ({"units": "mm/h"}, "log1p"),
        ({"standard_name": "rainfall_amount", "units": "kg m-2"}, "log1p"),
        ({"units": "dBZ"}, "standard"),
        ({"units": "K"}, "standard"),
        ({}, "standard"),
    ],
)
def test_auto_takes_log1p_for_rain_and_standard_else(attrs: dict[str, str], kind: str) -> None:
    fitted = Scaling.fit("auto", [Channel("v", attrs.get("units"), attrs)], [parts()]).channels[0]
    assert (fitted.kind, fitted.units) == (kind, attrs.get("units"))


def test_each_channel_has_a_scaling_of_its_own() -> None:
    values = np.concatenate([parts(0), parts(1) + 280], axis=1)
    scaling = Scaling.fit("auto", [RAIN, HEAT], [values])
    assert [c.kind for c in scaling.channels] == ["log1p", "standard"]
    z = scaling.to_network(values)
    np.testing.assert_array_equal(z[:, 1], scaling.channels[1].to_network(values[:, 1]))
    with pytest.raises(ModelError, match="1 channels, expected 2"):
        scaling.to_network(values[:, :1])


@given(
    st.sampled_from(get_args(Kind)),
    st.floats(-1e9, 1e9),
    st.floats(1e-9, 1e9),
    st.none() | st.floats(-1e9, 0),
)
def test_constants_survive_json_to_the_last_bit(kind: Kind, offset: float, scale: float, lower: float | None) -> None:
    scaling = Scaling((ChannelScaling(kind, "K", offset, scale, lower),))
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[0].pop("scale"),
        lambda d: d[0].update(extra=1),
        lambda d: d[0].update(scale=0.0),
        lambda d: d[0].update(scale=float("nan")),
        lambda d: d[0].update(scale="2"),
        lambda d: d[0].update(offset=None),
        lambda d: d[0].update(lower="0"),
        lambda d: d[0].update(upper=float("nan")),
        lambda d: d[0].update(threshold=0.0),
        lambda d: d[0].update(kind="cube"),
        lambda d: d.__setitem__(0, 3),
    ],
)
def test_constants_that_cannot_be_are_a_model_error(change: Any) -> None:
    data = Scaling((SCALINGS["log1p"],)).to_dict()
    change(data)
    with pytest.raises(ModelError):
        Scaling.from_dict(data)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("standard", np.full((3, 1, 2, 2), np.nan, np.float32), "temperature: no valid value in the training period"),
        ("minmax", np.full((3, 1, 2, 2), 7, np.float32), r"temperature: one value only \(7 after minmax\)"),
        ("log1p", np.zeros((3, 1, 2, 2), np.float32), r"one value only \(0 after log1p\).*something happens"),
        ("db", np.full((3, 1, 2, 2), 0.01, np.float32), r"one value only \(-15 after db\)"),
        ("log1p", parts() - 3, r"temperature: negative values, down to -3"),
        ("db", parts() - 3, r"temperature: negative values"),
    ],
)
def test_values_that_cannot_be_scaled_are_refused_by_name(kind: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Scaling.fit(kind, [HEAT], [values])


def test_the_small_negative_values_that_interpolation_leaves_are_no_rain() -> None:
    values = parts()
    values[0, 0, 0, 0] = -1e-4
    scaling = Scaling.fit("log1p", [RAIN], [values])
    assert scaling.to_network(values)[0, 0, 0, 0] == 0


@pytest.mark.parametrize("kind", ["cube", ""])
def test_unknown_kinds_are_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(RecipeError, match="expected one of auto, minmax, standard, log1p, db") as caught:
        Scaling.fit(kind, [HEAT], [parts()])
    assert set(KINDS) - {"affine"} == set(str(caught.value).split("one of ")[1].rstrip(".").split(", "))


def test_valid_bounds_of_the_data_bound_the_forecast() -> None:
    for attrs in ({"valid_range": [0.0, 100.0]}, {"valid_min": 0.0, "valid_max": 100.0}):
        fitted = Scaling.fit("standard", [Channel("v", "1", attrs)], [parts()]).channels[0]
        assert (fitted.lower, fitted.upper) == (0, 100)
        np.testing.assert_array_equal(fitted.to_physical(np.array([-1e3, 1e3])), [0, 100])
        clipped = fitted.to_physical(torch.tensor([-1e3, 1e3]), torch)
        np.testing.assert_array_equal(clipped.numpy(), [0, 100])


@pytest.mark.parametrize("value", ["0 to 100", [1.0], [100.0, 0.0], [float("nan"), 1.0]])
def test_valid_bounds_that_are_none_are_refused_by_name(value: object) -> None:
    with pytest.raises(DataError, match=r"v: valid_range is .*expected two numbers, the smaller first"):
        Scaling.fit("standard", [Channel("v", "1", {"valid_range": value})], [parts()])


def test_valid_range_of_packed_data_bounds_the_forecast_in_physical_units(tmp_path: Path) -> None:
    import xarray as xr

    da = rain(6)
    da.attrs["valid_range"] = np.array([0, 20000], dtype=np.int16)
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": -1}
    da.to_dataset().to_netcdf(tmp_path / "a.nc", encoding={"rain": packing})
    with xr.open_dataset(tmp_path / "a.nc") as ds:
        frames = Frames.from_xarray(ds)
        fitted = Scaling.fit("auto", frames.channels, [frames.read(0, 6)]).channels[0]
    assert fitted.lower == 0
    assert fitted.upper == pytest.approx(200, rel=1e-12)  # 20000 times 0.01 in doubles
