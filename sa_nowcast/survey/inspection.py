"""What a file is, in plain data, which the command line prints as a table or as JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.bundle.files import CALIBRATED, CARD, RECIPE, read_bundle, read_text
from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import read_recipe
from sa_nowcast.sources.opening import kind_of, open_data, open_forecast, zarr_header
from sa_nowcast.sources.paths import expand
from sa_nowcast.storage.addresses import is_address
from sa_nowcast.storage.manifest import COMPLETE
from sa_nowcast.times import most_common_step, read_times, show_step, show_time


def inspect_path(
    source: str,
    *,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    told: dims.DimNames = dims.UNNAMED,
) -> dict[str, Any]:
    """Describe what `source` holds; no value of it is read, but for a model every byte is checked.

    Parameters
    ----------
    source, engine, options, variables
        As for `sa_nowcast.sources.opening.open_data`.
    told : DimNames
        Dimensions of frames, where attributes and common names do not tell.

    Returns
    -------
    dict
        ``path``, ``kind`` ("model", "recipe", "run", "forecast", "archive", "scores" or "data"), ``bytes`` on disk, and
        what belongs to the kind. Plain data for JSON.
    """
    kind: str = kind_of(source)
    path = Path(source).expanduser()
    match kind:
        case "model":
            found = _model(source)
        case "recipe":
            found = {"recipe": read_recipe(path).model_dump(mode="json")}
        case "run":
            found = _run(path)
        case "scores":
            found = _scores(source)
        case "forecast":
            forecast = open_forecast(source)
            kind = "archive" if forecast.sizes.get(dims.INIT_TIME, 1) > 1 else "forecast"
            found = _forecast(forecast) | _store(source)
        case _:
            ds = open_data(source, engine=engine, options=options, variables=variables, time=told.time)
            found = _data(ds, told) | _store(source)
    return {"path": source, "kind": kind, "bytes": _bytes(source), **found}


def _model(source: str) -> dict[str, Any]:
    weights, content = read_bundle(source)
    terms = content.get("terms", {})
    step = np.timedelta64(int(terms.get("step_ns", 0)), "ns")
    return {
        "sha256": content["sha256"],
        "format": content["format"],
        "network": content.get("network"),
        "parameters": sum(int(w.numel()) for w in weights.values()),
        "stored_as": content.get("storage", "float32"),
        "cadence": show_step(step),
        "terms": terms,
        "scaling": content.get("scaling"),
        "provenance": content.get("provenance"),
        "calibration": content.get(CALIBRATED),
        "card": bool(read_text(source, CARD)),
        "recipe": bool(read_text(source, RECIPE)),
    }


def _run(path: Path) -> dict[str, Any]:
    try:
        claim = json.loads((path / "recipe.json").read_text())
        done = json.loads((path / "run.json").read_text()) if (path / "run.json").is_file() else None
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"its records cannot be read ({error})", expected="the folder of a run") from error
    files = sorted(str(f.relative_to(path)) for f in path.iterdir() if not f.name.startswith("."))
    return {"name": claim.get("name"), "finished": done is not None, "files": files, "recipe": claim}


def _scores(source: str) -> dict[str, Any]:
    from sa_nowcast.verification.metrics import METRICS
    from sa_nowcast.workflow.scoring import read_scores

    scores = read_scores(source)
    first = next(iter(scores.values()))
    return {
        "models": [name for name in scores if name],
        "metrics": [str(n) for n in first.data_vars if n in METRICS],
        "lead_times": [show_step(lead) for lead in first[dims.LEAD_TIME].values],
        "reference": first.attrs.get("reference"),
    }


def _forecast(forecast: xr.DataArray) -> dict[str, Any]:
    init = np.atleast_1d(forecast[dims.INIT_TIME].values) if dims.INIT_TIME in forecast.coords else np.empty(0)
    lead = np.atleast_1d(forecast[dims.LEAD_TIME].values)
    attrs = {str(k): _json(v) for k, v in forecast.attrs.items()}
    return {
        "variable": str(forecast.name),
        "units": forecast.attrs.get("units"),
        "dims": {str(d): int(n) for d, n in forecast.sizes.items()},
        "dtype": str(forecast.dtype),
        "init_times": _times(init),
        "lead_times": [show_step(one) for one in lead],
        "chunks": _json(forecast.encoding.get("chunks") or forecast.encoding.get("chunksizes")),
        "provenance": {k: v for k, v in attrs.items() if k.startswith("sa_nowcast")},
        "attributes": {k: v for k, v in attrs.items() if not k.startswith("sa_nowcast")},
    }


def _data(ds: xr.Dataset, told: dims.DimNames) -> dict[str, Any]:
    variables = {}
    for name, variable in ds.data_vars.items():
        encoding = variable.encoding
        variables[str(name)] = {
            "dims": list(map(str, variable.dims)),
            "shape": [int(n) for n in variable.shape],
            "dtype": str(variable.dtype),
            "stored_as": str(encoding.get("dtype", variable.dtype)),
            **{key: _json(variable.attrs.get(key)) for key in ("units", "standard_name", "long_name")},
            "packing": {k: _json(encoding[k]) for k in ("scale_factor", "add_offset") if k in encoding},
            "chunks": _json(encoding.get("chunksizes") or encoding.get("chunks")),
            "shards": _json(encoding.get("shards")),
            "nbytes": int(variable.nbytes),
        }
    roles: dict[str, str | None] = {}
    for role, dim in told.by_role.items():
        try:
            roles[role] = str(dims.find_dim(ds, role, dim))
        except DataError:
            if dim is not None:
                raise
            roles[role] = None
    if told.channel is not None:
        if told.channel not in ds.dims:
            found = f"no dimension {told.channel!r} (dimensions: {', '.join(map(str, ds.dims))})"
            raise DataError("data", found, fix="name one with channel=")
        roles["channel"] = str(told.channel)
    times: Any = np.empty(0)
    if roles["time"] is not None:
        with contextlib.suppress(DataError):
            times = read_times(dims.with_positions(ds), roles["time"], "data")
    return {
        "dims": {str(d): int(n) for d, n in ds.sizes.items()},
        "roles": roles,
        "times": _times(times),
        "variables": variables,
        "coordinates": {str(n): [int(s) for s in c.shape] for n, c in ds.coords.items()},
        "attributes": {str(k): _json(v) for k, v in ds.attrs.items()},
    }


def _store(source: str) -> dict[str, Any]:
    header = zarr_header(source)
    if header is None:
        return {}
    version, attrs = header
    hindcast = attrs.get("sa_nowcast_hindcast")
    made = {"hindcast": json.loads(str(hindcast))} if hindcast else {}
    return {"zarr_format": version, "complete": COMPLETE in attrs, **made}


def _times(times: Any) -> dict[str, Any]:
    if not np.issubdtype(times.dtype, np.datetime64) or not times.size:
        return {"count": int(times.size), "first": None, "last": None, "step": None}
    steps = np.diff(np.unique(times)).astype("timedelta64[ns]").astype(np.int64)
    step = show_step(np.timedelta64(most_common_step(steps), "ns")) if len(steps) else None
    return {"count": int(times.size), "first": show_time(times.min()), "last": show_time(times.max()), "step": step}


def _bytes(source: str) -> int | None:
    if is_address(source):
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    try:
        return sum(f.stat().st_size for f in expand(source) if f.is_file())
    except DataError:
        return None


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_json(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
