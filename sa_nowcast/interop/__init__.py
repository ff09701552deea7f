"""Forecasts and models in the forms that other tools use."""

from __future__ import annotations

from sa_nowcast.interop import geotiff, hub, pysteps
from sa_nowcast.interop.conventions import from_convention, to_convention
from sa_nowcast.interop.geotiff import to_geotiff

__all__ = ["from_convention", "geotiff", "hub", "pysteps", "to_convention", "to_geotiff"]
