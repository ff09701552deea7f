"""OGC API - Environmental Data Retrieval 1.1 (OGC 19-086r6): what there is, and values at a position or over an area.

Answers are CoverageJSON (OGC 21-069r2). Positions and areas are longitude and latitude (CRS84). A position has the
values of the pixel that it lies in; an area those of the pixels whose centres lie in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException

from sa_nowcast.serving.fields import Layer
from sa_nowcast.serving.grid import OUTSIDE
from sa_nowcast.serving.sources import Source, Times, Values

Json = dict[str, Any]

MOST_VALUES: Final = 250_000
"""Of one answer."""
MOST_CORNERS: Final = 500
COVJSON: Final = "application/vnd.cov+json"
CRS84: Final = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
CONFORMS_TO: Final = (
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-common-2/1.0/conf/collections",
    "http://www.opengis.net/spec/ogcapi-edr-1/1.1/conf/core",
    "http://www.opengis.net/spec/ogcapi-edr-1/1.1/conf/collections",
    "http://www.opengis.net/spec/ogcapi-edr-1/1.1/conf/json",
    "http://www.opengis.net/spec/ogcapi-edr-1/1.1/conf/covjson",
)
_TRS: Final = 'TIMECRS["DateTime",TDATUM["Gregorian Calendar"],CS[TemporalDateTime,1],AXIS["Time (T)",unspecified]]'
_NUMBER: Final = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR: Final = rf"\s*({_NUMBER})\s+({_NUMBER})\s*"


# --- what there is


def landing(base: str, title: str) -> Json:
    """Return the landing page; `base` is the address of the API, without a slash at its end."""
    return {
        "title": title,
        "description": "Forecasts and observed frames of a nowcasting service",
        "links": [
            _link(base, "self", "This document"),
            _link(f"{base}/openapi.json", "service-desc", "The API", "application/vnd.oai.openapi+json;version=3.1"),
            _link(f"{base}/conformance", "conformance", "Conformance classes"),
            _link(f"{base}/collections", "data", "Collections"),
        ],
    }


def collection(base: str, source: Source, identifier: str, title: str, *, instance_of: str | None = None) -> Json:
    """Return what is known of a collection, or of one of its instances (the forecasts from one init time)."""
    of = f"{base}/collections/{identifier}" if instance_of is None else (
        f"{base}/collections/{instance_of}/instances/{identifier}"
    )  # fmt: skip
    south, west, north, east = source.grid.bounds
    times = np.unique(np.concatenate([source.times(layer) for layer in source.layers]))
    queries = {name: {"link": _query_link(f"{of}/{name}", name)} for name in ("position", "area")}
    if identifier == "forecast" and instance_of is None:
        queries["instances"] = {"link": _query_link(f"{of}/instances", "instances")}
    return {
        "id": identifier,
        "title": title,
        "links": [_link(of, "self", title), _link(f"{base}/collections", "collection", "Collections")],
        "extent": {
            "spatial": {"bbox": [[west, south, east, north]], "crs": CRS84},
            "temporal": {"interval": [[shown(times[0]), shown(times[-1])]], "values": [shown(t) for t in times],
                         "trs": _TRS},
        },
        "data_queries": queries,
        "crs": [CRS84],
        "output_formats": ["CoverageJSON"],
        "parameter_names": {layer.id: _parameter(layer, many=False) for layer in source.layers},
    }  # fmt: skip


def collections(base: str, found: Sequence[Json]) -> Json:
    """Return the list of collections."""
    return {"links": [_link(f"{base}/collections", "self", "Collections")], "collections": list(found)}


def instances(base: str, identifier: str, found: Sequence[Json]) -> Json:
    """Return the list of a collection's instances."""
    at = f"{base}/collections/{identifier}/instances"
    return {"links": [_link(at, "self", "Init times")], "instances": list(found)}


def _link(href: str, rel: str, title: str, kind: str = "application/json") -> Json:
    return {"href": href, "rel": rel, "type": kind, "title": title}


def _query_link(href: str, name: str) -> Json:
    variables = {"title": name, "query_type": name}
    if name == "instances":
        return {"href": href, "rel": "data", "variables": variables}
    formats = {"output_formats": ["CoverageJSON"], "default_output_format": "CoverageJSON"}
    details = [{"crs": "CRS84", "wkt": CRS84}]
    return {"href": href, "rel": "data", "type": COVJSON, "variables": {**variables, **formats, "crs_details": details}}


def _parameter(layer: Layer, *, many: bool = True) -> Json:
    """Return a parameter: in CoverageJSON its texts are by language, in EDR they are not."""

    def text(value: str) -> Any:
        return {"en": value} if many else value

    about = layer.about if layer.title == layer.about else f"{layer.title}: {layer.about}"
    unit = {"label": text(layer.units), "symbol": layer.units}
    return {
        "type": "Parameter",
        "description": text(about),
        **({} if many else {"data-type": "float"}),
        "unit": unit,
        "observedProperty": {"label": text(layer.about)},
    }


# --- queries


def position(source: Source, coords: str, when: str | None, names: str | None) -> Json:
    """Return the values of the pixel at a position, as one point series for each set of times."""
    found = re.fullmatch(rf"\s*POINT\s*\({_PAIR}\)\s*", coords, re.IGNORECASE)
    if found is None:
        raise HTTPException(400, f"coords={coords[:60]!r} is no position, expected POINT(longitude latitude)")
    longitude, latitude = float(found[1]), float(found[2])
    rows, columns = source.grid.pixels(np.array([latitude]), np.array([longitude]))
    if rows[0] == OUTSIDE:
        south, west, north, east = source.grid.bounds
        line = f"longitude {west:g} to {east:g} and latitude {south:g} to {north:g}"
        raise HTTPException(404, f"({longitude:g}, {latitude:g}) is outside the grid, expected {line}")
    layers = _chosen(source, names)
    pixels = int(rows[0]), int(columns[0])
    centre = source.grid.centre(*pixels)
    groups = []
    for times, same in _by_times(source, layers):
        chosen = _period(times, when)
        if not times[chosen].size:
            continue
        axes = {
            "x": {"values": [centre[1]]},
            "y": {"values": [centre[0]]},
            "t": {"values": [*map(shown, times[chosen])]},
        }
        values = {layer.id: source.pixel(layer, *pixels)[chosen] for layer in same}
        groups.append(_coverage("PointSeries", axes, same, values, ["t"], CRS84))
    return _answer(groups, layers, when)


def area(source: Source, coords: str, when: str | None, names: str | None) -> Json:
    """Return the values of the pixels whose centres lie in an area, as a grid that is null elsewhere."""
    rings = _rings(coords)
    inside = _inside(source, rings)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        raise HTTPException(404, "no centre of a pixel lies in the area, expected a larger one, or one on the grid")
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    within = inside[box]
    layers = _chosen(source, names)
    groups, chosen, total = [], [], 0
    for times, same in _by_times(source, layers):
        period = _period(times, when)
        chosen.append((times, same, period))
        total += len(same) * times[period].size * within.size
    if total > MOST_VALUES:
        raise HTTPException(
            413, f"the answer has {total} values, expected at most {MOST_VALUES}: ask for a smaller area, fewer of "
            "parameter-name, or a shorter datetime"
        )  # fmt: skip
    cells = source.grid.cells
    y, x = ([float(v) for v in line.centres[line.positions(np.arange(line.size))[part]]]
            for line, part in zip((cells.y, cells.x), box, strict=True))  # fmt: skip
    for times, same, period in chosen:
        if not times[period].size:
            continue
        axes = {"x": {"values": x}, "y": {"values": y}, "t": {"values": [*map(shown, times[period])]}}
        values = {layer.id: np.where(within, source.box(layer, period, *box), np.nan) for layer in same}
        groups.append(_coverage("Grid", axes, same, values, ["t", "y", "x"], source.grid.crs or CRS84))
    return _answer(groups, layers, when)


def _chosen(source: Source, names: str | None) -> list[Layer]:
    known = {layer.id: layer for layer in source.layers}
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise HTTPException(
            400, f"parameter-name={unknown[0][:60]!r} is not known, expected some of {', '.join(known)}"
        )
    return [known[name] for name in dict.fromkeys(wanted)]


def _by_times(source: Source, layers: Iterable[Layer]) -> list[tuple[Times, list[Layer]]]:
    """Return layers that have the same times together."""
    found: dict[bytes, tuple[Times, list[Layer]]] = {}
    for layer in layers:
        times = source.times(layer)
        found.setdefault(times.tobytes(), (times, []))[1].append(layer)
    return list(found.values())


def _period(times: Times, when: str | None) -> slice:
    """Return the times that ``datetime`` asks for: one, or ``begin/end`` where ``..`` is open."""
    if when is None:
        return slice(None)
    begin, slash, end = when.partition("/")
    low = times[0] if begin == ".." and slash else _time(begin)
    high = times[-1] if end == ".." else (_time(end) if slash else low)
    return slice(int(np.searchsorted(times, low)), int(np.searchsorted(times, high, side="right")))


def _time(text: str) -> np.datetime64:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|[+]00:00)?", text):
        raise HTTPException(
            400, f"datetime={text[:40]!r} is no time, expected such as 2020-02-05T10:10:00Z, or begin/end"
        )
    try:
        return np.datetime64(re.sub(r"(\.\d+)?(Z|[+]00:00)?$", "", text), "s")
    except ValueError as error:
        raise HTTPException(400, f"datetime={text[:40]!r} is no time ({error})") from error


def _rings(coords: str) -> list[npt.NDArray[np.float64]]:
    """Return the rings of a polygon, or of several; which of them are interior does not matter to an even number."""
    outline = rf"\({_PAIR}(?:,{_PAIR}){{3,}}\)"
    rings = rf"\(\s*{outline}(?:\s*,\s*{outline})*\s*\)"
    if len(coords) > 100 * MOST_CORNERS or coords.count(",") > MOST_CORNERS:
        raise HTTPException(413, f"the area has more than {MOST_CORNERS} corners, expected fewer")
    if not re.fullmatch(
        rf"\s*(?:POLYGON\s*{rings}|MULTIPOLYGON\s*\(\s*{rings}(?:\s*,\s*{rings})*\s*\))\s*", coords, re.I
    ):
        raise HTTPException(400, f"coords={coords[:60]!r} is no area, expected POLYGON((longitude latitude, ...))")
    return [
        np.array([pair.split() for pair in ring.split(",")], dtype=float)
        for ring in re.findall(r"\(([^()]+)\)", coords)
    ]


def _inside(source: Source, rings: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
    """Say which pixels have their centre inside: a line from there crosses the rings an odd number of times."""
    latitude, longitude = source.grid.centres
    west = min(float(ring[:, 0].min()) for ring in rings)
    longitude = west + (longitude - west) % 360.0
    corners = np.concatenate(rings)
    (east, north), south = corners.max(axis=0), corners[:, 1].min()
    near = np.flatnonzero(((longitude <= east) & (latitude >= south) & (latitude <= north)).ravel())
    if near.size > 2 * MOST_VALUES:
        raise HTTPException(
            413, f"the area has about {near.size} pixels, expected at most {MOST_VALUES} values in an answer"
        )
    x, y = longitude.ravel()[near], latitude.ravel()[near]
    odd = np.zeros(near.size, dtype=bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in pairwise(np.concatenate([ring, ring[:1]])):
            if y0 != y1:
                odd ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    inside = np.zeros(latitude.size, dtype=bool)
    inside[near] = odd
    return inside.reshape(latitude.shape)


def _coverage(
    kind: str, axes: Json, layers: Sequence[Layer], values: dict[str, Values], dims: list[str], crs: str
) -> Json:
    shape = [len(axes[axis]["values"]) for axis in dims]
    return {
        "type": "Coverage",
        "domain": {
            "type": "Domain",
            "domainType": kind,
            "axes": axes,
            "referencing": [
                {"coordinates": ["x", "y"], "system": _system(crs)},
                {"coordinates": ["t"], "system": {"type": "TemporalRS", "calendar": "Gregorian"}},
            ],
        },
        "parameters": {layer.id: _parameter(layer) for layer in layers},
        "ranges": {
            name: {
                "type": "NdArray",
                "dataType": "float",
                "axisNames": dims,
                "shape": shape,
                "values": [None if v != v else v for v in array.ravel().tolist()],
            }
            for name, array in values.items()
        },
    }


def _system(crs: str) -> Json:
    if crs == CRS84:
        return {"type": "GeographicCRS", "id": CRS84}
    return {"type": "ProjectedCRS", "wkt": crs}


def _answer(coverages: list[Json], layers: Sequence[Layer], when: str | None) -> Json:
    if not coverages:
        raise HTTPException(404, f"nothing at datetime={str(when)[:60]!r}, expected one of extent.temporal.values")
    if len(coverages) == 1:
        return coverages[0]
    return {"type": "CoverageCollection", "coverages": coverages}


def shown(time: np.datetime64) -> str:
    """Return a time as ISO 8601 to the second, in UTC."""
    return f"{time.astype('M8[s]')}Z"
