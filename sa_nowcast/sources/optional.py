"""Libraries that are imported only when a source needs them."""

from __future__ import annotations

from types import ModuleType

from sa_nowcast import quiet
from sa_nowcast.errors import MissingLibraryError


def require(module: str, extra: str) -> ModuleType:
    """Import `module` and return it, or say which command installs it.

    Parameters
    ----------
    module : str
        Dotted name of the module.
    extra : str
        The extra of this package that brings the library.

    Raises
    ------
    MissingLibraryError
        The library is not installed, or what is installed cannot be imported.
    """
    library = module.partition(".")[0]
    try:
        return quiet.load(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == library
        found = "is not installed" if missing else f"is installed but cannot be imported ({error})"
        raise MissingLibraryError(library, found, fix=f'pip install "sa-nowcast[{extra}]"') from error
