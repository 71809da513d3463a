"""Upstream benchmark data: fetched from its public home at a fixed commit, verified, or read from a local folder."""

import ast
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cft import CftError
from cft.provenance import replacing
from cft.settings import Settings, check

TIMEOUT = 30
MIRROR_VARIABLE = "CFT_ASSETS"
REMEDY = f"or name a folder that holds it by assets_mirror or {MIRROR_VARIABLE}"
NAME = r"^\w[\w.-]*$"
SHA1 = r"^[0-9a-f]{40}$"


class Asset(Settings):
    """A row of config/assets.yaml that is one file, or a string constant in one."""

    url: str
    file: str = Field(pattern=NAME)
    constant: str | None = None
    git_blob: str | None = Field(default=None, pattern=SHA1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _can_be_verified(self) -> "Asset":
        if self.sha256 is None and (self.git_blob is None or self.constant is not None):
            raise ValueError("a file needs git_blob or sha256, a constant sha256")
        return self

    def mismatch(self, content: bytes) -> str | None:
        """What tells `content` from that of `file`, if anything."""
        blob = None if self.constant else self.git_blob
        return _mismatch("sha256", self.sha256, _sha256(content)) or _mismatch("git blob", blob, git_blob(content))


class Repository(Settings):
    """A row of config/assets.yaml that is a data set or model on the Hugging Face hub."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    kind: Literal["dataset", "model"]
    revision: str | None = Field(pattern=SHA1)
    files: list[str] = Field(default=["*"], min_length=1)
    folder: str = Field(pattern=NAME)


class Assets:
    """The upstream files that an experiment may need.

    table     name → row, as in config/assets.yaml
    mirror    a folder that holds the files and repositories under their `file` and `folder` names, used instead of
              the network when given, or when the environment variable CFT_ASSETS names one
    cache     where downloaded files are kept, and what is made from them
    """

    def __init__(self, table: dict[str, Any], mirror: Path | str | None, cache: Path | str):
        self.table = {name: _row(row, f"asset {name}") for name, row in table.items()}
        folder = mirror or os.environ.get(MIRROR_VARIABLE)
        self.mirror = Path(folder) if folder else None
        self.cache = Path(cache)

    def text(self, name: str) -> str:
        """The content of a text file, exactly; raises CftError as path() does."""
        return self.path(name).read_bytes().decode("utf-8")

    def arrays(self, name: str) -> dict[str, Any]:
        """Nested dicts of arrays, numbers and text from a pickle; lists come as arrays.

        Raises CftError as path() does, and when the pickle holds anything else.
        """
        from cft.unpickle import read_arrays

        path = self.path(name)
        return read_arrays(path, self.cache / f"{path.name}.npz")

    def path(self, name: str) -> Path:
        """Where a verified file lies: in the mirror if there is one, else in the cache, downloaded when not there yet.

        Raises CftError for an unknown name, a file that the mirror lacks, a failed or partial download, or a wrong
        checksum.
        """
        asset = self._find(name, Asset)
        if self.mirror is not None:
            return self._from_mirror(asset, self.mirror / asset.file)
        cached = self.cache / asset.file
        if not cached.is_file() or asset.mismatch(cached.read_bytes()):
            content = _extract(_download(asset), asset)
            with replacing(cached) as temporary:
                temporary.write_bytes(content)
        return cached

    def folder(self, name: str) -> Path:
        """Where a hub repository's files lie: in the mirror if there is one, else in the hub's own cache.

        That cache keeps each commit in a folder of its own, continues a download that broke off, and is the one that
        the models lie in (HF_HOME). Raises CftError for an unknown name, a folder that the mirror lacks, a revision
        that is not pinned, a gated or missing repository, a failed download, or files that are not there.
        """
        repository = self._find(name, Repository)
        if self.mirror is not None:
            folder = self.mirror / repository.folder
            if not folder.is_dir():
                raise _not_in_mirror(folder)
        else:
            folder = _from_hub(repository)
        for pattern in repository.files:
            if next(folder.glob(pattern), None) is None:
                raise CftError(f"{folder}: no file {pattern} in it; get {repository.repo} again, or correct its row")
        return folder

    def _find(self, name: str, kind: Any) -> Any:
        found = self.table.get(name)
        if not isinstance(found, kind):
            known = ", ".join(key for key, row in self.table.items() if isinstance(row, kind))
            raise CftError(f"unknown {kind.__name__.lower()} {name!r}; known: {known}")
        return found

    def _from_mirror(self, asset: Asset, path: Path) -> Path:
        if not path.is_file():
            raise _not_in_mirror(path)
        if wrong := asset.mismatch(path.read_bytes()):
            raise CftError(f"{path}: {wrong}; replace the file by a fresh copy")
        return path


def _row(row: Any, where: str) -> Asset | Repository:
    return check(Repository if isinstance(row, dict) and "repo" in row else Asset, row, where)


def _not_in_mirror(path: Path) -> CftError:
    return CftError(f"{path}: not in the mirror; put it there, or unset assets_mirror and {MIRROR_VARIABLE}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    """The id that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _mismatch(checksum: str, wanted: str | None, found: str) -> str | None:
    return f"{checksum} is {found}, not {wanted}" if wanted not in (None, found) else None


def _download(asset: Asset) -> bytes:
    try:
        with urllib.request.urlopen(asset.url, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CftError(f"cannot download {asset.url} ({error or type(error).__name__}); try again, {REMEDY}")
    if wrong := _mismatch("git blob", asset.git_blob, git_blob(content)):
        raise CftError(f"{asset.url}: {wrong}; the file changed or came damaged; try again, {REMEDY}")
    return content


def _extract(content: bytes, asset: Asset) -> bytes:
    """The file itself, or the text of a string constant in a Python file: read, never executed."""
    if asset.constant is None:
        advice = f"the file changed or came damaged; try again, {REMEDY}"
    else:
        content = _constant(content, asset.constant, asset.url).encode("utf-8")
        advice = "correct config/assets.yaml"
    if wrong := asset.mismatch(content):
        raise CftError(f"{asset.url}: {wrong}; {advice}")
    return content


def _constant(source: bytes, name: str, url: str) -> str:
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise CftError(f"{url}: not a Python file ({error}); correct config/assets.yaml")
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        text = _string(statement.value)
        if text is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return text
    raise CftError(f"{url}: no string constant {name} that can be read without running it; correct config/assets.yaml")


def _string(node: Any) -> str | None:
    """The text that an expression is: a constant, or a constant with `.strip()`; else None."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="strip"), args=[], keywords=[]):
            return text.strip()
    return None


def _from_hub(repository: Repository) -> Path:
    name = repository.repo
    if repository.revision is None:
        commits = f"{_page(name, repository.kind)}/commits/main"
        raise CftError(f"{name}: its revision is not pinned; copy one from {commits} to config/assets.yaml, {REMEDY}")
    try:
        return hub_snapshot(name, repository.kind, repository.revision, allow_patterns=repository.files)
    except CftError as error:
        raise CftError(f"{error}, {REMEDY}")


def hub_snapshot(repo: str, kind: str, revision: str | None, **patterns: Any) -> Path:
    """The folder in the hub's cache that holds a repository; `patterns` as for huggingface_hub.snapshot_download.

    Raises CftError for a gated or missing repository, an unknown revision, or a failed download.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    from cft.progress import Downloads

    try:
        return Path(snapshot_download(repo, repo_type=kind, revision=revision, tqdm_class=Downloads, **patterns))
    except GatedRepoError:
        raise CftError(f"{repo} is gated: accept its licence at {_page(repo, kind)}, then set HF_TOKEN")
    except RepositoryNotFoundError:
        raise CftError(f"{repo}: no such {kind} on the hub, or no access to it; check the name and HF_TOKEN")
    except RevisionNotFoundError:
        raise CftError(f"{repo}: no revision {revision} on the hub; correct it")
    except Exception as error:  # the hub's client and its transfer library have errors of their own kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CftError(f"{repo}: cannot be fetched from the hub ({reason}); check the network")


def _page(repo: str, kind: str) -> str:
    return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
