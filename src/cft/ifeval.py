"""Whether texts obey the instructions of IFEval (arXiv 2311.07911), by the checks that come with lm-eval."""

import contextlib
import io
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import langdetect
import nltk

from cft import CftError
from cft.text import strip_thinking

SENTENCES = "tokenizers/punkt_tab"  # NLTK's data for cutting a text into sentences and words
NEED_SENTENCES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


def check_data(instructions: Iterable[str]) -> None:
    """Raise CftError when one of these instructions needs data of NLTK that is not on this machine."""
    if set(NEED_SENTENCES).isdisjoint(instructions):
        return
    try:
        nltk.data.find(SENTENCES)
    except LookupError:
        raise CftError(
            "IFEval needs NLTK's punkt_tab: run `python -m nltk.downloader punkt_tab` on a machine with a network, and "
            "name its folder by NLTK_DATA; or set tinybenchmarks.extended to false"
        )


@lru_cache(maxsize=1)
def _checks() -> Any:
    """lm-eval's checks. To import them would download NLTK's data, which most of them do without."""
    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it downloaded them
            from lm_eval.tasks.ifeval import utils
    finally:
        nltk.download = download
    langdetect.DetectorFactory.seed = 0  # without it, the language of a short text is a matter of chance
    return utils


def obeyed(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """What lm-eval records of a text: whether all instructions of `doc` are obeyed, strictly and loosely.

    Loosely means also without the first line, the last line or the asterisks. Thinking is removed first.
    """
    checks, text = _checks(), strip_thinking(results[0])
    kwargs = json.loads(doc["kwargs"])
    given = checks.InputExample(doc["key"], doc["instruction_id_list"], doc["prompt"], kwargs)
    strict = checks.test_instruction_following_strict(given, text).follow_all_instructions
    loose = checks.test_instruction_following_loose(given, text).follow_all_instructions
    return {"prompt_strict": float(strict), "prompt_loose": float(loose)}
