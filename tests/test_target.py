"""Supports and laws of targets against the authors' code and against the distributions themselves."""

import numpy as np
import pytest
from scipy import stats

from cft import CftError
from cft.target import format_ticks, lattice_floor, make_target


def test_golden_targets(families, golden_rows):
    rows = golden_rows("targets")
    assert len(rows) > 50
    for row in rows:
        target = make_target(families, row["family"], row["parameters"], row["decimals"], row["max_bins"])
        assert len(target.values) == row["n"]
        assert (target.lower, target.upper) == pytest.approx((row["lower"], row["upper"]), rel=1e-9)
        pairs = row["at"] if "at" in row else dict(enumerate(zip(row["values"], row["probabilities"], strict=True)))
        index = [int(i) for i in pairs]
        assert [target.values[i] for i in index] == [value for value, _ in pairs.values()]
        np.testing.assert_allclose(target.probabilities[index], [p for _, p in pairs.values()], rtol=1e-9)


@pytest.mark.parametrize("max_bins", [101, 1001, 16384])
def test_every_prompt_has_a_sound_target(families, max_bins):
    for prompt in families.prompts[:: 97 if max_bins > 1001 else 23]:
        target = make_target(families, prompt.family, prompt.parameters, 3, max_bins)
        numbers = np.array([float(value) for value in target.values])
        assert len(target.values) == len(target.probabilities) == len(set(target.values))
        assert (np.diff(numbers) > 0).all()
        assert (target.probabilities >= 0).all()
        assert target.probabilities.sum() == pytest.approx(1, abs=1e-12)
        if not families[prompt.family].discrete:
            assert len(target.values) <= max_bins
            assert target.lower <= numbers[0] <= numbers[-1] <= target.upper


def test_masses_are_those_of_rounding(families):
    # One decimal: the mass of an inner value is the probability of rounding to it; the edges hold the tails.
    target = make_target(families, "gaussian", {"mu": 0.0, "sigma": 1.0}, 1)
    law = dict(zip(target.values, target.probabilities, strict=True))
    normal = stats.norm()
    assert law["0.0"] == pytest.approx(normal.cdf(0.05) - normal.cdf(-0.05))
    assert law["-1.3"] == pytest.approx(normal.cdf(-1.25) - normal.cdf(-1.35))
    assert target.values[0] == "-3.0"
    assert law["-3.0"] == pytest.approx(normal.cdf(-2.95))
    assert law["3.0"] == pytest.approx(normal.sf(2.95))


def test_unbounded_discrete_tail_goes_to_the_last_value(families):
    target = make_target(families, "poisson", {"lambda": 4.0})
    assert target.values[0] == "0"
    assert target.values[-1] == str(int(stats.poisson(4).ppf(0.999)))
    assert target.probabilities[-1] == pytest.approx(stats.poisson(4).sf(int(target.values[-1]) - 1))


def test_a_target_narrower_than_the_lattice_is_one_value(families):
    target = make_target(families, "gaussian", {"mu": 0.123, "sigma": 1e-9}, 2)
    assert (target.values, target.probabilities.tolist()) == (["0.12"], [1.0])


@pytest.mark.parametrize(
    ("family", "parameters", "decimals", "max_bins"),
    [
        ("gaussian", {"mu": 3.5, "sigma": 3.0}, 1, 21),
        ("gaussian", {"mu": 3.5, "sigma": 30.0}, 0, 21),
        ("lognormal", {"mu": 0.0, "sigma": 1.0}, 2, 101),
        ("beta", {"alpha": 7.0, "beta": 7.0}, 2, 1001),
        ("poisson", {"lambda": 4.0}, 5, 1001),
        ("skellam", {"mu1": 10.5, "mu2": 10.5}, 5, 1001),
    ],
)
def test_lattice_floor_by_enumeration_and_by_simulation(families, family, parameters, decimals, max_bins):
    target, frozen = make_target(families, family, parameters, decimals, max_bins), families[family].frozen(parameters)
    decimals = 0 if families[family].discrete else decimals
    listed = dict(zip(target.values, target.probabilities, strict=True))
    # Every answer between far quantiles, one after the other, and what of them is listed.
    ends = [round(float(frozen.ppf(level)) * 10**decimals) for level in (1e-9, 1 - 1e-9)]
    support = divergence = whole = 0.0
    for tick in range(ends[0] - 1, ends[1] + 2):
        edges = np.array([tick - 0.5, tick + 0.5]) / 10**decimals
        share, text = np.diff(frozen.cdf(edges)).item(), f"{tick / 10**decimals:.{decimals}f}"
        whole += share
        if text in listed:
            support += share
            divergence += listed[text] * np.log(listed[text] / share)
    assert whole == pytest.approx(1, abs=1e-8)
    floors = lattice_floor(frozen, target.values, target.probabilities)
    assert floors == pytest.approx((support, divergence), rel=1e-6, abs=1e-9)
    draws = frozen.ppf(np.random.default_rng(3).random(20_000))
    inside = np.mean([f"{draw:.{decimals}f}" in listed for draw in draws.tolist()])
    error = max(support * (1 - support), 1e-4) ** 0.5 / len(draws) ** 0.5
    assert inside == pytest.approx(floors[0], abs=4 * error)


def test_lattice_floor_is_perfect_only_where_every_answer_is_listed(families):
    found = [
        lattice_floor(families["gaussian"].frozen(parameters), target.values, target.probabilities)
        for parameters in [{"mu": 0.0, "sigma": 1.0}]
        for target in (make_target(families, "gaussian", parameters, 2, bins) for bins in (11, 101, 1001))
    ]
    shares, divergences = zip(*found, strict=True)
    # A list is ten times as dense as the one before, the last has all 619 numbers between its quantiles.
    assert shares == pytest.approx((0.0163, 0.163, 0.998), rel=0.03)
    # Where strings lie evenly, each stands for as many others: the divergence is that of the share.
    assert divergences[:2] == pytest.approx(-np.log(shares[:2]), abs=0.02)
    assert 0 < divergences[2] < 0.01  # the two ends, which carry the tails
    bernoulli = make_target(families, "bernoulli", {"p": 0.1})
    floors = lattice_floor(families["bernoulli"].frozen({"p": 0.1}), bernoulli.values, bernoulli.probabilities)
    assert floors == pytest.approx((1, 0), abs=1e-12)


def test_too_large_a_support_is_refused(families):
    with pytest.raises(CftError, match=r"geometric\(p=1e-07\): a support of 69,077,550 integers is too large"):
        make_target(families, "geometric", {"p": 1e-7})


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("gaussian", {"mu": 1e300, "sigma": 1.0}),
        ("cauchy", {"x0": 0.0, "gamma": 1e200}),
        ("lognormal", {"mu": 0.0, "sigma": 400.0}),
        ("student_t", {"nu": 0.01}),
        ("geometric", {"p": 1e-300}),
    ],
)
def test_a_range_beyond_floating_point_is_refused(families, family, parameters):
    with pytest.raises(CftError, match=rf"{family}\(.*\): its range \[.*\] is too wide to list values of"):
        make_target(families, family, parameters)


def test_format():
    assert format_ticks(np.array([-12345, -5, 0, 5, 12345]), 2) == ["-123.45", "-0.05", "0.00", "0.05", "123.45"]
    assert format_ticks(np.array([-3, 7]), 0) == ["-3", "7"]
