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
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        if lines[:1] == [first.encode()]:
            self._keep(self._readable(lines[1:]))
            log.info("continuing after %d %s", len(self.done), rows)
        with replacing(self.path) as temporary:
            temporary.write_text(first + "".join(json.dumps(row) + "\n" for row in self.done.values()), "utf-8")

    def _readable(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """The rows before the first line that is none: a kill cuts the last one short, a disk may damage any."""
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
                whole = line.endswith(b"\n") and set(self.key) <= row.keys()
            except (ValueError, AttributeError):
                whole = False
            if not whole:
                log.warning("%s: line %d is damaged or cut; going on before it", self.path, len(rows) + 2)
                break
            rows.append(row)
        return rows

    def add(self, rows: list[dict[str, Any]]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self._keep(rows)

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        self.done.update({tuple(row[name] for name in self.key): row for row in rows})

    def remove(self) -> None:
        self.path.unlink()


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def adapter_weights(adapter: Path) -> bytes:
    """An adapter's weights: one that was trained again in its place differs in them alone."""
    try:
        return (adapter / "adapter_model.safetensors").read_bytes()
    except OSError as error:
        raise CftError(f"adapter {adapter}: cannot be read ({error.strerror}); train it with `cft finetune`")
