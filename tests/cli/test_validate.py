"""Each fault has its line and its exit code; what is whole passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from command_line import Here
from sequences import NETWORK, OPTIONS, georeferenced, of_two_grids, rain, wrf

import sa_nowcast


def findings(here: Here, *arguments: object) -> dict[str, tuple[str, str]]:
    here("validate", *arguments, "--json")
    document = json.loads(here.out)
    assert document["exit_code"] == here.code
    return {f["check"]: (f["status"], f["detail"]) for f in document["findings"]}


def test_a_whole_file_passes(here: Here, radar: Path) -> None:
    here("validate", radar)
    assert here.code == 0
    assert here.out.splitlines()[-1] == "PASS: 8 PASS, 0 WARN, 0 FAIL"
    assert "40 frames every 5 min, 2020-06-01T00:00 to 2020-06-01T03:15, sorted, without a gap" in here.out


def changed(**attrs: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds["rain"].attrs |= attrs
        return ds

    return change


def kelvin(fill: float) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds["rain"] = ds["rain"].where(ds["x"] > 2000, fill)
        return changed(units="K", standard_name="air_temperature")(ds)

    return change


def counted(ds: xr.Dataset) -> xr.Dataset:
    ds["rain"] = ds["rain"].astype("int32").assign_attrs(units="1")
    del ds["rain"].attrs["standard_name"]
    return ds


@pytest.mark.parametrize(
    ("change", "check", "status", "detail", "code"),
    [
        (lambda ds: ds.isel(time=[*range(10), *range(12, 40)]), "time", "WARN", "1 gaps (2 missing times)", 0),
        (lambda ds: ds.isel(time=[1, 0, *range(2, 40)]), "time", "FAIL", "times are not sorted", 3),
        (lambda ds: ds.isel(time=[0, 0, *range(1, 40)]), "time", "FAIL", "occurs 2 times", 3),
        (lambda ds: ds.drop_vars("time"), "time", "FAIL", "has no coordinate", 3),
        (lambda ds: ds.rename(y="a", x="b"), "dimensions", "PASS", "y: a", 0),
        (changed(units=""), "units", "WARN", "rain has no units", 0),
        (lambda ds: ds.drop_vars(["crs"]), "grid", "WARN", "no grid mapping", 0),
        (lambda ds: ds.assign_coords(x=ds["x"] ** 1.5), "grid", "WARN", "spacing along x varies", 0),
        (lambda ds: ds.where(ds["time"] != ds["time"][0]), "values", "WARN", "1 frames without any valid value", 0),
        (lambda ds: ds * np.nan, "values", "FAIL", "no valid value", 3),
        (lambda ds: ds * 0 + 1, "values", "WARN", "every value is the same", 0),
        (lambda ds: ds / 0, "values", "FAIL", "infinite", 3),
        (lambda ds: ds.fillna(0).where(ds["x"] > 2000, 9.96921e36), "values", "FAIL", "not declared as fill value", 3),
        (lambda ds: ds.where(ds["x"] > 2000, -9999.0), "values", "FAIL", "not declared as fill value", 3),
        (changed(units="K", standard_name="air_temperature"), "values", "PASS", "0 to", 0),
        (kelvin(-999.0), "values", "WARN", "values of -999, far from all others (0 to", 0),
        (kelvin(255.0), "values", "WARN", "values of 255, far from all others (0 to", 0),
        (changed(valid_range=[5.0, 2.0]), "bounds", "FAIL", "expected two numbers, the smaller first", 3),
        (changed(valid_min="none"), "bounds", "FAIL", "expected two numbers, the smaller first", 3),
        (changed(valid_max=200.0), "bounds", "PASS", "forecasts of rain are at most 200", 0),
        (changed(valid_max=2.0), "values", "WARN", "values above valid_max (2), to which forecasts are cut", 0),
        (counted, "counts", "PASS", "rain: whole numbers from 0 up, taken for counts; forecasts are at least 0", 0),
        (lambda ds: ds.astype("float64"), "storage", "WARN", "stored as float64", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_faults_of_frames(
    change: Any, check: str, status: str, detail: str, code: int, here: Here, tmp_path: Path
) -> None:
    ds = change(georeferenced(rain(40)))
    ds.to_netcdf(tmp_path / "changed.nc")
    found = findings(here, tmp_path / "changed.nc")
    assert found[check][0] == status, found
    assert detail in found[check][1]
    assert here.code == code


def test_a_wrong_path_and_a_wrong_variable(here: Here, radar: Path) -> None:
    found = findings(here, "none.nc")
    remedy = f"Fix: name files that are there; relative paths start at {Path.cwd()}."
    assert found == {"opens": ("FAIL", f"DATA none.nc: no such file or folder. {remedy}")}
    assert here.code == 3
    found = findings(here, radar, "--variable", "rian")
    assert found["time"] == ("FAIL", "DATA data: no variable 'rian', expected one of rain.")


def test_a_converted_store_passes_and_a_damaged_chunk_is_found_when_every_chunk_is_read(
    here: Here, radar: Path, tmp_path: Path
) -> None:
    store = tmp_path / "radar.zarr"
    sa_nowcast.convert(radar, store, frames_per_shard=4)
    found = findings(here, store, "--full")
    assert found["completion"][0] == found["chunks"][0] == "PASS"
    shards = sorted(f for f in (store / "rain" / "c").rglob("*") if f.is_file())
    data = bytearray(shards[5].read_bytes())
    data[len(data) // 3] ^= 1
    shards[5].write_bytes(data)
    assert here("validate", store, "--full").code == 3
    assert "is damaged" in here.out
    shards[5].unlink()
    assert here("validate", store, "--full").code == 3
    (store / "zarr.json").write_text((store / "zarr.json").read_text().replace("sa_nowcast_complete", "other"))
    assert findings(here, store)["completion"][0] == "WARN"


def test_full_reads_every_frame_of_a_file(here: Here, radar: Path) -> None:
    assert findings(here, radar, "--full")["chunks"] == ("PASS", "all 40 frames were read")


def test_a_model_passes_and_a_changed_byte_fails(here: Here, saved: Path) -> None:
    found = findings(here, saved)
    # Of four updates nobody can expect skill.
    assert {s for name, (s, _) in found.items() if name != "skill"} == {"PASS"}
    assert "twice the same bits" in found["forecast"][1]
    weights = saved / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    found = findings(here, saved)
    assert found["digests"][0] == "FAIL"
    assert here.code == 4


def test_models_of_several_variables_are_tried_too(here: Here, weather_nowcaster: Any, tmp_path: Path) -> None:
    assert here("validate", weather_nowcaster.save(tmp_path / "w.nowcaster")).code == 0


def test_an_empty_folder_that_is_called_a_model_is_no_model(here: Here, tmp_path: Path) -> None:
    (tmp_path / "no.nowcaster").mkdir()
    assert findings(here, tmp_path / "no.nowcaster")["digests"][0] == "FAIL"
    assert here.code == 4


@pytest.fixture
def tree(radar: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "trial", "history": 4, "steps": 3, "data": {"source": str(radar)},
        "network": {**NETWORK, "hidden": [4]}, "training": {**OPTIONS, "device": "cpu"},
        "output": {"folder": str(tmp_path / "run")},
    }  # fmt: skip


def test_a_recipe_passes_and_leaves_nothing_behind(here: Here, tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(tree))
    here("validate", path)
    assert here.code == 0, here.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        (lambda t: t.update(histroy=4), 2, "Fix: write 'history'"),
        (lambda t: t["data"].update(source="none.nc"), 3, "no such file"),
        (lambda t: t["data"].update(variables=["rian"]), 3, "no variable 'rian'"),
        (lambda t: t["output"].update(folder="/dev/null/run"), 5, "/dev/null/run"),
        (lambda t: t["training"].update(device="cuda:7"), 2, "device"),
        (lambda t: t["training"].update(loss="rain-weighted") or t["data"].update(variables=["wind"]), 3, "wind"),
        (lambda t: t.update(history=30), 3, "would be left to train on"),
        (lambda t: t["network"].update(hidden=[40000, 40000]) or t["training"].update(batch_size=64), 4, "needs about"),
        (
            lambda t: t.update(network={"name": "st-resnet", "hidden": [4], "period": 1, "frames_a_day": 24}),
            2,
            "24, and the data have a frame every 5 min, expected 288",
        ),
    ],
)
def test_faults_of_recipes(
    change: Any, code: int, detail: str, here: Here, tree: dict[str, Any], tmp_path: Path
) -> None:
    change(tree)
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(tree))
    here("validate", path)
    assert here.code == code, here.out
    assert "FAIL" in here.out
    assert detail in here.out


def test_a_recipe_that_ships_is_known_by_its_name(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here("validate", "quickstart")
    assert here.code == 0
    assert here.out.startswith("quickstart: recipe")


def test_what_cannot_be_validated_is_said(here: Here, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("a")
    here.fails(2, "is scores, expected a recipe, frames or a saved nowcaster", "validate", tmp_path / "scores.csv")


def test_of_several_grids_one_is_validated_and_the_others_are_named(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    of_two_grids(rain(20)).to_netcdf(file)
    found = findings(here, file)
    assert found["dimensions"] == (
        "PASS", "time: time, y: y, x: x; on other grids, and not looked at: model, satellite",
    )  # fmt: skip
    assert found["variables"][1] == "1 channel: rain"
    assert findings(here, file, "--variable", "model")["time"][1].startswith("4 frames every 30 min")


def test_a_file_of_wrf_passes(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "wrfout.nc"
    wrf(20).to_netcdf(file)
    found = findings(here, file)
    assert here.code == 0
    assert found["grid"][1].startswith("24 x 20, two-dimensional XLAT and XLONG")
    assert found["time"][1].startswith("20 frames every 5 min, 2020-06-01T00:00 to 2020-06-01T01:35")


def test_a_picture_that_sorting_has_torn_is_found(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    longitudes = ("x", (np.arange(20) + 168.0 + 180) % 360 - 180, {"units": "degrees_east"})
    whole = rain(12).assign_coords(x=longitudes).rename(x="lon")
    whole.to_netcdf(file)
    assert "a jump" not in findings(here, file)["grid"][1]
    whole.sortby("lon").to_netcdf(tmp_path / "b.nc")
    status, detail = findings(here, tmp_path / "b.nc")["grid"]
    assert status == "WARN"
    assert "a jump from -173 to 168" in detail
    assert "ds.assign_coords({'lon': ds['lon'] % 360}).sortby('lon') puts it together" in detail
