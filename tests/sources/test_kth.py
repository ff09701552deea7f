from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources import open_kth
from sa_nowcast.sources.kth import official_segments, read_segments, resize

av = pytest.importorskip("av", reason="KTH's films need PyAV: pip install av")


def write_film(path: Path, frames: int, grey: int = 0) -> None:
    """A film of KTH's size whose frames are one grey each, 2 brighter from one to the next."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "gray"
        for number in range(frames):
            image = np.full((120, 160), grey + number * 2, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())


@pytest.fixture
def films(tmp_path: Path) -> Path:
    (tmp_path / "boxing").mkdir()
    write_film(tmp_path / "boxing" / "person01_boxing_d1_uncomp.avi", 60)
    write_film(tmp_path / "boxing" / "person17_boxing_d2_uncomp.avi", 40, grey=100)
    (tmp_path / "segments.txt").write_text(
        "person01_boxing_d1\t\tframes\t1-25, 31-60\nperson17_boxing_d2\tframes\t5-44\n"
        "person13_handclapping_d3\t*missing*\n"
    )
    return tmp_path


def test_sequences_follow_the_segments_and_never_leave_one(films: Path) -> None:
    ds = open_kth(films, length=10, segments=films / "segments.txt")
    assert ds.intensity.dims == ("sequence", "time", "y", "x")
    assert ds.intensity.shape == (8, 10, 128, 128)
    assert ds.first_frame.values.tolist() == [1, 11, 31, 41, 51, 5, 15, 25]
    assert ds.segment.values.tolist() == [1, 1, 2, 2, 2, 1, 1, 1]
    values = ds.intensity.isel(y=64, x=64).values.astype(int)
    # Frame n of the first film has grey 2 (n - 1); of the second 100 more.
    expected = (ds.first_frame.values[:, None] - 1 + np.arange(10)) * 2 + np.where(ds.person == 17, 100, 0)[:, None]
    np.testing.assert_array_equal(values, expected)


def test_persons_1_to_16_train_and_17_to_25_test(films: Path) -> None:
    train, test = (open_kth(films, part=p, length=10, segments=films / "segments.txt") for p in ("train", "test"))
    assert set(train.person.values) == {1}
    assert set(test.person.values) == {17}
    assert set(test.part.values) == {"test"}


def test_a_film_shorter_than_its_segment_is_cut_and_listed(films: Path) -> None:
    ds = open_kth(films, length=10, segments=films / "segments.txt")
    assert ds.attrs["films_shorter_than_segments"] == "person17_boxing_d2"


def test_the_official_segments_have_599_films(real_data: Path) -> None:
    shipped = official_segments()
    assert len(shipped) == 599
    assert shipped["person01_boxing_d1"] == ((1, 95), (96, 185), (186, 245), (246, 360))
    assert shipped == read_segments(real_data / "video" / "kth_00sequences.txt")


def test_resizing_keeps_a_plane_and_the_grey_of_a_constant() -> None:
    rows, columns = np.mgrid[0:120, 0:160]
    plane = (rows + columns / 2).astype(np.uint8)
    scaled = resize(plane, 128).astype(float)
    y, x = (np.arange(128) + 0.5) * 120 / 128 - 0.5, (np.arange(128) + 0.5) * 160 / 128 - 0.5
    inside = np.s_[1:-1, 1:-1]
    # Half a grey from rounding the input, half from rounding the output.
    assert np.abs(scaled - (y[:, None] + x[None] / 2))[inside].max() <= 1.0
    np.testing.assert_array_equal(resize(np.full((120, 160), 77, np.uint8), 128), 77)


def test_real_films_under_kth_names_are_decoded(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "video" / "vtest.avi", tmp_path / "person02_walking_d1_uncomp.avi")
    shutil.copy(real_data / "video" / "bikes.mp4", tmp_path / "person20_running_d1_uncomp.avi")
    ds = open_kth(tmp_path, length=20)
    assert ds.intensity.dtype == np.uint8
    assert set(ds.part.values) == {"train", "test"}
    first = ds.intensity.isel(sequence=0).values
    assert first.shape == (20, 128, 128)
    assert first.std() > 20  # a picture
    steps = np.abs(np.diff(first.astype(int), axis=0)).mean(axis=(1, 2))
    assert (steps > 0).all()  # that moves
    assert (steps < 10).all()  # and is one scene


def test_bad_films_give_one_clear_line(films: Path, tmp_path: Path) -> None:
    segments = films / "segments.txt"
    with pytest.raises(DataError, match="no all film with a segment of 50 frames"):
        open_kth(films, length=50, segments=segments)
    with pytest.raises(RecipeError, match="'train' or 'test'"):
        open_kth(films, part="tset")  # type: ignore[arg-type]
    broken = films / "boxing" / "person03_boxing_d1_uncomp.avi"
    broken.write_bytes(b"RIFF not a film")
    with pytest.raises(DataError, match=r"person03_boxing_d1_uncomp.avi: the frame segments have no entry"):
        open_kth(films, segments=segments)
    with pytest.raises(DataError, match=r"person03_boxing_d1_uncomp.avi: cannot be read as a film"):
        open_kth(films)
    broken.rename(films / "boxing" / "holiday.avi")
    with pytest.raises(DataError, match="is not a KTH film's name"):
        open_kth(films)
