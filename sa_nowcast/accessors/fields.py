"""Methods of ``.sa_nowcast`` that derive from fields, draw them, and label them as others do."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from sa_nowcast.accessors.gridded import Gridded
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.shown import described_by

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.interop.record import Convention


class OfFields(Gridded):
    """Derive, draw and label."""

    @described_by("derived.sums.accumulate")
    def accumulate(
        self,
        window: str | timedelta | np.timedelta64,
        *,
        every: str | timedelta | np.timedelta64 | None = None,
        time: Hashable | None = None,
    ) -> xr.DataArray:
        """Return sums over windows of lead time or time; see `sa_nowcast.derived.accumulate`."""
        from sa_nowcast.derived import accumulate

        return accumulate(self._obj, window, every=every, time=time)

    @described_by("derived.points.at")
    def at(
        self,
        points: Mapping[str, Sequence[float]] | Any,
        *,
        method: Literal["nearest", "linear"] = "nearest",
        coordinates: Literal["auto", "grid", "geographic"] = "auto",
        y: Hashable | None = None,
        x: Hashable | None = None,
    ) -> xr.DataArray:
        """Return the series at named points; see `sa_nowcast.derived.at`."""
        from sa_nowcast.derived import at

        return at(self._obj, points, method=method, coordinates=coordinates, y=y, x=x)

    @described_by("derived.areas.over")
    def over(
        self,
        areas: xr.DataArray | Mapping[str, Any] | str | os.PathLike[str] | Any,
        *,
        name: str | None = None,
        least: float = 0.5,
        y: Hashable | None = None,
        x: Hashable | None = None,
    ) -> xr.DataArray:
        """Return means over areas, such as catchments; see `sa_nowcast.derived.over`."""
        from sa_nowcast.derived import over

        return over(self._obj, areas, name=name, least=least, y=y, x=x)

    @described_by("plotting.forecast.plot_forecast", "plotting.frames.plot_frames")
    def plot(
        self,
        truth: xr.DataArray | xr.Dataset | None = None,
        history: xr.DataArray | xr.Dataset | None = None,
        *,
        init_time: object = None,
        variable: object = None,
        channel: object = None,
        realization: object = None,
        columns: int = 6,
        coastlines: bool | None = None,
        time: Hashable | None = None,
        title: str | None = None,
        last: int | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
    ) -> Figure:
        """Draw this forecast by lead time, or the last of these frames (data without ``lead_time``).

        See `sa_nowcast.plotting.plot_forecast` and, for frames, `sa_nowcast.plotting.plot_frames`.
        """
        from sa_nowcast.plotting import plot_forecast, plot_frames
        from sa_nowcast.plotting.chosen import is_forecast, refuse

        if not is_forecast(self._obj):
            refuse("frames", "a forecast", truth=truth, history=history, realization=realization)
            return plot_frames(
                self._obj, last=6 if last is None else last, init_time=init_time, variable=variable, channel=channel,
                columns=columns, coastlines=coastlines, time=time, y=y, x=x, title=title,
            )  # fmt: skip
        refuse("a forecast", "frames", last=last, y=y, x=x)
        return plot_forecast(
            self._obj, truth, history, init_time=init_time, variable=variable, channel=channel,
            realization=realization, columns=columns, coastlines=coastlines, time=time, title=title,
        )  # fmt: skip

    @described_by("plotting.forecast.animate")
    def animate(
        self,
        path: str | os.PathLike[str],
        truth: xr.DataArray | xr.Dataset | None = None,
        *,
        init_time: object = None,
        variable: object = None,
        channel: object = None,
        realization: object = None,
        coastlines: bool | None = None,
        time: Hashable | None = None,
        frames_per_second: float = 4.0,
        last: int | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
    ) -> Path:
        """Write this forecast, or the last of these frames, as an animation; see `sa_nowcast.plotting.animate`."""
        from sa_nowcast.plotting import animate

        return animate(
            self._obj, path, truth, init_time=init_time, variable=variable, channel=channel, realization=realization,
            coastlines=coastlines, time=time, frames_per_second=frames_per_second, last=last, y=y, x=x,
        )  # fmt: skip

    @described_by("plotting.attention.plot_attention")
    def plot_attention(
        self,
        point: tuple[float, float],
        *,
        model: Nowcaster | str | Path | None = None,
        init_time: Any = None,
        layers: Sequence[int | Literal["first", "last"]] = ("first", "last"),
        shown: object = None,
        coastlines: bool | None = None,
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        device: str = "auto",
        title: str | None = None,
    ) -> Figure:
        """Draw where a model looks from one point on these frames; see `sa_nowcast.plotting.plot_attention`.

        Parameters
        ----------
        model : Nowcaster or path, optional
            One whose network has attention; by default as for `forecast`.
        """
        from sa_nowcast.plotting import plot_attention

        return plot_attention(
            as_nowcaster(model), self._obj, point, init_time=init_time, layers=layers, shown=shown,
            coastlines=coastlines, grid=grid, time=time, y=y, x=x, channel=channel, device=device, title=title,
        )  # fmt: skip

    @described_by("interop.conventions.to_convention")
    def to_convention(self, name: Convention) -> xr.Dataset | xr.DataArray:
        """Return this forecast under the names of another convention; see `sa_nowcast.interop.to_convention`."""
        from sa_nowcast.interop import to_convention

        return to_convention(self._field(), name)

    @described_by("interop.conventions.from_convention")
    def from_convention(self, name: Convention | None = None) -> xr.DataArray:
        """Return data of another convention as a forecast; see `sa_nowcast.interop.from_convention`."""
        from sa_nowcast.interop import from_convention

        return from_convention(self._obj, name)

    @described_by("forecasts.cf.to_dataset")
    def to_cf(self, title: str | None = None) -> xr.Dataset:
        """Return this forecast as a Dataset with CF global attributes; see `sa_nowcast.forecasts.cf.to_dataset`."""
        from sa_nowcast.forecasts.cf import to_dataset

        return to_dataset(self._field(), title)
