"""The upload by the real command, to a hub on this machine."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """What a hub keeps, with the few addresses that the library asks.

    Attributes:
        models: name -> path -> content.
        private: names that were made private.
        stored: large files by their SHA-256.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    stored: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, object]:
        if method == "PUT":
            self.stored[path.removeprefix("/store/")] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'anna')}/{asked['name']}"
            if asked.get("organization", "anna") != "anna":
                return 403, {"error": "You don't have the rights to create a model under this namespace"}
            if name in self.models:
                return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
            self.models[name] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(name)
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": one, "uploadMode": "lfs" if one.endswith(".safetensors") else "regular"} for one in files]
            return 200, {"files": [mode | {"shouldIgnore": False} for mode in modes]}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [one | {"actions": {"upload": {"href": f"{self.address}/store/{one['oid']}"}}} for one in objects]
            return 200, {"transfer": "basic", "objects": actions}
        if path.endswith("/commit/main"):
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.models[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                if entry["key"] == "lfsFile":
                    self.models[name][entry["value"]["path"]] = self.stored[entry["value"]["oid"]]
            return 200, {"commitUrl": f"{self.address}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
        return 404, {"error": f"nothing at {method} {path}"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            path = self.path.partition("?")[0]
            token = self.headers.get("Authorization", "")
            status, value = made.answer(self.command, path, token, self.rfile.read(length))
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a card, and with all that must not leave this machine."""
    model = tmp_path / "run" / "model"
    for name in ("model/other", "checkpoints/step-00000008", "ledger"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (model / "model.safetensors").write_bytes(os.urandom(30_000))
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "README.md"):
        (model / name).write_text(f"content of {name}")
    (model / "optimizer.safetensors.pt").write_text("secret")
    (model / "verdicts-r00000-000000.parquet").write_text("secret")
    (tmp_path / "run" / "checkpoints" / "step-00000008" / "optimizer.pt").write_text("secret")
    (tmp_path / "run" / "checkpoints" / "step-00000008" / "model.safetensors").write_text("secret")
    (tmp_path / "run" / "ledger" / "verdicts-r00000-000000.parquet").write_text("secret")
    (tmp_path / "run" / "log.jsonl").write_text("secret")
    return tmp_path / "run"


def push(*words: str, endpoint: str, token: str | None = TOKEN, home: Path) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    if token is not None:
        settings["HF_TOKEN"] = token
    call = [sys.executable, "-c", "from truepair.cli.main import main; main()", "push", *words]
    return subprocess.run(call, env=kept | settings, capture_output=True, text=True, timeout=240)


FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}


def test_the_model_and_nothing_else_is_uploaded(run: Path, hub: Hub, tmp_path: Path) -> None:
    done = push(str(run), "anna/squares", "--private", endpoint=hub.address, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.address}/anna/squares" in done.stderr
    assert "stays here, since it is no file of a model: optimizer.safetensors.pt, other, verdicts-r" in done.stderr
    assert hub.private == {"anna/squares"}
    found = hub.models["anna/squares"]
    assert found == {name: (run / "model" / name).read_bytes() for name in FILES}
    assert set(hub.stored) == {hashlib.sha256(found["model.safetensors"]).hexdigest()}
    assert b"secret" not in b"".join(found.values())

    (run / "model" / "config.json").write_text("new")
    taken = push(str(run / "model"), "anna/squares", endpoint=hub.address, home=tmp_path)
    assert taken.returncode == 2
    assert taken.stderr.splitlines()[-1] == (
        "truepair: anna/squares is there already; give another name, or --update to replace its files"
    )
    assert hub.models["anna/squares"]["config.json"] == b"content of config.json"
    assert push(str(run), "anna/squares", "--update", endpoint=hub.address, home=tmp_path).returncode == 0
    assert hub.models["anna/squares"]["config.json"] == b"new"


def test_a_dry_run_shows_all_and_asks_nobody(run: Path, hub: Hub, tmp_path: Path) -> None:
    done = push(str(run), "anna/squares", "--dry-run", endpoint=hub.address, token=None, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 kB  model.safetensors" in done.stderr and "in 5 files" in done.stderr
    assert "content of README.md" in done.stdout and "nothing was uploaded: this was a dry run" in done.stderr
    assert hub.models == {} and hub.stored == {}


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("anna/squares", None, "there is no token for the hub; run 'hf auth login', or set HF_TOKEN"),
        ("anna/squares", "hf_wrong", "the hub does not accept the token; run 'hf auth login' again"),
        ("otto/squares", TOKEN, "the token may not write to otto/squares; make one with write access"),
        ("squares", TOKEN, "'squares' has no owner; give owner/name"),
        ("a b/c", TOKEN, "'a b/c' is no name on the hub: "),
    ],
)
def test_refusals_are_one_line(name: str, token: str | None, message: str, run: Path, hub: Hub, tmp_path: Path) -> None:
    done = push(str(run), name, endpoint=hub.address, token=token, home=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"truepair: {message}")
    assert hub.stored == {}


def test_without_a_network_it_says_so(run: Path, tmp_path: Path) -> None:
    done = push(str(run), "anna/squares", endpoint="http://127.0.0.1:9", home=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("truepair: http://127.0.0.1:9 cannot be reached (")
    assert last.endswith("); check the network and run the command again")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("run/checkpoints/step-00000008", "is a checkpoint with the state of its optimizer; give the run"),
        ("run/ledger", "there are no weights in"),
        ("nowhere", "there are no weights in"),
    ],
)
def test_what_is_no_model_is_refused(folder: str, message: str, run: Path, hub: Hub, tmp_path: Path) -> None:
    done = push(str(tmp_path / folder), "anna/squares", endpoint=hub.address, home=tmp_path)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert hub.models == {}
