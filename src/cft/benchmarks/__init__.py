"""The benchmarks, one file each: prompts() to draw from, score() for tidy scores, summary() for `cft score`."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from cft import CftError, parts
from cft.provenance import read_table

WHOSE = ("model", "method", "seed", "benchmark")


def load(name: str) -> ModuleType:
    """The module of one benchmark; raises CftError listing the known names."""
    # What PALOMA reads are texts of cft.corpus, not prompts.
    return parts.load(__name__, name, ["score", "summary"] if name == "paloma" else ["prompts", "score", "summary"])


def texts_by(keys: Iterable[Any], texts: Iterable[str]) -> dict[str, list[str]]:
    """The texts of each key (a prompt_id), keys in order of first appearance."""
    groups: dict[str, list[str]] = {}
    for key, text in zip(keys, texts, strict=True):
        groups.setdefault(str(key), []).append(text)
    return groups


def tidy(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Scores in their common form: columns split, item, metric, value (float, NaN where undefined)."""
    return pd.DataFrame(rows, columns=["split", "item", "metric", "value"]).astype({"value": float})


def jsonable(value: Any) -> Any:
    """`value` for JSON: NaN and infinities become None, NumPy numbers Python's, inside dictionaries too."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whose(draws: pd.DataFrame, path: Path) -> dict[str, Any]:
    """The model, method, seed and benchmark of all draws; raises CftError where they lack one, or have several."""
    if missing := [name for name in WHOSE if name not in draws]:
        raise CftError(
            f"{path}: no column {missing[0]}; tidy scores say whose they are: give every draw {', '.join(WHOSE)}, "
            "or leave --out away for a summary"
        )
    for name in WHOSE:
        if len(several := draws[name].unique()) > 1:
            raise CftError(f"{path}: has several: {name} {', '.join(map(str, several))}; score a file of each")
    return {name: draws[name].iloc[0] for name in WHOSE}


def read_draws(path: Path | str, benchmark: str | None = None) -> pd.DataFrame:
    """Draws from a .jsonl or .parquet file, one row per text, with the columns that the file has.

    Column text is required; the benchmark's module says which others it needs. Raises CftError naming the file (and
    the line) when it is missing, empty, truncated, not UTF-8, not JSON, without texts, or of another benchmark.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise CftError(f"{path}: draws are read from a .jsonl or .parquet file; convert it")
    if not path.is_file():
        raise CftError(f"{path}: no such file; name a .jsonl or .parquet file of draws")
    frame = read_table(path) if path.suffix == ".parquet" else _read_lines(path)
    if frame.empty:
        raise CftError(f"{path}: holds no draws; sample again or name another file")
    if "text" not in frame:
        raise CftError(f"{path}: no column text; it has {', '.join(frame.columns)}; put each draw's output in text")
    for number, text in enumerate(frame["text"], start=1):
        if not isinstance(text, str):
            raise CftError(f'{path}: the text of draw {number} is {text!r}, not a string; write an empty output as ""')
    others = set(frame["benchmark"].dropna()) - {benchmark} if benchmark and "benchmark" in frame else ()
    if others:
        raise CftError(f"{path}: draws of {', '.join(map(str, others))}, not of {benchmark}; name the right benchmark")
    return frame.reset_index(drop=True)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_lines(path: Path) -> pd.DataFrame:
    rows = []
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CftError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8")
    # Only a line feed ends a line: splitlines() would also cut inside texts that hold other line separators.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CftError(f"{path}: line {number} is not valid JSON ({error}); one JSON object per line is expected")
        if not isinstance(row, dict):
            raise CftError(f'{path}: line {number} is not a JSON object; write each draw as {{"text": …}}')
        if not isinstance(row.get("text"), str):
            raise CftError(f"{path}: line {number} has no string text; put the draw's output in text")
        if not _is_unicode(row["text"]):
            raise CftError(f"{path}: the text of line {number} holds half a character (a lone surrogate); remove it")
        if rows and (row.get("prompt_id") is None) != (rows[0].get("prompt_id") is None):
            raise CftError(f"{path}: line {number} and the first draw differ in having a prompt_id; give it to all")
        rows.append(row)
    return pd.DataFrame(rows)
