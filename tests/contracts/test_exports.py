from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import xarray as xr

import sa_nowcast
from sa_nowcast.errors import SaNowcastError


def test_every_exported_name_exists_and_is_listed() -> None:
    assert len(set(sa_nowcast.__all__)) == len(sa_nowcast.__all__)
    for name in sa_nowcast.__all__:
        assert getattr(sa_nowcast, name) is not None
        assert name in dir(sa_nowcast)


def test_every_exported_function_and_class_is_documented() -> None:
    for name in sa_nowcast.__all__:
        thing = getattr(sa_nowcast, name)
        if callable(thing):
            assert inspect.getdoc(thing), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'forcast'"):
        sa_nowcast.forcast  # noqa: B018


def test_all_of_every_room_exists() -> None:
    for info in pkgutil.iter_modules(sa_nowcast.__path__):
        room = importlib.import_module(f"sa_nowcast.{info.name}")
        for name in getattr(room, "__all__", []):
            assert hasattr(room, name), f"{info.name}.{name}"


def test_accessors_are_registered_and_thin() -> None:
    for accessor in (type(xr.Dataset().sa_nowcast), type(xr.DataArray().sa_nowcast)):
        public = [n for n in dir(accessor) if not n.startswith("_")]
        assert {"fit", "forecast", "plot", "verify", "to_cf"} <= set(public)
        assert all(inspect.getdoc(getattr(accessor, n)) for n in public)


def test_errors_come_from_the_one_tree() -> None:
    assert issubclass(sa_nowcast.errors.DataError, SaNowcastError)
    assert sa_nowcast.errors.__name__ == "sa_nowcast.errors"
