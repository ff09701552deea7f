"""What `import sa_nowcast` adds to `import xarray`: at most half of what that takes.

Run with ``make bench``, or ``pytest -m benchmark -s tests/benchmarks/import_time.py``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

ROUNDS = 15
LIMIT = 0.5
CODE = "import time; s = time.perf_counter(); import {}; print(time.perf_counter() - s)"


def seconds(modules: str) -> float:
    """Import in a fresh process; the interpreter's own start is not counted."""
    shown = subprocess.run([sys.executable, "-c", CODE.format(modules)], capture_output=True, text=True, check=True)
    return float(shown.stdout)


@pytest.mark.benchmark
def test_importing_the_package_adds_at_most_half_of_importing_xarray() -> None:
    seconds("xarray, sa_nowcast")  # byte code and file cache
    # In turn, so that a busy moment of the machine falls on both.
    pairs = [(seconds("xarray"), seconds("xarray, sa_nowcast")) for _ in range(ROUNDS)]
    alone, both = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = both / alone - 1
    print(
        f"\nimport xarray {alone * 1e3:.0f} ms, with sa_nowcast {both * 1e3:.0f} ms: adds {ratio:.2f} of xarray's time"
    )
    assert ratio <= LIMIT
