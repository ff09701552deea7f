"""A hub that does not answer, refuses, or has no such model; here it is a server in this process."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import sa_nowcast
from remedies.trial import remedy
from sa_nowcast.interop import hub

COMMIT = "a" * 40
TOKEN = "hf_" + "a" * 34


class FakeHub:
    """What of a hub's interface `push` and `pull` use, for one model; `token` is asked for where there is one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token, self.status = folder, None, 200
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> None:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                fake.answer(self)

            do_HEAD = do_POST = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def answer(self, asked: Any) -> None:
        asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
        path, headers, status, body = asked.path.partition("?")[0], {}, 200, b"{}"
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        names = path.strip("/").split("/")
        known = asked.headers.get("Authorization") == f"Bearer {self.token}"
        if self.status != 200 and not (self.status == 403 and known):
            status = self.status
        elif path == "/api/whoami-v2":
            status = 200 if known else 401
            auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
            body = json.dumps({"name": "somebody", "type": "user", "auth": auth}).encode()
        elif self.token is not None and not known:
            status, headers = 401, {"X-Error-Code": "RepoNotFound"}
        elif path == "/api/repos/create":
            body = json.dumps({"url": f"{self.url}/somebody/rain", "name": "somebody/rain"}).encode()
        elif path == "/api/validate-yaml":
            body = json.dumps({"errors": [], "warnings": []}).encode()
        elif "/preupload/" in path:
            body = json.dumps(
                {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in files]}
            ).encode()
        elif "/commit/" in path:
            commit = {
                "success": True,
                "commitUrl": f"{self.url}/somebody/rain/commit/{COMMIT}",
                "commitOid": COMMIT,
                "pullRequestUrl": None,
            }
            body = json.dumps(commit).encode()
        elif "somebody/rain" not in path:
            status, headers = 404, {"X-Error-Code": "RepoNotFound"}
        elif names[0] == "api":
            if "revision" in names and names[-1] not in ("main", COMMIT):
                status, headers = 404, {"X-Error-Code": "RevisionNotFound"}
            siblings = [{"rfilename": name} for name in files]
            model = {"_id": "1", "id": "somebody/rain", "sha": COMMIT, "tags": [], "siblings": siblings}
            listed = [{"type": "file", "path": n, "size": len(v), "oid": COMMIT} for n, v in files.items()]
            body = json.dumps(listed if "tree" in names else model).encode()
        else:
            body = files[names[-1]]
            headers = {"ETag": f'"{len(body)}-{names[-1]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "none"}
        asked.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            asked.send_header(name, value)
        asked.end_headers()
        if asked.command != "HEAD":
            asked.wfile.write(body)


@pytest.fixture
def fake(nowcaster, tmp_path, monkeypatch):
    made = FakeHub(hub.prepare_folder(nowcaster, tmp_path / "model", repo_id="somebody/rain"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    made.start()
    yield made
    made.stop()


def _pull(fake: FakeHub, tmp_path: Path, repo: str = "somebody/rain", **options):
    return hub.pull(repo, cache_dir=tmp_path / "cache", endpoint=fake.url, **options)


def _log_in(fix: str, fake: FakeHub, tmp_path: Path) -> None:
    """Run the command of the remedy, as its user."""
    program, *arguments = shlex.split(fix.partition(" by ")[2])
    environment = os.environ | {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "home")}
    told = [str(Path(sys.executable).with_name(program)), *arguments, "--token", TOKEN]
    done = subprocess.run(told, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "home" / "token").read_text() == TOKEN


@remedy("interop/hub.py", "run the same again when the hub answers, or give the folder of a copy to sa_nowcast.load")
@pytest.mark.parametrize("how", ["again", "copy"])
def test_a_model_that_was_not_fetched_and_a_hub_that_does_not_answer(how, fake, tmp_path):
    fake.stop()
    yield lambda: _pull(fake, tmp_path)
    if how == "again":
        fake.start()
    else:
        yield lambda: sa_nowcast.load(fake.folder)


@remedy("interop/hub.py", "run the same again when the hub answers")
@pytest.mark.parametrize("how", ["silent", "broken"])
def test_a_model_for_a_hub_that_does_not_answer(how, fake, nowcaster):
    if how == "silent":
        fake.stop()
    else:
        fake.status = 400
    yield lambda: hub.push(nowcaster, "somebody/rain", token=TOKEN, endpoint=fake.url)
    fake.status = 200
    if how == "silent":
        fake.start()


@remedy("interop/hub.py", "give the name of a model that is there, or log in by hf auth login")
@pytest.mark.parametrize("how", ["name", "log in"])
def test_a_model_that_the_hub_does_not_have_or_show(how, fake, tmp_path):
    if how == "log in":
        fake.token = TOKEN
    fix = yield lambda: _pull(fake, tmp_path, "somebody/rain" if how == "log in" else "somebody/snow")
    if how == "log in":
        _log_in(fix, fake, tmp_path)
    yield lambda: _pull(fake, tmp_path)


@remedy("interop/hub.py", "log in by hf auth login")
def test_an_upload_without_a_token(fake, nowcaster, tmp_path):
    fake.status, fake.token = 403, TOKEN
    fix = yield lambda: hub.push(nowcaster, "somebody/rain", endpoint=fake.url)
    _log_in(fix, fake, tmp_path)


@remedy("interop/hub.py", "name a branch, tag or commit")
def test_a_revision_that_the_hub_does_not_have(fake, tmp_path):
    yield lambda: _pull(fake, tmp_path, revision="v9")
    yield lambda: _pull(fake, tmp_path, revision=COMMIT)
