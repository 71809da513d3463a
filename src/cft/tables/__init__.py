"""Tables: one module per table. Tidy scores in, a frame of numbers out, written as CSV, LaTeX and Markdown.

A module has `make(scores) -> DataFrame`; the configuration says of which benchmarks. In the frame a number and its 95%
interval are three columns, NAME, NAME_low and NAME_high; readers of the LaTeX and Markdown files see one cell,
`value [low, high]`. Where NAME begins with "law" the two are bounds between which the number lies, and NAME is their
middle; readers see `low to high`. A column's name is its heading; one with the word "p" holds p-values. The caption is
workflow/report/NAME.rst.
"""

import math
from pathlib import Path
from types import ModuleType

import pandas as pd

from cft import parts
from cft.provenance import replacing

NOTHING = "–"
LEAST_P = 0.0001
ACRONYMS = {"kl": "KL", "w1": "W1", "pit": "PIT", "mcq": "MCQ", "nats": "(nats)"}


def load(name: str) -> ModuleType:
    """The module of one table; raises CftError for an unknown name."""
    return parts.load(__name__, name, ["make"])


def save(frame: pd.DataFrame, csv_path: Path | str) -> None:
    """Write `csv_path` (every number in a column of its own) and a .tex and .md of the same name for readers."""
    path = Path(csv_path)
    shown = readable(frame)
    texts = {
        ".csv": frame.to_csv(index=False, float_format="%.6g"),
        ".tex": shown.to_latex(index=False, escape=True).replace(NOTHING, "--").replace("<", "$<$"),
        ".md": _markdown(shown),
    }
    for suffix, text in texts.items():
        with replacing(path.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as text: rounded numbers, one cell for a number and its interval, headings in words."""
    shown = {}
    for column in frame.columns:
        if column.endswith(("_low", "_high")) and column.rpartition("_")[0] in frame:
            continue
        interval = [column, f"{column}_low", f"{column}_high"]
        if interval[1] in frame and column.startswith("law_"):
            ends = frame[interval[1:]].itertuples(index=False)
            shown[heading(column)] = [with_interval(low, low, high, "{1} to {2}") for low, high in ends]
        elif interval[1] in frame:
            shown[heading(column)] = [with_interval(*row) for row in frame[interval].itertuples(index=False)]
        elif "p" in column.split("_"):
            shown[heading(column)] = [p_value(value) for value in frame[column]]
        elif pd.api.types.is_numeric_dtype(frame[column]):
            shown[heading(column)] = [number(value) for value in frame[column]]
        else:
            shown[heading(column)] = frame[column].astype(str)
    return pd.DataFrame(shown)


def heading(column: str) -> str:
    """A column's name in words: trie_kl_nats becomes trie KL (nats)."""
    return " ".join(ACRONYMS.get(word, word) for word in column.split("_"))


def number(value: float, decimals: int | None = None) -> str:
    """A number with so many decimals, by default three significant digits, an exponent below 1e-6; a dash for NaN."""
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else str(value)
    if decimals is None:
        if float(value).is_integer():
            return f"{value:,.0f}"
        if abs(value) < 1e-6:
            return f"{value:.1e}"
        decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:z,.{decimals}f}"  # z: what rounds to 0 has no sign


def p_value(value: float) -> str:
    """A p-value in words of at most four decimals; never 0, which no test gives."""
    return f"<{LEAST_P}" if value < LEAST_P else number(round(value, 4))


def with_interval(value: float, low: float, high: float, form: str = "{} [{}, {}]") -> str:
    """`value [low, high]`, or these in another form, all rounded to two digits of the interval's width."""
    width = high - low
    if not math.isfinite(width):
        return number(value)
    wide = width > 1e-6 * max(abs(low), abs(high))  # else it is rounding
    decimals = min(max(0, 1 - math.floor(math.log10(width))), 8) if wide else None
    return form.format(*(number(each, decimals) for each in (value, low, high)))


def _markdown(shown: pd.DataFrame) -> str:
    rows = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)
