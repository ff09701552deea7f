"""The default model, which ships: it forecasts any regularly stepped field.

See docs/explanation/default-model.md for what it is, and how good on data that it had never seen.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import ModelError
from sa_nowcast.forecasts.defaults import FOLDER as FOLDER
from sa_nowcast.forecasts.method import GridCheck, Values
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.models import build
from sa_nowcast.scaling import Scaling, are_counts
from sa_nowcast.windows import Positions

if TYPE_CHECKING:
    import torch

    from sa_nowcast.models import Network

PROVENANCE: Final = "the default model, trained on synthetic fields and MRMS rain of 2019-06-10"

_LOG = logging.getLogger("sa_nowcast")


@dataclass(frozen=True, eq=False)
class DefaultNowcaster(Nowcaster):
    """A nowcaster of whatever it is given: `accept` returns it with the terms of the data.

    Every window is scaled by its own statistics, so units do not matter; each channel is forecast alone, by the same
    weights; grid and cadence are free. Made by `default_model`.

    Attributes
    ----------
    shipped : Nowcaster
        The model as it ships, whose terms say no more than the history it needs and the lead times it has seen.
    counted : tuple of bool
        Which channels are counts where their history holds nothing else (`sa_nowcast.frames.Channel.counts`): then
        their forecast is at least 0.
    """

    shipped: Nowcaster = field(kw_only=True)
    counted: tuple[bool, ...] = field(default=(), kw_only=True)

    def accept(
        self, data: xr.DataArray | xr.Dataset, names: dims.DimNames = dims.UNNAMED, grid: GridCheck = "check"
    ) -> tuple[Self, Frames]:
        """Return `data` as checked frames, and this model with their terms, channels and physical bounds."""
        frames = Frames.from_xarray(data, gaps="skip", **names._asdict())
        model = replace(
            self,
            network=of_channels(len(frames.channels)),
            scaling=Scaling.bounds_alone(frames.channels),
            terms=Terms.of(frames, self.terms.history, self.terms.steps),
            counted=tuple(c.counts for c in frames.channels),
        )
        model.terms.require(frames, grid)
        return model, frames

    def of_data(self, data: xr.DataArray | xr.Dataset, names: dims.DimNames = dims.UNNAMED) -> Nowcaster:
        """Return a model with the same weights that is one of these data alone, as one that was trained on them."""
        model, _ = self.accept(data, names)
        least = [0.0 if counted else None for counted in getattr(model, "counted", ())]
        channels = zip(model.scaling.channels, least, strict=True)
        scaling = Scaling(
            tuple(c if low is None else replace(c, lower=max(c.lower or low, low)) for c, low in channels)
        )
        own = {f.name: getattr(model, f.name) for f in fields(Nowcaster)}
        return Nowcaster(**{**own, "scaling": scaling})

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the model as it ships: the same whatever the data."""
        return self.shipped.digest

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model a forecast is by, and what that was trained on."""
        return {**super().attributes(frames, positions, steps), "sa_nowcast_provenance": PROVENANCE}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as it ships to a folder; see `sa_nowcast.Nowcaster.save`."""
        return self.shipped.save(path, overwrite=overwrite)

    def export(self, path: str | Path, **asked: Any) -> Path:
        """Refuse: an exported model is one of certain data. That of `of_data` can be exported."""
        told = ", ".join([repr(str(path)), *(f"{name}={value!r}" for name, value in asked.items())])
        raise ModelError(
            "the default model",
            "is of no data yet, and an exported file is for certain channels",
            expected="that of your data",
            fix=f"call default_model().of_data(ds).export({told})",
        )

    def __repr__(self) -> str:
        history, steps = self.terms.history, self.terms.steps
        return f"<DefaultNowcaster {self.network.config.name}: any field, {history} -> {steps} frames>"

    def bounded(self, forecast: Values, values: npt.NDArray[np.float32]) -> Values:
        """Return forecasts (..., B, steps, C, H, W), at least 0 where the history (B, T, C, H, W) is of counts."""
        for channel in np.flatnonzero(self.counted):
            for sample, history in enumerate(values[:, :, channel]):
                if are_counts(history[np.isfinite(history)]):
                    own = forecast[..., sample, :, channel, :, :]
                    np.maximum(own, 0, out=own)
        return forecast

    def _predict(
        self, values: npt.NDArray[np.float32], steps: int, device: torch.device, tile: int
    ) -> npt.NDArray[np.float32]:
        return self.bounded(super()._predict(values, steps, device, tile), values)


@functools.cache
def default_model() -> DefaultNowcaster:
    """Return the model that ships, or raise `ModelError` where this installation lacks it, or it was damaged."""
    if not FOLDER.is_dir():
        raise ModelError(str(FOLDER), "the model that ships is not there", fix="install sa_nowcast again")
    shipped = Nowcaster.load(FOLDER)
    return DefaultNowcaster(**{f.name: getattr(shipped, f.name) for f in fields(Nowcaster)}, shipped=shipped)


@functools.cache
def of_channels(channels: int) -> Network:
    """Return the default model's network for so many channels; its weights are the same ones."""
    import torch

    network = default_model().network
    with torch.device("meta"):
        result = build(replace(network.config, channels=channels))
    result.load_state_dict(network.state_dict(), assign=True)
    return result.eval()


@functools.cache
def warn_of_default_model() -> None:
    """Warn by the logger ``sa_nowcast``, once in a process, that the default model forecasts: one line on stderr."""
    _LOG.warning(
        "no model was named: sa_nowcast's default model forecasts, which was not trained on your data; "
        "train your own with ds.sa_nowcast.fit(history=4, steps=4)"
    )
