"""A trained network with its scaling and its terms: labelled data in, labelled forecasts out.

The one place where tensors become labelled data again.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.bundle import files as bundle
from sa_nowcast.bundle.summary import to_html
from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.errors import DataError, ModelError, RecipeError
from sa_nowcast.forecasts.labels import init_position, labelled, lead_positions, whole
from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.frames import Frames
from sa_nowcast.models import NetworkConfig, build
from sa_nowcast.models.estimate import fitting_tile, require_memory
from sa_nowcast.models.rollout import Network
from sa_nowcast.models.tiles import LEAST_TILE, blend
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import prepare
from sa_nowcast.times import show_step

Storage = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False)
class Nowcaster:
    """A trained network, its scaling, its terms and where it comes from.

    Made by `sa_nowcast.fit` and `sa_nowcast.load`.

    Attributes
    ----------
    network : Network
    scaling : Scaling
    terms : Terms
        History, cadence, channels, units and grid that it was trained for.
    provenance : mapping
        Plain JSON data: package version, training period, options, validation scores.
    card : str
        The model card in Markdown, for people; see `sa_nowcast.bundle.card.model_card`. Empty where there is none.
    recipe : str
        The recipe that reproduces the model, as YAML; empty where it did not come from one.
    storage : {"float32", "float16"}
        What the weights are stored in; see `half`.

    Card and recipe are no part of the model's identity: `digest` does not cover them.
    """

    network: Network
    scaling: Scaling
    terms: Terms
    provenance: Mapping[str, Any]
    card: str = ""
    recipe: str = ""
    storage: Storage = "float32"

    def half(self) -> Nowcaster:
        """Return this model with its weights rounded to half precision, which take half the space on disk.

        The network still computes in float32, from weights that float16 can hold; so a saved and loaded model gives the
        same forecasts as the one that is returned here, and slightly other ones than the one that was trained.

        Raises
        ------
        ModelError
            A weight that float16 cannot hold.
        """
        rounded = {name: weight.detach().cpu().half().float() for name, weight in self.network.state_dict().items()}
        for name, weight in rounded.items():
            if not torch.isfinite(weight).all():
                raise ModelError(f"weight {name}", "is beyond the range of float16", fix="save it without half")
        with torch.device("meta"):
            network = build(self.network.config)
        network.load_state_dict(rounded, assign=True)
        return replace(self, network=network.eval(), storage="float16")

    def forecast(
        self,
        data: xr.DataArray | xr.Dataset,
        steps: int | None = None,
        *,
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
        """Forecast the frames after `init_time`.

        Parameters
        ----------
        data : DataArray or Dataset
            At least `history` frames up to and including `init_time`, at the model's cadence, in its units.
        steps : int, optional
            Lead times; by default as many as the model was trained for. More are allowed: the network then runs on
            from its own output, and the attribute ``sa_nowcast_steps_beyond_training`` counts them.
        lead_times : sequence of timedelta64 or str, optional
            Which lead times are wanted, such as ``["10min", "30min"]``: multiples of the model's step, ascending. By
            default all up to `steps`; where both are given, none may be beyond `steps`.
        init_time : datetime-like, optional
            The time of the last known frame; by default the last one of `data`.
        grid : {"check", "any"}
            Whether a grid of another spacing or projection than the model's is refused (default) or allowed. Size and
            position of the grid are always free.
        time, y, x, channel : hashable, optional
            Dimension names, where CF attributes and common names do not tell.
        tile : int, optional
            Forecast a larger grid in overlapping square tiles of so many pixels, blended so that no seam shows: time
            and memory of self-attention then grow with the grid's area and not its square. By default the whole grid
            at once where memory can hold that, else the largest tile that it can hold.
        device : str
            ``auto`` (default), ``cpu``, ``cuda`` or ``cuda:N``.

        Returns
        -------
        DataArray, dims (lead_time, [channel,] y, x); (variable, lead_time, y, x) where the model has several variables
            float32, in the input's units. Coordinates: lead_time, init_time (scalar), valid_time, and all of the
            input's that do not vary in time. NaN where the whole history was missing.

        Raises
        ------
        DataError
            Too few frames, a gap or an all-missing frame in the history, a time that is not there.
        ModelError
            Other units, cadence, channels or grid than the model was trained for, or a grid that memory cannot hold.
        RecipeError
            `steps` below 1, lead times that are no multiples of the step or beyond `steps`, or a tile below 16 pixels.
        """
        model = self.for_data(data, time=time, y=y, x=x, channel=channel)
        wanted = None
        if lead_times is None:
            steps = model.terms.steps if steps is None else whole("steps", steps)
        else:
            wanted = lead_positions(lead_times, model.terms.step, steps)
            steps = int(wanted[-1]) + 1
        frames = model.accept(data, grid=grid, time=time, y=y, x=x, channel=channel)
        last = init_position(frames, init_time)
        values = model._history(frames, last)
        forecast = model._predict(values[None], steps, resolve_device(device), checked_tile(tile))[0]
        forecast[:, ~np.isfinite(values).any(axis=0)] = np.nan
        result = labelled(frames, last, forecast, model.provenance_attrs(steps))
        return result if wanted is None else result.isel(lead_time=wanted)

    def for_data(
        self,
        data: xr.DataArray | xr.Dataset,
        *,
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
    ) -> Nowcaster:
        """Return the model that forecasts from `data`: this one, whatever they are; only the default model adapts."""
        return self

    def accept(
        self,
        data: xr.DataArray | xr.Dataset,
        *,
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
    ) -> Frames:
        """Return `data` as checked frames that this model can forecast from; the options are those of `forecast`.

        Raises
        ------
        DataError
            Times or dimensions that cannot be used.
        ModelError
            Other units, cadence, channels or grid than the model was trained for.
        """
        frames = self._frames(data, time, y, x, channel)
        self.terms.require(frames, grid)
        return frames

    def forecast_batch(
        self,
        frames: Frames,
        positions: npt.NDArray[np.int64],
        steps: int,
        device: torch.device,
        tile: int | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Forecast from many init times in one call of the network, each from its own history alone.

        Parameters
        ----------
        frames : Frames
            From `accept`.
        positions : ndarray of int, shape (B,)
            Positions of the init times, each with `history` frames before and including it in one segment. Frames
            that several histories share are read once.
        steps : int
            Lead times, at least 1.
        device : torch.device
        tile : int, optional
            As for `forecast`; 0 is the whole grid at once, whatever memory there is.

        Returns
        -------
        values : ndarray of float32, shape (B, lead, channel, row, column)
            In the layout of `Frames`; NaN where a pixel's whole history was missing, and all NaN where `complete`
            is False.
        complete : ndarray of bool, shape (B,)
            False where a frame of the history has no valid value, which `forecast` refuses.

        Raises
        ------
        DataError
            Infinite values, or a chunk that storage cannot give.
        ModelError
            A batch that memory cannot hold.
        """
        values = _histories(frames, positions, self.terms.history)
        valid = np.isfinite(values)
        complete = np.asarray(np.asarray(valid.any(axis=(2, 3, 4))).all(axis=1))
        known = valid.any(axis=1) & complete[:, None, None, None]
        forecast = self._predict(values, steps, device, tile)
        if not known.all():
            np.copyto(forecast, np.nan, where=~known[:, None])
        return forecast, complete

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to a folder and return its path.

        It holds ``weights.safetensors`` and ``model.json``, and beside them for people ``README.md`` (the card) and
        ``recipe.yaml``, where there are any.

        Raises
        ------
        StorageError
            Something stands there already, or the folder cannot be written.
        """
        texts = {bundle.CARD: self.card, bundle.RECIPE: self.recipe}
        bundle.write_bundle(path, self._stored(), self._description(), overwrite, texts)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Nowcaster:
        """Read what `save` wrote. Nothing in the folder is executed; every byte of weights and description is checked.

        Raises
        ------
        ModelError
            No model there, one of a newer format, or one that was truncated or altered.
        """
        weights, content = bundle.read_bundle(path)
        try:
            config = NetworkConfig.from_dict(content["network"])
            terms = Terms.from_dict(content["terms"])
            scaling = Scaling.from_dict(content["scaling"])
            provenance = dict(content["provenance"])
            if not config.channels == len(terms.channels) == len(scaling.channels):
                raise ModelError("channels", f"{config.channels}, {len(terms.channels)} and {len(scaling.channels)}")
            if len(config.hidden) > len(weights):
                raise ModelError("network", f"{len(config.hidden)} layers with {len(weights)} tensors")
            # Built without memory of its own: a description that declares a huge network costs nothing before the
            # weights have shown that they fit it.
            with torch.device("meta"):
                network = build(config)
            storage: Storage = "float16" if content.get("storage") == "float16" else "float32"
            wrong = [f"{n} is {w.dtype}" for n, w in weights.items() if w.dtype != getattr(torch, storage)]
            if wrong:
                raise ModelError("weights", wrong[0], expected=f"torch.{storage}")
            network.load_state_dict({n: w.float() for n, w in weights.items()}, strict=True, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            line = " ".join(str(error).split())[:200]
            raise ModelError(
                str(path), f"description and weights do not fit together ({line})", fix="train it again"
            ) from error
        card, recipe = (bundle.read_text(path, name) for name in (bundle.CARD, bundle.RECIPE))
        return cls(network.eval(), scaling, terms, provenance, card=card, recipe=recipe, storage=storage)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights and description: the identity of the model."""
        return str(bundle.encode(self._stored(), self._description())[1]["sha256"])

    def __repr__(self) -> str:
        channels = ", ".join(f"{n} [{u}]" if u else n for n, u in self.terms.channels)
        period = self.provenance.get("training_period", "unknown")
        return (
            f"<Nowcaster {self.network.config.name}: {channels}, {self.terms.history} -> {self.terms.steps} frames of "
            f"{show_step(self.terms.step)}, trained on {period}>"
        )

    def _repr_html_(self) -> str:
        return to_html(self)

    def _stored(self) -> dict[str, torch.Tensor]:
        return {n: w.detach().to(getattr(torch, self.storage)) for n, w in self.network.state_dict().items()}

    def _description(self) -> dict[str, Any]:
        return {
            # Only where it is not the usual one: what was saved before there was a choice keeps its digest.
            **({} if self.storage == "float32" else {"storage": self.storage}),
            "network": self.network.config.to_dict(),
            "scaling": self.scaling.to_dict(),
            "terms": asdict(self.terms),
            "provenance": dict(self.provenance),
        }

    def _frames(
        self,
        data: xr.DataArray | xr.Dataset,
        time: Hashable | None,
        y: Hashable | None,
        x: Hashable | None,
        channel: Hashable | None,
    ) -> Frames:
        names = [name for name, _ in self.terms.channels]
        variables = None
        if isinstance(data, xr.Dataset) and all(name in data.data_vars for name in names):
            variables = names  # other variables may stand beside those that the model knows, in any order
        return Frames.from_xarray(
            data, variables=variables, time=time, y=y, x=x, channel=channel, gaps="skip", step=self.terms.step
        )

    def _history(self, frames: Frames, last: int) -> npt.NDArray[np.float32]:
        history = self.terms.history
        begin = next(a for a, b in frames.segments if a <= last < b)
        if last - begin + 1 < history:
            have = last - begin + 1
            gap = f" since the gap after {frames.label(begin - 1)}" if begin else ""
            raise DataError(
                f"{frames.name}, {frames.label(last)}",
                f"needs {history} frames, has {have}{gap}",
                fix="give earlier frames, fill the gap, or choose another init_time",
            )
        values = frames.read(last - history + 1, last + 1)
        missing = np.flatnonzero(~np.isfinite(values).any(axis=(1, 2, 3)))
        if len(missing):
            # Zarr 2 says a fill value of 0 where nothing was asked for; in a NetCDF file somebody declared it.
            zero = any("chunks" in a.encoding and _is_zero(a.encoding.get("_FillValue")) for a in frames.arrays)
            raise DataError(
                f"{frames.name}, {frames.label(last - history + 1 + int(missing[0]))}",
                "every value is missing" + (" (the fill value is 0, which xarray takes for missing)" if zero else ""),
                expected="some valid values in each frame of the history",
                fix="choose another init_time"
                + (", or open with sa_nowcast.sources.open_source(path), which keeps 0" if zero else ""),
            )
        return values

    def _predict(
        self, values: npt.NDArray[np.float32], steps: int, device: torch.device, tile: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Run the network on histories (B, T, C, H, W), in tiles where it has to; return (B, steps, C, H, W)."""
        config, (batch, history) = self.network.config, values.shape[:2]
        if tile is None:
            tile = fitting_tile(config, values.shape[-2:], batch, history=history, steps=steps, device=device)
        if not tile or max(values.shape[-2:]) <= tile:
            require_memory(
                config, values.shape[-2:], batch, history=history, steps=steps, training=False, device=device
            )
            return self._run(values, steps, device)
        require_memory(config, (tile, tile), batch, history=history, steps=steps, training=False, device=device)
        return blend(values, tile, lambda part: self._run(part, steps, device), steps)

    def _run(self, values: npt.NDArray[np.float32], steps: int, device: torch.device) -> npt.NDArray[np.float32]:
        self.network.to(device).eval()
        with sharing_cores(), torch.inference_mode():
            x, _ = prepare(torch.from_numpy(values).to(device), self.scaling, self.terms.history)
            z = self.network(x, steps=steps)
            physical = self.scaling.to_physical(z, torch)
        result: npt.NDArray[np.float32] = physical.float().cpu().numpy()
        # One sum meets every NaN and infinite value there is.
        if not np.isfinite(result.sum(dtype=np.float64)):
            raise ModelError(
                ", ".join(name for name, _ in self.terms.channels),
                "the network gives values that are no finite numbers",
                expected="finite values",
                fix="give another model, or train this one again",
            )
        return result

    def provenance_attrs(self, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model a forecast of `steps` lead times is by."""
        attrs: dict[str, Any] = {
            "sa_nowcast_version": __version__,
            "sa_nowcast_model": self.digest,
            "sa_nowcast_network": self.network.config.name,
            "sa_nowcast_training_period": str(self.provenance.get("training_period", "unknown")),
            "sa_nowcast_recipe": str(self.provenance.get("recipe", "unknown")),
        }
        if steps > self.terms.steps:
            attrs["sa_nowcast_steps_beyond_training"] = steps - self.terms.steps
        return attrs


def _is_zero(fill: Any) -> bool:
    return fill is not None and np.ndim(fill) == 0 and bool(fill == 0)


def _histories(frames: Frames, positions: npt.NDArray[np.int64], history: int) -> npt.NDArray[np.float32]:
    """Return the `history` frames up to each position, (B, T, C, H, W); a frame that several share is read once."""
    needed, place = np.unique(positions[:, None] + np.arange(1 - history, 1), return_inverse=True)
    cuts = [0, *(np.flatnonzero(np.diff(needed) > 1) + 1).tolist(), len(needed)]
    parts = [frames.read(int(needed[a]), int(needed[b - 1]) + 1) for a, b in itertools.pairwise(cuts)]
    values: npt.NDArray[np.float32] = (np.concatenate(parts) if len(parts) > 1 else parts[0])[place]
    return values


def checked_tile(tile: int | None) -> int | None:
    """Return the width of tiles that a user asks for, or refuse it."""
    if tile is not None and whole("tile", tile) < LEAST_TILE:
        raise RecipeError("tile", f"{tile}", expected=f"at least {LEAST_TILE} pixels")
    return tile
