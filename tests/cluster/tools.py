"""Paths and steps that the tests of images and cluster share."""

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
TOOLS = ROOT / ".cluster"
HEAD = ROOT / ".venv-head"
TABLE = "tests/cluster/images.yaml"
SLURM = ["--profile", "slurm", "--workflow-profile", "slurm-ci"]
APPTAINER = ["--workflow-profile", "workflow/profiles/apptainer", "--cores", "2"]
SMALL = ["--configfile", "config/small.yaml"]
# The start of a Snakefile whose jobs run in our image, with what our jobs find around them.
START = """
import os
from cft.config import load
from cft.images import read
from cft.jobs import environment
experiment = load("config/small.yaml").model_copy(update={"assets_mirror": os.environ.get("MIRROR")})
os.environ.update(environment(experiment))
container: read(experiment.images)["finetune"].location("finetune")
"""
# Jobs that write half of their output before what their limits forbid. The second attempt may do it.
LIMITS = (
    START
    + """
rule both:
    input: "memory.txt", "time.txt"
rule memory:
    output: "memory.txt"
    resources: mem_mb=lambda wildcards, attempt: 800 * attempt
    shell: "echo half > {output}; python -c 'x = bytearray(10**9); import time; time.sleep(5)'; echo whole >> {output}"
rule time:
    output: "time.txt"
    resources:
        runtime=lambda wildcards, attempt: attempt,
        seconds=lambda wildcards, attempt: 300 if attempt == 1 else 1
    shell: "echo half > {output}; sleep {resources.seconds}; echo whole >> {output}"
"""
)


def call(*command, **options) -> subprocess.CompletedProcess:
    """Run a command to its end; its output is text."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def must(*command, **options) -> str:
    answer = call(*command, **options)
    assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
    return answer.stdout + answer.stderr


def small() -> dict:
    """The smoke configuration for one run: every rule, in the images of the tests."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    config["models"] = {"tiny-llama": config["models"]["tiny-llama"]}
    for name in ("hard", "ssot", "verbalised"):
        del config["methods"][name]
    del config["benchmarks"]["mcq"]
    config["tables"]["table2"]["scores"].remove("mcq")
    return config | {"images": TABLE}


def pip_places() -> dict[Path, str]:
    """Host path → path inside of what pip of this machine needs, for the pip inside an image that is being built."""
    links = os.environ.get("PIP_FIND_LINKS", "")
    TOOLS.mkdir(exist_ok=True)
    config = TOOLS / "pip.conf"
    config.write_text(f"[global]\nfind-links = {links}\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    return {config: "/etc/pip.conf", **{Path(place): place for place in ("/etc/ssl/certs", *links.split())}}


def base() -> Path:
    """A root file system with places to mount what pip needs."""
    folder = TOOLS / "base"
    must(HERE / "make-base", folder)
    for source, place in pip_places().items():
        inside = folder / place.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True) if source.is_dir() else inside.touch()
    return folder


def build(name: str, environment) -> Path:
    """The image `name` of the tests' table, on a debootstrap base and hardly compressed, as that takes longest."""
    options = [f"--option=--bind={source}:{place}" for source, place in pip_places().items()]
    options += ["--option=--mksquashfs-args=-comp lz4"]
    cft = [HEAD / "bin/cft", "images", "build", name, "--images", TABLE, "--base", base(), *options]
    print(must(HERE / "in-user-namespace", *cft, env=environment, cwd=ROOT))
    where = f"from cft import images; print(images.read('{TABLE}')['{name}'].sif('{name}'))"
    return ROOT / must(HEAD / "bin/python", "-c", where, env=environment, cwd=ROOT).strip()
