from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import rain

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.registry import NETWORKS
from sa_nowcast.recipe import (
    ColumnRecipe,
    ComparisonRecipe,
    Recipe,
    SetRecipe,
    TableRecipe,
    TablesRecipe,
    TrainingRecipe,
    comparison_schema,
    network_config,
    parse_recipe,
    read_any,
    read_recipe,
    recipe_schema,
    tables_schema,
    tree,
)
from sa_nowcast.recipe.strict_yaml import load_strict
from sa_nowcast.training.fit import fit

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
COMPARISONS = [RECIPES / f"{name}.yaml" for name in ("default_model_scores", "ensemble_scores")]
TABLES = RECIPES / "paper_tables.yaml"
SERVICE = RECIPES / "service.yaml"
SHIPPED = sorted(set(RECIPES.rglob("*.yaml")) - {*COMPARISONS, TABLES, RECIPES / "networks.yaml", SERVICE})


def test_the_least_a_recipe_needs_gets_the_defaults() -> None:
    recipe = parse_recipe(MINIMAL)
    assert (recipe.name, recipe.history, recipe.steps, recipe.data.source) == ("trial", 4, 3, "a.nc")
    assert (recipe.start, recipe.network) == ("default", None)
    assert recipe.training == TrainingRecipe(preset="fine-tune")
    assert recipe.scaling == "auto"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid_and_explained(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == "_".join(path.relative_to(RECIPES).with_suffix("").parts).replace("-", "_")
    assert recipe.description


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)
def test_a_comparison_is_told_by_its_sets(path: Path) -> None:
    recipe = read_any(path)
    assert isinstance(recipe, ComparisonRecipe)
    assert recipe.name == path.stem
    assert recipe.description
    assert isinstance(read_any(SHIPPED[0]), Recipe)
    first, _, _ = path.read_text().partition("\n")
    schema = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
    assert schema == COMPARISON_SCHEMA
    jsonschema.Draft202012Validator(comparison_schema()).validate(load_strict(path.read_text(), path.name)[0])
    assert json.loads(schema.read_text()) == comparison_schema(), "run python tools/recipe_reference.py"


def test_a_comparison_in_place_of_an_experiment_is_named() -> None:
    with pytest.raises(RecipeError, match=r"a comparison.*start it by sa-nowcast run"):
        read_recipe(COMPARISONS[0])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sets=[]", "sets: [], expected"),
        ("sets=[{name: a, source: b, celsl: 2}]", r"sets\.0\.celsl: unknown key.*write 'cells'"),
        ("sets=[{name: a}]", r"sets\.0\.source: missing"),
        (
            "sets=[{name: a, source: '${NOT_SET_ANYWHERE}/b'}]",
            r"sets\.0\.source: the environment variable .* is not set",
        ),
        ("models=[default]", "models"),
        ("history=0", "history: 0"),
    ],
)
def test_what_a_comparison_cannot_be_is_refused_with_its_place(override: str, line: str) -> None:
    with pytest.raises(RecipeError, match=line.replace("[]", r"\[\]")) as caught:
        read_any(COMPARISONS[0], [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [TABLES, RECIPES / "networks.yaml"], ids=lambda p: p.stem)
def test_tables_are_told_by_their_key(path: Path) -> None:
    recipe = read_any(path)
    assert isinstance(recipe, TablesRecipe)
    assert recipe.name == path.stem
    assert recipe.description
    first, _, _ = path.read_text().partition("\n")
    schema = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
    assert schema == SCHEMA.with_name("tables.schema.json")
    jsonschema.Draft202012Validator(tables_schema()).validate(load_strict(path.read_text(), path.name)[0])
    assert json.loads(schema.read_text()) == tables_schema(), "run python tools/recipe_reference.py"


def test_the_papers_tables_are_the_printed_ones() -> None:
    recipe = read_any(TABLES)
    assert isinstance(recipe, TablesRecipe)
    printed = {table.title: table.printed for table in recipe.tables}
    assert printed["Table 1, MovingMNIST"]["sa-convlstm"] == (0.913, 43.92, 94.73)
    assert printed["Table 1, TaxiBJ"]["sa-convlstm"] == (0.984, 0.390, 3.822)
    assert printed["Table 2, MovingMNIST"]["mim"] == (28.533, 0.874, 52.0, 116.5)
    assert printed["Table 3a, TaxiBJ, MSE by frame"]["st-resnet"] == (0.460, 0.571, 0.670, 0.762)
    assert printed["Table 3b, KTH"]["mcnet"] == (25.95, 0.804)
    # By frame errors grow, and the whole network has the best of each column.
    assert all(list(row) == sorted(row) for row in printed["Table 3a, TaxiBJ, MSE by frame"].values())
    for title, best in (("Table 2, MovingMNIST", (None, max, min, min)), ("Table 3a, TaxiBJ, MSE by frame", (min,) * 4),
                        ("Table 3b, KTH", (max, max))):  # fmt: skip
        for column, of in enumerate(best):
            figures = [row[column] for row in printed[title].values()]
            assert of is None or printed[title]["sa-convlstm"][column] == of(figures)  # type: ignore[type-var]
    for table in recipe.tables[:2]:  # SSIM is the better for being higher, errors for being lower, and theirs is best
        assert set(table.printed) == {path.stem for path in (RECIPES / "ablation").glob("*.yaml")}
        ssim, mse, mae = zip(*table.printed.values(), strict=True)
        assert (max(ssim), min(mse), min(mae)) == table.printed["sa-convlstm"]


ONE_TABLE = "{title: a, source: b, recipe: kth, columns: [{score: psnr}], printed: {convlstm: [1]}}"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("tables=[]", "tables: [], expected"),
        (
            "tables=[{title: a, source: b, recipe: c, columns: [{score: d}]}]",
            r"tables\.0: no network in 'a'.*, expected some in printed, or in networks",
        ),
        ("tables=[{title: a, recipe: c, columns: [{score: d}], networks: [predrn]}]", "write 'predrnn'"),
        ("settings={kth lstm: [a=1]}", "settings: no run of 'kth lstm', expected a network.* Fix: write"),
        ("settings={mim: [network.name=mim]}", "settings: network.name for all runs"),
        ("tables=[{title: a, sourse: b}]", r"tables\.0\.sourse: unknown key.*write 'source'"),
        (
            f"tables=[{ONE_TABLE.replace('[1]', '[1, 2]')}]",
            r"tables\.0: 2 figures of convlstm.*, expected 1, one for each column",
        ),
        (f"tables=[{ONE_TABLE}, {ONE_TABLE}]", "'a' is there twice, expected a title of its own"),
        (f"tables=[{ONE_TABLE.replace('convlstm', 'convlstn')}]", "write 'convlstm'"),
        ("only=[taxi]", "override only: no table of 'taxi', expected some of moving_mnist, taxibj, kth"),
        ("networks=[lstm]", r"networks\.0: 'lstm'.*write 'fc-lstm'"),
        ("overrides=[network.name=convlstm]", "overrides: network.name for all runs.* Fix: use networks"),
        ("run=1.5", "run: 1.5, expected"),
    ],
)
def test_what_tables_cannot_be_is_refused_with_its_place(override: str, line: str) -> None:
    with pytest.raises(RecipeError, match=line.replace("[]", r"\[\]")) as caught:
        read_any(TABLES, [override])
    assert "\n" not in str(caught.value)


def test_networks_that_fill_none_of_the_tables_asked_for_are_refused() -> None:
    line = r"override networks: no table has fc-lstm, expected some of convlstm, trajgru, dfn, mcnet, "
    with pytest.raises(RecipeError, match=line):
        read_any(TABLES, ["only=[kth]", "networks=[fc-lstm]"])


@pytest.mark.parametrize(
    ("path", "line"),
    [(COMPARISONS[0], "sets: the recipe of a comparison"), (TABLES, "tables: the recipe of a publication's tables")],
    ids=["comparison", "tables"],
)
def test_an_experiment_is_not_read_from_a_recipe_of_another_kind(path: Path, line: str) -> None:
    with pytest.raises(RecipeError, match=rf"line \d+, {line}, expected one of an experiment.*sa-nowcast run"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.truth_start=0.5", "training.truth_start: 0.5, with network.output: moving, expected 0"),
        ("training.preset=tuned", "training.truth_start: 0.5, with network.output: moving"),
        ("training.context_truth_start=0.9", "training.context_truth_start: 0.9, with"),
        ("training.acceleration=graph", "training.acceleration: graph, with"),
    ],
)
def test_training_that_a_moving_network_would_leave_unused_is_refused(override: str, line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        parse_recipe(MINIMAL, overrides=["network={output: moving}", override])
    with pytest.raises(RecipeError, match="truth_start"):
        fit(rain(), history=4, steps=3, network={"output": "moving"}, truth_start=0.5)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["network={name: convlstm}", "forecast.members=3"],
            "forecast.members: 3, expected network.output: moving, or",
        ),
        (["calibrate=true", "split.validation=0"], "calibrate: true without a validation period, expected split.valid"),
        (["network={name: convlstm}", "forecast.inflow=missing"], "forecast.inflow: missing, expected network.output"),
        (["network={name: convlstm}", "training.distribution=true"], "training.distribution: true, with network.name"),
        (["forecast.members=3", "forecast.product=matched"], "forecast.product: matched, of members, expected mean"),
        (["forecast.members=3", "forecast.tile=64"], "forecast.tile: 64, of members, expected null"),
    ],
)
def test_forecasts_that_cannot_be_made_are_refused_before_training(overrides: list[str], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        parse_recipe(MINIMAL, overrides=overrides)


def test_every_field_is_described_and_nothing_can_be_changed_afterwards() -> None:
    def walk(model: type[Any]) -> None:
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                walk(field.annotation)
            else:
                assert field.description, f"{model.__name__}.{name}"

    walk(Recipe)
    walk(ComparisonRecipe)
    walk(SetRecipe)
    walk(TablesRecipe)
    walk(TableRecipe)
    walk(ColumnRecipe)
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
    "key without a space after its colon": (
        MINIMAL + "network: {preset:small}\n",
        r"line 8, network\.preset:small: unknown key.*Fix: write 'preset: small', with a space",
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
    "network, unknown": (
        MINIMAL + "network:\n  hiden: [4]\n",
        r"line 9, network\.hiden: unknown key\. Fix: write 'hidden'",
    ),
    "network, preset": (MINIMAL + "network:\n  preset: tiny\n", r"line 9, network\.preset: there is no 'tiny'.*small"),
    "network, preset of another type": (
        MINIMAL + "network:\n  preset: [small]\n",
        r"line 9, network\.preset: \['small'\]",
    ),
    "network, even kernel": (MINIMAL + "network:\n  kernel: 4\n", r"network\.kernel: 4 is even.*use 3 or 5"),
    "network, hidden": (MINIMAL + "network:\n  hidden: 4\n", r"network\.hidden: 4, expected a list"),
    "network, no layer": (MINIMAL + "network:\n  hidden: []\n", r"network\.hidden: .*describes no layer"),
    "network, nothing": (MINIMAL + "network:\n  hidden: null\n", r"network\.hidden: None, expected a list"),
    "network, channels": (MINIMAL + "network:\n  channels: 2\n", r"network\.channels.*given in a recipe"),
    "region of one bound": (
        MINIMAL + "split:\n  train_region: {latitude: [1]}\n",
        r"line 9, split\.train_region\.latitude",
    ),
    "network, item": (
        MINIMAL + "network:\n  hidden:\n    - 8\n    - eight\n",
        r"line 11, network\.hidden\.1: 'eight', expected a whole number",
    ),
    "network, a number": (MINIMAL + "network: 3\n", r"line 8, network: 3, expected input should be"),
    "item of a list": (
        MINIMAL + "verification:\n  thresholds:\n    - 1\n    - two\n",
        r"line 11, verification\.thresholds\.1: 'two'",
    ),
    "reference, unknown": (
        MINIMAL + "verification:\n  references: [persistance]\n",
        r"line 9, verification\.references\.0: 'persistance', expected input .*Fix: write 'persistence'",
    ),
    "reference, twice": (
        MINIMAL + "verification:\n  references: [steps, steps]\n",
        r"line 9, verification\.references: .*and each once",
    ),
    "reference, none": (MINIMAL + "verification:\n  references: []\n", r"line 9, verification\.references: "),
    "reference, as it was": (
        MINIMAL + "verification:\n  reference: persistence\n",
        r"line 9, verification\.reference: unknown key\. Fix: write 'references'",
    ),
    "even width": (
        MINIMAL + "verification:\n  neighbourhoods: [1, 4]\n",
        r"line 9, verification\.neighbourhoods: .*odd widths",
    ),
    "unknown key of a block of a block": (
        MINIMAL + "verification:\n  bootstrap:\n    sample: 1\n",
        r"line 10, verification\.bootstrap\.sample: unknown key\. Fix: write 'samples'",
    ),
    "unknown key of a block that may be null": (
        MINIMAL + "conversion:\n  to: a.zarr\n  irregullar: allow\n",
        r"line 10, conversion\.irregullar: unknown key\. Fix: write 'irregular'",
    ),
    "conversion to nowhere": (MINIMAL + "conversion: {}\n", r"line 8, conversion\.to: missing"),
    "variable, no name": (
        MINIMAL.replace("a.nc", "${1}/a.nc"),
        r"line 5, data\.source: '\$\{1\}/a\.nc', expected \$\{NAME\}",
    ),
    "variable, not closed": (MINIMAL.replace("a.nc", '"${HOME"'), r"line 5, data\.source: '\$\{HOME'"),
    "extends nothing": (MINIMAL + "extends: none_such\n", r"line 8, extends: .*none_such: no such .*quickstart"),
    "extends a name that no file can have": (
        MINIMAL + f"extends: {'a' * 300}\n",
        r"line 8, extends: a{60}: cannot be read \(File name too long\), expected the path",
    ),
    "extends a number": (MINIMAL + "extends: 3\n", r"line 8, extends: 3, expected the path or name"),
    "extnds": (MINIMAL + "extnds: quickstart\n", r"line 8, extnds: unknown key\. Fix: write 'extends'"),
    "several faults": (MINIMAL.replace("history: 4", "history: 0") + "scaling: cube\n", r"history: 0 \(and 1 more\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_recipe_may_not_hold_is_said_in_one_line_with_its_place(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("RECIPE recipe")


def outcome(text: str, overrides: Sequence[str] = ()) -> str:
    """The recipe's error; nothing but a recipe and a `RecipeError` may come of a text."""
    try:
        recipe = parse_recipe(text, "recipe", overrides)
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
    with pytest.raises(RecipeError, match="is a folder or a device"):
        read_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.yaml: is not UTF-8 text"):
        read_recipe(tmp_path / "binary.yaml")
    monkeypatch.setattr(tree, "MAX_BYTES", 10)
    (tmp_path / "long.yaml").write_text(MINIMAL)
    with pytest.raises(RecipeError, match="too large, expected a recipe of at most 10 bytes"):
        read_recipe(tmp_path / "long.yaml")


def test_the_network_of_a_recipe_is_its_preset_with_what_differs() -> None:
    assert network_config(None, channels=2).channels == 2
    assert network_config({"preset": "faithful"}, channels=1).hidden == (64, 64, 64, 64)
    assert network_config({"hidden": [8, 4]}, channels=1).hidden == (8, 4)


# --- one recipe over another


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_recipe_goes_over_the_one_that_it_extends_block_by_block(tmp_path: Path) -> None:
    written(tmp_path, "base.yaml", MINIMAL + "verification: {thresholds: [1, 2], clip: true}\ntraining: {seed: 7}\n")
    text = "extends: base\nname: other\nverification: {thresholds: [5]}\nnetwork: {hidden: [4]}\n"
    recipe = read_recipe(written(tmp_path, "own.yaml", text))
    assert (recipe.name, recipe.history, recipe.training.seed, recipe.network) == ("other", 4, 7, {"hidden": [4]})
    assert recipe.verification.thresholds == (5,)
    assert recipe.verification.clip
    (tmp_path / "deep").mkdir()
    own = written(tmp_path / "deep", "own.yaml", "extends: ../base.yaml\nname: deep\n")
    assert read_recipe(own).name == "deep"


def test_a_recipe_extends_one_that_ships_by_its_name(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "own.yaml", "extends: quickstart\nname: own\n"))
    assert recipe == read_recipe(RECIPES / "quickstart.yaml").model_copy(update={"name": "own"})


def test_errors_of_a_recipe_that_extends_name_the_file_and_line_that_holds_them(tmp_path: Path) -> None:
    base = written(tmp_path, "base.yaml", MINIMAL + "training:\n  sede: 1\n")
    own = written(tmp_path, "own.yaml", "extends: base\nsteps: 0\n")
    with pytest.raises(RecipeError, match=r"base\.yaml, line 9, training\.sede: unknown key"):
        read_recipe(own)
    base.write_text(MINIMAL + "training:\n  seed: 1\n")
    with pytest.raises(RecipeError, match=r"own\.yaml, line 2, steps: 0"):
        read_recipe(own)
    own.write_text("extends: base\ntraining:\n  max_steps: x\n")
    with pytest.raises(RecipeError, match=r"own\.yaml, line 3, training\.max_steps: 'x'"):
        read_recipe(own)
    base.write_text("a: [")
    with pytest.raises(RecipeError, match=r"base\.yaml, line 1: not YAML"):
        read_recipe(own)


def test_recipes_extend_once(tmp_path: Path) -> None:
    written(tmp_path, "first.yaml", MINIMAL)
    written(tmp_path, "second.yaml", "extends: first\n")
    third = written(tmp_path, "third.yaml", "extends: second\n")
    with pytest.raises(RecipeError, match=r"second\.yaml, line 1, extends: this recipe is extended by .*third\.yaml"):
        read_recipe(third)
    itself = written(tmp_path, "itself.yaml", "extends: itself\n")
    with pytest.raises(RecipeError, match="is extended by"):
        read_recipe(itself)
    lost = written(tmp_path, "lost.yaml", "extends: away.yaml\n")
    with pytest.raises(RecipeError, match=r"lost\.yaml, line 1, extends: no recipe at .*away\.yaml"):
        read_recipe(lost)


# --- values from the command line


def test_overrides_replace_values_and_are_read_as_a_recipe_is() -> None:
    overrides = ["training.max_steps=100", "network.hidden=[8, 8]", "training.learning_rate=1e-3", "data.time = t"]
    recipe = parse_recipe(MINIMAL + "training: {max_steps: 5, seed: 3}\n", "recipe", overrides)
    assert (recipe.training.max_steps, recipe.training.seed, recipe.training.learning_rate) == (100, 3, 1e-3)
    assert recipe.network == {"hidden": [8, 8]}
    assert recipe.data.time == "t"
    assert parse_recipe(MINIMAL, "recipe", ["history=5", "history=6"]).history == 6
    assert parse_recipe(MINIMAL, "recipe", ["training={seed: 4}"]).training.seed == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_stepss=1", r"^RECIPE override training\.max_stepss: unknown key\. Fix: write 'max_steps'"),
        ("training={sede: 1}", r"^RECIPE override training, training\.sede: unknown key\. Fix: write 'seed'"),
        ("network.hiden=[8]", r"^RECIPE override network\.hiden: unknown key\. Fix: write 'hidden'"),
        ("network.hidden=[8, x]", r"^RECIPE override network\.hidden, network\.hidden\.1: 'x'"),
        ("history=0", r"^RECIPE override history: 0, expected input should be greater"),
        ("history.x=0", r"^RECIPE override history\.x: history is 4, expected a block there"),
        ("history", r"^RECIPE override 'history': cannot be read, expected key=value"),
        ("history=", r"^RECIPE override 'history=': cannot be read"),
        ("=3", r"^RECIPE override '=3': cannot be read"),
        ("training..seed=3", r"^RECIPE override 'training\.\.seed=3': cannot be read"),
        ("name=&a b", r"^RECIPE override name, line 1: an anchor"),
        ("name=!!str b", r"^RECIPE override name, line 1: the tag"),
        ("training={seed: 1, seed: 2}", r"^RECIPE override training, line 1, seed: the key stands twice"),
        ("extends=quickstart", r"^RECIPE override extends: given"),
        ("data.source=${SA_NOWCAST_NO_SUCH}", r"^RECIPE override data\.source: the environment variable SA_NOWCAST_NO"),
    ],
)
def test_errors_of_overrides_are_like_those_of_a_file(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(MINIMAL, "recipe", [override])
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.text(alphabet="abc.=[]{}&*!:'\"# ", max_size=30))
@settings(max_examples=200)
def test_any_override_is_taken_or_a_recipe_error(text: str) -> None:
    assert "\n" not in outcome(MINIMAL, [text])


# --- the environment


def test_three_paths_may_name_environment_variables_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA_NOWCAST_TRIAL", "/data/here")
    monkeypatch.delenv("SA_NOWCAST_NO_SUCH", raising=False)
    text = MINIMAL.replace("a.nc", "${SA_NOWCAST_TRIAL}/a.nc").replace(
        "runs/trial", "${SA_NOWCAST_NO_SUCH:-runs}/trial"
    )
    recipe = parse_recipe(
        text + "conversion: {to: '${SA_NOWCAST_TRIAL}/a.zarr'}\ndescription: of ${SA_NOWCAST_TRIAL}\n"
    )
    assert recipe.data.source == "/data/here/a.nc"
    assert recipe.output.folder == "runs/trial"
    assert recipe.conversion is not None
    assert recipe.conversion.to == "/data/here/a.zarr"
    assert recipe.description == "of ${SA_NOWCAST_TRIAL}"
    monkeypatch.setenv("SA_NOWCAST_TRIAL", "")
    with pytest.raises(
        RecipeError, match=r"line 5, data\.source: the environment variable SA_NOWCAST_TRIAL is not set.*:-a default"
    ):
        parse_recipe(text)


# --- what editors are told


def test_the_schema_lists_every_key_with_its_description() -> None:
    schema = recipe_schema()

    def described(properties: dict[str, Any]) -> None:
        for key, value in properties.items():
            refers = [value, *value.get("anyOf", ())]
            assert value.get("description") or any("$ref" in part for part in refers), key

    described(schema["properties"])
    for block in schema["$defs"].values():
        described(block["properties"])
        assert block["additionalProperties"] is False
    network = schema["properties"]["network"]["properties"]
    of_all = {field for entry in NETWORKS.values() for field in entry.config.__dataclass_fields__}
    assert set(network) == {"preset", *of_all} - {"channels"}
    assert all(field["description"] for field in network.values())
    assert network["name"]["enum"]
    assert "default" not in network["hidden"]  # the preset decides it


TOOL = Path(__file__).parents[1] / "tools" / "recipe_reference.py"
SCHEMA = Path(__file__).parents[1] / "docs" / "recipe.schema.json"
COMPARISON_SCHEMA = SCHEMA.with_name("comparison.schema.json")


def test_the_schema_in_the_docs_is_that_of_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == recipe_schema(), "run python tools/recipe_reference.py"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_editors_check_every_shipped_recipe_by_the_schema(path: Path) -> None:
    first, _, _ = path.read_text().partition("\n")
    place = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / place).resolve() == SCHEMA
    jsonschema.Draft202012Validator(recipe_schema()).validate(load_strict(path.read_text(), path.name)[0])


@pytest.mark.parametrize(
    "case", ["unknown key inside", "text for a number", "network, unknown", "reference, unknown", "unknown choice"]
)
def test_the_schema_refuses_what_the_reader_refuses(case: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(recipe_schema()).validate(yaml.safe_load(BAD[case][0]))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


def test_the_page_of_all_fields_is_that_of_the_models() -> None:
    place = importlib.util.spec_from_file_location("recipe_reference", TOOL)
    assert place is not None
    assert place.loader is not None
    tool = importlib.util.module_from_spec(place)
    place.loader.exec_module(tool)
    assert tool.PAGE.read_text() == tool.page_text(), "run python tools/recipe_reference.py"
    for path, schema in tool.SCHEMAS.items():
        assert path.read_text() == tool.schema_text(schema())
