"""Verification of forecasts: additive statistics, scores over them, and reference forecasts."""

from sa_nowcast.verification.collect import collect_statistics
from sa_nowcast.verification.compare import compare
from sa_nowcast.verification.metrics import METRICS, Metric
from sa_nowcast.verification.named import Reference, reference
from sa_nowcast.verification.optical_flow import extrapolation, sprog, steps
from sa_nowcast.verification.references import climatology, persistence
from sa_nowcast.verification.statistics import Statistics
from sa_nowcast.verification.table import to_table
from sa_nowcast.verification.verify import Bootstrap, summarise, verify

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
    "sprog",
    "steps",
    "summarise",
    "to_table",
    "verify",
]
