"""The application: what is answered at which address."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from sa_nowcast._version import __version__
from sa_nowcast.errors import SaNowcastError
from sa_nowcast.published import FORECASTS, POINTS, current, is_well, prometheus
from sa_nowcast.serving import edr
from sa_nowcast.serving.alerts import Alerts
from sa_nowcast.serving.colours import png
from sa_nowcast.serving.edr import COVJSON, shown
from sa_nowcast.serving.fields import Layer
from sa_nowcast.serving.folder import OFFERED, File, Published
from sa_nowcast.serving.grid import Grid
from sa_nowcast.serving.sources import Forecast, Kept, Sources

_PAGE: Final = Path(__file__).parent / "page"
_PART: Final = 256 * 1024
_AGAIN: Final = "no-cache"  # kept, and asked for again each time
_FOR_EVER: Final = "max-age=604800, immutable"
_TYPES: Final = {".nc": "application/x-netcdf", ".tif": "image/tiff", ".geojson": "application/geo+json",
                 ".json": "application/json", ".bin": "application/octet-stream", ".js": "text/javascript"}  # fmt: skip
_MOST_INSTANCES: Final = 50

_JSON: Final = ("application/json",)
_REFUSALS: Final = {
    400: "Not understood", 404: "Not there", 413: "More than one answer holds", 416: "Beyond the end of the file",
    429: "Too many requests", 503: "What was published cannot be read, or no answer in time",
}  # fmt: skip
_ERROR: Final = {
    "type": "object", "required": ["code", "description"],
    "properties": {"code": {"type": "string"}, "description": {"type": "string"}},
}  # fmt: skip

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
        return _tagged(request, tag, self.page[path], _type(path))

    # --- state

    def status(self) -> Any:
        """Return the state of the service, its ages as of now."""
        return _json(current(self.published.status()))

    def healthz(self) -> Response:
        """Answer 200 where forecasts are made or need not be, else 503."""
        found = current(self.published.status())
        return _json(found, 200 if is_well(found) else 503)

    def metrics(self) -> Response:
        """Return the state as Prometheus reads it."""
        text = prometheus(current(self.published.status()))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def service(self) -> Response:
        """Return what the service is, without its recipe, which has paths of its machine."""
        return _json({k: v for k, v in self.published.service().items() if k != "recipe"})

    # --- forecasts

    def forecasts(self) -> Response:
        """Return the names of the forecasts, the newest first, and which one is the latest."""
        return _json({"forecasts": self.published.names()[::-1], "latest": self.published.latest()})

    def forecast(self, name: str) -> Response:
        """Return what a forecast holds: its layers with their colours and times, and its files."""
        with self._reading(name) as found:
            bands = _bands(found)
            known = {
                "name": found.id, "init_time": shown(found.init), "version": found.version, **_place(found.grid),
                "layers": [_layer(layer, found.times(layer)) for layer in found.layers if layer.id not in bands],
                "quantiles": bands, "points": self._points(found),
            }  # fmt: skip
        return _json({**known, "files": self.published.files(str(known["name"]))})

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
        return _json(self.raised.standing())

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
        return _json({**_place(found.grid), "layers": [_layer(layer, found.times(layer))], "frames": frames})

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

        kept = _FOR_EVER if request.query_params.get("v") == tag else _AGAIN
        return _tagged(request, tag, self.pictures.get(key, made), "image/png", kept)

    # --- files

    def files(self, request: Request, path: str) -> Response:
        """Return a file, or a range of its bytes."""
        return _file(request, self.published.open(path), path)

    # --- queries

    def landing(self, request: Request) -> Response:
        """Return the landing page of the EDR API."""
        return _json(edr.landing(_base(request), str(self.published.service().get("name", "sa_nowcast"))))

    def conformance(self) -> Response:
        """Return the conformance classes of the EDR API."""
        return _json({"conformsTo": list(edr.CONFORMS_TO)})

    def collections(self, request: Request) -> Response:
        """Return the collections that there are."""
        found = []
        for name in ("forecast", "observed"):
            try:
                found.append(self._collection(request, name))
            except (KeyError, HTTPException):  # nothing was published yet
                continue
        return _json(edr.collections(_base(request), found))

    def collection(self, request: Request, collection: str) -> Response:
        """Return a collection."""
        return _json(self._collection(request, collection))

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
        return _json(edr.instances(_base(request), collection, found))

    def instance(self, request: Request, collection: str, instance: str) -> Response:
        """Return one of the forecasts."""
        if collection != "forecast":
            raise HTTPException(404, f"No instances of {collection[:40]!r}, expected those of forecast")
        return _json(self._instance(request, instance))

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
            return _json(asked(self.sources.observed(), coords, when, names), kind=COVJSON)
        if collection != "forecast":
            raise HTTPException(404, f"No collection {collection[:40]!r}, expected forecast or observed")
        with self._reading(instance or "latest") as found:
            answer = asked(found, coords, when, names)
        return _json(answer, kind=COVJSON)

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


def make_app(published: Published) -> FastAPI:
    """Return the ASGI application that shows what is published."""
    answers = Answers(published)
    app = FastAPI(
        title="sa_nowcast", version=__version__, docs_url=None, redoc_url=None, openapi_url="/edr/openapi.json",
        redirect_slashes=False,
        description="Forecasts and observed frames of a nowcasting service: files, pictures, and OGC API EDR.",
    )  # fmt: skip
    of_instance = "/edr/collections/{collection}/instances/{instance}"
    for path, function, kinds, refused in (
        ("/status", answers.status, _JSON, ()), ("/healthz", answers.healthz, _JSON, ()),
        ("/metrics", answers.metrics, ("text/plain",), ()), ("/service", answers.service, _JSON, ()),
        ("/forecasts", answers.forecasts, _JSON, ()), ("/forecasts/{name}", answers.forecast, _JSON, (404,)),
        ("/forecasts/{name}/map/{layer}/{lead}.png", answers.map, ("image/png",), (400, 404)),
        ("/alerts", answers.alerts, _JSON, ()), ("/observed", answers.observed, _JSON, (404,)),
        ("/observed/map/{time}.png", answers.observed_map, ("image/png",), (404,)),
        ("/files/{path}", answers.files, ("*/*",), (404, 416)),
        ("/edr", answers.landing, _JSON, ()), ("/edr/conformance", answers.conformance, _JSON, ()),
        ("/edr/collections", answers.collections, _JSON, ()),
        ("/edr/collections/{collection}", answers.collection, _JSON, (404,)),
        ("/edr/collections/{collection}/position", answers.position, (COVJSON,), (400, 404, 413)),
        ("/edr/collections/{collection}/area", answers.area, (COVJSON,), (400, 404, 413)),
        ("/edr/collections/{collection}/instances", answers.instances, _JSON, (404,)),
        (of_instance, answers.instance, _JSON, (404,)),
        (f"{of_instance}/position", answers.instance_position, (COVJSON,), (400, 404, 413)),
        (f"{of_instance}/area", answers.instance_area, (COVJSON,), (400, 404, 413)),
    ):  # fmt: skip
        at = path.replace("{path}", "{path:path}")
        app.add_api_route(at, function, methods=["GET"], response_class=Response, response_model=None,
                          responses=_declared(kinds, refused))  # fmt: skip
        app.add_api_route(at, function, methods=["HEAD"], response_model=None, include_in_schema=False)
    for path, function in (("/", answers.index), ("/page/{path:path}", answers.static)):
        app.add_api_route(path, function, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)
    described = app.openapi
    app.openapi = lambda: _without_422(described())  # type: ignore[method-assign]
    app.add_exception_handler(FileNotFoundError, _not_there)
    app.add_exception_handler(KeyError, _not_there)
    app.add_exception_handler(SaNowcastError, _unreadable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _fault)
    return app


# --- what the document of the API declares


def _declared(kinds: Sequence[str], refused: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """Return what an address answers: media types where all is well, and the statuses of its refusals."""
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"description": _REFUSALS[code], "content": {"application/json": {"schema": _ERROR}}}
        for code in (*refused, 429)
    }
    # What is said of a state that is not well is the state itself.
    unwell = {"description": _REFUSALS[503], "content": {"application/json": {"schema": {"type": "object"}}}}
    found = {"description": "What was asked for", "content": {kind: {"schema": {}} for kind in kinds}}
    return {200: found, **refusals, 503: unwell}


def _without_422(document: dict[str, Any]) -> dict[str, Any]:
    """Take out the refusal that FastAPI declares for all parameters: here it is 400, as EDR has it."""
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


# --- answers


def _json(document: Any, status: int = 200, kind: str = "application/json") -> Response:
    body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, {"cache-control": _AGAIN}, media_type=kind)


def _tagged(request: Request, tag: str, body: bytes, kind: str, kept: str = _AGAIN) -> Response:
    headers = {"etag": f'"{tag}"', "cache-control": kept}
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type=kind)


def _file(request: Request, file: File, path: str) -> Response:
    """Answer with a file that is open, or with one range of it (RFC 9110 section 14); it is closed at the end."""
    tag = f'"{file.version}"'
    headers = {"etag": tag, "accept-ranges": "bytes", "cache-control": _AGAIN}
    begin, end, status = 0, file.size, 200
    if tag in request.headers.get("if-none-match", ""):
        file.content.close()
        return Response(None, 304, headers)
    asked = request.headers.get("range", "")
    if asked and request.headers.get("if-range", tag) == tag:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.replace(" ", ""))
        if found and (found[1] or found[2]):
            begin = int(found[1]) if found[1] else max(0, file.size - int(found[2]))
            end = min(file.size, int(found[2]) + 1) if found[1] and found[2] else file.size
            if begin >= end:
                file.content.close()
                return Response(None, 416, {**headers, "content-range": f"bytes */{file.size}"})
            status = 206
            headers["content-range"] = f"bytes {begin}-{end - 1}/{file.size}"
    headers["content-length"] = str(end - begin)
    parts = _parts(file.content, begin, end if request.method == "GET" else begin)
    return StreamingResponse(parts, status, headers, media_type=_type(path))


def _parts(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(begin)
        while begin < end and (part := file.read(min(_PART, end - begin))):
            begin += len(part)
            yield part


def _type(path: str) -> str:
    suffix = os.path.splitext(path)[1]
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")


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


# --- refusals: the schema of exceptions that EDR has


def _error(status: int, line: str) -> Response:
    return _json({"code": str(status), "description": line}, status)


def _not_there(request: Request, error: Any) -> Response:
    return _error(404, f"There is no such file or forecast; files are {', '.join(OFFERED)}")


def _unreadable(request: Request, error: Any) -> Response:
    return _error(503, f"What was published cannot be read: {error.found}")


def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    return _error(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")


def _refused(request: Request, error: Any) -> Response:
    # What the router itself says of an address that it has not.
    unknown = error.status_code == 404 and error.detail == "Not Found"
    return _error(error.status_code, "There is no such address" if unknown else str(error.detail))


def _fault(request: Request, error: Any) -> Response:
    return _error(500, "An internal fault; the log of the server has it")
