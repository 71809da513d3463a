"""Publishing an adapter, on a hub of our own: a server on loopback that keeps what the real client sends."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cft.settings import read_yaml

ROOT = Path(__file__).resolve().parents[1]
CFT = Path(sys.executable).with_name("cft")
COMMIT = "c0ffee" + 34 * "0"


class Hub(BaseHTTPRequestHandler):
    """What the client asks of a hub when it makes a repository and commits files to it."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        if self.server.refuses:
            return self.answer(self.server.refuses, {"error": "no right to write"})
        repo = "lab/model-soft-seed1"
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{repo}", "id": "1", "name": repo})
        if "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files})
        return self.answer(200, {"commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/{repo}/commit/x"})

    def do_GET(self):
        self.answer(200, {"id": "lab/model-soft-seed1", "sha": 40 * "0", "siblings": [], "private": True})

    def answer(self, status, content):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.refuses = [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "train_log.csv", "README.md", "run.json"):
        (folder / name).write_text(f"content of {name}\n")
    return folder


@pytest.fixture
def push(tmp_path, adapter, monkeypatch):
    """Run `cft push` against a port; a home of its own, so that nobody's token is used."""

    def run(port, token="hf_test"):
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "home"),
                       "HF_HUB_DISABLE_TELEMETRY": "1", "PATH": str(CFT.parent)}  # fmt: skip
        environment |= {"HF_TOKEN": token} if token else {}
        words = [CFT, "push", "--adapter", adapter, "--repo", "lab/model-soft-seed1", "--out", tmp_path / "pushed.json"]
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)

    return run


def committed(hub):
    (body,) = [body for path, body, _ in hub.asked if "/commit/" in path]
    lines = [json.loads(line) for line in body.splitlines()]
    return {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }


def test_an_adapter_and_its_card_are_one_commit(hub, push, adapter, tmp_path):
    done = push(hub.server_port)
    assert done.returncode == 0, done.stderr
    files = {name: (adapter / name).read_bytes() for name in
             ("adapter_model.safetensors", "adapter_config.json", "train_log.csv", "README.md")}  # fmt: skip
    assert committed(hub) == files
    (made,) = [json.loads(body) for path, body, _ in hub.asked if path == "/api/repos/create"]
    assert made["name"] == "model-soft-seed1" and made["organization"] == "lab"
    assert made.get("private") is True or made.get("visibility") == "private"
    assert {token for _, _, token in hub.asked} == {"Bearer hf_test"}
    assert json.loads((tmp_path / "pushed.json").read_text())["commit"] == COMMIT
    assert (tmp_path / "pushed.run.json").is_file()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_one_line(hub, push, status, tmp_path):
    hub.refuses = status
    done = push(hub.server_port)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "HF_TOKEN must be a token that may write" in done.stderr and not (tmp_path / "pushed.json").exists()


def test_without_a_card_or_a_hub_nothing_is_published(hub, push, adapter):
    (adapter / "README.md").unlink()
    done = push(hub.server_port)
    assert done.returncode == 1 and "has no README.md; write the card with `cft card`" in done.stderr
    assert hub.asked == []
    (adapter / "README.md").write_text("a card")
    hub.shutdown()
    hub.server_close()
    done = push(hub.server_port)
    assert done.returncode == 1 and "cannot be reached" in done.stderr and "Traceback" not in done.stderr


def test_only_an_experiment_that_asks_for_it_pushes(tmp_path):
    def planned(*words):
        command = ["snakemake", *words, "-n", "--quiet", "rules"]
        environment = {"PATH": f"{CFT.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)

    asks = tmp_path / "asks.yaml"
    asks.write_text(json.dumps(read_yaml(ROOT / "config/demo.yaml") | {"hub": {"namespace": "lab"}}))
    assert "push" not in planned("--configfile", "config/demo.yaml").stdout
    assert "push " in planned("--configfile", str(asks)).stdout
    refused = planned("results/pushed/smollm2/soft/seed11.json", "--configfile", "config/demo.yaml")
    assert refused.returncode and "nothing is pushed without the key `hub`" in refused.stdout + refused.stderr
