"""Calibrate: what was observed after the forecasts of a hindcast becomes the distribution of a model's forecasts."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.bundle.card import calibrated_card
from sa_nowcast.errors import DataError, ModelError
from sa_nowcast.forecasts.calibration import Calibration
from sa_nowcast.forecasts.default_model import DefaultNowcaster
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.hindcast.call import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import match_names
from sa_nowcast.models.calibrating import LEAST_PAIRS, Dependence, margins
from sa_nowcast.storage.growing import Progress
from sa_nowcast.verification.collect import init_blocks, require_usable
from sa_nowcast.verification.plan import plan
from sa_nowcast.verification.scoring import Scoring

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.verification.inputs import Pairing

LEAST_INIT_TIMES: Final = 20

_MOST_PAIRS: Final = 2**24  # of all channels and lead times: what memory holds at once
_EACH: Final = 2**18  # of one of them, beyond which distributions hardly change
_FOR_DEPENDENCE: Final = (30, 300, 2**24)  # init times, evenly, at least and at most; and their pixels at most

Values = npt.NDArray[np.float64]


def calibrate(
    model: Nowcaster | str | Path,
    data: xr.DataArray | xr.Dataset,
    archive: xr.DataArray | None = None,
    *,
    steps: int | None = None,
    init_times: Any = None,
    stride: int = 1,
    tile: int | None = None,
    device: str = "auto",
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Nowcaster:
    """Return the model with the distribution that its forecasts of a period had: members, probabilities, quantiles.

    The mean forecast and the model's digest stay what they are. The period should not be that of the training, where
    errors are smaller than elsewhere; the validation period will do.

    Parameters
    ----------
    model : Nowcaster or path
        The default model becomes one of these data alone, of their variables, units, cadence and grid.
    data : DataArray or Dataset
        What was observed, in the model's units; as for `sa_nowcast.verify`, and as for `sa_nowcast.Nowcaster.forecast`
        where there is no `archive`.
    archive : DataArray, optional
        A hindcast by this model, of its mean forecasts. By default it is made of `data`, in a temporary folder.
    steps : int, optional
        Lead times of the hindcast that is made; by default as many as the model was trained for. More than were
        calibrated cannot be forecast with a distribution.
    init_times, stride, tile, device, progress
        Of the hindcast that is made, as for `sa_nowcast.hindcast.hindcast`.
    time, y, x, channel : hashable, optional
        Dimension names, where CF attributes and common names do not tell.
    dry_run : bool
        Check everything but the values, compute nothing, and return the model as it is.

    Returns
    -------
    Nowcaster
        To be saved by `sa_nowcast.Nowcaster.save`, calibration included.

    Raises
    ------
    DataError
        Fewer than 20 init times with observations, or than 2000 pairs of forecast and observation at a lead time; and
        as for `sa_nowcast.verify`.
    ModelError
        An archive that is not of this model's mean forecasts.
    RecipeError
        As for `sa_nowcast.hindcast.hindcast`.

    Notes
    -----
    At each lead time, the distribution of what is observed given the forecast is by isotonic distributional regression
    (Henzi, Ziegel and Gneiting 2021, doi:10.1111/rssb.12450) on the forecast alone (EasyUQ: Walz, Henzi, Ziegel and
    Gneiting 2024, doi:10.1137/22M1541915), in bins of the forecast. The normal scores of what was observed give the
    correlations in space and from each lead time to the next, which members then have. The hindcast is read twice, some
    init times at a time; at most 2**24 pairs of values are in memory, drawn evenly from all init times.
    """
    nowcaster = as_nowcaster(model)
    if isinstance(nowcaster, DefaultNowcaster):
        nowcaster = nowcaster.of_data(data, dims.DimNames(time, y, x, channel))
    with ExitStack() as stack:
        if archive is None:
            place = None if dry_run else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sa_nowcast-")))
            archive = hindcast(
                data, nowcaster, steps, init_times=init_times, stride=stride, tile=tile, device=device, time=time, y=y,
                x=x, channel=channel, to=place and place / "hindcast.zarr", progress=progress,
            )  # fmt: skip
        _require_of(nowcaster, archive)
        pairing = plan({"": archive}, data, Scoring(["mse"]), time=time, lacking="skip").pairings[""]
        require_init_times(pairing.forecast.sizes[dims.INIT_TIME], str(pairing.forecast.name))
        if dry_run:
            return nowcaster
        calibration = _calibration(nowcaster, _ordered(pairing, nowcaster), str(data.encoding.get("source", "")))
    card = calibrated_card(nowcaster.card, calibration.about)
    return replace(nowcaster, calibration=calibration, card=card)


def _require_of(nowcaster: Nowcaster, archive: xr.DataArray) -> None:
    """Refuse what are not the model's mean forecasts at its first lead times."""
    told = archive.attrs.get("sa_nowcast_model")
    made_by = f"forecasts by {'an unknown model' if told is None else f'the model {str(told)[:12]}'}"
    product = archive.attrs.get("sa_nowcast_product", "mean")
    leads = np.atleast_1d(archive[dims.LEAD_TIME].values)
    wanted = np.arange(1, len(leads) + 1) * nowcaster.terms.step
    for found, wrong, expected in (
        (made_by, told != nowcaster.digest, f"by the model {nowcaster.digest[:12]}"),
        (f"the product {product}", product != "mean" or dims.REALIZATION in archive.dims, "mean"),
        ("other lead times than the first ones", not np.array_equal(leads, wanted), "each up to the last"),
    ):
        if wrong:
            raise ModelError(
                "archive", found, expected, "leave the archive out: then a hindcast is made that calibrates this model"
            )


def _ordered(pairing: Pairing, nowcaster: Nowcaster) -> Pairing:
    """Return the pairing with its variables in the model's order."""
    if dims.VARIABLE not in pairing.forecast.dims:
        return pairing
    names = match_names([name for name, _ in nowcaster.terms.channels], pairing.forecast[dims.VARIABLE].values)
    chosen = {dims.VARIABLE: list(names.values())}
    return replace(pairing, forecast=pairing.forecast.sel(chosen), truth=pairing.truth.sel(chosen))


def require_init_times(count: int, name: str) -> None:
    """Refuse to calibrate by fewer forecasts than that needs."""
    _require_enough(count, LEAST_INIT_TIMES, "init times with observations", name)


def _require_enough(count: int, least: int, what: str, name: str) -> None:
    if count < least:
        raise DataError(name, f"{count} {what}", f"at least {least} to calibrate", "give a longer period")


def _calibration(nowcaster: Nowcaster, pairing: Pairing, source: str) -> Calibration:
    inits, steps = (pairing.forecast.sizes[dim] for dim in (dims.INIT_TIME, dims.LEAD_TIME))
    name, channels = str(pairing.forecast.name), len(nowcaster.terms.channels)
    pixels = int(np.prod([pairing.forecast.sizes[dim] for dim in pairing.spatial]))
    quota = max(1, min(pixels, min(_EACH, max(LEAST_PAIRS, _MOST_PAIRS // (channels * steps))) // inits + 1))
    drawn: list[npt.NDArray[np.float32]] = []
    for number, values in enumerate(_forecasts(pairing)):
        flat = values.reshape(*values.shape[:3], pixels)
        some = np.random.default_rng(number).choice(pixels, quota, replace=False) if quota < pixels else slice(None)
        drawn.append(flat[..., some].astype(np.float32))
    pairs = np.concatenate(drawn, -1)  # (forecast and observation, lead time, channel, pair)
    known = np.asarray(np.isfinite(pairs).all(0))
    count = int(known.sum(-1).min())
    _require_enough(count, LEAST_PAIRS, "pairs of forecast and observation at a lead time", name)
    tables = []
    for c in range(channels):
        own = [pairs[:, step, c][:, known[step, c]].astype(np.float64) for step in range(steps)]
        tables.append(margins([(forecast, observed) for forecast, observed in own]))
    del pairs, drawn
    shape = pairing.forecast.sizes[pairing.spatial[0]], pairing.forecast.sizes[pairing.spatial[1]]
    dependences = [Dependence(table, shape) for table in tables]
    least, most, of_pixels = _FOR_DEPENDENCE
    every = -(-inits // min(most, max(least, of_pixels // pixels)))
    for forecast, observed in _forecasts(pairing, every):
        for c, dependence in enumerate(dependences):
            dependence.add(forecast[:, c], observed[:, c])
    times = np.sort(pairing.forecast[dims.INIT_TIME].values)
    first, last = (np.datetime_as_string(t, unit="s") for t in (times[0], times[-1]))
    about = {
        "model": nowcaster.digest,
        "dataset": source or name,
        "period": f"{first}/{last}",
        "init_times": inits,
        "pairs": count,
        "steps": steps,
    }
    return Calibration(tuple(d.table_of() for d in dependences), about)


def _forecasts(pairing: Pairing, every: int = 1) -> Iterator[Values]:
    """Yield each forecast with what was observed, (2, lead time, channel, y, x); each block is read once."""
    times = {"truth": pairing.truth[pairing.time].values, "forecast": pairing.forecast[dims.INIT_TIME].values}
    for block in init_blocks(pairing):
        wanted = [i for i in range(block.start, block.stop) if i % every == 0]
        if not wanted:
            continue
        frames, places = np.unique(pairing.valid_index[wanted], return_inverse=True)
        truth = pairing.truth_frames(frames).values
        forecast = pairing.forecast_block(pairing.forecast, block, slice(None)).values[0]
        require_usable(truth, "truth", times["truth"][frames], 0)
        require_usable(forecast, "forecast", times["forecast"][block], 0)
        for i, place in zip(wanted, places.reshape(len(wanted), -1), strict=True):
            own = forecast[i - block.start].swapaxes(0, 1)  # (lead time, variable, channel, y, x)
            both = np.stack([own, truth[place]]).astype(np.float32).astype(np.float64)
            yield both.reshape(*both.shape[:2], -1, *both.shape[-2:])
