"""Reference forecasts by name, behind the call that a trained nowcaster has."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.labels import lead_positions, whole
from sa_nowcast.frames import one_grid
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised
from sa_nowcast.verification.optical_flow import cadence, extrapolation, sprog, steps
from sa_nowcast.verification.references import climatology, persistence

REFERENCES: dict[str, Callable[..., xr.DataArray]] = {
    "persistence": persistence,
    "climatology": climatology,
    "extrapolation": extrapolation,
    "sprog": sprog,
    "steps": steps,
}

_OPTIONS: dict[str, set[str]] = {
    "climatology": {"training", "cycle"},
    "extrapolation": {"history"},
    "steps": {"members", "seed", "kilometres_per_pixel"},
}


@dataclass(frozen=True)
class Reference:
    """A forecast method that needs no training, by :func:`reference`.

    Attributes
    ----------
    name : str
    options : dict
        Options of the method, such as ``history`` of "extrapolation".
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def forecast(
        self,
        data: xr.DataArray | xr.Dataset,
        steps: int | None = None,
        *,
        init_time: Any = None,
        lead_times: Any = None,
        time: Hashable | None = None,
    ) -> xr.DataArray:
        """Forecast from `data`, as a nowcaster does.

        Parameters
        ----------
        data : DataArray or Dataset, dims (time, ..., y, x)
            Of a Dataset with several variables on the grid, all are forecast, along a leading ``variable``.
        steps : int, optional
            The number of lead times, at the step of `data`.
        init_time : datetime64 or sequence of them, optional
            By default the last time of `data`; a sequence gives an archive.
        lead_times : sequence of timedelta64 or str, optional
            In place of `steps`, such as ``["10min", "30min"]``; or some of them.
        time : hashable, optional
            The time dimension of `data`; found by its CF attributes, type or name otherwise.

        Returns
        -------
        DataArray, dims ([init_time,] [variable,] lead_time, ..., y, x)

        Raises
        ------
        RecipeError
            If neither `steps` nor `lead_times` is given, or a lead time is beyond `steps`.
        """
        array = as_array(normalised(data), time)
        told = str(dims.find_dim(array, "time", time))
        if steps is None and lead_times is None:
            raise RecipeError(self.name, "neither steps nor lead_times is given", "one of the two")
        if steps is not None and lead_times is None:
            lead_times = cadence(array, told) * np.arange(1, whole("steps", steps) + 1)
        elif steps is not None:
            lead_positions(lead_times, cadence(array, told), steps)
        options = dict(self.options)
        if isinstance(options.get("training"), xr.Dataset):
            options["training"] = as_array(options["training"], time)
        return REFERENCES[self.name](array, init_time=init_time, lead_times=lead_times, time=told, **options)


def reference(name: str, **options: Any) -> Reference:
    """Return the reference forecast called `name`.

    Parameters
    ----------
    name : {"persistence", "climatology", "extrapolation", "sprog", "steps"}
    **options
        Those of :func:`climatology` (``training``, ``cycle``), :func:`extrapolation` (``history``) or :func:`steps`
        (``members``, ``seed``, ``kilometres_per_pixel``).

    Raises
    ------
    RecipeError
        If the name is unknown, or climatology has no training.
    """
    if name not in REFERENCES:
        raise RecipeError("reference", f"{name!r} is unknown", "one of " + ", ".join(REFERENCES))
    known = _OPTIONS.get(name, set())
    unknown = sorted(set(options) - known)
    if unknown:
        raise RecipeError(f"reference {name}", f"option {unknown[0]!r} is unknown", ", ".join(sorted(known)) or "none")
    if name == "climatology" and "training" not in options:
        raise RecipeError(
            "reference climatology",
            "training is missing",
            "the observations that it averages",
            'sa_nowcast.reference("climatology", training=ds), with ds the frames to average',
        )
    return Reference(name, options)


def as_array(data: xr.DataArray | xr.Dataset, time: Hashable | None = None) -> xr.DataArray:
    """Return `data` as one array: of several variables with a leading ``variable`` and their units as coordinate."""
    if isinstance(data, xr.DataArray):
        return data
    data = dims.with_positions(data)
    found = dims.grids(data, {"time": time})
    if found:
        names = found[one_grid(data, found)]
    else:
        told = dims.find_dim(data, "time", time)
        names = [str(name) for name, array in data.data_vars.items() if told in array.dims and array.ndim >= 3]
    if not names:
        raise RecipeError(
            "data", f"the variables {list(map(str, data.data_vars))} are no sequence of frames", "(time, y, x)"
        )
    if len(names) == 1:
        array = data[names[0]]
        mapping = array.attrs.get("grid_mapping", array.encoding.get("grid_mapping"))
        return array.assign_coords({mapping: data[mapping]}) if mapping in data.data_vars else array
    array = data[names].to_array(dims.VARIABLE)
    units = [str(data[name].attrs.get("units", "")) for name in names]
    return array.assign_coords({dims.UNITS: (dims.VARIABLE, units)})
