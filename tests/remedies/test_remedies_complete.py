"""No remedy without a scenario that executes it, and no scenario of a remedy that is gone."""

from __future__ import annotations

import importlib
from pathlib import Path

from remedies.collector import sites
from remedies.trial import TRIED

WORLD: dict[tuple[str, str], str] = {
    ("sources/radar.py", "open it with engine='cfgrib'"): "no library of GRIB is among those that tests install",
    ("storage/whole.py", "use a file system with locks"): "no file system without locks is here",
    (
        "plotting/coast.py",
        "download them once with `cartopy_feature_download physical`; plotting never does",
    ): "the data come from the network",
}
"""The remedies that a test cannot execute, each with the reason."""


def _load() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"remedies.{path.stem}")


def test_every_remedy_is_executed() -> None:
    _load()
    print(f"{len(TRIED)} remedies are executed, {len(WORLD)} cannot be")
    missing = sorted(sites().keys() - TRIED.keys() - WORLD.keys())
    assert not missing, f"{len(missing)} remedies are executed by no scenario: {missing}"


def test_no_scenario_is_of_a_remedy_that_is_gone() -> None:
    _load()
    assert not (TRIED.keys() | WORLD.keys()) - sites().keys()
    assert not TRIED.keys() & WORLD.keys()
