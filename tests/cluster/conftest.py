"""What the tests of images and cluster share: tools made once in .cluster/, a head node's environment, images, a Slurm.

Everything is installed by the project's own scripts; a second run finds it there.
"""

import os
import shutil
import subprocess
import time

import pytest
import yaml
from one_node import Cluster
from tools import HEAD, HERE, LIMITS, ROOT, SLURM, SMALL, TOOLS, build, must, small


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("images"):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def head():
    """The environment of a head node: Snakemake without torch, looking often, and nothing of what runs the tests."""
    must(ROOT / "containers/locks/install", HEAD, "head")
    folders = [HERE / "often", HEAD / "bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "PYTEST"))}
    return kept | {"PATH": ":".join(map(str, folders)), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def environment(head):
    """That of a head node with Apptainer."""
    must(HERE / "install-apptainer", TOOLS / "apptainer")
    return head | {"PATH": f"{TOOLS / 'apptainer/bin'}:{head['PATH']}"}


@pytest.fixture(scope="session")
def image(environment):
    """The file of the fine-tuning image."""
    return build("finetune", environment)


@pytest.fixture(scope="session")
def copied(tmp_path_factory):
    """Make copies of what a run reads, without results and images."""

    def copy():
        folder = tmp_path_factory.mktemp("run") / "checkout"
        folder.mkdir()
        for name in ("Snakefile", "workflow", "config", "src", "profiles", "slurm", "containers", "tests/cluster"):
            source = ROOT / name
            if source.is_symlink():
                (folder / name).symlink_to(os.readlink(source))
            elif source.is_dir():
                shutil.copytree(
                    source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "sif")
                )
            else:
                shutil.copy(source, folder / name)
        (folder / "config/small.yaml").write_text(yaml.safe_dump(small()))
        return folder

    return copy


@pytest.fixture(scope="session")
def fresh(image, copied):
    """The same with the images of the real checkout."""

    def copy():
        folder = copied()
        (folder / "containers/sif").symlink_to(image.parent)
        return folder

    return copy


@pytest.fixture
def checkout(fresh):
    return fresh()


@pytest.fixture(scope="session")
def cluster():
    """A running Slurm without accounting."""
    made = Cluster()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def limits(fresh, cluster, environment):
    """Jobs that go over their limits, started early as they take minutes of waiting: (folder, process)."""
    folder = fresh()
    (folder / "limits.smk").write_text(LIMITS)
    process = subprocess.Popen(
        ["snakemake", "-s", "limits.smk", *SLURM], cwd=folder, env=environment, stderr=(folder / "said").open("w")
    )
    yield folder, process
    process.kill()


@pytest.fixture(scope="session")
def finished(fresh, cluster, limits, environment):
    """A checkout in which the smoke workflow ran on the cluster: (folder, what a dry run had announced, jobs)."""
    folder = fresh()
    planned = must("snakemake", *SLURM, *SMALL, "--dry-run", cwd=folder, env=environment)
    start = time.monotonic()
    must("snakemake", *SLURM, *SMALL, cwd=folder, env=environment)
    print(f"the smoke workflow through Slurm: {time.monotonic() - start:.0f} s")
    return folder, planned, cluster.jobs()
