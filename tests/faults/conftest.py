"""Faults made on purpose: how many of each, and the process that the trials are forked from."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from nursery import Nursery

FACTOR = "SA_NOWCAST_FAULTS"
"""Environment variable: how many repetitions in place of those that a test names."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `repetitions` those of `make test`, and as a slow case its full count."""
    if "repetitions" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("faults")
        assert marker is not None, "say how many: @pytest.mark.faults(quick, full)"
        quick, full = (int(os.environ.get(FACTOR, count)) for count in marker.args)
        slow = (pytest.mark.slow, pytest.mark.timeout(7200))
        counts = [pytest.param(quick, id="quick"), pytest.param(full, id="full", marks=slow)]
        metafunc.parametrize("repetitions", counts)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Numbers that a seed decides; it is printed."""
    seed = int(os.environ.get("SA_NOWCAST_FAULTS_SEED", "0"))
    print(f"{request.node.name}: seed {seed}")
    return random.Random(seed)
