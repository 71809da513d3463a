"""Images: recipes and Dockerfiles say the same, locks agree, names carry content, jobs are told what they need."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from cft import CftError, images, jobs, provenance
from cft.config import load

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / "containers"
LOCKS = CONTAINERS / "locks"
DIGEST = "sha256:" + "ab" * 32


def recipe(name):
    """A definition file as {what: lines}, build arguments written as in a Dockerfile."""
    text = re.sub(r"\{\{ (\w+) \}\}", r"${\1}", (CONTAINERS / f"{name}.def").read_text())
    head, *sections = re.split(r"^%", text, flags=re.M)
    parts = {
        part.split("\n", 1)[0]: [line.strip() for line in part.splitlines()[1:] if line.strip()] for part in sections
    }
    arguments = dict(line.split("=", 1) for line in parts["arguments"])
    assert re.search(r"^From: \$\{BASE\}$", head, re.M)
    assert arguments.pop("BOOTSTRAP") == "docker"
    return {
        "arguments": arguments,
        "files": parts["files"],
        "run": parts["post"] + parts["test"],
        "environment": [line.removeprefix("export ") for line in parts["environment"]],
        "labels": [line.replace(" ", "=", 1) for line in parts["labels"]],
    }


def dockerfile(name):
    lines = (CONTAINERS / f"{name}.Dockerfile").read_text().splitlines()
    assert "FROM ${BASE}" in lines

    def of(word):
        return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]

    return {
        "arguments": dict(line.split("=", 1) for line in of("ARG")),
        "files": of("COPY"),
        "run": of("RUN"),
        "environment": of("ENV"),
        "labels": of("LABEL"),
    }


@pytest.mark.parametrize("name", ["finetune", "sampling"])
def test_apptainer_and_docker_build_the_same(name):
    assert recipe(name) == dockerfile(name)
    assert all(recipe(name).values())


@pytest.mark.parametrize("name", ["finetune", "sampling"])
def test_the_base_is_pinned_by_tag_and_digest(name):
    assert re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", images.base_of(name))
    assert images.base_of(name) == images.base_of("finetune")


def pins(name):
    return images._pins((LOCKS / f"{name}.txt").read_text())


def test_locks_agree_and_carry_hashes():
    assert pins("sampling")["vllm"] == "0.32.0"
    for name in ("finetune", "cpu", "vllm-cpu"):
        shared = pins(name).keys() & pins("sampling").keys()
        assert len(shared) > 60
        differing = {package for package in shared if pins(name)[package] != pins("sampling")[package]}
        assert differing == ({"torch"} if "cpu" in name else set())
    assert not {"torch", "numba", "transformers"} & pins("head").keys()
    assert pins("head")["snakemake"] == pins("cpu")["snakemake"]
    for name in ("sampling", "finetune", "cpu", "vllm-cpu", "head", "smollm2", "vocabularies"):
        text = (LOCKS / f"{name}.txt").read_text()
        assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=[a-z])", text, flags=re.M | re.I)[1:])


@pytest.mark.parametrize("table", ["containers/images.yaml", "tests/cluster/images.yaml"])
def test_tables_have_the_hashes_of_the_locks(table):
    for image in images.read(ROOT / table).values():
        assert image.lock_hash == images.lock_hash(image.lock)


def make(**changes):
    return images.Image.model_validate(
        {"recipe": "finetune", "lock": "finetune", "lock_hash": DIGEST, "tag": "localhost:5000/cft:0.1"} | changes
    )


def test_a_name_changes_with_the_content():
    name = make().sif("finetune")
    assert name == make(tag="other:1").sif("finetune")
    assert name != make(lock_hash="sha256:" + "cd" * 32).sif("finetune")
    assert name != make(recipe="sampling").sif("finetune")
    assert make().location("finetune") == str(name)


@pytest.mark.parametrize(
    ("tag", "address"),
    [
        ("localhost:5000/cft:0.1", "docker://localhost:5000/cft@"),
        ("localhost:5000/cft", "docker://localhost:5000/cft@"),
        ("ghcr.io/me/cft-finetune:0.1.0", "docker://ghcr.io/me/cft-finetune@"),
    ],
)
def test_a_published_image_is_named_by_its_digest(tag, address):
    assert make(tag=tag, digest=DIGEST).location("finetune") == address + DIGEST


def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch):
    table = tmp_path / "images.yaml"
    table.write_text("finetune: {recipe: finetune, lock: cpu, lock_hash: sha256:12, tag: a}")
    with pytest.raises(CftError, match=r"finetune\.lock_hash"):
        images.read(table)
    with pytest.raises(CftError, match=r"lock_hash is not that of locks/finetune\.txt; run containers/locks/comp"):
        images.build("finetune", make())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    right = make(lock_hash=images.lock_hash("finetune"))
    with pytest.raises(CftError, match="install Apptainer"):
        images.build("finetune", right)
    assert not list(tmp_path.rglob("*.sif*"))
    with pytest.raises(CftError, match=r"no such file .*; make it with `cft images build finetune`"):
        right.present("finetune")
    with pytest.raises(CftError, match="install skopeo"):
        images.digest("python:3.11")


def test_what_differs_from_a_lock_is_named():
    wanted = images._pins("Torch==2.13.0+cpu \\\n    --hash=sha256:1\nruamel.yaml==1 ; x\nmore_itertools==3\n")
    found = images._pins("torch==2.13.0\nruamel-yaml==1\npip==24\n")
    assert images.differences(wanted, found) == [
        "more-itertools: the lock has 3, the image none",
        "pip: the lock has none, the image 24",
        "torch: the lock has 2.13.0+cpu, the image 2.13.0",
    ]
    assert images.differences(wanted, wanted) == []


def test_jobs_are_told_what_they_need(tmp_path, monkeypatch):
    experiment = load(ROOT / "config/smoke.yaml")
    for name in jobs.PASSED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    told = jobs.environment(experiment)
    assert told["APPTAINER_BIND"] == f"{ROOT}/src:/opt/cft/src:ro"
    assert set(told) == {"APPTAINER_BIND", "APPTAINERENV_CFT_HOST"}
    host = json.loads(told["APPTAINERENV_CFT_HOST"])
    assert re.fullmatch("[0-9a-f]{40}|unknown", host["code"]["commit"])
    assert set(host["images"]) == {"finetune", "sampling"}

    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    told = jobs.environment(experiment)
    assert told["APPTAINER_BIND"].split(",")[1:] == [str(tmp_path / "hub")]
    assert (told["APPTAINERENV_HF_HUB_CACHE"], told["APPTAINERENV_NCCL_SOCKET_IFNAME"]) == (
        str(tmp_path / "hub"),
        "ib0",
    )
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not made yet/home"))
    assert str(tmp_path / "not made yet/home") in jobs.environment(experiment)["APPTAINER_BIND"].split(",")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("WHERE", str(tmp_path / "scratch"))
    told = jobs.environment(experiment.model_copy(update={"assets_mirror": str(tmp_path)}))
    assert told["APPTAINERENV_HF_HOME"] == str(tmp_path / "hub")
    assert told["APPTAINER_BIND"].split(",")[1:] == [str(tmp_path / "hub"), str(tmp_path)]
    told = jobs.environment(experiment.model_copy(update={"cache": "$WHERE/cft"}))
    assert told["HF_HOME"] == told["APPTAINERENV_HF_HOME"] == str(tmp_path / "scratch/cft/huggingface")
    for name in jobs.CACHES.values():
        assert str(tmp_path / "scratch/cft" / name) in told["APPTAINER_BIND"].split(",")
        assert (tmp_path / "scratch/cft" / name).is_dir()
    monkeypatch.setenv("APPTAINER_BIND", f"/site/licences:/opt/licences,{ROOT}/src:/opt/cft/src:ro")
    again = jobs.environment(experiment.model_copy(update={"cache": None}))["APPTAINER_BIND"].split(",")
    assert again[-1] == "/site/licences:/opt/licences" and again.count(f"{ROOT}/src:/opt/cft/src:ro") == 1
    with pytest.raises(CftError, match=r"cache: \$NOWHERE/cft names a variable that is not set"):
        jobs.environment(experiment.model_copy(update={"cache": "$NOWHERE/cft"}))
    nowhere = experiment.model_copy(update={"cache": "/proc/nowhere"})
    with pytest.raises(CftError, match="cache: /proc/nowhere/huggingface: "):
        jobs.environment(nowhere)
    told = jobs.environment(nowhere, jobs_here=False)  # the head node need not have a node's disk
    assert told["HF_HOME"] == "/proc/nowhere/huggingface" and "nowhere" not in told["APPTAINER_BIND"]


def test_folders_are_bound_under_the_names_that_jobs_use(tmp_path, monkeypatch):
    """As on clusters, where /scratch is a link, and results another one into it."""
    (tmp_path / "disk/mine/hub").mkdir(parents=True)
    (tmp_path / "scratch").symlink_to(tmp_path / "disk")
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone/results").symlink_to(tmp_path / "scratch/mine")
    monkeypatch.chdir(tmp_path / "clone")
    assert jobs._binds([tmp_path / "scratch/mine/hub", Path("results"), Path("none")]) == [
        f"{tmp_path}/disk/mine/hub",
        f"{tmp_path}/disk/mine/hub:{tmp_path}/scratch/mine/hub",
        f"{tmp_path}/disk/mine",
        f"{tmp_path}/disk/mine:{tmp_path}/scratch/mine",
    ]


def test_a_slurm_job_without_gpus_sees_none(monkeypatch):
    experiment = load(ROOT / "config/smoke.yaml")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert jobs.environment(experiment)["APPTAINERENV_CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert jobs.environment(experiment)["APPTAINERENV_CUDA_VISIBLE_DEVICES"] == "2,3"


def test_a_run_names_its_image(tmp_path, monkeypatch):
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    assert provenance.container() is None
    sif = tmp_path / "finetune-1.sif"
    sif.write_bytes(b"image")
    labels = {
        "org.opencontainers.image.title": "cft-finetune",
        "cft.lock": "12",
        "org.opencontainers.image.revision": "c",
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    monkeypatch.setenv("APPTAINER_CONTAINER", str(sif))
    monkeypatch.setenv(
        "CFT_HOST", json.dumps({"code": {"commit": "abc"}, "images": {"finetune": f"docker://a@{DIGEST}"}})
    )
    found = provenance.container(tmp_path)
    assert (found["name"], found["digest"], found["lock"]) == ("cft-finetune", DIGEST, "12")
    # printf image | sha256sum
    assert found["sif_sha256"] == "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert provenance.code_version() == {"commit": "abc"}
    assert provenance.container(tmp_path / "none")["name"] == "unknown"
    sif.write_bytes(b"another")
    os.utime(sif, (2e9, 2e9))
    assert provenance.file_hash(sif) != found["sif_sha256"]


def test_a_run_names_the_gpus_that_it_may_use(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$4" = 2 ] && echo "NVIDIA H100, 580.1, GPU-$4"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert provenance.gpus() == [{"name": "NVIDIA H100", "driver": "580.1", "uuid": "GPU-2"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert provenance.gpus() == []


def test_the_cluster_profile_names_real_rules():
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    rules = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    for name in profile["set-resources"]:
        assert re.search(rf"^rule {name}:", rules, re.M)
    groups = {entry.split("=")[0] for entry in profile["group-components"]}
    assert groups == set(re.findall(r'group:\s+"(.*)"', rules))
    assert "retries:" not in rules and profile["retries"] > 0
    assert "array" not in json.dumps(profile)
    for overlay in ("slurm-ci", "slurm-ci-accounting"):
        over = yaml.safe_load((ROOT / "workflow/profiles" / overlay / "config.yaml").read_text())
        assert over["default-resources"].keys() - {"slurm_account"} == profile["default-resources"].keys()


def test_a_group_has_members_that_do_not_wait_for_each_other():
    """Each then has a step as large as the job; what depends on another would share one, as large as their sum."""
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    grouped = re.findall(r'^rule (\w+):((?:(?!^rule ).)*?group:\s+"[^"]+"(?:(?!^rule ).)*)', text, re.M | re.S)
    assert {name for name, _ in grouped} == {"law", "retention", "judge", "score", "curves"}
    assert all("alone=1," in rule for _, rule in grouped)
