"""What scores are asked for, as one value that is made once and passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.metadata.bounds import UNIT_RANGE
from sa_nowcast.verification.bootstrap import Bootstrap
from sa_nowcast.verification.fields import Settings
from sa_nowcast.verification.metrics import Metric, default_metrics, select_metrics
from sa_nowcast.verification.units import check_thresholds

Thresholds: TypeAlias = "Sequence[float | str] | xr.DataArray"
NEIGHBOURHOODS = (1, 5, 11)


@dataclass(frozen=True)
class Scoring:
    """What scores are asked for; a field that is None is decided by the data.

    Attributes
    ----------
    metrics, thresholds, neighbourhoods, data_range, clip, valid_times, bootstrap, scales
        As for :func:`sa_nowcast.verification.verify`.
    """

    metrics: Sequence[str] | None = None
    thresholds: Thresholds | None = None
    neighbourhoods: Sequence[int] | None = None
    data_range: tuple[float, float] = UNIT_RANGE
    clip: bool = False
    valid_times: str | None = None
    bootstrap: Bootstrap | None = None
    scales: Sequence[str] | None = None

    def resolved(self, units: str | None, members: int, smallest: int) -> tuple[tuple[Metric, ...], Settings]:
        """Return the metrics and what their sums depend on, for an archive in these units with so many members.

        `smallest` is the shorter side of the grid in pixels. What is not valid, or needs what is not there, is refused.
        """
        limits = check_thresholds(self.thresholds, units)
        metrics = select_metrics(default_metrics(limits) if self.metrics is None else self.metrics)
        low, high = (float(value) for value in self.data_range)
        settings = Settings(limits, self._widths(smallest), (low, high), self.clip)
        for metric in metrics:
            metric.require(settings, members, units)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise RecipeError("data_range", f"is {low:g} to {high:g}", "finite, with the lower value first")
        return metrics, settings

    def _widths(self, smallest: int) -> tuple[int, ...]:
        widths = NEIGHBOURHOODS if self.neighbourhoods is None else tuple(self.neighbourhoods)
        for width in widths:
            if int(width) != width or width < 1 or width % 2 == 0:
                raise RecipeError("neighbourhoods", f"{width} is given", "odd whole widths in pixels, from 1 up")
            if self.neighbourhoods is not None and width > 2 * smallest:
                raise RecipeError(
                    "neighbourhoods", f"{width} pixels on a grid {smallest} wide", f"at most {2 * smallest}"
                )
        if not widths or len(set(widths)) < len(widths):
            raise RecipeError("neighbourhoods", f"are {list(widths)}", "at least one, each once")
        return tuple(sorted(int(width) for width in widths))
