"""What calibration adds to a model: the distribution of its forecasts, and a record of what that was learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sa_nowcast.bundle.files import encode_calibration
from sa_nowcast.errors import ModelError
from sa_nowcast.models.calibrated import NODES, Table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Calibration:
    """The distributions of a model's forecasts.

    Attributes
    ----------
    tables : tuple of Table
        Of each channel.
    about : mapping
        Plain JSON data: ``model`` (digest), ``dataset``, ``period``, ``init_times``, ``pairs``, ``steps``.
    """

    tables: tuple[Table, ...]
    about: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over distributions and record: the identity of the distribution."""
        return str(encode_calibration(*self.stored())[1]["sha256"])

    def require(self, steps: int) -> None:
        """Refuse lead times beyond those that were calibrated."""
        known = int(self.about["steps"])
        if steps > known:
            raise ModelError(
                "calibration",
                f"of {known} lead times, {steps} are asked for",
                expected=f"at most {known}",
                fix=f"ask for steps={known}, or calibrate with steps={steps}",
            )

    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the record, as a bundle has them."""
        tensors: dict[str, Tensor] = {}
        kinds = []
        for i, table in enumerate(self.tables):
            values = {f.name: getattr(table, f.name) for f in fields(Table)}
            kinds.append({name: values.pop(name) for name in ("bound", "whole")})
            tensors |= {f"{i}.{name}": value for name, value in values.items()}
        return tensors, {**self.about, "channels": kinds}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Calibration:
        """Return what `stored` gave; what does not fit together is a `KeyError`, `TypeError` or `ValueError`."""
        names = [f.name for f in fields(Table)]
        tables = []
        for i, kind in enumerate(record["channels"]):
            values: dict[str, Any] = {n: kind[n] if n in kind else tensors[f"{i}.{n}"] for n in names}
            table = Table(**values)
            steps, bins = table.means.shape
            shapes = [(steps, bins), (steps, bins), (steps, bins, NODES), (steps, bins)]
            found = [tuple(t.shape) for t in (table.means, table.at_bound, table.values, table.variance)]
            of_rings = [tuple(t.shape) for t in (table.alike, table.follows)]
            if found != shapes or of_rings != 2 * [(steps, len(table.radii))] or steps != record["steps"]:
                raise ValueError(f"calibration of channel {i} has the shapes {found}, {of_rings}")
            tables.append(table)
        not_about = ("channels", "sha256", "tensors_sha256")
        return cls(tuple(tables), {k: v for k, v in record.items() if k not in not_about})
