"""The stage that converts the source to a Zarr store, which several recipes may share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sa_nowcast.conversion import convert
from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe import SAMPLE_PREFIX, Recipe
from sa_nowcast.sources.samples import open_sample
from sa_nowcast.storage.whole import storage, write_whole
from sa_nowcast.workflow.outputs import digest

NOTE = ".inputs.json"
"""Ends the name of the file beside a store that says what the store was made of."""


def convert_source(
    recipe: Recipe, identity: str, report: Callable[[str], None], *, alone: bool = True, dry_run: bool = False
) -> bool:
    """Convert what `recipe` names, where the store is not there, not whole, or was made of other data.

    Parameters
    ----------
    recipe : Recipe
        With a block ``conversion``.
    identity : str
        Of the source.
    report : callable
        Called with one line.
    alone : bool
        Whether no other process may be about to do the same.
    dry_run : bool
        Check only: the store is not made.

    Returns
    -------
    bool
        Whether anything was done.

    Raises
    ------
    RecipeError
        The store holds a conversion with other settings, or one that no recipe made.
    DataError, StorageError
        As `sa_nowcast.convert`.
    """
    block = recipe.conversion
    assert block is not None
    store = Path(block.to).expanduser()
    note = store.with_name(store.name + NOTE)
    settings = {
        **block.model_dump(mode="json", exclude={"to"}),
        "data": recipe.data.model_dump(mode="json", include={"engine", "options", "variables", "time"}),
    }
    told = recipe.data.model_dump(mode="json", include={"y", "x", "channel"}, exclude_none=True)
    settings["data"] |= told
    if block.frames_per_shard is None:
        settings["window"] = recipe.history + recipe.steps
    known = _read(note)
    if store.exists() and (known is None or known.get("settings") != settings):
        raise RecipeError(
            f"conversion.to {block.to}",
            "it was not made by a recipe" if known is None else "it was converted with other settings",
            expected="a store of its own for each conversion",
            fix="name another store or remove this one; to read it as it is, name it as data.source",
        )
    reason = "not done yet"
    if store.exists() and known is not None:
        if known.get("identity") == identity and known.get("files") == _listing(store):
            report(f"skipping convert: {store} is whole, and the source is the same")
            return False
        reason = "the source has changed" if known.get("identity") != identity else f"{store} is not whole"
    if not alone:
        raise RecipeError(
            f"conversion.to {block.to}",
            f"{reason}, and several processes are to train on it",
            fix="run the recipe on one process first, and stop it once it trains",
        )
    report(f"converting {recipe.data.source} to {store} ({reason})")
    source: Any = recipe.data.source
    if source.startswith(SAMPLE_PREFIX):
        source = open_sample(source.removeprefix(SAMPLE_PREFIX))
    given = block.model_dump(exclude={"to"}, exclude_none=True)
    if not dry_run:
        with storage(store):
            store.parent.mkdir(parents=True, exist_ok=True)
    convert(
        str(Path(source).expanduser()) if isinstance(source, str) else source,
        store,
        engine=recipe.data.engine,
        options=recipe.data.options or None,
        variables=recipe.data.variables,
        time=recipe.data.time,
        y=recipe.data.y,
        x=recipe.data.x,
        channel=recipe.data.channel,
        window=recipe.history + recipe.steps,
        existing="replace" if store.exists() else "refuse",
        dry_run=dry_run,
        **given,
    )
    if dry_run:
        return True
    with storage(note):
        made = {"settings": settings, "identity": identity, "files": _listing(store)}
        write_whole(note, json.dumps(made, indent=2))
    return True


def _read(note: Path) -> Mapping[str, Any] | None:
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _listing(store: Path) -> str:
    # Every chunk has a checksum that is looked at when it is read; here it is enough that none is missing or cut.
    files = sorted(f for f in store.rglob("*") if f.is_file())
    return digest([(f.relative_to(store).as_posix(), f.stat().st_size) for f in files])
