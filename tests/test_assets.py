import hashlib
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cft import CftError, assets
from cft.assets import Assets, git_blob
from cft.settings import read_yaml

SOURCE = b'"""Doc."""\n\nOTHER = 3\nPROMPT = """One\nTwo \xc3\xa9\n"""\nraise SystemExit("executed")\n'
TEXT = "One\nTwo é\n"
DATA = b"line\n" * 1000


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def row(url, content=DATA, **changes):
    return {"url": url, "git_blob": git_blob(content), "file": "data.txt", "sha256": sha256(content)} | changes


def constant_row(url, **changes):
    return row(url, SOURCE, constant="PROMPT", sha256=sha256(TEXT.encode())) | changes


def file_url(tmp_path, content):
    path = tmp_path / "upstream"
    path.write_bytes(content)
    return path.as_uri()


@contextmanager
def server(content, stated_length=None, status=200):
    """A localhost server that answers every request with `content`; yields its address and the list of requests."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if stated_length is None else stated_length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format, *args):
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/data", requests
        http.shutdown()


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv("CFT_ASSETS", raising=False)


def fails(table, cache, match, mirror=None):
    with pytest.raises(CftError, match=match) as caught:
        Assets({"data": table}, mirror, cache).path("data")
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir()), "something was left behind"


def test_git_blob_is_what_git_says():
    # printf 'hello\n' | git hash-object --stdin
    assert git_blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_file_is_downloaded_once_and_kept(tmp_path):
    with server(DATA) as (url, requests):
        source = Assets({"data": row(url)}, None, tmp_path / "cache")
        assert source.path("data") == tmp_path / "cache" / "data.txt"
        assert source.text("data") == DATA.decode()
        assert len(requests) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["data.txt"]


def test_a_damaged_cache_is_replaced(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "data.txt").write_bytes(DATA[:-1])
    assert Assets({"data": row(file_url(tmp_path, DATA))}, None, cache).path("data").read_bytes() == DATA


def test_a_constant_is_read_not_executed(tmp_path):
    source = Assets({"data": constant_row(file_url(tmp_path, SOURCE))}, None, tmp_path / "cache")
    assert source.text("data") == TEXT


def test_a_changed_file_is_refused(tmp_path):
    fails(row(file_url(tmp_path, DATA + b"x"), DATA), tmp_path / "cache", "git blob is")


def test_a_partial_download_is_refused(tmp_path):
    with server(DATA[:100], stated_length=len(DATA)) as (url, _):
        fails(row(url), tmp_path / "cache", "cannot download")


def test_a_file_that_is_gone_is_told(tmp_path):
    with server(b"no", status=404) as (url, _):
        fails(row(url), tmp_path / "cache", "404.*CFT_ASSETS")


def test_no_network_is_told_with_the_remedy(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/data"
        fails(row(url), tmp_path / "cache", "cannot download.*assets_mirror or CFT_ASSETS")


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        fails(row(f"http://127.0.0.1:{silent.getsockname()[1]}/data"), tmp_path / "cache", "timed out")


@pytest.mark.parametrize(
    ("content", "changes", "match"),
    [
        (SOURCE, {"constant": "MISSING"}, "no string constant MISSING"),
        (SOURCE, {"constant": "OTHER"}, "no string constant OTHER"),
        (SOURCE, {"sha256": "0" * 64}, "sha256"),
        (b"def", {"git_blob": git_blob(b"def")}, "not a Python file"),
    ],
)
def test_a_wrong_row_of_the_table_is_told(tmp_path, content, changes, match):
    fails(constant_row(file_url(tmp_path, content), **changes), tmp_path / "cache", match)


def test_a_mirror_replaces_the_network(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "data.txt").write_bytes(DATA)
    table = {"data": row("http://127.0.0.1:9/never")}
    assert Assets(table, mirror, tmp_path / "cache").path("data") == mirror / "data.txt"
    monkeypatch.setenv("CFT_ASSETS", str(mirror))
    assert Assets(table, None, tmp_path / "cache").text("data") == DATA.decode()
    assert not (tmp_path / "cache").exists()


def test_a_mirror_is_checked(tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    fails(row("http://127.0.0.1:9/never"), tmp_path / "cache", "data.txt: not in the mirror", mirror)
    (mirror / "data.txt").write_bytes(DATA.replace(b"\n", b"\r\n"))
    fails(row("http://127.0.0.1:9/never"), tmp_path / "cache", "data.txt: sha256 is", mirror)


def test_unknown_names_and_keys_are_told(tmp_path):
    with pytest.raises(CftError, match="'date'; known: data"):
        Assets({"data": row("file:///x")}, None, tmp_path).path("date")
    with pytest.raises(CftError, match="asset data: unknown key sha"):
        Assets({"data": row("file:///x", sha="0")}, None, tmp_path)


def test_the_papers_prompt(shared_assets, tmp_path):
    source = Assets(read_yaml(Path(__file__).parents[1] / "config" / "assets.yaml"), shared_assets, tmp_path)
    assert source.text("mcq_prompt").encode() == (shared_assets / "mcq_prompt.txt").read_bytes()
