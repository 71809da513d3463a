"""What `snakemake --profile slurm` asks of Slurm: with a Slurm and a `cft` that pretend, without overlay and images."""

import json

import pytest
import yaml
from tools import HEAD, HERE, call, small

# A head node with more processors than any job is given.
PROFILE = ["snakemake", "--profile", "slurm", "--cores", "16", "--configfile", "config/small.yaml"]
# The profile as it is, but for waiting, accounts and images.
NOW = ["--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "1",
       "--latency-wait", "1", "--sdm", "env-modules", "--retries", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, copied, head):
    """A checkout of few jobs, and an environment in which Slurm and `cft` pretend."""
    folder, pretended = copied(), tmp_path_factory.mktemp("pretended")
    config = small() | {"seeds": [1, 2], "threads": 3}
    del config["methods"]["temperature"], config["benchmarks"]["open_ended"], config["benchmarks"]["paloma"]
    config["tables"] = {"table1": {"scores": ["structured"]}, "table3": {"scores": ["tinybenchmarks"]}}
    config["figures"] = {"fig6": config["figures"]["fig6"]}
    (folder / "config/small.yaml").write_text(yaml.safe_dump(config))
    commands = pretended / "bin"
    commands.mkdir()
    for name in ("sbatch", "srun", "squeue", "sacct", "sinfo", "scontrol", "scancel", "cft"):
        (commands / name).symlink_to(HERE.parent / "pretend")
    path = {"PATH": f"{commands}:{head['PATH']}", "PRETEND": str(pretended), "PYTHONPATH": str(folder / "src")}
    return folder, head | path


def asked(place, command):
    """The words of every call of one command."""
    with open(f"{place[1]['PRETEND']}/log") as log:
        return [words[1:] for words in map(json.loads, log) if words[0] == command]


def run(place, fails=""):
    folder, environment = place
    answer = call(*PROFILE, *NOW, cwd=folder, env=environment | ({"PRETEND_FAIL": fails} if fails else {}))
    assert answer.returncode == bool(fails), answer.stderr
    return answer.stderr


@pytest.fixture(scope="module")
def without_data(place):
    """After a run in which the items of tinyBenchmarks could not be had: what there is."""
    run(place, "benchmark-prompts tinybenchmarks")
    return {path.relative_to(place[0] / "results").parts[0] for path in place[0].glob("results/**/*.*")}


@pytest.fixture(scope="module")
def without_a_table(place, without_data):
    """After one more, in which a table could not be made."""
    run(place, "table table3")
    return {path.name for path in place[0].glob("results/*/*.*")} | {path.name for path in place[0].glob("results/*.*")}


@pytest.fixture(scope="module")
def whole(place, without_a_table):
    """After a last one: the commands that it called."""
    before = len(asked(place, "cft"))
    run(place)
    return asked(place, "cft")[before:]


def test_data_that_cannot_be_had_hold_up_only_what_needs_them(without_data):
    assert {"adapters", "samples", "laws", "judged"} <= without_data
    # A model's scores are one group, which waits for all of them.
    assert not {"retention", "scores", "scores.parquet"} & without_data


def test_what_fails_takes_nothing_along_that_was_made(without_a_table, whole):
    assert {"table1.csv", "fig6.pdf", "claims.csv", "scores.parquet"} <= without_a_table
    assert not {"table3.csv", "report.html"} & without_a_table
    assert [words[1] for words in whole] == ["table", "report"]


def test_every_job_fits_into_what_was_asked_for(place, whole):
    submitted = {words[0]: words[1:] for words in asked(place, "sbatch")}
    started = asked(place, "srun")
    assert {words[0] for words in started} == set(submitted)
    for number, *options in started:
        assert _number("--cpus-per-task", options) <= _number("--cpus-per-task", submitted[number])
    # What takes seconds, or needs the network, is no job of Slurm's.
    here = {words[1] for words in asked(place, "cft") if words[0] == "here"}
    there = {words[1] for words in asked(place, "cft") if words[0] != "here"}
    assert here == {"data", "benchmark-prompts", "irt", "scores", "claims", "table", "figure", "report"}
    assert there == {"model", "finetune", "sample", "law", "retention", "judge", "score", "curves"}


@pytest.mark.parametrize("words", [["status"], ["status", "--follow"], ["models", "--configfile", "config/paper.yaml"],
                                   ["check", "config/paper.yaml"], ["images", "--help"]])  # fmt: skip
def test_commands_for_the_head_node_run_there(place, whole, words):
    folder, environment = place
    answer = call(HEAD / "bin/cft", *words, cwd=folder, env=environment)
    assert answer.returncode == 0 and answer.stdout, answer.stderr


def test_a_group_runs_its_jobs_one_after_the_other(place, whole):
    """Three laws (base, and two seeds of soft) in one allocation, for three times the minutes of one."""
    groups = [words[1:] for words in asked(place, "sbatch") if any("law_structured" in word for word in words)]
    (group,) = groups
    config = yaml.safe_load((place[0] / "config/small.yaml").read_text())["needs"]["default"]
    assert int(group[group.index("-t") + 1]) == 3 * config["runtime"]
    assert int(group[group.index("--mem") + 1]) == config["mem_mb"]
    assert _number("--nodes", group) == 1


def _number(option, words):
    (found,) = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return int(found)
