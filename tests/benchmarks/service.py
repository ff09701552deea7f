"""What readers cost a running service: the latency of publication with fifty of them, against none.

Run with ``pytest -m benchmark -s tests/benchmarks/service.py``; minutes. `sa-nowcast watch` with the recipe that ships
(a part of the sample, 15 lead times, mean, matched, probabilities; NetCDF) runs as one process, `sa-nowcast serve` as a
second one, and all readers in a third. The last two have a lower priority (``NICE=10``), as the page should have beside
a service; ``NICE=0`` gives them the same. ``SET="steps=6 thresholds=[]"`` changes the recipe. Frames are dropped one by
one, each when the service is idle.

The three kinds of readers take turns (``ROUNDS=3`` times, ``FRAMES=3`` frames each): none; fifty that ask once a second
each, one thing after another (the page asks four things every ten seconds); and fifty that ask again as soon as they
are answered. Latencies are those of the service's log, from a frame's last byte to the last published file; medians
are compared. Every answer is read to its end and checked: JSON is whole, a file is that of its forecast by its digest,
a picture ends as PNG does.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

READERS, AT_MOST = 50, 1.5
ROUNDS, FRAMES, NICE = (int(os.environ.get(k, v)) for k, v in (("ROUNDS", "3"), ("FRAMES", "3"), ("NICE", "10")))
KINDS = {"none": None, "one request a second each": 1.0, "without a pause": 0.0}
PLACE = "coords=POINT(-87.2%2046.5)"


# --- readers: a process of their own, by the standard library alone


def ask(port: int, pause: float, until: threading.Event, number: int, found: dict[str, Any]) -> None:
    """Ask one thing after another until told to stop, and check each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    name, step = None, number
    until.wait(pause * number / READERS)  # not all at once
    while not until.is_set():
        paths = [
            "/status", "/forecasts/latest", "/alerts", f"/forecasts/{name}/map/precip_rate/240.png", "/observed",
            f"/edr/collections/forecast/position?{PLACE}", f"/files/forecasts/{name}/forecast.nc", "/",
        ]  # fmt: skip
        path = paths[step % len(paths)] if name else "/forecasts/latest"
        step += 1
        begun = time.monotonic()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                found["failures"].append(f"{path}: {answer.status} {body[:200]!r}")
            elif path.endswith(".png"):
                assert body[:4] == b"\x89PNG", path
                assert body[-8:-4] == b"IEND", path
            elif path.endswith(".nc"):
                found["files"].append([name, hashlib.sha256(body).hexdigest()])
            elif path == "/":
                assert body.rstrip().endswith(b"</html>")
            elif path == "/forecasts/latest":
                name = json.loads(body)["name"]
            else:
                json.loads(body)
        except Exception as error:
            found["failures"].append(f"{path}: {type(error).__name__} {error}")
            connection.close()
        found["seconds"].append(time.monotonic() - begun)
        until.wait(max(0.0, pause - (time.monotonic() - begun)))


def read(port: int, pause: float) -> None:
    """Run the readers until standard input ends, and print what they found."""
    until = threading.Event()
    found: dict[str, Any] = {"failures": [], "files": [], "seconds": []}
    threads = [threading.Thread(target=ask, args=(port, pause, until, n, found)) for n in range(READERS)]
    for thread in threads:
        thread.start()
    print("reading", flush=True)
    sys.stdin.read()
    until.set()
    for thread in threads:
        thread.join()
    print(json.dumps(found))


@contextmanager
def readers(port: int, pause: float | None) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {"failures": [], "files": [], "seconds": []}
    if pause is None:
        yield found
        return
    command = [sys.executable, __file__, str(port), str(pause)]
    process = subprocess.Popen(_lower(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.5)  # all of them have begun
    yield found
    found |= json.loads(process.communicate()[0])
    assert process.returncode == 0


# --- the service, and the server of its page


def _lower(command: list[str]) -> list[str]:
    return ["nice", "-n", str(NICE), *command]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from sa_nowcast.cli import main; main()", *arguments]


def _drop(frames: Any, number: int, incoming: Path) -> str:
    """Let a frame arrive, and return what its forecast is called."""
    import pandas as pd

    name = f"{pd.Timestamp(frames['time'].values[number]):%Y%m%dT%H%M%SZ}"
    partial = incoming.with_name(f"{name}.writing")
    frames.isel(time=[number]).to_netcdf(partial)
    partial.touch()
    partial.rename(incoming / f"{name}.nc")
    return name


def _idle(folder: Path, since: float) -> bool:
    with suppress(OSError, ValueError):
        status = json.loads((folder / "status.json").read_text())
        return bool(status["idle_since"]) and (folder / "status.json").stat().st_mtime > since
    return False


def _wait(what: Any, process: subprocess.Popen[bytes]) -> None:
    latest = time.monotonic() + 300
    while not what():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < latest, "nothing came within 300 s"
        time.sleep(0.05)


def _latencies(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        line["init_time"].replace("-", "").replace(":", ""): line["latency"]
        for line in lines
        if line["event"] == "published"
    }


def test_fifty_readers_do_not_delay_publication(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sa_nowcast
    from sa_nowcast.recipe import find_recipe, read_service
    from sa_nowcast.serving.running import bind

    frames = sa_nowcast.open_sample("mrms")[["precip_rate"]].load()
    frames["precip_rate"].encoding = {}
    incoming, folder = tmp_path / "incoming", tmp_path / "published"
    incoming.mkdir()
    history = 4
    for number in range(history):
        _drop(frames, number, incoming)
    changed = [f"arrivals.source={incoming}", f"output.folder={folder}", "max_age=1d"]
    recipe = read_service(find_recipe("service"), [*changed, *os.environ.get("SET", "").split()])
    now = {"origin": str(frames["time"].values[-1])[:19], "began": time.time(), "speed": 1.0}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json") | {"clock": now}))
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    asked: dict[str, list[float]] = {kind: [] for kind in KINDS}
    failures, files, which = [], [], {}
    watching = subprocess.Popen(_command("watch", str(tmp_path / "recipe.json")), stdout=subprocess.DEVNULL)
    serving = None
    try:
        _wait(lambda: (folder / "latest").exists() and _idle(folder, 0), watching)
        serving = subprocess.Popen(_lower(_command("serve", str(folder), "--port", str(port), "--rate", "0")),
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        _wait(lambda: _answers(port), serving)
        for _ in range(ROUNDS):
            for kind, pause in KINDS.items():
                with readers(port, pause) as found:
                    for _ in range(FRAMES):
                        number = history + len(which)
                        name = _drop(frames, number, incoming)
                        dropped = time.time()
                        which[name] = kind
                        _wait(lambda name=name: name in _latencies(folder), watching)
                        _wait(lambda dropped=dropped: _idle(folder, dropped), watching)
                failures += found["failures"]
                files += found["files"]
                asked[kind] += found["seconds"]
    finally:
        for process in (serving, watching):
            if process is not None:
                process.terminate()
                process.wait(60)
    for name, latency in _latencies(folder).items():
        if name in which:
            taken[which[name]].append(latency)
    whole = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "forecasts").glob("*/forecast.nc")
    }
    medians = {kind: statistics.median(values) for kind, values in taken.items()}
    with capsys.disabled():
        machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(f"\n{READERS} readers, they and the server {NICE} nicer than the service; {machine}")
        for kind, values in taken.items():
            ratio = f"ratio {medians[kind] / medians['none']:.2f}"
            print(f"  {kind}: median {medians[kind]:.2f} s, worst {max(values):.2f} s of {len(values)}; {ratio}")
            if answers := asked[kind]:
                longest = f"median {statistics.median(answers):.2f} s, longest {max(answers):.2f} s"
                print(f"    {len(answers)} answers, {longest}")
        print(f"  {len(files)} files read whole; failures: {len(failures)}")
    assert failures == []
    assert files
    assert all(digest == whole[name] for name, digest in files)
    assert medians["one request a second each"] <= AT_MOST * medians["none"]


def _answers(port: int) -> bool:
    with suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/edr/collections")
        return connection.getresponse().status == 200
    return False


if __name__ == "__main__":
    read(int(sys.argv[1]), float(sys.argv[2]))
