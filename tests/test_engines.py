"""The tree sampler: draws against the enumerated law, their independence of batches, stops."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from cft import CftError, chat
from cft.benchmark_settings import SamplingSettings
from cft.engines import Job, Request, transformers
from cft.engines.transformers import batches, draw_batch, next_token_law
from cft.model_settings import ChatSettings, VllmSettings
from cft.models import load_model, load_tokenizer


def job_of(folder, settings, seed=0, stops=(2,)):
    tokenizer = load_tokenizer(folder)
    prompts = {"a": chat.prompt_tokens(tokenizer, "give a number", ChatSettings())}
    return Job(Path(folder), None, tokenizer, prompts, list(stops), settings, seed, 4096, VllmSettings())


def draw(tiny, settings, draws, seed=0, rows=64, stops=(2,), architecture="llama"):
    model, job = load_model(tiny(architecture)), job_of(tiny(architecture), settings, seed, stops)
    requests = [Request("a", job.prompts["a"], number) for number in range(draws)]
    return model, job.prompts["a"], list(draw_batch(model, requests, job, rows))


def enumerated(model, prompt, depth, settings, stop):
    """Exact law of all sequences of at most `depth` tokens over the most likely first tokens; the rest is 'other'."""
    with torch.inference_mode():
        law = next_token_law(model(torch.tensor([prompt])).logits[0, -1:], settings)[0].numpy()
        top = np.argsort(-law)[:4]
        found = {}
        for first in top.tolist():
            if first == stop:
                found[()] = law[first]
                continue
            second = next_token_law(model(torch.tensor([[*prompt, first]])).logits[0, -1:], settings)[0].numpy()
            for token in range(len(second)):
                key = (first,) if token == stop else (first, token)
                found[key] = law[first] * second[token]
    return found


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(draws=1, max_new_tokens=2),
        SamplingSettings(draws=1, max_new_tokens=2, temperature=0.5, top_p=0.8),
    ],
    ids=["plain", "temperature and top-p"],
)
def test_draws_follow_the_enumerated_law(tiny, settings):
    """Chi-square against the exact two-token law; 12 seeds, p-values must look uniform (Kolmogorov-Smirnov)."""
    n, values = 1500, []
    for seed in range(12):
        model, prompt, draws = draw(tiny, settings, n, seed)
        law = enumerated(model, prompt, 2, settings, 2)
        counts = dict.fromkeys(law, 0)
        for item in draws:
            if tuple(item.tokens) in counts:
                counts[tuple(item.tokens)] += 1
        often = [key for key, p in law.items() if p * n >= 5]
        observed = np.array([*(counts[key] for key in often), 0.0])
        expected = np.array([*(law[key] * n for key in often), 0.0])
        observed[-1], expected[-1] = n - observed.sum(), n - expected.sum()
        values.append(stats.chisquare(observed, expected).pvalue)
    assert len(often) >= 4
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_a_draw_does_not_depend_on_rows_batches_or_the_other_draws(tiny):
    settings = SamplingSettings(draws=1, max_new_tokens=6)

    def texts(**how):
        return {d.request.draw: d.tokens for d in draw(tiny, settings, **how)[2]}

    whole = texts(draws=60, rows=64)
    assert texts(draws=60, rows=7) == whole
    assert texts(draws=20, rows=64) == {number: whole[number] for number in range(20)}
    assert texts(draws=60, rows=64, seed=1) != whole


def test_equal_prefixes_are_computed_once(tiny, monkeypatch):
    settings = SamplingSettings(draws=1, max_new_tokens=2)
    rows = []
    monkeypatch.setattr(
        transformers.Prefixes,
        "advance",
        lambda self, tokens, old=transformers.Prefixes.advance: (rows.append(len(tokens)), old(self, tokens))[1],
    )
    _, _, draws = draw(tiny, settings, 300)
    assert sum(rows) == len({tuple(d.tokens[:1]) for d in draws if d.tokens})


def test_stop_token_and_limit(tiny):
    settings = SamplingSettings(draws=1, max_new_tokens=3)
    _, _, draws = draw(tiny, settings, 200, stops=range(0, 130))
    assert {d.finished for d in draws} == {True, False}
    for item in draws:
        assert item.finished == (len(item.tokens) < 3)
        assert all(token >= 130 for token in item.tokens)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = next_token_law(logits, SamplingSettings(draws=1, max_new_tokens=1, top_p=0.7))
    assert (kept > 0).tolist() == [[True, True, False, False]]
    hot = next_token_law(logits, SamplingSettings(draws=1, max_new_tokens=1, temperature=2.0))[0]
    np.testing.assert_allclose(hot, np.sqrt([0.5, 0.3, 0.15, 0.05]) / np.sqrt([0.5, 0.3, 0.15, 0.05]).sum(), rtol=1e-6)


def test_a_law_that_is_no_number_is_refused():
    settings = SamplingSettings(draws=1, max_new_tokens=1)
    with pytest.raises(CftError, match="no numbers"):
        next_token_law(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), settings)
    assert next_token_law(torch.tensor([[0.0, -math.inf]]), settings).tolist() == [[1, 0]]  # a token that cannot be


def test_batches_hold_whole_prompts():
    requests = [Request(name, [1], draw) for name, draw in product("abcd", range(3))]
    assert [len(batch) for batch in batches(requests, 7)] == [6, 6]
    assert [len(batch) for batch in batches(requests, 1)] == [3, 3, 3, 3]
    assert [request for batch in batches(requests, 7) for request in batch] == requests
