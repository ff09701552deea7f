"""Invertible scalings between physical values and what a network sees, fitted on training times only.

A scaling belongs to the model: it is stored with the weights, units included, and networks never see units.
The formulas are written once for numpy arrays and torch tensors alike (`xp` is either module), so that batches are
scaled on the device they are trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError, ModelError, RecipeError
from sa_nowcast.frames import Channel
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.bounds import KEYS, read_bounds

Kind = Literal["affine", "minmax", "standard", "log1p", "db"]
KINDS: tuple[str, ...] = ("auto", *get_args(Kind))
NOT_LINEAR: tuple[Kind, ...] = ("log1p", "db")

# Below this value (in the data's units) the decibel scaling sees no rain: 0.1 mm/h is the usual wet/dry threshold
# in radar nowcasting (Pulkkinen et al. 2019, doi:10.5194/gmd-12-4185-2019, use the same).
DB_THRESHOLD = 0.1
# Dry pixels are put this far below the threshold, so that a network's small errors around "no rain" stay none.
DRY_MARGIN_DB = 5.0

# Interpolation leaves values this far below zero beside rain, relative to the heaviest; they count as none.
NEGATIVE_TOLERANCE = 0.01


@dataclass(frozen=True)
class ChannelScaling:
    """The scaling of one channel: ``z = (t(x) - offset) / scale``.

    Attributes
    ----------
    kind : {"affine", "minmax", "standard", "log1p", "db"}
        What t is, and how offset and scale were found. ``log1p``: t(x) = ln(1 + max(x, 0)); ``db``:
        t(x) = 10 log10(x), and 5 dB below the threshold's level where x is below the threshold; the others: t(x) = x.
    units : str or None
        Units of x.
    offset, scale : float
    lower, upper : float or None
        Physical bounds in the units of x; what the network gives beyond them is cut off.
    threshold : float
        Smallest x that ``db`` tells from none; what comes back below it is 0.
    """

    kind: Kind
    units: str | None
    offset: float
    scale: float
    lower: float | None = None
    upper: float | None = None
    threshold: float = DB_THRESHOLD

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ModelError("scaling.kind", f"{self.kind!r}", expected=f"one of {', '.join(get_args(Kind))}")
        if not (math.isfinite(self.offset) and math.isfinite(self.scale) and self.scale > 0):
            raise ModelError("scaling", f"offset {self.offset}, scale {self.scale}", expected="finite, scale above 0")
        bounds = [b for b in (self.lower, self.upper) if b is not None]
        if not all(math.isfinite(b) for b in bounds) or bounds != sorted(bounds):
            raise ModelError("scaling", f"bounds {self.lower} to {self.upper}", expected="finite, the smaller first")
        if not 0 < self.threshold < math.inf:
            raise ModelError("scaling.threshold", f"{self.threshold}", expected="finite and above 0")

    def transform(self, x: Any, xp: Any = np) -> Any:
        """Apply t alone."""
        if self.kind == "log1p":
            return xp.log1p(xp.clip(x, 0, None))
        if self.kind == "db":
            wet = 10 * xp.log10(xp.clip(x, self.threshold, None))
            # NaN must stay NaN, so the comparison is the one that NaN fails.
            return xp.where(x < self.threshold, x * 0 + self._dry_level, wet)
        return x

    @property
    def _dry_level(self) -> float:
        return 10 * math.log10(self.threshold) - DRY_MARGIN_DB

    def to_network(self, x: Any, xp: Any = np) -> Any:
        """Turn physical values into network values; NaN stays NaN."""
        return (self.transform(x, xp) - self.offset) / self.scale

    def to_physical(self, z: Any, xp: Any = np) -> Any:
        """Turn network values into physical values, within the physical bounds; NaN stays NaN."""
        x = z * self.scale + self.offset
        if self.kind == "log1p":
            # A network gone astray must not overflow float32 into infinity: e**80 is beyond any physical rain.
            x = xp.expm1(xp.clip(x, None, 80.0))
        elif self.kind == "db":
            dry = x < self._dry_level + DRY_MARGIN_DB / 2
            x = xp.where(dry, x * 0, 10.0 ** (xp.clip(x, None, 300.0) / 10))
        if self.lower is not None or self.upper is not None:
            x = xp.clip(x, self.lower, self.upper)
        return x


@dataclass(frozen=True)
class Scaling:
    """One `ChannelScaling` per channel, applied along the channel axis (third from the end)."""

    channels: tuple[ChannelScaling, ...]

    @classmethod
    def fit(cls, kind: str, channels: Sequence[Channel], parts: Iterable[npt.NDArray[np.float32]]) -> Scaling:
        """Fit a scaling to training frames, which may come in parts.

        Parameters
        ----------
        kind : {"auto", "minmax", "standard", "log1p", "db", "affine"}
            ``auto`` takes ``log1p`` for rain rates and amounts (by CF standard name or units) and ``standard`` else.
            ``affine`` divides by the power of two that is nearest to the standard deviation, which rounds nothing: for
            networks that scale each window by themselves.
        channels : sequence of Channel
        parts : iterable of ndarray, each (frames, channel, row, column)
            Training frames only; NaN is left out.

        Raises
        ------
        DataError
            A channel without any valid value in training, or with one value only, or negative under ``log1p``/``db``.
        """
        if kind not in KINDS:
            choices = ", ".join(k for k in KINDS if k != "affine")  # which a network chooses by itself
            raise RecipeError("scaling", f"{kind!r}", expected=f"one of {choices}")
        bare = [ChannelScaling(kind_for(kind, c), c.units, 0.0, 1.0) for c in channels]
        moments = [_Moments() for _ in channels]
        extremes = [(math.inf, -math.inf)] * len(channels)
        counted = [c.counts for c in channels]
        for part in parts:
            for i, (scaling, moment) in enumerate(zip(bare, moments, strict=True)):
                values = part[:, i]
                values = values[np.isfinite(values)].astype(np.float64)
                if values.size:
                    low, high = extremes[i]
                    extremes[i] = min(low, float(values.min())), max(high, float(values.max()))
                    counted[i] = counted[i] and are_counts(values)
                moment.add(scaling.transform(values))
        for scaling, channel, (low, high) in zip(bare, channels, extremes, strict=True):
            if scaling.kind in ("log1p", "db") and low < -NEGATIVE_TOLERANCE * abs(high):
                raise DataError(
                    channel.name,
                    f"negative values, down to {low:g}, in the training period",
                    expected=f"none under scaling {scaling.kind}",
                    fix="use scaling='standard', or ds.where(ds >= 0) if they mean missing",
                )
        fitted = [_fitted(*each) for each in zip(bare, moments, channels, counted, strict=True)]
        return cls(tuple(fitted))

    @classmethod
    def bounds_alone(cls, channels: Sequence[Channel]) -> Scaling:
        """Return the scaling that leaves values as they are, and keeps what comes back within physical bounds.

        The bounds are those of the CF attributes ``valid_min``, ``valid_max`` and ``valid_range``; rain rates and
        amounts are at least 0, and so is what is stored as whole numbers without sign.

        Raises
        ------
        DataError
            An attribute that is no bound.
        """
        each = []
        for channel in channels:
            lower, upper = bounds_of(channel)
            if dims.is_rain(channel.attrs):
                lower = max(lower or 0.0, 0.0)
            each.append(ChannelScaling("affine", channel.units, 0.0, 1.0, lower, upper))
        return cls(tuple(each))

    def to_network(self, x: Any, xp: Any = np) -> Any:
        """Scale values of shape (..., channel, row, column)."""
        return self._each("to_network", x, xp)

    def to_physical(self, z: Any, xp: Any = np) -> Any:
        """Turn network values of shape (..., channel, row, column) back into physical units."""
        return self._each("to_physical", z, xp)

    def _each(self, way: str, x: Any, xp: Any) -> Any:
        if x.shape[-3] != len(self.channels):
            raise ModelError("scaling", f"{x.shape[-3]} channels", expected=f"{len(self.channels)}")
        parts = [getattr(c, way)(x[..., i, :, :], xp) for i, c in enumerate(self.channels)]
        return parts[0][..., None, :, :] if len(parts) == 1 else xp.stack(parts, -3)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return plain data for JSON."""
        return [asdict(c) for c in self.channels]

    @classmethod
    def from_dict(cls, data: Sequence[Mapping[str, Any]]) -> Scaling:
        """Read what `to_dict` wrote.

        Raises
        ------
        ModelError
            A constant is missing, unknown or of the wrong type.
        """
        try:
            return cls(tuple(ChannelScaling(**dict(c)) for c in data))
        except TypeError as error:
            raise ModelError(
                "scaling",
                f"unreadable constants ({error})",
                fix="train the model again, or fetch it again from where it came",
            ) from error


class _Moments:
    """Count, mean and variance of a stream of values (Chan et al. 1983, doi:10.1080/00031305.1983.10483115)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, values: npt.NDArray[np.float64]) -> None:
        if not values.size:
            return
        count, mean = values.size, float(values.mean())
        squares = float(np.square(values - mean).sum())
        total, delta = self.count + count, mean - self.mean
        self.squares += squares + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count)


def kind_for(kind: str, channel: Channel) -> Kind:
    """Return which scaling ``auto`` is for a channel: ``log1p`` for rain, else ``standard``; and any other as it is."""
    if kind != "auto":
        return cast("Kind", kind)
    return "log1p" if dims.is_rain(channel.attrs) else "standard"


def are_counts(values: npt.NDArray[Any]) -> bool:
    """Say whether all values, of which none is NaN, are whole and none is below 0."""
    return bool((values >= 0).all() and (values == np.rint(values)).all())


def _fitted(bare: ChannelScaling, moments: _Moments, channel: Channel, counts: bool) -> ChannelScaling:
    if moments.count == 0:
        raise DataError(channel.name, "no valid value in the training period", fix="choose another period or variable")
    if moments.high - moments.low <= 0:
        raise DataError(
            channel.name,
            f"one value only ({moments.low:g} after {bare.kind}) in the training period",
            expected="values that vary",
            fix="choose a period in which something happens",
        )
    lower, upper = bounds_of(channel)
    if counts or bare.kind in ("log1p", "db") or (bare.kind == "affine" and dims.is_rain(channel.attrs)):
        lower = max(lower or 0.0, 0.0)
    # Dry pixels stay at exactly 0 for the network: they are most of a rain field, and padding and filling are 0 too.
    if bare.kind in ("log1p", "db"):
        offset = float(bare.transform(np.zeros(())))
    elif bare.kind == "affine":
        offset = 0.0
    else:
        offset = moments.low if bare.kind == "minmax" else moments.mean
    scale = moments.high - moments.low if bare.kind == "minmax" else moments.deviation
    if bare.kind == "affine":
        scale = 2.0 ** round(math.log2(scale))
    return ChannelScaling(bare.kind, bare.units, offset, scale, lower, upper, bare.threshold)


def bounds_of(channel: Channel) -> tuple[float | None, float | None]:
    """Return the physical bounds by the CF attributes ``valid_min``, ``valid_max`` and ``valid_range``.

    Raises
    ------
    DataError
        An attribute that is no bound.
    """
    bounds = read_bounds(channel.attrs)
    if bounds is None:
        wrong = {key: channel.attrs[key] for key in KEYS if key in channel.attrs}
        key = "valid_range" if "valid_range" in wrong else "valid_min, valid_max"
        shown = ", ".join(repr(v) for k, v in wrong.items() if (k == "valid_range") == (key == "valid_range"))
        raise DataError(
            channel.name,
            f"{key} is {shown:.60}",
            expected="two numbers, the smaller first",
            fix="correct or remove the attribute",
        )
    return bounds
