"""Reduce a forecast archive to additive statistics, block by block of init times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing.clusters import dask_threads
from sa_nowcast.frames import LARGEST, fill_values, infinite_values
from sa_nowcast.times import show_time
from sa_nowcast.verification.ensembles import Keys, axis_keys
from sa_nowcast.verification.fields import SCALE, Fields, Settings, Sums
from sa_nowcast.verification.inputs import Pairing
from sa_nowcast.verification.metrics import METRICS, PIXELS, Reduction
from sa_nowcast.verification.scales import Scale
from sa_nowcast.verification.statistics import Statistics

# What one block may hold of the forecast; up to what small chunks are put together, for each block costs a scheduler
# milliseconds; and what is worked on at once within a block, about a processor's cache: larger batches were not faster.
BLOCK_BYTES = 16 * 2**20
LEAST_BLOCK_BYTES = 4 * 2**20
BATCH_VALUES = 2**18
# How many blocks dask is given at a time, for a graph of all grows with the archive: some for each thread, and so many
# that finding their parts in the graph of a long archive, which takes time for all of it, does not count.
BLOCKS_A_THREAD, LEAST_BLOCKS, MOST_BLOCKS = 16, 256, 2048

SUM_DIMS = ("init_time", "variable", "lead_time", "channel")

Values = npt.NDArray[Any]
Positions = npt.NDArray[np.intp]


def collect(pairing: Pairing) -> Statistics:
    """Return the sums of a forecast and its reference over the pixels that both and the truth have.

    The archive is read once, and once more for each time over which lead times are averaged: in blocks along init time,
    and along lead time where one init time is larger than a block, as an ensemble is; where it is backed by dask, the
    blocks are dask tasks and run on whatever scheduler is in use, some hundreds at a time.
    """
    scales = pairing.labels.settings.scales or (Scale(),)
    states: dict[Scale, Statistics] = {}
    for time in dict.fromkeys(scale.time for scale in scales):
        alike = tuple(scale for scale in scales if scale.time == time)
        states |= zip(alike, _collect(pairing, alike), strict=True)
    if not pairing.labels.settings.scales:
        return states[scales[0]]
    forecast = _beside({scale.label: states[scale].forecast for scale in scales})
    references = {scale.label: sums for scale in scales if (sums := states[scale].reference) is not None}
    return replace(states[scales[0]], forecast=forecast, reference=_beside(references) if references else None)


def _beside(sums: dict[str, xr.Dataset]) -> xr.Dataset:
    """Return sums by scale as one Dataset, 0 where a scale has no value at a lead time."""
    parts = [each.assign_coords({SCALE: label}) for label, each in sums.items()]
    parts = list(xr.align(*parts, join="outer", fill_value=0.0))
    everything = {name: xr.zeros_like(each.drop_vars(SCALE)) for part in parts for name, each in part.data_vars.items()}
    parts = [part.assign({name: zero for name, zero in everything.items() if name not in part}) for part in parts]
    return xr.concat(parts, dim=SCALE, coords="minimal", compat="override", join="override")


def _collect(pairing: Pairing, scales: tuple[Scale, ...]) -> list[Statistics]:
    """Return the sums at each of some scales that average over the same time of lead times."""
    labels = pairing.labels
    reductions = tuple(dict.fromkeys((PIXELS, *(METRICS[name].sums for name in labels.metrics))))
    what = (replace(labels.settings, scales=scales), reductions)
    blocks = list(init_blocks(pairing))
    if scales[0].time:
        windows = scales[0].windows(pairing.forecast["lead_time"].values)
        parts = [(block, window) for block in blocks for window in windows]
        ends = [window.stop - 1 for window in windows]
    else:
        parts = [(block, leads) for block in blocks for leads in _lead_blocks(pairing, block)]
        ends = list(range(pairing.forecast.sizes["lead_time"]))
    reduce: Callable[..., Any] = _reduce
    add: Callable[..., Any] = _added
    finish: Callable[..., Any] = _reduce_means
    form: Literal["data", "values"] = "values"
    if pairing.forecast.chunks is not None or pairing.truth.chunks is not None:
        from dask.base import compute
        from dask.delayed import delayed

        if pairing.truth.chunks is None:
            pairing = replace(pairing, truth=pairing.truth.chunk({pairing.time: 1}))
        reduce, add, finish = (delayed(each, pure=False) for each in (reduce, add, finish))
        form = "data"

    def sums_of(block: slice, leads: slice) -> Any:
        if not scales[0].time:
            return reduce(*_block(pairing, block, leads, form), *what)
        total = None
        for some in _lead_blocks(pairing, block, leads):
            total = add(total, *_block(pairing, block, some, form)[:-1])
        keys = _keys(pairing, block, slice(leads.stop - 1, leads.stop))
        return finish(total, leads.stop - leads.start, keys, *what)

    results: list[Any] = []
    at_once = len(parts) if form == "values" else min(MOST_BLOCKS, max(LEAST_BLOCKS, BLOCKS_A_THREAD * dask_threads()))
    for first in range(0, len(parts), at_once):
        made = [sums_of(*part) for part in parts[first : first + at_once]]
        results += made if form == "values" else compute(*made)  # type: ignore[no-untyped-call]
    members = (labels.members, labels.reference_members)
    if not results:
        return [Statistics.zero() for _ in scales]
    groups = itertools.groupby(zip(parts, results, strict=True), key=lambda each: each[0][0])
    # Labelled at the end: of a long archive labels of each block would be larger than the sums.
    sums = iter(_join([_join([result for _, result in group], axis=2) for _, group in groups], axis=0))
    states = []
    for of_scale in zip(*[sums] * (1 + pairing.has_reference), strict=True):
        named = [_label(one, pairing, ends, reductions, m) for one, m in zip(of_scale, members, strict=False)]
        states.append(Statistics.total([Statistics(named[0], named[1] if len(named) > 1 else None, labels)]))
    return states


def init_blocks(pairing: Pairing) -> Iterator[slice]:
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


def _lead_blocks(pairing: Pairing, block: slice, within: slice | None = None) -> Iterator[slice]:
    """Yield slices of lead time of a block of init times: all, or of a larger one so many chunks as a block may hold.

    What is stored or computed in one chunk is not read twice. `within` are those of the lead times that are wanted.
    """
    if within is not None:
        for part in _lead_blocks(pairing, block):
            start, stop = max(part.start, within.start), min(part.stop, within.stop)
            if start < stop:
                yield slice(start, stop)
        return
    forecast = pairing.forecast
    number = forecast.sizes["lead_time"]
    stored = max(1, int(forecast.encoding.get("preferred_chunks", {}).get("lead_time", number)))
    chunks = forecast.variable.chunksizes.get("lead_time") or [stored] * -(-number // stored)
    each = max(1, forecast.size * forecast.dtype.itemsize // max(forecast.sizes["init_time"] * number, 1))
    most = max(1, BLOCK_BYTES // (each * (block.stop - block.start)))
    start, stop = 0, 0
    for chunk in chunks:
        if stop > start and stop + chunk - start > most:
            yield slice(start, stop)
            start = stop
        stop = min(stop + chunk, number)
    yield slice(start, stop)


def _block(
    pairing: Pairing, block: slice, leads: slice, what: Literal["data", "values"]
) -> tuple[dict[str, tuple[int, Values]], Values, Values, Values | None, Positions, Positions | None, tuple[Keys, ...]]:
    """Return a block as `_reduce` takes it: each distinct truth frame once, lazily where `what` is "data"."""
    valid = pairing.valid_index[block, leads]
    init = None if pairing.init_index is None else pairing.init_index[block]
    wanted = valid.ravel() if init is None else np.concatenate([valid.ravel(), init])
    frames, places = np.unique(wanted, return_inverse=True)
    places = places.astype(np.intp)
    forecast, truth = pairing.forecast_block(pairing.forecast, block, leads), pairing.truth_frames(frames)
    reference = None if pairing.reference is None else pairing.forecast_block(pairing.reference, block, leads)
    init_times = pairing.forecast["init_time"].values[block]
    return (
        {
            "truth": (0, pairing.truth[pairing.time].values[frames]),
            "forecast": (1, init_times),
            "reference": (1, init_times),
        },
        getattr(forecast, what),
        getattr(truth, what),
        None if reference is None else getattr(reference, what),
        places[: valid.size].reshape(valid.shape),
        None if init is None else places[valid.size :],
        _keys(pairing, block, leads),
    )


def _keys(pairing: Pairing, block: slice, leads: slice) -> tuple[Keys, ...]:
    """Return what draws at a pixel are seeded by: numbers for each init time, variable, lead time, channel, y and x."""
    forecast = pairing.forecast.isel(init_time=block, lead_time=leads)
    labels = {
        dim: forecast.coords.get(dim, np.arange(forecast.sizes.get(dim, 1))) for dim in (*SUM_DIMS, *pairing.spatial)
    }
    order = {dim: place for place, dim in enumerate((*SUM_DIMS, *sorted(pairing.spatial)))}
    return tuple(axis_keys(np.atleast_1d(np.asarray(values)), order[dim]) for dim, values in labels.items())


def require_usable(values: Values, role: str, times: Values, axis: int) -> None:
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


def _reduce(
    times: dict[str, tuple[int, Values]],
    forecast: Values,
    truth: Values,
    reference: Values | None,
    valid: Positions,
    init: Positions | None,
    keys: tuple[Keys, ...],
    settings: Settings,
    reductions: tuple[Reduction, ...],
) -> tuple[Sums, ...]:
    """Return the sums of a block: of the forecast, and of the reference where there is one.

    Shapes: forecast (M, I, V, L, C, Y, X), truth (T, V, C, Y, X), reference as the forecast, valid (I, L), init (I,).
    `keys` are those of :class:`Fields`, for the block. `times` are the axis and labels of time of each, for errors.
    """
    for (role, (axis, labels)), values in zip(times.items(), (truth, forecast, reference), strict=True):
        if values is not None:
            require_usable(values, role, labels, axis)
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
            here = (keys[0][i], keys[1], keys[2][j], *keys[3:])
            cells.append(_reduce_batch(sources, observed, here, settings, reductions))
        rows.append(_join(cells, axis=2))
    return _join(rows, axis=0)


Means = list[npt.NDArray[np.float64]]


def _added(
    total: Means | None,
    times: dict[str, tuple[int, Values]],
    forecast: Values,
    truth: Values,
    reference: Values | None,
    valid: Positions,
    init: Positions | None,
) -> Means:
    """Return `total` with the values at these lead times added: of the truth, the forecast and the reference.

    Shapes as for `_reduce`, and without the lead times. What is missing at one of them is missing in the total.
    """
    for (role, (axis, labels)), values in zip(times.items(), (truth, forecast, reference), strict=True):
        if values is not None:
            require_usable(values, role, labels, axis)
    still = None if init is None else truth[init][None]
    for lead in range(valid.shape[1]):
        sources = [forecast[:, :, :, lead]]
        if still is not None:
            sources.append(still)
        elif reference is not None:
            sources.append(reference[:, :, :, lead])
        rounded = _in_one_precision(truth[valid[:, lead]], *sources)
        total = rounded if total is None else [a + b for a, b in zip(total, rounded, strict=True)]
    assert total is not None
    return total


def _reduce_means(
    total: Means, number: int, keys: tuple[Keys, ...], settings: Settings, reductions: tuple[Reduction, ...]
) -> tuple[Sums, ...]:
    """Return the sums of means over `number` lead times, from their total by `_added`; as `_reduce` for one of them."""
    rows = []
    for i in range(len(total[0])):
        observed, *sources = (each[..., i : i + 1, :, :, :, :] / number for each in total)
        parts = [source[:, :, :, None] for source in sources]
        rows.append(_reduce_batch(parts, observed[:, :, None], (keys[0][i : i + 1], *keys[1:]), settings, reductions))
    return _join(rows, axis=0)


def _join(parts: list[tuple[Sums, ...]], axis: int) -> tuple[Sums, ...]:
    return tuple(
        {name: np.concatenate([part[source][name] for part in parts], axis=axis) for name in parts[0][source]}
        for source in range(len(parts[0]))
    )


def _reduce_batch(
    sources: list[Values],
    observed: Values,
    keys: tuple[Keys, ...],
    settings: Settings,
    reductions: tuple[Reduction, ...],
) -> tuple[Sums, ...]:
    """Return the sums of each source, (M, I, V, L, C, Y, X), against `observed`, (I, V, L, C, Y, X), on one mask.

    They are those of all sources at the first scale, then at the next.
    """
    observed, *sources = _in_one_precision(observed, *sources)
    mask = np.isfinite(observed)
    for source in sources:
        mask &= np.isfinite(source).all(axis=0)
    # Where a pixel is missing the values are replaced, so that no NaN reaches a comparison or a sum by accident.
    observed = np.where(mask, observed, 0.0)
    pixels = [Fields(np.where(mask, source, 0.0), observed, mask, settings, keys) for source in sources]
    return tuple(
        {
            name: sums
            for reduction in reductions
            if reduction.areas or not scale.is_area
            for name, sums in reduction.of(coarse).items()
        }
        for scale in settings.scales
        for coarse in (fields.over_areas(scale) for fields in pixels)
    )


def _in_one_precision(*arrays: Values) -> list[npt.NDArray[np.float64]]:
    """Return the values as float64, in which sums are taken, rounded as the coarsest of the arrays is.

    What differs by the type in which it is stored is no error of a forecast.
    """
    coarse = any(array.dtype.kind == "f" and array.dtype.itemsize <= 4 for array in arrays)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and counts as missing
        return [(array.astype(np.float32) if coarse else array).astype(np.float64) for array in arrays]


def _label(
    sums: Sums,
    pairing: Pairing,
    leads: list[int],
    reductions: tuple[Reduction, ...],
    members: int,
) -> xr.Dataset:
    """Return the sums of all init times as a Dataset with the coordinates of the forecast, at these lead times."""
    forecast = pairing.forecast.isel(lead_time=leads)
    own = {name: dims for reduction in reductions for name, dims in reduction.dims.items()}
    variables = {name: ((*SUM_DIMS[: values.ndim], *own.get(name, ())), values) for name, values in sums.items()}
    coords: dict[str, Any] = {"init_time": forecast["init_time"].values}
    for dim in SUM_DIMS[1:]:
        known = dim in forecast.dims and dim in forecast.coords
        coords[dim] = forecast[dim].values if known else np.arange(forecast.sizes.get(dim, 1))
    for dim in dict.fromkeys(dim for dims in own.values() for dim in dims):
        coords[dim] = pairing.labels.settings.labels(dim, members)
    return xr.Dataset(variables, coords=coords)
