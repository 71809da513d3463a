"""What an unfinished file already has, so that a killed job continues after it."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from cft import CftError
from cft.provenance import replacing

log = logging.getLogger(__name__)


class Journal:
    """The rows of an unfinished file, one JSON line each, under a first line that says what they depend on.

    out       the file; the journal lies beside it
    header    all that the rows depend on: rows under another header are of another job, and dropped
    key       the names of a row's values that tell it from others; `done` holds the rows by them
    rows      what a row is called in the log
    """

    def __init__(self, out: Path, header: dict[str, Any], key: tuple[str, ...], rows: str):
        self.path, self.key = out.with_name(f".{out.name}.journal"), key
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        first = json.dumps(header, sort_keys=True) + "\n"
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        if lines[:1] == [first]:
            # A line that a kill cut short lacks its end.
            self._keep([json.loads(line) for line in lines[1:] if line.endswith("\n")])
            log.info("continuing after %d %s", len(self.done), rows)
        with replacing(self.path) as temporary:
            temporary.write_text(first + "".join(json.dumps(row) + "\n" for row in self.done.values()), "utf-8")

    def add(self, rows: list[dict[str, Any]]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self._keep(rows)

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        self.done.update({tuple(row[name] for name in self.key): row for row in rows})

    def remove(self) -> None:
        self.path.unlink()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def adapter_weights(adapter: Path) -> bytes:
    """An adapter's weights: one that was trained again in its place differs in them alone."""
    try:
        return (adapter / "adapter_model.safetensors").read_bytes()
    except OSError as error:
        raise CftError(f"adapter {adapter}: cannot be read ({error.strerror}); train it with `cft finetune`")
