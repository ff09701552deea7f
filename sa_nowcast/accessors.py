"""``.sa_nowcast`` on Dataset and DataArray: thin delegates to the functions that do the work."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from sa_nowcast import dims
from sa_nowcast.attributes import normalised
from sa_nowcast.defaults import as_nowcaster, get_default_model
from sa_nowcast.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sa_nowcast.interop.record import Convention
    from sa_nowcast.nowcaster import Nowcaster
    from sa_nowcast.stream import SequenceDataset, SequenceLoader


class _Gridded:
    """What Dataset and DataArray share."""

    def __init__(self, obj: Any) -> None:
        self._given = obj

    @property
    def _obj(self) -> Any:
        return normalised(self._given)  # each time: the attributes may have been set since

    def fit(self, *, history: int, steps: int, **options: Any) -> Nowcaster:
        """Train a nowcaster on these data; all options of `sa_nowcast.fit`."""
        from sa_nowcast.training.fit import fit

        return fit(self._obj, history=history, steps=steps, **options)

    def loader(
        self, *, history: int, steps: int, batch_size: int = 8, workers: int = 0, **options: Any
    ) -> SequenceLoader[SequenceDataset]:
        """Return a torch DataLoader over the windows of these data, an epoch an iteration.

        The options are those of `sa_nowcast.SequenceDataset`; `sa_nowcast.stream.loader` has more ways to go on.
        """
        from sa_nowcast.stream import SequenceDataset, loader

        return loader(SequenceDataset(self._obj, history, steps, **options), batch_size, workers=workers)

    def forecast(
        self,
        steps: int | None = None,
        *,
        model: Nowcaster | str | Path | None = None,
        lead_times: Any = None,
        init_time: Any = None,
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        tile: int | None = None,
        device: str = "auto",
    ) -> xr.DataArray:
        """Forecast the frames after `init_time`; see `sa_nowcast.Nowcaster.forecast`.

        Parameters
        ----------
        model : Nowcaster or path, optional
            By default the one set with `sa_nowcast.set_default_model`, or the one that the environment variable
            ``SA_NOWCAST_MODEL`` names, or else the model that ships, which forecasts any field.
        """
        nowcaster = get_default_model() if model is None else as_nowcaster(model)
        return nowcaster.forecast(
            self._obj,
            steps,
            lead_times=lead_times,
            init_time=init_time,
            grid=grid,
            time=time,
            y=y,
            x=x,
            channel=channel,
            tile=tile,
            device=device,
        )

    def hindcast(self, steps: int | None = None, *, model: Any = None, **options: Any) -> xr.DataArray:
        """Forecast from many init times, lazily or to a Zarr archive; all options of `sa_nowcast.hindcast.hindcast`.

        Parameters
        ----------
        model : Nowcaster, path, Reference or str, optional
            A nowcaster, or a reference such as "persistence"; by default the default model.
        """
        from sa_nowcast.hindcast import hindcast

        return hindcast(self._obj, model, steps, **options)

    def verify(self, truth: xr.DataArray | xr.Dataset, **options: Any) -> xr.Dataset:
        """Score this forecast against `truth` by lead time; see `sa_nowcast.verify`."""
        from sa_nowcast.verification import verify

        return verify(self._field(), truth, **options)

    def plot(self, truth: Any = None, history: Any = None, **options: Any) -> Figure:
        """Draw this forecast by lead time, with history, truth and error where given; returns the figure."""
        from sa_nowcast.plotting import plot_forecast

        return plot_forecast(self._field(), truth, history, **options)

    def animate(self, path: str | Path, truth: Any = None, **options: Any) -> Path:
        """Write this forecast as a film, .gif or .mp4, beside `truth` where given; returns the path."""
        from sa_nowcast.plotting import animate

        return animate(self._field(), path, truth, **options)

    def plot_attention(
        self, point: tuple[float, float], *, model: Nowcaster | str | Path | None = None, **options: Any
    ) -> Figure:
        """Draw where a model looks from `point`, (y, x), on these data; see `sa_nowcast.plotting.plot_attention`."""
        from sa_nowcast.plotting import plot_attention

        nowcaster = get_default_model() if model is None else as_nowcaster(model)
        return plot_attention(nowcaster, self._obj, point, **options)

    def to_convention(self, name: Convention) -> xr.Dataset | xr.DataArray:
        """Return this forecast under the names of another convention; see `sa_nowcast.interop.to_convention`."""
        from sa_nowcast.interop import to_convention

        return to_convention(self._field(), name)

    def from_convention(self, name: Convention | None = None) -> xr.DataArray:
        """Return data of another convention as a forecast; see `sa_nowcast.interop.from_convention`."""
        from sa_nowcast.interop import from_convention

        return from_convention(self._obj, name)

    def to_cf(self) -> xr.Dataset:
        """Return this forecast as a Dataset with the global attributes of CF; see `sa_nowcast.cf.to_dataset`."""
        from sa_nowcast.cf import to_dataset

        return to_dataset(self._field())

    def _field(self) -> xr.DataArray:
        """Return the forecast: of a Dataset, such as one that was read back from a file, its only variable."""
        if isinstance(self._obj, xr.DataArray):
            return self._obj
        names = [str(n) for n, v in self._obj.data_vars.items() if dims.LEAD_TIME in v.dims]
        if len(names) != 1:
            raise DataError(
                "dataset",
                f"{len(names)} variables with {dims.LEAD_TIME} ({', '.join(names) or 'none'})",
                expected="one forecast",
                fix="choose it, as in ds['name'].sa_nowcast",
            )
        field: xr.DataArray = self._obj[names[0]]
        return field


@xr.register_dataset_accessor("sa_nowcast")  # type: ignore[no-untyped-call]
class DatasetAccessor(_Gridded):
    """``ds.sa_nowcast``: train and forecast on a Dataset of gridded frames; score and plot a forecast read back."""


@xr.register_dataarray_accessor("sa_nowcast")  # type: ignore[no-untyped-call]
class DataArrayAccessor(_Gridded):
    """``da.sa_nowcast``: the same on a DataArray."""
