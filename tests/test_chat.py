"""Prompts, terminators and value tokens."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cft import CftError, chat
from cft.model_settings import ChatSettings
from cft.models import load_tokenizer
from cft.target import make_target

CHAT = ChatSettings()


@pytest.fixture
def tokenizer(tiny):
    return load_tokenizer(tiny("llama"))


def test_the_prompt_is_the_template_with_its_generation_prompt(tokenizer):
    tokens = chat.prompt_tokens(tokenizer, "hi", CHAT)
    assert tokenizer.decode(tokens) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    opened = chat.prompt_tokens(tokenizer, "hi", ChatSettings(answer_prefix="final: "))
    assert tokenizer.decode(opened) == tokenizer.decode(tokens) + "final: "
    tokenizer.chat_template = "{{ mood }}{{ messages[0]['content'] }}"
    assert tokenizer.decode(chat.prompt_tokens(tokenizer, "hi", ChatSettings(template_options={"mood": "!"}))) == "!hi"


def test_a_template_that_writes_the_date_gets_the_one_of_the_settings(tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"
    assert chat.prompt_text(tokenizer, "hi", CHAT) == "26 Jul 2024: hi"
    assert chat.prompt_text(tokenizer, "hi", ChatSettings(today="2025-01-02")) == "02 Jan 2025: hi"


GEMMA = (
    "{% if messages[0].role == 'system' %}{% set before = messages[0].content.strip() + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set before = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ m.role }}\n{{ before if loop.first else '' }}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + GEMMA
FORGETS = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


def test_an_instruction_is_a_message_before_the_question(tokenizer):
    def prompt(chat_settings, instruction=" Be random.\n"):
        return tokenizer.decode(chat.prompt_tokens(tokenizer, "hi", chat_settings, instruction))

    plain = prompt(CHAT, None)
    assert prompt(CHAT) == "<|im_start|>system\n Be random.\n<|im_end|>\n" + plain
    developer = ChatSettings(instruction_role="developer", answer_prefix="final: ")
    assert prompt(developer) == "<|im_start|>developer\n Be random.\n<|im_end|>\n" + plain + "final: "
    tokenizer.chat_template = GEMMA
    assert prompt(CHAT) == "<|im_start|>user\nBe random.\n\nhi<|im_end|>\n"


@pytest.mark.parametrize(("template", "fault"), [(REFUSES, "refuses .*not supported"), (FORGETS, "leaves out")])
def test_a_template_without_a_place_for_instructions_is_named(tokenizer, template, fault):
    tokenizer.chat_template = template
    assert chat.prompt_tokens(tokenizer, "hi", CHAT)
    with pytest.raises(CftError, match=fault):
        chat.prompt_tokens(tokenizer, "hi", CHAT, "Be random.")


@pytest.mark.parametrize(
    ("template", "says"),
    [(None, "has no chat template"), ("{% if %}", "cannot be filled in .*Expected"), ("{{ a.b }}", "'a' is undefined")],
)
def test_a_template_that_is_missing_or_damaged_is_told(tokenizer, template, says):
    tokenizer.chat_template = template
    for use in (lambda: chat.prompt_tokens(tokenizer, "hi", CHAT), lambda: chat.terminator(tokenizer, CHAT)):
        with pytest.raises(CftError, match=says):
            use()


def test_a_tokenizer_without_an_eos_token(tokenizer):
    tokenizer.eos_token = None
    end = chat.terminator(tokenizer, CHAT)
    assert chat.stops(tokenizer, CHAT, []) == [end]
    assert chat.stops(tokenizer, CHAT, [7, end, 9]) == [end, 7, 9]
    with pytest.raises(CftError, match="names no eos token"):
        chat.terminator(tokenizer, ChatSettings(end="eos"))


def test_the_terminator_is_found_from_the_template_and_not_from_the_tokenizer(tokenizer):
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer.convert_ids_to_tokens(chat.terminator(tokenizer, CHAT)) == "<|im_end|>"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(CftError, match="not with a special token"):
        chat.terminator(tokenizer, CHAT)


def test_the_terminator_is_the_one_that_the_configuration_names(tokenizer):
    tokenizer.eos_token = "<|endoftext|>"
    assert chat.terminator(tokenizer, ChatSettings(terminator="<|im_end|>")) == 2
    with pytest.raises(CftError, match=r"end with <\|im_end\|> \(chat template\), but chat.terminator is <eos>"):
        chat.terminator(tokenizer, ChatSettings(terminator="<eos>"))
    # The paper's way: whatever the tokenizer calls its end of text.
    assert chat.terminator(tokenizer, ChatSettings(end="eos")) == tokenizer.eos_token_id == 0
    assert chat.terminator(tokenizer, ChatSettings(end="eos", terminator="<|endoftext|>")) == 0
    with pytest.raises(CftError, match=r"\(eos token\)"):
        chat.terminator(tokenizer, ChatSettings(end="eos", terminator="<|im_end|>"))


def slow(tokenizer, values):
    rows = tokenizer(values, add_special_tokens=False).input_ids
    return np.concatenate(rows), np.array([len(row) for row in rows])


def merging_tokenizer(*merged):
    """Byte-pair encoding in which some neighbours merge."""
    vocabulary = {c: i for i, c in enumerate("0123456789.-")}
    pairs = [(word[: len(word) // 2], word[len(word) // 2 :]) for word in merged]
    for word in merged:
        vocabulary[word] = len(vocabulary)
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    return PreTrainedTokenizerFast(tokenizer_object=model)


@pytest.mark.parametrize("merged", [(), ("12",), ("12", "34", "1234"), ("0.",), ("--",)])
def test_the_fast_way_gives_the_tokenizers_tokens(families, merged):
    tokenizer = merging_tokenizer(*merged)
    values = make_target(families, "gaussian", {"mu": 12.0, "sigma": 9.0}, 2, 1001).values
    for found, wanted in zip(chat.tokenize_values(tokenizer, values), slow(tokenizer, values), strict=True):
        np.testing.assert_array_equal(found, wanted)
    fast = chat._by_character(tokenizer, values) is not None
    assert fast == (not {"12", "0."} & set(merged))  # "--" never occurs in a number, so it does not matter


def test_a_tokenizer_that_marks_the_start_is_not_read_by_character():
    vocabulary = {c: i for i, c in enumerate(["▁5", "5", "3", "▁", "▁3"])}
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "5"), ("▁", "3")]))
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model)
    assert chat._by_character(tokenizer, ["53", "35"]) is None
    assert chat.tokenize_values(tokenizer, ["53", "35"])[0].tolist() == [0, 2, 4, 1]


def test_a_boundary_that_merges_is_refused(tokenizer):
    chat.check_boundary(tokenizer, "hi", "-1.5", CHAT)
    tokenizer.add_tokens(["\n-"])
    with pytest.raises(CftError, match=r"merges the value '-1\.5' with the end of the prompt"):
        chat.check_boundary(tokenizer, "hi", "-1.5", CHAT)
