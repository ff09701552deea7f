"""From values as stored to float32, bit by bit what xarray decodes them to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

Array = npt.NDArray[Any]

PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


class Unpacker:
    """Decodes one variable's frames into float32.

    Plain packing (one fill value, a scale and an offset) is computed here, in the type in which xarray computes it,
    and compared with xarray over all 8- and 16-bit codes when it is made, or over a sample of wider ones; where the
    two differ in a bit, xarray decodes.
    """

    def __init__(self, dtype: np.dtype[Any], packing: Mapping[str, Any]) -> None:
        self.dtype, self.packing = np.dtype(dtype), {k: packing[k] for k in PACKING if k in packing}
        codes = _codes(self.dtype, self.packing)
        expected = self._reference(codes)
        self._scratch: tuple[Array, npt.NDArray[np.bool_]] | None = None
        self.whole = self.dtype.kind in "iu" and not {"scale_factor", "add_offset"} & set(self.packing)
        wide = self.whole and self.dtype.itemsize >= 4
        self.can_be_unusable = self.dtype.kind == "f" or wide or bool((np.abs(expected) >= 1e20).any())
        self._scale: Any = self.packing.get("scale_factor")
        self._offset: Any = self.packing.get("add_offset")
        fill = self.packing.get("_FillValue", self.packing.get("missing_value"))
        try:
            self._fill = self.dtype.type(fill) if fill is not None and np.isscalar(fill) and fill == fill else None
        except OverflowError:  # a fill value that the type cannot hold: xarray knows what that means
            self._fill = None
        decoded = xr.conventions.decode_cf_variable("v", self._variable(codes[:1]), decode_times=False)
        self._type = decoded.dtype if decoded.dtype.kind == "f" else np.dtype(np.float64)
        scalars = all(v is None or np.isscalar(v) for v in (self._scale, self._offset))
        self._plain = "_Unsigned" not in self.packing and scalars
        if self._plain:
            out = np.empty(codes.shape, np.float32)
            self._compute(codes, out)
            self._plain = out.tobytes() == expected.tobytes()

    def into(self, stored: Array, out: npt.NDArray[np.float32]) -> None:
        """Decode frames (time, channel, row, column) into `out` of the same shape."""
        if not self._plain:
            out[...] = self._reference(stored)
            return
        for t in range(len(stored)):  # a frame at a time: what is between stays in the processor's cache
            self._compute(stored[t], out[t])

    def _compute(self, stored: Array, out: npt.NDArray[np.float32]) -> None:
        if self._scratch is None or self._scratch[0].shape != stored.shape:
            self._scratch = np.empty(stored.shape, self._type), np.empty(stored.shape, np.bool_)
        values, missing = self._scratch
        if self._scale is None and self._offset is None:
            np.copyto(out, stored, casting="unsafe")
        else:
            scale = 1 if self._scale is None else self._scale
            np.multiply(stored, scale, out=values, dtype=self._type, casting="unsafe")
            if self._offset is not None:
                values += self._type.type(self._offset)
            np.copyto(out, values, casting="unsafe")
        if self._fill is not None:
            np.equal(stored, self._fill, out=missing)
            if missing.any():
                np.copyto(out, np.float32(np.nan), where=missing)

    def _variable(self, stored: Array) -> xr.Variable:
        return xr.Variable([f"d{i}" for i in range(stored.ndim)], stored, dict(self.packing))

    def _reference(self, stored: Array) -> npt.NDArray[np.float32]:
        decoded = xr.conventions.decode_cf_variable("v", self._variable(stored), decode_times=False)
        return np.asarray(decoded.values, dtype=np.float32)


def _codes(dtype: np.dtype[Any], packing: Mapping[str, Any]) -> Array:
    """Return all values of a small integer type, or a sample of a large one with its fill values."""
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        return np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    rng = np.random.default_rng(0)
    special = [v for k in ("_FillValue", "missing_value") if k in packing for v in np.ravel(packing[k])]
    if dtype.kind == "f":
        values = np.concatenate(
            [[0.0, -0.0, np.nan, 1.0, -1.0], rng.standard_normal(999) * 10.0 ** rng.integers(-5, 5, 999)]
        )
    else:
        values = rng.integers(max(np.iinfo(dtype).min, -(2**40)), min(np.iinfo(dtype).max, 2**40), 999)
    return np.concatenate([values, special]).astype(dtype)
