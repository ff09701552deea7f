"""Resume checkpoints: written whole or not at all, read without running any code."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any, Final

import torch
from lightning.fabric.plugins import CheckpointIO

from sa_nowcast.errors import ModelError, StorageError

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# It stands after what torch reads, which passes over it: torch writes checksums and does not look at them, and they do
# not cover every byte.
_SEAL: Final = b"sa_nowcast SHA-256 "
_SEAL_BYTES: Final = len(_SEAL) + hashlib.sha256().digest_size


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, syncs, reads back, keeps the former one, renames.

    Lightning's own writer goes through a temporary folder that may lie on another file system, and a rename across
    file systems is a copy that can be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; what stood there becomes `PREVIOUS` beside it."""
        target = Path(path)
        # One name: what a killed process left there is overwritten.
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
            seal(partial)
            load_checkpoint(partial)
            if target.exists():
                os.replace(target, target.with_name(PREVIOUS))
            os.replace(partial, target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except (OSError, RuntimeError, ModelError) as error:
            raise StorageError(
                str(target), f"the checkpoint could not be written ({error})", fix="free space or choose another folder"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None, **_: Any
    ) -> dict[str, Any]:
        """Read a checkpoint; never anything but tensors and plain data."""
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, or raise `ModelError` where it is damaged."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")  # a device has no end
        size = path.stat().st_size - _SEAL_BYTES
        with path.open("rb") as file:
            digest = _sha256(file, size)
            sealed = size > 0 and file.read(_SEAL_BYTES + 1) == _SEAL + digest
        if not sealed:
            raise ValueError("its SHA-256 does not match")
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What is no checkpoint raises almost anything: EOFError, KeyError, UnpicklingError, RuntimeError, ...
        found = str(error) if type(error) is ValueError else type(error).__name__
        raise ModelError(
            str(path), f"the checkpoint is damaged ({found})", fix="remove it to start from the one before"
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise ModelError(str(path), "no checkpoint of a training run", fix="remove it")
    return loaded


def newest_valid(folder: Path) -> tuple[Path | None, ModelError | None]:
    """Return the newest checkpoint in `folder` that can be read, or None where there is none at all.

    The second is what is wrong with a newer one, or with all of them.
    """
    damage: ModelError | None = None
    for path in (folder / LAST, folder / PREVIOUS):
        if path.exists():
            try:
                load_checkpoint(path)
            except ModelError as error:
                damage = damage or error
                continue
            return path, damage
    return None, damage


def seal(path: Path) -> None:
    """Append the SHA-256 of what a file holds, and bring it to the disk."""
    with path.open("r+b") as file:
        digest = _sha256(file, path.stat().st_size)
        file.seek(0, os.SEEK_END)
        file.write(_SEAL + digest)
        file.flush()
        os.fsync(file.fileno())


def _sha256(file: IO[bytes], size: int) -> bytes:
    """Return the SHA-256 of the next so many bytes."""
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, 2**22))):
        digest.update(part)
        size -= len(part)
    return digest.digest()
