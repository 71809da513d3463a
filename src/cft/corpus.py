"""The texts of the perplexity benchmark: gzip files of JSON lines, one document a line, in folders SLICE/test.

Upstream is allenai/paloma on the Hugging Face hub (arXiv 2312.10523). Of a line's fields only `text` is read.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import PalomaBenchmark
from cft.provenance import replacing, write_run
from cft.streams import stream

SPLIT = "test"
_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "it",
    "that",
    "for",
    "on",
    "was",
    "with",
    "as",
    "by",
    "at",
    "from",
    "this",
    "one",
    "river",
    "number",
    "water",
    "city",
    "morning",
    "people",
    "light",
    "paper",
    "music",
    "winter",
    "garden",
    "because",
    "before",
    "measured",
    "answered",
    "slowly",
    "returned",
    "between",
    "another",
    "different",
    "seventeen",
    "1987",
]
_NOT_ASCII = "Žluťoučký kůň, 東京の天気は晴れ, «façade» — 12 °C 🙂"


class Corpus(NamedTuple):
    """Texts on disk: the folder that holds them, and slice → file, relative to it → size in bytes."""

    root: Path
    slices: dict[str, dict[str, int]]


def write_corpus(settings: PalomaBenchmark, assets: Assets, out: Path) -> None:
    """Write the folder `out`: corpus.json, which says where the texts of each slice lie, and texts that we make up.

    Raises CftError when a slice is missing.
    """
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        root = None
        if settings.data == "generated":
            _generate(settings, temporary)
        else:
            root = (assets.folder("paloma") if settings.data == "upstream" else Path(settings.data)).resolve()
        slices = {name: _files(root or temporary, name) for name in settings.slices}
        record = {"root": root and str(root), "slices": slices}
        (temporary / "corpus.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_run(out, benchmark=settings.model_dump())


def _files(root: Path, name: str) -> dict[str, int]:
    found = sorted((root / name / SPLIT).glob("*.jsonl.gz"))
    if not found:
        there = sorted(path.parent.name for path in root.glob(f"*/{SPLIT}") if any(path.glob("*.jsonl.gz")))
        raise CftError(
            f"{root}: slice {name} has no files {SPLIT}/*.jsonl.gz; slices that have: {', '.join(there) or 'none'}"
        )
    return {str(path.relative_to(root)): path.stat().st_size for path in found}


def read_corpus(folder: Path) -> Corpus:
    """The corpus of a folder made by write_corpus.

    Raises CftError when the folder is not one, or a file is not as large any more as when it was made.
    """
    try:
        record = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CftError(f"{folder} is not a corpus (no readable corpus.json); make it with `cft corpus`")
    corpus = Corpus(Path(record["root"] or folder), record["slices"])
    for files in corpus.slices.values():
        for file, size in files.items():
            path = corpus.root / file
            if not path.is_file() or path.stat().st_size != size:
                raise CftError(f"{path}: missing or changed since {folder} was made; make that again with `cft corpus`")
    return corpus


def documents(path: Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """The line number (from 1) and text of the first `limit` documents of a file, or of all; blank lines are skipped.

    Raises CftError naming file and line where the file is corrupt, or a line is no JSON object with a string `text`.
    """
    count = 0
    for number, line in _lines(path):
        if line.strip():
            yield number, _text(line, f"{path}: line {number}")
            count += 1
        if count == limit:
            return


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise CftError(f"{path}: gzip stream is corrupt after line {number} ({error}); fetch the file again")


def _text(line: bytes, where: str) -> str:
    try:
        text = json.loads(line)["text"]
        if not isinstance(text, str):
            raise TypeError
        text.encode("utf-8")  # half of a surrogate pair is JSON, but no text
    except (KeyError, TypeError):
        raise CftError(f"{where} has no string text; correct it, or fetch the file again")
    except (ValueError, RecursionError) as error:
        raise CftError(f"{where} is not valid JSON in UTF-8 ({error}); correct it, or fetch the file again")
    return text


def made_up_text(generator: np.random.Generator, words: int) -> str:
    """So many words in no sensible order, separated by spaces; common words are more likely."""
    weight = 1 / np.arange(1, len(_WORDS) + 1)
    return " ".join(generator.choice(_WORDS, size=words, p=weight / weight.sum()))


def _generate(settings: PalomaBenchmark, folder: Path) -> None:
    """Texts of each slice, from empty to longer than a window for every tokenizer; the first slice has two files."""
    lengths = [1, settings.context // 8, 0, settings.context // 2, settings.context * 5 // 4, 3]
    for number, name in enumerate(settings.slices):
        for part in range(1 if number else 2):
            generator = stream(0, "paloma", name, part)
            texts = [*(made_up_text(generator, words) for words in lengths), _NOT_ASCII]
            write_documents(folder / name / SPLIT / f"{SPLIT}_{part}.jsonl.gz", texts)


def write_documents(path: Path, texts: Iterable[str]) -> None:
    """Write one file of a slice; the same texts give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"id": str(number), "source": "generated", "text": text} for number, text in enumerate(texts))
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(content.encode("utf-8"), mtime=0))
