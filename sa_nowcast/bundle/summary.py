"""A nowcaster as HTML, which a notebook shows in its place."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.metadata.dims import canonical_units
from sa_nowcast.times import show_step

if TYPE_CHECKING:
    from sa_nowcast.models import Network

# The notebook's own colours are inherited, in light and in dark.
_CELL = "text-align:left;vertical-align:top;padding:0.1em 0.8em 0.1em 0;background:none"


def to_html(
    network: Network, terms: Terms, provenance: Mapping[str, Any], digest: str, calibration: Mapping[str, Any] | None
) -> str:
    """Return what a nowcaster is, what it takes and how good it is, as an HTML table that loads nothing.

    Every text from the data or the model's file is escaped.
    """
    rows = "".join(
        f'<tr><th style="{_CELL};font-weight:600">{escape(name)}</th><td style="{_CELL}">{escape(text)}</td></tr>'
        for name, text in _facts(network, terms, provenance, digest, calibration).items()
        if text
    )
    return f'<div><strong>Nowcaster</strong><table style="border-collapse:collapse">{rows}</table></div>'


def _facts(
    network: Network, terms: Terms, known: Mapping[str, Any], digest: str, calibration: Mapping[str, Any] | None
) -> dict[str, str]:
    config = network.config
    count = sum(weight.numel() for weight in network.state_dict().values())
    layers = f"{len(config.hidden)} layers" if len(config.hidden) > 1 else "1 layer"
    hidden = ", ".join(str(width) for width in config.hidden)
    step = show_step(terms.step)
    reach = show_step(terms.step * terms.steps)
    return {
        "network": f"{config.name}, {layers} ({hidden} channels), {count:,} parameters",
        "channels": ", ".join(f"{name} ({units})" if units else name for name, units in terms.channels),
        "forecast": f"{terms.history} frames to {terms.steps}, every {step}: {reach} ahead",
        "grid spacing": _grid(terms.dy, terms.dx, terms.grid_units, terms.projection.get("grid_mapping_name")),
        "trained on": _period(known.get("training_period")),
        "validated on": _period(known.get("validation_period")),
        "validation loss": _loss(known.get("validation_loss"), known.get("validation_persistence")),
        "calibrated on": _period((calibration or {}).get("period")),
        "digest": digest,
    }


def _grid(dy: float | None, dx: float | None, units: str | None, projection: str | None) -> str:
    if dy is None or dx is None:
        return "any: the training data had no coordinates"
    degrees = canonical_units(units) in ("degrees_north", "degrees_east")
    spacing = f"{dy:.6g} × {dx:.6g} {'degrees' if degrees else units or ''}".rstrip()
    return f"{spacing}, {projection.replace('_', ' ')}" if projection else spacing


def _period(text: Any) -> str:
    return str(text).replace("/", " to ").replace("T", " ") if text else ""


def _loss(loss: Any, persistence: Any) -> str:
    """Return the loss beside that of persistence; a model's file is free to hold neither."""
    if not isinstance(loss, int | float):
        return "none: trained without a validation period"
    if not isinstance(persistence, int | float):
        return f"{loss:.4g}"
    if not persistence:
        return f"{loss:.4g}, persistence 0: the frames of the validation period do not change"
    change = 100 * (loss / persistence - 1)
    word = "below" if change < 0 else "above"
    return f"{loss:.4g}, {abs(change):.1f} % {word} persistence ({persistence:.4g})"
