"""Supports and laws of targets against the authors' code and against the distributions themselves."""

import numpy as np
import pytest
from scipy import stats

from cft import CftError
from cft.target import format_ticks, make_target


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
