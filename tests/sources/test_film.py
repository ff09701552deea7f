"""Films as grey frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources import open_film, open_source

av = pytest.importorskip("av", reason="films are read by PyAV: pip install av")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames of 48x64, ever brighter, ten a second."""
    path = tmp_path / "film.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), 20 * number, np.uint8), format="gray")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_film_becomes_frames_with_the_times_of_its_rate(film: Path) -> None:
    ds = open_source(film, engine="film")
    assert dict(ds.sizes) == {"time": 12, "y": 48, "x": 64}
    assert (np.diff(ds["time"].values) == np.timedelta64(100, "ms")).all()
    np.testing.assert_allclose(ds["brightness"].mean(("y", "x")), 20 * np.arange(12), atol=1)


def test_cells_are_means_and_what_is_left_over_is_cut_off(film: Path) -> None:
    ds = open_film(film, cells=5, name="grey")
    assert ds["grey"].shape == (12, 9, 12)
    np.testing.assert_allclose(ds["grey"].isel(time=3), 60, atol=1)


def test_what_is_no_film_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.avi").write_text("no film")
    with pytest.raises(DataError, match=r"text\.avi: cannot be read as a film"):
        open_film(tmp_path / "text.avi")
    with pytest.raises(DataError, match=r"none\.avi"):
        open_film(tmp_path / "none.avi")
    with pytest.raises(RecipeError, match="cells: 0"):
        open_film(tmp_path / "text.avi", cells=0)
