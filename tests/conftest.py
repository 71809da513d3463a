"""Fixtures shared by the tests: reference data where it lies beside the checkout, and tiny models made on the spot."""

import json
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says nothing on a machine that does other things too.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    return folder


@pytest.fixture(scope="session")
def golden():
    """The folder of golden vectors, or skip."""
    return _folder("golden")


@pytest.fixture(scope="session")
def golden_rows(golden):
    """Read one golden file: a function from its name to its rows."""
    return lambda name: [json.loads(line) for line in (golden / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def shared_assets():
    """The local mirror of upstream assets, or skip."""
    return _folder("assets")


@pytest.fixture(scope="session")
def families():
    """The registry of all distribution families."""
    from cft.distributions import registry

    return registry()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Prepared folders of the tiny random models, made once: a function from the architecture to its folder."""
    from cft.model_settings import ModelSource
    from cft.prepare import prepare

    made: dict[str, Path] = {}

    def folder(architecture: str, dtype: str = "float32") -> Path:
        key = f"{architecture}-{dtype}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("models") / key
            prepare(
                ModelSource.model_validate({"source": "tiny", "architecture": architecture, "dtype": dtype}), made[key]
            )
        return made[key]

    return folder


@pytest.fixture(scope="session")
def paper():
    """The configuration of the whole paper."""
    from cft.config import load

    return load(ROOT / "config" / "paper.yaml")


@pytest.fixture(scope="module")
def one_thread():
    """For tiny models, whose threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the workflow reads, without results."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "workflow", "config", "src", "profiles", "slurm", "containers"):
        source = ROOT / name
        if source.is_symlink():
            (folder / name).symlink_to(os.readlink(source))
        elif source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "sif"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def no_mirror(monkeypatch):
    """Upstream data of a mirror folder of this machine is not seen."""
    monkeypatch.delenv("CFT_ASSETS", raising=False)
