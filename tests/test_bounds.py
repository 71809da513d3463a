"""Bounds on a model's law against the enumeration of all its answers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumerated import (
    END,
    GAUSSIAN,
    PLAIN,
    TARGETS,
    TOKENIZERS,
    WEIGHTS,
    Exact,
    Toy,
    check_inside,
    check_masses,
    check_nested,
    enumerate_law,
    ranges,
    toy,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from cft import CftError, chat
from cft.bounds import Bounds, bound_law
from cft.model_settings import ChatSettings
from cft.models import load_model, load_tokenizer
from cft.prefix import Prefixes
from cft.tiny import RECIPES, SIZE


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_bounds_close_on_the_enumerated_law(name, kind, target):
    tokenizer, frozen, start = TOKENIZERS[name], TARGETS[target], toy(name, WEIGHTS[kind])
    exact = Exact.of(enumerate_law(start.law, tokenizer, END[name], 3), frozen)
    before = None
    for nodes in (1, 2, 5, 20, 100, 10_000):
        bounds = bound_law(start, tokenizer, [END[name]], frozen, 7, gap=0, nodes=nodes, max_new_tokens=3)
        assert bounds.nodes <= nodes
        check_masses(bounds)
        check_inside(bounds, frozen, exact)
        if before:
            check_nested(bounds, before, frozen)
        before = bounds
    assert bounds.unresolved < 1e-9
    for result, (low, high) in ranges(bounds, frozen).items():
        if result != "w1":
            assert high - low < 1e-9, result
        elif exact.valid > 1e-9:
            assert high - low < 5e-3, result


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_a_model_by_brute_force(architecture):
    """A model of its own forward passes: beginnings of several lengths are computed in one."""
    tokenizer, end = TOKENIZERS["byte_level"], END["byte_level"]
    config = AutoConfig.for_model(
        **RECIPES[architecture], **SIZE, vocab_size=len(tokenizer), initializer_range=0.3, pad_token_id=0
    )  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    prompt = [token % len(tokenizer) for token in range(3, 40, 2)]  # longer than Gemma's window
    known = {}

    def law(path):
        if path not in known:
            known[path] = model(torch.tensor([[*prompt, *path]])).logits[0, -1].double().softmax(-1).numpy()
        return known[path]

    with torch.inference_mode():
        exact = Exact.of(enumerate_law(law, tokenizer, end, 3), GAUSSIAN)
        start = Prefixes.of(model, [prompt])
        before = None
        for nodes in (1, 4, 30, 200, 5000):
            bounds = bound_law(start, tokenizer, [end], GAUSSIAN, 16, gap=0, nodes=nodes, max_new_tokens=3)
            check_masses(bounds)
            check_inside(bounds, GAUSSIAN, exact)
            if before:
                check_nested(bounds, before, GAUSSIAN)
            before = bounds
    thinking = sum(law(path)[tokenizer.convert_tokens_to_ids("</think>")] for path in known) / len(known)
    assert bounds.unresolved < 10 * thinking


def test_every_byte_a_token(tiny):
    """The tokenizer of the smoke test, two tokens long, with either of two tokens at the end."""
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    with torch.inference_mode():
        first = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        rows = torch.tensor([[*prompt, token] for token in range(len(tokenizer))])
        second = model(rows).logits[:, -1].double().softmax(-1)
        start = Prefixes.of(model, [prompt])
        bounds = bound_law(start, tokenizer, ends, GAUSSIAN, 64, gap=0, nodes=5000, max_new_tokens=2)
    texts = Counter({"": float(first[ends].sum())})
    for token in set(range(len(tokenizer))) - set(ends):
        texts[tokenizer.decode([token])] += float(first[token] * second[token, ends].sum())
        for further in set(range(len(tokenizer))) - set(ends):
            texts[tokenizer.decode([token, further])] += float(first[token] * second[token, further])
    assert sum(texts.values()) == pytest.approx(1)
    check_masses(bounds)
    check_inside(bounds, GAUSSIAN, Exact.of(texts, GAUSSIAN))
    assert bounds.unresolved < 1e-9
    numbers = {float(number) for number in [*range(-9, 100), *(f".{digit}" for digit in range(10))]}
    assert {value for value, mass in zip(bounds.values, bounds.masses, strict=True) if mass > 0} == numbers


@pytest.mark.parametrize("name", TOKENIZERS)
def test_plain_numbers_are_known_long_before_they_end(name):
    """Without a stray number the bounds are narrow while most texts have not been followed to their end."""
    start, tokenizer = toy(name, PLAIN), TOKENIZERS[name]
    exact = Exact.of(enumerate_law(start.law, tokenizer, END[name], 5), GAUSSIAN)
    before = None
    for gap in (0.3, 0.1, 0.01):
        bounds = bound_law(start, tokenizer, [END[name]], GAUSSIAN, 5, gap=gap, max_new_tokens=5, stray=0)
        check_masses(bounds)
        check_inside(bounds, GAUSSIAN, exact)
        if before:
            check_nested(bounds, before, GAUSSIAN)
        low, high = bounds.pit_w1(GAUSSIAN)
        assert bounds.gap <= gap and high - low <= bounds.gap + 1e-9
        before = bounds
    certain = replace(bounds, stray=1.0)
    check_inside(certain, GAUSSIAN, exact)
    assert bounds.unresolved > 0.02 > 2 * bounds.gap
    assert certain.pit_w1(GAUSSIAN).high - certain.pit_w1(GAUSSIAN).low > 2 * bounds.gap


def test_a_closing_tag_may_save_what_is_no_number():
    weights = {"<end>": 3, "x": 1, "</think>": 1, "1": 1, "other": 1e-300}
    start, tokenizer, end = toy("byte_level", weights), TOKENIZERS["byte_level"], END["byte_level"]
    exact = Exact.of(enumerate_law(start.law, tokenizer, end, 4), GAUSSIAN)
    open_ended = bound_law(start, tokenizer, [end], GAUSSIAN, 5, gap=0, max_new_tokens=4, thinking=True)
    check_masses(open_ended)
    check_inside(open_ended, GAUSSIAN, exact)
    assumed = bound_law(start, tokenizer, [end], GAUSSIAN, 5, gap=0, max_new_tokens=4)
    assert open_ended.invalid < 1 - exact.valid < assumed.invalid + 0.5
    assert open_ended.unresolved > assumed.unresolved


@given(st.integers(0, 2**32), st.sampled_from(list(TARGETS)), st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=60)
def test_any_law_that_the_assumptions_allow_is_inside(seed, target, stray):
    """Random masses and intervals, and then a random law that they allow."""
    generator, frozen = np.random.default_rng(seed), TARGETS[target]
    n, k = generator.integers(0, 6, 2)
    shares = generator.dirichlet(generator.choice([0.2, 1.0], n + k + 3))
    masses, mass, (doomed, loose, invalid) = shares[:n], shares[n : n + k], shares[-3:]
    bottom, top = np.clip(frozen.support(), -6, 20)
    draw = (lambda size: generator.integers(bottom, top, size).astype(float)) if target == "poisson" else (
        lambda size: np.round(generator.uniform(bottom, top, size), 1)
    )  # fmt: skip
    values, ends = draw(n), np.sort(draw((k, 2)), axis=1)
    beyond = np.where(generator.random(k) < 0.3, np.inf, ends[:, 1])
    bounds = Bounds(values, masses, ends[:, 0], beyond, mass, doomed, loose, invalid, stray, 0.0, 0, 0)
    check_masses(bounds)
    astray = mass * stray * generator.choice([0, 0.5, 1], k)
    where = np.where(generator.random(k) < 0.5, ends[:, 0], np.minimum(beyond, top - 1 + (beyond < top) * 99))
    where = np.clip(where, ends[:, 0], np.maximum(ends[:, 1], np.minimum(beyond, top)))
    free = np.array([*astray * (generator.random(k) < 0.5), doomed * stray, loose * generator.random()])
    exact = Exact(
        np.concatenate([values, where, draw(len(free))]), np.concatenate([masses, mass - astray, free]), frozen
    )
    check_inside(bounds, frozen, exact)


def test_a_temperature_divides_the_logits():
    start, tokenizer, end = toy("byte_level", WEIGHTS["numbers"]), TOKENIZERS["byte_level"], END["byte_level"]

    def hot(path):
        law = start.law(path) ** 0.5
        return law / law.sum()

    known = [
        bound_law(toy_start, tokenizer, [end], GAUSSIAN, 5, gap=0, max_new_tokens=3, temperature=temperature)
        for toy_start, temperature in ((start, 2.0), (Toy(hot, [[]]), 1.0))
    ]
    np.testing.assert_allclose(known[0].pit_w1(GAUSSIAN), known[1].pit_w1(GAUSSIAN), rtol=1e-9)
    assert known[0].valid == pytest.approx(known[1].valid)


@pytest.mark.parametrize("wrong", [{"stray": 1.5}, {"gap": -1}, {"nodes": 0}, {"max_new_tokens": 0}])
def test_settings_out_of_range_are_named(wrong):
    start = toy("byte_level", WEIGHTS["numbers"])
    with pytest.raises(CftError, match="stray share from 0 to 1"):
        bound_law(start, TOKENIZERS["byte_level"], [0], GAUSSIAN, 5, **wrong)
