"""The grammar of a number as an answer: what the parser accepts, and what the beginning of a text can still become.

An answer is one decimal number, white space around it, and nothing else. An automaton reads it character by character
and keeps a state, which is named by a text that leads there: "0." is a number with a point, "0e-" an exponent without
digits. The parser and the bounds on a model's law (bounds.py) use the same automaton.

A thinking block is not followed: once one is opened or closed, the text may become any number or none. One thing is
left out: a text that is no number is DEAD, although a closing tag after it would begin the answer anew.
"""

import codecs
import math
import re
import sys
from collections.abc import Iterable
from decimal import ROUND_CEILING, Context, Decimal
from functools import cache, lru_cache
from typing import Any

import numpy as np

from cft import CftError
from cft.text import strip_thinking

DEAD, THINKING = "x", "<think>"
COMPLETE = frozenset({"0", "0.", "0e0", "0 "})
_NEXT = {
    "": {" ": "", "-": "-", "0": "0", ".": "."},
    "-": {"0": "0", ".": "."},
    ".": {"0": "0."},
    "0": {"0": "0", ".": "0.", "e": "0e", " ": "0 "},
    "0.": {"0": "0.", "e": "0e", " ": "0 "},
    "0e": {"-": "0e-", "0": "0e0"},
    "0e-": {"0": "0e0"},
    "0e0": {"0": "0e0", " ": "0 "},
    "0 ": {" ": "0 "},
}
_TAGS = ("<think>", "</think>")
_STATES = [*_NEXT, *(tag[:length] for tag in _TAGS for length in range(1, len(tag)))]
_UP = Context(rounding=ROUND_CEILING)
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Place = tuple[str, bytes]  # a state, and the first bytes of a character that is not finished


@cache
def _symbol(character: str) -> str:
    """The character of _NEXT that stands for this one; digits and white space of any script count."""
    if character.isdecimal():
        return "0"
    if character.isspace():
        return " "
    return {"+": "-", "E": "e"}.get(character, character)


def step(state: str, character: str) -> str:
    """The state after one more character; DEAD and THINKING stay."""
    if state in (DEAD, THINKING):
        return state
    if state in _NEXT:
        return "<" if character == "<" else _NEXT[state].get(_symbol(character), DEAD)
    for tag in _TAGS:
        # As text.py reads tags: to a regular expression without case, k is also the Kelvin sign.
        if tag.startswith(state) and re.fullmatch(tag[len(state)], character, re.IGNORECASE):
            longer = tag[: len(state) + 1]
            return THINKING if longer == tag else longer
    return DEAD


def state_of(text: str, state: str = "") -> str:
    """The state after `text`: in COMPLETE, it is a number as it stands; DEAD, it is none and cannot become one."""
    for character in text:
        state = step(state, character)
        if state == DEAD:
            break
    return state


def read_number(text: str, support: tuple[float, float], discrete: bool) -> tuple[float, str | None]:
    """The number that a text states and its error code, None when it is a valid draw.

    support    the least and the greatest value of the target, in its units
    Returns NaN with `empty` or `malformed` when the text is not a number.
    """
    answer = strip_thinking(text)
    if state_of(answer) not in COMPLETE:
        return math.nan, "malformed" if answer else "empty"
    value = float(answer)
    lower, upper = support
    # SciPy computes some bounds (loc + scale): a draw on the bound is inside whatever the rounding.
    if not math.isfinite(value):
        return value, "non_finite"
    if value < lower and not math.isclose(value, lower, rel_tol=1e-12, abs_tol=1e-12):
        return value, "below_support"
    if value > upper and not math.isclose(value, upper, rel_tol=1e-12, abs_tol=1e-12):
        return value, "above_support"
    if discrete and abs(value - round(value)) > 1e-9:
        return value, "non_integer"
    return value, None


def valid_values(texts: Iterable[str], frozen: Any, discrete: bool) -> np.ndarray:
    """[valid] the values of the valid answers among `texts` to a SciPy distribution, increasing."""
    support = frozen.support()
    read = (read_number(text, support, discrete) for text in texts)
    return np.sort([value for value, error in read if error is None])


def interval(text: str) -> tuple[float, float]:
    """The closed interval of the values, as floats, of all numbers without an exponent that begin with `text`.

    `text` has a digit, and its state is "0" or "0.". Infinite where more digits of the integer part may follow.
    """
    number = text.strip()
    whole, point, fraction = number.lstrip("+-").partition(".")
    low = Decimal(f"0{whole}{point}{fraction}")
    # The supremum, 3.15 for 3.14; rounding to a float keeps the order, so it bounds the floats too.
    high = float(_UP.add(low, Decimal(1).scaleb(-len(fraction)))) if point else math.inf
    return (-high, -float(low)) if number[0] == "-" else (float(low), high)


class TokenGrammar:
    """What each token of a vocabulary does to the beginning of an answer.

    A token is a few bytes, and may end inside a character. Whatever is not in `moves` leads to DEAD.

    tokens    [n] the tokens, of all of them, that keep some beginning of a number alive
    pieces    [n] their bytes; None where they cannot be told
    """

    def __init__(self, tokenizer: Any, size: int):
        pieces = token_bytes(tokenizer, size)
        kept = [token for token, piece in enumerate(pieces) if _may_live(piece)]
        self.tokens = np.array(kept, dtype=np.int64)
        self.pieces = [pieces[token] for token in kept]
        self._moves: dict[Place, tuple[np.ndarray, list[Place]]] = {}

    def moves(self, place: Place) -> tuple[np.ndarray, list[Place]]:
        """Which of `tokens` keep a beginning alive that stands at `place` (indices), and where each leads."""
        if place not in self._moves:
            places = [read_bytes(place, piece) for piece in self.pieces]
            alive = [index for index, (state, _) in enumerate(places) if state != DEAD]
            self._moves[place] = np.array(alive, dtype=np.int64), [places[index] for index in alive]
        return self._moves[place]


@lru_cache(maxsize=4)
def token_grammar(tokenizer: Any, size: int) -> TokenGrammar:
    """The grammar of a tokenizer's tokens, made once; `size` is the number of the model's logits."""
    return TokenGrammar(tokenizer, size)


def read_bytes(place: Place, piece: bytes | None) -> Place:
    """The place after a token's bytes; THINKING, which may become anything, where they cannot be told."""
    state, pending = place
    if piece is None or state == THINKING:
        return THINKING, b""
    text, pending = _decode(pending + piece)
    state = state_of(text, state)
    if state == THINKING:
        return THINKING, b""
    return (state, pending) if state != DEAD and _may_finish(pending) else (DEAD, b"")


def _decode(encoded: bytes) -> tuple[str, bytes]:
    """The text of some bytes, as a tokenizer shows it, and what is left of a character that is not finished."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(encoded), decoder.getstate()[0]


def _may_finish(pending: bytes) -> bool:
    """Whether the first bytes of a character, or none, may become one that does not spoil a number."""
    return not pending or pending in _unfinished_characters()


@cache
def _unfinished_characters() -> frozenset[bytes]:
    """The first bytes of every character of several bytes that can stand in a number, around it, or in a tag."""
    found = set()
    for character in map(chr, range(128, sys.maxunicode + 1)):
        if character.isdecimal() or character.isspace() or character in "İıK":
            encoded = character.encode()
            found |= {encoded[:length] for length in range(1, len(encoded))}
    return frozenset(found)


@lru_cache(maxsize=65536)  # most tokens are ruled out by their first character
def _lives_after_some(text: str) -> bool:
    return any(state_of(text, state) != DEAD for state in _STATES)


def _may_live(piece: bytes | None) -> bool:
    """Whether a token keeps some beginning alive; one that begins inside a character may finish a pending one."""
    if not piece or piece[0] & 0xC0 == 0x80:
        return True
    text, pending = _decode(piece)
    return _may_finish(pending) and _lives_after_some(text[:1]) and _lives_after_some(text)


def token_bytes(tokenizer: Any, size: int) -> list[bytes | None]:
    """The bytes that each of the tokens 0 … size - 1 adds to a text; None where the tokenizer does not tell them.

    Raises CftError when the tokenizer tidies the text that it decodes: then no token has bytes of its own.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    anchor = tokenizer("0", add_special_tokens=False).input_ids[-1:]
    shown = tokenizer.decode(anchor)
    # After another token, because some tokenizers drop the blank of a text's first one.
    texts = tokenizer.batch_decode([[*anchor, token] for token in range(size)])
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    found: list[bytes | None] = []
    for token, text in enumerate(texts):
        piece = text[len(shown) :]
        found.append(piece.encode() if "\ufffd" not in piece else _spelled(tokenizer, token, byte_of))
    tokens = tokenizer("0 .", add_special_tokens=False).input_ids
    decoded, joined = tokenizer.decode(tokens).strip(), b"".join(found[token] or b"" for token in tokens).decode()
    if decoded != joined.strip():
        raise CftError(f"the tokenizer tidies {joined!r} into {decoded!r}: its texts cannot be read token by token")
    return found


def _spelled(tokenizer: Any, token: int, byte_of: dict[str, int]) -> bytes | None:
    """The bytes of a token that ends inside a character, from its spelling: <0xE2>, or GPT-2's alphabet of bytes."""
    spelling = tokenizer.convert_ids_to_tokens(token)
    hexadecimal = _BYTE.fullmatch(spelling)
    if hexadecimal:
        return bytes.fromhex(hexadecimal[1])
    return bytes(byte_of[character] for character in spelling) if set(spelling) <= byte_of.keys() else None
