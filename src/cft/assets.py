"""Upstream benchmark data: fetched from its public home at a fixed commit, verified, or read from a local folder."""

import ast
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import Any

from cft import CftError
from cft.provenance import replacing
from cft.settings import Settings, check

TIMEOUT = 30
MIRROR_VARIABLE = "CFT_ASSETS"
REMEDY = f"or name a folder that holds the file by assets_mirror or {MIRROR_VARIABLE}"


class Asset(Settings):
    """One row of config/assets.yaml."""

    url: str
    git_blob: str
    constant: str | None = None
    file: str
    sha256: str


class Assets:
    """The upstream files that an experiment may need.

    table     name → row, as in config/assets.yaml
    mirror    a folder that holds the files under their `file` names, used instead of the network when given, or when
              the environment variable CFT_ASSETS names one
    cache     where downloads are kept
    """

    def __init__(self, table: dict[str, Any], mirror: Path | str | None, cache: Path | str):
        self.table = {name: check(Asset, row, f"asset {name}") for name, row in table.items()}
        folder = mirror or os.environ.get(MIRROR_VARIABLE)
        self.mirror = Path(folder) if folder else None
        self.cache = Path(cache)

    def text(self, name: str) -> str:
        """The content of a text file, exactly; raises CftError as path() does."""
        return self.path(name).read_bytes().decode("utf-8")

    def path(self, name: str) -> Path:
        """Where a verified file lies: in the mirror if there is one, else in the cache, downloaded when not there yet.

        Raises CftError for an unknown name, a file that the mirror lacks, a failed or partial download, or a wrong
        checksum.
        """
        if name not in self.table:
            raise CftError(f"unknown asset {name!r}; known: {', '.join(self.table)}")
        asset = self.table[name]
        if self.mirror is not None:
            return self._from_mirror(asset, self.mirror / asset.file)
        cached = self.cache / asset.file
        if not (cached.is_file() and _sha256(cached.read_bytes()) == asset.sha256):
            content = _extract(_download(asset), asset)
            with replacing(cached) as temporary:
                temporary.write_bytes(content)
        return cached

    def _from_mirror(self, asset: Asset, path: Path) -> Path:
        if not path.is_file():
            raise CftError(f"{path}: not in the mirror; put it there, or unset assets_mirror and {MIRROR_VARIABLE}")
        found = _sha256(path.read_bytes())
        if found != asset.sha256:
            raise CftError(f"{path}: sha256 is {found}, not {asset.sha256}; replace the file by a fresh copy")
        return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    """The id that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _download(asset: Asset) -> bytes:
    try:
        with urllib.request.urlopen(asset.url, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CftError(f"cannot download {asset.url} ({error or type(error).__name__}); try again, {REMEDY}")
    found = git_blob(content)
    if found != asset.git_blob:
        raise CftError(f"{asset.url}: git blob is {found}, not {asset.git_blob}; the file changed; try again, {REMEDY}")
    return content


def _extract(content: bytes, asset: Asset) -> bytes:
    """The file itself, or the text of a string constant in a Python file: read, never executed."""
    if asset.constant is not None:
        content = _constant(content, asset).encode("utf-8")
    found = _sha256(content)
    if found != asset.sha256:
        raise CftError(f"{asset.url}: sha256 of its content is {found}, not {asset.sha256}; correct config/assets.yaml")
    return content


def _constant(source: bytes, asset: Asset) -> str:
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise CftError(f"{asset.url}: not a Python file ({error}); correct config/assets.yaml")
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if asset.constant in names and isinstance(statement.value.value, str):
                return statement.value.value
    raise CftError(f"{asset.url}: no string constant {asset.constant}; correct config/assets.yaml")
