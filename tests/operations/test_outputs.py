"""What is published of a forecast, file by file."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from compliance_checker.runner import CheckSuite
from test_cf import findings

from operations.service_files import POINTS, caught_up, frames, incoming, service
from sa_nowcast.derived import over
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.operations.telling import Server
from sa_nowcast.published import STATES, prometheus

SCHEMA = Path(__file__).parents[1] / "data" / "stac" / "forecast.json"
WEST, SOUTH = 9.9999, 51.9999  # near the corner of the grid, whose projection is centred on 52 N, 10 E


def _area(name: str, size: float) -> dict:
    ring = [[WEST, SOUTH], [WEST + size, SOUTH], [WEST + size, SOUTH + size], [WEST, SOUTH + size], [WEST, SOUTH]]
    return {
        "type": "Feature", "properties": {"name": name}, "geometry": {"type": "Polygon", "coordinates": [ring]}
    }  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a service of the default model with everything that it can publish."""
    tmp_path = tmp_path_factory.mktemp("service")
    ds = frames(5, height=36, width=40)
    incoming(tmp_path, ds, range(5))
    areas = tmp_path / "catchments.geojson"
    areas.write_text(json.dumps({"type": "FeatureCollection", "features": [_area("lower", 0.1), _area("upper", 0.3)]}))
    points = [*POINTS, {"name": "town", "latitude": 52.1, "longitude": 10.2}]
    return caught_up(
        service(
            tmp_path, ds, "default", steps=6, thresholds=[0.5, "2 mm h-1"], points=points, areas=str(areas),
            output={"formats": ["netcdf", "geotiff", "stac"]},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def newest(out: Path) -> Path:
    return out / "forecasts" / (out / "latest").read_text()


def _read(path: Path):
    return json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{path}: {text}"))


def test_series_at_points_are_those_of_the_fields(newest: Path) -> None:
    told = _read(newest / "points.json")
    assert [p["name"] for p in told["points"]] == ["mill", "bridge", "town"]
    with xr.open_dataset(newest / "forecast.nc", decode_timedelta=True) as ds:
        mill = told["points"][0]
        here = ds.sel(y=12000, x=9000)
        np.testing.assert_allclose(mill["mean"], here["rain"], rtol=1e-5)
        np.testing.assert_allclose(mill["matched"], here["rain_matched"], rtol=1e-5)
        np.testing.assert_allclose(mill["probability"]["2"], here["probability"][1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mill["accumulation"]["30min"], here["accumulation_30min"], rtol=1e-5)
        assert mill["valid_times"][0] == "2020-06-01T00:25:00Z"
        assert mill["lead_times"] == [300, 600, 900, 1200, 1500, 1800]
    town = told["points"][2]
    assert (town["latitude"], town["longitude"]) == (52.1, 10.2)
    for point in told["points"]:
        low, middle, high = (np.array(point["quantiles"][q]) for q in ("0.1", "0.5", "0.9"))
        assert ((low <= middle) & (middle <= high)).all()


def test_probabilities_are_those_of_the_distribution(newest: Path) -> None:
    ds = frames(5, height=36, width=40)
    expected = default_model().exceedance(ds["rain"].astype("float32"), [0.5, 2.0], 6)
    with xr.open_dataset(newest / "forecast.nc", decode_timedelta=True) as found:
        np.testing.assert_allclose(found["probability"], expected, atol=1e-6)
        assert found["probability"].attrs["units"] == "1"
        assert set(found.data_vars) >= {"rain", "rain_matched", "accumulation_30min", "rain_onset", "rain_end"}
        assert "accumulation_60min" not in found  # the lead times do not cover it


def test_the_netcdf_file_follows_the_cf_conventions(newest: Path) -> None:
    suite = CheckSuite()
    suite.load_all_available_checkers()
    # Section 2.7.1 is about groups, which the file has none of: what it says has no weight.
    assert findings(suite, newest / "forecast.nc") == []


def test_means_over_areas_and_alerts_are_geojson(out: Path, newest: Path) -> None:
    areas = _read(newest / "areas.json")
    assert [f["properties"]["name"] for f in areas["features"]] == ["lower", "upper"]
    catchments = {"type": "FeatureCollection", "features": [_area("lower", 0.1), _area("upper", 0.3)]}
    frames_of_it = frames(5, height=36, width=40)["rain"].values[-4:]
    with xr.open_dataset(newest / "forecast.nc", decode_timedelta=True, decode_coords="all") as ds:
        field = ds["rain"]
        expected = over(field, catchments)
        observed = over(field[:4].copy(data=frames_of_it), catchments).values
        for number, feature in enumerate(areas["features"]):
            np.testing.assert_allclose(feature["properties"]["mean"], expected[:, number], rtol=1e-4)
            assert feature["properties"]["quantiles"] == {}  # which only members have
            assert feature["properties"]["observed"]["times"][-1] == areas["init_time"]
            np.testing.assert_allclose(feature["properties"]["observed"]["values"], observed[:, number], rtol=1e-4)
    alerts = _read(newest / "alerts.geojson")
    assert len(alerts["features"]) == (3 + 2) * 2
    # It was published first; by the one before it, which followed, the newest alerts are known.
    assert {f["properties"]["state"] for f in alerts["features"]} == {"unknown"}
    assert {f["properties"]["state"] for f in _read(out / "alerts.geojson")["features"]} <= {"raised", "clear"}


def test_quantiles_of_means_over_areas_are_those_of_members(tmp_path: Path) -> None:
    ds = frames(4, height=36, width=40)
    incoming(tmp_path, ds, range(4))
    catchments = {"type": "FeatureCollection", "features": [_area("lower", 0.1)]}
    (tmp_path / "catchments.geojson").write_text(json.dumps(catchments))
    asked = {"steps": 2, "members": 4, "quantiles": [0.5], "areas": str(tmp_path / "catchments.geojson")}
    newest = next((caught_up(service(tmp_path, ds, "default", **asked)) / "forecasts").iterdir())
    with xr.open_dataset(newest / "forecast.nc", decode_timedelta=True, decode_coords="all") as of:
        middle = over(of["rain_members"], catchments).median("realization")
    found = _read(newest / "areas.json")["features"][0]["properties"]["quantiles"]
    np.testing.assert_allclose(found["0.5"], middle[:, 0], rtol=1e-4)


def test_geotiffs_are_cloud_optimised_and_hold_the_fields(newest: Path) -> None:
    import rasterio

    files = sorted(p.relative_to(newest).as_posix() for p in newest.rglob("*.tif"))
    assert len(files) == 6 * 4 + 1
    assert {"mean/lead_0300s.tif", "matched/lead_1800s.tif", "probability_0.5/lead_0300s.tif"} <= set(files)
    with rasterio.open(newest / "mean" / "lead_0600s.tif") as file, xr.open_dataset(newest / "forecast.nc") as ds:
        np.testing.assert_array_equal(file.read(1), ds["rain"][1].values)
        assert file.tags()["valid_time"] == "2020-06-01T00:30:00Z"
        assert file.crs.is_projected
        assert file.transform.e == -1000
    cogeo = pytest.importorskip("rio_cogeo.cogeo")
    for name in files:
        valid, errors, warnings = cogeo.cog_validate(newest / name, quiet=True)
        assert valid, (name, errors, warnings)


def test_the_stac_item_is_valid(newest: Path) -> None:
    pystac = pytest.importorskip("pystac")
    item = _read(newest / "item.json")
    import jsonschema

    jsonschema.validate(item, json.loads(SCHEMA.read_text()))
    without = {**item, "stac_extensions": []}  # whose schemas would come from the network
    pystac.Item.from_dict(without).validate()
    read = pystac.Item.from_file(str(newest / "item.json"))
    for asset in read.assets.values():
        assert Path(asset.get_absolute_href()).is_file()
    assert item["properties"]["forecast:horizon"] == "PT30M"
    assert read.bbox[0] == pytest.approx(10.0, abs=0.02)


def test_what_the_service_says_of_itself(out: Path) -> None:
    told = _read(out / "service.json")
    assert (told["variable"], told["units"], told["accumulation_units"]) == ("rain", "mm h-1", "mm")
    assert told["lead_times_seconds"] == [300.0 * n for n in range(1, 7)]
    assert (told["points"], told["areas"]) == (["mill", "bridge", "town"], ["lower", "upper"])
    assert told["thresholds"] == [0.5, 2.0]
    west, south, east, north = told["grid"]["bbox"]
    assert west < 10 < east
    assert south < 52 < north


def test_health_and_metrics_are_served_on_the_loopback(out: Path) -> None:
    told = {**_read(out / "status.json"), "state": "no data"}
    server = Server(0, lambda: told)
    try:
        base = f"http://127.0.0.1:{server.port}"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{base}/healthz")
        assert caught.value.code == 503
        assert json.loads(caught.value.read())["counts"]["frames"] == 5
        told["state"] = "ok"
        assert urllib.request.urlopen(f"{base}/healthz").status == 200
        text = urllib.request.urlopen(f"{base}/metrics").read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/other")
    finally:
        server.stop()
    assert text == prometheus(told)
    lines = text.splitlines()
    assert "sa_nowcast_frames_total 5" in lines
    assert 'sa_nowcast_state{state="ok"} 1' in lines
    assert sum(line.startswith("sa_nowcast_state{") for line in lines) == len(STATES)
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert all(line.split("{")[0].split()[0] in names for line in lines if not line.startswith("#"))
