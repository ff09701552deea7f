"""One shard: read, pack, check, write, read back. A shard is the unit of work, of repetition and of a writer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from sa_nowcast.conversion.plan import VariablePlan
from sa_nowcast.errors import DataError, SaNowcastError, StorageError
from sa_nowcast.sources.manifest import sha256_of

# What was converted before was of other data.
_MENDED = "repair or leave out its file, and pass existing='replace'"


@dataclass(frozen=True)
class ShardRecord:
    """A shard that was written and read back: its file below the store, size and SHA-256."""

    path: str
    nbytes: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it."""
        return asdict(self)

    def still_there(self, store: Path) -> bool:
        """Say whether the file is as it was written."""
        file = store / self.path
        return file.is_file() and file.stat().st_size == self.nbytes and sha256_of(file) == self.sha256


def clear_but(store: Path, kept: Iterable[ShardRecord]) -> None:
    """Remove all files of a store that is gone on with, but those of `kept`: their digests were compared.

    What else there is, metadata and labels, may have been damaged or be half written, and is laid out anew.
    """
    stay = {store / record.path for record in kept}
    for file in store.rglob("*"):
        if file not in stay and not file.is_dir():
            file.unlink()


def write_shard(store: str, plan: VariablePlan, index: tuple[int, ...], block: xr.Variable, label: str) -> ShardRecord:
    """Write one shard and return its record.

    Parameters
    ----------
    store : str
        The store being written.
    plan : VariablePlan
    index : tuple of int
        The shard's place in the grid of shards.
    block : Variable
        Its values, lazy.
    label : str
        What errors call it.

    Raises
    ------
    DataError
        The source cannot be read, or its values do not fit the packing.
    StorageError
        The shard cannot be written, or reads back other than it was written.
    """
    try:
        # This task is one of several already: the source's own graph must not start threads beneath it.
        values = np.asarray(block.compute(scheduler="synchronous").values)
    except SaNowcastError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DataError(
            label,
            f"the source cannot be read ({type(error).__name__}: {error})",
            fix=_MENDED,
        ) from error
    packed = pack(xr.Variable(block.dims, values, block.attrs, block.encoding), plan, label)
    region, file = plan.region(index), Path(store) / plan.path(index)
    try:
        array = zarr.open_array(store, path=plan.name, mode="r+", config={"write_empty_chunks": True})
        file.unlink(missing_ok=True)  # zarr reads what it overwrites, and a damaged shard could not be written anew
        array[region] = packed
        again = np.asarray(array[region])
        size, digest = file.stat().st_size, sha256_of(file)
    except OSError as error:
        raise StorageError(
            str(file),
            f"cannot be written ({error.strerror or error})",
            fix="make room and run again to resume, or name another target",
        ) from error
    except (RuntimeError, ValueError) as error:
        raise StorageError(str(file), f"does not read back ({error})", fix="name a target on another disk") from error
    if again.tobytes() != packed.tobytes():
        raise StorageError(str(file), "reads back other values than were written", fix="name a target on another disk")
    return ShardRecord(plan.path(index), size, digest)


def pack(variable: xr.Variable, plan: VariablePlan, label: str) -> npt.NDArray[Any]:
    """Return the values as they are stored, having made sure that they unpack to what they were.

    Raises
    ------
    DataError
        Packing would change a value.
    """
    encoded = xr.conventions.encode_cf_variable(variable, name=plan.name)
    packed = np.ascontiguousarray(encoded.values)
    if packed.dtype != plan.dtype:
        packed = packed.astype(plan.dtype)
    if (
        packed.dtype == variable.dtype
        and "scale_factor" not in variable.encoding
        and "add_offset" not in variable.encoding
    ):
        return packed
    attrs = {
        k: v
        for k, v in encoded.attrs.items()
        if k in ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
    }
    unpacked = xr.conventions.decode_cf_variable(plan.name, xr.Variable(variable.dims, packed, attrs)).values
    if not np.array_equal(unpacked, variable.values, equal_nan=variable.dtype.kind == "f"):
        raise DataError(
            label,
            f"values change when they are packed as {plan.dtype} again",
            expected="what the source's packing holds exactly",
            fix=f"store them as they are, by ds[{plan.name!r}].encoding.clear(), and pass existing='replace'",
        )
    return packed
