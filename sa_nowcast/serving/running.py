"""The server: bound before anything is said, with bounds on connections, and ended by a signal within seconds."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final

from sa_nowcast.errors import RecipeError, StorageError
from sa_nowcast.serving.folder import Published
from sa_nowcast.sources.reading import require

_CONNECTIONS: Final = 512
_SILENT: Final = 10.0


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises
    ------
    RecipeError
        There is no such address on this machine, or no such port.
    StorageError
        The port is in use, or may not be used.
    """
    if not 0 <= port <= 65535:
        raise RecipeError("port", str(port), expected="0 to 65535, 0 for any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise RecipeError(
            "host", f"{host!r} is no address ({getattr(error, 'strerror', None) or error})",
            expected="one of this machine", fix="pass host='127.0.0.1'",
        ) from error  # fmt: skip
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno in _NOT_HERE:
            raise RecipeError(
                "host", f"{host} is no address of this machine", expected="one of its own", fix="pass host='127.0.0.1'"
            ) from error
        raise StorageError(
            f"port {port}",
            f"cannot be bound ({error.strerror})",
            expected="a free one",
            fix="pass port=0 for any that is free",
        ) from error
    return bound


_NOT_HERE: Final = (99, 22)  # EADDRNOTAVAIL, EINVAL


def address_of(bound: socket.socket) -> str:
    """Return the address of the page."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_loopback(bound: socket.socket) -> bool:
    """Say whether only this machine can reach it."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def server(published: Published, *, rate: float = 50.0, burst: int = 500, seconds: float = 30.0) -> Any:
    """Return a server (`uvicorn.Server`) of what is published; ``run(sockets=[bind(host, port)])`` runs it.

    Parameters
    ----------
    published : Published
    rate, burst, seconds
        Bounds; see `sa_nowcast.serving.limits.Limits`. Playing 60 pictures a minute is one request a second.

    Raises
    ------
    MissingLibraryError
        FastAPI or uvicorn is not installed.
    """
    for library in ("fastapi", "uvicorn"):
        require(library, "serve")
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from sa_nowcast.serving.app import make_app
    from sa_nowcast.serving.limits import Limits

    class Protocol(H11Protocol):
        """Ends connections on which no request comes."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(_SILENT, lambda: self.cycle is None and transport.close())

    return uvicorn.Server(
        uvicorn.Config(
            Limits(make_app(published), rate=rate, burst=burst, seconds=seconds),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=16 * 1024,
        )
    )


def serve(
    folder: str, *, host: str = "127.0.0.1", port: int = 8000, rate: float = 50.0,
    report: Callable[[str], None] = lambda line: None,
) -> None:  # fmt: skip
    """Show what a service published, until SIGINT or SIGTERM.

    Parameters
    ----------
    folder : path
        The folder of the service.
    host, port : str, int
        Where; by default for this machine alone. Port 0 is any that is free.
    rate : float
        Requests a second of one client, 0 for any number.
    report : callable, optional
        Told the address when the page can be opened.

    Raises
    ------
    DataError, StorageError, RecipeError, MissingLibraryError
        As `Published`, `bind` and `server`.
    """
    if rate < 0:
        raise RecipeError("rate", f"{rate:g}", expected="0 or more requests a second")
    running = server(Published(folder), rate=rate, burst=int(10 * rate))
    with bind(host, port) as bound:
        report(address_of(bound))
        if not is_loopback(bound):
            report("reachable from other machines: nobody is asked who they are, and nothing is encrypted")
        with contextlib.suppress(KeyboardInterrupt):
            running.run(sockets=[bound])
