"""What a journal keeps of a file that a kill cut short or a disk damaged."""

import json
import logging

import pytest

from cft.journal import Journal

ROWS = [{"name": name, "value": value} for name, value in (("a", 1), ("b", 2), ("c", 3))]


def journal(folder):
    return Journal(folder / "out.parquet", {"seed": 1}, ("name",), "rows")


DAMAGED = [b'{"name": "b", "value', b'{"name": "b", "value\n', b'{"name": "\xff", "value": 2}\n', b"[1]\n", b"{}\n"]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_rows_before_a_damaged_line_are_kept(tmp_path, caplog, damaged):
    first = journal(tmp_path)
    first.add(ROWS)
    lines = first.path.read_bytes().splitlines(keepends=True)
    first.path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
    with caplog.at_level(logging.WARNING, "cft"):
        again = journal(tmp_path)
    assert list(again.done.values()) == ROWS[:1]
    assert f"{first.path}: line 3 is damaged or cut" in caplog.text
    again.add(ROWS[1:])
    assert [json.loads(line) for line in first.path.read_text().splitlines()[1:]] == ROWS
    assert list(journal(tmp_path).done.values()) == ROWS
