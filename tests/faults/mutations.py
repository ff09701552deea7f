"""What can happen to the content of a file, one thing at a time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("flip", "truncate", "empty", "remove", "swap")


@dataclass(frozen=True)
class Mutation:
    """One change; `other` is the file that was exchanged with `file`."""

    kind: str
    file: Path
    other: Path | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.file}" + ("" if self.other is None else f" with {self.other}")


def change(rng: random.Random, files: list[Path], kind: str) -> tuple[Mutation, dict[Path, bytes]]:
    """Change one of `files`, or exchange two whose bytes differ; return what was done, and what they held."""
    file = rng.choice(files)
    whole = file.read_bytes()
    if kind != "remove" and not any(f.read_bytes() for f in files):
        kind = "remove"
    while not whole and kind in ("flip", "truncate", "empty"):
        file = rng.choice(files)
        whole = file.read_bytes()
    others = [f for f in files if f != file and f.read_bytes() != whole]
    # Another of the same array is the exchange that nothing but a list of digests notices.
    alike = [f for f in others if f.parts[:-3] == file.parts[:-3]] if rng.random() < 0.7 else []
    if kind == "swap" and not others:
        kind = "remove"
    other = rng.choice(alike or others) if kind == "swap" else None
    held = {file: whole}
    if kind == "flip":
        at = rng.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    elif kind == "truncate":
        file.write_bytes(whole[: rng.randrange(1, len(whole)) if len(whole) > 1 else 0])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "remove":
        file.unlink()
    else:
        assert other is not None
        held[other] = other.read_bytes()
        file.write_bytes(held[other])
        other.write_bytes(whole)
    return Mutation(kind, file, other), held


@contextlib.contextmanager
def mutated(rng: random.Random, files: list[Path], kind: str) -> Iterator[Mutation]:
    """Likewise; all is as it was afterwards."""
    mutation, held = change(rng, files, kind)
    try:
        yield mutation
    finally:
        for file, whole in held.items():
            file.write_bytes(whole)
