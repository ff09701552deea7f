"""YAML, recipes, their networks, and batch scripts."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from remedies.trial import Call, as_path, command, flags, quoted, remedy
from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.registry import preset
from sa_nowcast.recipe import find_recipe, parse_recipe, read_any, read_recipe
from sa_nowcast.recipe.strict_yaml import load_strict
from sa_nowcast.survey.recipes import check_recipe

MINIMAL = """\
name: trial
history: 4
steps: 3
data:
  source: a.nc
output:
  folder: runs/trial
"""


class Text:
    """A recipe that is mended between two readings."""

    def __init__(self, text: str) -> None:
        self.text = text

    def edit(self, old: str, new: str) -> None:
        assert old in self.text
        self.text = self.text.replace(old, new)

    def parse(self) -> object:
        return parse_recipe(self.text)

    def load(self) -> object:
        return load_strict(self.text, "a.yaml")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(MINIMAL)
    return path


@remedy("recipe/strict_yaml.py", "write it out")
def test_an_alias_written_out():
    recipe = Text(f"{MINIMAL}network: &n\n  kernel: 3\nforecast: *n\n")
    yield recipe.load
    recipe.edit("&n\n", "\n")
    recipe.edit("*n", "\n  kernel: 3")


@remedy("recipe/strict_yaml.py", "remove it")
def test_a_tag_removed():
    recipe = Text(MINIMAL.replace("name: trial", "name: !!python/name:os.system trial"))
    yield recipe.load
    recipe.edit("!!python/name:os.system ", "")


@remedy("recipe/strict_yaml.py", "remove it here or in line …")
@pytest.mark.parametrize("here", [False, True])
def test_a_key_that_stands_twice(here):
    recipe = Text(f"{MINIMAL}steps: 5\n")
    fix = yield recipe.load
    lines = recipe.text.splitlines()
    other = int(fix.rpartition(" ")[2])
    del lines[-1 if here else other - 1]
    recipe.text = "\n".join(lines)


@remedy("recipe/reading.py", "add it")
def test_a_key_that_is_missing():
    recipe = Text(MINIMAL.replace("steps: 3\n", ""))
    yield recipe.parse
    recipe.text += "steps: 3\n"


@remedy("recipe/reading.py", "write …")
@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        ("trainig: {max_steps: 4}", "trainig"),
        ("training: {max_step: 4}", "max_step"),
        ("training: {loss: l1+l}", "l1+l"),
        ("network: {hiden: [4]}", "hiden"),
    ],
)
def test_a_misspelled_key_or_word(block, wrong):
    recipe = Text(f"{MINIMAL}{block}\n")
    fix = yield recipe.parse
    recipe.edit(wrong, quoted(fix))


@remedy("recipe/reading.py", "write '…: …', with a space")
def test_a_key_and_its_value_in_one_word():
    recipe = Text(f"{MINIMAL}training: {{max_steps:4}}\n")
    fix = yield recipe.parse
    recipe.edit("max_steps:4", quoted(fix))


@remedy("recipe/reading.py", "remove it")
def test_a_key_that_there_is_not():
    recipe = Text(f"{MINIMAL}colour: blue\n")
    yield recipe.parse
    recipe.edit("colour: blue\n", "")


@remedy("recipe/reading.py", "start it by sa-nowcast …, with --dry-run to check it")
def test_the_recipe_of_a_comparison_is_started_by_run(tmp_path, monkeypatch):
    path = tmp_path / "compare.yaml"
    tree = {
        "name": "comparison", "history": 3, "steps": 2, "models": ["default", "persistence"],
        "sets": [{"name": "rain", "source": "sample:mrms"}], "output": {"folder": str(tmp_path / "out")},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(tree))
    fix = yield lambda: read_recipe(path)
    read_any(path)
    yield command(monkeypatch, "run", path, *flags(fix))


@remedy("recipe/model.py", "leave it out")
def test_the_channels_of_the_network_left_to_the_data():
    recipe = Text(f"{MINIMAL}network: {{channels: 2, kernel: 3}}\n")
    yield recipe.parse
    recipe.edit("channels: 2, ", "")


@remedy("recipe/tree.py", "write …")
def test_the_name_of_a_recipe_that_ships():
    fix = yield lambda: find_recipe("quickstar")
    yield lambda: find_recipe(quoted(fix))


@remedy("recipe/tables.py", "use networks, or output.folder")
@pytest.mark.parametrize(("key", "value"), [("network", "convlstm"), ("output.folder", "here")])
def test_what_each_run_of_the_tables_has_of_its_own(key, value, tmp_path):
    shipped = yaml.safe_load(find_recipe("paper_tables").read_text())
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump({**shipped, "overrides": [f"{key}={value}"]}))
    fix = yield lambda: read_any(path)
    assert "networks" in fix
    assert "output.folder" in fix
    more = {"networks": [value]} if key == "network" else {"output": {"folder": value}}
    path.write_text(yaml.safe_dump({**shipped, **more}))


@remedy("recipe/tables.py", "write …")
def test_the_run_that_settings_of_tables_are_of():
    fix = yield lambda: read_any(find_recipe("paper_tables"), ["settings={kth mcnett: [network.patch=2]}"])
    yield lambda: read_any(find_recipe("paper_tables"), [f"settings={{{quoted(fix)}: [network.patch=2]}}"])


@remedy("recipe/tree.py", "write what is needed into one of the two")
def test_a_recipe_that_extends_one_that_extends_another(recipe, tmp_path):
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nsteps: 5\n")
    (tmp_path / "c.yaml").write_text("extends: b.yaml\nname: third\n")
    yield lambda: read_recipe(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("extends: a.yaml\nsteps: 5\nname: third\n")


@remedy("recipe/tree.py", "give its path from …")
def test_the_path_of_a_recipe_that_is_extended(recipe, tmp_path):
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "b.yaml").write_text("extends: a.yaml\nname: other\n")
    fix = yield lambda: read_recipe(folder / "b.yaml")
    path = os.path.relpath(recipe, fix.removeprefix("give its path from "))
    (folder / "b.yaml").write_text(f"extends: {path}\nname: other\n")


@remedy("recipe/tree.py", "write it into a recipe")
def test_what_a_recipe_extends_stands_in_a_recipe(recipe, tmp_path):
    yield lambda: read_recipe(recipe, ["extends=a.yaml"])
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    yield lambda: read_recipe(tmp_path / "b.yaml")


@remedy("recipe/tree.py", "set it, or write ${…:-a default}")
@pytest.mark.parametrize("how", ["set", "default"])
def test_an_environment_variable_that_is_not_set(how, recipe, monkeypatch):
    monkeypatch.delenv("RADAR", raising=False)
    recipe.write_text(MINIMAL.replace("a.nc", "${RADAR}/a.nc"))
    fix = yield lambda: read_recipe(recipe)
    name, default = re.search(r"\$\{(\w+):-(.*)\}", fix).groups()
    if how == "set":
        monkeypatch.setenv(name, "/data")
    else:
        recipe.write_text(MINIMAL.replace("a.nc", f"${{{name}:-{default}}}/a.nc"))


@remedy("recipe/tree.py", "name a recipe that is there, or write one with sa-nowcast init")
@pytest.mark.parametrize("how", ["name", "write"])
def test_a_recipe_that_is_not_there(how, recipe, tmp_path, monkeypatch):
    wanted = tmp_path / "other" / "radar.yaml"
    yield lambda: read_recipe(wanted)
    if how == "name":
        yield lambda: read_recipe(recipe)
    else:
        wanted.parent.mkdir()
        command(monkeypatch, "init", "sample:mrms", "-o", wanted)()


@remedy("storage/whole.py", "write …")
def test_a_path_of_nearly_that_name(recipe):
    fix = yield lambda: read_recipe(recipe.with_name("aa.yaml"))
    yield lambda: read_recipe(as_path(quoted(fix)))


@remedy("models/config.py", "write …")
def test_the_nearest_name_of_a_network():
    fix = yield lambda: NetworkConfig.from_dict({"channels": 1, "name": "convlst"})
    yield lambda: NetworkConfig.from_dict({"channels": 1, "name": quoted(fix)})


@remedy("models/registry.py", "write …")
def test_the_nearest_name_of_a_preset():
    fix = yield lambda: preset("smal")
    yield lambda: preset(quoted(fix))


@remedy("models/record.py", "write …")
def test_the_nearest_name_of_a_field_of_a_network():
    fix = yield lambda: NetworkConfig.from_dict({"channels": 1, "kernal": 3})
    yield lambda: NetworkConfig.from_dict({"channels": 1, quoted(fix): 3})


@remedy("models/config.py", "use … or …")
@pytest.mark.parametrize("which", [0, 1])
def test_a_kernel_of_even_width(which):
    fix = yield lambda: NetworkConfig(channels=1, kernel=4)
    width = int(re.findall(r"\d+", fix)[which])
    yield lambda: NetworkConfig(channels=1, kernel=width)


@remedy("models/config.py", "write one number per layer, such as [64, 64, 64, 64]")
def test_the_channels_of_every_layer():
    fix = yield lambda: NetworkConfig(channels=1, hidden=64)
    yield lambda: NetworkConfig(channels=1, hidden=yaml.safe_load(fix.partition("such as ")[2]))


@remedy("models/config.py", "write …, or take name: predrnn-plus-plus")
@pytest.mark.parametrize("which", [0, 1])
def test_layers_of_several_widths(which):
    fix = yield lambda: NetworkConfig(name="predrnn", hidden=(8, 4))
    advice = yaml.safe_load(fix.split(", or take ")[which].removeprefix("write ").rstrip("."))
    fields = {"hidden": (8, 4), **(advice if which else {"name": "predrnn", "hidden": advice})}
    yield lambda: NetworkConfig.from_dict(fields)


@remedy("models/options.py", "write links: …")
def test_links_of_another_number_of_layers():
    fix = yield lambda: NetworkConfig.from_dict({"name": "trajgru", "links": [3, 5]})
    advice = yaml.safe_load(fix.removeprefix("write ").rstrip("."))
    yield lambda: NetworkConfig.from_dict({"name": "trajgru", **advice})


@remedy("models/options.py", "write two whole numbers, such as [64, 64]")
def test_the_sides_of_a_grid():
    fix = yield lambda: NetworkConfig.from_dict({"name": "fc-lstm", "grid": [64]})
    advice = yaml.safe_load(fix.partition("such as ")[2])
    yield lambda: NetworkConfig.from_dict({"name": "fc-lstm", "grid": advice})


@remedy("models/config.py", "write …")
def test_one_width_for_residual_units():
    fix = yield lambda: NetworkConfig.from_dict({"name": "st-resnet", "hidden": (8, 4)})
    yield lambda: NetworkConfig.from_dict({"name": "st-resnet", "hidden": yaml.safe_load(fix.removeprefix("write "))})


@remedy("models/options.py", "leave network.grid and the regions of split out, and give crop: null")
@pytest.mark.parametrize(("wrong", "right"), [("crop: 64", "crop: null"), (", grid: [64, 64]", "")])
def test_one_grid_for_a_network_that_is_bound_to_it(wrong, right):
    recipe = Text(f"{MINIMAL}training: {{crop: null}}\nnetwork: {{name: fc-lstm, hidden: [2]}}\n")
    recipe.edit("a.nc", "sample:mrms")
    recipe.edit(right or "]}", wrong if right else f"]{wrong}}}")

    def check():
        for error in (finding.error for finding in check_recipe(recipe.parse())):
            if error is not None:
                raise error

    fix = yield check
    assert "network.grid" in fix
    assert fix.endswith("crop: null")
    recipe.edit(wrong, right)
    yield check


@remedy("computing/devices.py", "give auto or cpu")
@pytest.mark.parametrize("which", ["auto", "cpu"])
def test_a_device_that_is_not_here(which):
    fix = yield lambda: resolve_device("cuda:99")
    assert which in fix.split()
    yield lambda: resolve_device(which)


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path) -> object:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def call(*options: str) -> Call:
        return command(monkeypatch, "submit", recipe, *options)

    return call


@remedy("computing/slurm.py", "print the script without --send, and send it from a login node")
def test_a_machine_without_sbatch(submit, tmp_path):
    yield submit("--send")
    script = submit()()
    assert script.startswith("#!/bin/bash")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\ncat > /dev/null; echo 4711\n")  # a login node
    (tmp_path / "bin" / "sbatch").chmod(0o755)


@remedy("computing/slurm.py", "give another --partition, --account, --gpus or --time")
@pytest.mark.parametrize("option", ["--partition", "--account", "--gpus", "--time"])
def test_a_script_that_sbatch_refuses(option, submit, tmp_path):
    """sbatch stands for a queue that takes nothing but the second value of an option."""
    wrong, right = {"--gpus": ("8", "1"), "--time": ("9:00:00", "1:00:00")}.get(option, ("wrong", "right"))
    line = {"--gpus": f"gpus-per-node={wrong}"}.get(option, f"{option[2:]}={wrong}")
    (tmp_path / "bin").mkdir()
    body = f"grep -q -- '{line}' && {{ echo 'no such {option}' >&2; exit 1; }}; echo 4711"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/bash\n{body}\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    fix = yield submit("--send", option, wrong)
    assert option in flags(fix)
    yield submit("--send", option, right)
