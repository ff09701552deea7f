"""Tables of networks: which runs fill them, and what is shown of runs that are there, or cannot be made."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from sequences import NETWORK, OPTIONS, rain

from sa_nowcast import models
from sa_nowcast.errors import Interrupted, RecipeError, StorageError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.recipe import ColumnRecipe, OutputRecipe, TableRecipe, TablesRecipe, checked, find_recipe, read_any
from sa_nowcast.workflow.tables import members, run_tables


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    rain(40).to_netcdf(tmp_path / "rain.nc")
    told = {
        "name": "trial",
        "history": 4,
        "steps": 3,
        "data": {"source": str(tmp_path / "rain.nc")},
        "network": {**NETWORK, "hidden": [2]},
        "training": OPTIONS,
        "verification": {"metrics": ["mse", "mae"], "bootstrap": {"samples": 10}},
        "pictures": {"forecast": False, "scores": False},
        "output": {"folder": "unused"},
    }
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(told))
    return str(path)


@pytest.fixture
def recipe(experiment: str, tmp_path: Path) -> TablesRecipe:
    def table(title: str, printed: dict[Any, tuple[float, ...]], *leads: int | None) -> TableRecipe:
        columns = tuple(ColumnRecipe(score="mse", lead=lead) for lead in leads)
        return TableRecipe(title=title, source="a paper", recipe=experiment, columns=columns, printed=printed)

    whole = table("all", {"convlstm": (1.0,), "sa-convlstm": (0.5,)}, None)
    by_lead = table("by lead", {"sa-convlstm": (0.25, 0.75)}, 1, 3)
    return TablesRecipe(name="trial", tables=(whole, by_lead), output=OutputRecipe(folder=str(tmp_path / "runs")))


def test_each_run_is_made_once_with_its_network_folder_and_the_overrides(recipe: TablesRecipe) -> None:
    told = recipe.model_copy(update={"overrides": ("training.max_steps=7",)})
    found = [member.recipe for member in members(told)[0]]
    assert [each.network["name"] for each in found] == ["convlstm", "sa-convlstm"]
    assert len({each.output.folder for each in found}) == 2
    assert all(Path(each.output.folder).is_relative_to(recipe.output.folder) for each in found)
    assert {each.training.max_steps for each in found} == {7}


def test_figures_of_runs_stand_beside_printed_ones_and_those_that_fail_do_not_stop_others(recipe: TablesRecipe) -> None:
    folder = Path(members(recipe)[0][0].recipe.output.folder)
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where a folder should be")
    lines: list[str] = []
    result = run_tables(recipe, progress=False, report=lines.append)
    ((name, error),) = result.failed
    assert name.endswith("trial.yaml convlstm")
    assert isinstance(error, StorageError)
    assert f"{name}: {error}" in lines
    scores = pd.read_csv(Path(members(recipe)[0][1].recipe.output.folder) / "scores.csv")
    mse = scores[scores["metric"] == "mse"].sort_values("lead_time_minutes")["value"].to_list()
    assert result.figures["printed"].to_list() == [1.0, 0.5, 0.25, 0.75]
    assert result.figures["ours"].to_list()[1:] == pytest.approx([sum(mse) / 3, mse[0], mse[2]])
    assert result.figures["ours"].isna().to_list() == [True, False, False, False]
    kept = pd.read_csv(result.folder / "tables.csv", dtype={"why": str}, keep_default_na=False, na_values={
        name: [""] for name in ("lead", "threshold", "printed", "ours")})  # fmt: skip
    pd.testing.assert_frame_equal(kept, result.figures, check_dtype=False)


def test_an_interruption_ends_the_tables_at_once_and_the_same_call_finishes_them(recipe: TablesRecipe) -> None:
    told = recipe.model_copy(update={"overrides": ("training.max_steps=200",)})
    over, lines = threading.Event(), list[str]()

    def interrupt() -> None:
        while not over.wait(0.1):
            os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=interrupt)
    former = signal.signal(signal.SIGUSR1, lambda *_: None)  # until training listens
    try:
        sender.start()
        with pytest.raises(Interrupted, match=r"at step .* of 200"):
            run_tables(told, progress=False, report=lines.append)
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, former)
    assert any("convlstm (1 of 2)" in line for line in lines)
    assert not any("(2 of 2)" in line for line in lines)
    result = run_tables(told, progress=False, report=lines.append)
    assert result.failed == []
    assert result.figures["ours"].notna().all()


def test_figures_of_runs_by_other_settings_are_not_shown_as_ours(recipe: TablesRecipe) -> None:
    few = recipe.model_copy(update={"networks": ("convlstm",), "tables": recipe.tables[:1]})
    assert run_tables(few, progress=False).figures["ours"].notna().all()
    for run in (False, True):
        lines: list[str] = []
        other = few.model_copy(update={"overrides": ("training.seed=7",), "run": run})
        assert run_tables(other, progress=False, report=lines.append).figures["ours"].isna().all()
        assert sum("it holds a run of another recipe" in line for line in lines) == 1
    assert run_tables(few.model_copy(update={"run": False})).figures["ours"].notna().all()


def test_nothing_is_run_or_written_where_runs_are_not_asked_for(recipe: TablesRecipe) -> None:
    result = run_tables(recipe.model_copy(update={"run": False}))
    assert result.figures["ours"].isna().all()
    assert result.files == []
    assert not result.folder.exists()


@pytest.mark.parametrize(
    ("column", "line"),
    [
        (ColumnRecipe(score="mse", lead=4), "all, columns: lead 4, expected 1 to 3"),
        (ColumnRecipe(score="psnr"), "has no 'psnr', expected one of mse, mae"),
    ],
)
def test_what_the_runs_will_not_score_is_refused_before_any_is_made(
    recipe: TablesRecipe, column: ColumnRecipe, line: str
) -> None:
    table = recipe.tables[0].model_copy(update={"columns": (column,)})
    with pytest.raises(RecipeError, match=line) as caught:
        run_tables(recipe.model_copy(update={"tables": (table,)}))
    assert "\n" not in str(caught.value)
    assert not Path(recipe.output.folder).exists()


def test_an_override_that_the_recipe_does_not_know_is_refused_before_any_is_made(recipe: TablesRecipe) -> None:
    with pytest.raises(RecipeError, match=r"override training\.max_step: unknown key.*max_steps"):
        run_tables(recipe.model_copy(update={"overrides": ("training.max_step=7",)}))


def test_processes_that_train_together_are_refused(recipe: TablesRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost",
                        "MASTER_PORT": 1, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "a"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    with pytest.raises(RecipeError, match="2 processes that train together, expected one process"):
        run_tables(recipe)


def test_networks_alike_beside_persistence_and_the_default_model_with_what_each_costs(
    experiment: str, tmp_path: Path
) -> None:
    columns = [{"score": name} for name in ("mse", "parameters", "gflop", "seconds")]
    recipe = checked(TablesRecipe, {
        "name": "trial", "output": {"folder": str(tmp_path / "runs")}, "overrides": ["network.hidden=[3]"],
        "settings": {"fc-lstm": ["network.patch=3"], f"{experiment} st-resnet": ["network.period=1"]},
        "tables": [{"title": "all", "recipe": experiment, "columns": columns, "beside": ["persistence", "default"],
                    "networks": ["convlstm", "fc-lstm", "st-resnet"]}],
    }, "trial")  # fmt: skip
    lines: list[str] = []
    result = run_tables(recipe, progress=False, report=lines.append)
    figures = result.figures.pivot(index="network", columns="score", values="ours")
    assert list(dict.fromkeys(result.figures["network"])) == [
        "persistence", "default", "convlstm", "fc-lstm", "st-resnet",
    ]  # fmt: skip
    scores = pd.read_csv(next((tmp_path / "runs").rglob("convlstm/scores.csv")))
    persistence = scores.loc[scores["metric"] == "mse", "reference_value"].mean()
    assert figures.loc["persistence", "mse"] == pytest.approx(persistence)
    assert figures.loc["persistence", ["parameters", "gflop", "seconds"]].isna().all()
    untrained = Nowcaster.load(next((tmp_path / "runs").rglob("default/model.nowcaster")))
    shipped = default_model().network.state_dict()
    assert all((value == shipped[name]).all() for name, value in untrained.network.state_dict().items())
    assert figures.loc["default", "mse"] < persistence
    assert figures.loc["default", ["parameters", "gflop"]].notna().all()
    net = models.build("convlstm", hidden=(3,), kernel=3, patch=4)
    assert figures.loc["convlstm", "parameters"] == pytest.approx(sum(p.numel() for p in net.parameters()) / 1e6)
    assert figures.loc["convlstm", ["gflop", "seconds"]].gt(0).all()
    why = dict(zip(result.figures["network"], result.figures["why"], strict=True))
    assert "12x12, which the weights of fc-lstm are bound to, and frames of 24x20" in why["fc-lstm"]
    assert "network.frames_a_day: not given, with period: 1" in why["st-resnet"]
    assert figures.loc[["fc-lstm", "st-resnet"]].isna().all(axis=None)
    assert result.failed == []
    assert sum("fc-lstm: RECIPE network.grid" in line for line in lines) == 1


def test_what_no_network_of_a_table_can_do_is_refused(recipe: TablesRecipe) -> None:
    wrong = dict.fromkeys(("convlstm", "sa-convlstm"), ("network.kernel=4",))
    with pytest.raises(RecipeError, match="4 is even"):
        run_tables(recipe.model_copy(update={"settings": wrong}))
    one = recipe.model_copy(update={"settings": {"convlstm": ("network.kernel=4",)}})
    found, why = members(one)
    assert [member.recipe.network["name"] for member in found] == ["sa-convlstm"]
    assert [name.rpartition(" ")[2] for name in why] == ["convlstm"]


def test_settings_of_a_run_hold_over_those_of_its_network_and_overrides_over_both(recipe: TablesRecipe) -> None:
    (table, _) = recipe.tables
    settings = {
        "convlstm": ("training.max_steps=5", "training.seed=1", "network.hidden=[8]"),
        f"{table.recipe} convlstm": ("training.seed=2", "network.hidden=[16]"),
    }
    told = recipe.model_copy(update={"settings": settings, "overrides": ("network.hidden=[4]",)})
    ours, other = (member.recipe for member in members(told)[0])
    assert (ours.training.max_steps, ours.training.seed, ours.network["hidden"]) == (5, 2, [4])
    assert (other.training.seed, other.network["hidden"]) == (0, [4])


def test_a_score_of_events_is_that_of_its_threshold(experiment: str, tmp_path: Path) -> None:
    columns = [{"score": "csi", "threshold": threshold, "lead": 2} for threshold in (1, 4)]
    told = {"name": "trial", "output": {"folder": str(tmp_path / "runs")},
            "overrides": ["verification={metrics: [csi], thresholds: [1, 4], bootstrap: {samples: 0}}"],
            "tables": [{"title": "all", "recipe": experiment, "columns": columns, "beside": ["persistence"],
                        "networks": ["convlstm"]}]}  # fmt: skip
    result = run_tables(checked(TablesRecipe, told, "trial"), progress=False)
    scores = pd.read_csv(next((tmp_path / "runs").rglob("scores.csv")))
    second = scores[scores["lead_time_minutes"] == 10]
    expected = [*second["reference_value"], *second["value"]]
    assert result.figures["ours"].to_list() == pytest.approx(expected)
    told["tables"][0]["columns"] = [{"score": "csi", "threshold": 2}]
    with pytest.raises(RecipeError, match="threshold 2, expected one of 1, 4"):
        members(checked(TablesRecipe, told, "trial"))


def test_every_row_of_the_papers_tables_is_there_and_can_be_trained() -> None:
    tables = read_any(find_recipe("paper_tables"))
    assert isinstance(tables, TablesRecipe)
    rows = {table.title.partition(",")[0] + table.recipe: len(table.printed) for table in tables.tables}
    assert rows == {
        "Table 1moving_mnist": 5, "Table 1taxibj": 5, "Table 2moving_mnist": 12, "Table 3ataxibj": 8, "Table 3bkth": 8,
    }  # fmt: skip
    found, refused = members(tables)
    assert len(found) == 33  # of 38 rows, five are of runs that fill two tables
    assert refused == {}


def test_every_network_is_in_the_tables_of_networks() -> None:
    tables = read_any(find_recipe("networks"))
    assert isinstance(tables, TablesRecipe)
    assert all(table.rows == models.NAMES for table in tables.tables)
    found, refused = members(tables)
    assert len(found) == 3 * (len(models.NAMES) + 1)
    assert refused == {}
    alike = {"training", "data", "split", "history", "steps"}
    for table in tables.tables:
        own = [m.recipe.model_dump(include=alike) for m in found if m.name.startswith(f"{table.recipe} ")][1:]
        assert all(each == own[0] for each in own)
