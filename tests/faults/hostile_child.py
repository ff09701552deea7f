"""Reads hostile files in a process of its own, and notes what is done besides reading. Arguments: payloads, results."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.getaddrinfo", "socket.bind", "pickle.find_class", "webbrowser.open", "ftplib.connect",
    "urllib.Request",
)  # fmt: skip
WRITES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
    "shutil.",
)
CANARY = "canary"

seen: list[str] = []
watching = False


def hook(event: str, args: tuple[Any, ...]) -> None:
    if not watching:
        return
    if event.startswith(FORBIDDEN) or event.startswith(WRITES):
        seen.append(f"{event} {args!r:.80}")
    elif event == "open" and len(args) > 2:
        mode, flags = args[1], args[2] or 0
        if (isinstance(mode, str) and set("wax+") & set(mode)) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(f"open {args!r:.80}")
    elif event == "exec" and CANARY in repr(args):
        seen.append(f"{event} {args!r:.80}")


def read(what: str, path: str) -> None:
    import sa_nowcast
    from sa_nowcast.frames import Frames
    from sa_nowcast.recipe import read_recipe
    from sa_nowcast.sources import open_source
    from sa_nowcast.sources.idx import read_digits
    from sa_nowcast.training.checkpoint import load_checkpoint

    if what == "bundle":
        sa_nowcast.load(path).card.encode()
    elif what == "card":
        if (found := sa_nowcast.load(path).card) != "":
            raise AssertionError(f"the card is {found!r}")
        raise sa_nowcast.errors.ModelError(path, "the card is not read")
    elif what == "checkpoint":
        load_checkpoint(Path(path))
    elif what == "recipe":
        read_recipe(path)
    elif what == "digits":
        read_digits(path, "train", check_hash=False)
    elif what == "store":
        frames = Frames.from_xarray(sa_nowcast.open_zarr(path, check="nothing"))
        frames.read(0, min(len(frames), 4))
    else:
        options = {"dims": ["time", "y", "x"], "start": "2020-01-01", "step": "5 min"} if what == "array" else {}
        frames = Frames.from_xarray(open_source(path, engine=None if what == "source" else what, **options))
        frames.read(0, min(len(frames), 4))


def main(payloads: Path, results: Path) -> None:
    global watching
    from sa_nowcast.errors import SaNowcastError

    found = []
    work = [{"what": p["what"], "path": p["path"]} for p in json.loads(payloads.read_text())]
    import sa_nowcast.interop.hub
    import sa_nowcast.training.checkpoint  # noqa: F401

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
    firsts = {w["what"]: w for w in work}.values()
    for warm in firsts:  # everything is imported before anything is watched
        if not (warm["path"].endswith(("slow", "pipe"))):
            try:
                read(warm["what"], warm["path"])
            except Exception:
                continue
    sys.addaudithook(hook)
    for payload in work:
        seen.clear()
        begin = time.perf_counter()
        watching = True
        try:
            read(payload["what"], payload["path"])
            said = "nothing"
        except SaNowcastError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"TRACEBACK {type(error).__name__}: {error}"
        watching = False
        found.append({"said": said, "seen": list(seen), "seconds": time.perf_counter() - begin})
    # Not ru_maxrss, which a process has from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    results.write_text(json.dumps({"found": found, "peak": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
