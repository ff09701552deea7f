"""The application: which function answers at which address, what it declares, and how it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from sa_nowcast._version import __version__
from sa_nowcast.errors import SaNowcastError
from sa_nowcast.serving.answers import Answers
from sa_nowcast.serving.edr import COVJSON
from sa_nowcast.serving.folder import OFFERED, Published
from sa_nowcast.serving.responses import as_json

_JSON: Final = ("application/json",)
_REFUSALS: Final = {
    400: "Not understood", 404: "Not there", 413: "More than one answer holds", 416: "Beyond the end of the file",
    429: "Too many requests", 503: "What was published cannot be read, or no answer in time",
}  # fmt: skip
_ERROR: Final = {
    "type": "object", "required": ["code", "description"],
    "properties": {"code": {"type": "string"}, "description": {"type": "string"}},
}  # fmt: skip


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


# --- refusals: the schema of exceptions that EDR has


def _error(status: int, line: str) -> Response:
    return as_json({"code": str(status), "description": line}, status)


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
