"""What goes wrong on a cluster ends in success after a retry or in one clear message, never in a wrong result."""

import json
import os
import shutil
import signal
import subprocess

import pytest
from tools import SLURM, SMALL, call, must

ADAPTER = "results/adapters/tiny-llama/soft/seed1/adapter_model.safetensors"
DRAWS = "results/samples/structured/tiny-llama/soft/seed1.parquet"


@pytest.fixture
def before(finished, tmp_path):
    """A copy of the finished run without an adapter and the draws from it."""
    folder = tmp_path / "checkout"
    shutil.copytree(finished[0], folder, symlinks=True)
    shutil.rmtree((folder / ADAPTER).parent)
    (folder / DRAWS).unlink()
    return folder


@pytest.fixture
def snakemake(before, cluster, environment):
    """Run Snakemake on the cluster to its end; `.start` begins it and returns the process."""

    def arguments(*words):
        return ["snakemake", *words, *SLURM, *SMALL]

    def run(*words):
        answer = call(*arguments(*words), cwd=before, env=environment)
        assert "Traceback" not in answer.stderr, answer.stderr
        return answer

    started = []

    def hear():
        """Ctrl-C ends it as in a terminal, although jobs in a shell's background are born deaf to it."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def start(*words):
        with (before / "out.log").open("w") as log:
            process = subprocess.Popen(
                arguments(*words),
                cwd=before,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=hear,
            )
        started.append(process)
        return process

    run.start = start
    run.said = lambda: (before / "out.log").read_text()
    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
    for job in ours(cluster):
        must("scancel", job)
    if "drain" in cluster.node_state():
        cluster.set_node("resume")


def running(cluster, rule):
    """The id of the job of a rule, once its step runs: a drained node starts no steps, not even those of its jobs."""

    def found():
        jobs = [job for job, _, what in cluster.jobs("RUNNING") if f"rule_{rule}_" in what]
        return [job for job in jobs if f"{job}.0" in must("squeue", "--steps", "-h", "-j", job)]

    return cluster.wait(found, f"{rule} to run", 120)[0]


def submissions(cluster, rule):
    return sum(what.startswith(f"rule_{rule}") for _, _, what in cluster.jobs())


def ours(cluster):
    """Jobs in the queue, without those of the test of limits."""
    waiting = cluster.jobs("RUNNING", "PENDING", "SUSPENDED", "COMPLETING")
    return [job for job, _, what in waiting if what not in ("rule_memory", "rule_time")]


def same(folder, finished, *names):
    """Whether outputs are those of the run that nothing disturbed."""
    return all((folder / name).read_bytes() == (finished[0] / name).read_bytes() for name in names)


def test_cancelled_jobs_a_drained_node_and_a_controller_that_restarts(snakemake, cluster, before, finished):
    process = snakemake.start(DRAWS)
    job = running(cluster, "finetune")
    must("scancel", job)
    cluster.wait(lambda: running(cluster, "finetune") != job, "a second attempt")
    cluster.stop_controller()
    cluster.start_controller()
    cluster.set_node("drain")
    cluster.wait(lambda: [1 for _, _, what in cluster.jobs("PENDING") if "rule_sample_" in what], "a waiting job", 90)
    cluster.set_node("resume")
    assert process.wait(240) == 0, snakemake.said()
    assert same(before, finished, ADAPTER, DRAWS)


def test_ctrl_c_cancels_and_the_next_start_goes_on(snakemake, cluster, before, finished):
    process = snakemake.start(ADAPTER)
    running(cluster, "finetune")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    cluster.wait(lambda: not ours(cluster), "the queue to be empty")
    assert not (before / ADAPTER).exists()
    models = submissions(cluster, "model")
    answer = snakemake(ADAPTER)
    assert answer.returncode == 0, answer.stderr
    assert submissions(cluster, "model") == models
    assert same(before, finished, ADAPTER)


def test_kill_9_loses_no_job_and_runs_none_twice(snakemake, cluster, before, finished):
    process = snakemake.start(ADAPTER)
    job = running(cluster, "finetune")
    must("scontrol", "suspend", job)  # so that it cannot end before we have looked
    process.kill()
    process.wait()

    answer = snakemake(ADAPTER)
    assert answer.returncode == 1 and "--unlock" in answer.stderr
    assert snakemake("--unlock").returncode == 0
    answer = snakemake(ADAPTER)
    assert answer.returncode == 1
    assert "still in Slurm's queue; wait until they have ended, or end them with: scancel " in answer.stderr
    must("scontrol", "resume", job)
    cluster.wait(lambda: not ours(cluster), "the job to end", 120)

    count = submissions(cluster, "finetune")
    answer = snakemake(ADAPTER)
    assert answer.returncode == 0, answer.stderr
    assert submissions(cluster, "finetune") == count  # it had finished after the kill
    assert same(before, finished, ADAPTER)


def test_two_at_once(snakemake, cluster, before, finished):
    first = snakemake.start(ADAPTER)
    running(cluster, "finetune")
    second = snakemake(ADAPTER)
    assert second.returncode == 1 and "cannot be locked" in second.stderr
    assert first.wait(240) == 0, snakemake.said()
    assert same(before, finished, ADAPTER)


def test_a_full_disk(snakemake, before):
    target = "results/models/tiny-llama/model.json"
    shutil.rmtree(before / "results")
    (before / "results").mkdir()
    if call("mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", before / "results").returncode:
        pytest.skip("no file system may be mounted here")
    try:
        answer = snakemake(target, "--retries", "0")
        assert answer.returncode == 1
        log = answer.stderr + answer.stdout
        assert "the disk is full" in log and "nothing half-written was kept" in log
        assert not list((before / "results").glob("models/*/*"))
        must("mount", "-o", "remount,size=50m", before / "results")
        answer = snakemake(target)
        assert answer.returncode == 0, answer.stderr
    finally:
        must("umount", "--lazy", before / "results")


def test_a_corrupt_adapter(snakemake, before, finished):
    shutil.copytree((finished[0] / ADAPTER).parent, (before / ADAPTER).parent)
    file = before / ADAPTER
    file.write_bytes(file.read_bytes()[:1000])
    answer = snakemake(DRAWS, "--retries", "0")
    assert answer.returncode == 1
    assert "cft: adapter results/adapters/tiny-llama/soft/seed1: cannot be read" in answer.stderr + answer.stdout
    assert not (before / DRAWS).exists()


def test_jobs_over_their_memory_or_time_get_more(limits, cluster):
    folder, process = limits
    assert process.wait(240) == 0, (folder / "said").read_text()
    said = (folder / "said").read_text()
    assert "SLURM status is: 'TIMEOUT'" in said and "Exceeded job memory limit" in said
    for name in ("memory.txt", "time.txt"):
        assert (folder / name).read_text() == "half\nwhole\n"
    assert submissions(cluster, "memory") == submissions(cluster, "time") == 2


@pytest.mark.long
def test_a_warning_before_the_time_is_up(fresh, cluster, environment):
    """Training writes a checkpoint and its next attempt goes on from there; the signal is sent as Slurm would."""
    folder = fresh()
    config = folder / "config/small.yaml"
    config.write_text(
        config.read_text().replace("max_steps: 4", "max_steps: 480").replace("save_every: 2", "save_every: 999")
    )
    with (folder / "out.log").open("w") as said:
        command = ["snakemake", ADAPTER, *SLURM, *SMALL]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
    log = folder / "results/logs/finetune/tiny-llama/soft/seed1.log"
    job = running(cluster, "finetune")
    cluster.wait(lambda: log.exists() and " steps, " in log.read_text(), "training to go on", 120)
    must("scancel", "--signal=USR1", job)
    cluster.wait(lambda: running(cluster, "finetune") != job, "a second attempt")
    assert process.wait(240) == 0, (folder / "out.log").read_text()
    run = json.loads((folder / ADAPTER).with_name("run.json").read_text())
    assert run["steps"] == 480 and run["resumed_from"], log.read_text() + (folder / "out.log").read_text()
