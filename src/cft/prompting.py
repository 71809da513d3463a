"""Methods that change what a model is told and leave the model as it is: what to tell it, what counts as its answer.

String Seed of Thought (arXiv 2510.21150): the model writes a random string, reasons from it and answers between tags.
Verbalised sampling (arXiv 2510.01171): the model lists answers with probabilities, and one of them is drawn.

Which rule finds the answer is decided by the text alone. A text with a channel marker is gpt-oss's: its answer is what
stands in the final channel, and without one there is none. Any other text is read by its tags, without thinking blocks.
Draws must therefore be decoded with special tokens shown, as generate.sample does.
"""

import json
import math
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cft import CftError
from cft.assets import Assets
from cft.method_settings import INSTRUCTION_ROLES, SSOT_TASKS, Method, PromptingMethod, SsotMethod, VerbalisedMethod
from cft.provenance import replacing, write_run
from cft.settings import check
from cft.streams import stream
from cft.text import strip_thinking

_CHANNEL = "<|channel|>"
_FINAL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>(.*?)(?:<\|return\|>|<\|end\|>|\Z)", re.DOTALL)
_OPEN, _CLOSE = (re.compile(tag, re.IGNORECASE) for tag in ("<answer>", "</answer>"))
_ASIDE = re.compile(r"<(random_string|thinking)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-z_]+>", re.IGNORECASE)
# An answer and its probability, on one line.
_PAIR = re.compile(
    r"<answer>(.*?)</answer>[ \t]*<probability> *([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?) *(%?) *</probability>",
    re.IGNORECASE,
)


def instructions(method: SsotMethod | VerbalisedMethod, assets: Assets) -> dict[str, dict[str, str]]:
    """What each benchmark's prompts are preceded by: {benchmark: {role: text}}, role as in ChatSettings.

    Raises CftError when the paper's texts are asked for and cannot be fetched.
    """
    return {name: {role: _text(method, name, role, assets) for role in INSTRUCTION_ROLES} for name in method.benchmarks}


def write_instructions(method: SsotMethod | VerbalisedMethod, assets: Assets, out: Path) -> None:
    """Write a JSON file with the method's settings and its instructions, and a run.json."""
    record = {"method": method.model_dump(), "texts": instructions(method, assets)}
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_run(out)


def read_method(path: Path) -> SsotMethod | VerbalisedMethod:
    """The method in a file of `write_instructions`; raises CftError when it cannot be read."""
    return _read(path)[0]


def _read(path: Path) -> tuple[SsotMethod | VerbalisedMethod, dict[str, dict[str, str]]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return check(PromptingMethod, record["method"], str(path)), record["texts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CftError(f"{path}: holds no instructions ({error or type(error).__name__}); make it again")


def asked(path: Path, benchmark: str, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a method of `write_instructions` changes sampling: settings that it replaces, and arguments of generate.plan.

    The instruction is the one for the role that the prepared model's settings name.
    Raises CftError when the method does not run on the benchmark.
    """
    from cft.models import settings_of  # not at the top: scoring and writing instructions do without torch

    method, texts = _read(path)
    if benchmark not in texts:
        raise CftError(f"{path}: has instructions for {', '.join(texts)}, none for {benchmark}")
    role = settings_of(model).chat.instruction_role
    replaced = {"max_new_tokens": method.max_new_tokens}
    return replaced, {"instruction": texts[benchmark][role], "thinking": method.kind == "ssot"}


def _text(method: SsotMethod | VerbalisedMethod, benchmark: str, role: str, assets: Assets) -> str:
    if isinstance(method, VerbalisedMethod):
        return _own("verbalised").format(values=method.values)
    name = f"ssot_{SSOT_TASKS[benchmark]}_{role}"
    return assets.text(name) if method.instructions == "paper" else _own(name)


def _own(name: str) -> str:
    return files("cft").joinpath("instructions", f"{name}.txt").read_text(encoding="utf-8").strip()


def answers(method: Method, draws: pd.DataFrame) -> pd.DataFrame:
    """The draws with `text` replaced by the answer that counts, "" where there is none: it scores as empty.

    Unchanged for methods that ask as the benchmark does. Verbalised sampling needs the columns seed, prompt_id and
    draw, which name the stream that one answer is drawn by: the same on any machine. Raises CftError without them.
    """
    if isinstance(method, SsotMethod):
        return draws.assign(text=[extract(text)[0] for text in draws["text"]])
    if isinstance(method, VerbalisedMethod):
        return draws.assign(text=_choose_all(draws, method.values))
    return draws


def answered(draws: pd.DataFrame, instructions: Iterable[Path]) -> pd.DataFrame:
    """Draws of any methods, column method, with `answers` for those of METHOD.json among the files of instructions."""
    found: Any = draws
    for path in instructions:
        own = found["method"] == path.stem
        if own.any():
            found = pd.concat([found[~own], answers(read_method(path), found[own])]).sort_index()
    return found


def extract(text: str, strict: bool = True) -> tuple[str, bool]:
    """The answer in a text of String Seed of Thought, and whether the format was not kept.

    The first closed answer tag counts. If there is none, it is all that gpt-oss says in its final channel. Else strict
    finds nothing; lenient takes what follows an unclosed tag, else the last line outside the other tags. Source:
    golden/ssot.jsonl.
    """
    channels, text = _CHANNEL in text, _spoken(text)
    opened = _OPEN.search(text)
    # Two searches, so that a text that repeats one tag to its end costs linear time.
    closed = opened and _CLOSE.search(text, opened.end())
    if opened and closed:
        return text[opened.end() : closed.start()].strip(), False
    if channels:  # whose instructions ask for the answer alone
        return text, not text
    if strict:
        return "", True
    if opened:
        return text[opened.end() :].strip(), True
    lines = [line.strip() for line in _TAG.sub("", _ASIDE.sub("", text)).splitlines()]
    return next((line for line in reversed(lines) if line), ""), True


def _spoken(text: str) -> str:
    """What the model says to the user: gpt-oss's final channel, or the text without thinking blocks."""
    if _CHANNEL not in text:
        return strip_thinking(text)
    final = _FINAL.search(text)
    return final[1].strip() if final else ""


def stated(text: str, values: int) -> list[tuple[str, float]]:
    """The first `values` answers that a text of verbalised sampling lists, with probabilities renormalised to sum 1.

    A pair is <answer>…</answer> <probability>…</probability> on one line, whatever stands around it. The probability is
    a decimal number, or a percentage with its sign. Lines of another form are skipped. Nothing is stated by a text
    without a pair, with a negative probability, or with a sum that is not positive and finite.
    """
    found = [(answer.strip(), float(number) / (100 if percent else 1))
             for answer, number, percent in _PAIR.findall(_spoken(text))[:values]]  # fmt: skip
    total = sum(probability for _, probability in found)
    if not 0 < total < math.inf or any(probability < 0 for _, probability in found):
        return []
    return [(answer, probability / total) for answer, probability in found]


def _choose_all(draws: pd.DataFrame, values: int) -> list[str]:
    missing = {"seed", "prompt_id", "draw"} - set(draws.columns)
    if missing:
        raise CftError(
            f"draws of verbalised sampling lack the column {', '.join(sorted(missing))}: sample with `cft sample`"
        )
    rows = zip(draws["seed"], draws["prompt_id"], draws["draw"], draws["text"], strict=True)
    return [_choose(stated(text, values), int(seed), prompt_id, int(draw)) for seed, prompt_id, draw, text in rows]


def _choose(listed: list[tuple[str, float]], seed: int, prompt_id: str, draw: int) -> str:
    """One of the answers by inversion of their law; "" where none is listed."""
    possible = [(answer, probability) for answer, probability in listed if probability > 0]
    if not possible:
        return ""
    cumulative = np.cumsum([probability for _, probability in possible])
    place = stream(seed, "verbalised", prompt_id, draw).random() * cumulative[-1]
    return possible[min(int(np.searchsorted(cumulative, place, "right")), len(possible) - 1)][0]
