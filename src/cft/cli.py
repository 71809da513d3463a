"""The `cft` command: its start and its end. The sub-commands are in cft.commands."""

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from cft import CftError
from cft.commands import app, fit, images, look, measure, models, plan, publish, run, show

__all__ = ["app", "fit", "images", "look", "main", "measure", "models", "plan", "publish", "run", "show"]


@app.callback()
def _start(debug: Annotated[bool, typer.Option(help="show a traceback when something fails")] = False) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("cft").setLevel(logging.INFO)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars: in a log there are lines only
    if debug:
        os.environ["CFT_DEBUG"] = "1"


def main() -> None:
    """Run the command; a mistake ends it with one line and exit code 1, a wrong option with code 2."""
    # A cancelled job leaves through the same door as a failed one, so that temporary files go.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except Exception as error:
        if os.environ.get("CFT_DEBUG"):
            raise
        print(f"cft: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, CftError):
        return text
    # safetensors and pyarrow wrap the system's error in their own classes.
    if getattr(error, "errno", None) == 28 or "No space left" in text:
        return f"the disk is full ({text}); nothing half-written was kept; free some space and run again"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return f"out of GPU memory ({text}); lower cache_tokens, window_tokens or micro_batch of the model"
    if isinstance(error, OSError):
        return text
    return f"unexpected {type(error).__name__}: {text}; run again with `cft --debug …` for the traceback"


if __name__ == "__main__":
    main()
