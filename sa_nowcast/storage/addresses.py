"""Addresses of stores: which are read, and how one is written down without a secret in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeGuard
from urllib.parse import urlsplit

from sa_nowcast.errors import RecipeError

SCHEMES: Final = ("s3", "gs", "az", "https", "http")
CREDENTIALS: Final[Mapping[str, tuple[str, str]]] = {
    "s3": (
        r"AWS_(ACCESS_KEY_ID|WEB_IDENTITY_TOKEN_FILE|CONTAINER_CREDENTIALS_\w+|METADATA_ENDPOINT)",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "gs": (
        r"(GOOGLE_)?(SERVICE_ACCOUNT|SERVICE_ACCOUNT_PATH|SERVICE_ACCOUNT_KEY|APPLICATION_CREDENTIALS)",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "az": (r"AZURE_\w*(KEY|TOKEN|SECRET|IDENTITY|TOKEN_FILE)\w*", "AZURE_STORAGE_ACCOUNT_KEY"),
}
"""By scheme: which variables of the environment are credentials or say where to get them, and what to set."""


def is_address(source: object) -> TypeGuard[str]:
    """Say whether `source` is written as an address (``scheme://...``) and not as a path."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def plain(address: str) -> str:
    """Return an address without user, password, query and fragment: as it may be shown and written down."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def require_address(address: str) -> str:
    """Return an address that can be read and written down, without a slash at its end.

    Raises
    ------
    RecipeError
        Another scheme, no bucket, or a user, password or signed query in it.
    """
    shown = plain(address)
    scheme = urlsplit(address).scheme
    if scheme not in SCHEMES:
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise RecipeError(shown, f"addresses that begin with {scheme}:// are not read", expected=f"one of {known}")
    if address.partition("#")[0] != shown:
        wanted = CREDENTIALS[scheme][1] if scheme in CREDENTIALS else None
        raise RecipeError(
            shown,
            "the address held a user, a password or a query, which would be written down with results",
            expected="an address without",
            fix=f"leave them out and set {wanted} in the environment" if wanted else "leave them out",
        )
    if not urlsplit(address).netloc:
        raise RecipeError(shown, "no bucket in the address", expected=f"one such as {scheme}://bucket/rain.zarr")
    return shown.rstrip("/")
