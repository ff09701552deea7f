"""Libraries that are imported only when a source needs them."""

from __future__ import annotations

from types import ModuleType

from sa_nowcast.computing import quiet
from sa_nowcast.computing.installing import install, pip_install
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
        absent = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
        if absent == library:
            raise MissingLibraryError(library, "is not installed", fix=install(extra)) from error
        # Installed again only where it is broken itself: what is there already, pip leaves as it is.
        again = install(extra) if absent else pip_install(library, "--force-reinstall", "--no-deps")
        raise MissingLibraryError(library, f"is installed but cannot be imported ({error})", fix=again) from error
