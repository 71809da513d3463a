"""The bootstrap behind every interval of the tables, fig2 and the report."""

import numpy as np
import pandas as pd
import pytest

from cft import summary


def units(rng, families=8, seeds=3, noise=0.3):
    """[families x seeds] scores around 10: families differ with standard deviation 2, seeds with `noise`."""
    level = rng.normal(10, 2, (families, 1))
    return pd.DataFrame(level + rng.normal(0, noise, (families, seeds)))


def test_estimates_by_hand():
    values = pd.DataFrame([[1.0, 3.0], [10.0, 10.0], [4.0, np.nan]])
    assert summary.estimate(values).estimate == pytest.approx((2 + 10 + 4) / 3)
    assert summary.estimate(values, "median").estimate == 4
    assert summary.ratio(2 * values, values).estimate == pytest.approx(2)


def test_interval_is_that_of_a_mean_of_independent_units():
    interval = summary.estimate(pd.DataFrame(np.random.default_rng(9).normal(size=(400, 1))))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)


def test_interval_covers_the_truth():
    # 12 units: a bootstrap of few units covers a little under 95 %.
    found = [summary.estimate(units(np.random.default_rng(seed), families=12)) for seed in range(100)]
    assert 84 <= sum(interval.low < 10 < interval.high for interval in found) <= 99


def test_pairing_cancels_what_both_sides_share():
    base = units(np.random.default_rng(6))
    tuned = base / 2 + np.random.default_rng(7).normal(0, 0.1, base.shape)
    alone, paired = summary.estimate(base), summary.ratio(tuned, base)
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 50


def test_seeds_that_differ_widen_the_interval():
    same = units(np.random.default_rng(1), families=200, noise=0.01)
    quiet, wide = summary.estimate(same), summary.estimate(same.add([-3.0, 0.0, 3.0], axis=1))
    assert wide.high - wide.low > 3 * (quiet.high - quiet.low)


def test_one_unit_or_nothing_has_no_interval():
    assert np.isnan(summary.estimate(pd.DataFrame([[1.0, 2.0]])).low)
    assert np.isnan(summary.estimate(pd.DataFrame()).estimate)
