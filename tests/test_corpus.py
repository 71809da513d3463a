"""Texts of the perplexity benchmark: where they lie, what is read of them, what is refused."""

import gzip
import json
import shutil

import pytest

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import PALOMA_SLICES, PalomaBenchmark
from cft.corpus import documents, read_corpus, write_corpus


@pytest.fixture
def assets(tmp_path):
    """An Assets that holds no file."""
    return Assets({}, None, tmp_path / "cache")


@pytest.fixture
def generated(tmp_path, assets):
    settings = PalomaBenchmark(data="generated", context=64, stride=32)
    write_corpus(settings, assets, tmp_path / "corpus")
    return tmp_path / "corpus"


def texts_of(corpus, split):
    return [text for file in corpus.slices[split] for _, text in documents(corpus.root / file)]


def test_generated_texts_have_the_layout_of_the_data_set_and_all_odd_cases(generated):
    corpus = read_corpus(generated)
    assert list(corpus.slices) == PALOMA_SLICES and corpus.root == generated
    assert [len(files) for files in corpus.slices.values()] == [2, 1, 1, 1, 1, 1, 1]
    assert next(iter(corpus.slices["ptb"])) == "ptb/test/test_0.jsonl.gz"
    for split in PALOMA_SLICES:
        texts = texts_of(corpus, split)
        assert "" in texts and any(not text.isascii() for text in texts)
        words = [len(text.split()) for text in texts]
        assert max(words) > 64 and {0, 1, 3, 8, 32} < set(words)
    assert texts_of(corpus, "ptb") != texts_of(corpus, "mc4")
    run = json.loads((generated / "run.json").read_text())
    assert run["benchmark"]["data"] == "generated"


def test_the_same_settings_give_the_same_bytes(generated, assets, tmp_path):
    write_corpus(PalomaBenchmark(data="generated", context=64, stride=32), assets, tmp_path / "again")
    for file in generated.rglob("*"):
        if file.is_file() and file.name != "run.json":
            assert (tmp_path / "again" / file.relative_to(generated)).read_bytes() == file.read_bytes()


def test_texts_of_ones_own_and_of_upstream_stay_where_they_are(generated, assets, tmp_path, monkeypatch):
    slices = ["ptb", "mc4"]
    write_corpus(PalomaBenchmark(data=str(generated), slices=slices), assets, tmp_path / "own")
    monkeypatch.setattr(assets, "folder", lambda name: {"paloma": generated}[name], raising=False)
    write_corpus(PalomaBenchmark(slices=slices), assets, tmp_path / "upstream")
    for name in ("own", "upstream"):
        corpus = read_corpus(tmp_path / name)
        assert corpus.root == generated and list(corpus.slices) == slices
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["corpus.json", "run.json"]
    assert texts_of(corpus, "mc4") == texts_of(read_corpus(generated), "mc4")


def test_a_missing_slice_is_named_with_what_is_there(generated, assets, tmp_path):
    for split in PALOMA_SLICES[2:]:
        shutil.rmtree(generated / split)
    with pytest.raises(CftError, match=r"corpus: slice ptb has no .*; slices that have: c4_en, wikitext_103$"):
        write_corpus(PalomaBenchmark(data=str(generated), slices=["c4_en", "ptb"]), assets, tmp_path / "own")
    with pytest.raises(CftError, match=r"nowhere: slice ptb .*: none$"):
        write_corpus(PalomaBenchmark(data=str(tmp_path / "nowhere"), slices=["ptb"]), assets, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_corpus_that_is_none_or_has_changed(generated, tmp_path):
    with pytest.raises(CftError, match=r"empty is not a corpus"):
        read_corpus(tmp_path / "empty")
    file = generated / "ptb/test/test_0.jsonl.gz"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(CftError, match=r"ptb/test/test_0.jsonl.gz: missing or changed"):
        read_corpus(generated)


def test_a_limit_counts_documents_not_lines(tmp_path):
    path = tmp_path / "texts.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n\n{"text": "b\\u2028", "id": 7}\n{"text": ""}\n'))
    assert list(documents(path)) == [(1, "a"), (3, "b\u2028"), (4, "")]
    assert list(documents(path, 2)) == [(1, "a"), (3, "b\u2028")]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"text": "b', r"line 2 is not valid JSON"),
        (b'{"text": "caf\xe9"}', r"line 2 is not valid JSON in UTF-8"),
        (b'{"text": "\\ud800"}', r"line 2 is not valid JSON in UTF-8"),
        (b"[" * 100_000, r"line 2 is not valid JSON"),
        (b'{"content": "b"}', r"line 2 has no string text"),
        (b'{"text": 3}', r"line 2 has no string text"),
        (b'["text"]', r"line 2 has no string text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, fault):
    path = tmp_path / "texts.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' + line + b'\n{"text": "c"}\n'))
    with pytest.raises(CftError, match=fault) as caught:
        list(documents(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_corrupt_gzip_stream_is_named(tmp_path):
    path = tmp_path / "texts.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(10**5)))
    damaged = bytearray(whole)
    damaged[-8] ^= 0xFF  # the checksum
    for content in (whole[: len(whole) // 2], bytes(damaged), b"not gzip at all"):
        path.write_bytes(content)
        with pytest.raises(CftError, match=r"texts.jsonl.gz: gzip stream is corrupt after line \d+ "):
            list(documents(path))
