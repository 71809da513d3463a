"""Finding a benchmark, and reading files of draws whoever made them."""

from pathlib import Path

import pandas as pd
import pytest

from cft import CftError, benchmarks, parts
from cft.benchmarks import structured
from cft.config import load
from cft.foresee import notes


def test_unknown_benchmark_lists_the_known_ones():
    assert benchmarks.load("structured") is structured
    with pytest.raises(CftError, match=r"'structure'; known: .*mcq, novelty, .*structured"):
        benchmarks.load("structure")


def test_a_module_that_lacks_a_function_is_named(monkeypatch):
    for name in parts.names("cft.benchmarks"):
        assert benchmarks.load(name)
    monkeypatch.delattr(structured, "summary")
    with pytest.raises(CftError, match=r"benchmarks/structured\.py has no summary; CONTRIBUTING\.md says what"):
        benchmarks.load("structured")
    with pytest.raises(CftError, match=r"has no summary"):
        notes(load(Path(__file__).parents[1] / "config" / "demo.yaml"))


@pytest.mark.parametrize(
    ("name", "content", "culprit"),
    [
        ("missing.jsonl", None, "no such file"),
        ("draws.csv", b"text\n1\n", "convert"),
        ("empty.jsonl", b"", "no draws"),
        ("blank.jsonl", b"\n\n", "no draws"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8 .byte 13"),
        ("cut.jsonl", b'{"text": "1"}\n\n{"text": "2', "line 3 is not valid JSON"),
        ("list.jsonl", b'{"text": "1"}\n[1]\n', "line 2 is not a JSON object"),
        ("no_text.jsonl", b'{"text": "1"}\n{"output": "2"}\n', "line 2 has no string text"),
        ("number.jsonl", b'{"text": 1}\n', "line 1 has no string text"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "text of line 1 holds half a character"),
        (
            "some.jsonl",
            b'{"text": "1", "prompt_id": "a"}\n{"text": "2"}\n',
            "line 2 and the first draw differ",
        ),
        (
            "null.jsonl",
            b'{"text": "1"}\n{"text": "2", "prompt_id": "a"}\n',
            "line 2 and the first draw differ",
        ),
        ("cut.parquet", b"PAR1 and no more", "not a readable parquet"),
        ("other.jsonl", b'{"text": "1", "benchmark": "mcq"}\n', "mcq"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, name, content, culprit):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CftError, match=culprit) as caught:
        benchmarks.read_draws(path, "structured")
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "culprit"),
    [({"output": ["1"]}, "no column text"), ({"text": ["1", None]}, "draw 2"), ({"text": []}, "no draws")],
)
def test_a_parquet_without_usable_texts_is_named(tmp_path, columns, culprit):
    pd.DataFrame(columns).to_parquet(tmp_path / "draws.parquet")
    with pytest.raises(CftError, match=culprit):
        benchmarks.read_draws(tmp_path / "draws.parquet")


def test_texts_with_unusual_line_separators_stay_whole(tmp_path):
    path = tmp_path / "draws.jsonl"
    path.write_text('\ufeff{"text": "a\u2028b"}\r\n{"text": ""}\n', encoding="utf-8")
    assert benchmarks.read_draws(path)["text"].tolist() == ["a\u2028b", ""]
