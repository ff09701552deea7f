"""Colours of the page: classes between levels, ever darker, so that they are told apart without seeing colours too."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.serving.grid import OUTSIDE

# Lightness falls with each step through a row (CIE L* 94 to 14); tests see them as those do who lack a kind of cone.
RAIN: Final = (
    "#d9ecf7", "#b3d7ee", "#86bfe3", "#57a3d6", "#3b85c4", "#4766b5", "#5f459f", "#742484", "#6e0a5c", "#4a0733",
)  # fmt: skip
SHARE: Final = (
    "#fdebc4", "#fbd592", "#f7bb62", "#ee9f3e", "#de8228", "#c8661d", "#ad4c19", "#8c3517", "#6a2213", "#47120e",
)  # fmt: skip
VALUES: Final = (
    "#f3eec1", "#d8e3ae", "#b5d6a5", "#8cc8a3", "#64b7a6", "#44a2a8", "#338ba6", "#30729f", "#345890", "#343c73",
)  # fmt: skip
_MISSING: Final = (110, 110, 110, 90)
_CLEAR: Final = (0, 0, 0, 0)


@dataclass(frozen=True)
class Scale:
    """Classes of values with their colours: the first one from ``levels[0]`` on, the last one without an end.

    `below` is whether values below the first level are shown, in the first colour; `missing`, whether missing ones are.
    """

    levels: tuple[float, ...]
    colours: tuple[str, ...]
    below: bool = False
    missing: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the scale as the page's legend draws it."""
        return {"levels": list(self.levels), "colours": list(self.colours), "below": self.below}


def even_scale(low: float, high: float) -> Scale:
    """Return a scale of ten classes at round numbers over a range of values."""
    step = (high - low) / 10 or abs(low) / 10 or 0.1
    power = 10.0 ** np.floor(np.log10(step))
    step = float(next(f * power for f in (1, 2, 5, 10) if f * power >= step * (1 - 1e-9)))
    first = np.floor(low / step)
    return Scale(tuple(float(f"{(first + i) * step:.10g}") for i in range(10)), VALUES, below=True)


def png(values: npt.NDArray[Any], index: npt.NDArray[np.int32], scale: Scale) -> bytes:
    """Return a picture of values: pixel by pixel the colour of the class of ``values.flat[index]``.

    Missing values are grey and half transparent; values below the first level, and what is outside, are clear.
    """
    colours = [_CLEAR if not scale.below else _rgba(scale.colours[0]), *map(_rgba, scale.colours)]
    colours += [_MISSING if scale.missing else _CLEAR, _CLEAR]
    classes = np.searchsorted(scale.levels, values.ravel(), side="right").astype(np.uint8)
    missing, outside = len(colours) - 2, len(colours) - 1
    classes = np.append(np.where(np.isnan(values.ravel()), missing, classes), outside).astype(np.uint8)
    height, width = index.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # the first byte of a line is its filter: none
    lines[:, 1:] = classes[np.where(index == OUTSIDE, len(classes) - 1, index)]
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(v for colour in colours for v in colour[:3])),
        (b"tRNS", bytes(colour[3] for colour in colours)),
        (b"IDAT", zlib.compress(lines.tobytes(), 4)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue, 255
