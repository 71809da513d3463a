"""Draws against the enumerated law, their independence of batches, resume, stops, and the adapter check."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from cft import CftError, chat, generate
from cft.config import ChatSettings, SamplingSettings
from cft.generate import Request, batches, draw_batch, next_token_law, sample
from cft.models import load_model, load_tokenizer
from cft.train import _with_adapter

PROMPTS = pd.DataFrame({"prompt_id": ["a", "b", "c"], "prompt": ["give a number", "x", "one random city, please"]})


def draw(tiny, settings, draws, seed=0, rows=64, stops=(2,), architecture="llama"):
    model, tokenizer = load_model(tiny(architecture)), load_tokenizer(tiny(architecture))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    requests = [Request("a", prompt, number) for number in range(draws)]
    return model, prompt, list(draw_batch(model, requests, settings, seed, list(stops), rows))


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
        generate.Prefixes,
        "advance",
        lambda self, tokens, old=generate.Prefixes.advance: (rows.append(len(tokens)), old(self, tokens))[1],
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


def test_batches_hold_whole_prompts():
    requests = [Request(name, [1], draw) for name, draw in product("abcd", range(3))]
    assert [len(batch) for batch in batches(requests, 7)] == [6, 6]
    assert [len(batch) for batch in batches(requests, 1)] == [3, 3, 3, 3]
    assert [request for batch in batches(requests, 7) for request in batch] == requests


def test_a_killed_job_continues_and_its_file_is_the_same(tiny, tmp_path, monkeypatch):
    settings = SamplingSettings(draws=20, max_new_tokens=5)

    def run(out):
        sample(PROMPTS, settings, 5, tiny("llama"), None, {"model": "m"}, 260, out)

    run(tmp_path / "whole.parquet")
    original, calls = generate.draw_batch, []

    def dies(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(generate, "draw_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed.parquet")
    assert not (tmp_path / "killed.parquet").exists()
    with open(next(tmp_path.glob(".killed*journal")), "a") as journal:
        journal.write('{"prompt_id": "b", "draw": 3, "te')  # a line that the kill cut short
    run(tmp_path / "killed.parquet")
    assert sum(calls) == 60 + calls[1]  # only the batch that died was drawn again
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob(".*"))
    frame = pd.read_parquet(tmp_path / "whole.parquet")
    assert list(frame.columns) == ["model", "prompt_id", "draw", "text", "tokens", "finished"]
    assert frame.groupby("prompt_id", sort=False)["draw"].apply(list).tolist() == [list(range(20))] * 3


def test_an_adapter_that_changes_nothing_is_an_error(tiny, tmp_path):
    from cft.config import FinetuneMethod

    method = FinetuneMethod.model_validate(
        {"kind": "finetune", "labels": "law", "average": "value", "max_bins": 9, "epochs": 1, "draws": 1}
    )
    _with_adapter(load_model(tiny("llama")), method).save_pretrained(
        tmp_path / "untrained", save_embedding_layers=False
    )
    settings = SamplingSettings(draws=1, max_new_tokens=2)
    with pytest.raises(CftError, match="untrained or not active"):
        sample(PROMPTS, settings, 5, tiny("llama"), tmp_path / "untrained", {}, 4096, tmp_path / "out.parquet")
    with pytest.raises(CftError, match="trained for another one"):
        sample(PROMPTS, settings, 5, tiny("gemma3"), tmp_path / "untrained", {}, 4096, tmp_path / "out.parquet")
    (tmp_path / "untrained" / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CftError, match="cannot be read"):
        sample(PROMPTS, settings, 5, tiny("llama"), tmp_path / "untrained", {}, 4096, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_draws_of_nothing():
    with pytest.raises(CftError, match="no prompts"):
        sample(PROMPTS.head(0), SamplingSettings(draws=1, max_new_tokens=1), 0, None, None, {}, 10, None)  # type: ignore[arg-type]
