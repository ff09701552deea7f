"""Reduce a forecast archive to additive statistics, block by block of init times."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.frames import LARGEST, fill_values, infinite_values
from sa_nowcast.times import show_time
from sa_nowcast.verification.fields import EXTRA_DIMS, FRAME_SUMS, KINDS, Fields, Settings, Sums
from sa_nowcast.verification.inputs import Pairing, pair
from sa_nowcast.verification.metrics import select_metrics
from sa_nowcast.verification.named import REFERENCES
from sa_nowcast.verification.statistics import Labels, Statistics
from sa_nowcast.verification.units import check_thresholds

# What one block may hold of the forecast; up to what small chunks are put together, for each block costs a scheduler
# milliseconds; and what is worked on at once within a block, about a processor's cache: larger batches were not faster.
BLOCK_BYTES = 16 * 2**20
LEAST_BLOCK_BYTES = 4 * 2**20
BATCH_VALUES = 2**18

SUM_DIMS = ("init_time", "variable", "lead_time", "channel")


def collect_statistics(
    forecast: xr.DataArray,
    truth: xr.DataArray | xr.Dataset,
    metrics: Sequence[str] | None = None,
    *,
    thresholds: Sequence[float | str] | xr.DataArray | None = None,
    neighbourhoods: Sequence[int] | None = None,
    reference: str | xr.DataArray | None = None,
    reference_name: str | None = None,
    data_range: tuple[float, float] = (0.0, 1.0),
    clip: bool = False,
    time: Hashable | None = None,
) -> Statistics:
    """Return the sums that the scores of `forecast` against `truth` are formulas over.

    The archive is read once, in blocks along init time; where it is backed by dask, the blocks are dask tasks and run
    on whatever scheduler is in use.

    Parameters
    ----------
    forecast, truth, metrics, thresholds, neighbourhoods, reference, reference_name, data_range, clip, time
        As for :func:`sa_nowcast.verification.verify`.

    Returns
    -------
    Statistics
        To be added to those of other archives, and given to :func:`sa_nowcast.verification.summarise`.
    """
    if isinstance(reference, str) and reference != "persistence":
        training = ", training=truth" if reference == "climatology" else ""
        made = f"sa_nowcast.reference({reference!r}{training}).forecast(truth, "
        raise RecipeError(
            "reference",
            f"{reference!r} is unknown",
            '"persistence", None or a forecast DataArray',
            f"pass reference={made}lead_times=forecast.lead_time, init_time=forecast.init_time)"
            if reference in REFERENCES
            else None,
        )
    pairing = pair(forecast, truth, reference, reference_name=reference_name, time=time)
    limits = check_thresholds(thresholds, pairing.units)
    if metrics is None:
        metrics = ("mse", "csi") if limits else ("mse",)
    chosen = select_metrics(metrics)
    members = pairing.forecast.sizes.get("realization", 1)
    for metric in chosen:
        if metric.kind in ("contingency", "fractions") and not limits:
            raise RecipeError(
                "thresholds",
                f"none are given for {metric.name}",
                f"at least one in the data's units ({pairing.units or 'none stated'})",
                "thresholds=[1.0], with values that matter in your data",
            )
        if metric.ensemble and members < 2:
            raise RecipeError("metrics", f"{metric.name} of {members} member", "a forecast with several realizations")
    low, high = (float(value) for value in data_range)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise RecipeError("data_range", f"is {low:g} to {high:g}", "finite, with the lower value first")
    settings = Settings(limits, _odd_widths(neighbourhoods, pairing), (low, high), clip)
    labels = Labels(
        tuple(metric.name for metric in chosen),
        pairing.units,
        pairing.present,
        pairing.reference_name,
        pairing.label,
        settings,
        members,
        _reference_members(pairing),
        pairing.channel_name,
    )
    kinds = tuple(dict.fromkeys(("counts", *(metric.kind for metric in chosen))))
    blocks = list(_blocks(pairing))
    if _is_dask(pairing.forecast) or _is_dask(pairing.truth):
        results = _by_dask(pairing, blocks, settings, kinds)
    else:
        results = [_reduce(_times(pairing, block), *_load(pairing, block), settings, kinds) for block in blocks]
    parts = [
        Statistics(
            _label(sums[0], pairing, block, settings, labels.members),
            None if len(sums) < 2 else _label(sums[1], pairing, block, settings, labels.reference_members),
            labels,
        )
        for block, sums in zip(blocks, results, strict=True)
    ]
    return Statistics.total(parts)


def _odd_widths(neighbourhoods: Sequence[int] | None, pairing: Pairing) -> tuple[int, ...]:
    widths = tuple(neighbourhoods) if neighbourhoods is not None else (1, 5, 11)
    smallest = min(pairing.forecast.sizes[dim] for dim in pairing.spatial)
    for width in widths:
        if int(width) != width or width < 1 or width % 2 == 0:
            raise RecipeError("neighbourhoods", f"{width} is given", "odd whole widths in pixels, from 1 up")
        if neighbourhoods is not None and width > 2 * smallest:
            raise RecipeError("neighbourhoods", f"{width} pixels on a grid {smallest} wide", f"at most {2 * smallest}")
    if not widths or len(set(widths)) < len(widths):
        raise RecipeError("neighbourhoods", f"are {list(widths)}", "at least one, each once")
    return tuple(sorted(int(width) for width in widths))


def _reference_members(pairing: Pairing) -> int:
    return 1 if pairing.reference is None else pairing.reference.sizes.get("realization", 1)


def _is_dask(data: xr.DataArray) -> bool:
    return data.chunks is not None


def _blocks(pairing: Pairing) -> Iterator[slice]:
    """Yield slices of init time: the chunks of the forecast, put together where small and cut where large."""
    forecast = pairing.forecast
    number = forecast.sizes["init_time"]
    each = max(1, forecast.size // max(number, 1) * forecast.dtype.itemsize)
    largest, least = (max(1, size // each) for size in (BLOCK_BYTES, LEAST_BLOCK_BYTES))
    start, stop = 0, 0
    for chunk in forecast.variable.chunksizes.get("init_time", (number,)):
        if stop > start and stop + chunk - start > least:
            yield slice(start, stop)
            start = stop
        stop += chunk
        while stop - start > largest:
            yield slice(start, start + largest)
            start += largest
    if stop > start:
        yield slice(start, stop)


def _select(
    pairing: Pairing, block: slice
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray | None, npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
    """Return what a block needs: forecast, distinct truth frames, reference, and where its frames stand in those."""
    valid = pairing.valid_index[block]
    init = None if pairing.init_index is None else pairing.init_index[block]
    wanted = valid.ravel() if init is None else np.concatenate([valid.ravel(), init])
    frames, inverse = np.unique(wanted, return_inverse=True)
    reference = None if pairing.reference is None else pairing.forecast_block(pairing.reference, block)
    inverse = inverse.astype(np.intp)
    return (
        pairing.forecast_block(pairing.forecast, block),
        pairing.truth_frames(frames),
        reference,
        inverse[: valid.size].reshape(valid.shape),
        None if init is None else inverse[valid.size :],
    )


def _require_usable(values: npt.NDArray[Any], role: str, times: npt.NDArray[Any], axis: int) -> None:
    """Refuse infinite values and undeclared fill values: as missing ones they would leave the scores in silence."""
    if values.dtype.kind != "f" or not values.size:
        return
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    if not (low <= -LARGEST or high >= LARGEST):
        return
    wrong = np.abs(values) >= LARGEST
    time = show_time(times[int(np.argwhere(wrong)[0][axis])])
    if np.isinf(values[wrong]).any():
        raise infinite_values(role, time, int(np.isinf(values).sum()))
    raise fill_values(role, time, float(values[wrong][0]), int(wrong.sum()), "abs(ds) < 1e20")


Loaded = tuple[
    npt.NDArray[Any],
    npt.NDArray[Any],
    npt.NDArray[Any] | None,
    npt.NDArray[np.intp],
    npt.NDArray[np.intp] | None,
]


def _load(pairing: Pairing, block: slice) -> Loaded:
    forecast, truth, reference, valid, init = _select(pairing, block)
    return forecast.values, truth.values, None if reference is None else reference.values, valid, init


def _by_dask(
    pairing: Pairing, blocks: list[slice], settings: Settings, kinds: tuple[str, ...]
) -> list[tuple[Sums, ...]]:
    from dask.base import compute
    from dask.delayed import delayed

    if not _is_dask(pairing.truth):
        pairing = replace(pairing, truth=pairing.truth.chunk({pairing.time: 1}))
    reduce_later = delayed(_reduce, pure=False)
    tasks = []
    for block in blocks:
        forecast, truth, reference, valid, init = _select(pairing, block)
        tasks.append(
            reduce_later(
                _times(pairing, block),
                forecast.data,
                truth.data,
                None if reference is None else reference.data,
                valid,
                init,
                settings,
                kinds,
            )
        )
    return list(compute(*tasks))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Times:
    """Of a block: the times of its truth frames, and its init times."""

    truth: npt.NDArray[np.datetime64]
    init: npt.NDArray[np.datetime64]


def _times(pairing: Pairing, block: slice) -> _Times:
    wanted = [pairing.valid_index[block].ravel()]
    wanted += [] if pairing.init_index is None else [pairing.init_index[block]]
    times = pairing.truth[pairing.time].values[np.unique(np.concatenate(wanted))]
    return _Times(times, pairing.forecast["init_time"].values[block])


def _reduce(
    times: _Times,
    forecast: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    reference: npt.NDArray[Any] | None,
    valid: npt.NDArray[np.intp],
    init: npt.NDArray[np.intp] | None,
    settings: Settings,
    kinds: tuple[str, ...],
) -> tuple[Sums, ...]:
    """Return the sums of a block: of the forecast, and of the reference where there is one.

    Shapes: forecast (M, I, V, L, C, Y, X), truth (T, V, C, Y, X), reference as the forecast, valid (I, L), init (I,).
    """
    for role, values, labels, axis in (
        ("truth", truth, times.truth, 0),
        ("forecast", forecast, times.init, 1),
        ("reference", reference, times.init, 1),
    ):
        if values is not None:
            _require_usable(values, role, labels, axis)
    _, inits, _, leads, *_ = forecast.shape
    per_lead = max(1, forecast[:, 0, :, 0].size) if inits and leads else 1
    lead_step = max(1, min(leads, BATCH_VALUES // per_lead))
    init_step = max(1, BATCH_VALUES // (per_lead * lead_step))
    rows: list[tuple[Sums, ...]] = []
    for start in range(0, inits, init_step):
        i = slice(start, start + init_step)
        cells = []
        for first in range(0, leads, lead_step):
            j = slice(first, first + lead_step)
            observed = np.moveaxis(truth[valid[i, j]], 1, 2)
            sources = [forecast[:, i, :, j]]
            if init is not None:
                last = truth[init[i]][:, :, None]
                sources.append(np.broadcast_to(last, observed.shape)[None])
            elif reference is not None:
                sources.append(reference[:, i, :, j])
            cells.append(_reduce_batch(sources, observed, settings, kinds))
        rows.append(_join(cells, axis=2))
    return _join(rows, axis=0)


def _join(parts: list[tuple[Sums, ...]], axis: int) -> tuple[Sums, ...]:
    return tuple(
        {name: np.concatenate([part[source][name] for part in parts], axis=axis) for name in parts[0][source]}
        for source in range(len(parts[0]))
    )


def _reduce_batch(
    sources: list[npt.NDArray[Any]], observed: npt.NDArray[Any], settings: Settings, kinds: tuple[str, ...]
) -> tuple[Sums, ...]:
    """Return the sums of each source, (M, I, V, L, C, Y, X), against `observed`, (I, V, L, C, Y, X), on one mask."""
    observed, *sources = _in_one_precision(observed, *sources)
    mask = np.isfinite(observed)
    for source in sources:
        mask &= np.isfinite(source).all(axis=0)
    # Where a pixel is missing the values are replaced, so that no NaN reaches a comparison or a sum by accident.
    observed = np.where(mask, observed, 0.0)
    results = []
    for source in sources:
        fields = Fields(np.where(mask, source, 0.0), observed, mask, settings)
        sums: Sums = {}
        for kind in kinds:
            sums.update(KINDS[kind](fields))
        results.append(sums)
    return tuple(results)


def _in_one_precision(*arrays: npt.NDArray[Any]) -> list[npt.NDArray[np.float64]]:
    """Return the values as float64, in which sums are taken, rounded as the coarsest of the arrays is.

    What differs by the type in which it is stored is no error of a forecast.
    """
    coarse = any(array.dtype.kind == "f" and array.dtype.itemsize <= 4 for array in arrays)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and counts as missing
        return [(array.astype(np.float32) if coarse else array).astype(np.float64) for array in arrays]


def _label(sums: Sums, pairing: Pairing, block: slice, settings: Settings, members: int) -> xr.Dataset:
    """Return the sums of a block as a Dataset with the forecast's coordinates."""
    forecast = pairing.forecast
    variables = {}
    for name, values in sums.items():
        dims = (*SUM_DIMS, *EXTRA_DIMS.get(name, ()))
        if name in FRAME_SUMS:
            dims, values = dims[:3], values[:, :, :, 0]
        variables[name] = (dims, values)
    coords: dict[str, Any] = {"init_time": forecast["init_time"].values[block]}
    for dim in ("variable", "lead_time", "channel"):
        known = dim in forecast.dims and dim in forecast.coords
        coords[dim] = forecast[dim].values if known else np.arange(forecast.sizes.get(dim, 1))
    extra = {dim for dims, _ in variables.values() for dim in dims}
    if "threshold" in extra:
        coords["threshold"] = np.asarray(settings.thresholds)
    if "neighbourhood" in extra:
        coords["neighbourhood"] = np.asarray(settings.neighbourhoods)
    if "rank" in extra:
        coords["rank"] = np.arange(members + 1)
    return xr.Dataset(variables, coords=coords)
