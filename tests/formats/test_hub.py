"""hub: the client of huggingface_hub uploads a folder to a server that speaks it."""

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import COUNTED, ROOT, has_loopback

from tinygpt.errors import UserError
from tinygpt.formats.hub import require_repository

pytest.importorskip("huggingface_hub", reason="what uploads")
pytestmark = pytest.mark.skipif(not has_loopback(), reason="no loopback here")
TOKEN = "hf_a_token_for_tests"  # no secret: this file's own server asks for it
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": bytes(range(256)) * 100,
    "README.md": b"---\npipeline_tag: text-generation\n---\n# mine\n",
}


class Hub(http.server.ThreadingHTTPServer):
    """Keeps repositories: names, privacy, the files of the last commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}  # large files by sha256
        self.refuse = 0  # status of every answer to a commit, if not 0
        self.cards: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """The few requests of an upload, as the Hugging Face hub documents them."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        self.answer({"id": "me/mine", "sha": "a" * 40, "siblings": [], "private": True})

    def do_PUT(self) -> None:
        data = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.stored[oid] = data
        self.answer({})

    def do_POST(self) -> None:
        data, url = self.body(), self.server.url
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.private:
                return self.answer({"error": "it exists", "url": f"{url}/{name}"}, 409)
            private = asked.get("private") or asked.get("visibility") == "private"
            self.server.private[name] = bool(private)  # by version of the client
            return self.answer({"url": f"{url}/{name}"})
        if self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(data)["content"])
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            large = (".safetensors", ".png")
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(data)["files"]
            ]
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                thing | {"actions": {"upload": {"href": f"{url}/lfs/{thing['oid']}"}}}
                for thing in json.loads(data)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/(.+)/commit/main", self.path)
        assert found, self.path
        if self.server.refuse:
            return self.answer({"error": "no room"}, self.server.refuse)
        files = self.server.files.setdefault(found[1], {})
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        commit = {"commitUrl": f"{url}/{found[1]}/commit/b", "commitOid": "b" * 40}
        return self.answer({"success": True, "hookOutput": "", **commit})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("not for others", encoding="utf-8")
    return folder


# Without torch, which a whole `tinygpt export` loads.
PUSH = """
import sys
from pathlib import Path
from tinygpt.errors import UserError
from tinygpt.formats.hub import push
try:
    print(push(Path(sys.argv[1]), sys.argv[3:], sys.argv[2]))
except UserError as error:
    sys.exit(str(error))
"""


def push(hub: Hub | None, folder: Path, token: str | None = TOKEN) -> tuple[str, str]:
    """Output and complaint of a process that uploads `folder` to me/mine."""
    own = {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9"}
    own |= {"HF_HOME": str(folder.parent / "home"), "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    own |= {"HF_TOKEN": token} if token else {}
    ended = subprocess.run(
        [sys.executable, "-c", PUSH, folder, "me/mine", *FILES],
        env=kept | COUNTED | own,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return ended.stdout.strip(), ended.stderr.strip()


@pytest.mark.slow
def test_a_folder_arrives_whole_and_private(hub: Hub, folder: Path) -> None:
    said, wrong = push(hub, folder)
    assert (said, wrong) == (f"{hub.url}/me/mine", "")
    assert hub.files == {"me/mine": FILES}  # and no notes
    assert hub.private == {"me/mine": True}
    assert set(hub.cards) == {FILES["README.md"].decode()}
    (folder / "config.json").write_bytes(b"{}")
    hub.private["me/mine"] = False  # made public on the site
    assert push(hub, folder) == (f"{hub.url}/me/mine", "")
    assert hub.files["me/mine"]["config.json"] == b"{}"
    assert hub.private == {"me/mine": False}


@pytest.mark.slow
def test_one_sentence_without_a_token_and_for_a_refusal(hub: Hub, folder: Path) -> None:
    said, wrong = push(hub, folder, token=None)
    assert said == ""
    assert wrong.startswith("there is no token of the Hugging Face hub here: make one")
    assert hub.files == {}
    said, wrong = push(hub, folder, token="hf_another")
    assert said == ""
    assert wrong.startswith("cannot upload to me/mine (")
    assert "\n" not in wrong
    hub.refuse = 403
    said, wrong = push(hub, folder)
    assert said == ""
    assert "so the same command may be given again" in wrong
    assert "\n" not in wrong


@pytest.mark.parametrize(
    "name",
    ["", "mine", "a/b/c", "a/", "/b", "a/b c", "a/b..c", "a/b--c", "../b", "ü/b"],
)
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UserError, match="takes a repository USER/NAME"):
        require_repository(name)
    require_repository("me/my-model_1.0")
