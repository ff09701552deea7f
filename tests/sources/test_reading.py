"""What libraries raise about damaged files is one line; what this package raises stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.reading import reading, reading_numpy

FILE = Path("a.h5")


@pytest.mark.parametrize("raised", [TypeError, RuntimeError, MemoryError, OverflowError, KeyError, UnicodeError])
def test_whatever_a_library_raises_is_one_line(raised: type[Exception]) -> None:
    with pytest.raises(DataError, match=r"a.h5: cannot be read as film \(") as found, reading(FILE, "film"):
        raise raised("two\nlines")
    assert f"({raised.__name__}: " in str(found.value)
    assert "\n" not in str(found.value)
    with (
        pytest.raises(DataError, match=r"a.h5: is not a whole NumPy file \(.*two.+lines.*\), expected .npy") as found,
        reading_numpy(FILE, ".npy"),
    ):
        raise raised("two\nlines")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("raised", [RecipeError("x", "y"), KeyboardInterrupt()])
def test_own_errors_and_interrupts_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)), reading(FILE, "film"):
        raise raised
    with pytest.raises(type(raised)), reading_numpy(FILE, ".npy"):
        raise raised
