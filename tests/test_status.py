"""How far a workflow is: folders made up by hand, and a true run of Snakemake in which a job fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cft import CftError
from cft import status as status_module
from cft.spent import gpu_seconds, recorded, spent, words_of
from cft.status import Job, duration, last_line, lines, status

CFT = Path(sys.executable).with_name("cft")
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
RECORD = "s\th:m:s\tmax_rss\n{}\t0:00:01\t1.0\n"


def write(path, text="", at=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def log(results, name, text="", at=1000):
    write(results / "logs" / f"{name}.log", text, at)


def record(results, name, seconds: float | str = 1.5, at=1100):
    write(results / "benchmarks" / f"{name}.tsv", RECORD.format(seconds), at)


def start(name, job):
    return f"localrule any:\n    output: {name}\n    log: results/logs/{name}.log\n    jobid: {job}\n"


def failure(name, job):
    log = f"    log: results/logs/{name}.log (check log file(s) for error details)\n"
    return f"Error in rule any:\n    message: None\n    jobid: {job}\n{log}"


def finish(job):
    return f"Finished jobid: {job} (Rule: any)\n{job} of 9 steps (1%) done\n"


HEAD = "SNAKEMAKE\nJob stats:\n"
END = "Complete log(s): somewhere\n"


def run_of_snakemake(results, day, *said):
    write(
        results.parent / f".snakemake/log/2026-01-{day:02d}T000000.1.snakemake.log", "x\nJob stats:\n" + "".join(said)
    )


def lock(results):
    for kind in ("input", "output"):
        write(results.parent / f".snakemake/locks/0.{kind}.lock", "results/x")


def states(found):
    return {job.name: job.state for job in found.jobs}


def test_nothing_was_run(results):
    with pytest.raises(CftError, match="neither logs nor benchmarks"):
        status(results)


def test_a_record_after_the_log_is_a_job_done(results):
    log(results, "law/a/seed1")
    record(results, "law/a/seed1", 2.5)
    log(results, "law/b/seed1")
    record(results, "law/b/seed1", 4.0)
    log(results, "report")
    record(results, "report", seconds="NA")  # what Snakemake writes of a job that ended at once
    found = status(results)
    assert states(found) == {"law/a/seed1": "done", "law/b/seed1": "done", "report": "done"}
    assert spent(results) == ({"law": 6.5, "report": 0}, {}) and found.steps is None and not found.locked


def test_what_snakemake_said_last_counts(results):
    for name in ("again", "broken", "cut", "fine", "going"):
        log(results, name)
    # The old record of a job that is done again stays until it ends.
    record(results, "again", at=900)
    run_of_snakemake(results, 1, start("again", 1), finish(1), start("broken", 2), finish(2), start("cut", 3))
    run_of_snakemake(
        results, 2, start("broken", 1), failure("broken", 1), start("broken", 1), failure("broken", 1), END
    )
    run_of_snakemake(results, 3, start("again", 7), start("fine", 3), start("going", 4), finish(3))
    run_of_snakemake(results, 4)  # of another folder
    (results.parent / ".snakemake/log/2026-01-05T000000.1.snakemake.log").write_text("Congratulations\n")
    lock(results)
    wanted = {"again": "running", "broken": "failed", "cut": "stopped", "fine": "done", "going": "running"}
    run_of_snakemake(results, 4, END)
    found = status(results)
    assert states(found) == wanted
    assert found.steps == ("3 of 9 steps (1%) done", Path(".snakemake/log/2026-01-03T000000.1.snakemake.log"))
    for file in (results.parent / ".snakemake/locks").iterdir():
        file.unlink()
    stopped = {"again": "stopped", "going": "stopped"}
    assert states(status(results)) == wanted | stopped


def test_a_job_that_is_tried_again_is_running(results):
    log(results, "x")
    run_of_snakemake(results, 1, start("x", 1), failure("x", 1), "Trying to restart job 1.\n", start("x", 1))
    lock(results)
    assert states(status(results)) == {"x": "running"}


def test_a_group_that_fails_on_a_cluster(results):
    """Snakemake indents the jobs of a group; those that had ended have a record."""
    log(results, "law/a")
    record(results, "law/a")
    log(results, "law/b")
    jobs = "".join("    " + line + "\n" for name, job in (("law/a", 1), ("law/b", 2), ("law/c", 3))
                   for line in start(name, job).splitlines())  # fmt: skip
    broken = "".join(
        f"        rule any:\n            jobid: {job}\n            output: x\n"
        f"            log: results/logs/{name}.log (check log file(s) for error details)\n"
        for name, job in (("law/a", 1), ("law/b", 2), ("law/c", 3))
    )
    run_of_snakemake(results, 1, "group job g (jobs in lexicogr. order):\n", jobs, "    jobs:\n", broken, END)
    assert states(status(results)) == {"law/a": "done", "law/b": "failed"}


def test_without_a_word_of_snakemake(results):
    log(results, "x")
    log(results, "copied", at=1200)  # after its record, as copying may have it
    record(results, "copied")
    assert states(status(results)) == {"x": "stopped", "copied": "done"}
    lock(results)
    assert states(status(results)) == {"x": "running", "copied": "done"}


def test_what_a_plan_has_besides_is_waiting(results):
    """Also where the results are those of another folder than the plan's."""
    smoke = results / "smoke"
    log(smoke, "law/a")
    record(smoke, "law/a")
    found = status(smoke, ["results/benchmarks/law/a.tsv", "results/benchmarks/law/b.tsv"])
    assert states(found) == {"law/a": "done", "law/b": "waiting"}


def run(command, seconds, gpus, **facts):
    machine = {"gpus": [{"name": "H100"}] * gpus}
    return json.dumps({"command": ["cft", command, "--out", "x"], "seconds": seconds, "machine": machine, **facts})


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["law", "structured", "--out", "x"], ["law", "structured"]),
        (["--debug", "law", "structured", "--out", "x"], ["law", "structured"]),
        (["score", "mcq", "results/samples/x.parquet", "--out", "x"], ["score", "mcq"]),
        (["--debug"], []),
    ],
)
def test_the_sub_command_of_a_run(words, wanted):
    described = {"command": ["/bin/cft", *words], "seconds": 10, "machine": {"gpus": [{}, {}]}}
    assert words_of(described) == wanted
    assert gpu_seconds(described) == (20 if wanted[:1] == ["law"] else 0)


@pytest.mark.parametrize(
    ("text", "wanted"), [("", []), ("s\th:m:s\n", []), ("s\th:m:s\n1.5\t0\nNA\t-\n2\t0\n", [1.5, 2])]
)
def test_seconds_in_a_record_of_snakemake(tmp_path, text, wanted):
    (tmp_path / "job.tsv").write_text(text)
    assert recorded(tmp_path / "job.tsv") == wanted


def test_hours_of_gpus(results):
    """Seconds times GPUs of what computes on them; a score that was made beside a GPU did not use it."""
    log(results, "law/a")
    write(results / "adapters/m/soft/seed1/run.json", run("finetune", 3600, 2, device="cuda:0"))
    write(results / "adapters/m/soft/seed2/run.json", run("finetune", 1800, 2, device="cuda:0"))
    write(results / "laws/b/m/soft/seed1.run.json", run("law", 900, 1, device="cuda:0"))
    write(results / "laws/b/m/hard/seed1.run.json", run("law", 900, 1, device="cpu"))
    write(results / "scores/b/m/soft/seed1.run.json", run("score", 900, 1))
    write(results / "smoke/laws/b/m/soft/seed1.run.json", run("law", 900, 1, device="cuda:0"))
    record(results / "smoke", "law/a")
    found = status(results)
    assert spent(results)[1] == {"finetune": 10_800, "law": 900}
    table = [line.split() for line in lines(found, results)]
    assert ["law", "0", "1", "0", "s", "0.25"] in table and ["all", "0", "1", "0", "s", "3.25"] in table


def test_the_lines_show_the_newest_jobs_of_a_state(results):
    for i in range(5):
        log(results, f"law/{i}", f"step 1\rstep {i}\n\n", at=1000 + i)
    text = "\n".join(lines(status(results), results, most=2))
    assert "results: 0 done, 5 stopped" in text
    assert "law/3" in text and "law/4" in text and "step 4" in text and "law/2" not in text
    assert "and 3 more stopped" in text


def test_the_last_line_of_a_log(tmp_path):
    file = tmp_path / "x.log"
    assert last_line(file) == "(no log)"
    file.write_text("\n")
    assert last_line(file) == "(empty)"
    file.write_bytes(b"a" * 9000 + b"\nfirst\rlast \xff\r\n\n")
    assert last_line(file) == "last \N{REPLACEMENT CHARACTER}"


def test_durations():
    assert [duration(x) for x in (0, 59.4, 90, 7200)] == ["0 s", "59 s", "1.5 min", "2.0 h"]


SNAKEFILE = """
rule all:
    input:
        "results/good.txt",
        "results/bad.txt",


rule good:
    output:
        "results/good.txt",
    log:
        "results/logs/good.log",
    benchmark:
        "results/benchmarks/good.tsv"
    shell:
        "sleep 0.2; echo fine 2> {log} > {output}"


rule bad:
    output:
        "results/bad.txt",
    log:
        "results/logs/bad.log",
    benchmark:
        "results/benchmarks/bad.tsv"
    shell:
        "echo 'cft: no such file' > {log}; test -e wanted && touch {output}"
"""


def test_a_log_that_snakemake_has_just_removed(results):
    """It does so when a job runs again."""
    gone = results / "logs/law/gone.log"
    assert status_module._changed(gone) == 0 and status_module._when(gone) == ""
    log(results, "law/a", "begun")
    run_of_snakemake(results, 1, start("law/a", 1))
    lock(results)
    found = status(results)
    found.jobs.append(Job("law/gone", "done", gone))
    assert "run snakemake --unlock" in status_module.silence(found)


def test_locks_of_a_run_that_has_long_been_silent_may_be_left_over(results):
    log(results, "law/a", "begun")
    run_of_snakemake(results, 1, start("law/a", 1))
    lock(results)
    assert lines(status(results), results)[-1].count("if it was killed, run snakemake --unlock") == 1
    os.utime(results / "logs/law/a.log")  # just now
    assert "a run holds locks; " in lines(status(results), results)[-1]


def test_a_true_run(tmp_path):
    """One job ends and one fails; once its cause is gone, a second run does the rest."""

    def snakemake(*options):
        command = ["snakemake", "--cores", "1", "--keep-going", *options]
        return subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)

    def cft_status():
        return subprocess.run([CFT, "status"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    assert snakemake().returncode == 1
    found = status(tmp_path / "results")
    assert states(found) == {"bad": "failed", "good": "done"}
    assert 0.1 < spent(tmp_path / "results")[0]["good"] < 60 and not found.locked
    said = cft_status().splitlines()
    assert said[0] == "results: 1 done, 1 failed"
    assert any(line.startswith("    results/logs/bad.log, ") and line.endswith(": cft: no such file") for line in said)
    assert "1 of 3 steps (33%) done; no run in progress; .snakemake/log/" in said[-1]
    (tmp_path / "wanted").touch()
    assert snakemake().returncode == 0
    assert cft_status().startswith("results: 2 done\n")
    # A job that is run again and fails keeps its old record.
    (tmp_path / "wanted").unlink()
    assert snakemake("--forcerun", "bad").returncode == 1
    assert (tmp_path / "results/benchmarks/bad.tsv").is_file()
    assert states(status(tmp_path / "results")) == {"bad": "failed", "good": "done"}
