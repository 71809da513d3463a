"""The bootstrap behind every interval of the tables, fig2 and the report."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cft import fidelity, resampling, summary
from cft.distributions import registry
from cft.stats import distance_error, midpoints, pit_floor, pit_w1


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
    found = [summary.estimate(units(np.random.default_rng(seed), families=12)) for seed in range(200)]
    assert sum(interval.low < 10 < interval.high for interval in found) == pytest.approx(190, abs=9)


def test_pairing_cancels_what_both_sides_share():
    base = units(np.random.default_rng(6))
    tuned = base / 2 + np.random.default_rng(7).normal(0, 0.1, base.shape)
    alone, paired = summary.estimate(base), summary.ratio(tuned, base)
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 50


def test_interval_of_a_mean_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(1)
    values = pd.DataFrame(generator.normal(5, 2, (200, 1)), columns=[0])
    found = summary.estimate(values)
    half = 1.96 * values[0].std(ddof=0) / np.sqrt(200)
    assert found.estimate == pytest.approx(values[0].mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_interval_covers_seeds_that_differ():
    same, different = np.ones((50, 3)), np.tile([1.0, 2.0, 3.0], (50, 1))
    assert summary.estimate(pd.DataFrame(same))[1:] == (1, 1)
    low, high = summary.estimate(pd.DataFrame(different))[1:]
    assert low < 1.5 and high > 2.5


def test_ratio_is_paired():
    tuned = pd.DataFrame(np.random.default_rng(2).lognormal(0, 2, (30, 1)))
    found = summary.ratio(3 * tuned, tuned)
    assert found == pytest.approx((3, 3, 3))  # what both sides share cancels, however much families differ
    incomplete = tuned.copy()
    incomplete.iloc[0] = np.nan
    assert summary.ratio(3 * tuned, incomplete) == pytest.approx((3, 3, 3))


def test_seeds_that_differ_widen_the_interval():
    same = units(np.random.default_rng(1), families=200, noise=0.01)
    quiet, wide = summary.estimate(same), summary.estimate(same.add([-3.0, 0.0, 3.0], axis=1))
    assert wide.high - wide.low > 3 * (quiet.high - quiet.low)


def test_one_unit_or_nothing_has_no_interval():
    assert np.isnan(summary.estimate(pd.DataFrame([[1.0, 2.0]])).low)
    assert np.isnan(summary.estimate(pd.DataFrame()).estimate)


def prompts_of(rng, families, prompts, level=10.0):
    """A drawn cell of one seed: families, prompts and draws differ with standard deviations 1, 1 and 1/2."""
    truths = level + rng.normal(0, 1, (families, 1)) + rng.normal(0, 1, (families, prompts))
    index = pd.MultiIndex.from_product([range(families), range(prompts)], names=["unit", "item"])
    found = pd.DataFrame((truths + rng.normal(0, 0.5, truths.shape)).reshape(-1, 1), index=index)
    return resampling.Drawn(found, found * 0 + 0.5)


@pytest.mark.parametrize(("families", "prompts", "stated"), [(24, 1, 0.94), (24, 3, 0.945), (6, 3, 0.94)])
def test_coverage_is_the_stated_one(families, prompts, stated):
    found = [summary.estimate(prompts_of(np.random.default_rng(seed), families, prompts)) for seed in range(400)]
    # A standard error of one percentage point; Student's own interval of the family means: 94%, 95%, 95%.
    assert np.mean([interval.low <= 10 <= interval.high for interval in found]) == pytest.approx(stated, abs=0.025)


def test_prompts_and_draws_are_in_the_differences_between_families():
    several = prompts_of(np.random.default_rng(2), 60, 4, level=100)
    between = several.found.groupby("unit").mean().var(ddof=0).item() / 60
    draws = (4 * 0.5) ** 2 / 4 / 60  # four times as large errors, of four prompts in each of the families
    for cell, variance in (
        (several.found, between),
        (several, between),
        (several._replace(errors=several.errors * 16), 16 * draws),  # more than families differ: that much
        (several._replace(found=several.found * 0 + 100, errors=several.errors * 4), draws),  # they do not differ
    ):
        assert resampling.resample(resampling.combine, cell).values.var() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("rate", [0.01, 0.99])
def test_the_level_of_draws_stays_within_the_range_of_the_metric(rate):
    index = pd.MultiIndex.from_product([range(6), range(3)], names=["unit", "item"])
    rates = pd.DataFrame(rate, index=index, columns=[0])
    found = resampling.resample(resampling.combine, resampling.Drawn(rates, rates * 0 + 0.05, 1.0))
    assert found.values.min() >= 0 and found.values.max() <= 1
    assert found.values.mean() == pytest.approx(rate, abs=1e-3) and found.values.std() > 0
    free = resampling.resample(resampling.combine, resampling.Drawn(rates, rates * 0 + 0.05))
    assert rate < 0.5 or free.values.max() > 1  # what the range is for


def test_intervals_stay_within_the_range_of_the_metric():
    """Of three families, Student's own interval would reach below 0 and beyond 1."""
    rates = pd.DataFrame([0.02, 0.5, 0.99])
    free = summary.estimate(rates)
    assert free.low < 0 and free.high > 1
    assert summary.estimate(resampling.Drawn(rates, rates * 0, 1.0)) == (free.estimate, 0, 1)
    assert summary.estimate(resampling.Drawn(rates, rates * 0)) == (free.estimate, 0, free.high)
    unknown = summary.estimate(resampling.Drawn(rates[:1], rates[:1] * 0))
    assert np.isnan([unknown.low, unknown.high]).all()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_of_none_or_all_have_an_interval(rate):
    """24 prompts of 60 draws: it reaches to Clopper and Pearson's bound for all draws together, and not three times as
    far."""
    found = pd.DataFrame(rate, index=range(24), columns=[0])
    error = stats.beta(0.5, 60.5).std()
    one = summary.estimate(resampling.Drawn(found, found * 0 + error, 1.0))
    bound = stats.binomtest(0, 24 * 60).proportion_ci().high
    assert one.estimate == rate and bound <= one.high - one.low <= 3 * bound
    assert (one.low, one.high)[int(rate)] == rate


def test_a_seed_without_a_value_does_not_halve_the_error_of_the_others():
    one = pd.DataFrame(5.0, index=range(40), columns=[0])
    two = one.assign(**{"1": np.nan}).set_axis([0, 1], axis=1)
    alone, beside = (
        resampling.resample(resampling.combine, resampling.Drawn(part, part * 0 + 0.5)) for part in (one, two)
    )
    assert np.nanstd(beside.values) == pytest.approx(alone.values.std(), rel=0.1)


def test_draws_of_every_seed_are_draws_of_their_own():
    """Four seeds that agree, with as large an error each: the mean has half the error."""
    one = pd.DataFrame(5.0, index=range(40), columns=[0])
    four = pd.concat([one] * 4, axis=1).set_axis(range(4), axis=1)
    alone, together = (
        resampling.resample(resampling.combine, resampling.Drawn(part, part * 0 + 0.5)) for part in (one, four)
    )
    assert together.values.std() == pytest.approx(alone.values.std() / 2, rel=0.1)


def test_families_of_different_sizes_weigh_the_same():
    index = pd.MultiIndex.from_tuples([("a", 0), ("a", 1), ("a", 2), ("b", 3)], names=["unit", "item"])
    values = pd.DataFrame([[1.0], [2.0], [3.0], [10.0]], index=index)
    assert summary.estimate(values).estimate == 6
    found = resampling.resample(resampling.combine, values)
    assert found.values.mean() == pytest.approx(6, abs=0.3) and found.values.max() == 10 and found.units == 2


def test_resampled_draws_are_further_from_the_target_than_draws():
    target, rng = registry()["uniform"].frozen({"a": 0.0, "b": 1.0}), np.random.default_rng(3)
    excess = []
    for _ in range(40):
        draws = rng.random(200)
        resampled = [pit_w1(rng.choice(draws, 200), target) for _ in range(100)]
        assert np.quantile(resampled, 0.025) > 0.003  # of a perfect sampler, whose law's distance is 0
        excess.append(np.mean(resampled) - pit_w1(draws, target))
    assert np.mean(excess) > 0.3 * pit_floor(200).mean


def test_difference_by_family():
    rng = np.random.default_rng(4)
    floor = pd.DataFrame(rng.random((30, 1)))
    found = summary.difference(floor + 0.25, floor, "median")
    assert found == pytest.approx((0.25, 0.25, 0.25))
    first, second = pd.DataFrame([[1.0], [2.0], [9.0]]), pd.DataFrame([[0.5], [0.5], [np.nan]])
    assert summary.difference(first, second).estimate == pytest.approx(1)
    assert np.isnan(summary.difference(first, pd.DataFrame()).estimate)


def test_a_perfect_sampler_has_no_excess_over_its_floor():
    rng, levels = np.random.default_rng(5), midpoints(300)
    index = pd.MultiIndex.from_product([range(12), range(2)], names=["unit", "item"])
    floor = pd.DataFrame(pit_floor(300).mean, index=index, columns=[0])
    holds = 0
    for _ in range(200):
        ordered = np.sort(rng.random((24, 300)), axis=1)
        values = floor * 0 + np.abs(ordered - levels).mean(axis=1)[:, None]
        errors = floor * 0 + np.array([[distance_error(row, levels)] for row in ordered])
        excess = summary.difference(resampling.Drawn(values, errors), floor)
        holds += excess.low <= 0 <= excess.high
    assert holds >= 194


@pytest.mark.parametrize(("draws", "seeds"), [(60, 1), (1000, 1), (1000, 5)])
def test_the_median_of_a_perfect_sampler_is_the_one_that_it_has(draws, seeds):
    """Samplers that draw, 24 families of one prompt: their median is up to 10% below the floor of single distances."""
    levels, rng = midpoints(draws), np.random.default_rng(8)
    index = pd.MultiIndex.from_product([range(24), [0]], names=["unit", "item"])
    floor, high = (
        pd.DataFrame(getattr(pit_floor(draws), name), index=index, columns=range(seeds)) for name in ("mean", "high")
    )
    found = []
    for _ in range(150):
        distances = [np.abs(np.sort(rng.random((24, draws)), axis=1) - levels).mean(axis=1) for _ in range(seeds)]
        found.append(np.median(np.mean(distances, axis=0)))
    value, excess = fidelity.perfect_medians(floor, high)
    assert value == pytest.approx(np.mean(found), rel=0.05)
    assert excess == pytest.approx(np.mean(found) - floor.iloc[0, 0], abs=0.05 * value)
    assert seeds > 1 or value < 0.95 * floor.iloc[0, 0]


def test_fits_are_by_model_method_and_split():
    p_values = {"soft": [0.001, 0.5, 0.04], "hard": [0.02, 0.03], "base": [np.nan, np.nan]}
    rows = [
        ("m", method, "unseen_params", f"gaussian(mu={mu}.0,sigma=1.0)", p_value)
        for method, found in p_values.items()
        for mu, p_value in enumerate(found)
    ]
    scores = pd.DataFrame(rows, columns=["model", "method", "split", "item", "value"])
    found = fidelity.fits(scores.assign(benchmark="structured", metric="p_fit", seed=0))
    assert sorted(found.index) == [("m", "hard", "unseen_params"), ("m", "soft", "unseen_params")]
    assert found["share_passing"].tolist() == pytest.approx([0, 2 / 3])
    assert found["least_p"].tolist() == pytest.approx([0.04, 0.003])
    assert found["perfect_share_passing"].between(0.95, 1).all()
