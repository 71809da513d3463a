"""The floor of the trie KL against every answer, tokenised one by one."""

import math
from collections import Counter
from functools import partial
from itertools import product

import numpy as np
import pytest
from scipy.stats import rv_discrete
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vocabularies import make_tokenizer

from cft import chat
from cft.perfect import trie_floor
from cft.target import for_prompt, make_target
from cft.trie import FLOOR, build_trie

END = 10**6
DIGITS = "0123456789"


def in_groups(pattern):
    """Cuts numbers where a regular expression says, and has a token for every group of up to three digits."""
    groups = ["".join(group) for length in (1, 2, 3) for group in product(DIGITS, repeat=length)]
    vocabulary = {text: index for index, text in enumerate(["-", ".", *groups])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="-"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=model)


# Qwen3 has a token for a digit, Llama 3 and gpt-oss for up to three, from the left.
TOKENIZERS = {name: partial(make_tokenizer, name) for name in ("qwen3", "llama", "gpt-oss")}
TOKENIZERS["from the right"] = partial(in_groups, r"\d{1,3}(?=(?:\d{3})*(?:\D|$))|\.|-")


def floor_by_enumeration(tokenizer, trie, target, frozen, decimals):
    """Every answer between far quantiles by its tokens; then the soft loss value by value."""
    ends = [round(float(frozen.ppf(level)) * 10**decimals) for level in (1e-12, 1 - 1e-12)]
    ticks = np.arange(ends[0] - 1, ends[1] + 2)
    edges = (np.append(ticks, ticks[-1] + 1) - 0.5) / 10**decimals
    shares = frozen.pmf(ticks) if isinstance(frozen.dist, rv_discrete) else np.diff(frozen.cdf(edges))
    texts = [f"{tick / 10**decimals:.{decimals}f}" if tick else f"{0:.{decimals}f}" for tick in ticks.tolist()]
    mass = Counter()
    for row, share in zip(tokenizer(texts, add_special_tokens=False).input_ids, shares.tolist(), strict=True):
        for length in range(len(row) + 2):
            mass[tuple([*row, END][:length])] += share
    total = 0.0
    rows = tokenizer(target.values, add_special_tokens=False).input_ids
    for index, (row, probability) in enumerate(zip(rows, target.probabilities, strict=True)):
        laws = trie.laws_along(int(trie.row[index]))
        for position, (tokens, law) in enumerate(laws):
            before = tuple(row[:position])
            floored = np.maximum(law, FLOOR) / np.maximum(law, FLOOR).sum()
            perfect = np.array([mass[(*before, token)] / mass[before] for token in tokens.tolist()])
            total += probability / len(laws) * float(floored @ np.log(floored / perfect))
    return total


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("family", "parameters", "decimals", "max_bins"),
    [
        ("gaussian", {"mu": 3.5, "sigma": 3.0}, 2, 101),
        ("gaussian", {"mu": 950.0, "sigma": 60.0}, 1, 57),  # three whole digits and four
        ("gaussian", {"mu": 0.0, "sigma": 700.0}, 0, 201),
        ("lognormal", {"mu": 1.0, "sigma": 0.5}, 2, 101),
        ("beta", {"alpha": 0.5, "beta": 0.5}, 4, 33),
        ("gaussian", {"mu": 0.0, "sigma": 1.0}, 2, 10**6),
        ("skellam", {"mu1": 1040.0, "mu2": 40.0}, 5, 1001),
        ("skellam", {"mu1": 40.5, "mu2": 40.5}, 5, 1001),
        ("hypergeometric", {"M": 100.0, "K": 50.0, "N": 20.0}, 5, 1001),
        ("inverse_gaussian", {"mu": 5.0, "lambda": 7.0}, 1, 101),
        ("inverse_gaussian", {"mu": 3.5, "lambda": 8.0}, 1, 101),  # SciPy's quantiles of 1e-15 are not its own
        ("bernoulli", {"p": 0.1}, 5, 1001),
        ("geometric", {"p": 0.2}, 5, 1001),
    ],
)
def test_the_floor_by_enumeration(families, kind, family, parameters, decimals, max_bins):
    tokenizer, frozen = TOKENIZERS[kind](), families[family].frozen(parameters)
    target = make_target(families, family, parameters, decimals, max_bins)
    trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, END)
    wanted = floor_by_enumeration(tokenizer, trie, target, frozen, 0 if families[family].discrete else decimals)
    assert trie_floor(tokenizer, trie, target.values, frozen) == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    thinned = len(target.values) == max_bins
    assert (wanted > 0.05) == thinned, "only thinned targets charge a perfect sampler"


def test_the_floor_is_unknown_where_digits_are_cut_by_what_they_are(families):
    tokenizer = in_groups(r"12|\d|\.|-")
    # Of "0" and "1" too: a mean over such targets alone would be taken for that of all.
    for family, parameters in {"poisson": {"lambda": 12.0}, "bernoulli": {"p": 0.5}}.items():
        target = make_target(families, family, parameters)
        trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, END)
        assert math.isnan(trie_floor(tokenizer, trie, target.values, families[family].frozen(parameters)))


@pytest.mark.parametrize(("kind", "gaussian", "mean"), [("qwen3", 0.93, 0.68), ("llama", 1.48, 1.10)])
def test_figures_that_the_documentation_quotes(families, kind, gaussian, mean):
    tokenizer, found = TOKENIZERS[kind](), {}
    for prompt in families.select("unseen_params", True):
        target = for_prompt(families, prompt.prompt_id, 5, 1001)
        trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, END)
        frozen = families[prompt.family].frozen(prompt.parameters)
        found[prompt.prompt_id] = trie_floor(tokenizer, trie, target.values, frozen)
    assert found["gaussian(mu=3.5,sigma=3.0)"] == pytest.approx(gaussian, abs=0.005)
    assert np.mean(list(found.values())) == pytest.approx(mean, abs=0.005)
    assert len(found) == len({key.partition("(")[0] for key in found}) == 24  # one prompt of each family
