"""A nowcaster as a method of pysteps, and a forecast as the external nowcast of pysteps' STEPS blending.

pysteps passes plain arrays; what they mean stands in a dictionary beside them. `forecast` checks that dictionary where
it is given. Without it the array is taken for what the model was trained on, rows from north to south.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing.installing import pip_install
from sa_nowcast.errors import DataError, MissingLibraryError, ModelError, RecipeError
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.forecasts.labels import require_one
from sa_nowcast.forecasts.method import MEAN, Product
from sa_nowcast.interop import projection
from sa_nowcast.interop.names import PYSTEPS_THRESHOLD, pysteps_units, rain_limits
from sa_nowcast.metadata import dims
from sa_nowcast.sources.reading import require
from sa_nowcast.times import nearest, read_times, show_time

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

METHOD = "sa_nowcast"
DRY_DECIBELS = -15.0
"""What stands for no rain in decibels, in pysteps' examples."""

# Any time will do: pysteps passes frames without times.
_EPOCH = np.datetime64("2000-01-01T00:00", "ns")
_METRES = {"m": 1.0, "km": 1000.0}


def register(name: str = METHOD) -> None:
    """Make ``pysteps.nowcasts.get_method("sa_nowcast")`` return `forecast`, in this process.

    The installed pysteps has no way for a package to announce a nowcast method. Its open pull request 418 adds the
    entry point group ``pysteps.plugins.nowcasts``, which this package declares too; with it, no call is needed.

    Parameters
    ----------
    name : str
        Under which pysteps is to know the method; it compares names in lower case.

    Raises
    ------
    MissingLibraryError
        pysteps is not installed, or keeps its methods elsewhere than in its versions 1.x.
    RecipeError
        The name is that of another method.
    """
    methods = getattr(_pysteps("nowcasts.interface"), "_nowcast_methods", None)
    if not isinstance(methods, dict):
        raise MissingLibraryError(
            "pysteps", "has no table of nowcast methods", "pysteps 1.x", pip_install("pysteps>=1.21,<2")
        )
    if methods.get(name.lower(), forecast) is not forecast:
        raise RecipeError("name", f"{name!r} is a method of pysteps already", fix="choose another name")
    methods[name.lower()] = forecast


def forecast(
    precip: npt.ArrayLike,
    velocity: npt.ArrayLike | None,
    timesteps: int | Sequence[float],
    *,
    model: Nowcaster | str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    timestep: float | None = None,
    kmperpixel: float | None = None,
    product: Product = MEAN,
    n_ens_members: int | None = None,
    seed: int = 0,
    device: str = "auto",
    measure_time: bool = False,
    **others: Any,
) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], float]:
    """Nowcast with a trained network, under the interface of pysteps' nowcast methods.

    Parameters
    ----------
    precip : array-like, shape (T, m, n)
        The last T frames, oldest first, at the model's cadence and in the units that it was trained on: rain rates in
        mm h-1 for a model of rain rates, and not their decibels. T is at least the model's history; earlier frames
        are not used. NaN and infinities are missing values.
    velocity : array-like, shape (2, m, n), or None
        Taken because every method of pysteps takes it; the network finds motion by itself. Only its shape is checked.
    timesteps : int or list of float
        Number of time steps, or ascending time steps, whole ones: a network has no frames between its own.
    model : Nowcaster or path, optional
        By default the one of `sa_nowcast.get_default_model`.
    metadata : mapping, optional
        The dictionary of pysteps' importers. Its ``unit`` and ``transform`` are checked against the model, and
        ``yorigin`` "lower" tells that rows run from south to north.
    timestep : float, optional
        Minutes between the frames, and
    kmperpixel : float, optional
        km between cells, as for pysteps' STEPS: checked against the model where given.
    product : {"mean", "matched"}
        As for `sa_nowcast.Nowcaster.forecast`.
    n_ens_members : int, optional
        Draw so many members, as for `sa_nowcast.Nowcaster.forecast`; by default none.
    seed : int, default 0
        Of the members.
    device : str
        ``auto`` (default), ``cpu``, ``cuda`` or ``cuda:N``.
    measure_time : bool
        Return the seconds that it took as well. Nothing is printed.

    Returns
    -------
    ndarray, shape ([members,] time steps, m, n)
        In the units of `precip` and of its type where that is a floating one. NaN where all of the history was
        missing. With `measure_time`, a pair of this and the seconds.

    Raises
    ------
    DataError
        Too few frames, shapes that do not fit, values that cannot be rain rates.
    ModelError
        No model, one of several channels, or one of other units, cadence or spacing.
    RecipeError
        Time steps that are not ascending whole numbers, or an option that the method does not have.

    Notes
    -----
    Decibels cannot be told from rain rates where it rains everywhere. A negative value tells them, and is refused
    for a model of rain.
    """
    begin = time.perf_counter()
    if others:
        raise RecipeError(
            f"pysteps method {METHOD}",
            f"no option {', '.join(sorted(others))}",
            expected="model, metadata, timestep, kmperpixel, product, n_ens_members, seed, device, measure_time",
        )
    nowcaster = as_nowcaster(model)
    wanted = _time_steps(timesteps)
    data = _labelled(precip, nowcaster, metadata or {}, timestep, kmperpixel)
    if velocity is not None and np.shape(velocity) != (2, *data.shape[1:]):
        raise DataError("velocity", f"shape {np.shape(velocity)}", expected=f"{(2, *data.shape[1:])}, as precip")
    lower = (metadata or {}).get("yorigin") == "lower"
    if lower:
        data = data.isel(y=slice(None, None, -1))  # models see rows from north to south
    made = nowcaster.forecast(data, wanted[-1], product=product, members=n_ens_members, seed=seed, device=device)
    values = made.values[..., np.array(wanted) - 1, :, :]
    values = values[..., ::-1, :] if lower else values
    kind = np.asarray(precip).dtype
    result = values.astype(kind if kind.kind == "f" else np.float64)
    return (result, time.perf_counter() - begin) if measure_time else result


def to_blending(
    forecast: xr.DataArray,
    analysis: xr.DataArray,
    *,
    transform: Literal["dB"] | None = "dB",
    threshold: float = PYSTEPS_THRESHOLD,
    zerovalue: float = DRY_DECIBELS,
) -> npt.NDArray[np.float64]:
    """Return a forecast as the external nowcast that pysteps' STEPS blending takes.

    Pass the result as ``precip_nowcast`` of ``pysteps.blending.steps.forecast``, with
    ``nowcasting_method="external_nowcast"`` (tested with pysteps 1.21). pysteps recommends a noise generator for a
    single forecast, and ``noise_method=None`` for an ensemble.

    Parameters
    ----------
    forecast : DataArray, dims ([realization,] lead_time, y, x)
        Rain rates in mm h-1 of one init time, at lead times of 1, 2, ... steps.
    analysis : DataArray, dims ([time,] y, x)
        What was observed at init time, which blending wants first; of a sequence, the frame at init time is taken.
    transform : {"dB", None}
        "dB" as for the other fields of the blending, by pysteps' own `dB_transform`; None for rain rates.
    threshold : float
        Least rain, mm h-1; less becomes `zerovalue`.
    zerovalue : float
        What stands for no rain, in decibels.

    Returns
    -------
    ndarray of float64, shape (members, lead times + 1, m, n)
        Rows and columns as in the forecast; one member where it is no ensemble. NaN where it is missing.

    Raises
    ------
    DataError
        Several init times or variables, uneven lead times, other units, or no frame at init time.
    MissingLibraryError
        pysteps is not installed.
    """
    if transform not in ("dB", None):
        raise RecipeError("transform", f"{transform!r}", expected="'dB' or None")
    label = str(forecast.name or "forecast")
    _check_one(forecast, label)
    for name, attrs in ((label, forecast.attrs), (f"{label}, analysis", analysis.attrs)):
        if pysteps_units(attrs.get("units")) != "mm/h":
            raise DataError(
                name,
                f"units {attrs.get('units')!r}",
                expected="mm h-1",
                fix="convert the values, and set attrs['units'] = 'mm h-1'",
            )
    leads = forecast[dims.LEAD_TIME].values
    if (leads != leads[0] * np.arange(1, len(leads) + 1)).any():
        raise DataError(label, "lead times that are not 1, 2, ... steps", expected="every step, as blending needs")
    y, x = (dims.find_dim(forecast, role) for role in ("y", "x"))
    first = _analysis(analysis, forecast[dims.INIT_TIME].values.reshape(-1)[0], label)
    if dict(first.sizes) != {y: forecast.sizes[y], x: forecast.sizes[x]}:
        found = ", ".join(f"{d} ({n})" for d, n in first.sizes.items())
        raise DataError(f"{label}, analysis", found, expected=f"{y} ({forecast.sizes[y]}), {x} ({forecast.sizes[x]})")
    for axis in (y, x):
        if (
            axis in first.coords
            and axis in forecast.coords
            and not dims.same_axis(forecast[axis].values, first[axis].values)
        ):
            raise DataError(f"{label}, analysis", f"other {axis} than the forecast", expected="the same grid")
    field = forecast if dims.REALIZATION in forecast.dims else forecast.expand_dims(dims.REALIZATION)
    field = field.squeeze(dims.INIT_TIME) if dims.INIT_TIME in field.dims else field
    values = field.transpose(dims.REALIZATION, dims.LEAD_TIME, y, x).values.astype(np.float64)
    start = np.broadcast_to(first.transpose(y, x).values, (len(values), 1, *values.shape[2:]))
    rates: npt.NDArray[np.float64] = np.concatenate([start, values], axis=1)
    if transform is None:
        return rates
    decibels, _ = _pysteps("utils.transformation").dB_transform(
        rates, {"transform": None, "unit": "mm/h", "zerovalue": 0.0}, threshold=threshold, zerovalue=zerovalue
    )
    result: npt.NDArray[np.float64] = np.where(np.isnan(rates), np.nan, decibels)
    return result


def to_metadata(forecast: xr.DataArray) -> dict[str, Any]:
    """Return the dictionary that pysteps' importers give and its exporters, plots and transformations take.

    Parameters
    ----------
    forecast : DataArray, dims (..., y, x)
        In mm h-1, mm or dBZ, on a regular grid.

    Returns
    -------
    dict
        ``projection`` (PROJ string), ``x1``, ``x2``, ``y1``, ``y2`` (the grid's outer edges), ``xpixelsize``,
        ``ypixelsize``, ``cartesian_unit``, ``yorigin``, ``unit``, ``transform``, ``accutime`` (minutes), ``threshold``,
        ``zerovalue``, ``institution``.

    Raises
    ------
    DataError
        The grid is not regular, has no grid mapping, or the units are others.
    """
    label = str(forecast.name or "forecast")
    units = pysteps_units(forecast.attrs.get("units"))
    if units is None:
        raise DataError(label, f"units {forecast.attrs.get('units')!r}", expected="mm h-1, mm or dBZ")
    text = projection.proj_string(forecast)
    if text is None:
        raise DataError(label, "no grid mapping", fix="add one, CF section 5.6")
    y, x = (projection.regular_axis(forecast, dims.find_dim(forecast, role)) for role in ("y", "x"))
    lead = forecast[dims.LEAD_TIME].values
    step = np.diff(lead).min() if len(lead) > 1 else lead[0]
    threshold, zero = rain_limits(forecast, units)
    return {
        "projection": text,
        "x1": x.edges[0],
        "x2": x.edges[1],
        "y1": y.edges[0],
        "y2": y.edges[1],
        "xpixelsize": abs(x.step),
        "ypixelsize": abs(y.step),
        "cartesian_unit": "degrees" if projection.is_geographic(forecast) else "m",
        "yorigin": "upper" if y.step < 0 else "lower",
        "unit": units,
        "transform": None,
        "accutime": float(step / np.timedelta64(1, "s")) / 60.0,
        "threshold": threshold,
        "zerovalue": zero,
        "institution": str(forecast.attrs.get("institution", "")),
    }


def _pysteps(module: str) -> ModuleType:
    return require(f"pysteps.{module}", "pysteps")


def _time_steps(timesteps: int | Sequence[float]) -> list[int]:
    """Return ascending whole time steps."""
    expected = "a whole number from 1 on, or an ascending list of them"
    whole = isinstance(timesteps, int | np.integer) and not isinstance(timesteps, bool)
    steps = list(range(1, int(timesteps) + 1)) if whole else timesteps  # type: ignore[arg-type]
    try:
        numbers = np.asarray(steps, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.ndim != 1 or not numbers.size or (numbers < 1).any() or (np.diff(numbers) <= 0).any():
        raise RecipeError("timesteps", f"{timesteps!r:.80}", expected=expected)
    if (numbers % 1).any():
        raise RecipeError("timesteps", f"{numbers[numbers % 1 > 0][0]:g}", expected="whole steps of the model")
    return [int(n) for n in numbers]


def _labelled(
    precip: npt.ArrayLike,
    nowcaster: Nowcaster,
    metadata: Mapping[str, Any],
    timestep: float | None,
    kmperpixel: float | None,
) -> xr.DataArray:
    """Return the array with the labels that the nowcaster checks."""
    terms = nowcaster.terms
    if len(terms.channels) != 1:
        names = ", ".join(name for name, _ in terms.channels)
        raise ModelError(
            "model", f"channels {names}", expected="one channel, as pysteps has", fix="give a model of one channel"
        )
    ((name, units),) = terms.channels
    values = np.asarray(precip)
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise DataError(
            "precip",
            f"shape {values.shape}, {values.dtype}",
            expected=f"numbers of shape (T, m, n), T at least {terms.history}",
        )
    if (transform := metadata.get("transform")) is not None:
        raise DataError(
            "precip",
            f"transform {transform!r}",
            expected="values as the model was trained on",
            fix="undo it first, as with pysteps.utils.transformation.dB_transform(precip, metadata, inverse=True)",
        )
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    if dims.is_rain({"units": units}) and (lowest := np.nanmin(values, initial=0.0)) < 0:
        raise DataError(
            "precip",
            f"values down to {lowest:g}",
            expected=f"rain in {units}, at or above 0",
            fix="undo the transformation to decibels",
        )
    step = terms.step if timestep is None else np.timedelta64(round(float(timestep) * 60e9), "ns")
    coords: dict[str, Any] = {"time": _EPOCH + step * np.arange(len(values))}
    metres = _METRES.get(dims.canonical_units(terms.grid_units) or "")
    if kmperpixel is not None and metres is not None:  # a model without a grid in metres leaves the spacing free
        for dim, size in (("y", values.shape[1]), ("x", values.shape[2])):
            centres = np.arange(size) * float(kmperpixel) * 1000.0 / metres
            coords[dim] = (dim, centres[::-1] if dim == "y" else centres, {"units": terms.grid_units})
    found = metadata.get("unit", units)
    if found is not None and pysteps_units(found) == pysteps_units(units) is not None:
        found = units  # kg m-2 and mm are one
    attrs = {} if found is None else {"units": found}
    return xr.DataArray(values, dims=("time", "y", "x"), coords=coords, name=name, attrs=attrs)


def _check_one(forecast: xr.DataArray, label: str) -> None:
    require_one(forecast, label)
    if dims.VARIABLE in forecast.dims:
        raise DataError(
            label,
            "several variables",
            expected="one",
            fix=f"choose one with .sel(variable={str(forecast[dims.VARIABLE].values[0])!r})",
        )


def _analysis(analysis: xr.DataArray, init: np.datetime64, label: str) -> xr.DataArray:
    """Return the observed frame at init time."""
    if analysis.ndim < 3:
        return analysis
    name = dims.find_dim(analysis, "time")
    found, there = nearest(read_times(analysis, name, f"{label}, analysis"), init)
    if not there:
        raise DataError(f"{label}, analysis", f"no frame at {show_time(init)}", expected="the frame at init time")
    return analysis.isel({name: int(found)})
