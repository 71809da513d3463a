"""What is shown of running jobs: folders made up by hand, lines that Progress itself wrote."""

import io
import logging
import os

import pytest
from rich.console import Console
from test_status import HEAD, finish, lock, log, run_of_snakemake, start

from cft import follow, progress
from cft.status import status


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def told_by_progress(caplog, monkeypatch, note):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with caplog.at_level(logging.INFO, "cft"), progress.Progress("draws of structured", 40, "draws") as shown:
        shown.update(12, note)
    return caplog.messages[-1]


def running(results, **texts):
    for name, text in texts.items():
        log(results, f"sample/{name}", text)
    begun = [start(f"sample/{name}", job) for job, name in enumerate(texts, 1)]
    run_of_snakemake(results, 1, HEAD, *begun)
    lock(results)


def test_a_line_of_progress_is_read_back(caplog, monkeypatch):
    line = told_by_progress(caplog, monkeypatch, "loss 0.2500")
    told = progress.read(f"10:00:00 {line}")
    assert told is not None and told[:3] == (12, 40, "draws") and told.note == "loss 0.2500"
    assert told.rate > 0 and told.left >= 0
    assert progress.read("10:00:00 wrote 12/40 files") is None and progress.read("") is None


def test_what_an_earlier_run_has_done_does_not_count_as_speed(caplog, monkeypatch):
    clock = iter([0.0, 0.0, 10.0])  # set up, then told
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, 10.0))
    with caplog.at_level(logging.INFO, "cft"), progress.Progress("finetune", 1000, "steps") as shown:
        shown.resume(900)
        shown.update(10)
    told = progress.read(caplog.messages[-1])
    assert told is not None and (told.done, told.rate, told.left) == (910, 1.0, 90)


def test_a_terminal_shows_a_bar_per_running_job(results, caplog, monkeypatch):
    line = told_by_progress(caplog, monkeypatch, "loss 0.2500")
    running(results, a=f"10:00:00 {line}\n", b="loading the model\n")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    console.print(follow.screen(status(results)))
    text = console.file.getvalue()
    assert "2 running" in text and "sample/a" in text and "12/40 draws" in text and "loss 0.2500" in text
    assert "━" in text and "loading the model" in text


def test_a_log_gets_plain_lines_until_the_run_ends(results, monkeypatch):
    running(results, a="10:00:00 draws 1/4 draws, 1.0/s, 3 s left\n")
    os.utime(results / "logs/sample/a.log")  # just now
    waited = []

    def sleep(seconds):
        """The run ends while we wait for the second time."""
        waited.append(seconds)
        if len(waited) == 2:
            for file in (results.parent / ".snakemake/locks").iterdir():
                file.unlink()

    monkeypatch.setattr(follow.time, "sleep", sleep)
    console = Console(file=io.StringIO(), width=40)
    follow.watch(results, console=console)
    assert console.file.getvalue() == 2 * "sample/a: 10:00:00 draws 1/4 draws, 1.0/s, 3 s left\n"
    assert waited == [progress.EVERY] * 2


def test_a_run_that_was_killed_is_not_waited_for_in_silence(results):
    running(results, a="10:00:00 draws 1/4 draws, 1.0/s, 3 s left\n")
    os.utime(results / "logs/sample/a.log", (0, 0))
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(follow.screen(status(results)))
    assert "if it was killed, run snakemake --unlock" in console.file.getvalue()


def test_a_run_that_ended_is_not_waited_for(results):
    log(results, "sample/a")
    run_of_snakemake(results, 1, HEAD, start("sample/a", 1), finish(1))
    console = Console(file=io.StringIO(), force_terminal=True)
    follow.watch(results, console=console)
    assert "running" not in console.file.getvalue().split("\n")[-1]
