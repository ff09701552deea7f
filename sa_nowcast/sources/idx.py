"""The idx files of MNIST (LeCun, Cortes and Burges), gzipped or not."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError
from sa_nowcast.sources.paths import PathLike

MOST_BYTES: Final = 2**28
"""Five times MNIST; a few kilobytes of gzip can hold gigabytes of nothing."""

Part = Literal["train", "test"]

_FILES: Final[dict[Part, str]] = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
# MD5 of the uncompressed files; gzip's own bytes differ between mirrors.
_MD5: Final[dict[Part, str]] = {"train": "6bbc9ace898e44ae57da46a324031adb", "test": "2646ac647ad5339dbf082846283269ea"}


def read_digits(folder: PathLike, part: Part, *, check_hash: bool = True) -> npt.NDArray[np.uint8]:
    """Read MNIST's training or test digits.

    Parameters
    ----------
    folder : path
        Holds ``train-images-idx3-ubyte`` and ``t10k-images-idx3-ubyte``, each with or without ``.gz``.
    part : {"train", "test"}
    check_hash : bool
        Compare with MNIST's MD5; turn off for other digits in the same layout.

    Returns
    -------
    ndarray of uint8, shape (digits, rows, columns)

    Raises
    ------
    DataError
        The file is not there, not idx, cut short, or not MNIST's.
    """
    name = _FILES[part]
    found = [p for p in (Path(folder) / name, Path(folder) / f"{name}.gz") if p.is_file()]
    if not found:
        raise DataError(
            str(folder), f"no {name} or {name}.gz", fix='sa_nowcast.sources.fetch("mnist", folder) downloads them'
        )
    path = found[0]
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(path), f"cannot be unpacked ({error})", fix="download it again") from error
    if len(raw) > MOST_BYTES:
        raise DataError(str(path), f"unpacks to more than {MOST_BYTES} bytes", expected="images as small as MNIST's")
    if len(raw) < 16 or raw[:4] != b"\x00\x00\x08\x03":
        raise DataError(str(path), f"starts with {raw[:4].hex()}", expected="00000803, an idx file of images")
    count, rows, columns = struct.unpack(">3I", raw[4:16])
    if not count * rows * columns:
        raise DataError(str(path), f"{count} images of {rows} x {columns}", expected="at least one pixel")
    if len(raw) != 16 + count * rows * columns:
        raise DataError(
            str(path), f"{len(raw)} bytes", expected=f"{16 + count * rows * columns}", fix="download it again"
        )
    if check_hash and hashlib.md5(raw, usedforsecurity=False).hexdigest() != _MD5[part]:
        raise DataError(
            str(path),
            "not MNIST's digits (the MD5 differs)",
            expected=_MD5[part],
            fix="download it, or check_hash=False",
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(count, rows, columns)
