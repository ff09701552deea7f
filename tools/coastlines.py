"""Write the coastlines and borders of the page of `sa-nowcast serve` from TopoJSON of Natural Earth (public domain).

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python tools/coastlines.py package/countries-10m.json

Lines are simplified (Douglas and Peucker) to 0.023°, a pixel of a map 1000 km wide on a phone, and islands
smaller than 0.12° are left out. The file holds, for each line, the number of its points times two (plus one for a
border between countries) and its points in hundredths of a degree, each as the difference from the one before; all as
variable-length integers of seven bits a byte, signs in the lowest bit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).parents[1] / "sa_nowcast" / "serving" / "page" / "coast.bin"
TOLERANCE, SMALLEST, PER_DEGREE = 0.023, 0.12, 100


def main() -> None:
    topology = json.loads(Path(sys.argv[1]).read_text())
    scale, origin = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    owners = _owners(topology["objects"]["countries"]["geometries"])
    out = bytearray()
    for number, arc in enumerate(topology["arcs"]):
        line = np.cumsum(np.array(arc), axis=0) * scale + origin
        if (np.ptp(line, axis=0) * [np.cos(np.deg2rad(line[:, 1].mean())), 1]).max() < SMALLEST:
            continue
        points = np.round(_simplified(line, TOLERANCE) * PER_DEGREE).astype(int)
        moves = np.diff(points, axis=0, prepend=[[0, 0]])
        moves = moves[np.concatenate([[True], moves[1:].any(axis=1)])]
        _append(out, 2 * len(moves) + (len(owners[number]) > 1))
        for value in moves.ravel():
            _append(out, 2 * int(value) if value >= 0 else -2 * int(value) - 1)
    TARGET.write_bytes(out)
    print(f"{TARGET.name}: {len(out)} bytes")


def _owners(geometries: list[dict[str, Any]]) -> dict[int, set[int]]:
    """Return the countries that each arc is an outline of."""
    found: dict[int, set[int]] = {}

    def visit(arcs: list[Any], country: int) -> None:
        for arc in arcs:
            if isinstance(arc, list):
                visit(arc, country)
            else:
                found.setdefault(arc if arc >= 0 else ~arc, set()).add(country)

    for country, geometry in enumerate(geometries):
        visit(geometry.get("arcs", []), country)
    return found


def _simplified(line: Any, tolerance: float) -> Any:
    kept = np.zeros(len(line), dtype=bool)
    kept[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        begin, end = spans.pop()
        if end - begin < 2:
            continue
        along, offset = line[end] - line[begin], line[begin + 1 : end] - line[begin]
        length = np.hypot(*along)
        away = np.abs(along[0] * offset[:, 1] - along[1] * offset[:, 0]) / length if length else np.hypot(*offset.T)
        farthest = int(away.argmax())
        if away[farthest] > tolerance:
            middle = begin + 1 + farthest
            kept[middle] = True
            spans += [(begin, middle), (middle, end)]
    return line[kept]


def _append(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


if __name__ == "__main__":
    main()
