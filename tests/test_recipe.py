from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_nowcast import recipe as recipes
from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe import Recipe, TrainingRecipe, network_config, parse_recipe, read_recipe

MINIMAL = """\
name: trial
history: 4
steps: 3
data:
  source: a.nc
output:
  folder: runs/trial
"""
RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))


def test_the_least_a_recipe_needs_gets_the_defaults() -> None:
    recipe = parse_recipe(MINIMAL)
    assert (recipe.name, recipe.history, recipe.steps, recipe.data.source) == ("trial", 4, 3, "a.nc")
    assert recipe.training == TrainingRecipe()
    assert recipe.scaling == "auto"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid_and_explained(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == "_".join(path.relative_to(RECIPES).with_suffix("").parts).replace("-", "_")
    assert recipe.description


def test_every_field_is_described_and_nothing_can_be_changed_afterwards() -> None:
    def walk(model: type[Any]) -> None:
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                walk(field.annotation)
            else:
                assert field.description, f"{model.__name__}.{name}"

    walk(Recipe)
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(MINIMAL).history = 5  # type: ignore[misc]


# --- what the YAML may hold


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("learning_rate: 1e-3", 1e-3),
        ("learning_rate: 1E-3", 1e-3),
        ("learning_rate: 1.e-3", 1e-3),
        ("learning_rate: .001", 1e-3),
        ("learning_rate: 2", 2.0),
        ("max_steps: 600", 600),
        ("max_steps: 010", 10),
        ("crop: null", None),
        ("crop: ~", None),
    ],
)
def test_numbers_are_what_people_mean_by_them(line: str, value: float | None) -> None:
    recipe = parse_recipe(MINIMAL + f"training:\n  {line}\n")
    assert getattr(recipe.training, line.split(":")[0]) == value


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "2020-01-01", "1:30", "0x10", "<<"])
def test_words_stay_words(word: str) -> None:
    assert parse_recipe(MINIMAL.replace("name: trial", f"name: {word}")).name == word


BAD: dict[str, tuple[str, str]] = {
    "duplicate key": (
        MINIMAL + "history: 5\n",
        r"recipe, line 8, history: the key stands twice, expected once\. "
        r"Fix: remove it here or in line 2",
    ),
    "duplicate key inside": (
        MINIMAL + "training:\n  seed: 1\n  seed: 2\n",
        r"line 10, training\.seed: the key stands twice",
    ),
    "alias": (MINIMAL + "description: &d text\nscaling: *d\n", r"line 8: an anchor or alias"),
    "merge by alias": ("a: &a {b: 1}\nc:\n  <<: *a\n", r"line 1: an anchor or alias"),
    "tag": (
        MINIMAL + "description: !!python/object/apply:os.system [ls]\n",
        r"line 8: the tag tag:yaml.org,2002:python",
    ),
    "harmless tag": (MINIMAL + "description: !!str 3\n", r"line 8: the tag"),
    "depth": (
        MINIMAL + "network: " + "[" * 20 + "]" * 20 + "\n",
        r"line 8: nested too deeply, expected at most 12 levels",
    ),
    "depth without end": ("[" * 100_000, r"nested too deeply"),
    "no YAML": ("a: [1\nb: }", r"line 2: not YAML"),
    "tabs": ("a:\n\t- b", r"line 2: not YAML"),
    "several documents": (MINIMAL + "---\n" + MINIMAL, r"line 8: not YAML"),
    "unprintable": ("a: \x07", r"not YAML"),
    "empty": ("", r"recipe: empty, expected keys and values"),
    "comment": ("# nothing\n", r"recipe: empty"),
    "list": ("- a\n", r"recipe: a list, expected keys and values"),
    "text": ("history", r"recipe: a str"),
    "key that is a list": ("[a, b]: 1\n", r"line 1: a key that is not a word"),
    "endless number": ("history: " + "9" * 5000, r"cannot be read|history"),
    "unknown key": (
        MINIMAL + "histroy: 4\n",
        r"recipe, line 8, histroy: unknown key.*Fix: write 'history'",
    ),
    "mistyped key": (
        MINIMAL.replace("history: 4", "histroy: 4"),
        r"line 2, histroy: unknown key .*Fix: write 'history'",
    ),
    "unknown key inside": (
        MINIMAL + "training:\n  learning_rat: 1\n",
        r"line 9, training\.learning_rat: unknown key\. Fix: write 'learning_rate'",
    ),
    "key like no other": (MINIMAL + "zzz: 1\n", r"line 8, zzz: unknown key.*Fix: remove it"),
    "missing key": (MINIMAL.replace("steps: 3\n", ""), r"recipe, steps: missing\. Fix: add it"),
    "missing key inside": (MINIMAL.replace("  source: a.nc\n", "  y: lat\n"), r"data\.source: missing"),
    "value out of range": (
        MINIMAL.replace("history: 4", "history: 0"),
        r"line 2, history: 0, expected input should be greater",
    ),
    "text for a number": (MINIMAL.replace("history: 4", "history: four"), r"line 2, history: 'four', expected"),
    "fraction for a count": (MINIMAL.replace("history: 4", "history: 4.5"), r"line 2, history: 4\.5"),
    "true for a count": (MINIMAL.replace("history: 4", "history: true"), r"line 2, history: True"),
    "yes for a count": (MINIMAL.replace("history: 4", "history: yes"), r"line 2, history: 'yes'"),
    "sexagesimal": (MINIMAL.replace("history: 4", "history: 1:30"), r"line 2, history: '1:30'"),
    "infinite": (MINIMAL + "training: {learning_rate: 1e999}\n", r"line 8, training\.learning_rate: inf"),
    "not a number": (MINIMAL + "training: {learning_rate: .nan}\n", r"line 8, training\.learning_rate: '\.nan'"),
    "number for text": (MINIMAL.replace("name: trial", "name: 3"), r"line 1, name: 3"),
    "unknown choice": (MINIMAL + "scaling: cube\n", r"line 8, scaling: 'cube', expected input should be 'auto'"),
    "value for a block": (MINIMAL + "training: 3\n", r"line 8, training: 3"),
    "null for a block": (MINIMAL + "training:\n", r"line 8, training: None"),
    "network, unknown": (MINIMAL + "network:\n  hiden: [4]\n", r"line 8, network \(network\.hiden\).*'hidden'"),
    "network, preset": (MINIMAL + "network:\n  preset: tiny\n", r"line 8, network \(.*there is no 'tiny'.*small"),
    "network, preset of another type": (MINIMAL + "network:\n  preset: [small]\n", r"network\.preset\): \['small'\]"),
    "network, even kernel": (MINIMAL + "network:\n  kernel: 4\n", r"network\.kernel\): 4 is even.*use 3 or 5"),
    "network, hidden": (MINIMAL + "network:\n  hidden: 4\n", r"network\.hidden\): 4, expected a list"),
    "network, no layer": (MINIMAL + "network:\n  hidden: []\n", r"network\.hidden\): .*describes no layer"),
    "network, nothing": (MINIMAL + "network:\n  hidden: null\n", r"network\.hidden\): None, expected a list"),
    "network, channels": (MINIMAL + "network:\n  channels: 2\n", r"network\.channels.*given in a recipe"),
    "region of one bound": (
        MINIMAL + "split:\n  train_region: {latitude: [1]}\n",
        r"line 9, split\.train_region\.latitude",
    ),
    "several faults": (MINIMAL.replace("history: 4", "history: 0") + "scaling: cube\n", r"history: 0 \(and 1 more\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_recipe_may_not_hold_is_said_in_one_line_with_its_place(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("RECIPE recipe")


def outcome(text: str) -> str:
    """The recipe's error; nothing but a recipe and a `RecipeError` may come of a text."""
    try:
        recipe = parse_recipe(text)
    except RecipeError as error:
        return str(error)
    assert isinstance(recipe, Recipe)
    return ""


@given(st.text(max_size=200) | st.text(alphabet="abc:-[]{}&*!|>'\"#%@,?\n\t 01.e~<", max_size=80))
@settings(max_examples=300)
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    assert "\n" not in outcome(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        *[(k,) for k in Recipe.model_fields],
        *[("training", k) for k in TrainingRecipe.model_fields],
        *[("network", k) for k in ("preset", "name", "hidden", "kernel", "key_channels", "score_scale", "forget_bias")],
        ("split", "train_region"), ("split", "guard"), ("verification", "thresholds"), ("data", "variables"),
    ]
)  # fmt: skip


@given(PATHS, VALUES)
@settings(max_examples=300)
def test_any_value_in_any_place_is_a_recipe_or_a_recipe_error(path: tuple[str, ...], value: object) -> None:
    tree = yaml.safe_load(MINIMAL)
    inner = tree
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    assert "\n" not in outcome(yaml.safe_dump(tree))


def test_a_recipe_survives_json() -> None:
    for path in SHIPPED:
        recipe = read_recipe(path)
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_files_that_are_no_recipes_are_refused_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        read_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.yaml: is not UTF-8 text"):
        read_recipe(tmp_path / "binary.yaml")
    monkeypatch.setattr(recipes, "MAX_BYTES", 10)
    (tmp_path / "long.yaml").write_text(MINIMAL)
    with pytest.raises(RecipeError, match=r"\d+ bytes, expected a recipe of at most 10"):
        read_recipe(tmp_path / "long.yaml")


def test_the_network_of_a_recipe_is_its_preset_with_what_differs() -> None:
    assert network_config(None, channels=2).channels == 2
    assert network_config({"preset": "faithful"}, channels=1).hidden == (64, 64, 64, 64)
    assert network_config({"hidden": [8, 4]}, channels=1).hidden == (8, 4)
