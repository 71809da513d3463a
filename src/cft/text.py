"""Thinking blocks in a model's output, removed in the same way for every benchmark."""

import re

_CLOSED = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_UNFINISHED = re.compile(r"<think>.*", re.DOTALL | re.IGNORECASE)
_CLOSING = re.compile("</think>", re.IGNORECASE)
_TAG = re.compile(r"</?think>", re.IGNORECASE)


def has_thinking(text: str) -> bool:
    """Whether an opening or closing thinking tag stands in `text`."""
    return _TAG.search(text) is not None


def strip_thinking(text: str) -> str:
    """The answer in a model's output: thinking blocks and surrounding white space removed.

    An unfinished block runs to the end, so nothing is left of a text that never answers. A closing tag without an
    opening one ends a block that the chat template opened in the prompt: what stands before it is thinking too.
    Source: golden/open_ended.jsonl and golden/mcq.jsonl.
    """
    # Up to the last closing tag every opening one is closed; beyond it each would search the whole rest in vain.
    end = max((tag.end() for tag in _CLOSING.finditer(text)), default=0)
    without = _UNFINISHED.sub("", _CLOSED.sub("", text[:end]) + text[end:])
    return _TAG.split(without)[-1].strip()
