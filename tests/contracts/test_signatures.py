"""What `help` and completion show: every parameter, documented, and the same from the accessor and the function."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import xarray as xr

import sa_nowcast
from sa_nowcast import derived, hindcast, interop, plotting, stream, verification
from sa_nowcast.forecasts import cf
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.recipe import TrainingRecipe

ACCESSOR = type(xr.Dataset().sa_nowcast)
METHODS = [name for name in dir(ACCESSOR) if not name.startswith("_")]
# The function behind each method, the parameters that are the accessor's data, and those that it adds.
BEHIND: dict[str, tuple[Callable[..., Any], set[str], set[str]]] = {
    "fit": (sa_nowcast.fit, {"data"}, set()),
    "loader": (sa_nowcast.SequenceDataset.__init__, {"self", "source"}, {"batch_size", "workers"}),
    "forecast": (Nowcaster.forecast, {"self", "data"}, {"model"}),
    "exceedance": (Nowcaster.exceedance, {"self", "data"}, {"model"}),
    "quantiles": (Nowcaster.quantiles, {"self", "data"}, {"model"}),
    "hindcast": (hindcast.hindcast, {"data"}, set()),
    "calibrate": (hindcast.calibrate, {"data"}, set()),
    "verify": (sa_nowcast.verify, {"forecast"}, set()),
    "accumulate": (derived.accumulate, {"data"}, set()),
    "at": (derived.at, {"data"}, set()),
    "over": (derived.over, {"data"}, set()),
    "plot": (plotting.plot_forecast, {"forecast"}, {"last", "y", "x"}),
    "animate": (plotting.animate, {"forecast"}, set()),
    "plot_attention": (plotting.plot_attention, {"nowcaster", "data"}, {"model"}),
    "to_convention": (interop.to_convention, {"forecast"}, set()),
    "from_convention": (interop.from_convention, {"data"}, set()),
    "to_cf": (cf.to_dataset, {"forecast"}, set()),
}


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}


def documented(function: Callable[..., Any]) -> set[str]:
    """The names in the sections Parameters and Other Parameters of a numpydoc docstring."""
    text = inspect.getdoc(function) or ""
    names: set[str] = set()
    for section in re.findall(r"^(?:Other )?Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", text, re.M | re.S):
        for line in re.findall(r"^\S[^\n]*", section, re.M):
            names.update(name.strip().lstrip("*") for name in line.split(" : ")[0].split(","))
    return names


def public() -> list[tuple[str, Callable[..., Any]]]:
    """Every public function, the classes' constructors, and what `Nowcaster` and `Reference` offer."""
    found: dict[str, Callable[..., Any]] = {}
    for room in (sa_nowcast, derived, hindcast, interop, interop.pysteps, plotting, stream, verification):
        for name in getattr(room, "__all__", []):
            thing = getattr(room, name)
            if inspect.isfunction(thing):
                found[f"{thing.__module__}.{name}"] = thing
    for owner in (Nowcaster, verification.Reference):
        found[f"{owner.__name__}.forecast"] = owner.forecast
    return sorted(found.items())


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_the_accessor_is_documented(name: str) -> None:
    method, (function, data, _) = getattr(ACCESSOR, name), BEHIND[name]
    # Its own docstring, and below it those of the functions behind, which have the data as a parameter too.
    assert documented(method) - {"data", *data} == set(parameters(method))
    described = sa_nowcast.SequenceDataset if name == "loader" else function
    assert inspect.getdoc(described) in inspect.getdoc(method)
    assert "Returns\n" in inspect.getdoc(method)
    assert "Raises\n" in inspect.getdoc(method)


@pytest.mark.parametrize(("name", "function"), public())
def test_every_parameter_of_a_public_function_is_documented(name: str, function: Callable[..., Any]) -> None:
    assert set(parameters(function)) <= documented(function), name


@pytest.mark.parametrize("name", METHODS)
def test_the_accessor_has_the_parameters_of_the_function(name: str) -> None:
    function, data, own = BEHIND[name]
    ours, theirs = parameters(getattr(ACCESSOR, name)), parameters(function)
    assert set(ours) - own == set(theirs) - data
    for key in set(ours) - own - {"history", "steps"}:  # positions differ: the data stand before
        assert ours[key].default == theirs[key].default, key
        assert ours[key].kind == theirs[key].kind or name in ("hindcast", "plot_attention"), key


def test_fit_names_every_field_of_the_training() -> None:
    text = inspect.getdoc(ACCESSOR.fit)
    assert text is not None
    assert [n for n in TrainingRecipe.model_fields if f"``{n}``" not in text] == []


def test_the_signatures_are_there_before_torch_and_matplotlib_are() -> None:
    code = (
        "import inspect, sys, xarray as xr, sa_nowcast; a = type(xr.Dataset().sa_nowcast); "
        "[inspect.signature(getattr(a, n)) for n in dir(a) if n[0] != '_']; repr(xr.Dataset().sa_nowcast); "
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
