"""Queries give the numbers of the store, in documents that validators of others accept."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import shapely
import xarray as xr
from covjson_pydantic.coverage import Coverage, CoverageCollection
from edr_pydantic.capabilities import ConformanceModel, LandingPageModel
from edr_pydantic.collections import Collection, Collections, Instances
from published import VARIABLE, frames

from sa_nowcast.derived import at
from sa_nowcast.serving.edr import MOST_CORNERS, MOST_VALUES

FORECAST = "/edr/collections/forecast"
POINT = "POINT(-87.2 46.5)"
# No centre of a pixel lies on an edge, where it could count either way.
AREA = (
    "POLYGON((-87.301 46.203,-86.702 46.307,-86.503 46.801,-87.1 46.6011,-87.301 46.203),"
    "(-87.001 46.402,-86.903 46.401,-86.902 46.503,-87.001 46.402))"
)


def query(kind: str, coords: str, of: str = FORECAST, **more: str) -> str:
    pairs = {"coords": coords, **{k.replace("_", "-"): v for k, v in more.items()}}
    return f"{of}/{kind}?" + "&".join(f"{k}={quote(v)}" for k, v in pairs.items())


def ranges(document: dict) -> dict[str, list]:
    coverages = document.get("coverages", [document])
    return {name: r["values"] for c in coverages for name, r in c["ranges"].items()}


def test_documents_are_those_of_edr(ask) -> None:
    LandingPageModel.model_validate_json(ask("/edr").body, strict=False)
    ConformanceModel.model_validate_json(ask("/edr/conformance").body)
    found = Collections.model_validate_json(ask("/edr/collections").body)
    assert [c.id for c in found.collections] == ["forecast", "observed"]
    Collection.model_validate_json(ask(FORECAST).body)
    listed = Instances.model_validate_json(ask(f"{FORECAST}/instances").body)
    assert [i.id for i in listed.instances] == ["20190610T002200Z"]
    assert listed.instances[0].data_queries.position.link.href.endswith("/instances/20190610T002200Z/position")
    assert ask(f"{FORECAST}/instances/20190610T002200Z").json["extent"]["temporal"]["interval"][0] == [
        "2019-06-10T00:22:00Z", "2019-06-10T00:34:00Z",
    ]  # fmt: skip


def test_links_lead_somewhere(ask) -> None:
    base = f"http://127.0.0.1:{ask.port}"
    for page in ("/edr", "/edr/collections", FORECAST, f"{FORECAST}/instances"):
        for link in ask(page).json["links"]:
            assert link["href"].startswith(base)
            assert ask(link["href"].removeprefix(base)).status == 200, link


def test_a_position_has_the_values_of_its_pixel(ask, stored: xr.Dataset) -> None:
    answer = ask(query("position", POINT))
    assert answer.headers["content-type"] == "application/vnd.cov+json"
    CoverageCollection.model_validate_json(answer.body)
    values = ranges(answer.json)
    place = {"here": (46.5, -87.2)}
    for name in (VARIABLE, f"{VARIABLE}_matched", "accumulation_12min", "onset"):
        wanted = np.ravel(at(stored[name], place).values).tolist()
        assert values[name] == [None if np.isnan(v) else v for v in wanted], name
    for threshold in (1, 5):
        wanted = at(stored["probability"].sel(threshold=threshold), place).values[:, 0].tolist()
        assert values[f"probability_{threshold}"] == wanted
    members = at(stored[f"{VARIABLE}_members"], place).values[:, :, 0]
    for share in (0.1, 0.5, 0.9):
        assert values[f"{VARIABLE}_quantile_{share}"] == np.float32(np.quantile(members, share, axis=0)).tolist()
    same = ask(query("position", POINT, f"{FORECAST}/instances/20190610T002200Z"))
    assert same.body == answer.body


def test_times_and_parameters_can_be_chosen(ask, stored: xr.Dataset) -> None:
    series = at(stored[VARIABLE], {"here": (46.5, -87.2)}).values[:, 0].tolist()
    for when, part in (
        ("2019-06-10T00:26:00Z", slice(1, 2)),
        ("2019-06-10T00:28Z/2019-06-10T00:31Z", slice(2, 4)),
        ("../2019-06-10T00:26:00Z", slice(0, 2)),
        ("2019-06-10T00:30:00.5Z/..", slice(3, 6)),
    ):
        answer = ask(query("position", POINT, parameter_name=VARIABLE, datetime=when)).json
        Coverage.model_validate(answer)
        assert answer["ranges"][VARIABLE]["values"] == series[part], when
        assert len(answer["domain"]["axes"]["t"]["values"]) == len(series[part])


def test_frames_are_asked_for_in_the_same_way(ask) -> None:
    answer = ask(query("position", POINT, "/edr/collections/observed")).json
    Coverage.model_validate(answer)
    wanted = at(frames(), {"here": (46.5, -87.2)}).values[:, 0].tolist()
    assert answer["ranges"][VARIABLE]["values"] == wanted
    assert len(wanted) == 14


def test_an_area_has_the_pixels_whose_centres_lie_in_it(ask, stored: xr.Dataset) -> None:
    answer = ask(query("area", AREA, parameter_name=f"{VARIABLE},probability_1", datetime="2019-06-10T00:26:00Z")).json
    Coverage.model_validate(answer)
    axes = answer["domain"]["axes"]
    latitude, longitude = (np.array(axes[n]["values"]) for n in ("y", "x"))
    inside = shapely.contains_xy(shapely.from_wkt(AREA), *np.meshgrid(longitude, latitude))
    field = stored[VARIABLE][1].sel(latitude=latitude, longitude=longitude)
    wanted = field.where(xr.DataArray(inside, dims=("latitude", "longitude")))
    found = np.array(answer["ranges"][VARIABLE]["values"], float).reshape(answer["ranges"][VARIABLE]["shape"])
    np.testing.assert_array_equal(found[0], wanted.values)
    # All of them: none lies beyond the box that is given.
    whole = shapely.contains_xy(
        shapely.from_wkt(AREA), *np.meshgrid(stored["longitude"].values, stored["latitude"].values)
    )
    assert inside.sum() == whole.sum() > 500
    # Quantiles are made of the members of each pixel.
    asked = query("area", AREA, parameter_name=f"{VARIABLE}_quantile_0.9", datetime="2019-06-10T00:26:00Z")
    drawn = np.array(ask(asked).json["ranges"][f"{VARIABLE}_quantile_0.9"]["values"], float).reshape(found.shape)[0]
    members = stored[f"{VARIABLE}_members"][:, 1].sel(latitude=latitude, longitude=longitude).values
    np.testing.assert_array_equal(drawn[inside], np.quantile(members, 0.9, axis=0).astype("float32")[inside])
    several = ask(query("area", f"MULTI{AREA.replace('((', '(((')})", parameter_name=VARIABLE)).json
    assert several["ranges"][VARIABLE]["shape"] == [6, *inside.shape]


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        (query("position", "POINT(1)"), 400, "coords='POINT(1)' is no position, expected POINT(longitude latitude)"),
        (query("position", "POINT(10 46)"), 404, "is outside the grid, expected longitude -87.6 to -86.32 and"),
        (query("position", POINT, parameter_name="snow"), 400, "parameter-name='snow' is not known, expected some"),
        (query("position", POINT, datetime="today"), 400, "datetime='today' is no time, expected such as"),
        (query("position", POINT, datetime="2019-13-01"), 400, "datetime='2019-13-01' is no time"),
        (query("position", POINT, datetime="2030-01-01"), 404, "nothing at datetime='2030-01-01'"),
        (query("position", POINT, crs="EPSG:3857"), 400, "crs='EPSG:3857', expected CRS84"),
        (query("position", POINT, f="GRIB"), 400, "f='GRIB', expected CoverageJSON"),
        (f"{FORECAST}/position", 400, "coords: Field required"),
        (query("area", "POLYGON((0 0,1 1))"), 400, "is no area, expected POLYGON"),
        (query("area", "POLYGON((0 0,1 0,1 1,0 0))"), 404, "no centre of a pixel lies in the area"),
        (query("area", "POLYGON((" + ",".join(["0 0"] * (MOST_CORNERS + 2)) + "))"), 413, "more than 500 corners"),
        ("/edr/collections/other/position?coords=POINT(0%200)", 404, "No collection 'other'"),
        ("/edr/collections/observed/instances", 404, "No instances of 'observed'"),
        (query("position", POINT, f"{FORECAST}/instances/20300101T000000Z"), 404, "There is no such file or forecast"),
        (query("position", POINT, f"{FORECAST}/instances/..%2f.."), 404, "There is no such"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said_in_one_line(ask, path: str, status: int, line: str) -> None:
    answer = ask(path)
    assert answer.status == status
    assert line in answer.json["description"]


def test_an_answer_is_bounded(ask, monkeypatch) -> None:
    monkeypatch.setattr("sa_nowcast.serving.edr.MOST_VALUES", 5000)
    answer = ask(query("area", AREA))
    assert answer.status == 413
    assert "expected at most 5000: ask for a smaller area" in answer.json["description"]
    assert ask(query("area", AREA, parameter_name=VARIABLE, datetime="2019-06-10T00:26:00Z")).status == 200
    assert MOST_VALUES <= 250_000


def test_nested_numbers_are_read_in_little_time(ask) -> None:
    import time

    begun = time.perf_counter()
    for hostile in (
        "POINT(" + "1" * 40_000,
        "POLYGON((" + "1 1," * 499 + "x",
        "POLYGON((" + "1.1e1 " * 3000,
        "POINT(" + " " * 40_000,
    ):
        assert ask(query("area", hostile)).status in (400, 413)
        assert ask(query("position", hostile)).status in (400, 413)
    assert time.perf_counter() - begun < 3


def test_a_forecast_that_was_not_published_yet_is_no_error_of_the_list(copy: Path, serve) -> None:
    import shutil

    shutil.rmtree(copy / "forecasts")
    shutil.rmtree(copy / "observed.zarr")
    with serve(copy) as ask:
        assert ask("/forecasts").json == {"forecasts": [], "latest": None}
        assert ask("/forecasts/latest").json["description"] == "No forecast was published yet"
        assert ask("/observed").status == 404
        assert ask("/edr/collections").json["collections"] == []
        assert ask("/").status == 200


@pytest.mark.slow
def test_the_description_of_the_api_is_valid_openapi(ask) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
    document = ask("/edr/openapi.json").json
    validator.validate(document)
    assert {"/edr/collections/{collection}/position", "/status"} <= set(document["paths"])
