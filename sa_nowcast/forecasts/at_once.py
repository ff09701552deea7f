"""All that is asked of one forecast at once: its mean, and of its distribution members, probabilities, quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.forecasts.ensembles import Ensemble
from sa_nowcast.forecasts.job import histories_of
from sa_nowcast.forecasts.method import Values
from sa_nowcast.frames import Frames
from sa_nowcast.models.members import Lagrangian

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster


@dataclass(frozen=True)
class AtOnce:
    """Of one init time and one field, in the layout of the data.

    Attributes
    ----------
    mean : ndarray, shape (lead time, y, x)
        As `sa_nowcast.Nowcaster.forecast` gives it, to the last bit.
    members : ndarray, shape (member, lead time, y, x), or None
    probability : ndarray, shape (threshold, lead time, y, x), or None
        Of members their share, else of the distribution.
    quantiles : ndarray, shape (probability, lead time, place), or None
        At places, likewise.
    """

    mean: Values
    members: Values | None = None
    probability: Values | None = None
    quantiles: Values | None = None


def has_distribution(nowcaster: Nowcaster) -> bool:
    """Say whether forecasts have a distribution."""
    return nowcaster.calibration is not None or nowcaster.network.config.output == "moving"


def at_once(
    nowcaster: Nowcaster,
    frames: Frames,
    steps: int,
    device: str,
    *,
    tile: int = 0,
    thresholds: Sequence[float] = (),
    quantiles: Sequence[float] = (),
    places: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None = None,
    members: int | None = None,
    seed: int = 0,
) -> AtOnce:
    """Forecast from the last of `frames`, which hold one history of one field and are in memory.

    Parameters
    ----------
    nowcaster : Nowcaster
        As `accept` returned it for the data.
    frames : Frames
    steps : int
        Lead times.
    device : str
    tile : int
        As for `sa_nowcast.forecasts.nowcaster.Nowcaster.block`; with tiles the distribution is found for itself.
    thresholds, quantiles : sequence of float
        In the units of the data; probabilities of the quantiles at `places`.
    places : tuple of ndarray of int
        Rows and columns in the layout of the data.
    members, seed : int
        As for `sa_nowcast.Nowcaster.forecast`.

    Raises
    ------
    ModelError
        Memory cannot hold it, or values that are no finite numbers.
    """
    last = np.array([len(frames) - 1])
    wanted = bool(members or len(thresholds) or (len(quantiles) and places is not None and len(places[0])))
    if not wanted or not has_distribution(nowcaster) or tile:
        values, _ = nowcaster.block(frames, last, steps, device, tile)
        if not wanted or not has_distribution(nowcaster):
            return AtOnce(values[0])
    histories = histories_of(frames, last, nowcaster.history)
    drawn = Ensemble(nowcaster, members or 1, seed)
    with sharing_cores(), torch.inference_mode():
        drawn.require_memory(histories.values, members or len(thresholds) + 1, steps, device)
        (law,), _ = nowcaster.laws(histories.values, steps, device)
        if not tile:
            mean = law.law.as_given(law.mean) if isinstance(law, Lagrangian) else law.mean
            mean = nowcaster.law_scaling.to_physical(mean[None, :, None], torch).float().cpu().numpy()
            values, _ = histories.finished(nowcaster.bounded(mean, histories.values), frames)
        if members:
            made = np.empty((members, 1, steps, *frames.shape[1:]), np.float32)
            drawn.fill(law, histories.values, int(frames.times[-1].astype("M8[ns]").astype(np.int64)), made)
            of_members = histories.finished(made, frames)[0][:, 0]
            there = np.isfinite(of_members).all(0)
            chance = np.empty((len(thresholds), *of_members.shape[1:]), np.float32)
            for target, threshold in zip(chance, thresholds, strict=True):
                target[:] = np.where(there, (of_members > np.float32(threshold)).mean(0), np.nan)
            at = None if places is None else np.quantile(of_members[..., places[0], places[1]], list(quantiles), axis=0)
            return AtOnce(values[0], of_members, chance, None if at is None else at.astype(np.float32))
        scaling = nowcaster.law_scaling.channels[0]
        limits = torch.tensor([float(scaling.to_network(np.float64(t))) for t in thresholds])
        chances = np.empty((len(limits), steps, *histories.values.shape[-2:]), np.float32)
        for step, maps in enumerate(law.chances(limits) if len(limits) else ()):
            chances[:, step] = maps.float().cpu().numpy()
        rows, columns = _north_up(frames, places)
        found = np.empty((len(quantiles), steps, len(rows)), np.float32)
        if found.size:
            found[:] = law.quantiles(quantiles)[..., rows, columns]
        physical = nowcaster.law_scaling.to_physical(torch.from_numpy(found)[:, None], torch).float().numpy()[:, 0]
    chance = histories.finished(chances[:, None, :, None], frames)[0][:, 0]
    known = histories.known[0, 0][rows, columns]
    bounded = nowcaster.bounded(physical[:, None, :, None, None], histories.values)[:, 0, :, 0, 0]
    return AtOnce(values[0], None, chance, np.where(known, bounded, np.nan).astype(np.float32))


def _north_up(
    frames: Frames, places: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns in the layout that networks see."""
    numbers = np.arange(frames.grid.height * frames.grid.width, dtype=np.int64)
    # Where the layout of the data has pixel (row, column), as `Frames.field` turns it.
    turned = frames.field(numbers.reshape(frames.grid.height, frames.grid.width))  # type: ignore[arg-type]
    rows, columns = places or (np.empty(0, np.intp), np.empty(0, np.intp))
    found = turned[rows, columns]
    return np.asarray(found // frames.grid.width, np.intp), np.asarray(found % frames.grid.width, np.intp)
