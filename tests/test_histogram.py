"""The histogram in a terminal: its numbers against SciPy and against counting by hand, its width, odd draws."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from cft.histogram import columns, histogram, number_rows, printable, target_rows

LONG = "An answer that goes on. " * 400
ROW = re.compile(r"^ *(.*?)  [█▏▎▍▌▋▊▉]* +(\d+\.\d) %(?:  [█▏▎▍▌▋▊▉]* +(\d+\.\d) %)?(?:  (\d+))?$")


def printed(text):
    """The printed rows: label -> (percent of the draws, percent of the target)."""
    rows = [ROW.match(line) for line in text.splitlines()]
    return {row[1]: (float(row[2]), float(row[3])) for row in rows if row}


def interval(label, discrete):
    """Lower and upper end of a bin as half-open real numbers; a discrete bin holds its last integer."""
    numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", label)]
    after = 1 if discrete else 0
    if label.startswith("<"):
        return -math.inf, numbers[0]
    if label.startswith(">"):
        return numbers[0] + after, math.inf
    return numbers[0], numbers[-1] + after


def texts_of(frozen, discrete, n=300, seed=3):
    values = frozen.rvs(n, random_state=seed)
    return [str(int(value)) if discrete else f"{value:.4f}" for value in values]


CASES = [
    ("gaussian", {"mu": 3.5, "sigma": 3.0}, stats.norm(3.5, 3)),
    ("cauchy", {"x0": -2.0, "gamma": 0.5}, stats.cauchy(-2, 0.5)),
    ("uniform", {"a": 3.5, "b": 10.5}, stats.uniform(3.5, 7)),
    ("lognormal", {"mu": 2.5, "sigma": 2.0}, stats.lognorm(s=2, scale=math.exp(2.5))),
    ("poisson", {"lambda": 4.0}, stats.poisson(4)),
    ("skellam", {"mu1": 90.0, "mu2": 60.0}, stats.skellam(90, 60)),
    ("skellam", {"mu1": 427.93, "mu2": 344.9}, stats.skellam(427.93, 344.9)),  # its ppf(0.999) is an error
    ("bernoulli", {"p": 0.1}, stats.bernoulli(0.1)),
    ("hypergeometric", {"M": 60.0, "K": 24.0, "N": 18.0}, stats.hypergeom(60, 24, 18)),  # NaN between integers
]


@pytest.mark.parametrize(("name", "parameters", "law"), CASES, ids=[case[0] for case in CASES])
def test_shares_of_draws_and_target(families, name, parameters, law):
    family = families[name]
    texts = [*texts_of(law, family.discrete), "no number", ""]
    rows = target_rows(texts, family, parameters)
    assert rows[-1].label == "invalid" and rows[-1].count == 2
    assert sum(row.count for row in rows) == len(texts)
    assert np.sum([row.shares for row in rows], axis=0) == pytest.approx([1, 1])
    for row in rows[:-1]:
        low, high = interval(row.label, family.discrete)
        assert row.count == sum(low <= float(text) < high for text in texts[:-2])
        shift = 1 if family.discrete else 0  # P(X < low) of an integer law
        assert row.shares == pytest.approx((row.count / len(texts), law.cdf(high - shift) - law.cdf(low - shift)))
    assert 2 <= len(rows) <= 23
    found = printed(histogram(texts, (family, parameters), 100))
    assert found == {row.label.strip(): tuple(round(100 * share, 1) for share in row.shares) for row in rows}


def test_a_row_per_value_where_there_are_few(families):
    rows = target_rows(["3"], families["binomial"], {"n": 5.0, "p": 0.5})
    assert [row.label for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row.shares[1] for row in rows] == pytest.approx([k / 32 for k in (1, 5, 10, 10, 5, 1)])
    assert [row.count for row in rows] == [0, 0, 0, 1, 0, 0]


def test_draws_on_edges(families):
    """A bin holds its lower edge as a draw writes it; the last one its upper edge too, where the support ends."""
    texts = ["0", "0.1", "0.3", "0.6", "0.7", "1", "1.0", "1.1"]
    rows = target_rows(texts, families["uniform"], {"a": 0.0, "b": 1.0})
    assert [row.count for row in rows] == [1, 1, 0, 1, 0, 0, 1, 1, 0, 2, 1]
    assert [row.shares[1] for row in rows] == pytest.approx([0.1] * 10 + [0])


def test_no_bin_holds_nearly_all_of_a_heavy_tail(families):
    for prompt in families.prompts:
        if prompt.selected and not families[prompt.family].discrete:
            rows = target_rows(["1"], families[prompt.family], prompt.parameters)
            assert max(row.shares[1] for row in rows) < 0.62 and 8 <= len(rows) <= 22, prompt.prompt_id


@pytest.mark.parametrize("width", [1, 40, 80, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_the_terminal(families, width, ascii_only):
    lists = [
        ["1"],
        ["7.5"] * 9,
        [LONG, "東京" * 300, "a\u0301" * 300, "\x1b[31m\n" * 90, "", "Zoë"],
        ["-1e308", "1e308", "0", "1e-300"],
        texts_of(stats.cauchy(0, 1e7), False),
    ]
    targets = [None, *((families[name], parameters) for name, parameters, _ in CASES)]
    targets += [(families["truncnorm"], {"mu": 0.0, "sigma": 1e-9, "lower": -1e12, "upper": 1e12})]
    targets += [(families["gaussian"], {"mu": 1e17, "sigma": 1.0}), (families["binomial"], {"n": 9.0, "p": 0.0})]
    for texts in lists:
        for target in targets:
            page = histogram(texts, target, width, ascii_only)
            assert all(columns(line) <= width for line in page.splitlines())
            assert "\x1b" not in page and (page.isascii() or not ascii_only)
            if width == 200 and target:
                assert f": {len(texts)}" in page or "invalid" in page


def test_all_invalid(families):
    page = histogram(["I cannot\nsay"] * 4 + ["-1"], (families["poisson"], {"lambda": 4.0}), 80)
    assert page.startswith("poisson(lambda=4.0), 5 draws\n")
    assert printed(page)["invalid"] == (100.0, 0.0)
    assert page.endswith("invalid (not a number of this distribution): 5, such as 'I cannot\\nsay'")


def test_bars_have_one_scale(families):
    page = histogram(["0"] * 3 + ["1"], (families["bernoulli"], {"p": 0.5}), 60, ascii_only=True)
    bars = [[len(bar) for bar in re.findall("#+", line)] for line in page.splitlines() if "#" in line]
    (zero, half), (quarter, also_half) = bars
    assert half == also_half == round(zero / 1.5) and quarter == round(zero / 3)


def test_numbers_without_a_distribution():
    texts = ["1", "2", "2", "6", "six"]
    rows = number_rows(texts)
    assert [(row.label, row.count) for row in rows] == [
        ("1", 1), ("2", 2), ("3", 0), ("4", 0), ("5", 0), ("6", 1), ("not a number", 1)]  # fmt: skip
    page = histogram(texts, None, 80)
    assert page.startswith("5 draws; the prompt names no known distribution") and "target" not in page
    values = np.random.default_rng(0).gamma(2, 30, 500)
    rows = number_rows([f"{value:.3f}" for value in values])
    for row in rows:
        low, high = interval(row.label, False)
        assert row.count == ((values.round(3) >= low) & (values.round(3) < high)).sum()
    assert sum(row.shares[0] for row in rows) == pytest.approx(1) and 8 <= len(rows) <= 20
    assert number_rows(["1", "1", "x"]) == number_rows(["1", "2", "x", "y"]) == []


def test_an_outlier_does_not_hide_the_rest():
    rows = number_rows([*map(str, range(100)), "1e12"])
    assert rows[-1].label.startswith("> ") and rows[-1].count == 1 and len(rows) > 8


def test_texts_by_how_common_they_are():
    names = [f"city {number}" for number in range(30)]
    texts = ["<think>hm</think>Oslo\n"] * 5 + ["Oslo", "Bath", "Bath", ""] + names
    lines = histogram(texts, None, 80).splitlines()
    assert re.match(r" +Oslo  █+.? +15\.4 %  6$", lines[3])
    assert re.match(r" +Bath  █+.? +5\.1 %  2$", lines[4])
    assert re.match(r" +\(empty\)  .* +2\.6 %  1$", lines[5])
    assert re.match(r"\(13 other texts\)  █+.? +33\.3 %  13$", lines[-1]) and len(lines) == 24
    assert re.search(r"7\.5  █+ 100\.0 %  3", histogram(["7.5"] * 3, None, 80))


def test_control_characters_are_shown():
    assert printable("a\nb\t\x1b[0m\u2028\\ é 東 \u200d'\"") == "a\\nb\\t\\x1b[0m\\u2028\\ é 東 \u200d'\""
    assert printable("é\n", ascii_only=True) == "\\xe9\\n"
