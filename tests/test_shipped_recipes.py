"""Every recipe that ships, run to its end in a shrunken way: a tiny network, few updates, part of the data.

On real data where SA_NOWCAST_DATA names them, else on files made in the layout in which the sources are published.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import georeferenced, rain
from sources.source_files import digit_folder, taxibj_stamps, write_taxibj

from sa_nowcast import cli
from sa_nowcast.recipe import read_recipe
from sa_nowcast.workflow import pictures

RECIPES = Path(__file__).parents[1] / "recipes"
TINY = ["training.max_steps=2", "training.batch_size=2", "training.validate_every=2", "training.validation_samples=2",
        "network.hidden=[2]", "verification.bootstrap.samples=10", "training.device=cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "draw", lambda *args: args[-1].write_bytes(b"picture"))


def shrunken(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *overrides: str
) -> pd.DataFrame:
    """Run `sa-nowcast run NAME --set ...`, and return the scores."""
    arguments = ["sa-nowcast", "run", name, "--quiet", "--output", str(folder / "run")]
    for override in (*TINY, *overrides):
        arguments += ["--set", override]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0, capfd.readouterr().err
    assert (folder / "run" / "model.nowcaster").is_dir()
    scores = pd.read_csv(folder / "run" / "scores.csv")
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert scores["lead_time_minutes"].nunique() == recipe.steps
    assert set(scores["reference"].dropna()) == {recipe.verification.references[0]}
    for metric in ("mse", "mae", "frame_mse"):
        assert np.isfinite(scores.loc[scores["metric"] == metric, "value"]).all()
    return scores


Shrunken = Callable[..., pd.DataFrame]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shrunken:
    return lambda name, *overrides: shrunken(name, tmp_path, monkeypatch, capfd, *overrides)


def test_every_recipe_that_ships_is_run_here() -> None:
    shipped = {p.relative_to(RECIPES).with_suffix("").as_posix() for p in RECIPES.rglob("*.yaml")}
    text = Path(__file__).read_text()
    radars = {name for name in shipped if name.startswith("radars/")}  # tested with their archives
    radars |= {"service"}  # run by the replay of operations/test_replay.py
    assert {name for name in shipped - radars if f'"{name}"' not in text} == set()


@pytest.mark.slow
def test_quickstart(run: Shrunken) -> None:
    run("quickstart", "training.crop=32", "network=null")  # it starts from the default model


@pytest.mark.parametrize(
    "name",
    [
        "moving_mnist",
        "moving_mnist_small",
        "ablation/sa-convlstm",
        pytest.param("ablation/convlstm", marks=pytest.mark.slow),
        pytest.param("ablation/convlstm-memory", marks=pytest.mark.slow),
        pytest.param("ablation/sa-convlstm-base", marks=pytest.mark.slow),
        pytest.param("ablation/sa-convlstm-no-zm", marks=pytest.mark.slow),
    ],
)
def test_digits(name: str, run: Shrunken, tmp_path: Path) -> None:
    folder = digit_folder(tmp_path / "mnist")
    size = 64 if name.startswith("moving") else 48
    options = f"data.options={{check_hash: false, test_sequences: 3, size: {size}}}"
    scores = run(name, f"data.source={folder}", options, "network.kernel=3", "network.patch=8")
    assert {"frame_mse", "frame_mae", "ssim"} <= set(scores["metric"])


@pytest.mark.slow
def test_taxibj(run: Shrunken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for year, days in (("13", 5), ("14", 6)):
        write_taxibj(tmp_path / f"BJ{year}_M32x32_T30_InOut.h5", taxibj_stamps(f"20{year}-03-01", days))
    monkeypatch.setenv("TAXIBJ", str(tmp_path))
    few = "data.options={}"  # the benchmark's split needs more than four weeks
    scores = run("taxibj", few, "split.test=0.08", "network.kernel=3", "network.patch=8")
    assert set(scores["model"]) == {"sa-convlstm", "climatology"}
    assert len(scores[(scores["metric"] == "frame_mse") & (scores["model"] == "climatology")]) == 4


@pytest.mark.slow
def test_kth(run: Shrunken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sources.test_kth import write_film

    folder = tmp_path / "films"
    folder.mkdir()
    for person, films in ((1, 2), (16, 1), (20, 1)):
        for scenario in range(1, films + 1):
            write_film(folder / f"person{person:02d}_boxing_d{scenario}_uncomp.avi", 100, grey=person)
    monkeypatch.setenv("KTH", str(folder))
    shares = ("split.test=0.25", "split.validation=0.25", "data.options={length: 30, size: 32}", "network.patch=8")
    assert {"psnr", "ssim"} <= set(run("kth", *shares, "network.kernel=3")["metric"])
    assert (tmp_path / "run" / "forecast.zarr").is_dir()


@pytest.mark.slow
def test_radar_composite(run: Shrunken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    georeferenced(rain(60)).to_zarr(tmp_path / "radar.zarr", zarr_format=3, consolidated=False)
    monkeypatch.setenv("RADAR", str(tmp_path / "radar.zarr"))
    run("radar_composite", "training.crop=16", f"conversion={{to: {tmp_path / 'converted.zarr'}}}")
    assert (tmp_path / "converted.zarr").is_dir()


@pytest.mark.slow
def test_temperature_era5(run: Shrunken, real_data: Path) -> None:
    run("temperature_era5", "forecast.stride=12")


def test_traffic_nyc(run: Shrunken, real_data: Path) -> None:
    run("traffic_nyc", "forecast.stride=8")


@pytest.mark.slow
def test_radar_mrms(run: Shrunken, real_data: Path) -> None:
    run("radar_mrms", "training.crop=32", "split.train_region={latitude: [49.5, 50.3]}",
        "split.test_region={latitude: [42.5, 43.0]}")  # fmt: skip


@pytest.mark.slow
def test_satellite_hrv(run: Shrunken, real_data: Path) -> None:
    run("satellite_hrv", "training.crop=32", "split.train_region={x: [-600000, -450000]}",
        "split.test_region={x: [-100000, 29000]}")  # fmt: skip


@pytest.mark.slow
def test_radar_mrms_reads_files_of_that_layout(run: Shrunken, tmp_path: Path) -> None:
    """Where the real file is not there: the same grid of coordinates, smaller, and packed as that file is."""
    times = pd.date_range("2019-06-10", periods=36, freq="2min")
    latitude, longitude = np.linspace(50.2, 40.0, 64), np.linspace(-94, -88, 24)
    values = np.random.default_rng(0).gamma(0.5, 2.0, (36, 64, 24)).round(2)
    rates = xr.DataArray(
        values, {"time": times, "latitude": latitude, "longitude": longitude}, ("time", "latitude", "longitude"),
        name="precip_rate", attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    )  # fmt: skip
    packing = {"precip_rate": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1}}
    rates.to_netcdf(tmp_path / "mrms.nc", encoding=packing)
    run("radar_mrms", f"data.source={tmp_path / 'mrms.nc'}", "training.crop=16")


def test_default_model(run: Shrunken) -> None:
    options = "data.options={size: 32, test_sequences: 3}"
    scores = run("default_model", "data.source=sample:mrms", options)
    assert scores["lead_time_minutes"].tolist()[:5] == [5, 10, 15, 20, 25]


def test_default_model_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rain(18, 40, 36).to_netcdf(tmp_path / "rain.nc")
    sets = f"sets=[{{name: showers, source: {tmp_path}/rain.nc}}]"
    arguments = ["sa-nowcast", "run", "default_model_scores", "--output", str(tmp_path / "run"), "--set", sets]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capfd.readouterr()
    assert caught.value.code == 0, err
    assert "showers" in out
    assert "default / persistence" in out
    assert "default / best" in out
    assert "default:matched frequency_bias_0.1" in out
    assert len(pd.read_csv(tmp_path / "run" / "scores.csv")) == 12 * 12


def test_ensemble_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    rain(17, 64, 64).to_netcdf(tmp_path / "rain.nc")
    sets = f"sets=[{{name: showers, source: {tmp_path}/rain.nc}}]"
    arguments = ["sa-nowcast", "run", "ensemble_scores", "--output", str(tmp_path / "run"), "--set", sets]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "members=2"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    _, err = capfd.readouterr()
    assert caught.value.code == 0, err
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert set(scores["model"]) == {"default:members", "steps", "default", "persistence", "sprog"}
    assert set(scores["field"]) == {"pixel", "20 km", "1 h"}
    assert scores.loc[(scores["model"] == "default:members") & (scores["field"] == "pixel"), "crps_fair"].notna().all()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("networks/radar", marks=pytest.mark.slow),
        pytest.param("networks/moving_mnist", marks=pytest.mark.slow),
        pytest.param("networks/traffic", marks=pytest.mark.slow),
    ],
)
def test_networks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], request: Any
) -> None:
    small = [*TINY, "network.kernel=3", "network.patch=8"]
    if name == "networks/radar":
        small += ["training.crop=16", "split.train_region={latitude: [49.9, 50.3]}",
                  "split.test_region={latitude: [45.0, 45.5]}"]  # fmt: skip
    elif name == "networks/moving_mnist":
        folder = digit_folder(tmp_path / "mnist")
        small += [f"data.source={folder}", "data.options={check_hash: false, test_sequences: 2}"]
    else:
        request.getfixturevalue("real_data")
        small += ["forecast.stride=40"]
    overrides = ", ".join(f"'{one}'" for one in small)
    arguments = ["sa-nowcast", "run", "networks", "--quiet", "--output", str(tmp_path / "runs")]
    for one in (f"only=[{name}]", "networks=[unet, fc-lstm]", f"overrides=[{overrides}]"):
        arguments += ["--set", one]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capfd.readouterr()
    assert caught.value.code in (0, None), err
    rows = {cells[1].strip(): cells[2:-1] for line in out.splitlines() if len(cells := line.split("│")) > 2}
    assert set(rows) == {"persistence", "default", "unet", "fc-lstm"}
    assert all(float(cell) > 0 for cell in rows["unet"])
    cannot = name == "networks/radar"
    assert (rows["fc-lstm"][0].strip() == "cannot") == cannot
    assert ("the weights of fc-lstm are bound to" in out) == cannot


def test_paper_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    folder, runs = digit_folder(tmp_path / "mnist"), tmp_path / "runs"
    options = "'data.options={check_hash: false, test_sequences: 2}'"
    small = [*TINY, f"data.source={folder}", "network.kernel=3", "network.patch=8", "pictures.scores=false"]
    overrides = ", ".join([*(f"'{one}'" for one in small), options])
    wanted = ["--set", "only=[moving_mnist]", "--set", "networks=[convlstm]", "--set", f"overrides=[{overrides}]"]

    def tables(*more: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["sa-nowcast", "run", "paper_tables", "--output", str(runs), *wanted, *more])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        assert caught.value.code in (0, None), err
        return out, err

    out, err = tables("--dry-run")
    assert "moving_mnist convlstm: data: " in err
    assert not runs.exists()
    out, _ = tables("--set", "run=false")
    assert out.count("missing") == 3 + 4
    assert not runs.exists()
    out, err = tables("--quiet")
    scores = pd.read_csv(runs / "moving_mnist" / "convlstm" / "scores.csv")
    ours = [scores.loc[scores["metric"] == name, "value"].mean() for name in ("ssim", "frame_mse", "frame_mae")]
    row, with_parameters = (line for line in out.splitlines() if " convlstm " in line)
    printed_and_ours = [pair for here, there in zip(("0.852", "63.98", "133.34"), ours, strict=True)
                        for pair in (here, f"{there:.4g}")]  # fmt: skip
    assert [cell.strip() for cell in row.split("│")[2:-1]] == printed_and_ours
    assert float(with_parameters.split("│")[3]) > 0
    assert "Table 1, MovingMNIST" in out
    assert "TaxiBJ" not in out
    assert len(pd.read_csv(runs / "tables.csv")) == 3 + 4
    again, err = tables()
    assert again == out
    assert "training" not in err
