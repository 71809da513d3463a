"""Real Apptainer images: what is inside, what is not, and that a run in one equals a run outside."""

import hashlib
import json
import re
import sys
from pathlib import Path

from tools import APPTAINER, HEAD, ROOT, SMALL, START, TABLE, call, must

PROBE = (
    START
    + """
rule probe:
    output: "seen.json"
    shell: "python probe.py > {output}"
"""
)
LOOK = """
import importlib.util, json, os, pathlib, shutil, sys
def denied(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        return error.strerror
import cft
print(json.dumps({
    "path": sys.path, "prefix": sys.prefix, "code": cft.__file__, "environment": sorted(os.environ),
    "source": denied("/opt/cft/src/cft/new.py"), "image": denied("/opt/cft/new"),
    "hub": pathlib.Path(os.environ["HF_HOME"], "token").read_text(),
    "asset": pathlib.Path(os.environ["MIRROR_IN"], "mcq.txt").read_text(),
    "git": shutil.which("git"),
    "snakemake": importlib.util.find_spec("snakemake_executor_plugin_slurm") is not None,
}))
"""


def test_the_image_holds_its_lock_and_nothing_else(image, environment):
    said = must(HEAD / "bin/cft", "images", "verify", "finetune", "--images", TABLE, cwd=ROOT, env=environment)
    assert "packages as in the lock" in said
    inside = must("apptainer", "test", image, env=environment)
    assert "forward and backward pass done" in inside
    again = must(HEAD / "bin/cft", "images", "build", "finetune", "--images", TABLE, cwd=ROOT, env=environment)
    assert str(image.name) in again  # at once, as it is there


def test_an_image_that_differs_from_its_lock_is_refused(image, environment, tmp_path):
    table = tmp_path / "images.yaml"
    text = (ROOT / TABLE).read_text()
    table.write_text(text.replace("lock: cpu,", "lock: vllm-cpu,", 1))
    answer = call(HEAD / "bin/cft", "images", "verify", "finetune", "--images", table, cwd=ROOT, env=environment)
    assert answer.returncode == 1
    assert re.search(r"is not its lock: .*blake3: the lock has \S+, the image none", answer.stderr)


def test_nothing_of_the_host_is_seen_inside(checkout, environment, tmp_path):
    for folder, file, text in (
        ("hub", "token", "a token"),
        ("mirror", "mcq.txt", "a prompt"),
        ("host", "secret.py", ""),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text)
    (checkout / "probe.smk").write_text(PROBE)
    mirror = f'os.environ["MIRROR_IN"] = "{tmp_path}/mirror"\n'
    (checkout / "probe.py").write_text("import os\n" + mirror + LOOK)
    host = environment | {"HF_HOME": str(tmp_path / "hub"), "MIRROR": str(tmp_path / "mirror"), "A_SECRET": "1",
                          "PYTHONPATH": str(tmp_path / "host")}  # fmt: skip
    must("snakemake", "-s", "probe.smk", *APPTAINER, cwd=checkout, env=host)
    seen = json.loads((checkout / "seen.json").read_text())
    assert seen["prefix"] == "/opt/cft/venv" and seen["code"] == "/opt/cft/src/cft/__init__.py"
    assert all(
        place.startswith(("/opt/cft", "/usr/lib/python3.11", str(checkout))) or "zip" in place for place in seen["path"]
    )
    assert "Read-only" in seen["source"] and "Read-only" in seen["image"]
    assert (seen["hub"], seen["asset"]) == ("a token", "a prompt")
    assert seen["git"] is None and not seen["snakemake"] and "A_SECRET" not in seen["environment"]


def test_fine_tuning_inside_and_outside_gives_the_same_adapter(checkout, environment):
    target = "results/adapters/tiny-llama/soft/seed1/adapter_model.safetensors"
    must("snakemake", target, *SMALL, *APPTAINER, cwd=checkout, env=environment)
    inside = checkout / target
    outside = checkout / "outside"
    run = json.loads(inside.with_name("run.json").read_text())
    settings = run["command"][run["command"].index("--settings") + 1]
    must(Path(sys.executable).parent / "cft", "finetune", "--model", "results/models/tiny-llama", "--data",
         "results/data/soft/seed1", "--settings", settings, "--seed", "1", "--training", '{"micro_batch": 8}',
         "--threads", "1", "--out", outside, cwd=checkout)  # fmt: skip
    assert inside.read_bytes() == (outside / inside.name).read_bytes()

    found = run["container"]
    sif = next((ROOT / "containers/sif").glob("finetune-*.sif"))
    assert (
        found["name"] == "cft-finetune" and found["image"] == f"containers/sif/{sif.name}" and found["digest"] is None
    )
    with sif.open("rb") as file:
        assert found["sif_sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert found["lock"] in (ROOT / TABLE).read_text()
    assert run["packages"]["torch"] == "2.13.0+cpu" and run["code"]["commit"] != "unknown"
    assert json.loads((outside / "run.json").read_text())["container"] is None


def test_a_missing_image_is_one_clear_line(checkout, environment):
    (checkout / "containers/sif").unlink()
    answer = call("snakemake", *SMALL, *APPTAINER, cwd=checkout, env=environment)
    assert answer.returncode == 1
    assert "make it with `cft images build finetune`" in answer.stderr and "Traceback" not in answer.stderr
    assert not (checkout / "results").exists()
