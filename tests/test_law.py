"""The exact law against enumeration with one forward pass per value."""

import json
import math
import shutil
import weakref
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from cft import CftError, chat, law_scores
from cft.benchmark_settings import OpenEndedBenchmark, SamplingSettings, StructuredBenchmark
from cft.generate import plan
from cft.law import expected_nll, rows_within, trie_law, write_law
from cft.model_settings import ChatSettings, VllmSettings
from cft.models import load_model, load_tokenizer
from cft.numbers import read_number
from cft.prefix import Prefixes
from cft.target import make_target
from cft.trie import FLOOR, build_trie

ARCHITECTURES = ["llama", "qwen3", "gemma3", "gpt_oss"]


def brute_force(model, tokenizer, prompt, target, trie, temperature=1.0):
    """log-probability of every value and the expected soft loss, value by value without any sharing."""
    log_probability, soft = [], 0.0
    for index, (value, mass) in enumerate(zip(target.values, target.probabilities, strict=True)):
        tokens = [*tokenizer(value, add_special_tokens=False).input_ids, trie.terminator]
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        log_model = (logits.double() / temperature).log_softmax(-1)
        log_probability.append(float(log_model[range(len(tokens)), tokens].sum()))
        for position, (ids, law) in enumerate(trie.laws_along(int(trie.row[index]))):
            q = np.maximum(law, FLOOR) / np.maximum(law, FLOOR).sum()
            soft += mass / len(tokens) * float((q * (np.log(q) - log_model[position, ids].numpy())).sum())
    return np.array(log_probability), soft


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("family", "parameters", "rows"), [("gaussian", {"mu": 0.0, "sigma": 0.4}, 7), ("poisson", {"lambda": 9.0}, 64)]
)
def test_trie_law_by_brute_force(tiny, families, architecture, family, parameters, rows):
    model, tokenizer = load_model(tiny(architecture)), load_tokenizer(tiny(architecture))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    target = make_target(families, family, parameters, 2, 101)
    trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, tokenizer.eos_token_id)
    with torch.inference_mode():
        law = trie_law(Prefixes.of(model, [prompt]), trie, rows)
        wanted, soft = brute_force(model, tokenizer, prompt, target, trie)
    np.testing.assert_allclose(law.log_probability, wanted, atol=2e-4)
    p = target.probabilities
    assert law.trie_kl == pytest.approx(soft, abs=1e-4)
    assert law.sequence_kl == pytest.approx(float((p * (np.log(p) - wanted)).sum()), abs=1e-4)
    inside = np.exp(wanted) / np.exp(wanted).sum()
    assert law.support_nll == pytest.approx(-np.log(np.exp(wanted).sum()), abs=1e-4)
    assert law.kl_within_support == pytest.approx(float((p * np.log(p / inside)).sum()), abs=1e-4)
    prefixes = sum(int((level.token != trie.terminator).sum()) for level in trie.levels())
    assert law.forward_tokens == prefixes  # each prefix once


def test_caches_stay_within_their_tokens(tiny, families, monkeypatch):
    """Of numbers with five decimals a chunk of every level is alive at once."""
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    target = make_target(families, "cauchy", {"x0": 3.5, "gamma": 3.0}, 5, 1001)
    trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, tokenizer.eos_token_id)
    alive, most = weakref.WeakSet(), 0
    select, advance = Prefixes.select, Prefixes.advance

    def counted(self, rows):
        alive.add(found := select(self, rows))
        return found

    def measured(self, tokens):
        nonlocal most
        advance(self, tokens)
        most = max(most, sum(prefixes.mask.numel() for prefixes in alive))

    monkeypatch.setattr(Prefixes, "select", counted)
    monkeypatch.setattr(Prefixes, "advance", measured)
    with torch.inference_mode():
        trie_law(Prefixes.of(model, [prompt]), trie, rows_within(20_000, prompt, trie))
    assert 10_000 < most <= 20_000


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_law_at_a_temperature_by_brute_force(tiny, families, temperature):
    model, tokenizer = load_model(tiny("qwen3")), load_tokenizer(tiny("qwen3"))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    target = make_target(families, "poisson", {"lambda": 9.0})
    trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, tokenizer.eos_token_id)
    with torch.inference_mode():
        law = trie_law(Prefixes.of(model, [prompt]), trie, 7, temperature)
        nll = expected_nll(Prefixes.of(model, [prompt]), trie, 7, [1.0, temperature])
        wanted, soft = brute_force(model, tokenizer, prompt, target, trie, temperature)
        plain, _ = brute_force(model, tokenizer, prompt, target, trie)
    np.testing.assert_allclose(law.log_probability, wanted, atol=5e-4)
    assert np.abs(wanted - plain).max() > 1  # the temperature matters here
    assert law.trie_kl == pytest.approx(soft, abs=5e-4)
    np.testing.assert_allclose(nll, [-(target.probabilities @ plain), -(target.probabilities @ wanted)], atol=5e-4)


def test_a_model_that_is_the_target_scores_zero(families):
    """Logits that are the trie's own laws: nothing but the definition is left, and every distance is zero."""
    target = make_target(families, "gaussian", {"mu": 1.0, "sigma": 2.0}, 1, 101)
    alphabet = {c: i + 1 for i, c in enumerate("0123456789.-")}
    flat = np.array([alphabet[c] for value in target.values for c in value])
    trie = build_trie((flat, np.array([len(v) for v in target.values])), target.probabilities, 0)

    class Exact:
        """Stands in for Prefixes: knows each row's tokens, and answers with the law after them."""

        mask = torch.zeros(1)

        def __init__(self, rows):
            self.rows = rows

        @property
        def logits(self):
            found = torch.full((len(self.rows), 13), -torch.inf, dtype=torch.float64)
            for row, prefix in enumerate(self.rows):
                tokens, law = trie.law(prefix)
                found[row, torch.from_numpy(tokens)] = torch.from_numpy(np.log(law))
            return found

        def select(self, rows):
            return Exact([self.rows[row] for row in rows])

        def advance(self, tokens):
            self.rows = [[*prefix, int(token)] for prefix, token in zip(self.rows, tokens, strict=True)]

    law = trie_law(Exact([[]]), trie, 16)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.exp(law.log_probability), target.probabilities, rtol=1e-9)
    assert (law.trie_kl, law.sequence_kl, law.support_nll) == pytest.approx((0, 0, 0), abs=1e-7)


def test_files_of_laws(tiny, families, tmp_path):
    prompts = pd.DataFrame({"prompt_id": ["bernoulli(p=0.5)", "gaussian(mu=3.5,sigma=3.0)"], "prompt": ["a", "b"]})
    settings = StructuredBenchmark(draws=1, max_new_tokens=8, decimals=1, max_bins=51)
    write_law(settings, prompts, families, tiny("llama"), None, {"model": "m"}, 4096, tmp_path / "law.parquet")
    frame = pd.read_parquet(tmp_path / "law.parquet")
    assert frame["prompt_id"].tolist() == prompts["prompt_id"].tolist()
    assert list(frame["values"][0]) == ["0", "1"]
    np.testing.assert_allclose([row.sum() for row in frame["law"]], frame["support_probability"], rtol=1e-9)
    np.testing.assert_allclose(frame["sequence_kl"], frame["support_nll"] + frame["kl_within_support"])
    assert json.loads((tmp_path / "law.run.json").read_text())["temperature"] == 1
    # Of every value of a coin's target a perfect sampler says as much; of a number in three of its strings, more.
    assert frame["trie_kl_floor"][0] == pytest.approx(0, abs=1e-6) and 0.1 < frame["trie_kl_floor"][1] < 1
    for name in law_scores.BOUNDED:
        low, high = frame[f"{name}_low"], frame[f"{name}_high"]
        assert ((low >= 0) & (low <= high)).all()
    # The strings of the support are some of the valid answers, and a certain bound is no narrower.
    assert (frame["law_valid_high"] >= frame["support_probability"]).all()
    assert (frame["law_invalid_low"] + frame["law_valid_high"]).tolist() == pytest.approx([1] * len(frame))
    assert (frame["law_invalid_high"] - frame["law_invalid_low"] <= frame["law_unresolved"] + 1e-9).all()
    assert (frame["law_pit_w1_certain_low"] <= frame["law_pit_w1_low"]).all()
    assert (frame["law_pit_w1_certain_high"] >= frame["law_pit_w1_high"]).all()
    assert all((low <= high).all() for low, high in zip(frame["cdf_low"], frame["cdf_high"], strict=True))
    write_law(settings, prompts, families, tiny("llama"), None, {}, 4096, tmp_path / "hot.parquet", temperature=1e6)
    hot = pd.read_parquet(tmp_path / "hot.parquet")
    assert json.loads((tmp_path / "hot.run.json").read_text())["temperature"] == 1e6
    # Every next token is equally likely: a digit, then the terminator.
    tokens = len(load_tokenizer(tiny("llama")))
    np.testing.assert_allclose(hot["law"][0], tokens**-2.0, rtol=1e-4)


def test_bounds_know_every_token_that_ends_a_draw(tiny, families, tmp_path):
    """A model whose eos token is not what its template closes an answer with, as Gemma's: a draw may end with either.

    Hot enough, every token is as likely as any other, so that counting all draws of two tokens gives the valid rate.
    """
    folder = tmp_path / "model"
    shutil.copytree(tiny("llama"), folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    prompts = pd.DataFrame({"prompt_id": ["gaussian(mu=3.5,sigma=3.0)"], "prompt": ["a"]})
    job = plan(prompts, SamplingSettings(draws=1, max_new_tokens=2), 0, folder, None, 4096, VllmSettings())
    assert job.stops == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    every = range(len(tokenizer))
    texts = {draw: job.text(list(draw)) for length in (1, 2) for draw in product(every, repeat=length)}
    valid = {draw: read_number(text, (-math.inf, math.inf), False)[1] is None for draw, text in texts.items()}
    going = [token for token in every if token not in job.stops]
    counted = sum(valid[first, second] for first in going for second in going)
    counted += sum(valid[first,] for first in going) * len(job.stops)
    settings = StructuredBenchmark(draws=1, max_new_tokens=2, decimals=1, max_bins=51, gap=1e-9)
    write_law(settings, prompts, families, folder, None, {}, 4096, tmp_path / "law.parquet", temperature=1e9)
    row = pd.read_parquet(tmp_path / "law.parquet").iloc[0]
    assert row["law_valid_low"] == pytest.approx(counted / len(tokenizer) ** 2, rel=1e-4)
    assert row["law_valid_high"] == pytest.approx(row["law_valid_low"], rel=1e-4)


def test_first_token_law_of_open_prompts(tiny, families, tmp_path):
    prompts = pd.DataFrame({"prompt_id": ["city"], "prompt": ["Name a random city."]})
    settings = OpenEndedBenchmark(draws=1, max_new_tokens=8)
    write_law(settings, prompts, families, tiny("llama"), None, {}, 4096, tmp_path / "law.parquet")
    row = pd.read_parquet(tmp_path / "law.parquet").iloc[0]
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    prompt = chat.prompt_tokens(tokenizer, "Name a random city.", ChatSettings())
    with torch.inference_mode():
        law = model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    assert row["support_size_0.9"] == int((np.cumsum(np.sort(law)[::-1]) < 0.9).sum()) + 1
    assert row["support_size_0.5"] == int((np.cumsum(np.sort(law)[::-1]) < 0.5).sum()) + 1
    write_law(settings, prompts, families, tiny("llama"), None, {}, 4096, tmp_path / "hot.parquet", temperature=1e6)
    hot = pd.read_parquet(tmp_path / "hot.parquet").iloc[0]
    assert hot["support_size_0.5"] == pytest.approx(len(tokenizer) / 2, abs=1)


def test_an_unknown_prompt_is_named(tiny, families, tmp_path):
    prompts = pd.DataFrame({"prompt_id": ["nope(x=1)"], "prompt": ["a"]})
    settings = StructuredBenchmark(draws=1, max_new_tokens=8)
    with pytest.raises(CftError, match="unknown family 'nope'"):
        write_law(settings, prompts, families, tiny("llama"), None, {}, 4096, tmp_path / "law.parquet")
    assert not list(tmp_path.iterdir())
