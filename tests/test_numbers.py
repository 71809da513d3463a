"""The grammar of numbers against a regular expression, float and a tokenizer's own decoding."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cft import CftError
from cft.numbers import (
    COMPLETE,
    DEAD,
    THINKING,
    TokenGrammar,
    interval,
    read_bytes,
    read_number,
    state_of,
    token_bytes,
)
from cft.text import strip_thinking
from cft.tiny import tiny_tokenizer

NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)
START = ("", b"")
numbers = st.from_regex(r"\s?[+-]?(\d{1,4}(\.\d{0,4})?|\.\d{1,4})([eE][+-]?\d{1,3})?\s?", fullmatch=True)
plain = st.from_regex(r"[ \n]?[+-]?([0-9٣]{1,4}(\.[0-9٣]{0,6})?|\.[0-9]{1,4})", fullmatch=True)
nearly = st.text(alphabet="0123٣९+-.eE \n\x85 x<", max_size=9)
tagged = st.lists(
    st.sampled_from(["<think>", "</think>", "<THINK>", "</thinK>", "<thı", "7", " ", "-", "x"]), max_size=6
)


@given(nearly | numbers | st.text(max_size=6))
def test_the_automaton_accepts_what_the_pattern_does(text):
    assert (state_of(text) in COMPLETE) == bool(re.fullmatch(NUMBER, text))


@given(nearly | numbers | tagged.map("".join), st.booleans())
def test_a_text_is_read_as_its_definition_says(text, discrete):
    """Against a regular expression."""
    value, code = read_number(text, (-100.0, 50.0), discrete)
    answer = strip_thinking(text)
    if not NUMBER.fullmatch(answer):
        assert math.isnan(value) and code == ("malformed" if answer else "empty")
    else:
        number = float(answer)
        near = min(abs(number + 100), abs(number - 50)) < 1e-9  # where rounding decides
        whole = math.isfinite(number) and abs(number - round(number)) <= 1e-9
        assert value == number
        assert near or (code is None) == (-100 <= number <= 50 and (whole or not discrete))


@given(plain)
def test_a_number_lies_in_the_interval_of_each_of_its_beginnings(text):
    """The narrower, the more digits there are."""
    widths = []
    for end in range(1, len(text) + 1):
        if state_of(text[:end]) in ("0", "0."):
            low, high = interval(text[:end])
            assert low <= float(text) <= high, text[:end]
            widths.append(high - low)
    assert widths and widths == sorted(widths, reverse=True)
    if "." in text:
        places = len(text.strip()) - text.strip().index(".") - 1
        assert widths[-1] == pytest.approx(10.0**-places, rel=1e-6, abs=1e-11)  # as floats below 10,000 are spaced


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", (0, math.inf)), ("-31", (-math.inf, -31)), (" +7", (7, math.inf)), ("3.", (3, 4)), ("3.14", (3.14, 3.15)),
        ("-3.14", (-3.15, -3.14)), ("\n-.5", (-0.6, -0.5)), ("9.99", (9.99, 10)), ("٣.٥", (3.5, 3.6)),
        ("0." + "9" * 5000, (1, 1)),
    ],
)  # fmt: skip
def test_intervals(text, wanted):
    assert state_of(text) in ("0", "0.")
    assert interval(text) == wanted


@given(nearly.filter(lambda text: "<" not in text), nearly.filter(lambda text: "<" not in text))
def test_what_is_dead_stays_dead(beginning, rest):
    if state_of(beginning) == DEAD:
        assert not NUMBER.fullmatch(beginning + rest)


@given(
    st.sampled_from(["", " ", "-", "5", "5.", "5 "]), st.sampled_from(["<think>", "</THINK>", "<thİnk>", "</thinK>"])
)
def test_a_tag_after_what_may_be_a_number_leaves_everything_open(beginning, tag):
    assert state_of(beginning + tag + "x") == THINKING
    for end in range(1, len(tag)):
        assert state_of(beginning + tag[:end]) not in COMPLETE | {DEAD}
    assert state_of(beginning + tag[:-1] + "x") == DEAD


@given(st.binary(max_size=4) | nearly.map(str.encode))
def test_bytes_one_by_one(encoded):
    place = START
    for byte in encoded:
        place = read_bytes(place, bytes([byte]))
    text = encoded.decode(errors="replace")
    if place[1]:
        assert text.endswith("\ufffd") and state_of(text) == DEAD
    else:
        assert place[0] == state_of(text)


def byte_tokens(text):
    """A text's bytes as GPT-2 spells them."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]


def byte_level():
    """Byte-pair encoding with several digits, a sign or a blank in a token, and half of an Arabic three."""
    words = [*"0123.-+e x", "\n", "12", "123", "-1", " 2", "٣"]
    alphabet = sorted(set("".join(byte_tokens(word) for word in words)))
    merges = [("1", "2"), ("12", "3"), ("-", "1"), ("Ġ", "2")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<end>", "</think>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_fallback():
    """As SentencePiece has it: a blank is ▁, bytes are spelled out, the first blank of a text is dropped."""
    pieces = [
        "<unk>",
        "<end>",
        *"0123.-+ex▁",
        "▁2",
        "12",
        "</think>",
        *(f"<0x{byte:02X}>" for byte in (10, 0xD9, 0xA3)),
    ]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("▁", "2"), ("1", "2")], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("<end>", special=True), AddedToken("</think>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {"byte_level": byte_level(), "byte_fallback": byte_fallback(), "tiny": tiny_tokenizer()}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_tokens_are_read_as_the_tokenizer_decodes_them(name, data):
    tokenizer = TOKENIZERS[name]
    grammar = TokenGrammar(tokenizer, len(tokenizer) + 3)  # some models have more logits than tokens
    likely = st.sampled_from(grammar.tokens.tolist())
    tokens = data.draw(st.lists(likely | st.integers(0, len(tokenizer) - 1), max_size=6))
    place, followed = START, True
    for token in tokens:
        alive, places = grammar.moves(place)
        index = [i for i, move in enumerate(alive) if grammar.tokens[move] == token]
        followed = bool(index)
        if not followed:
            break
        place = places[index[0]]
    text = str(tokenizer.decode(tokens))
    if not followed:
        assert "</think>" in text or not NUMBER.fullmatch(text)
    elif place[0] == THINKING:
        assert "</think>" in text
    elif place[1]:
        assert not NUMBER.fullmatch(text)
    else:
        assert (place[0] in COMPLETE) == bool(NUMBER.fullmatch(text))


def test_tokens_that_cannot_be_in_a_number_are_left_out():
    tokenizer = TOKENIZERS["byte_level"]
    pieces = token_bytes(tokenizer, len(tokenizer) + 2)
    assert pieces[-2:] == [b"", b""]
    assert {b"12", b"123", b"-1", b" 2", b"\xd9", b"\xa3"} <= set(pieces)
    kept = {pieces[token] for token in TokenGrammar(tokenizer, len(tokenizer)).tokens}
    assert {b"x", b"<end>"} == set(pieces[:-2]) - kept


def test_a_tokenizer_that_tidies_its_texts_is_refused():
    pieces = [(piece, -1.0) for piece in ["<unk>", "▁", "0", "."]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
    tidy = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=True)
    with pytest.raises(CftError, match="cannot be read token by token"):
        token_bytes(tidy, len(tidy))
    tidy.clean_up_tokenization_spaces = False
    assert token_bytes(tidy, len(tidy))[1:] == [b" ", b"0", b"."]
