from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import NETWORK, OPTIONS, rain, traffic, weather

import sa_nowcast
from sa_nowcast.bundle.card import fit_call, model_card, resolved_recipe
from sa_nowcast.bundle.files import CARD, RECIPE
from sa_nowcast.errors import DataError, ModelError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.models import NetworkConfig
from sa_nowcast.recipe import Recipe, TrainingRecipe, network_config, parse_recipe, read_recipe
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.fit import fit, fit_prepared
from sa_nowcast.windows import split_in_time

ROOT = Path(__file__).parent.parent


def train(data: Any = None, **options: Any) -> Nowcaster:
    given = {"history": 4, "steps": 3, "network": NETWORK, "progress": False} | OPTIONS | options
    return fit(rain() if data is None else data, **given)


def line(card: str, name: str) -> str:
    """What the card says under a name."""
    found = [row for row in card.splitlines() if row.startswith(f"- **{name}:** ")]
    assert len(found) == 1, (name, card)
    return found[0].removeprefix(f"- **{name}:** ")


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def python(card: str, title: str) -> str:
    return section(card, title).split("```python\n")[1].split("```")[0]


# --- what it says


def test_the_card_says_what_the_model_is_and_what_it_was_trained_on(nowcaster: Nowcaster) -> None:
    card = nowcaster.card
    assert card.startswith("# Nowcaster of rain: sa-convlstm\n\nForecasts 3 frames from the last 4, 5 min apart: ")
    assert "lead times 5 min to 15 min." in card
    assert line(card, "Variables and units") == "rain (mm h-1)"
    assert (line(card, "Cadence"), line(card, "Grid spacing")) == ("5 min", "1000 x 1000 m")
    # 20 frames: the latest fifth (at least one window of 7) validates, 4 are left between.
    assert line(card, "Training period") == "2020-06-01T00:00 to 2020-06-01T00:40, 9 times of the cadence"
    assert line(card, "Validation period") == "2020-06-01T01:05 to 2020-06-01T01:35, 7 times of the cadence"
    assert line(card, "Split").startswith("in time, with 4 frames left unused between")
    assert line(card, "Parameters") == f"{nowcaster.provenance['parameters']:,}"
    assert line(card, "Layers") == "1, of 4 hidden channels"
    assert "`patch: 4`" in line(card, "Fields")
    assert line(card, "Updates") == "4"
    assert line(card, "Hardware") == "CPU with 1 threads, fp32"
    assert line(card, "Ended because") == "all updates were made"
    assert set(line(card, "Options that are not the defaults").split(", ")) == {
        f"`{k}: {v}`" for k, v in OPTIONS.items()
    }  # fmt: skip


def test_scores_stand_by_lead_time_beside_those_of_persistence(weather_nowcaster: Nowcaster) -> None:
    text = section(weather_nowcaster.card, "Scores")
    for name, units in (("rain", "(mm h-1)²"), ("temperature", "K²")):
        table = text.split(f"**{name}**")[1].strip().splitlines()[:5]
        assert table[0] == f"| lead time | MSE ({units}) | persistence | ratio |"
        both = weather_nowcaster.provenance["validation_mse"][name]
        for i, row in enumerate(table[2:]):
            lead, mine, still, ratio = row.strip("| ").split(" | ")
            assert lead == f"{5 * (i + 1)} min"
            assert float(mine) == pytest.approx(both["forecast"][i], rel=1e-3)
            assert float(still) == pytest.approx(both["persistence"][i], rel=1e-3)
            assert float(ratio) == pytest.approx(both["forecast"][i] / both["persistence"][i], abs=1e-3)


def test_why_a_run_ended_is_said() -> None:
    # A learning rate at which nothing improves after the first validation.
    worse = train(max_steps=50, validate_every=1, patience=1, learning_rate=10.0, schedule="constant")
    assert worse.provenance["ended_by"] == "patience"
    assert line(worse.card, "Ended because") == "validation did not improve any more (`patience: 1`)"
    short = train(max_steps=100_000, max_time="0.5 s", validate_every=50_000)
    assert line(short.card, "Ended because") == "its time was up (`max_time: 0.5 s`)"


def test_without_a_validation_period_the_card_says_so() -> None:
    card = train(validation=0).card
    assert line(card, "Validation period") == "none"
    assert line(card, "Weights") == "the last ones"
    assert section(card, "Scores").strip() == "None: there was no validation period."


def test_what_the_card_calls_refused_is_refused(nowcaster: Nowcaster) -> None:
    limits = section(nowcaster.card, "Not for")
    assert "5 min apart are refused" in limits
    assert "anything but mm h-1 is refused" in limits
    assert 'other than 1000 x 1000 m is refused, unless `grid="any"`' in limits
    slower = rain(step="10min")
    other = rain().assign_attrs(units="m s-1")
    coarse = rain()[:, ::2, ::2]
    for data in (slower, other, coarse):
        with pytest.raises((ModelError, DataError)):
            nowcaster.forecast(data)
    assert nowcaster.forecast(coarse, grid="any").sizes["lead_time"] == 3


def test_what_the_training_data_did_not_tell_is_not_said_to_be_checked(traffic_nowcaster: Nowcaster) -> None:
    assert line(traffic_nowcaster.card, "Another grid").startswith("the training data had no coordinates")
    card = train(rain().drop_attrs()).card
    assert line(card, "Variables and units") == "rain (no units)"
    assert "not checked" in line(card, "Other units")
    assert "refused" not in line(card, "Other units")


def test_the_lines_that_load_it_run(saved: Path, nowcaster: Nowcaster) -> None:
    code = python(nowcaster.card, "Use").replace("path/of/this/folder", str(saved))
    names: dict[str, Any] = {"ds": rain()}
    exec(code, names)
    assert names["forecast"].identical(nowcaster.forecast(rain()))


def test_what_is_not_known_is_said_to_be_not_recorded(nowcaster: Nowcaster) -> None:
    card = model_card(replace(nowcaster, provenance={}))
    for name in ("Source", "Hardware", "Time", "Training period", "Updates"):
        assert line(card, name) == "not recorded"
    assert section(card, "Scores").strip() == "Not recorded."


@pytest.mark.parametrize(
    "provenance",
    [
        {"validation_mse": 3, "options": [], "training_period": 7, "updates": None},
        {"validation_mse": {"rain": {"forecast": "abc", "persistence": None}}, "options": {"training": "x"}},
        {"validation_mse": {"rain": [1]}, "training_period": "a/b/c", "validation_period": "NaT/NaT"},
        {"training_period": "2020-01-02/2020-01-01", "validation_period": "2019-01-01/2019-01-01"},
        {"options": {"training": {"surprise": {"a": [1]}, "seed": None}}, "ended_by": ["x"]},
    ],
)
def test_a_provenance_that_makes_no_sense_still_has_a_card(nowcaster: Nowcaster, provenance: dict[str, Any]) -> None:
    card = model_card(replace(nowcaster, provenance=provenance))
    assert line(card, "Cadence") == "5 min"


def test_names_from_the_data_are_shown_and_not_read_as_markdown() -> None:
    card = train(rain().rename("rain_rate|*mm*\n# `x` <b>")).card
    assert line(card, "Variables and units") == r"rain\_rate\|\*mm\* \# \`x\` \<b\> (mm h-1)"
    assert [row for row in card.splitlines() if row.startswith("# ")] == [card.splitlines()[0]]


# --- how it is made again


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (rain(), {}),
        (rain(), {"network": NetworkConfig(hidden=(4,), kernel=3, patch=4), "validation": 0.3, "guard": 2}),
        (weather(), {"variables": ["temperature"], "scaling": "minmax", "loss": "l1+l2", "clip_norm": None}),
        (traffic().rename(row="a", column="b"), {"y": "a", "x": "b", "channel": "channel", "average": 0.5}),
        (rain(), {"loss": "rain-weighted", "rain_weights": ((1.0, 3.0),), "learning_rate": np.float64(1e-3)}),
        (rain().drop_isel(time=[2]), {"gaps": "skip", "history": np.int64(2), "validation": 0}),
    ],
)
def test_the_call_on_the_card_makes_the_same_model_again(
    tmp_path: Path, data: xr.DataArray | xr.Dataset, options: dict[str, Any]
) -> None:
    first = train(data, folder=tmp_path, pictures=0, tensorboard=True, **options)
    names: dict[str, Any] = {"ds": data}
    exec(python(first.card, "Reproduce"), names)
    again = names["nowcaster"]
    ours, theirs = first.network.state_dict(), again.network.state_dict()
    assert all(bool((ours[k] == theirs[k]).all()) for k in ours)
    assert again.terms == first.terms
    assert again.scaling == first.scaling


def test_a_call_is_one_argument_a_line() -> None:
    assert fit_call({"history": 4, "loss": "l2"}) == (
        "nowcaster = ds.sa_nowcast.fit(\n    history=4,\n    loss='l2',\n)"
    )  # fmt: skip


def _recipe(**fields: Any) -> Recipe:
    data = {"source": "radar.zarr"}
    return Recipe.model_validate(
        {"name": "r", "history": 4, "steps": 3, "data": data, "output": {"folder": "runs/r"}, **fields}
    )


@pytest.mark.parametrize(
    "path",
    sorted(
        set((ROOT / "recipes").glob("*.yaml"))
        - {
            ROOT / "recipes" / f"{other}.yaml"
            for other in ("default_model_scores", "ensemble_scores", "paper_tables", "networks", "service")
        }
    ),
    ids=lambda p: p.stem,
)
def test_resolved_recipes_read_back_as_they_were(path: Path) -> None:
    recipe = read_recipe(path)
    text = resolved_recipe(recipe)
    assert parse_recipe(text) == recipe
    # Every default is written out, so a later version with other defaults makes the same.
    for field in TrainingRecipe.model_fields:
        assert f"\n  {field}:" in text or f" {field}: " in text, field


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30) | st.sampled_from(
    ["1e3", "1e-3", "-1.5E+7", ".5e1", "010", "0x1f", "1:30", "yes", "off", "null", "~", "true", "2020-01-01", "<<",
     "=", "!x", "&a", "*a", "a: b", "# c", "- d", "'", '"', "a\nb", "a\n", "\t", " ", "", "\u2028", "\ud7ff", "é", "|"]
)  # fmt: skip


@settings(max_examples=40)
@given(name=TEXTS, description=TEXTS, source=TEXTS.filter(bool))
def test_any_text_in_a_recipe_reads_back(name: str, description: str, source: str) -> None:
    recipe = _recipe(name=name, description=description, data={"source": source, "options": {"key": name}})
    assert parse_recipe(resolved_recipe(recipe)) == recipe


@settings(max_examples=40)
@given(
    rate=st.floats(1e-300, 1e300),
    seed=st.integers(0, 2**70),
    weight=st.floats(1e-30, 1e30),
)
def test_any_number_in_a_recipe_reads_back(rate: float, seed: int, weight: float) -> None:
    recipe = _recipe(training={"learning_rate": rate, "seed": seed, "rain_weights": [(rate, weight)]})
    assert parse_recipe(resolved_recipe(recipe)) == recipe


def test_a_model_from_a_recipe_carries_it_and_its_card_says_how_to_run_it(tmp_path: Path) -> None:
    recipe = _recipe(network={**NETWORK, "hidden": [4]}, training=OPTIONS)
    frames = Frames.from_xarray(rain())
    split = split_in_time(len(frames), 7, validation=0.2, test=0.0, guard=4)
    data = TrainingData.from_frames(frames, split, 4, 3, recipe.scaling, recipe.training, skip_empty=False)
    made = fit_prepared(
        data,
        network_config(recipe.network, channels=1),
        recipe.scaling,
        recipe.training,
        folder=None,
        progress=False,
        provenance={"recipe": recipe.name, "source": recipe.data.source},
        recipe_text=resolved_recipe(recipe),
    )
    assert line(made.card, "Source") == "radar.zarr"
    assert "$ sa-nowcast run recipe.yaml --output runs/again" in section(made.card, "Reproduce")
    saved = made.save(tmp_path / "model")
    assert read_recipe(saved / RECIPE) == recipe
    assert sa_nowcast.load(str(saved)).recipe == made.recipe


# --- it is no part of the model


def test_the_card_is_saved_beside_the_model_and_comes_back(saved: Path, nowcaster: Nowcaster) -> None:
    assert (saved / CARD).read_text(encoding="utf-8") == nowcaster.card
    again = sa_nowcast.load(str(saved))
    assert again.card == nowcaster.card
    assert not (saved / RECIPE).exists()
    assert again.recipe == ""


def test_card_and_recipe_do_not_change_the_identity_of_the_model(nowcaster: Nowcaster) -> None:
    assert replace(nowcaster, card="another", recipe="a: 1").digest == nowcaster.digest
    assert replace(nowcaster, provenance={}).digest != nowcaster.digest


def test_neither_hardware_nor_time_stands_in_the_description(saved: Path) -> None:
    content = json.loads((saved / "model.json").read_text())
    assert not {"hardware", "seconds", "card", "recipe"} & (
        content.keys() | (content["provenance"].keys() - {"recipe"})
    )
    assert "threads" not in json.dumps(content)
