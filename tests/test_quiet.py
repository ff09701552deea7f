from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from sequences import rain

import sa_nowcast
from sa_nowcast.computing import quiet
from sa_nowcast.hindcast import hindcast

PACKAGE = Path(sa_nowcast.__file__).parent


def moving() -> xr.DataArray:
    """Cells of rain that move."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64]
    cells = [(*rng.uniform(0, 64, 2), rng.uniform(3, 9)) for _ in range(12)]
    values = [
        sum(8 * np.exp(-((y - a - t) ** 2 + (x - b - 2 * t) ** 2) / 2 / w**2) for a, b, w in cells) for t in range(9)
    ]
    like = rain(9)
    return xr.DataArray(
        np.array(values, dtype=np.float32), dims=("time", "y", "x"), coords={"time": like["time"]}, attrs=like.attrs
    ).assign_coords(y=np.arange(64)[::-1] * 1000.0, x=np.arange(64) * 1000.0)


def state() -> dict[str, object]:
    """What a call might change for the whole process."""
    return {
        "streams": (id(sys.stdout), id(sys.stderr)),
        "filters": list(warnings.filters),
        "warn": (warnings.showwarning, warnings.formatwarning),
        "environment": dict(os.environ),
        "finders": list(sys.meta_path),
        "numpy": np.geterr(),
        "folder": os.getcwd(),
        "levels": {n: logging.getLogger(n).level for n in ("", "pysteps", "dask")},
    }


needs_pysteps = pytest.mark.skipif(
    importlib.util.find_spec("pysteps") is None or importlib.util.find_spec("cv2") is None,
    reason="optical flow is by pysteps: pip install pysteps opencv-python-headless",
)


@needs_pysteps
@pytest.mark.parametrize(
    ("model", "options"),
    [("extrapolation", {}), ("sprog", {}), ("steps", {"members": 2, "kilometres_per_pixel": 1.0}), ("persistence", {})],
)
def test_threaded_lazy_hindcasts_leave_the_process_as_it_was(
    model: str, options: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """pysteps' messages were redirected per call; of threads that did so at once, one put back what another had set."""
    data = moving().chunk(time=1)
    archive = hindcast(data, sa_nowcast.reference(model, **options), 2, batch_size=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = state()
        seen = []
        watching = threading.Event()

        def watch() -> None:
            while not watching.wait(0.002):
                seen.append((id(sys.stdout), id(sys.stderr)))
                print("heard")

        other = threading.Thread(target=watch)
        other.start()
        for _ in range(2):
            dask.compute(archive, scheduler="threads", num_workers=4)
        watching.set()
        other.join()
        assert state() == before
    assert set(seen) == {before["streams"]}
    out, err = capsys.readouterr()
    assert (set(out.split()), err) == ({"heard"}, "")
    assert not caught


FRESH = """
import os, sys, threading, warnings
import numpy as np, dask, xarray as xr
import netCDF4  # sets an environment variable of its own
import sa_nowcast
from test_quiet import moving
from sa_nowcast.verification import extrapolation
before = dict(os.environ), list(warnings.filters), list(sys.meta_path), sys.stdout
archive = moving().sa_nowcast.hindcast(2, model="extrapolation", batch_size=1)
dask.compute(archive, scheduler="threads", num_workers=4)
new = {k for k, v in os.environ.items() if before[0].get(k) != v}
assert not {k for k in new if "CURL_CA_BUNDLE" not in k}, new  # of the wheels of rasterio
assert list(warnings.filters) == before[1], [f for f in warnings.filters if f not in before[1]]
# rasterio imports boto3 where there is one.
assert [f for f in sys.meta_path if "botocore" not in type(f).__module__] == before[2], sys.meta_path
assert sys.stdout == before[3]
import pysteps
pysteps.load_config_file()
"""


@needs_pysteps
def test_the_first_import_of_pysteps_says_nothing_and_stays_pysteps_own(tmp_path: Path) -> None:
    place = {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parent)])}
    shown = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, cwd=tmp_path, env=os.environ | place
    )
    assert shown.returncode == 0, shown.stderr
    # What its user calls in person still speaks.
    assert shown.stdout.count("Pysteps configuration file found at") == 1


def test_warnings_are_ignored_in_one_thread_and_for_the_time_of_a_block() -> None:
    inside, outside = threading.Barrier(2), []

    def elsewhere() -> None:
        inside.wait()
        warnings.warn("seen", UserWarning, stacklevel=1)
        outside.append(True)
        inside.wait()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        with quiet.warnings_ignored(UserWarning):
            inside.wait()
            warnings.warn("ignored", UserWarning, stacklevel=1)
            inside.wait()
        thread.join()
        warnings.warn("seen too", UserWarning, stacklevel=1)
        assert list(warnings.filters) == filters
    assert [str(w.message) for w in caught] == ["seen", "seen too"]
    assert outside


def test_blocks_that_end_in_another_order_than_they_began_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first, second = quiet.warnings_ignored(UserWarning), quiet.warnings_ignored(RuntimeWarning, "overflow")
    first.__enter__()
    second.__enter__()
    with pytest.warns(RuntimeWarning, match="zero"):
        warnings.warn("zero", RuntimeWarning, stacklevel=1)
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before


def test_loggers_keep_their_levels_and_speak_in_other_threads(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("sa_nowcast.test")
    with quiet.logging_from(logging.ERROR, [logger.name]), caplog.at_level(logging.INFO, logger.name):
        logger.info("here")
        logger.error("error")
        thread = threading.Thread(target=logger.info, args=("there",))
        thread.start()
        thread.join()
    assert caplog.messages == ["error", "there"]
    assert not logger.filters


def test_nothing_exchanges_what_belongs_to_the_process() -> None:
    """`redirect_stdout`, `catch_warnings` and the like put back what was there before; under threads that is lost."""
    exchanged = ("redirect_std", "catch_warnings(", "config.set(", "os.chdir(", "setlocale(", "sys.excepthook =")
    found = [
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in PACKAGE.rglob("*.py")
        for word in exchanged
        if word in path.read_text() and path.name != "quiet.py"
    ]
    assert found == []


def test_loggers_below_the_named_ones_are_kept_back_too_and_other_threads_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    handler = logging.StreamHandler()
    top, below = logging.getLogger("another_package"), logging.getLogger("another_package.part")
    top.addHandler(handler)
    top.setLevel(logging.INFO)
    try:
        with quiet.logging_from(logging.ERROR, ["another_package"]):
            top.info("hidden")
            below.info("hidden")
            logging.getLogger("another_package.later").info("hidden")
            below.error("shown")
            other = threading.Thread(target=below.info, args=("elsewhere",))
            other.start()
            other.join()
        below.info("after")
    finally:
        top.removeHandler(handler)
    assert capfd.readouterr().err.split() == ["shown", "elsewhere", "after"]
