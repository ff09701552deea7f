"""What is installed holds what a user needs: the sample, the recipes that ship, the command."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DEVELOPMENT = ("test", "lint", "docs")
"""Extras for those who work on the package."""


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_sample_and_its_recipes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    source = {p.relative_to(ROOT).as_posix() for p in (ROOT / "sa_nowcast").rglob("*.py")}
    assert source <= names
    recipes = {p.relative_to(ROOT / "recipes").as_posix() for p in (ROOT / "recipes").rglob("*.yaml")}
    assert {f"sa_nowcast/_recipes/{name}" for name in recipes} <= names
    shipped = [ROOT / "sa_nowcast" / "data", ROOT / "sa_nowcast" / "serving" / "page"]
    sample = {p for folder in shipped for p in folder.rglob("*") if p.is_file()}
    assert {p.relative_to(ROOT).as_posix() for p in sample} <= names
    assert "sa-nowcast = sa_nowcast.cli:main" in points
    # Nothing but the package and its description.
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"sa_nowcast"}
    assert wheel.stat().st_size < 8_000_000


def test_everything_that_users_install_is_pinned_and_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = [*project["dependencies"], *(r for n, rs in extras.items() if n not in DEVELOPMENT for r in rs)]
    names = {canonicalize_name(re.split(r"[\[<>=;@ ]", r)[0]) for r in installed} - {"sa-nowcast"}
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    reasons = {canonicalize_name(name) for row in rows for name in row.split(", ")} - {"package", "-"}
    assert names - pinned == set()
    assert reasons == names
