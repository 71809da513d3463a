"""The oracle temperature against laws whose best temperature is known, and against enumeration."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from cft import CftError, chat, temperature
from cft.law import expected_nll, trie_law
from cft.method_settings import TemperatureMethod
from cft.model_settings import ChatSettings
from cft.models import load_model, load_tokenizer
from cft.prefix import Prefixes
from cft.target import make_target
from cft.temperature import fit, minimise, read, training_prompts
from cft.trie import build_trie

END, LONGEST = 0, 3


class Closed:
    """Stands in for Prefixes: a random model over the digits 1 and 2 that never writes more than LONGEST of them."""

    mask = torch.zeros(1)

    def __init__(self, rows):
        self.rows = rows

    @property
    def logits(self):
        found = torch.full((len(self.rows), 3), -torch.inf, dtype=torch.float64)
        for row, prefix in enumerate(self.rows):
            allowed = [END] if len(prefix) == LONGEST else [END, 1, 2] if prefix else [1, 2]
            values = np.random.default_rng([5, *prefix]).normal(0, 2, 3)
            found[row, allowed] = torch.from_numpy(values[allowed])
        return found

    def select(self, rows):
        return Closed([self.rows[row] for row in rows])

    def advance(self, tokens):
        self.rows = [[*prefix, int(token)] for prefix, token in zip(self.rows, tokens, strict=True)]


def closed_trie(probabilities):
    values = [v for n in range(1, LONGEST + 1) for v in itertools.product((1, 2), repeat=n)]
    flat = np.array([digit for value in values for digit in value])
    return build_trie((flat, np.array([len(value) for value in values])), probabilities, END)


@pytest.mark.parametrize("true", [0.35, 0.8, 1.0, 2.7])
def test_the_temperature_of_targets_from_the_models_own_law_is_recovered(true):
    uniform = np.full(14, 1 / 14)
    law = trie_law(Closed([[]]), closed_trie(uniform), 4, true)  # type: ignore[arg-type]
    assert law.support_nll == pytest.approx(0, abs=1e-9)  # the trie is all that the model can write
    trie = closed_trie(np.exp(law.log_probability))

    def measure(temperatures):
        return expected_nll(Closed([[]]), trie, 4, temperatures)[:, None]  # type: ignore[arg-type]

    found = minimise(measure, np.ones(1), 0.2, 5.0)
    assert found.temperature == pytest.approx(true, rel=found.resolution)
    assert found.resolution < 0.01 and not found.at_bound
    # At the true temperature the expected loss is the entropy, and nowhere is it less.
    entropy = -float(np.exp(law.log_probability) @ law.log_probability)
    assert entropy - 1e-12 <= found.objective.min() <= entropy + 1e-4
    # The minimum is outside: the nearer end is reported as one.
    below, above = minimise(measure, np.ones(1), true * 1.1, 9.0), minimise(measure, np.ones(1), 0.1, true * 0.9)
    assert (below.temperature, below.at_bound) == (true * 1.1, True)
    assert (above.temperature, above.at_bound) == (true * 0.9, True)


def test_the_fit_agrees_with_enumeration_on_a_transformer(tiny, families):
    """All values by full forward passes, minimised by SciPy, against the walk and its two grids."""
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    target = make_target(families, "poisson", {"lambda": 4.0})
    trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, tokenizer.eos_token_id)
    passes = []
    with torch.inference_mode():
        for value in target.values:
            tokens = [*tokenizer(value, add_special_tokens=False).input_ids, trie.terminator]
            passes.append((tokens, model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()))

        def enumerated(hot):
            logs = [float((z / hot).log_softmax(-1)[range(len(tokens)), tokens].sum()) for tokens, z in passes]
            return -float(target.probabilities @ logs)

        def measure(temperatures):
            return expected_nll(Prefixes.of(model, [prompt]), trie, 5, temperatures)[:, None]

        found = minimise(measure, np.ones(1), 0.2, 50.0)
        grid = [enumerated(hot) for hot in found.grid]
        best = minimize_scalar(lambda log: enumerated(np.exp(log)), bounds=(np.log(0.2), np.log(50)), method="bounded")
    np.testing.assert_allclose(found.objective, grid, rtol=1e-4)
    assert not found.at_bound
    assert found.temperature == pytest.approx(np.exp(best.x), rel=found.resolution)


def test_prompts_are_spread_evenly_over_each_family(families):
    every = {}
    for prompt in families.select("train"):
        every.setdefault(prompt.family, []).append(prompt.prompt_id)
    for count in (1, 2, 5):
        chosen = training_prompts(families, count)
        for family, ids in every.items():
            places = [ids.index(prompt.prompt_id) for prompt in chosen if prompt.family == family]
            assert len(set(places)) == min(count, len(ids))
            gaps = np.diff([-places[0] - 1, *places, 2 * len(ids) - 1 - places[-1]])
            assert gaps.max() - gaps.min() <= 2, (family, places)
    assert len(training_prompts(families, 10**6)) == len(families.select("train"))


SETTINGS = TemperatureMethod(kind="temperature", prompts_per_family=2, decimals=1, max_bins=5, lowest=0.5, highest=20.0)


@pytest.fixture
def three(families, monkeypatch):
    """The registry with the training prompts of three families, of which one has a single prompt."""
    kept = [prompt for prompt in families.select("train") if prompt.family in ("gaussian", "uniform")]
    kept += [prompt for prompt in families.select("train") if prompt.family == "binomial"][:1]
    monkeypatch.setattr(families, "select", lambda split: kept if split == "train" else [])
    return families


def test_the_file_says_what_was_minimised(tiny, three, tmp_path):
    out = tmp_path / "temperature.json"
    fit(SETTINGS, three, tiny("llama"), 4096, out)
    record = json.loads(out.read_text())
    assert read(out) == record["temperature"]
    assert json.loads((tmp_path / "temperature.run.json").read_text())["settings"] == SETTINGS.model_dump()
    assert not record["at_bound"]
    grid = np.array([(point["temperature"], point["objective"]) for point in record["grid"]])
    assert [record["temperature"], record["objective"]] == grid[grid[:, 1].argmin()].tolist()
    assert (grid[0, 0], grid[-1, 0]) == (0.5, 20.0)
    # Convex in the inverse temperature: slopes between points of the coarse grid never fall, up to float32.
    coarse = np.searchsorted(grid[:, 0], np.geomspace(0.5, 20.0, temperature.POINTS) * (1 - 1e-9))[::-1]
    slopes = np.diff(grid[coarse, 1]) / np.diff(1 / grid[coarse, 0])
    assert (np.diff(slopes) > -1e-3).all() and slopes[0] < 0 < slopes[-1]

    # The same number from the law at that temperature: cross-entropy = entropy + KL, families weigh the same.
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    means = []
    for family, told in record["families"].items():
        values = []
        for prompt_id in told["prompts"]:
            parsed = three.parse(prompt_id)
            target = make_target(three, family, parsed[1], 1, 5)
            p = target.probabilities[target.probabilities > 0]
            trie = build_trie(
                chat.tokenize_values(tokenizer, target.values), target.probabilities, tokenizer.eos_token_id
            )
            prompt = chat.prompt_tokens(tokenizer, parsed[0].prompt(parsed[1]), ChatSettings())
            with torch.inference_mode():
                law = trie_law(Prefixes.of(model, [prompt]), trie, 9, record["temperature"])
            values.append(law.sequence_kl - float(p @ np.log(p)))
        assert told["objective"] == pytest.approx(np.mean(values), rel=1e-5)
        means.append(np.mean(values))
    assert [len(told["prompts"]) for told in record["families"].values()] == [2, 2, 1]
    assert record["objective"] == pytest.approx(np.mean(means), rel=1e-5)


def test_the_fit_does_not_depend_on_the_cache(tiny, three, tmp_path):
    for cache_tokens in (1, 100_000):
        fit(SETTINGS, three, tiny("gemma3"), cache_tokens, tmp_path / f"{cache_tokens}.json")
    few, many = (json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 100_000))
    assert few["objective"] == pytest.approx(many["objective"], rel=1e-5)
    assert few["temperature"] == pytest.approx(many["temperature"], rel=2 * many["resolution"])


def test_a_law_that_is_not_finite_is_named(tiny, three, tmp_path, monkeypatch):
    monkeypatch.setattr(temperature, "expected_nll", lambda *_: np.full(temperature.POINTS, np.nan))
    with pytest.raises(CftError, match=r"^\w+\(.*\): the model's law is not finite"):
        fit(SETTINGS, three, tiny("llama"), 4096, tmp_path / "temperature.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"temperature": "warm"}', '{"temperature": null}'])
def test_a_file_without_a_temperature_is_named(tmp_path, content):
    path = tmp_path / "temperature.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CftError, match=r"temperature\.json: holds no temperature"):
        read(path)
