"""The unit of systemd and the container file of the how-to, as far as they can be tried without an init and an engine.

What is executed: the check of systemd itself over the unit, and its command; of the container file the installation (of
the wheel, without its dependencies, which the test's environment has), the account, the command, the health check
against it, and the signal that ends it. What is not: no image is built, so neither the base image nor the wheels of
dependencies for its Python are tried, and systemd does not start the unit.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from operations.service_files import frames, incoming, published

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "service.md"


def _block(begins: str) -> str:
    (found,) = re.findall(rf"^```\w+\n({re.escape(begins)}.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    return str(found)


def _container() -> list[tuple[str, str]]:
    lines = _block("# Containerfile").splitlines()[1:]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def _recipe(tmp_path: Path) -> tuple[Path, int]:
    """Return the recipe of the page, for a small grid, a folder of the test's and a port that is free."""
    ds = frames(5)
    incoming(tmp_path, ds, range(5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    told = yaml.safe_load(_block("name: radar").replace("/data/radar", str(tmp_path)).replace("9464", str(port)))
    told["points"] = [{"name": "Bern", "y": 12000, "x": 9000}]
    told["arrivals"]["variable"] = "rain"
    told["clock"] = {"origin": str(ds.time.values[-1]), "began": time.time()}
    path = tmp_path / "radar.yaml"
    path.write_text(yaml.safe_dump(told))
    return path, port


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_has_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "sa-nowcast.service"
    script = Path(sys.executable).parent / "sa-nowcast"
    unit.write_text(_block("# /etc/systemd").replace("/opt/nowcast/bin/sa-nowcast", str(script)))

    def verified() -> tuple[int, str]:
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert verified() == (0, "")
    unit.write_text(unit.read_text().replace("TimeoutStopSec", "TimeoutStop"))
    assert "Unknown key" in verified()[1]


def test_the_container_file_installs_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    instructions = _container()
    assert [name for name, _ in instructions] == [
        "FROM", "COPY", "RUN", "RUN", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"
    ]  # fmt: skip
    (image,) = re.findall(r"python:(\d+\.\d+)-slim$", instructions[0][1])
    assert f"Programming Language :: Python :: {image}" in project["classifiers"]
    wanted = shlex.split(instructions[2][1])[-1]
    name, extras = wanted.rstrip("]").split("[")
    assert name == project["name"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    port = yaml.safe_load(_block("name: radar"))["port"]
    assert f":{port}/healthz" in dict(instructions)["HEALTHCHECK"]


@pytest.mark.slow
def test_the_commands_of_the_container_file_do_what_they_should(tmp_path: Path) -> None:
    steps = _container()
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT], check=True
    )
    install = shlex.split(steps[2][1].replace("/wheels", str(wheels)))
    assert install[0] == "pip"
    done = subprocess.run(
        [*pip, *install[1:], "--no-deps", "--target", site], capture_output=True, text=True, check=True
    )
    assert "does not provide" not in done.stderr
    account = shlex.split(steps[3][1])
    if shutil.which(account[0]) and os.geteuid() == 0:
        (tmp_path / "etc").mkdir()
        for name in ("passwd", "group", "shadow", "gshadow", "login.defs"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), tmp_path / "etc" / name)
        subprocess.run([account[0], "--prefix", tmp_path, *account[1:]], check=True)
        assert f"\n{steps[4][1]}:" in (tmp_path / "etc" / "passwd").read_text()

    recipe, port = _recipe(tmp_path)
    entry = json.loads(dict(steps)["ENTRYPOINT"].replace("/etc/nowcast/radar.yaml", str(recipe)))
    options, check = dict(steps)["HEALTHCHECK"].split(" CMD ")
    assert options == "--interval=60s --start-period=120s"
    check = json.loads(check.replace(":9464", f":{port}"))
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": "/nonexistent"}  # as of the account
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen([sys.executable, site / "bin" / entry[0], *entry[1:]], env=environment, cwd=tmp_path,
                                   stdout=output, stderr=output)  # fmt: skip
    try:
        latest = time.time() + 240
        while time.time() < latest and process.poll() is None:
            healthy = subprocess.run([sys.executable, *check[1:]], capture_output=True, check=False).returncode == 0
            folder = tmp_path / "published" / "forecasts"
            if healthy and folder.is_dir() and len(published(tmp_path / "published")) == 2:
                break
            time.sleep(0.5)
        assert process.poll() is None, (tmp_path / "output.txt").read_text()
        assert healthy
        assert (tmp_path / "published" / "latest").read_text() == "20200601T002000Z"
        began = time.time()
        process.send_signal(getattr(signal, dict(steps)["STOPSIGNAL"]))
        (allowed,) = re.findall(r"--stop-timeout (\d+)", PAGE.read_text("utf-8"))
        process.wait(int(allowed))
        print(f"ended within {time.time() - began:.1f} s")
    finally:
        process.kill()
        process.wait()
    assert json.loads((tmp_path / "published" / "status.json").read_text())["state"] == "stopped"
    # Nothing answers any more: the check fails, as it should.
    assert subprocess.run([sys.executable, *check[1:]], capture_output=True, check=False).returncode != 0


@pytest.mark.slow
def test_the_command_of_the_unit_checks_its_recipe(tmp_path: Path) -> None:
    recipe, _ = _recipe(tmp_path)
    (command,) = re.findall(r"^ExecStart=(.*)$", _block("# /etc/systemd"), re.M)
    arguments = command.replace("/etc/nowcast/radar.yaml", str(recipe)).split()
    script = Path(sys.executable).parent / Path(arguments[0]).name
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run([script, *arguments[1:], "--dry-run"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith("radar: ")
    assert sorted(tmp_path.rglob("*")) == before
