import ast
import hashlib
import os
import pickle
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from cft import CftError, assets
from cft.assets import Asset, Assets, Repository, git_blob
from cft.settings import read_yaml

SOURCE = b'"""Doc."""\n\nOTHER = 3\nPROMPT = """One\nTwo \xc3\xa9\n"""\nraise SystemExit("executed")\n'
TEXT = "One\nTwo é\n"
DATA = b"line\n" * 1000
TABLE = read_yaml(Path(__file__).parents[1] / "config" / "assets.yaml")
pytestmark = pytest.mark.usefixtures("no_mirror")


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


@pytest.mark.parametrize(
    "source",
    [
        "PROMPT = 'One\\nTwo é\\n'",
        "PROMPT: str = 'One\\n' 'Two é\\n'",
        "OTHER = PROMPT = ('One\\n'\n 'Two é\\n')",
        "PROMPT = f()\nPROMPT = 'One\\nTwo é\\n'",
    ],
)
def test_forms_of_a_constant(tmp_path, source):
    content = source.encode()
    changes = {"constant": "PROMPT", "sha256": sha256(TEXT.encode())}
    assets = Assets({"data": row(file_url(tmp_path, content), content, **changes)}, None, tmp_path / "cache")
    assert assets.text("data") == TEXT


def test_a_constant_with_its_ends_stripped(tmp_path):
    content = b'PROMPT = """\n One\nTwo\n\n""".strip()\n'
    changes = {"constant": "PROMPT", "sha256": sha256(b"One\nTwo")}
    assets = Assets({"data": row(file_url(tmp_path, content), content, **changes)}, None, tmp_path / "cache")
    assert assets.text("data") == "One\nTwo"


@pytest.mark.parametrize(
    "source",
    [
        "PROMPT = 'a' + 'b'",
        "PROMPT = f'{1}'",
        "PROMPT = 'a'.strip('a')",
        "PROMPT = 'a'.upper()",
        "PROMPT = b'a'",
        "PROMPT: str",
        "PROMPT += 'a'",
        "(PROMPT, x) = 'a'",
        "x.PROMPT = 'a'",
        "def f():\n    PROMPT = 'a'",
    ],
)
def test_other_forms_are_refused(tmp_path, source):
    content = source.encode()
    ast.parse(content)
    fails(
        constant_row(file_url(tmp_path, content), git_blob=git_blob(content)),
        tmp_path / "cache",
        "no string constant PROMPT that can be read without running it",
    )


@pytest.mark.parametrize(
    ("missing", "match"), [("sha256", "git blob is"), ("git_blob", "sha256 is"), (None, "git blob")]
)
def test_a_changed_file_is_refused(tmp_path, missing, match):
    changed = row(file_url(tmp_path, DATA + b"x"), DATA)
    fails({key: value for key, value in changed.items() if key != missing}, tmp_path / "cache", match)


@pytest.mark.parametrize("missing", ["sha256", "git_blob"])
def test_one_checksum_is_enough(tmp_path, missing):
    known = {key: value for key, value in row(file_url(tmp_path, DATA)).items() if key != missing}
    assets = Assets({"data": known}, None, tmp_path / "cache")
    assert assets.path("data").read_bytes() == DATA
    assets.path("data").write_bytes(b"damaged")
    assert assets.path("data").read_bytes() == DATA


def test_a_row_that_cannot_be_verified_is_refused():
    url, needs = "https://example.org/x", "asset data: a file needs git_blob or sha256, a constant sha256"
    with pytest.raises(CftError, match=needs):
        Assets({"data": {"url": url, "file": "x"}}, None, "cache")
    with pytest.raises(CftError, match=needs):
        Assets({"data": {"url": url, "file": "x", "constant": "X", "git_blob": "0" * 40}}, None, "cache")
    with pytest.raises(CftError, match="asset data: git_blob: String should match"):
        Assets({"data": row(url, git_blob="e9a8b10")}, None, "cache")
    with pytest.raises(CftError, match="asset data: file: String should match"):
        Assets({"data": row(url, file="../x")}, None, "cache")


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


def test_arrays_of_a_pickle(tmp_path):
    content = pickle.dumps({"lb": {"A": np.arange(6.0).reshape(2, 3), "lambda": 0.5}})
    mirror, cache = tmp_path / "mirror", tmp_path / "cache"
    mirror.mkdir()
    (mirror / "data.txt").write_bytes(content)
    assets = Assets({"data": row("file:///never", content)}, mirror, cache)
    for _ in range(2):
        found = assets.arrays("data")
        assert found["lb"]["A"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["lb"]["lambda"] == 0.5
    assert os.listdir(mirror) == ["data.txt"]
    assert os.listdir(cache) == ["data.txt.npz"]


def test_a_pickle_that_calls_is_refused_before_anything_is_kept(tmp_path):
    content = b"cos\nsystem\n(S'touch trace'\ntR."
    assets = Assets({"data": row(file_url(tmp_path, content), content)}, None, tmp_path / "cache")
    with pytest.raises(CftError, match=r"it asks for os\.system"):
        assets.arrays("data")
    assert os.listdir(tmp_path / "cache") == ["data.txt"]


def test_every_file_of_the_table_that_the_mirror_has_is_the_right_one(shared_assets, tmp_path):
    source = Assets(TABLE, shared_assets, tmp_path)
    checked = {
        name
        for name, row in source.table.items()
        if isinstance(row, Asset) and (shared_assets / row.file).exists() and source.path(name)
    }
    prompts = {"mcq_prompt", "ssot_numeric_system", "ssot_numeric_developer", "ssot_open_system", "ssot_open_developer"}
    assert checked >= prompts | {"noveltybench_curated", "noveltybench_wildchat"}


def test_the_table_is_pinned():
    for name, row in Assets(TABLE, None, "cache").table.items():
        if isinstance(row, Asset):
            commit = row.url.removeprefix("https://raw.githubusercontent.com/").split("/")[2]
            assert len(commit) == 40 and int(commit, 16), name
        else:
            assert isinstance(row, Repository)
            assert row.revision or row.repo.startswith("tinyBenchmarks/"), name
