"""verify and plot: the scores of Python, in one table on one sample; pictures of what is in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from command_line import Here
from PIL import Image
from sequences import georeferenced, rain, traffic, weather

import sa_nowcast
from sa_nowcast import plotting
from sa_nowcast.forecasts.cf import write_forecast
from sa_nowcast.sources.opening import open_forecast
from sa_nowcast.verification.table import from_table
from sa_nowcast.workflow.scoring import read_scores, write_scores


@pytest.fixture
def archives(radar: Path, saved: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Of the network from all init times, and of persistence with fewer of them and one lead time less."""
    with xr.open_dataset(radar) as ds:
        sa_nowcast.hindcast.hindcast(ds, str(saved), to=tmp_path / "net.zarr")
        late = slice("2020-06-01T01:00", None)
        sa_nowcast.hindcast.hindcast(ds, "persistence", 2, init_times=late, to=tmp_path / "still.zarr")
    return tmp_path / "net.zarr", tmp_path / "still.zarr"


def test_scores_are_those_of_python_on_the_init_times_that_truth_holds(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path
) -> None:
    net, _ = archives
    here("verify", net, radar, "--threshold", "1", "-o", tmp_path / "s.csv", "--json")
    assert here.code == 0, here.err
    assert "left out: 3 of 37 init times" in here.err
    with xr.open_dataset(radar) as ds:
        archive = open_forecast(str(net)).isel(init_time=slice(None, 34)).compute()
        wanted = sa_nowcast.to_table(sa_nowcast.verify(archive, ds, ["mse", "csi"], [1.0], "persistence"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), wanted, check_exact=False, rtol=1e-12)
    document = json.loads(here.out)
    assert [row["value"] for row in document["scores"]] == pytest.approx(wanted["value"].tolist(), rel=1e-12)


def test_several_archives_stand_in_one_table_on_what_all_of_them_have(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path
) -> None:
    here("verify", *archives, radar, "-o", tmp_path / "s.nc")
    assert here.code == 0, here.err
    assert "1 of 3 lead times" in here.err
    assert {"net", "still", "persistence"} <= set(here.out.replace("│", " ").split())
    assert "lead [min]" in here.out
    scores = read_scores(str(tmp_path / "s.nc"))
    assert list(scores) == ["net", "still"]
    assert scores["net"].sizes["lead_time"] == 2
    # Persistence against persistence: the same numbers, so that the sample is the same.
    np.testing.assert_array_equal(scores["still"]["mse"], scores["net"]["mse_persistence"])


def test_what_is_left_out_of_the_scores_is_said_in_one_line(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path
) -> None:
    archive = open_forecast(str(archives[0])).load()
    archive[{"init_time": 2}] = np.nan
    write_forecast(archive, tmp_path / "gappy.nc")
    here("verify", tmp_path / "gappy.nc", radar)
    assert here.code == 0, here.err
    (line,) = [line for line in here.err.splitlines() if "left out of all scores" in line]
    assert line.startswith("warning: 1 init times are left out of all scores at some lead time, first ")
    assert "ForecastWarning" not in here.err


def test_ensembles_of_different_sizes_stand_in_one_file(tmp_path: Path) -> None:
    da = rain()
    archive = da.sa_nowcast.hindcast(2, model="persistence")[:-2].compute()
    noise = np.random.default_rng(0).gamma(1.0, size=(5, *archive.shape))
    members = (archive + xr.DataArray(noise, dims=("realization", *archive.dims))).assign_attrs(archive.attrs)
    few = members.isel(realization=slice(3))
    scores = sa_nowcast.compare({"three": few, "five": members}, da, ["mse", "rank_histogram"])
    write_scores(scores, tmp_path / "s.nc")
    read = read_scores(str(tmp_path / "s.nc"))
    for name, count in (("three", 4), ("five", 6)):
        xr.testing.assert_equal(read[name]["rank_histogram"][:, :count], scores[name]["rank_histogram"])
    assert read["three"]["rank_histogram"][:, 4:].isnull().all()
    scores = sa_nowcast.compare({"three": few, "five": members}, da, ["reliability", "rank_histogram"], [1.0])
    write_scores(scores, tmp_path / "p.nc")
    axes = plotting.plot_diagrams(read_scores(str(tmp_path / "p.nc"))).axes
    for made, kept in zip(plotting.plot_diagrams(scores).axes, axes, strict=True):
        for drawn, again in zip(made.lines, kept.lines, strict=True):
            np.testing.assert_allclose(again.get_xydata(), drawn.get_xydata())
        assert [bar.get_height() for bar in kept.patches] == [bar.get_height() for bar in made.patches]


def test_an_archive_of_members_is_scored_by_probabilities_in_a_table_by_lead_time(here: Here, tmp_path: Path) -> None:
    da = rain()
    archive = da.sa_nowcast.hindcast(2, model="persistence")[:-2].compute()
    noise = np.random.default_rng(0).gamma(1.0, size=(4, *archive.shape))
    members = (archive + xr.DataArray(noise, dims=("realization", *archive.dims))).assign_attrs(archive.attrs)
    write_forecast(members, tmp_path / "m.nc")
    da.to_netcdf(tmp_path / "rain.nc")
    asked = ["--metric", "fair-crps", "--metric", "roc", "--metric", "rank_histogram", "--threshold", "1"]
    here("verify", tmp_path / "m.nc", tmp_path / "rain.nc", *asked, "-o", tmp_path / "s.csv")
    assert here.code == 0, here.err
    assert "roc_area>=1" in here.out
    told = " ".join(here.out.split())
    assert "not shown, by rank or probability: roc_hit_rate, roc_false_alarm_rate, rank_histogram" in told
    names = ["crps_fair", "roc", "rank_histogram"]
    expected = sa_nowcast.to_table(sa_nowcast.verify(members, da, names, [1.0], "persistence", valid_times="common"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), expected, check_exact=False, rtol=1e-12)
    here("verify", tmp_path / "m.nc", tmp_path / "rain.nc", "--metric", "rank_histogram")
    assert here.code == 0, here.err
    assert "rank_histogram of rank 4" in here.out


def test_an_archive_can_be_the_reference_and_none_is_needed(
    here: Here, radar: Path, archives: tuple[Path, Path]
) -> None:
    net, still = archives
    here("verify", net, radar, "--reference", still, "--json")
    rows = json.loads(here.out)["scores"]
    assert {row["reference"] for row in rows} == {"still"}
    assert all(np.isfinite(row["skill"]) for row in rows)
    here("verify", net, radar, "--reference", "none")
    assert here.code == 0
    assert "ratio" not in here.out


def test_a_dry_run_checks_all_and_reads_nothing(here: Here, radar: Path, archives: tuple[Path, Path]) -> None:
    here("verify", *archives, radar, "--dry-run", "--json")
    document = json.loads(here.out)
    assert document["lead_times"] == ["5 min", "10 min"]
    assert document["reference"] == "persistence"


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--metric", "msee"], 2, "msee"),
        (["--metric", "fss", "--threshold", "wet"], 2, "wet"),
        (["--threshold", "1 K"], 2, "K"),
        (["--reference", "none.zarr"], 3, "DATA none.zarr: no such file or folder"),
        (["-o", "/dev/null/s.csv"], 5, "STORAGE /dev/null/s.csv: cannot be written"),
        (["-o", "s.xlsx"], 2, "ends in '.xlsx', expected one of .csv, .nc"),
    ],
)  # fmt: skip
def test_what_stops_it_is_the_same_line_in_a_dry_run(
    options: list[str], code: int, line: str, dry: bool, here: Here, radar: Path, archives: tuple[Path, Path]
) -> None:
    here.fails(code, line, "verify", archives[0], radar, *options, *(["--dry-run"] * dry))


def test_truth_in_other_units_of_another_time_or_grid_is_one_line(
    here: Here, archives: tuple[Path, Path], tmp_path: Path
) -> None:
    net, _ = archives
    ds = georeferenced(rain(40))
    wrong = {"units": ds.copy(), "later": ds.assign_coords(time=ds["time"] + np.timedelta64(30, "D"))}
    wrong["units"]["rain"].attrs["units"] = "K"
    wrong["grid"] = ds.isel(x=slice(None, None, 2))
    for name, truth in wrong.items():
        truth.to_netcdf(tmp_path / f"{name}.nc")
    here.fails(3, "K", "verify", net, tmp_path / "units.nc")
    here.fails(3, "truth from 2020-07-01", "verify", net, tmp_path / "later.nc")
    here("verify", net, tmp_path / "grid.nc")
    assert here.code == 3
    (tmp_path / "frames.nc").write_bytes((tmp_path / "later.nc").read_bytes())
    here.fails(
        3, "no variable with lead_time (variables: rain", "verify", tmp_path / "frames.nc", tmp_path / "later.nc"
    )


def test_a_table_is_read_back_as_the_scores_it_was_made_of(radar: Path, archives: tuple[Path, Path]) -> None:
    with xr.open_dataset(radar) as ds:
        archive = open_forecast(str(archives[0])).isel(init_time=slice(None, 34)).compute()
        scores = sa_nowcast.verify(archive, ds, ["mse", "csi", "fss"], [1.0, 2.0], "persistence")
    again = from_table(sa_nowcast.to_table(scores))[""]
    for name in ("mse", "mse_skill", "csi_persistence", "fss"):
        np.testing.assert_array_equal(again[name].transpose(*scores[name].dims), scores[name])
        np.testing.assert_array_equal(again[name]["lead_time"], scores[name]["lead_time"])


def test_several_variables_are_read_back_along_variable(weather_nowcaster: object, tmp_path: Path) -> None:
    archive = weather().sa_nowcast.hindcast(model=weather_nowcaster).compute()
    weather().sa_nowcast.hindcast(model=weather_nowcaster, to=tmp_path / "w.zarr")
    again = open_forecast(str(tmp_path / "w.zarr"))
    xr.testing.assert_equal(again.drop_attrs(), archive.transpose(*again.dims))


def test_pictures_and_animations_of_forecasts_and_scores(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = archives
    monkeypatch.chdir(tmp_path)
    here("plot", net, "--truth", radar, "--history", radar, "--init-time", "2020-06-01T01:00")
    assert (here.code, here.out) == (0, "net.png\n"), here.err
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    here("plot", net, "-o", "film/net.gif")
    assert here.code == 0, here.err
    assert (tmp_path / "film" / "net.gif").read_bytes().startswith(b"GIF8")
    here("verify", net, radar, "-o", "s.csv")
    assert here("plot", "s.csv", "-o", "s.svg").code == 0
    here.fails(2, "an animation of scores", "plot", "s.csv", "-o", "s.gif")
    here.fails(5, "net.png: exists already", "plot", net)
    here.fails(3, "is not among the init times", "plot", net, "-o", "b.png", "--init-time", "2021-01-01")
    here.fails(2, "--metric: given for", "plot", radar, "-o", "c.png", "--metric", "mse")
    here.fails(3, "DATA none.nc: no such file or folder", "plot", "none.nc")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    here.fails(3, "columns a, b", "plot", "wrong.csv", "-o", "d.png")
    before = sorted(tmp_path.iterdir())
    here("plot", net, "-o", "e.png", "--dry-run", "--json")
    assert json.loads(here.out)["drawn"] == "forecast from 2020-06-01T03:15"
    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_is_drawn_where_it_has_truth_and_says_where_it_has_none(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = archives
    monkeypatch.chdir(tmp_path)
    # The last of forty frames every 5 minutes is of 03:15, and three lead times follow an init time.
    for name in ("a.png", "a.gif"):
        here("plot", net, "--truth", radar, "-o", name, "--json")
        assert here.code == 0, here.err
        found = json.loads(here.out)
        assert (found["drawn"], found["notes"]) == ("forecast from 2020-06-01T03:00", [])
    here("plot", net, "--truth", radar, "-o", "b.gif", "--init-time", "2020-06-01T03:10")
    assert here.code == 0, here.err
    assert here.err.splitlines() == [
        "no truth at 2 of 3 valid times, the first is 2020-06-01T03:20",
        "drew forecast from 2020-06-01T03:10",
    ]
    with xr.open_dataset(radar) as ds:
        ds.isel(time=slice(None, 12)).to_netcdf("early.nc")
    here("plot", net, "--truth", "early.nc", "-o", "c.png")
    assert "drew forecast from 2020-06-01T00:40" in here.err


def test_forecasts_are_drawn_beside_each_other_under_the_names_of_their_files(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = archives
    drawn: list[list[str]] = []
    animate = plotting.animate
    monkeypatch.setattr(
        plotting, "animate", lambda data, *args, **k: drawn.append([*data]) or animate(data, *args, **k)
    )
    monkeypatch.chdir(tmp_path)
    with_others = ("plot", net, "--beside", other, "--beside", "persistence")
    here(*with_others, "--truth", radar, "-o", "a.gif")
    assert here.code == 0, here.err
    assert drawn == [["net", other.stem, "persistence"]]
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF8")
    here(*with_others, "--history", radar, "-o", "a.png")
    assert here.code == 0, here.err
    here.fails(2, "--beside: persistence, expected frames to take it from", *with_others, "-o", "b.png")
    here.fails(2, "--beside: given for", "plot", radar, "--beside", net, "-o", "b.png")
    here.fails(3, "DATA none.nc: no such file or folder", "plot", net, "--beside", "none.nc", "-o", "b.png")


def test_frames_are_drawn_without_a_model(
    here: Here, radar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here("plot", radar, "-o", "a.png")
    assert (here.code, here.out) == (0, "a.png\n"), here.err
    assert here.err == "drew 6 frames, 2020-06-01T02:50 to 2020-06-01T03:15\n"
    here("plot", radar, "-o", "a.gif", "--last", "3", "--init-time", "2020-06-01T01:00")
    assert here.err == "drew 3 frames, 2020-06-01T00:50 to 2020-06-01T01:00\n"
    with Image.open("a.gif") as film:
        assert film.n_frames == 3
    here("plot", "sample:mrms", "-o", "m.png", "--dry-run")
    assert here.err == "would draw 6 frames, 2019-06-10T01:00 to 2019-06-10T01:10\n"
    here.fails(2, "no frame at 2021-01-01T00:00, expected one of 40 times", "plot", radar, "-o", "b.png",
               "--init-time", "2021-01-01")  # fmt: skip
    here.fails(2, "--truth: given for", "plot", radar, "-o", "b.png", "--truth", radar)
    here.fails(3, "DATA none.nc", "plot", "none.nc")
    xr.Dataset({"a": ("k", [1.0])}).to_netcdf("k.nc")
    here.fails(3, "no time dimension among k", "plot", "k.nc")
    assert not Path("b.png").exists()


def test_frames_of_several_variables_and_unknown_dimensions_are_chosen_by_options(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = weather().drop_attrs().rename(y="down", x="across")
    plain.assign(temperature=plain["temperature"].assign_attrs(units="K")).to_netcdf("w.nc")
    here("plot", "w.nc", "-o", "w.png", "--y", "down", "--x", "across")
    assert here.code == 2
    assert "it has 2 variables and none is chosen, expected one of rain, temperature" in here.err
    here("plot", "w.nc", "-o", "w.png", "--y", "down", "--x", "across", "--variable", "temperature")
    assert here.code == 0, here.err
    traffic().to_netcdf("t.nc")
    here.fails(2, "2 of channel and none is chosen, expected one of in, out", "plot", "t.nc", "-o", "t.png")
    here("plot", "t.nc", "-o", "t.png", "--channel", "out")
    assert here.code == 0, here.err


def test_a_run_and_a_model_are_answered_with_what_can_be_drawn(here: Here, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    (tmp_path / "run" / "scores.csv").write_text("a,b\n1,2\n")
    fix = f"a run, expected a forecast, an archive, scores or frames. Fix: sa-nowcast plot {tmp_path}/run/scores.csv"
    here.fails(2, fix, "plot", tmp_path / "run", "-o", tmp_path / "a.png")
    here.fails(2, "a model, expected a forecast", "plot", saved, "-o", tmp_path / "a.png")


def test_scales_intervals_and_diagrams_of_scores_are_those_of_python(
    here: Here, radar: Path, archives: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = archives
    monkeypatch.chdir(tmp_path)
    asked = ["--metric", "mae", "--metric", "reliability", "--metric", "spectra", "--threshold", "1"]
    here("verify", net, radar, *asked, "--scale", "pixel", "--scale", "4 pixels 15 min", "--intervals", "-o", "s.csv")
    assert here.code == 0, here.err
    with xr.open_dataset(radar) as ds:
        archive = open_forecast(str(net)).isel(init_time=slice(None, 34)).compute()
        scales = ["pixel", "4 pixels 15 min"]
        wanted = sa_nowcast.verify(archive, ds, ["mae"], scales=scales, valid_times="common")
    rows = pd.read_csv("s.csv")
    own = rows[(rows["metric"] == "mae") & (rows["scale"] == "4 pixels 15 min") & (rows["lead_time_minutes"] == 15)]
    assert own["value"].item() == pytest.approx(wanted["mae"].sel(scale=scales[1]).isel(lead_time=-1).item())
    assert own["lower"].item() < own["value"].item() < own["upper"].item()
    here("plot", "s.csv", "--kind", "reliability", "--kind", "spectra", "--lead-time", "5min", "-o", "d.png")
    assert here.code == 0, here.err
    assert "drew reliability, spectra" in here.err
    here.fails(2, "no rank is in them", "plot", "s.csv", "--kind", "rank", "-o", "e.png")
    here.fails(2, "'members' of s.csv", "plot", "s.csv", "--kind", "members", "-o", "e.png")
    here.fails(2, "--point: given for", "plot", "s.csv", "--point", "1", "1", "-o", "e.png")
    here.fails(2, "'20 knots' is none", "verify", net, radar, "--scale", "20 knots")


def test_pictures_of_members_are_drawn_from_a_file(
    here: Here, radar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with xr.open_dataset(radar) as ds:
        still = sa_nowcast.persistence(ds["rain"].load(), init_time=ds["time"].values[20], lead_times=["5min", "10min"])
        members = xr.concat([still * factor for factor in (0.5, 1.0, 2.0)], "realization").assign_attrs(still.attrs)
        write_forecast(members, "m.nc")
    for kind, given in (
        ("probability", ["--threshold", "1"]),
        ("members", ["--lead-time", "10min"]),
        ("meteogram", ["--point", "50.05", "5.05"]),
    ):
        here("plot", "m.nc", "--kind", kind, *given, "--truth", radar, "-o", f"{kind}.png")
        assert here.code == 0, here.err
        assert (tmp_path / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    here.fails(2, "probability without thresholds", "plot", "m.nc", "--kind", "probability", "-o", "a.png")
    here.fails(2, "an animation of members", "plot", "m.nc", "--kind", "members", "-o", "a.gif")
    here.fails(2, "probability, members of a forecast", "plot", "m.nc", "--kind", "probability", "--kind", "members",
               "-o", "a.png")  # fmt: skip
