"""Processes that start at once: forks of one that has imported what takes seconds.

In all else they are what a shell starts: with their own arguments, environment, folder, streams and exit code. What a
module reads from the environment when it is imported is that of the first call.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HEAVY = ["cft.cli", "cft.train", "cft.law", "cft.generate", "cft.report", "scipy.stats", "matplotlib.pyplot", "peft"]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(HEAVY)


def cft(*arguments, env=None, cwd=None, timeout=300, check=False):
    """Run `cft ARGUMENTS`; what subprocess.run with captured text returns."""
    done = _run(_cft, ["cft", *map(str, arguments)], env, cwd, timeout)
    if check:
        done.check_returncode()
    return done


def python(code, timeout=300):
    """Run `python -c CODE`, likewise."""
    return _run(_python, ["-c", code], None, None, timeout)


def _run(work, words, env, cwd, timeout):
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "out", Path(folder) / "err"
        job = _forks.Process(
            target=_start, args=(work, words, dict(env or os.environ), str(cwd or Path.cwd()), streams)
        )
        job.start()
        job.join(timeout)
        if job.exitcode is None:
            job.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, job.exitcode, *(path.read_text() for path in streams))


def _start(work, words, env, cwd, streams):
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, name, path in zip((1, 2), ("stdout", "stderr"), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        encoding = env.get("PYTHONIOENCODING", "utf-8")
        setattr(sys, name, os.fdopen(number, "w", encoding=encoding, buffering=1, closefd=False))
    multiprocessing.set_start_method("fork", force=True)  # again what a process has that nobody forked
    sys.argv = words
    work()


def _cft():
    from cft.cli import main

    main()


def _python():
    exec(sys.argv[-1], {"__name__": "__main__"})
