"""Intervals by resampling blocks of init times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import RecipeError


@dataclass(frozen=True)
class Bootstrap:
    """How the interval of a skill is made, and whether scores have one too.

    Attributes
    ----------
    samples : int, default 1000
        The number of resampled archives; 0 makes no interval.
    level : float, default 0.9
        The share of samples between the lower and the upper end.
    block : int, optional
        Successive init times drawn together; by default what :func:`~sa_nowcast.verification.bootstrap.block_length`
        finds.
    seed : int, default 0
        The same seed gives the same interval.
    scores : bool, default False
        Whether each score has an interval too, such as ``crps_lower`` to ``crps_upper``, with or without a reference.
    """

    samples: int = 1000
    level: float = 0.9
    block: int | None = None
    seed: int = 0
    scores: bool = False

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 < self.level < 1 or (self.block is not None and self.block < 1):
            raise RecipeError("bootstrap", f"is {self}", "samples >= 0, a level between 0 and 1, a block of at least 1")


def block_length(init_times: npt.NDArray[np.datetime64], lead_times: npt.NDArray[np.timedelta64]) -> int:
    """Return how many successive init times are resampled together.

    Forecasts whose valid times overlap share their truth, so a block is at least as long as the longest lead time;
    and at least the cube root of the number of init times (Künsch 1989, doi:10.1214/aos/1176347265).
    """
    number = init_times.size
    if number < 2:
        return 1
    step = float(np.median(np.diff(np.sort(init_times)).astype("timedelta64[ns]").astype(np.int64)))
    reach = math.ceil(float(lead_times.max().astype("timedelta64[ns]").astype(np.int64)) / max(step, 1.0))
    return max(1, reach, math.ceil(math.cbrt(number)))


def block_weights(number: int, block: int, samples: int, seed: int) -> npt.NDArray[np.float64]:
    """Return how often each init time is drawn in each sample, shape (samples, number).

    Blocks of `block` successive positions start anywhere and go round at the end, so that each position is drawn
    equally often (Politis and Romano 1992, circular block bootstrap); the last block is cut to the sample's size.
    """
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, number, size=(samples, math.ceil(number / block)))
    drawn = (starts[..., None] + np.arange(block)) % number
    drawn = drawn.reshape(samples, -1)[:, :number]
    weights = np.zeros((samples, number))
    np.add.at(weights, (np.arange(samples)[:, None], drawn), 1.0)
    return weights


def drawn_weights(
    init_times: npt.NDArray[np.datetime64], lead_times: npt.NDArray[np.timedelta64], how: Bootstrap
) -> tuple[npt.NDArray[np.float64] | None, int]:
    """Return how often each init time is drawn in each sample, and the block; None of fewer than two blocks."""
    block = how.block or block_length(init_times, lead_times)
    if not how.samples or init_times.size < 2 * block:
        return None, block
    return block_weights(init_times.size, block, how.samples, how.seed), block


def resample(sums: xr.Dataset, weights: npt.NDArray[np.float64]) -> xr.Dataset:
    """Return the sums of each sample: init_time replaced by a leading dimension ``sample``."""
    drawn = xr.DataArray(weights, dims=("sample", "init_time"))
    return xr.Dataset({name: xr.dot(drawn, sums[name].drop_vars("init_time"), dim="init_time") for name in sums})
