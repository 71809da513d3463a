"""Files that are whole or absent."""

import json

import pandas as pd
import pytest

from cft import CftError
from cft.provenance import read_table, replacing, run_path, write_run, write_table

FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_folders_are_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_run_json_says_what_made_a_file(tmp_path):
    write_table(FRAME, tmp_path / "t.parquet", seed=3)
    run = json.loads((tmp_path / "t.run.json").read_text())
    assert {"command", "started", "seconds", "code", "packages", "python", "machine", "seed"} <= set(run)
    assert run["packages"]["numpy"]
    assert run_path(tmp_path) == tmp_path / "run.json"
    write_run(tmp_path, note="x")
    assert json.loads((tmp_path / "run.json").read_text())["note"] == "x"


def test_same_rows_same_bytes(tmp_path):
    for name in "ab":
        write_table(FRAME, tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_unreadable_tables_are_named(tmp_path):
    with pytest.raises(CftError, match=r"none\.parquet: no such file; make it with `snakemake"):
        read_table(tmp_path / "none.parquet")
    write_table(FRAME, tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(CftError, match=r"t\.parquet: not a readable parquet file"):
        read_table(tmp_path / "t.parquet")
    write_table(FRAME, tmp_path / "t.parquet")
    with pytest.raises(CftError, match="no column c; it has a, b"):
        read_table(tmp_path / "t.parquet", ["a", "c"])
