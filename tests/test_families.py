"""Chat formats, terminators and value tokens of the paper's model families, as config/paper.yaml sets them.

Vocabularies and chat templates are the true ones, but for Gemma's vocabulary (vocabularies.py). What is expected is
written down here from the formats' own descriptions.
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from vocabularies import SOURCES, make_tokenizer, pattern, reference_tokens

from cft import chat
from cft.assets import Assets
from cft.config import Experiment, load
from cft.distributions import DEFAULT_TABLE, registry
from cft.method_settings import SsotMethod
from cft.model_settings import ChatSettings
from cft.prompting import instructions
from cft.target import for_prompt
from cft.trie import build_trie

PROMPTS = registry().select(None, selected=True)
QUESTION = PROMPTS[1].text


@dataclass(frozen=True)
class Family:
    """What is expected of one family.

    models        how its models' names in config/paper.yaml begin
    digits        how many digits a token has at most
    terminator    the token that ends an answer
    bos           the token that begins a prompt, if any
    special       ids of special tokens, as published with the models
    prompt        what stands before an answer; its date is that of the settings
    instructed    the same with an instruction, where the model may think first
    """

    models: str
    digits: int
    terminator: str
    bos: str | None
    special: dict[str, int]
    prompt: str
    instructed: str


LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{instruction}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
QWEN3 = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
GEMMA = "<bos><start_of_turn>user\n{instruction}{question}<end_of_turn>\n<start_of_turn>model\n"
GPT_OSS = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2024-07-26\n\nReasoning: low\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
    "{instruction}<|start|>user<|message|>{question}<|end|><|start|>assistant"
)
DEVELOPER = "<|start|>developer<|message|># Instructions\n\n{instruction}\n\n<|end|>"
FAMILIES = {
    "llama": Family(
        models="llama-3.2-", digits=3, terminator="<|eot_id|>", bos="<|begin_of_text|>",
        special={"<|begin_of_text|>": 128000, "<|start_header_id|>": 128006, "<|end_header_id|>": 128007,
                 "<|eot_id|>": 128009},
        prompt=LLAMA.replace("{instruction}", ""), instructed=LLAMA,
    ),
    "qwen3": Family(
        models="qwen3-", digits=1, terminator="<|im_end|>", bos=None,
        special={"<|im_start|>": 151644, "<|im_end|>": 151645, "<think>": 151667, "</think>": 151668},
        prompt=QWEN3 + "<think>\n\n</think>\n\n", instructed="<|im_start|>system\n{instruction}<|im_end|>\n" + QWEN3,
    ),
    "gemma": Family(
        models="gemma-3-", digits=1, terminator="<end_of_turn>", bos="<bos>",
        special={"<eos>": 1, "<bos>": 2, "<start_of_turn>": 105, "<end_of_turn>": 106},
        prompt=GEMMA.replace("{instruction}", ""), instructed=GEMMA.replace("{instruction}", "{instruction}\n\n"),
    ),
    "gpt-oss": Family(
        models="gpt-oss-", digits=3, terminator="<|return|>", bos=None,
        special={"<|return|>": 200002, "<|channel|>": 200005, "<|start|>": 200006, "<|end|>": 200007,
                 "<|message|>": 200008},
        prompt=GPT_OSS.replace("{instruction}", "") + "<|channel|>final<|message|>",
        instructed=GPT_OSS.replace("{instruction}", DEVELOPER),
    ),
}  # fmt: skip


@cache
def experiment() -> Experiment:
    return load(DEFAULT_TABLE.parent / "paper.yaml")


def models_of(family: str) -> list[str]:
    return [name for name in experiment().models if name.startswith(FAMILIES[family].models)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family) -> Any:
    return make_tokenizer(family)


@pytest.fixture(scope="module")
def settings(family) -> ChatSettings:
    """The family's settings in config/paper.yaml, which are the same for all its models."""
    first, *others = [experiment().models[name].chat for name in models_of(family)]
    assert all(other == first for other in others)
    return first


@pytest.fixture(scope="module")
def targets():
    """The targets of the paper's 42 evaluation prompts."""
    structured = experiment().benchmarks.structured
    assert structured is not None
    made = [for_prompt(registry(), p.prompt_id, structured.decimals, structured.max_bins) for p in PROMPTS]
    assert len(made) == 42
    assert {len(target.values) for target in made if "." in target.values[0]} == {1001}
    return made


def rows_of(tokenizer, values) -> list[list[int]]:
    flat, lengths = chat.tokenize_values(tokenizer, values)
    return [row.tolist() for row in np.split(flat, np.cumsum(lengths)[:-1])]


def test_every_model_of_the_paper_is_of_one_of_these_families():
    assert sorted(name for family in FAMILIES for name in models_of(family)) == sorted(experiment().models)


def test_the_patterns_are_those_that_transformers_has_and_cut_digits_as_expected():
    assert pattern("LLAMA3_PAT") == TikTokenConverter().pattern
    assert pattern("QWEN_PAT") == PRETOKENIZE_REGEX
    for family, source in SOURCES.items():
        if source.pattern is not None:
            assert (r"|\p{N}{1,3}|" in pattern(source.pattern)) == (FAMILIES[family].digits == 3)
            assert (r"|\p{N}|" in pattern(source.pattern)) == (FAMILIES[family].digits == 1)


@pytest.mark.parametrize("text", [QUESTION, " It's 3.14,\n\n  isn't it?\t-12345 (x**2)  ", "naïve Ωmega 数字 ١٢٣٤ 🙂"])
def test_tokenizers_merge_by_rank(family, tokenizer, text):
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert tokens == reference_tokens(family, text)
    assert tokenizer.decode(tokens) == text


def test_special_tokens_have_their_published_ids(family, tokenizer):
    for name, token in FAMILIES[family].special.items():
        assert tokenizer(name, add_special_tokens=False).input_ids == [token]
        assert tokenizer.decode([token]) == name
    bos = FAMILIES[family].bos
    # A tokenizer that begins every text with a token would do so a second time after its template.
    assert tokenizer("a").input_ids[:-1] == ([] if bos is None else [FAMILIES[family].special[bos]])


def check_prompt(family, tokenizer, settings, wanted, instruction=None):
    """The prompt's text is `wanted` on any day, its tokens are those of the definition, and it begins once."""
    text = chat.prompt_text(tokenizer, QUESTION, settings, instruction)
    assert text == wanted
    tokens = chat.prompt_tokens(tokenizer, QUESTION, settings, instruction)
    assert tokens == reference_tokens(family, text)
    assert tokenizer.decode(tokens) == text
    bos = FAMILIES[family].bos
    assert tokens.count(tokenizer.bos_token_id) == (bos is not None)
    assert bos is None or tokens[0] == FAMILIES[family].special[bos]


def test_the_prompt_is_the_familys_format(family, tokenizer, settings):
    check_prompt(family, tokenizer, settings, FAMILIES[family].prompt.format(question=QUESTION))


def test_an_instruction_stands_where_the_family_has_it_and_thinking_is_open(family, tokenizer, settings, tmp_path):
    texts = instructions(SsotMethod(kind="ssot"), Assets({}, None, tmp_path))["structured"]
    instruction = texts[settings.instruction_role]
    assert instruction == texts["developer" if family == "gpt-oss" else "system"]
    wanted = FAMILIES[family].instructed.format(question=QUESTION, instruction=instruction)
    check_prompt(family, tokenizer, settings.thinking(), wanted, instruction)


def test_an_answer_ends_with_the_templates_terminator(family, tokenizer, settings):
    wanted = FAMILIES[family]
    assert chat.terminator(tokenizer, settings) == wanted.special[wanted.terminator]
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "1.25"}]
    whole = tokenizer.apply_chat_template(messages * 2, tokenize=False, **settings.template_options)
    # Of gpt-oss's answers only the last ends so, as only it is one to learn from.
    earlier = "<|end|>" if family == "gpt-oss" else wanted.terminator
    assert re.findall(r"1\.25(<.*?>)", whole) == [earlier, wanted.terminator]


def test_no_value_merges_with_the_end_of_the_prompt(tokenizer, settings, targets):
    for prompt, target in zip(PROMPTS, targets, strict=True):
        positive, extreme = target.values[len(target.values) // 2].lstrip("-"), target.values[-1]
        for value in {positive, f"-{positive}", extreme, target.values[0]}:
            chat.check_boundary(tokenizer, prompt.text, value, settings)


def test_values_are_cut_into_the_familys_digits(family, tokenizer, targets):
    digits = re.compile(rf"\d{{1,{FAMILIES[family].digits}}}|\D")
    for target in targets:
        rows = rows_of(tokenizer, target.values)
        pieces = [digits.findall(value) for value in target.values]
        assert [tokenizer.convert_ids_to_tokens(row) for row in rows] == pieces
        assert rows == tokenizer(target.values, add_special_tokens=False).input_ids
        assert tokenizer.batch_decode(rows) == target.values


def test_next_token_laws_are_conditional_frequencies(family, tokenizer, settings, targets):
    end = chat.terminator(tokenizer, settings)
    for target in targets[1::9]:
        trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, end)
        laws: dict[tuple, dict[int, float]] = {}
        for row, mass in zip(rows_of(tokenizer, target.values), target.probabilities, strict=True):
            for depth, token in enumerate([*row, end]):
                law = laws.setdefault(tuple(row[:depth]), {})
                law[token] = law.get(token, 0) + mass
        for prefix, law in laws.items():
            tokens, found = trie.law(prefix)
            assert found.sum() == pytest.approx(1)
            wanted = {token: mass / sum(law.values()) for token, mass in law.items()}
            assert dict(zip(tokens.tolist(), found.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-9)


def test_no_value_with_its_terminator_begins_another(family, tokenizer, settings, targets):
    end = chat.terminator(tokenizer, settings)

    def begins_another(rows):
        # Whatever begins with a row follows it in order, and the next row is one of those.
        return any(after[: len(before)] == before for before, after in pairwise(sorted(rows)))

    needed = False
    for target in targets:
        rows = rows_of(tokenizer, target.values)
        assert not begins_another([[*row, end] for row in rows])
        needed |= begins_another(rows)
    # Where 1 and 12 are a token each, no value here begins another even without it.
    assert needed == (FAMILIES[family].digits == 1)
