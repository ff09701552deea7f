"""Bounds of what one client can ask for: how often, how long, and by which methods; around any ASGI application."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_CLIENTS: Final = 10_000
_HEADERS: Final = (
    # The page asks nobody else for anything, and no other page may show it as its own.
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Limits:
    """Refuses what is too often, and ends what takes too long.

    Parameters
    ----------
    app : ASGI application
    rate : float
        Requests a second of one client (by its address) in the long run; 0 for any number.
    burst : int
        How many it may make at once after a pause.
    seconds : float
        How long an answer may take to begin, and then each part of it to be taken.
    """

    def __init__(self, app: App, *, rate: float, burst: int, seconds: float) -> None:
        self._app, self._rate, self._burst, self._seconds = app, rate, burst, seconds
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD"):
            return await _refuse(
                send, 405, "Nothing can be changed here, expected GET or HEAD", (b"allow", b"GET, HEAD")
            )
        wait = self._waiting(scope["client"][0] if scope.get("client") else "")
        if wait:
            line = f"More than {self._rate:g} requests a second, expected fewer: try again in {wait} s"
            return await _refuse(send, 429, line, (b"retry-after", str(wait).encode()))
        begun = asyncio.Event()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.set()
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await asyncio.wait_for(send(message), self._seconds)

        answer = asyncio.ensure_future(self._app(scope, receive, sending))
        try:
            beginning = asyncio.ensure_future(begun.wait())
            await asyncio.wait({answer, beginning}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            beginning.cancel()
            if not answer.done() and not begun.is_set():
                answer.cancel()
                return await _refuse(send, 503, f"No answer within {self._seconds:g} s, expected less to be asked for")
            await answer
        finally:
            answer.cancel()

    def _waiting(self, client: str) -> int:
        """Take a token of a client's bucket; return how many seconds it has to wait, 0 where it had one."""
        if not self._rate:
            return 0
        now = time.monotonic()
        tokens, last = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - last) * self._rate)
        while len(self._buckets) >= _CLIENTS:
            self._buckets.popitem(last=False)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        return 0 if tokens >= 1 else max(1, round((1 - tokens) / self._rate))


async def _refuse(send: Send, status: int, line: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"code": str(status), "description": line}).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
