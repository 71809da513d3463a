"""What a workflow asks Slurm before it starts."""

import re
import shutil
import subprocess
from pathlib import Path

from cft import CftError


def nothing_left(folder: Path, ours_go_there: bool = True) -> None:
    """Raises CftError if jobs of an earlier run in `folder` are still in the queue; nothing happens without a Slurm.

    `ours_go_there`: whether this run submits to Slurm; then a queue that does not answer is an error too.

    A Snakemake that was killed leaves its jobs running, whoever started it. Submitting them again would let two jobs
    write one file. The profile's slurm-jobname-prefix marks our jobs.
    """
    if not shutil.which("squeue"):
        return
    answer = subprocess.run(["squeue", "--noheader", "--format=%i|%u|%j|%Z"], capture_output=True, text=True)
    if answer.returncode and ours_go_there:
        raise CftError(f"Slurm's queue does not answer: {' '.join(answer.stderr.split())}")
    # The name in between may hold anything: it may be of another program's job.
    lines = [re.fullmatch(r"(.+?)\|(.+?)\|(.*)\|(.*)", line.strip()) for line in answer.stdout.splitlines()]
    ours = [line.groups() for line in lines if line and line[3].startswith("cft_")]
    left = [(job, user) for job, user, _, where in ours if Path(where).resolve() == folder.resolve()]
    if left:
        raise CftError(
            f"{len(left)} jobs of an earlier run in this folder ({', '.join(sorted({user for _, user in left}))}) are "
            f"still in Slurm's queue; wait until they have ended, or end them with: "
            f"scancel {' '.join(job for job, _ in left)}"
        )
