from __future__ import annotations

import pickle

import pytest

from sa_nowcast import errors
from sa_nowcast.errors import SaNowcastError, nearest, one_of

TREE = {
    "SaNowcastError": 70,
    "RecipeError": 2,
    "MissingLibraryError": 2,
    "DataError": 3,
    "ModelError": 4,
    "StorageError": 5,
    "Interrupted": 75,
}


def test_the_tree_is_the_one_that_its_module_draws() -> None:
    found = {n: c.exit_code for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, SaNowcastError)}
    assert found == TREE
    drawn = {w for line in (errors.__doc__ or "").splitlines() if "exit " in line for w in line.split() if w in TREE}
    assert drawn == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_every_error_is_one_line_and_survives_pickling(name: str) -> None:
    error = getattr(errors, name)("rain,\n2020", "step is 4 min\nhere", "2 min", "resample.")
    assert "\n" not in str(error)
    assert str(error).endswith("rain, 2020: step is 4 min here, expected 2 min. Fix: resample.")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  what loader workers do with it
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_optional_parts_of_the_line_are_left_out() -> None:
    assert str(errors.DataError("rain", "empty.")) == "DATA rain: empty."
    assert str(errors.ModelError("m", "old", fix="train")) == "MODEL m: old. Fix: train."


def test_errors_are_also_the_builtin_ones_that_callers_catch() -> None:
    assert issubclass(errors.DataError, ValueError)
    assert issubclass(errors.RecipeError, ValueError)
    assert issubclass(errors.ModelError, ValueError)
    assert issubclass(errors.MissingLibraryError, ImportError)


def test_the_nearest_name_is_the_one_that_is_most_alike_above_the_cutoff() -> None:
    assert nearest("netcdf5", ["zarr", "netcdf4", "h5netcdf"]) == "netcdf4"
    assert nearest("mas", ("mse", "mae"), cutoff=0.6) == "mse"
    assert nearest("mas", ("mse", "mae"), cutoff=0.7) is None
    assert nearest("anything", []) is None
    assert one_of("netcdf5", {"zarr", "netcdf4"}) == "'netcdf4', the nearest of netcdf4, zarr"
    assert one_of("x", {"zarr", "netcdf4"}) == "one of netcdf4, zarr"
