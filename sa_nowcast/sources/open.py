"""One door for all sources: `open_source` finds the right reader by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final

import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.sources.arrays import open_array
from sa_nowcast.sources.detect import detect
from sa_nowcast.sources.files import open_files
from sa_nowcast.sources.film import open_film
from sa_nowcast.sources.geotiff import open_geotiff
from sa_nowcast.sources.importers import IMPORTERS
from sa_nowcast.sources.kth import open_kth
from sa_nowcast.sources.moving_mnist import MovingMnistBackendEntrypoint
from sa_nowcast.sources.names import nearest
from sa_nowcast.sources.paths import PathLike, expand
from sa_nowcast.sources.radar import open_radar
from sa_nowcast.sources.taxibj import open_taxibj


def _open_moving_mnist(
    source: PathLike | Iterable[PathLike], *, drop_variables: str | Iterable[str] | None = None
) -> xr.Dataset:
    path = expand(source, (".npy",))[0]
    return MovingMnistBackendEntrypoint().open_dataset(path, drop_variables=drop_variables)


_READERS: Final[Mapping[str, Callable[..., xr.Dataset]]] = {
    "array": open_array,
    "film": open_film,
    "geotiff": open_geotiff,
    "kth": open_kth,
    "moving_mnist": _open_moving_mnist,
    "taxibj": open_taxibj,
}


def open_source(
    source: PathLike | Iterable[PathLike],
    *,
    engine: str | Any = None,
    time: Hashable | None = None,
    time_pattern: str | None = None,
    **options: Any,
) -> xr.Dataset:
    """Open any source that the package reads, lazily.

    Parameters
    ----------
    source : path or iterable of paths
        A file, a folder, a pattern, a Zarr store, or several.
    engine : str or BackendEntrypoint, optional
        ``taxibj``, ``moving_mnist``, ``kth``, ``array`` (NumPy files), ``film``, ``geotiff``, a format of radar
        composites (see `open_radar`), or an engine of xarray. By default the files tell: GeoTIFF, ODIM_H5, KNMI's HDF5,
        FMI's PGM and MeteoSwiss's GIF are known by what is in them, and of all others xarray guesses.
    time : hashable, optional
        The time dimension of files that xarray opens, where CF attributes and common names do not tell.
    time_pattern : str, optional
        The time in the files' names, as ``datetime.strptime`` takes it: ``%Y%m%d%H%M``.
    **options
        For the reader: `open_taxibj`, `open_kth`, `open_array`, `open_film`, `open_geotiff`, `open_radar`, or the
        options of ``xarray.open_dataset``.

    Raises
    ------
    RecipeError
        An unknown engine or option; the nearest known one is named. An option that the reader cannot do without.
    """
    if engine is None:
        engine, source = detect(source)
    elif engine == "rasterio" and engine not in xr.backends.list_engines():
        engine = "geotiff"
    if isinstance(engine, str):
        if engine in _READERS:
            if time_pattern is not None:
                options["time_pattern"] = time_pattern
            _check_options(engine, options)
            return _READERS[engine](source, **options)
        if engine in IMPORTERS:
            return open_radar(source, engine, time_pattern=time_pattern, **options)
        known = {*_READERS, *IMPORTERS, *xr.backends.list_engines()}
        if engine not in known:
            raise RecipeError("engine", f"{engine!r} is not known", expected=nearest(engine, known))
    return open_files(source, engine=engine, time=time, time_pattern=time_pattern, options=options)


def reader_options() -> set[str]:
    """Return the names of all options of the package's own readers."""
    readers = [*_READERS.values(), *(i.reader for i in IMPORTERS.values() if i.reader), open_radar]
    named = {name for reader in readers for name in list(inspect.signature(reader).parameters)[1:]}
    return (named | {"time_pattern", "product", "extent"}) - {"engine", "options"}


def _check_options(engine: str, options: Mapping[str, Any]) -> None:
    _, *parameters = inspect.signature(_READERS[engine]).parameters.values()
    known = [p.name for p in parameters]
    for name in options:
        if name not in known:
            raise RecipeError("options", f"{name!r} is not known to engine {engine}", expected=nearest(name, known))
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in options]
    if missing:
        raise RecipeError("options", f"no {' and no '.join(missing)}, which engine {engine} needs")
