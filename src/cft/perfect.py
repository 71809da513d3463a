"""What answers that follow a distribution exactly score on a target's trie: the floor of the trie KL.

A perfect answer is a number of the distribution, rounded to the decimals of the target's strings. After a beginning,
its next token has the probability of all numbers whose text goes on so, whether the target lists them or not; a
thinned target lists few, so that its own law after the beginning is another.

Tokenizers cut digits one by one, or in groups counted from one end. So all numbers with one sign and as many whole
digits are cut at the same places, which is tried out; and those of them that begin with certain tokens are the ones
whose text begins with the tokens' text, if they are cut so: an interval.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cft.target import between
from cft.trie import Trie

MOST_DIGITS = 16  # of a whole part: more are beyond what a float tells apart
ROUNDING = 1e-9  # nats; where every answer is listed, the sum is not exactly 0
TRIED = 12  # numbers of each form
Form = tuple[bool, int]  # whether there is a minus, and the number of whole digits
Cut = tuple[int, ...]  # characters up to the end of each token


def trie_floor(tokenizer: Any, trie: Trie, values: list[str], frozen: Any) -> float:
    """The trie KL, in nats per token, of answers that follow a SciPy distribution exactly.

    values    of the target, as `trie` was built from them; all have the same number of decimals
    NaN where the tokenizer cuts any numbers of the same form in different places, so that of all its targets or none.
    """
    decimals = len(values[0].partition(".")[2])
    forms = _forms(tokenizer, decimals)
    cuts = _cuts(tokenizer, values)
    if forms is None or any(forms[_form(value)] != cut for value, cut in zip(values, cuts, strict=True)):
        return float("nan")
    levels, steps, above = list(trie.levels()), [], np.ones(1)
    for depth, level in enumerate(levels):
        spans, node = [], []
        whole = level.token == trie.terminator
        for index, (value, ended) in enumerate(zip(trie.order[level.start].tolist(), whole.tolist(), strict=True)):
            cut = cuts[value] if ended else cuts[value][: depth + 1]
            text: str = values[value]
            found = list(_spans(text[: cut[-1]], cut, ended, forms, decimals))
            spans += found
            node += [index] * len(found)
        mass = np.bincount(node, _masses(np.array(spans, float), frozen, decimals), len(level.token))
        mass = np.maximum(mass, np.finfo(float).tiny)  # what is impossible far out in a tail weighs nothing
        steps.append(np.log(mass / above[level.parent]))
        above = mass
    loss = trie.soft_loss(levels, steps)
    return loss if loss > ROUNDING else 0.0


def _cuts(tokenizer: Any, texts: Sequence[str]) -> list[Cut]:
    offsets = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    return [tuple(end for _, end in row) for row in offsets]


def _form(text: str) -> Form:
    whole = text.partition(".")[0]
    return text.startswith("-"), len(whole.lstrip("-"))


def _forms(tokenizer: Any, decimals: int) -> dict[Form, Cut] | None:
    """Where numbers of each form are cut; None where those of one are not all alike, or a token has no characters."""
    rng = np.random.default_rng(0)
    texts: dict[Form, list[str]] = {}
    for digits in range(1, MOST_DIGITS + 1):
        first = rng.integers(1 if digits > 1 else 0, 10, (TRIED, 1))
        rows = np.hstack([first, rng.integers(0, 10, (TRIED, digits - 1 + decimals))]).astype(str).tolist()
        whole = ["".join(row[:digits]) + ("." if decimals else "") + "".join(row[digits:]) for row in rows]
        texts[False, digits], texts[True, digits] = whole, [f"-{text}" for text in whole]
    found = iter(_cuts(tokenizer, [text for group in texts.values() for text in group]))
    forms: dict[Form, Cut] = {}
    for form, group in texts.items():
        cuts = {next(found) for _ in group}
        cut = cuts.pop()
        if cuts or list(cut) != sorted(set(cut)) or cut[0] == 0:
            return None
        forms[form] = cut
    return forms


def _spans(text: str, cut: Cut, whole: bool, forms: dict[Form, Cut], decimals: int) -> Iterator[tuple[bool, int, int]]:
    """Which numbers begin with `text`, cut so: minus or not, and the first and last absolute value in ticks.

    whole    the text is all of the number
    """
    minus, known = _form(text)
    digits, point, fraction = text.removeprefix("-").partition(".")
    longest = known if point or whole or digits == "0" else MOST_DIGITS
    for count in range(max(known, 1), longest + 1):
        form = forms[minus, count]
        if form[: len(cut)] != cut:
            continue
        left = count - known + decimals - len(fraction)
        if digits:
            low = int(digits + fraction) * 10**left
            high = low + 10**left - 1
        else:
            low, high = 10 ** (left - 1) if count > 1 else 0, 10**left - 1
        yield minus, max(low, int(minus)), high


def _masses(spans: np.ndarray, frozen: Any, decimals: int) -> np.ndarray:
    minus, low, high = spans.T
    near, far = (low - 0.5) / 10**decimals, (high + 0.5) / 10**decimals
    with np.errstate(all="ignore"):  # far out in a tail, where nothing is, some of SciPy's functions are NaN
        found = between(frozen, np.where(minus, -far, near), np.where(minus, -near, far))
    return np.nan_to_num(found)
