"""Resume checkpoints: written whole or not at all, read without running any code."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from sa_nowcast.errors import ModelError, StorageError

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


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
                file.flush()
                os.fsync(file.fileno())
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
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch writes checksums and does not look at them
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes raise almost anything: BadZipFile, EOFError, KeyError, UnpicklingError, RuntimeError, ...
        raise ModelError(
            str(path),
            f"the checkpoint is damaged ({type(error).__name__})",
            fix="remove it to start from the one before",
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise ModelError(str(path), "no checkpoint of a training run", fix="remove it")
    return loaded


def newest_valid(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder` that can be read, or None."""
    for name in (LAST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                load_checkpoint(path)
            except ModelError:
                continue
            return path
    return None
