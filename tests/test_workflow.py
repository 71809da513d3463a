"""The workflow's plan: what is run for what, what a change runs again, and how mistakes are told."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def snakemake(*arguments, cwd):
    return subprocess.run(["snakemake", *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def plan(*arguments, cwd):
    """Rule → number of jobs of a dry run."""
    result = snakemake("--dry-run", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", result.stdout, re.M | re.S)
    return Counter({k: int(v) for k, v in re.findall(r"^(\S+) +(\d+)$", table[1], re.M)}) if table else Counter()


def test_the_default_is_the_demo(checkout):
    jobs = plan(cwd=checkout)
    assert jobs == plan("--configfile", "config/demo.yaml", cwd=checkout)
    assert (jobs["finetune"], jobs["sample"], jobs["law"], jobs["score"]) == (2, 9, 6, 9)


def test_the_whole_paper(checkout):
    start = time.monotonic()
    jobs = plan("--configfile", "config/paper.yaml", cwd=checkout)
    runs = 7 * 5 + 5 * 3  # five seeds up to 4B parameters, three above
    assert (jobs["model"], jobs["data"], jobs["finetune"]) == (12 + 2, 10, 2 * runs)  # two judges
    assert jobs["sample"] == 4 * 3 * runs + 2 * 3 * 12  # three baselines, at one seed
    # The base model's law and measurements are the same for every seed.
    assert jobs["law"] == 2 * (2 * runs + 12 + 12)
    assert jobs["retention"] == jobs["perplexity"] == 2 * runs + 12
    assert (jobs["judge"], jobs["temperature"]) == (3 * runs, 12)
    assert jobs["score"] == jobs["sample"] + jobs["retention"] + jobs["perplexity"]
    assert time.monotonic() - start < 60  # the promise is ten seconds on a quiet machine


def test_the_whole_paper_is_at_most_a_thousand_submissions(checkout):
    profile = yaml.safe_load((checkout / "workflow/profiles/slurm/config.yaml").read_text())
    words = [f"--{name}" if number == 0 else value for name in ("group-components", "resources", "set-resource-scopes")
             for number, value in enumerate(["", *profile[name]])]  # fmt: skip
    said = snakemake("--dry-run", "--configfile", "config/paper.yaml", *words, cwd=checkout).stdout
    text = "".join(path.read_text() for path in (checkout / "workflow/rules").glob("*.smk"))
    local = set(re.findall(r"^rule (\w+):(?:(?!^rule ).)*?^    localrule: True", text, re.M | re.S))
    single = Counter(re.findall(r"^rule (\w+):$", said, re.M))  # members of groups are indented
    submitted = {
        rule: count for rule, count in single.items() if rule not in local and not re.match(r"table|fig|all", rule)
    }
    assert submitted.keys() == {"model", "finetune", "temperature", "sample", "perplexity"}
    groups = re.findall(r"Group job (\w+?)_[\w.-]+ ", said)
    assert Counter(groups) == {"law": 2 * 12, "retention": 12, "judge": 12, "score": 12}
    assert 900 < sum(submitted.values()) + len(groups) <= 1000


def test_one_artefact_needs_only_what_it_shows(checkout):
    result = snakemake("--dry-run", "results/figures/fig2.pdf", cwd=checkout)
    assert "results/samples/structured" in result.stdout
    assert not re.search(r"mcq|open_ended|fig1|fig3", result.stdout)
    fig1 = plan("results/figures/fig1.pdf", cwd=checkout)
    assert fig1 == {"model": 1, "fig1": 1}
    adapter = plan("results/adapters/smollm2/soft/seed11/adapter_model.safetensors", cwd=checkout)
    assert adapter == {"model": 1, "data": 1, "finetune": 1}


def test_smoke_runs_every_rule(checkout):
    jobs = plan("smoke", cwd=checkout)
    rules = {name for name in plan(cwd=checkout) if name != "all"}
    assert {f"smoke_{name}" for name in rules} <= set(jobs)
    assert not rules & set(jobs)


@pytest.fixture(scope="module")
def finished(checkout):
    """The checkout as after a run: every output is there (empty), and Snakemake knows of it."""
    listed = snakemake("--dry-run", "smoke", cwd=checkout).stdout
    for line in re.findall(r"^ +output: (.*)$", listed, re.M):
        for name in line.split(", "):
            path = checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    touched = snakemake("--touch", "smoke", cwd=checkout)
    assert touched.returncode == 0, touched.stderr
    assert not plan("smoke", cwd=checkout)
    return checkout


def little() -> dict:
    """Of the smoke experiment one model, two methods, two benchmarks."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    kept = {"models": ["tiny-llama"], "methods": ["base", "soft"], "benchmarks": ["structured", "mcq"],
            "tables": ["table1"], "figures": ["fig2"]}  # fmt: skip
    config |= {key: {name: config[key][name] for name in names} for key, names in kept.items()}
    config["tables"]["table2"] = {"scores": ["mcq"]}
    config["benchmarks"]["mcq"]["prompt"] = "paper"
    return config


SHOWN = {"scores", "claims", "report", "all"}


@pytest.fixture(scope="module")
def recorded(checkout, tmp_path_factory):
    """Plan again after a change, in a checkout where everything was run, by a `cft` that only pretends."""
    place = tmp_path_factory.mktemp("pretended")
    (place / "cft").symlink_to(ROOT / "tests/pretend")
    found = {"PATH": f"{place}:{ENVIRONMENT['PATH']}", "PRETEND": str(place), "PYTHONPATH": str(checkout / "src")}
    (checkout / "little.yaml").write_text(yaml.safe_dump(little()))
    words = ["snakemake", "--configfile", "little.yaml"]
    done = subprocess.run(words, cwd=checkout, env=ENVIRONMENT | found, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def again(path, addition, instead=False):
        before = (checkout / path).read_text()
        (checkout / path).write_text(addition if instead else before + addition)
        try:
            said = subprocess.run([*words, "-n"], cwd=checkout, env=ENVIRONMENT | found, capture_output=True, text=True)
        finally:
            (checkout / path).write_text(before)
        return Counter(re.findall(r"^ *rule (\w+):", said.stdout, re.M))  # members of groups are indented

    return again


@pytest.mark.parametrize(
    ("edited", "again"),
    [
        ("figures/fig2.py", {"fig2", "report", "all"}),
        ("tables/table2.py", {"table2", "report", "all"}),
        ("train.py", set()),
        ("benchmarks/mcq.py", {"score", "table2"} | SHOWN),
        # What computes a number may stand anywhere: distances, intervals.
        ("stats.py", {"score", "curves", "table1", "table2", "fig2"} | SHOWN),
        ("resampling.py", {"table1", "table2", "fig2", "curves"} | SHOWN - {"scores"}),
    ],
)
def test_an_edit_runs_again_what_depends_on_it(recorded, edited, again):
    assert set(recorded(f"src/cft/{edited}", "\nANSWER = 42\n")) == again


@pytest.mark.parametrize(
    ("key", "value", "again"),
    [
        ("gap", 0.2, {"law"}),
        ("nodes", 77, {"law"}),
        ("draws", 7, {"sample"}),
        ("top_p", 0.5, {"sample"}),
        ("max_new_tokens", 6, {"law", "sample"}),
        ("prompts", "all", {"prompts", "law", "sample"}),
    ],
)
def test_a_setting_of_a_benchmark_runs_again_what_reads_it(recorded, key, value, again):
    config = little()
    assert config["benchmarks"]["structured"].get(key) != value
    config["benchmarks"]["structured"][key] = value
    jobs = recorded("little.yaml", yaml.safe_dump(config), instead=True)
    assert {name for name in jobs if name in ("prompts", "law", "sample", "model", "data", "finetune")} == again
    assert "score" in jobs


def test_a_remark_in_the_code_runs_nothing_again(recorded):
    assert not recorded("src/cft/stats.py", "\n# a remark\n")


def test_a_family_to_evaluate_on_trains_nothing_again(recorded):
    """Only the structured benchmark asks for it."""
    row = """
  cosine:
    display_name: Cosine
    kind: continuous
    tier: I
    prompt: [m, s]
    scipy: cosine(loc=m, scale=s)
    requires: [s > 0]
    grid: [m, s]
    unseen_families: {max_specs: 1, m: {values: [0.0]}, s: {values: [1.0]}}
    selected: [{m: 0.0, s: 1.0}]
"""
    jobs = recorded("config/distributions.yaml", row)
    assert (jobs["prompts"], jobs["sample"], jobs["law"], jobs["score"]) == (1, 2, 2, 2)
    assert not {"data", "finetune", "model"} & set(jobs)
    trained = recorded("config/distributions.yaml", row.replace("unseen_families", "train"))
    assert (trained["data"], trained["finetune"]) == (1, 1)


def test_an_upstream_file_runs_again_only_what_reads_it(recorded):
    table = (ROOT / "config/assets.yaml").read_text()
    assert "revision: null" in table and "constant: MEDICAL_MCQ_PROMPT" in table
    filled_in = table.replace("revision: null", f"revision: {'0' * 40}")
    assert not recorded("config/assets.yaml", filled_in, instead=True)
    other = recorded("config/assets.yaml", table.replace("MEDICAL_MCQ_PROMPT", "OTHER_PROMPT"), instead=True)
    assert (other["prompts"], other["sample"], other["law"]) == (1, 2, 0)


def edit(folder, *pairs):
    """Replace texts in the smoke configuration; returns what it was."""
    config = folder / "config" / "smoke.yaml"
    before = changed = config.read_text()
    for old, new in pairs:
        assert old in changed
        changed = changed.replace(old, new)
    config.write_text(changed)
    return before


def test_a_new_seed_runs_only_what_is_new(finished):
    before = edit(finished, ("seeds: [1]", "seeds: [1, 2]"))
    scores = finished / "results" / "smoke" / "scores.parquet"
    scores.unlink()  # these empty files carry no record of their inputs, by which a real run would notice the new seed
    try:
        jobs = plan("smoke", cwd=finished)
        assert (jobs["smoke_finetune"], jobs["smoke_sample"], jobs["smoke_data"]) == (5, 18, 2)
        assert not {"smoke_model", "smoke_prompts"} & set(jobs)
    finally:
        (finished / "config" / "smoke.yaml").write_text(before)


def test_settings_of_memory_do_not_train_again_but_those_of_the_method_do(checkout):
    """On an adapter that was really trained, so that Snakemake has its record."""
    target = "results/smoke/adapters/tiny-llama/soft/seed1/adapter_model.safetensors"
    shutil.rmtree(checkout / "results", ignore_errors=True)
    made = snakemake(target, cwd=checkout)
    assert made.returncode == 0, made.stderr
    assert (checkout / target).with_name("run.json").stat().st_size > 100
    for pairs, again in [
        ([("micro_batch: 8", "micro_batch: 4"), ("cache_tokens: 8192", "cache_tokens: 99")], set()),
        ([("learning_rate: 1.0e-3", "learning_rate: 2.0e-3")], {"smoke_data", "smoke_finetune"}),
        ([("architecture: llama", "architecture: qwen3")], {"smoke_model", "smoke_finetune"}),
    ]:
        before = edit(checkout, *pairs)
        try:
            assert set(plan(target, cwd=checkout)) == again
        finally:
            (checkout / "config" / "smoke.yaml").write_text(before)


def memory_asked_for(checkout, *pairs):
    """MB by rule, for the jobs behind an adapter."""
    before = edit(checkout, *pairs)
    try:
        target = "results/smoke/adapters/tiny-llama/soft/seed1/run.json"
        said = snakemake("--dry-run", "--forceall", target, cwd=checkout).stdout  # others may have made it
    finally:
        (checkout / "config" / "smoke.yaml").write_text(before)
    return {rule: int(memory) for rule, memory in re.findall(r"^rule smoke_(\w+):.*?mem_mb=(\d+)", said, re.M | re.S)}


def test_each_process_that_trains_has_memory_for_a_whole_model(checkout):
    asked = memory_asked_for(checkout, ("micro_batch: 8", "micro_batch: 8, processes: 3"))
    assert asked["finetune"] == 3 * asked["model"]  # both have the same line in the table


def test_no_job_asks_for_more_than_there_is(checkout):
    more = ("micro_batch: 8", "micro_batch: 8, processes: 3")
    asked = memory_asked_for(checkout, more, ("needs:", "largest_job: {mem_mb: 2000}\nneeds:"))
    assert asked["finetune"] == 2000 > asked["model"] == memory_asked_for(checkout, more)["model"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("architecture: llama", "architecture: lama", "models.tiny-llama.architecture: Input should be 'llama'"),
        ("seeds: [1]", "sedes: [1]", "unknown key sedes"),
    ],
)
def test_a_mistake_in_a_configuration_is_one_clear_message(checkout, old, new, says):
    config = checkout / "config" / "mistake.yaml"
    config.write_text((checkout / "config" / "smoke.yaml").read_text().replace(old, new))
    result = snakemake("--dry-run", "--configfile", "config/mistake.yaml", cwd=checkout)
    assert result.returncode == 1
    assert says in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
