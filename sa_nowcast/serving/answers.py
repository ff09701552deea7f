"""The functions behind the addresses: the page, the state, forecasts and pictures of them, files, and queries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from fastapi import Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from sa_nowcast.published import FORECASTS, POINTS, current, is_well, prometheus
from sa_nowcast.serving import edr
from sa_nowcast.serving.alerts import Alerts
from sa_nowcast.serving.colours import png
from sa_nowcast.serving.edr import COVJSON, shown
from sa_nowcast.serving.fields import Layer
from sa_nowcast.serving.folder import Published
from sa_nowcast.serving.grid import Grid
from sa_nowcast.serving.responses import AGAIN, FOR_EVER, as_file, as_json, tagged, type_of
from sa_nowcast.serving.sources import Forecast, Kept, Sources

_PAGE: Final = Path(__file__).parent / "page"
_MOST_INSTANCES: Final = 50

Coords = Annotated[str, Query(description="WKT in longitude and latitude.", max_length=50_000)]
When = Annotated[
    str | None, Query(description="A time, or begin/end, in UTC; .. is open.", alias="datetime", max_length=80)
]
Names = Annotated[str | None, Query(description="Parameters, by comma.", alias="parameter-name", max_length=2000)]
Crs = Annotated[str | None, Query(description="CRS84, which it is by default.", max_length=100)]
Format = Annotated[str | None, Query(description="CoverageJSON, which it is by default.", max_length=50)]


class Answers:
    """The functions behind the addresses. They run in threads of the server."""

    def __init__(self, published: Published) -> None:
        self.published, self.sources, self.raised = published, Sources(published), Alerts(published)
        self.pictures: Kept[bytes] = Kept(64 * 2**20, len)
        self.page = {
            path.relative_to(_PAGE).as_posix(): path.read_bytes() for path in _PAGE.rglob("*") if path.is_file()
        }

    # --- the page

    def index(self, request: Request) -> Response:
        """Answer with the page."""
        return self.static(request, "index.html")

    def static(self, request: Request, path: str) -> Response:
        """Answer with a file of the page."""
        if path not in self.page:
            raise HTTPException(404, "There is no such file")
        tag = hashlib.sha256(self.page[path]).hexdigest()[:16]
        return tagged(request, tag, self.page[path], type_of(path))

    # --- state

    def status(self) -> Any:
        """Return the state of the service, its ages as of now."""
        return as_json(current(self.published.status()))

    def healthz(self) -> Response:
        """Answer 200 where forecasts are made or need not be, else 503."""
        found = current(self.published.status())
        return as_json(found, 200 if is_well(found) else 503)

    def metrics(self) -> Response:
        """Return the state as Prometheus reads it."""
        text = prometheus(current(self.published.status()))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def service(self) -> Response:
        """Return what the service is, without its recipe, which has paths of its machine."""
        return as_json({k: v for k, v in self.published.service().items() if k != "recipe"})

    # --- forecasts

    def forecasts(self) -> Response:
        """Return the names of the forecasts, the newest first, and which one is the latest."""
        return as_json({"forecasts": self.published.names()[::-1], "latest": self.published.latest()})

    def forecast(self, name: str) -> Response:
        """Return what a forecast holds: its layers with their colours and times, and its files."""
        with self._reading(name) as found:
            bands = _bands(found)
            known = {
                "name": found.id, "init_time": shown(found.init), "version": found.version, **_place(found.grid),
                "layers": [_layer(layer, found.times(layer)) for layer in found.layers if layer.id not in bands],
                "quantiles": bands, "points": self._points(found),
            }  # fmt: skip
        return as_json({**known, "files": self.published.files(str(known["name"]))})

    def _points(self, found: Forecast) -> list[dict[str, Any]]:
        """Return the named points with latitude and longitude, also of those that are given in the grid's units."""
        with suppress(FileNotFoundError):
            file = self.published.open(f"{FORECASTS}/{found.id}/{POINTS}")
            with file.content:
                points = json.load(file.content)["points"]
            return [{"name": one["name"], **_degrees(found.grid, one)} for one in points]
        return []

    def alerts(self) -> Response:
        """Return the alerts as they stand now."""
        return as_json(self.raised.standing())

    def map(self, request: Request, name: str, layer: str, lead: int) -> Response:
        """Return a picture of a layer at a lead time in seconds, for `bounds` in Mercator's projection."""
        with self._reading(name) as found:
            one = _one_of(found.layers, layer)
            leads = found.leads(one).astype(int)
            if lead not in leads:
                raise HTTPException(404, f"No lead time of {lead} s, expected one of {', '.join(map(str, leads))}")
            at = int(np.flatnonzero(leads == lead)[0])
            key = (found.id, found.version, layer, lead)
            part, everything = slice(at, at + 1), slice(None)
            # The lock is left with numbers; a picture of them is made outside.
            values = self.pictures.peek(key) or found.box(one, part, everything, everything)[0]
            grid, tag = found.grid, found.version
        return self._picture(request, key, tag, values, grid, one)

    def observed(self) -> Response:
        """Return the newest observed frames, as a forecast's layers are."""
        found = self.sources.observed()
        layer = found.layers[0]
        frames = [{"time": shown(t), "version": found.frame_version(i)} for i, t in enumerate(found.times(layer))]
        return as_json({**_place(found.grid), "layers": [_layer(layer, found.times(layer))], "frames": frames})

    def observed_map(self, request: Request, time: str) -> Response:
        """Return a picture of a frame; `time` as in the names of forecasts."""
        found = self.sources.observed()
        layer = found.layers[0]
        names = [_stamp(t) for t in found.times(layer)]
        if time not in names:
            raise HTTPException(404, f"No frame of {time[:40]!r} among the newest {len(names)}")
        tag, values = found.frame(names.index(time))
        return self._picture(request, ("observed", tag, time), tag, values, found.grid, layer)

    def _picture(
        self, request: Request, key: tuple[Any, ...], tag: str, values: Any, grid: Grid, layer: Layer
    ) -> Response:
        def made() -> bytes:
            if isinstance(values, bytes):
                return values
            assert layer.scale is not None
            return png(values, grid.picture.index, layer.scale)

        kept = FOR_EVER if request.query_params.get("v") == tag else AGAIN
        return tagged(request, tag, self.pictures.get(key, made), "image/png", kept)

    # --- files

    def files(self, request: Request, path: str) -> Response:
        """Return a file, or a range of its bytes."""
        return as_file(request, self.published.open(path), path)

    # --- queries

    def landing(self, request: Request) -> Response:
        """Return the landing page of the EDR API."""
        return as_json(edr.landing(_base(request), str(self.published.service().get("name", "sa_nowcast"))))

    def conformance(self) -> Response:
        """Return the conformance classes of the EDR API."""
        return as_json({"conformsTo": list(edr.CONFORMS_TO)})

    def collections(self, request: Request) -> Response:
        """Return the collections that there are."""
        found = []
        for name in ("forecast", "observed"):
            try:
                found.append(self._collection(request, name))
            except (KeyError, HTTPException):  # nothing was published yet
                continue
        return as_json(edr.collections(_base(request), found))

    def collection(self, request: Request, collection: str) -> Response:
        """Return a collection."""
        return as_json(self._collection(request, collection))

    def instances(self, request: Request, collection: str) -> Response:
        """Return the forecasts as instances of the collection, the newest first."""
        if collection != "forecast":
            raise HTTPException(404, f"No instances of {collection[:40]!r}, expected those of forecast")
        names = self.published.names()[: -_MOST_INSTANCES - 1 : -1]
        found = []
        for name in names:
            try:
                found.append(self._instance(request, name))
            except KeyError:  # removed meanwhile
                continue
        return as_json(edr.instances(_base(request), collection, found))

    def instance(self, request: Request, collection: str, instance: str) -> Response:
        """Return one of the forecasts."""
        if collection != "forecast":
            raise HTTPException(404, f"No instances of {collection[:40]!r}, expected those of forecast")
        return as_json(self._instance(request, instance))

    def position(
        self, collection: str, coords: Coords, datetime: When = None, parameter_name: Names = None,
        crs: Crs = None, f: Format = None,
    ) -> Response:  # fmt: skip
        """Return the values at a position of the newest forecast, or of the frames."""
        return self._queried("position", collection, None, coords, datetime, parameter_name, crs, f)

    def area(
        self, collection: str, coords: Coords, datetime: When = None, parameter_name: Names = None,
        crs: Crs = None, f: Format = None,
    ) -> Response:  # fmt: skip
        """Return the values over an area of the newest forecast, or of the frames."""
        return self._queried("area", collection, None, coords, datetime, parameter_name, crs, f)

    def instance_position(
        self, collection: str, instance: str, coords: Coords, datetime: When = None, parameter_name: Names = None,
        crs: Crs = None, f: Format = None,
    ) -> Response:  # fmt: skip
        """Return the values at a position of one of the forecasts."""
        return self._queried("position", collection, instance, coords, datetime, parameter_name, crs, f)

    def instance_area(
        self, collection: str, instance: str, coords: Coords, datetime: When = None, parameter_name: Names = None,
        crs: Crs = None, f: Format = None,
    ) -> Response:  # fmt: skip
        """Return the values over an area of one of the forecasts."""
        return self._queried("area", collection, instance, coords, datetime, parameter_name, crs, f)

    def _queried(
        self, query: str, collection: str, instance: str | None, coords: str, when: str | None, names: str | None,
        crs: str | None, form: str | None,
    ) -> Response:  # fmt: skip
        if crs not in (None, "CRS84", "OGC:CRS84", edr.CRS84):
            raise HTTPException(400, f"crs={crs[:60]!r}, expected CRS84")
        if form not in (None, "CoverageJSON", COVJSON):
            raise HTTPException(400, f"f={form!r}, expected CoverageJSON")
        asked = edr.position if query == "position" else edr.area
        if collection == "observed" and instance is None:
            return as_json(asked(self.sources.observed(), coords, when, names), kind=COVJSON)
        if collection != "forecast":
            raise HTTPException(404, f"No collection {collection[:40]!r}, expected forecast or observed")
        with self._reading(instance or "latest") as found:
            answer = asked(found, coords, when, names)
        return as_json(answer, kind=COVJSON)

    def _collection(self, request: Request, name: str) -> dict[str, Any]:
        if name == "observed":
            return edr.collection(_base(request), self.sources.observed(), name, "Observed frames, the newest ones")
        if name != "forecast":
            raise HTTPException(404, f"No collection {name[:40]!r}, expected forecast or observed")
        with self._reading("latest") as found:
            return edr.collection(_base(request), found, name, "The newest forecast")

    def _instance(self, request: Request, name: str) -> dict[str, Any]:
        with self.sources.forecast(name) as found:
            title = f"Forecast from {shown(found.init)}"
            return edr.collection(_base(request), found, name, title, instance_of="forecast")

    @contextmanager
    def _reading(self, name: str) -> Iterator[Forecast]:
        """Read a forecast inside: one by its name, or the latest, which may be another one by the time it is read."""
        with ExitStack() as stack:
            for again in (True, True, False):
                try:
                    found = stack.enter_context(self.sources.forecast(self._named(name)))
                    break
                except KeyError:
                    if name != "latest" or not again:
                        raise
            yield found

    def _named(self, name: str) -> str:
        found = self.published.latest() if name == "latest" else name
        if found is None:
            raise HTTPException(404, "No forecast was published yet")
        return found


def _base(request: Request) -> str:
    return f"{request.base_url}edr"


def _place(grid: Grid) -> dict[str, Any]:
    south, west, north, east = grid.bounds
    return {"bounds": [[south, west], [north, east]]}


def _degrees(grid: Grid, point: Mapping[str, Any]) -> dict[str, float]:
    latitude, longitude = point["latitude"], point["longitude"]
    if latitude is None or longitude is None:
        latitude, longitude = grid.degrees(point["y"], point["x"])
    return {"latitude": latitude, "longitude": longitude}


def _layer(layer: Layer, times: Any) -> dict[str, Any]:
    assert layer.scale is not None
    return {
        "id": layer.id, "title": layer.title, "about": layer.about, "units": layer.units, "kind": layer.kind,
        "times": [shown(t) for t in times], "varies": layer.lead is not None, "scale": layer.scale.as_dict(),
    }  # fmt: skip


def _bands(forecast: Forecast) -> list[str]:
    return [layer.id for layer in forecast.layers if layer.title.startswith("Quantile")]


def _one_of(layers: Any, name: str) -> Layer:
    for layer in layers:
        if layer.id == name and "quantile" not in layer.at:
            return layer  # type: ignore[no-any-return]
    raise HTTPException(404, f"No layer {name[:60]!r}, expected one of {', '.join(layer.id for layer in layers)}")


def _stamp(time: Any) -> str:
    return shown(time).replace("-", "").replace(":", "")
