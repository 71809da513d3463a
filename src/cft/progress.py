"""Progress of long work: a bar on a terminal, a plain line every ten seconds in a log."""

import io
import logging
import re
import sys
import time
from types import TracebackType
from typing import Any, NamedTuple

from tqdm.auto import tqdm

log = logging.getLogger(__name__)
EVERY = 10.0
LINE = re.compile(
    r"(?P<done>\d+)/(?P<total>\d+) (?P<unit>[^,]+), (?P<rate>[\d.]+)/s, (?P<left>\d+) s left ?(?P<note>.*)"
)


class Told(NamedTuple):
    """What a line of a log says of a job's progress: done and total in units, a rate per second, seconds left."""

    done: int
    total: int
    unit: str
    rate: float
    left: int
    note: str


def read(line: str) -> Told | None:
    """A line of progress; None for any other line."""
    found = LINE.search(line)
    if found is None:
        return None
    done, total, unit, rate, left, note = found.group("done", "total", "unit", "rate", "left", "note")
    return Told(int(done), int(total), unit, float(rate), int(left), note)


class Progress:
    """Count work towards `total`; use as a context manager. Of several processes all but one are `quiet`."""

    def __init__(self, what: str, total: int, unit: str, quiet: bool = False):
        self.what, self.total, self.unit, self.quiet = what, total, unit, quiet
        self.done, self.before, self.started, self.told = 0, 0, time.monotonic(), time.monotonic()
        self.bar = tqdm(total=total, desc=what, unit=f" {unit}") if sys.stderr.isatty() and not quiet else None

    def resume(self, count: int) -> None:
        """Count what an earlier run has done: it says nothing of how fast this one is."""
        self.done = self.before = count
        if self.bar is not None:
            self.bar.initial = self.bar.n = count
            self.bar.refresh()

    def update(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif not self.quiet and (time.monotonic() - self.told >= EVERY or self.done >= self.total):
            self.told = time.monotonic()
            rate = (self.done - self.before) / max(self.told - self.started, 1e-9)
            _tell(self.what, self.done, self.total, self.unit, rate, note)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class Downloads(tqdm):
    """A bar that a library draws of what it fetches, in bytes: in a log our lines instead. It is its `tqdm_class`."""

    told = -EVERY  # by any of them: a library may have several, for bytes that come and bytes that are written

    def __init__(self, *arguments: Any, **named: Any):
        self.plain = not sys.stderr.isatty()
        super().__init__(*arguments, **named | ({"file": io.StringIO()} if self.plain else {}), disable=False)

    def display(self, *arguments: Any, **named: Any) -> None:
        if not self.plain:
            super().display(*arguments, **named)
        elif self.unit == "B" and self.n and time.monotonic() - Downloads.told >= EVERY:
            Downloads.told = time.monotonic()
            done, seconds = self.n / 1e6, max(self.format_dict["elapsed"], 1e-9)
            _tell("download", done, (self.total or self.n) / 1e6, "MB", done / seconds, "")


def _tell(what: str, done: float, total: float, unit: str, rate: float, note: str) -> None:
    left = (total - done) / rate if rate else 0
    log.info("%s %d/%d %s, %.1f/s, %.0f s left %s", what, done, total, unit, rate, left, note)
