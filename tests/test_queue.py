"""A run does not start while jobs of an earlier one are in the queue of a (pretended) Slurm."""

import os

import pytest

from cft import CftError, slurm


def pretend(tmp_path, monkeypatch, *lines):
    tool = tmp_path / "squeue"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_jobs_of_an_earlier_run_are_named(tmp_path, monkeypatch):
    pretend(
        tmp_path,
        monkeypatch,
        f"7|me|cft_ab|{tmp_path}",
        "8|me|cft_ab|/elsewhere",
        f"9|me|other|{tmp_path}",
        f"12|colleague|cft_c|{tmp_path}",
        f"13|me|what | ever|{tmp_path}",
    )
    with pytest.raises(CftError, match=r"2 jobs of an earlier run in this folder \(colleague, me\) .* scancel 7 12$"):
        slurm.nothing_left(tmp_path)


def test_a_queue_that_does_not_answer_stops_a_run_on_it(tmp_path, monkeypatch):
    pretend(tmp_path, monkeypatch, "no")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho unable to contact slurm controller >&2\nexit 1\n")
    with pytest.raises(CftError, match="does not answer: unable to contact slurm controller"):
        slurm.nothing_left(tmp_path)
    slurm.nothing_left(tmp_path, ours_go_there=False)


def test_nothing_is_said_of_others_or_without_a_slurm(tmp_path, monkeypatch):
    pretend(tmp_path, monkeypatch, "8|me|cft_ab|/elsewhere", f"9|me|other|{tmp_path}")
    slurm.nothing_left(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    slurm.nothing_left(tmp_path)
