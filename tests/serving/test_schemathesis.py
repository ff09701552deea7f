"""Every address of the API, asked in many ways, answers as its own OpenAPI document declares."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from published import VARIABLE, write_status

NOT_THERE = "pip install schemathesis"
schemathesis = pytest.importorskip("schemathesis", reason=f"no schemathesis: {NOT_THERE}")
hypothesis = pytest.importorskip("hypothesis", reason=f"no hypothesis: {NOT_THERE}")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NAME = "20190610T002200Z"
EXAMPLES = 50
PATHS = {
    "name": ["latest", NAME], "layer": [VARIABLE, "probability_1", "nothing"], "lead": [120, 240, 121],
    "time": ["20190610T002000Z"], "collection": ["forecast", "observed"], "instance": [NAME, "20190610T002400Z"],
    "path": [f"forecasts/{NAME}/forecast.nc", "alerts.geojson", "observed.zarr/zarr.json", "../service.json"],
}  # fmt: skip
POSITIONS = ["POINT(-87.2 46.5)", "POINT(-86.9 46.3)", "POINT(0 0)", "POINT(1e400 0)", "POINT(-87.2 46.5"]
AREAS = ["POLYGON((-87 46.2,-86.9 46.2,-86.9 46.3,-87 46.2))", "POLYGON((-180 -90,180 -90,180 90,-180 -90))",
         "MULTIPOLYGON(((0 0,1 1,1 0,0 0)))", "POLYGON((nan 0,1 1,1 0,0 0))"]  # fmt: skip
QUERIES = {
    "datetime": [None, "2019-06-10T00:20:00Z/..", "2019-06-10/..", "../..", "9999-12-31", "0000-00-00"],
    "parameter-name": [None, VARIABLE, f"{VARIABLE},{VARIABLE}", f"{VARIABLE}_quantile_0.5", ","],
    "crs": [None, "CRS84"], "f": [None, "CoverageJSON"],
}  # fmt: skip


@pytest.fixture(scope="module")
def operations(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The operations of the document, over the application as it is served, of a service that is well."""
    from sa_nowcast.serving.app import make_app
    from sa_nowcast.serving.folder import Published
    from sa_nowcast.serving.limits import Limits

    copy = shutil.copytree(folder, tmp_path_factory.mktemp("well") / "copy")
    write_status(copy, heartbeat="2100-01-01T00:00:00Z")
    served = Limits(make_app(Published(copy)), rate=0, burst=1, seconds=300)
    return [found.ok() for found in schemathesis.openapi.from_asgi("/edr/openapi.json", served).get_all_operations()]


def _known(given: Any, known: dict[str, list[Any]], data: Any) -> Any:
    """Take what is known in place of what was drawn, in half of all requests: what is drawn is hardly ever there."""
    strategies = hypothesis.strategies
    if not given or data.draw(strategies.booleans()):
        return given
    return {k: v for k in given if (v := data.draw(strategies.sampled_from(known[k]))) is not None}


def _ask(operation: Any, mode: Any, queries: dict[str, list[Any]]) -> set[int]:
    """Ask an operation; return the statuses of its answers, which were valid."""
    # Names of what there is are in no schema, so that well-formed requests may be refused.
    excluded = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
    seen: set[int] = set()

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), data=hypothesis.strategies.data())
    def asked(case: Any, data: Any) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE:
            case.path_parameters = _known(case.path_parameters, PATHS, data)
            case.query = _known(case.query, queries, data)
        seen.add(case.call_and_validate(excluded_checks=excluded).status_code)

    asked()
    return seen


def test_each_answer_is_one_that_the_document_declares(operations: list[Any]) -> None:
    assert len(operations) == 21
    for operation in operations:
        queries = {**QUERIES, "coords": AREAS if operation.path.endswith("area") else POSITIONS}
        assert 200 in _ask(operation, schemathesis.GenerationMode.POSITIVE, queries), operation.label
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # a text of any length cannot be malformed
            _ask(operation, schemathesis.GenerationMode.NEGATIVE, queries)
