"""Which code, families and upstream files a result depends on: a change runs those jobs again that it may concern.

Snakemake compares the inputs and parameters of a job. It does not see the code of the commands that it calls; of the
tables of distributions and of upstream files it would see every change.
"""

import ast
import json
from functools import cache
from hashlib import sha256
from pathlib import Path

from cft import CftError
from cft.settings import read_yaml

HELD_OUT = ("unseen_params", "unseen_families", "selected")
ROOT = Path(__file__).resolve().parents[1]


@cache
def version_of(module: str) -> str:
    """16 hexadecimal digits that stand for the code of a module and of all of ours that it imports, directly or not.

    Comments and layout do not count. Raises FileNotFoundError if there is no such module.
    """
    return sha256("".join(_read(path)[0] for path in sources(module)).encode()).hexdigest()[:16]


def sources(module: str) -> list[Path]:
    """The files of a module and of all of ours that it imports, anywhere in it, with their packages; sorted."""
    if _file(module) is None:
        raise FileNotFoundError(f"{module}: no such module")
    found, waiting = set[Path](), {module}
    while waiting:
        name = waiting.pop()
        path, package = _file(name), name.rpartition(".")[0]
        if path is not None and path not in found:
            found.add(path)
            waiting |= _read(path)[1] | ({package} if package else set())
    return sorted(found)


def _file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _read(path: Path) -> tuple[str, frozenset[str]]:
    """The code of a file without its layout, and names that may be our modules: `from cft.text import words` names
    cft.text and cft.text.words."""
    tree, names = ast.parse(path.read_bytes()), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return ast.dump(tree), frozenset(name for name in names if name.split(".")[0] == "cft")


@cache
def families_version(path: Path | str, trained_on: bool = False) -> str:
    """16 hexadecimal digits that stand for the table of distributions, or for what training reads of it.

    What is wrong in a row is told by the commands that read it. Raises CftError when there is no file or no rows in it.
    """
    table = read_yaml(path)
    families = table.get("families") if isinstance(table, dict) else None
    if not isinstance(families, dict) or not all(isinstance(row, dict) for row in families.values()):
        raise CftError(f"{path}: no families; config/distributions.yaml has some")
    if trained_on:
        rows = {name: row for name, row in families.items() if "train" in row}
        kept = {name: {key: row[key] for key in row if key not in HELD_OUT} for name, row in rows.items()}
        table = {**table, "families": kept}
    return _digest(table)


@cache
def upstream_version(path: Path | str, names: tuple[str, ...]) -> str:
    """16 hexadecimal digits that stand for some rows of the table of upstream files; empty for none.

    A row that is not there is told by the command that reads it. Raises CftError when there is no table.
    """
    table = read_yaml(path) if names else {}
    if not isinstance(table, dict):
        raise CftError(f"{path}: no upstream files; config/assets.yaml has some")
    return _digest({name: table.get(name) for name in names}) if names else ""


def _digest(rows: object) -> str:
    return sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
