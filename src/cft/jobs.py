"""What jobs find around them: folders that Apptainer binds, variables that it passes on, caches."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from cft import CftError
from cft.config import Experiment
from cft.images import read
from cft.provenance import code_version

SOURCE = Path(__file__).resolve().parents[1]
CACHES = {
    "HF_HOME": "huggingface",
    "VLLM_CACHE_ROOT": "vllm",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
}
PASSED = (
    *CACHES,
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "CFT_ASSETS",
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURMD_NODENAME",
)


def _make(folders: Iterable[Path], needed: bool) -> None:
    """Make caches: Apptainer binds what is there. Only where they are needed is it an error that one cannot be made."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if needed:
                raise CftError(f"cache: {folder}: {error.strerror}")


def _binds(folders: Iterable[Path]) -> list[str]:
    """Bind each folder that is there under every name that it goes by, links not followed and followed."""
    found: dict[str, None] = {}
    for folder in folders:
        real = folder.resolve()
        names = [real, Path(os.path.abspath(folder))]
        if folder.is_symlink():
            names.append(Path(os.path.abspath(folder.parent / os.readlink(folder))))
        for name in names:
            if real.exists() and not name.is_relative_to(Path.cwd()):
                found[str(real) if name == real else f"{real}:{name}"] = None
    return list(found)


def environment(
    experiment: Experiment, jobs_here: bool = True, more: Iterable[str | Path | None] = ()
) -> dict[str, str]:
    """Environment variables of jobs: what Apptainer binds and passes on, caches, and what run.json says of the host.

    The code is bound read-only. Folders outside the working directory are bound if they are there: the mirror of
    assets, folders of models, results and images where they are links to another disk, and `more`; caches, such as
    HF_HOME, are made first.
    `jobs_here`: whether jobs run on this machine, which then must be able to make the caches; else CftError.
    """
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("NCCL_")}
    if experiment.cache:
        root = Path(os.path.expandvars(experiment.cache)).expanduser().resolve()
        if jobs_here and "$" in str(root):
            raise CftError(f"cache: {experiment.cache} names a variable that is not set on this machine")
        passed |= {variable: str(root / name) for variable, name in CACHES.items()}
    caches = [Path(passed[name]) for name in (*CACHES, "HF_HUB_CACHE") if name in passed]
    _make([folder for folder in caches if "$" not in str(folder)], jobs_here)
    own = {variable: passed[variable] for variable in CACHES if experiment.cache}
    if "SLURM_JOB_ID" in os.environ:
        # Slurm leaves it unset for a job without GPUs, which would then see all of them.
        passed["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    folders = [*caches, passed.get("CFT_ASSETS"), experiment.assets_mirror]
    folders += [model.path for model in experiment.models.values()]
    binds = _binds(Path(folder) for folder in [*folders, "results", "containers/sif", *more] if folder)
    binds = [f"{SOURCE}:/opt/cft/src:ro", *binds]
    # What the site binds stays; a job within a job finds ours there already.
    binds += [bind for bind in os.environ.get("APPTAINER_BIND", "").split(",") if bind and bind not in binds]
    images = {name: image.location(name) for name, image in read(experiment.images).items()}
    return {
        **own,
        **{f"APPTAINERENV_{name}": value for name, value in passed.items()},
        "APPTAINERENV_CFT_HOST": json.dumps({"code": code_version(), "images": images}),
        "APPTAINER_BIND": ",".join(binds),
    }
