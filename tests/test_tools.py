"""The tools that train on MovingMNIST run from end to end, at a tiny size, and go on where they stopped."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.recipe import read_recipe
from sa_nowcast.sources import MovingMnist
from sa_nowcast.sources.mnist_generator import TEST_SEED
from sa_nowcast.windows import split_in_time
from sa_nowcast.workflow import train

ROOT = Path(__file__).parent.parent
PAPERS = {"sa-convlstm", "sa-convlstm-base", "convlstm", "convlstm-memory", "sa-convlstm-no-zm"}
"""The networks of the paper's ablation."""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up digits in MNIST's layout: training ones bright, test ones dim."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for name, low in (("train-images-idx3-ubyte", 200), ("t10k-images-idx3-ubyte", 100)):
        images = np.zeros((20, 28, 28), np.uint8)
        images[:, 5:24, 6:22] = rng.integers(low, low + 50, (20, 19, 16))
        (folder / name).write_bytes(b"\x00\x00\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes())
    return folder


def test_the_ablation_recipes_differ_in_the_network_alone() -> None:
    recipes = {path.stem: read_recipe(path) for path in (ROOT / "recipes" / "ablation").glob("*.yaml")}
    assert set(recipes) == set(load("ablation").NETWORKS) == PAPERS
    common = []
    for name, recipe in recipes.items():
        fields = recipe.model_dump(exclude={"name", "description", "output"})
        assert fields["network"].pop("name") == name
        common.append(fields)
    assert all(fields == common[0] for fields in common)


def test_the_ablation_runs_every_seed_once(mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load("ablation")
    call = ["--mnist", str(mnist), "--other-digits", "--output", str(tmp_path), "--seeds", "0", "1"]
    call += ["--networks", "convlstm", "--updates", "1", "--test-sequences", "2"]
    assert tool.main(call) == 0
    first = capsys.readouterr()
    assert [line.split("|")[1].strip() for line in first.out.splitlines()] == ["network", "---", "convlstm"]
    assert first.out == (tmp_path / "table.md").read_text()
    assert first.err.splitlines() == ["convlstm, seed 0: done", "convlstm, seed 1: done"]
    assert tool.main(call) == 0
    assert capsys.readouterr().err.count("was done before") == 2
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores.groupby(["network", "seed"]).ngroups == 2


def test_digits_made_while_training_are_not_moved(mnist: Path, tmp_path: Path) -> None:
    recipe = read_recipe(ROOT / "recipes" / "ablation" / "convlstm.yaml")
    changed = {
        "data": recipe.data.model_copy(update={"source": str(mnist), "options": {"check_hash": False}}),
        "training": recipe.training.model_copy(update={"augment": ("flips",)}),
        "output": recipe.output.model_copy(update={"folder": str(tmp_path)}),
    }
    with pytest.raises(RecipeError, match=r"training\.augment: given for sequences that are made while training"):
        train(recipe.model_copy(update=changed), progress=False)


def test_the_ablations_table_has_means_and_spreads_over_seeds() -> None:
    rows = [
        {"network": "convlstm", "seed": seed, "metric": metric, "value": value + lead, "reference_value": 40.0}
        for metric, values in (("frame_mse", (10.0, 14.0)), ("frame_mae", (20.0, 20.0)), ("ssim", (0.5, 0.7)))
        for seed, value in enumerate(values)
        for lead in (-1.0, 1.0)
    ]
    text = load("ablation").table(pd.DataFrame(rows), {"convlstm": 0.25})
    assert text.splitlines()[-1] == "| convlstm | 12.0 ± 2.8 | 20.0 ± 0.0 | 0.600 ± 0.141 | 0.300 | 0.250 |"


def test_the_gpu_tool_trains_scores_and_writes_all_it_promises(
    mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load("moving_mnist_gpu")
    call = ["--mnist", str(mnist), "--other-digits", "--output", str(tmp_path), "--minutes", "5", "--device", "cpu"]
    call += ["--hidden", "2", "--updates", "2", "--test-sequences", "3", "--batch", "2"]
    assert tool.main(call) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "summary.md").read_text()
    assert "| Lin et al. 2020 | 80000 | | 43.9 | 94.7 | 0.913 |  |  | 1.4 (GTX 1080 Ti) |" in text
    for preset in ("faithful", "tuned"):
        folder = tmp_path / preset
        assert {"curve.csv", "curve.png", "scores.csv", "model.nowcaster", "model-half.nowcaster", "training"} <= {
            p.name for p in folder.iterdir()
        }
        assert pd.read_csv(folder / "curve.csv")["update"].tolist() == [1, 2]
        options = Nowcaster.load(folder / "model.nowcaster").provenance["options"]
        assert options["training"]["preset"] == preset
        # Scored part by part and in batches, against one sequence after another.
        scores = pd.read_csv(folder / "scores.csv")
        got = scores[scores["metric"] == "frame_mse"]["value"].to_numpy()
        np.testing.assert_allclose(got, _frame_mse(Nowcaster.load(folder / "model.nowcaster"), mnist), rtol=1e-5)


def _frame_mse(nowcaster: Nowcaster, mnist: Path) -> np.ndarray:
    test = MovingMnist(mnist, "test", seed=TEST_SEED, check_hash=False)
    x = torch.stack([torch.from_numpy(test[i].astype(np.float32) / 255)[:, None] for i in range(3)])
    with torch.inference_mode():
        forecasts = [nowcaster.network(one[None, :10], steps=10)[0].clamp(0, 1) for one in x]
        errors = [(z - one[10:]).square().sum(dim=(1, 2, 3)) for z, one in zip(forecasts, x, strict=True)]
    return torch.stack(errors).mean(0).numpy()


def test_the_gpu_tool_ends_a_call_in_time_and_the_next_one_goes_on(
    mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load("moving_mnist_gpu")
    call = ["--mnist", str(mnist), "--other-digits", "--output", str(tmp_path), "--minutes", "0.05", "--device", "cpu"]
    call += ["--hidden", "2", "--presets", "faithful", "--updates", "100000", "--test-sequences", "2"]
    assert tool.main([*call, "--call-minutes", "0.03"]) == 75
    assert "go on" in capsys.readouterr().err
    assert not (tmp_path / "summary.md").exists()
    assert tool.main(call) == 0
    assert "| faithful |" in capsys.readouterr().out
    assert Nowcaster.load(tmp_path / "faithful" / "model.nowcaster").provenance["ended_by"] == "max_time"


def test_the_radars_recipes_differ_in_the_data_alone_and_hold_the_latest_frames_back() -> None:
    tool = load("radars")
    recipes = {path.stem: read_recipe(path) for path in (ROOT / "recipes" / "radars").glob("*.yaml")}
    assert set(recipes) == set(tool.RADARS)
    for recipe in recipes.values():
        split = recipe.split
        for frames in (40, 60, 72):
            parts = split_in_time(
                frames, recipe.history + recipe.steps, validation=split.validation, test=split.test, guard=split.guard
            )
            assert parts.test[1] == frames
            assert parts.test[0] - parts.train[1] >= recipe.history
            assert parts.validation[0] == parts.validation[1]


@pytest.mark.slow
def test_a_radar_is_converted_trained_on_and_scored_beside_the_references_once(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load("radars")
    call = ["--data", str(real_data / "radar"), "--output", str(tmp_path), "--radars", "fmi"]
    call += ["--updates", "1", "--cells", "16"]
    assert tool.main(call) == 0
    first = capsys.readouterr()
    assert first.err == "fmi: done\n"
    assert first.out == (tmp_path / "table.md").read_text(encoding="utf-8")
    assert first.out.startswith("FMI, 2017-05-09\n\n| lead time, min | 5 | 10 | 15 | 20 | 25 | 30 |")
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(scores["model"]) == {"network", "persistence", "extrapolation"}
    # The same pixels of the same init times, whatever is scored.
    assert (scores.groupby(["metric", "lead_time_minutes"])["count"].nunique() == 1).all()
    # An update after persistence, which the network starts from.
    mse = scores[scores["metric"] == "mse"].set_index(["model", "reference", "lead_time_minutes"])["value"]
    for minutes in (5.0, 30.0):
        assert mse["network", "persistence", minutes] == pytest.approx(
            scores[(scores["reference"] == "persistence") & (scores["metric"] == "mse")]
            .set_index("lead_time_minutes")["reference_value"][minutes]
            .iloc[0],
            rel=0.05,
        )
    assert (tmp_path / "fmi" / "scores.png").stat().st_size > 0
    assert (tmp_path / "fmi" / "forecast.png").stat().st_size > 0
    began = (tmp_path / "fmi" / "model.nowcaster").stat().st_mtime_ns
    assert tool.main(call) == 0
    assert capsys.readouterr().out == first.out
    assert (tmp_path / "fmi" / "training" / "training.csv").stat().st_mtime_ns <= began


def test_the_radars_tool_says_in_one_line_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("radars").main(["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--radars", "bom"]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_the_card_of_the_default_model_holds_its_scores_by_lead_time() -> None:
    import pandas as pd

    import sa_nowcast

    tool = load("default_model")
    rows = [
        {"set": name, "field": "", "model": model, "lead": lead, "mse": 1.0, "init_times": 7, "best": "steps-mean"}
        | {"skill_persistence": 0.25 * lead, "skill_lower_persistence": 0.1, "skill_upper_persistence": 0.3}
        | {"of_best": 0.1 * lead, "of_best_lower": 0.6, "of_best_upper": 0.9}
        | dict.fromkeys(("frequency_bias_0.1", "csi_5"), 0.5 * lead if name == "radar" else np.nan)
        for name in ("radar", "wind")
        for model in ("default", "default:matched", "persistence", "sprog")
        for lead in (1, 2, 3, 4)
    ]
    table = tool.table(pd.DataFrame(rows))
    for line in (
        "Of the mean forecast, at lead times of 1, 2, 3 steps:",
        "| radar | 0.75 0.50 0.25 | 0.70 0.90 | 0.10 0.20 0.30 | 0.60 0.90 | 0.40 at 4 | steps-mean | 7 |",
        "| data | forecast | frequency bias 0.1 mm/h | CSI 5 mm/h |",
        "| radar | matched | 0.50 1.00 1.50 | 0.50 1.00 1.50 |",
        "| radar | S-PROG | 0.50 1.00 1.50 | 0.50 1.00 1.50 |",
    ):
        assert line in table.splitlines()
    assert sum(line.startswith("| wind") for line in table.splitlines()) == 1
    card = tool.card(sa_nowcast.get_default_model(), table)
    assert table in card
    assert "recipes/default_model.yaml" in card
