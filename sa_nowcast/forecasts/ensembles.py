"""What a forecast leaves open: members of an ensemble, probabilities and quantiles, as labelled forecasts.

All are of one distribution at each pixel and lead time: that of a network in Lagrangian coordinates, see
`sa_nowcast.models.margins`, or one that a hindcast has shown, see `sa_nowcast.models.calibrated`. Members are drawn
from it, coherent in space and time, by a seed; probabilities and quantiles are those of the distribution itself,
without drawing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import xarray as xr

from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.forecasts.job import histories_of, plan
from sa_nowcast.forecasts.method import FILLED, MEAN, Axis, Inflow, Method, Product, Statuses, Values, member_axis
from sa_nowcast.forecasts.of_nowcaster import OfNowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.thresholds import check_thresholds, units_of
from sa_nowcast.models.estimate import available_memory, distribution_bytes, estimate_memory
from sa_nowcast.windows import Positions

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.models.members import Distribution

MOST_MEMBERS = 10_000


@dataclass(frozen=True, eq=False)
class OfDistribution(OfNowcaster):
    """A `Method` whose forecasts are made of the distribution that a nowcaster has."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells it from others."""

    @property
    @abstractmethod
    def axis(self) -> Axis:
        """The first dimension of its forecasts."""

    def tiling(
        self, frames: Frames, steps: int, batch_size: int | None, tile: int | None, device: str | None
    ) -> tuple[int, int]:
        """Return 1 and 0: one init time at once, on the whole grid."""
        if tile is not None:
            raise RecipeError(
                "tile", f"{tile} of {self.name} with a distribution, which is of the whole grid", fix="leave tile out"
            )
        batch, _ = self.nowcaster.tiling(frames, steps, batch_size, None, device)
        return (1 if batch_size is None else batch), 0

    def block(
        self, frames: Frames, positions: Positions, steps: int, device: str, tile: int = 0
    ) -> tuple[Values, Statuses]:
        """Return the forecasts (axis, init time, [variable,] lead time, [channel,] y, x), and their statuses."""
        histories = histories_of(frames, positions, self.history)
        shape = (len(self.axis.values), len(positions), steps, *frames.shape[1:])
        self.require_memory(histories.values, shape[0] * len(positions), steps, device)
        result = np.full(shape, np.nan, dtype=np.float32)
        with sharing_cores(), torch.inference_mode():
            for i in np.flatnonzero(histories.complete):
                moment = int(frames.times[positions[i]].astype("datetime64[ns]").astype(np.int64))
                self._one(histories.values[i : i + 1], steps, device, moment, result[:, i : i + 1])
        return histories.finished(result, frames)

    def making(self, product: Product, inflow: Inflow = FILLED, members: int = 0, seed: int = 0) -> Method:
        """Return what gives the same of the model's forecasts, or another product of the same model."""
        if product != MEAN or members:
            return super().making(product, inflow, members, seed)
        nowcaster = self.nowcaster.making(MEAN, inflow)
        return replace(self, nowcaster=cast("Nowcaster", nowcaster))

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model a forecast is by, and which calibration."""
        told, calibration = super().attributes(frames, positions, steps), self.nowcaster.calibration
        return told if calibration is None else {**told, "sa_nowcast_calibration": calibration.digest}

    plan = plan

    def _one(self, history: Values, steps: int, device: str, moment: int, target: Values) -> None:
        """Make a forecast from one init time, (axis, 1, lead time, channel, y, x), in `target`."""
        laws, beyond = self.nowcaster.laws(history, steps, device)
        for channel, law in enumerate(laws):
            self._make(law, moment, channel, target[:, 0, :, channel])
        self._finish(laws, history, target)
        if beyond is not None:
            target[:, beyond.cpu().numpy()] = np.nan

    def fill(self, law: Distribution, history: Values, moment: int, target: Values) -> None:
        """Make a forecast of one channel in `target`, (axis, 1, lead time, 1, y, x), by a known distribution."""
        self._make(law, moment, 0, target[:, 0, :, 0])
        self._finish([law], history, target)

    def _finish(self, laws: list[Distribution], history: Values, target: Values) -> None:
        nowcaster = self.nowcaster
        for one in target:  # of a large result, only a part is in memory twice
            one[:] = self._finished(one)
        # Of chances that are no numbers dry members would be made: the mean tells.
        means = sum(float(law.mean.sum(dtype=torch.float64)) for law in laws)
        if not np.isfinite(means + target.sum(dtype=np.float64)):
            raise ModelError(
                ", ".join(name for name, _ in nowcaster.terms.channels),
                "the network gives values that are no finite numbers",
                expected="finite values",
                fix="give another model, or train this one again",
            )
        nowcaster.bounded(target, history)

    def require_memory(self, history: Values, count: int, steps: int, device: str) -> None:
        """Refuse what memory cannot hold, before the maps of the result are made."""
        where, grid = resolve_device(device), history.shape[-2:]
        needed = estimate_memory(
            self.nowcaster.network.config, grid, 1, history=self.history, steps=steps, training=False, device=where
        )
        needed += distribution_bytes(grid, count, steps)
        if needed > (free := available_memory("cpu")):
            raise ModelError(
                f"{self.name} on {grid[0]}×{grid[1]}, {count} {self.axis.name}s, {steps} lead times",
                f"needs about {needed / 2**30:.1f} GiB",
                expected=f"at most the {free / 2**30:.1f} GiB that are free",
                fix="ask for fewer at once, or for a part of the grid",
            )

    @abstractmethod
    def _make(self, law: Distribution, moment: int, channel: int, target: Values) -> None:
        """Put what is made of the distribution of one channel into `target`, (axis, lead time, y, x)."""

    def _finished(self, made: Values) -> Values:
        """Return values of the network as physical ones, within their bounds."""
        physical: Values = self.nowcaster.law_scaling.to_physical(torch.from_numpy(made), torch).float().numpy()
        return physical


@dataclass(frozen=True, eq=False)
class Ensemble(OfDistribution):
    """Members that are drawn from the distribution.

    Each is a function of seed, init time, channel and its own number: it is the same among more members, in another
    batch, process or run.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least, most in (("members", self.count, 1, MOST_MEMBERS), ("seed", self.seed, 0, 2**63 - 1)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
                raise RecipeError(name, repr(value), expected=f"a whole number from {least} to {most}")

    @property
    def axis(self) -> Axis:
        """The members."""
        return member_axis(self.count)

    @property
    def identity(self) -> str:
        """What tells it from others, the same model's mean forecast among them."""
        return f"{self.nowcaster.law_identity}, {self.count} members by seed {self.seed}"

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model and seed a forecast is by."""
        told = super().attributes(frames, positions, steps)
        return {**told, "sa_nowcast_product": "members", "sa_nowcast_seed": int(self.seed)}

    def _make(self, law: Distribution, moment: int, channel: int, target: Values) -> None:
        keys = [int(self.seed), moment % 2**64, channel]
        drawn = [np.random.Generator(np.random.Philox(np.random.SeedSequence([*keys, m]))) for m in range(self.count)]
        law.members(drawn, target)


@dataclass(frozen=True, eq=False)
class Exceedance(OfDistribution):
    """Probabilities to be above thresholds, in the units of the forecast; ascending."""

    thresholds: tuple[float, ...]

    @property
    def axis(self) -> Axis:
        """The thresholds, with the units of the data where `exceedance` knows them."""
        attrs = {"long_name": "threshold", "spp__relative_to_threshold": "above"}
        return Axis(dims.THRESHOLD, np.array(self.thresholds), attrs)

    @property
    def identity(self) -> str:
        """What tells it from others."""
        return f"{self.nowcaster.law_identity}, above {', '.join(map(str, self.thresholds))}"

    def _make(self, law: Distribution, moment: int, channel: int, target: Values) -> None:
        scaling = self.nowcaster.law_scaling.channels[channel]
        levels = torch.tensor([float(scaling.to_network(np.float64(t))) for t in self.thresholds])
        for step, chances in enumerate(law.chances(levels)):
            target[:, step] = chances.float().cpu().numpy()

    def _finished(self, made: Values) -> Values:
        return made


@dataclass(frozen=True, eq=False)
class Quantiles(OfDistribution):
    """Values that are exceeded with given probabilities; ascending."""

    probabilities: tuple[float, ...]

    @property
    def axis(self) -> Axis:
        """The probabilities to be at most the value."""
        return Axis(dims.QUANTILE, np.array(self.probabilities), {"long_name": "quantile", "units": "1"})

    @property
    def identity(self) -> str:
        """What tells it from others."""
        return f"{self.nowcaster.law_identity}, quantiles {', '.join(map(str, self.probabilities))}"

    def _make(self, law: Distribution, moment: int, channel: int, target: Values) -> None:
        target[:] = law.quantiles(self.probabilities)


def exceedance(
    nowcaster: Nowcaster, data: xr.DataArray | xr.Dataset, thresholds: Sequence[float | str], **asked: Any
) -> xr.DataArray:
    """Return probabilities; see `sa_nowcast.Nowcaster.exceedance`. `asked` are arguments of a plan."""
    told = data if isinstance(data, xr.DataArray) else None
    if isinstance(data, xr.Dataset):
        _, frames = nowcaster.accept(data, asked.get("names", dims.UNNAMED), asked.get("grid", "check"))
        if len(frames.arrays) > 1:
            names = [str(a.name) for a in frames.arrays]
            raise RecipeError(
                "thresholds",
                f"of {len(names)} variables at once ({', '.join(names)})",
                expected="one variable, whose units they are in",
                fix=f"choose one: ds[{names[0]!r}]",
            )
        told = frames.arrays[0]
    assert told is not None
    units = units_of(told)[0]
    asked_for = check_thresholds([thresholds] if isinstance(thresholds, str | float | int) else thresholds, units)
    if not asked_for:
        raise RecipeError("thresholds", "none given", expected="at least one, such as 1.0")
    result = Exceedance(nowcaster, asked_for).plan(data, **asked).compute()
    name = str(result.name)
    about = str(result.attrs.get("long_name") or name)
    kept = {k: v for k, v in result.attrs.items() if str(k).startswith("sa_nowcast")}
    result = result.rename(f"probability_of_{name}_above_threshold")
    result.attrs = {"long_name": f"probability that {about} is above a threshold", "units": "1", **kept}
    result.attrs["sa_nowcast_product"] = "exceedance"
    if units is not None:
        result[dims.THRESHOLD].attrs["units"] = units
    return result


def quantiles(
    nowcaster: Nowcaster, data: xr.DataArray | xr.Dataset, probabilities: Sequence[float], **asked: Any
) -> xr.DataArray:
    """Return quantiles; see `sa_nowcast.Nowcaster.quantiles`. `asked` are arguments of a plan."""
    try:
        given = np.atleast_1d(np.asarray(probabilities, dtype=np.float64)).ravel()
    except (TypeError, ValueError):
        given = np.array([np.nan])
    numbers = np.unique(given).tolist()
    if not numbers or len(numbers) < given.size or not all(0 < p < 1 for p in numbers):
        raise RecipeError(
            "probabilities",
            f"{probabilities!r:.60}",
            expected="numbers between 0 and 1, each once, such as [0.1, 0.9]",
        )
    result = Quantiles(nowcaster, tuple(numbers)).plan(data, **asked).compute()
    result.attrs["sa_nowcast_product"] = "quantiles"
    return result
