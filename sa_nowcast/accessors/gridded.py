"""What all methods of ``.sa_nowcast`` share: the object, with attributes as they are meant, and how it shows itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised
from sa_nowcast.metadata.cells import is_bounds
from sa_nowcast.shown import found

if TYPE_CHECKING:
    pass


class Gridded:
    """What Dataset and DataArray share."""

    def __init__(self, obj: Any) -> None:
        self._given = obj

    @property
    def _obj(self) -> Any:
        return normalised(self._given)  # each time: the attributes may have been set since

    def __repr__(self) -> str:
        """Say what was found, and what can be done with it; no value is read."""
        return "\n".join((f"<{type(self).__name__} of sa_nowcast>", *found(self._obj)))

    def _field(self) -> xr.DataArray:
        """Return the forecast: of a Dataset, such as one that was read back from a file, its only variable."""
        if isinstance(self._obj, xr.DataArray):
            return self._obj
        names = [
            str(n) for n, v in self._obj.data_vars.items() if dims.LEAD_TIME in v.dims and not is_bounds(self._obj, n)
        ]
        if len(names) != 1:
            raise DataError(
                "dataset",
                f"{len(names)} variables with {dims.LEAD_TIME} ({', '.join(names) or 'none'})",
                expected="one forecast",
                fix="choose it, as in ds['name'].sa_nowcast",
            )
        field: xr.DataArray = self._obj[names[0]]
        return field
