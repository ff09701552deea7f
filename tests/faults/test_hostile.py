"""Files that were made to harm: each is refused in one line, in bounded time and memory; nothing is run or written."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_child import CANARY
from sequences import rain

from sa_nowcast.bundle import files as bundle
from sa_nowcast.bundle.files import CARD, MODEL, WEIGHTS
from sa_nowcast.conversion import convert
from sa_nowcast.training.checkpoint import seal

HERE = Path(__file__).parent


class Hostile:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles that leave a file, in several dresses."""
    objects = {
        "touch": Hostile(Path.touch, canary),
        "system": Hostile(os.system, f"touch {canary}"),
        "exec": Hostile(exec, f"open({str(canary)!r}, 'w')"),
        "popen": Hostile(subprocess.Popen, ["touch", str(canary)]),
    }
    made = {name: pickle.dumps({"state_dict": {}, "x": value}) for name, value in objects.items()}
    for name, legacy in (("torch", False), ("torch, legacy", True)):
        file = io.BytesIO()
        torch.save({"state_dict": {}, "x": objects["touch"]}, file, _use_new_zipfile_serialization=not legacy)
        made[name] = file.getvalue()
    return made


class Payloads:
    """Makes files below a folder, and lists how each is read."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.listed = folder, model, []
        self.canary = folder / CANARY

    def place(self, what: str, suffix: str = "") -> Path:
        place = self.folder / f"{len(self.listed)}{suffix}"
        self.listed.append({"what": what, "path": str(place)})
        return place

    def bundle(self, change: Callable[[dict[str, Any]], None] | None = None, weights: bytes | None = None) -> Path:
        folder = self.place("bundle")
        shutil.copytree(self.model, folder)
        content = json.loads((folder / MODEL).read_text())
        if weights is not None:
            (folder / WEIGHTS).write_bytes(weights)
            content["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        if change is not None:
            change(content)
        content["sha256"] = bundle._digest(content)
        (folder / MODEL).write_text(bundle._text(content))
        return folder

    def text(self, what: str, content: str | bytes, suffix: str = "") -> None:
        path = self.place(what, suffix)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def bundles(make: Payloads) -> None:
    for data in pickles(make.canary).values():
        make.bundle(weights=data)
    negative = {"head.weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}
    for header in (b"[" * 10**6, b'{"a":' * 10**5, json.dumps(negative).encode()):
        make.bundle(weights=struct.pack("<Q", len(header)) + header + bytes(64))
    make.bundle(weights=struct.pack("<Q", 2**62))
    huge = json.dumps({"head.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    make.bundle(weights=struct.pack("<Q", len(huge)) + huge)
    for hidden in ([10**9], [2**62], [4] * 10**5):
        make.bundle(lambda c, hidden=hidden: c["network"].update(hidden=hidden))
    make.bundle(lambda c: c["terms"].update(history=2**62, steps=-1))
    make.bundle(lambda c: c["network"].update(name="__import__('os').system('touch canary')"))
    make.bundle(lambda c: c["network"].update({"__class__": "os.system"}))
    make.bundle(lambda c: c.update(format=10**300))
    for name, target in (
        (WEIGHTS, "/dev/zero"), (WEIGHTS, "/etc/passwd"), (MODEL, "/dev/zero"), (MODEL, "/etc/passwd"), (WEIGHTS, None),
        (MODEL, None),
    ):  # fmt: skip
        file = make.bundle() / name
        file.unlink()
        if target is None:
            os.mkfifo(file)
        else:
            file.symlink_to(target)
    folder = make.bundle()
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(2**40)  # takes no space on the disk
    folder = make.bundle()
    make.listed[-1]["what"] = "card"
    (folder / CARD).unlink()
    (folder / CARD).symlink_to("/etc/passwd")


def recipes(make: Payloads) -> None:
    touch = f"touch {make.canary}"
    for text in (
        f'data: !!python/object/apply:os.system ["{touch}"]',
        f"data: !!python/object/new:os.system ['{touch}']",
        "data: !!python/name:os.system",
        "data: !!python/module:os",
        "k0: &k0 [x]\n" + "".join(f"k{i + 1}: &k{i + 1} [{', '.join([f'*k{i}'] * 9)}]\n" for i in range(9)),
        "a: &a\n  <<: *a",
        "[" * 40_000,
        "? " * 40_000,
        "a:\n" + "".join(" " * i + f"k{i}:\n" for i in range(1, 400)),
        "data: " + "9" * 90_000,
        "extends: ../../../../../../etc/passwd",
        "extends: /dev/zero",
        "data: {source: '${HOME:-$(touch canary)}'}",
        b"\xff\xfed\x00a\x00",
        b"name: \x00",
        "- x\n" * 10**6,
    ):  # fmt: skip
        make.text("recipe", text, ".yaml")
    os.mkfifo(make.place("recipe", ".yaml.pipe"))
    make.place("recipe", ".yaml").symlink_to("/dev/zero")


def sources(make: Payloads) -> None:
    for data in pickles(make.canary).values():
        path = make.place("checkpoint", ".ckpt")
        path.write_bytes(data)
        seal(path)
    make.place("checkpoint", ".ckpt").symlink_to("/dev/zero")
    path = make.place("array", ".npy")
    np.save(path, np.array([Hostile(os.system, f"touch {make.canary}")] * 4, dtype=object), allow_pickle=True)

    def npy(header: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()

    make.text("array", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 100000, 100000)}\n"), ".npy")
    make.text("array", npy(f"{{'descr': __import__('os').system('touch {make.canary}'), 'shape': (1,)}}\n"), ".npy")
    folder = make.place("digits")
    folder.mkdir()
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", compresslevel=9) as file:
        file.write(b"\x00\x00\x08\x03" + struct.pack(">3I", 2**31, 28, 28))
        for _ in range(270):
            file.write(bytes(2**20))
    folder = make.place("digits")
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3))
    for text in (b"\x89HDF\r\n\x1a\n" + bytes(100), b"CDF\x01" + b"\xff" * 200):
        make.text("source", text, ".nc")
    for codec in ({"id": "pickle"}, {"id": "categorize", "labels": ["a"], "dtype": "|O"}):
        for where in ("filters", "compressor"):
            folder = make.place("source", ".zarr")
            (folder / "rain").mkdir(parents=True)
            (folder / ".zgroup").write_text('{"zarr_format": 2}')
            codecs = {"filters": None, "compressor": None} | {where: [codec] if where == "filters" else codec}
            described = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<f8", "fill_value": 0, "order": "C"}
            described |= codecs
            (folder / "rain" / ".zarray").write_text(json.dumps(described))
            (folder / "rain" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["time"]}')
            (folder / "rain" / "0").write_bytes(pickles(make.canary)["touch"])


def judged(payloads: list[dict[str, str]], folder: Path, seconds: float) -> tuple[list[dict[str, Any]], int]:
    """Read the payloads in a process of their own; return what came of each, and its peak memory."""
    listed, results = folder / "payloads.json", folder / "results.json"
    listed.write_text(json.dumps(payloads))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile_child.py"), str(listed), str(results)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(results.read_text())
    return content["found"], content["peak"]


@pytest.mark.faults(10, 60)
def test_hostile_files_are_refused_and_nothing_of_them_is_run_or_written(
    repetitions: int, rng: random.Random, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "payloads"
    folder.mkdir()
    make = Payloads(folder, saved)
    bundles(make)
    recipes(make)
    sources(make)
    assert len(make.listed) >= 60
    if repetitions < 50:
        make.listed = rng.sample(make.listed, repetitions)
    found, peak = judged(make.listed, tmp_path, 250)
    kinds = Counter(p["what"] for p in make.listed)
    bad = [
        (payload, end)
        for payload, end in zip(make.listed, found, strict=True)
        if end["seen"]
        or end["seconds"] > 10
        or end["said"].startswith("TRACEBACK")
        or "\n" in end["said"]
        or end["said"] == "nothing"
    ]
    assert bad == []
    assert not make.canary.exists()
    assert not (tmp_path / CANARY).exists()
    slowest = max(end["seconds"] for end in found)
    print(f"{len(found)} payloads refused ({dict(kinds)}), slowest {slowest:.1f} s, peak {peak / 2**20:.0f} MiB")


def metadata(rng: random.Random, value: Any) -> Any:
    """Return JSON data in which one value is another: huge, negative, of another type, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: metadata(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], metadata(rng, value[at]), *value[at + 1 :]]
    return rng.choice([
        0, 1, -1, 3, 2**31, 2**40, 2**62, 10**30, 1e300, None, True, "", "x", "<U9", "float64", "|O", "pickle", [], {},
        [2**40] * 3, "../../..", {"name": "numcodecs.pickle", "configuration": {}}, [[]], "NaN", "\x00",
        "days since 1-1-1",
    ])  # fmt: skip


@pytest.mark.faults(10, 1000)
def test_altered_metadata_of_a_foreign_store_are_read_or_refused_in_bounded_memory(
    repetitions: int, rng: random.Random, tmp_path: Path
) -> None:
    """Of a store of our own the digests notice all of these; this is one that has none."""
    convert(rain(4, 6, 6), tmp_path / "whole.zarr", workers=1)
    shutil.rmtree(tmp_path / "whole.zarr" / "sa_nowcast_files")
    payloads = []
    for i in range(repetitions):
        store = tmp_path / f"{i}.zarr"
        shutil.copytree(tmp_path / "whole.zarr", store)
        file = store / rng.choice(["zarr.json", "zarr.json", "rain/zarr.json", "time/zarr.json", "x/zarr.json"])
        content = metadata(rng, json.loads(file.read_text()))
        file.write_text(json.dumps(content))
        payloads.append({"what": rng.choice(["store", "store", "source"]), "path": str(store)})
    found, peak = judged(payloads, tmp_path, 3000)
    ends = Counter(e["said"].split(":")[0] for e in found)
    slowest = max(end["seconds"] for end in found)
    print(f"{repetitions} altered: {dict(ends)}, peak {peak / 2**20:.0f} MiB, slowest {slowest:.2f} s")
    bad = [
        (p, e)
        for p, e in zip(payloads, found, strict=True)
        if e["seen"] or e["said"].startswith("TRACEBACK") or "\n" in e["said"]
    ]
    assert bad == []
    assert peak < 2e9
    assert max(e["seconds"] for e in found) < 10
