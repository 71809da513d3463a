"""Repositories of the hub among the upstream data, and each way they cannot be had."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import MagicMock

import pytest
from huggingface_hub import constants, errors

from cft import CftError, progress
from cft.assets import Assets, hub_snapshot

REPOSITORY = {"repo": "owner/name", "kind": "dataset", "revision": "0" * 39 + "a", "folder": "set"}
pytestmark = pytest.mark.usefixtures("no_mirror")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub, replaced by a folder that it gives, or by an error if one is put here; the calls that it got."""
    import huggingface_hub

    answer = MagicMock(folder=tmp_path / "snapshot", error=None, calls=[])
    answer.folder.mkdir()

    def snapshot(*names, **options):
        answer.calls.append((*names, options))
        if answer.error:
            raise answer.error
        return str(answer.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return answer


def test_a_repository_comes_from_the_hub_at_its_commit(hub, tmp_path):
    (hub.folder / "main").mkdir()
    (hub.folder / "main" / "test.parquet").touch()
    assets = Assets({"data": REPOSITORY | {"files": ["main/*.parquet"]}}, None, tmp_path / "cache")
    assert assets.folder("data") == hub.folder
    options = {"repo_type": "dataset", "revision": REPOSITORY["revision"], "allow_patterns": ["main/*.parquet"]}
    options["tqdm_class"] = progress.Downloads
    assert hub.calls == [("owner/name", options)]


def test_a_repository_without_the_files_is_told(hub, tmp_path):
    (hub.folder / "README.md").touch()
    assets = Assets({"data": REPOSITORY | {"files": ["*.md", "main/*.parquet"]}}, None, tmp_path / "cache")
    with pytest.raises(CftError, match=r"snapshot: no file main/\*\.parquet in it; get owner/name again"):
        assets.folder("data")


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (errors.GatedRepoError("403\nlong", response=MagicMock()), "owner/name is gated.*co/datasets/owner/name, then"),
        (errors.RepositoryNotFoundError("404\nlong", response=MagicMock()), "owner/name: no such dataset on the hub"),
        (errors.RevisionNotFoundError("404\nlong", response=MagicMock()), "owner/name: no revision 0000"),
        (
            errors.LocalEntryNotFoundError("no connection\nlong"),
            r"fetched from the hub \(no connection\); check the net",
        ),
        (errors.HfHubHTTPError("500 Server\nlong", response=MagicMock()), r"the hub \(500 Server\)"),
        (TimeoutError(), r"the hub \(TimeoutError\)"),
        (errors.XetDownloadError("broke off"), r"the hub \(broke off\)"),
    ],
)
def test_each_failure_of_the_hub_is_one_line(hub, tmp_path, error, match):
    hub.error = error
    with pytest.raises(CftError, match=f"{match}.*, or name a folder that holds it by assets_mirror") as caught:
        Assets({"data": REPOSITORY}, None, tmp_path / "cache").folder("data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_the_hub_library_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CftError, match="owner/name: cannot be fetched from the hub") as caught:
        hub_snapshot("owner/name", "model", None, ignore_patterns=["*.gguf"])
    assert "\n" not in str(caught.value)


def test_a_revision_must_be_pinned(hub, tmp_path):
    unknown = Assets({"data": REPOSITORY | {"revision": None}}, None, tmp_path)
    with pytest.raises(CftError, match=r"owner/name: its revision is not pinned; .*datasets/owner/name/commits/main"):
        unknown.folder("data")
    assert not hub.calls
    for revision in ("main", "aa2572e", "A" * 40):
        with pytest.raises(CftError, match="asset data: revision: String should match"):
            Assets({"data": REPOSITORY | {"revision": revision}}, None, tmp_path)
    with pytest.raises(CftError, match="asset data: revision: Field required"):
        Assets({"data": {key: value for key, value in REPOSITORY.items() if key != "revision"}}, None, tmp_path)


def test_a_mirror_replaces_the_hub(hub, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("CFT_ASSETS", str(mirror))
    assets = Assets({"data": REPOSITORY | {"revision": None, "files": ["*/test/*.gz"]}}, None, tmp_path / "cache")
    with pytest.raises(CftError, match="mirror/set: not in the mirror; put it there"):
        assets.folder("data")
    (mirror / "set" / "slice" / "test").mkdir(parents=True)
    with pytest.raises(CftError, match=r"mirror/set: no file \*/test/\*\.gz in it"):
        assets.folder("data")
    (mirror / "set" / "slice" / "test" / "a.gz").touch()
    assert assets.folder("data") == mirror / "set"
    assert not hub.calls


def test_files_and_repositories_are_not_confused(tmp_path):
    file = {"url": "file:///x", "git_blob": "0" * 40, "file": "data.txt"}
    assets = Assets({"file": file, "set": REPOSITORY}, None, tmp_path)
    with pytest.raises(CftError, match="unknown asset 'set'; known: file"):
        assets.path("set")
    with pytest.raises(CftError, match="unknown repository 'file'; known: set"):
        assets.folder("file")


FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1_000_000, "original/model.pth": b"not wanted"}


class Served(BaseHTTPRequestHandler):
    """What the hub's library asks of the hub for a model of FILES; of a gated one it gives none."""

    gated = False

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        commit = REPOSITORY["revision"]
        name = self.path.removeprefix(f"/owner/name/resolve/{commit}/")
        if self.path.startswith(f"/api/models/owner/name/tree/{commit}"):
            listed = [{"type": "file", "path": name, "size": len(c), "oid": "1" * 40} for name, c in FILES.items()]
            self.give(200, json.dumps(listed).encode())
        elif name not in FILES:
            self.give(404, b"")
        elif self.gated:
            self.give(403, b"", ("X-Error-Code", "GatedRepo"))
        else:
            self.server.given.append(name) if body else None
            self.give(200, FILES[name] if body else b"", ("ETag", f'"{name}"'), ("X-Repo-Commit", commit),
                      ("Content-Length", len(FILES[name])))  # fmt: skip

    def give(self, status, content, *headers):
        self.send_response(status)
        for name, value in headers or [("Content-Length", len(content))]:
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A hub on this machine, for the real library."""
    server = ThreadingHTTPServer(("localhost", 0), Served)
    server.given = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://localhost:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()


def from_hub():
    return hub_snapshot("owner/name", "model", REPOSITORY["revision"], ignore_patterns=["original/*"])


def test_the_hub_library_downloads_once_and_tells_how_far_it_is(served, monkeypatch, caplog, capfd):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with caplog.at_level(logging.INFO, "cft"):
        folder = from_hub()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    told = [found for line in caplog.messages if (found := progress.read(line))]
    assert [(last.done, last.total, last.unit) for last in told[-1:]] == [(7, 7, "MB")]
    assert capfd.readouterr().err == ""  # no bar in what is not a terminal
    monkeypatch.setattr(progress, "EVERY", 1e9)
    bar, before = progress.Downloads(total=10, unit="B"), len(caplog.messages)
    bar.update(5)
    bar.refresh()
    assert len(caplog.messages) == before  # the last line is not so long ago
    assert from_hub() == folder and sorted(served.given) == ["config.json", "model.safetensors"]


def test_the_hub_library_at_a_gated_repository(served, monkeypatch):
    monkeypatch.setattr(Served, "gated", True)
    with pytest.raises(CftError, match=r"owner/name is gated: accept its licence at .*, then set HF_TOKEN"):
        from_hub()
