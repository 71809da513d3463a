"""All that differs by model family between a question and the tokens a model sees and ends with.

The prompt's tokens come from the model's own chat template with the generation prompt. The terminator is the token
that this template writes after an answer, found from the template itself: in some families it is not
the tokenizer's eos token, which the released code trains on.
"""

from datetime import date
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from jinja2 import TemplateError

from cft import CftError
from cft.model_settings import ChatSettings
from cft.trie import Ragged

MARKER = "0"


def prompt_tokens(tokenizer: Any, question: str, chat: ChatSettings, instruction: str | None = None) -> list[int]:
    """The tokens before the answer's first token.

    instruction    what a message of chat.instruction_role says before the question; Gemma 3's template puts it into
                   the user's turn, gpt-oss's into a section of the developer
    Raises CftError when there is no chat template, or when it refuses such a message or leaves it out.
    """
    return tokenizer(prompt_text(tokenizer, question, chat, instruction), add_special_tokens=False).input_ids


def terminator(tokenizer: Any, chat: ChatSettings) -> int:
    """The token that ends an answer: the one of this model's chat template, or the tokenizer's eos token (chat.end).

    Raises CftError when the template writes no special token after an answer, and when the token is not the one that
    the configuration names (chat.terminator).
    """
    found = _closing_token(tokenizer, chat) if chat.end == "template" else tokenizer.eos_token_id
    if found is None:
        raise CftError("chat.end is eos, but the model's tokenizer names no eos token: set it to template")
    name = tokenizer.convert_ids_to_tokens(found)
    if chat.terminator is not None and name != chat.terminator:
        raise CftError(
            f"answers end with {name} ({'chat template' if chat.end == 'template' else 'eos token'}), but "
            f"chat.terminator is {chat.terminator}: another revision of the model, or the wrong entry"
        )
    return found


def stops(tokenizer: Any, chat: ChatSettings, others: list[int]) -> list[int]:
    """The tokens that end an answer in sampling, each once: the terminator, the tokenizer's eos token, and `others`.

    A model may end with any of those that its publisher names (models.published_ends), whatever its chat template says:
    Llama 3's with <|end_of_text|>. Training and the law on a target's trie know the terminator alone, as only that is
    taught. Raises CftError as `terminator`.
    """
    found = dict.fromkeys([terminator(tokenizer, chat), tokenizer.eos_token_id, *others])
    return [token for token in found if token is not None]


def _closing_token(tokenizer: Any, chat: ChatSettings) -> int:
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": MARKER}]
    whole = _fill_template(tokenizer, messages, chat)
    closing = whole[whole.rindex(MARKER) + len(MARKER) :]
    tokens = tokenizer(closing, add_special_tokens=False).input_ids
    if not tokens or (tokens[0] not in tokenizer.all_special_ids and tokens[0] not in tokenizer.added_tokens_decoder):
        raise CftError(f"the chat template ends an answer with {closing!r}, not with a special token")
    return tokens[0]


def tokenize_values(tokenizer: Any, values: list[str]) -> Ragged:
    """Each value's tokens alone, without special tokens: all tokens in one row, and the number of each value.

    Where every character is a token of its own, they are looked up, which is several times faster than the tokenizer.
    """
    found = _by_character(tokenizer, values)
    if found is not None:
        return found
    rows = tokenizer(values, add_special_tokens=False, return_attention_mask=False).input_ids
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum())), lengths


def _by_character(tokenizer: Any, values: list[str]) -> Ragged | None:
    """The values' tokens where each character is one; None where any two neighbours may merge.

    Byte-pair encoding builds a longer token from two neighbours: if no two neighbours merge, nothing does.
    """
    model = tokenizer.backend_tokenizer.model
    text = "".join(values)
    if type(model).__name__ != "BPE" or model.ignore_merges or not text.isascii():
        return None
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    codes = np.frombuffer(text.encode("ascii"), np.uint8)
    inner = np.ones(len(codes), bool)
    inner[np.cumsum(lengths)[:-1]] = False  # a value's first character has no neighbour before it
    pairs = np.bincount(codes[:-1][inner[1:]] * np.int64(128) + codes[1:][inner[1:]], minlength=128**2)
    table = np.zeros(128, np.int64)
    for code in np.flatnonzero(np.bincount(codes, minlength=128)).tolist():
        alone = _encode(tokenizer, chr(code))
        if len(alone) != 1:
            return None
        table[code] = alone[0]
    for pair in np.flatnonzero(pairs).tolist():
        first, second = divmod(pair, 128)
        if _encode(tokenizer, chr(first) + chr(second)) != (table[first], table[second]):
            return None
    return table[codes], lengths


@lru_cache(maxsize=4096)
def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def check_boundary(tokenizer: Any, question: str, value: str, chat: ChatSettings) -> None:
    """Raise CftError when the tokenizer merges a value's first characters with the end of the prompt."""
    text = prompt_text(tokenizer, question, chat)
    together = tokenizer(text + value, add_special_tokens=False).input_ids
    apart = prompt_tokens(tokenizer, question, chat) + tokenize_values(tokenizer, [value])[0].tolist()
    if together != apart:
        raise CftError(
            f"the tokenizer merges the value {value!r} with the end of the prompt {text[-20:]!r}: "
            "its trie would not be the law of the model's answers"
        )


def prompt_text(tokenizer: Any, question: str, chat: ChatSettings, instruction: str | None = None) -> str:
    """The text whose tokens are prompt_tokens()."""
    messages = [{"role": "user", "content": question}]
    if instruction is not None:
        messages.insert(0, {"role": chat.instruction_role, "content": instruction})
    text = _fill_template(tokenizer, messages, chat, add_generation_prompt=True)
    if instruction is not None and instruction.strip() not in text:
        raise CftError(
            f"the chat template leaves out a message of the role {chat.instruction_role}: "
            "set the model's chat.instruction_role, or leave prompting methods out for it"
        )
    return text + chat.answer_prefix


def _fill_template(tokenizer: Any, messages: list[dict[str, str]], chat: ChatSettings, **options: Any) -> str:
    """The text of a conversation; a template that asks for the date gets chat.today."""
    if tokenizer.chat_template is None:
        raise CftError(
            "the model's tokenizer has no chat template: name the instruction-tuned model, or add a template"
        )
    today = date.fromisoformat(chat.today)
    options |= {"tokenize": False, "strftime_now": today.strftime, **chat.template_options}
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateError as error:
        said = str(error).strip()
        if messages[0]["role"] == "user":
            hint = "get the model again, or set its chat.template_options"
            raise CftError(f"the model's chat template cannot be filled in ({said}): {hint}")
        raise CftError(
            f"the chat template refuses a message of the role {chat.instruction_role} ({said}): "
            "leave prompting methods out for this model"
        )
