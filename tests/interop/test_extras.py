"""Other tools' libraries are optional: nothing needs them until it is called, and then says how to install them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError
from sa_nowcast.interop import geotiff, hub, pysteps

CALLS: dict[str, tuple[str, Callable[[xr.DataArray, Path], object]]] = {
    "rasterio": ("geotiff", lambda forecast, folder: geotiff.to_geotiff(forecast, folder / "f.tif")),
    "huggingface_hub": ("hub", lambda forecast, folder: hub.pull("user/model", cache_dir=folder)),
    "pysteps.nowcasts.interface": ("pysteps", lambda forecast, folder: pysteps.register()),
}


@pytest.mark.parametrize("library", CALLS)
def test_a_missing_library_yields_the_command_that_installs_it(
    library: str, projected: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra, call = CALLS[library]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match=re.escape(install(extra))):
        call(projected, tmp_path)
    assert list(tmp_path.iterdir()) == []
