"""A model that an older version saved is read, and forecasts what it forecast then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sequences import rain

import sa_nowcast
from sa_nowcast.bundle import files as bundle
from sa_nowcast.errors import ModelError

KEPT = sorted((Path(__file__).parent / "data" / "bundles").iterdir())


@pytest.mark.parametrize("folder", KEPT, ids=lambda p: p.name)
def test_a_kept_model_forecasts_what_it_did(folder: Path) -> None:
    history = rain(24).isel(time=slice(16, 20)).copy(data=np.load(folder / "history.npy"))
    forecast = sa_nowcast.load(str(folder / "rain.nowcaster")).forecast(history, device="cpu")
    # Sums of float32 in another order, as another processor or torch makes them, differ by some of their 2**-24; a
    # forecast passes through a few hundred. Values go to 8 mm h-1; another weight or scaling changes tenths.
    np.testing.assert_allclose(forecast.values, np.load(folder / "forecast.npy"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", KEPT, ids=lambda p: p.name)
def test_a_kept_model_of_a_newer_format_is_refused_and_says_so(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "rain.nowcaster", tmp_path / "newer.nowcaster")
    content = json.loads((copy / bundle.MODEL).read_text())
    content["format"] += 1
    content["sha256"] = bundle._digest(content)
    (copy / bundle.MODEL).write_text(bundle._text(content))
    with pytest.raises(ModelError, match=r"format 2, expected at most 1\. Fix: install a newer sa-nowcast"):
        sa_nowcast.load(str(copy))


def test_this_version_has_a_kept_model() -> None:
    assert sa_nowcast.__version__ in [p.name for p in KEPT]
