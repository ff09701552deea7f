"""A trained model on disk: a folder with ``weights.safetensors`` and ``model.json``, and texts to read.

``model.json`` holds the network's configuration, the scaling, the grid and cadence it was trained on, provenance,
the SHA-256 of the weights file, and a SHA-256 of all of this. Neither safetensors nor torch notices a flipped bit;
the digests do. A model that was calibrated has ``calibration.safetensors`` too, and in ``model.json`` a record of it
with a digest of its own: that of the model stays what it was. Digests prove damage, not trust: whoever can change the
files can change the digests too. Nothing in a bundle is ever executed.

``README.md`` (the model card) and ``recipe.yaml`` may stand beside them, for whoever reads about the model: no digest
covers them, nothing depends on them, and who passes a model on may change them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_nowcast.errors import ModelError, StorageError
from sa_nowcast.storage.whole import partial_beside, put_in_place

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
WEIGHTS, MODEL, CALIBRATION = "weights.safetensors", "model.json", "calibration.safetensors"
CALIBRATED = "calibration"
"""Key of what `MODEL` tells of `CALIBRATION`."""
CARD, RECIPE = "README.md", "recipe.yaml"
FILES = (WEIGHTS, MODEL, CALIBRATION, CARD, RECIPE)
MAX_JSON_BYTES = 10_000_000
MAX_TEXT_BYTES = 1_000_000
MAX_WEIGHTS_BYTES = 2**32
_NEW = "train the model again, or fetch it again from where it came"


def write_bundle(
    path: str | Path,
    weights: Mapping[str, Tensor],
    description: Mapping[str, Any],
    overwrite: bool,
    texts: Mapping[str, str] | None = None,
    calibration: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
) -> str:
    """Write a bundle beside its final name and rename it there; return its digest.

    `description` is all that `model.json` holds beside the digests, plain JSON data; `texts` are what `CARD` and
    `RECIPE` hold, where an empty one makes no file; `calibration` is what `encode_calibration` takes. With `overwrite`
    a bundle that stands there is replaced, and nothing else ever is. A folder that exists, or cannot be written, is a
    `StorageError`.
    """
    data, content = encode(weights, description)
    target = Path(path)
    require_free(target, overwrite)
    files = {WEIGHTS: data}
    if calibration is not None:
        files[CALIBRATION], content[CALIBRATED] = encode_calibration(*calibration)
    files[MODEL] = _text(content).encode()
    # What UTF-8 cannot hold (half a surrogate pair in a name) must not keep a model from being saved.
    files |= {name: text.encode("utf-8", "replace") for name, text in (texts or {}).items() if text}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(target) as partial:
            partial.mkdir()
            for name, written in files.items():
                with (partial / name).open("wb") as file:
                    file.write(written)
                    file.flush()
                    os.fsync(file.fileno())
            put_in_place(partial, target)
    except OSError as error:
        raise StorageError(
            str(target), f"the model could not be written ({error.strerror or error})", fix="choose another folder"
        ) from error
    return str(content["sha256"])


def require_free(target: Path, overwrite: bool) -> None:
    """Refuse a place where no bundle may be written; an empty folder counts as a model that may be replaced."""
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not (overwrite and (empty or _is_bundle(target))):
        what = "an empty folder" if empty else "a model" if _is_bundle(target) else "something that is no model"
        fix = "choose another path" + (", or pass overwrite=True" if empty or _is_bundle(target) else "")
        raise StorageError(str(target), f"{what} stands there", expected="a new path", fix=fix)


def encode(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of the weights file, and the content of `model.json` with both digests."""
    data = _bytes(weights)
    content = {"format": FORMAT, **description, "weights_sha256": hashlib.sha256(data).hexdigest()}
    content["sha256"] = _digest(content)
    return data, content


def encode_calibration(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of the file of a calibration, and its record with both digests."""
    data = _bytes(tensors)
    content = {**record, "tensors_sha256": hashlib.sha256(data).hexdigest()}
    content["sha256"] = _digest(content)
    return data, content


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    data: bytes = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    return data


def read_bundle(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a bundle and check every byte of it; return weights and description.

    What is no bundle, one of a newer format, or one that was truncated or altered is a `ModelError`.
    """
    folder = Path(path)
    model = folder / MODEL
    if not model.is_file():
        what = "no such folder" if not folder.exists() else f"it holds no {MODEL}"
        near = (f.parent for place in (folder, folder.parent) for f in sorted(place.glob(f"*/{MODEL}")))
        beside = next(near, None)
        fix = f"name {beside}" if beside else "name the folder of a saved nowcaster"
        raise ModelError(str(folder), what, expected="a saved nowcaster", fix=fix)
    for file in (model, folder / WEIGHTS, folder / CALIBRATION):
        if file.exists() and not (file.is_file() and _belongs(file, folder)):
            raise ModelError(
                str(file), "is a folder, a device or a link out of the model's folder", expected="a file", fix=_NEW
            )
    try:
        with model.open("rb") as opened:
            raw = opened.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelError(
            str(model), f"cannot be read ({error.strerror})", fix=f"make it readable, as by chmod u+r {model}"
        ) from error
    if len(raw) > MAX_JSON_BYTES:
        raise ModelError(str(model), "too large", expected=f"at most {MAX_JSON_BYTES} bytes", fix=_NEW)
    try:
        content = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ModelError(str(model), "damaged: not JSON", fix=_NEW) from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ModelError(str(model), "damaged: no format number", fix=_NEW)
    if content["format"] > FORMAT:
        raise ModelError(
            str(model), f"format {content['format']}", expected=f"at most {FORMAT}", fix="install a newer sa-nowcast"
        )
    # The digest is over the content; the text must be the one that this content has, so that every byte counts.
    if _digest(content) != content.get("sha256") or _text(content).encode() != raw:
        raise ModelError(str(model), "altered: its SHA-256 does not match its content", fix=_NEW)
    read_calibration(folder, content)
    return _tensors(folder / WEIGHTS, content.get("weights_sha256")), content


def read_calibration(path: str | Path, content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Read the tensors of a calibration, and check every byte; None where the content of `MODEL` tells of none."""
    told = content.get(CALIBRATED)
    if told is None:
        return None
    if not isinstance(told, dict) or _digest(told) != told.get("sha256"):
        raise ModelError(f"{path}, {CALIBRATED}", "altered: its SHA-256 does not match its content", fix=_NEW)
    return _tensors(Path(path) / CALIBRATION, told.get("tensors_sha256"))


def _tensors(file: Path, digest: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        size = file.stat().st_size
        if size > MAX_WEIGHTS_BYTES:
            raise ModelError(str(file), f"{size} bytes", expected=f"at most {MAX_WEIGHTS_BYTES}", fix=_NEW)
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(str(file), f"cannot be read ({error.strerror})", fix=_NEW) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelError(str(file), f"truncated or altered: its SHA-256 is not the one in {MODEL}", fix=_NEW)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(str(file), f"damaged ({error})", fix=_NEW) from error


def read_text(path: str | Path, name: str) -> str:
    """Return what a bundle's `CARD` or `RECIPE` holds; empty where none can be read: no reason to refuse the model."""
    file = Path(path) / name
    try:
        if not file.is_file() or not _belongs(file, Path(path)):
            return ""  # a link to a file of the reader's own would be passed on with the model
        with file.open("rb") as opened:
            raw = opened.read(MAX_TEXT_BYTES + 1)
        return raw.decode() if len(raw) <= MAX_TEXT_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _belongs(file: Path, folder: Path) -> bool:
    """Say whether a file, links followed, lies in the folder, or where a Hugging Face cache keeps its content."""
    real, root = file.resolve(), folder.resolve()
    cached = root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
    return cached or real.is_relative_to(root)


def _is_bundle(folder: Path) -> bool:
    """Say whether a folder holds a model, or a part of one that was damaged, and nothing else."""
    if not folder.is_dir():
        return False
    names = {f.name for f in folder.iterdir()}
    return names <= set(FILES) and bool(names & {MODEL, WEIGHTS})


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)


def _digest(content: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in content.items() if k not in ("sha256", CALIBRATED)}  # which has a digest of its own
    try:
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return ""  # a NaN or Infinity that no bundle was written with
    return hashlib.sha256(text.encode()).hexdigest()
