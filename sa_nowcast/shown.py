"""How ``.sa_nowcast`` shows itself: the docstrings of what it delegates to, and what it finds in the data."""

from __future__ import annotations

import contextlib
import pkgutil
import re
from collections.abc import Callable
from inspect import cleandoc
from typing import Any, TypeVar

import xarray as xr

from sa_nowcast.metadata import dims
from sa_nowcast.times import show_step, show_time

F = TypeVar("F", bound=Callable[..., Any])


def described_by(*names: str) -> Callable[[F], F]:
    """Add the docstrings of functions to a method's, read from their source: importing them would import torch.

    It takes a millisecond for all. The signatures are written out, for help() and completion. A test compares both with
    those of the functions. An installation of bytecode alone has the methods' own docstrings.
    """

    def described(method: F) -> F:
        for module, name in (full.rsplit(".", 1) for full in names):
            source = ""
            with contextlib.suppress(OSError):
                source = (pkgutil.get_data("sa_nowcast", f"{module.replace('.', '/')}.py") or b"").decode()
            found = re.search(rf'^ *(?:class|def) {name}\b.*?"""(.*?)"""', source, re.M | re.S)
            if found and method.__doc__:
                head = f"sa_nowcast.{module}.{name}"
                method.__doc__ = f"{cleandoc(method.__doc__)}\n\n{head}\n{'-' * len(head)}\n{cleandoc(found[1])}"
        return method

    return described


def found(obj: xr.DataArray | xr.Dataset) -> list[str]:
    """Return what data hold, in some lines; what is not told by them is said, and nothing is raised or read."""
    if dims.LEAD_TIME in obj.dims or {dims.LEAD_TIME, dims.INIT_TIME} <= set(obj.coords):
        sizes = ", ".join(f"{name} {size}" for name, size in obj.sizes.items())
        more = "  use: verify(truth), plot(), animate(path), to_cf(), to_convention(name),"
        return [f"  a forecast: {sizes}", more, "       accumulate(window), at(points), over(areas)"]
    from sa_nowcast.frames import Frames

    try:
        frames = Frames.from_xarray(obj, gaps="skip")
    except Exception as error:  # a repr has no way to fail
        return ["  no sequence of frames as it is:", f"  {error}"]
    count, grid, gaps = len(frames), frames.grid, len(frames.segments) - 1
    spacing = ""
    if grid.dy is not None and grid.dx is not None:
        spacing = f", spacing {abs(grid.dy):.6g} x {abs(grid.dx):.6g} {grid.units or ''}".rstrip()
    shown = ", ".join(f"{c.name} [{c.units}]" if c.units else c.name for c in frames.channels[:6])
    more = f" and {len(frames.channels) - 6} more" if len(frames.channels) > 6 else ""
    return [
        f"  frames: {count} from {show_time(frames.times[0])} to {show_time(frames.times[-1])},"
        f" every {show_step(frames.step)}, {gaps or 'no'} gap{'' if gaps == 1 else 's'} ({frames.time_dim})",
        f"  grid: {grid.height} x {grid.width} ({grid.y}, {grid.x}){spacing}",
        f"  channels: {shown}{more}",
        "  use: forecast(steps), exceedance(thresholds, steps), quantiles(probabilities, steps), hindcast(steps),",
        "       fit(history=, steps=), loader(history=, steps=), accumulate(window), at(points), over(areas)",
    ]
