"""Verification of forecasts: additive statistics, scores over them, and reference forecasts."""

from sa_nowcast.verification.bootstrap import Bootstrap
from sa_nowcast.verification.metrics import METRICS, Metric
from sa_nowcast.verification.named import Reference, reference
from sa_nowcast.verification.optical_flow import extrapolation, smoothed_extrapolation, sprog, steps, steps_mean
from sa_nowcast.verification.plan import collect_statistics, compare, verify
from sa_nowcast.verification.references import climatology, persistence
from sa_nowcast.verification.statistics import Statistics
from sa_nowcast.verification.summary import summarise
from sa_nowcast.verification.table import to_table

__all__ = [
    "METRICS",
    "Bootstrap",
    "Metric",
    "Reference",
    "Statistics",
    "climatology",
    "collect_statistics",
    "compare",
    "extrapolation",
    "persistence",
    "reference",
    "smoothed_extrapolation",
    "sprog",
    "steps",
    "steps_mean",
    "summarise",
    "to_table",
    "verify",
]
