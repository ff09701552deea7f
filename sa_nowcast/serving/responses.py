"""Answers as HTTP has them: JSON, bytes with a tag, and files with ranges."""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from sa_nowcast.serving.folder import File

AGAIN: Final = "no-cache"  # kept, and asked for again each time
FOR_EVER: Final = "max-age=604800, immutable"
_PART: Final = 256 * 1024
_TYPES: Final = {".nc": "application/x-netcdf", ".tif": "image/tiff", ".geojson": "application/geo+json",
                 ".json": "application/json", ".bin": "application/octet-stream", ".js": "text/javascript"}  # fmt: skip


def as_json(document: Any, status: int = 200, kind: str = "application/json") -> Response:
    """Answer with a document."""
    body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, {"cache-control": AGAIN}, media_type=kind)


def tagged(request: Request, tag: str, body: bytes, kind: str, kept: str = AGAIN) -> Response:
    """Answer with bytes, or that they are what the client has: by their tag."""
    headers = {"etag": f'"{tag}"', "cache-control": kept}
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type=kind)


def as_file(request: Request, file: File, path: str) -> Response:
    """Answer with a file that is open, or with one range of it (RFC 9110 section 14); it is closed at the end."""
    tag = f'"{file.version}"'
    headers = {"etag": tag, "accept-ranges": "bytes", "cache-control": AGAIN}
    begin, end, status = 0, file.size, 200
    if tag in request.headers.get("if-none-match", ""):
        file.content.close()
        return Response(None, 304, headers)
    asked = request.headers.get("range", "")
    if asked and request.headers.get("if-range", tag) == tag:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.replace(" ", ""))
        if found and (found[1] or found[2]):
            begin = int(found[1]) if found[1] else max(0, file.size - int(found[2]))
            end = min(file.size, int(found[2]) + 1) if found[1] and found[2] else file.size
            if begin >= end:
                file.content.close()
                return Response(None, 416, {**headers, "content-range": f"bytes */{file.size}"})
            status = 206
            headers["content-range"] = f"bytes {begin}-{end - 1}/{file.size}"
    headers["content-length"] = str(end - begin)
    parts = _parts(file.content, begin, end if request.method == "GET" else begin)
    return StreamingResponse(parts, status, headers, media_type=type_of(path))


def _parts(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(begin)
        while begin < end and (part := file.read(min(_PART, end - begin))):
            begin += len(part)
            yield part


def type_of(path: str) -> str:
    """Return the media type of a file, by its name."""
    suffix = os.path.splitext(path)[1]
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
