"""A saved nowcaster, checked: every byte, its weights, its terms, and that it forecasts the same twice."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.bundle.files import read_bundle
from sa_nowcast.errors import ModelError, SaNowcastError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.survey.findings import Finding
from sa_nowcast.times import show_step

GRID: Final = 32


def check_bundle(path: str) -> list[Finding]:
    """Check a saved nowcaster.

    The checks are ``digests``, ``weights``, ``terms``, ``provenance``, ``skill``, ``card`` and ``forecast``. A failure
    ends the list where nothing further can be looked at.
    """
    try:
        weights, content = read_bundle(path)
    except SaNowcastError as error:
        return [Finding.failure("digests", error)]
    found = [Finding("digests", "PASS", f"SHA-256 {content['sha256']}")]
    try:
        nowcaster = Nowcaster.load(path)
    except SaNowcastError as error:
        return [*found, Finding.failure("weights", error)]
    broken = [name for name, weight in weights.items() if not np.isfinite(weight.float().numpy()).all()]
    if broken:
        fault = ModelError(f"{path}, weight {broken[0]}", "is not finite", fix="train it again")
        return [*found, Finding.failure("weights", fault)]
    count = sum(w.numel() for w in weights.values())
    found.append(Finding("weights", "PASS", f"{count:,} parameters as {nowcaster.storage}, all finite"))
    found += [_terms(nowcaster), _provenance(nowcaster), _skill(nowcaster)]
    there = [name for name, text in (("card", nowcaster.card), ("recipe", nowcaster.recipe)) if text]
    found.append(
        Finding("card", "PASS", f"with {' and '.join(there)}")
        if there
        else Finding("card", "WARN", "no card and no recipe: how it was made is not recorded")
    )
    try:
        found.append(_forecast(nowcaster, path))
    except SaNowcastError as error:
        found.append(Finding.failure("forecast", error))
    return found


def _terms(nowcaster: Nowcaster) -> Finding:
    terms = nowcaster.terms
    channels = ", ".join(f"{n} [{u}]" if u else n for n, u in terms.channels)
    line = f"{terms.history} to {terms.steps} frames every {show_step(terms.step)}: {channels}"
    lacking = [n for n, u in terms.channels if u is None]
    if lacking or terms.dy is None:
        what = f"units of {', '.join(lacking)}" if lacking else "grid spacing"
        return Finding("terms", "WARN", f"{line}; trained without {what}, so it cannot refuse data in another")
    return Finding("terms", "PASS", f"{line}, {terms.dy:.6g} x {terms.dx:.6g} {terms.grid_units or ''}".rstrip())


def _provenance(nowcaster: Nowcaster) -> Finding:
    known = nowcaster.provenance
    missing = [k for k in ("training_period", "sa_nowcast_version", "recipe") if not known.get(k)]
    if missing:
        return Finding("provenance", "WARN", f"does not say {', '.join(missing)}")
    line = f"trained on {known['training_period']} by sa_nowcast {known['sa_nowcast_version']}, recipe"
    return Finding("provenance", "PASS", f"{line} {known['recipe']}")


def _skill(nowcaster: Nowcaster) -> Finding:
    ours, theirs = (nowcaster.provenance.get(k) for k in ("validation_loss", "validation_persistence"))
    if ours is None or theirs is None:
        return Finding("skill", "WARN", "was trained without validation; nothing says how good it is")
    ratio = float(ours) / float(theirs) if theirs else float("nan")
    line = f"validation loss {float(ours):.4g}, persistence {float(theirs):.4g}, ratio {ratio:.3f}"
    if not ratio < 1:
        return Finding("skill", "WARN", f"{line}: no better than persistence")
    return Finding("skill", "PASS", line)


def _forecast(nowcaster: Nowcaster, path: str) -> Finding:
    data = _frames_for(nowcaster)
    first, second = (nowcaster.forecast(data, grid="any", device="cpu").values for _ in range(2))
    if first.tobytes() != second.tobytes():
        raise ModelError(path, "two forecasts from the same frames differ", expected="the same bits")
    return Finding("forecast", "PASS", f"twice the same bits on {GRID} x {GRID} frames of noise, on the CPU")


def _frames_for(nowcaster: Nowcaster) -> xr.Dataset:
    """Return frames that the model accepts: noise about the middle of what it was scaled for."""
    terms = nowcaster.terms
    noise = np.random.default_rng(0).normal(0, 0.5, (terms.history, len(terms.channels), GRID, GRID))
    values = nowcaster.scaling.to_physical(noise.astype(np.float32), np)
    coords = {
        "time": pd.date_range("2000-01-01", periods=terms.history, freq=pd.Timedelta(terms.step_ns, "ns")),
        "y": ("y", np.arange(GRID)[::-1] * (terms.dy or 1.0)),
        "x": ("x", np.arange(GRID) * (terms.dx or 1.0)),
    }
    variables = {
        name: (("time", "y", "x"), values[:, i].astype(np.float32), {} if units is None else {"units": units})
        for i, (name, units) in enumerate(terms.channels)
    }
    return xr.Dataset(variables, coords)
