"""Distances and tests of fit against SciPy's own, closed forms, enumeration and simulated perfect samplers."""

import math

import numpy as np
import pytest
import scipy.stats

from cft import fit, stats
from cft.distributions import registry
from cft.envelope import deviation

REGISTRY = registry()
SELECTED = REGISTRY.select(selected=True)
NORMAL = REGISTRY["gaussian"].frozen({"mu": 0.0, "sigma": 1.0})
COIN = REGISTRY["bernoulli"].frozen({"p": 0.1})
POISSON = REGISTRY["poisson"].frozen({"lambda": 4.0})


def frozen(prompt):
    return REGISTRY[prompt.family].frozen(prompt.parameters)


def ks_of_law(values, invalid, target):
    """The distance of the law that gives each draw the same probability, as bounds.py has it."""
    n, nothing = len(values) + invalid, np.zeros(0)
    masses = np.full(len(values), 1 / n)
    return deviation(target, values, masses, nothing, nothing, nothing).supremum.low + invalid / n


def test_ks_of_valid_draws_is_scipys():
    values = np.random.default_rng(1).standard_normal(300) + 0.2
    assert fit.ks(values, NORMAL) == pytest.approx(scipy.stats.kstest(values, NORMAL.cdf).statistic)


@pytest.mark.parametrize("invalid", [0, 3, 200])
def test_ks_is_that_of_a_law(invalid):
    values = np.random.default_rng(2).standard_normal(100) * 1.5
    assert fit.ks(values, NORMAL, invalid) == pytest.approx(ks_of_law(values, invalid, NORMAL))


def test_ks_of_a_discrete_target_tends_to_that_of_the_law():
    values = np.random.default_rng(3).poisson(4.5, 40_000).astype(float)
    law = ks_of_law(values, 10_000, POISSON)
    # The randomisation adds at most a Kolmogorov distance of 40,000 draws: above 0.0097 once in a thousand times.
    assert fit.ks(values, POISSON, 10_000, np.random.default_rng(4)) == pytest.approx(law, abs=0.0097)


def test_without_a_valid_draw_distances_are_the_greatest_and_without_any_draw_undefined():
    nothing, generator = np.zeros(0), np.random.default_rng(5)
    assert fit.ks(nothing, NORMAL, 4) == fit.ks_upper(1.0, 0, 4) == fit.total_variation(nothing, POISSON, 4) / 1 == 1
    assert fit.p_value(nothing, NORMAL, 1000, generator) == 0
    assert fit.p_value(nothing, POISSON, 1000, generator) < 1e-12
    undefined = [fit.ks(nothing, NORMAL), fit.ks_upper(0.0, 0), fit.total_variation(nothing, POISSON)]
    undefined += [fit.p_value(nothing, target, 0, generator) for target in (NORMAL, POISSON)]
    undefined += [*fit.ks_floor(0), *fit.total_variation_floor(POISSON, 0)]
    assert np.isnan(undefined).all()


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
def test_ks_floor_is_the_mean_and_quantile_of_its_law(n):
    uniform = np.random.default_rng(6).random((4000, n))
    simulated = scipy.stats.ks_1samp(uniform, scipy.stats.uniform.cdf, axis=1, method="asymp").statistic
    assert fit.ks_floor(n).mean == pytest.approx(scipy.stats.kstwo.mean(n), rel=1e-5)
    assert fit.ks_floor(n).mean == pytest.approx(simulated.mean(), rel=0.02)
    assert fit.ks_floor(n).high == pytest.approx(np.quantile(simulated, 0.95), rel=0.03)


def test_ks_floor_of_very_many_draws_is_kolmogorovs():
    # The mean of Kolmogorov's limit law is sqrt(pi/2) ln 2.
    assert fit.ks_floor(1_000_000).mean * 1000 == pytest.approx(math.sqrt(math.pi / 2) * math.log(2), rel=0.005)


def test_ks_upper_by_hand():
    bound = 0.03 + math.sqrt(math.log(80) / 2000)
    assert fit.ks_upper(0.03, 1000) == pytest.approx(1 - 0.025 ** (1 / 1000) * (1 - bound))
    # 90 of 100 valid and a distance of 0.19, so that the valid ones' is 0.1.
    share = scipy.stats.binomtest(90, 100, alternative="greater").proportion_ci(0.975, method="exact").low
    assert fit.ks_upper(0.19, 90, 10) == pytest.approx(1 - share * (1 - 0.1 - math.sqrt(math.log(80) / 180)))


@pytest.mark.parametrize(("shift", "share"), [(0.0, 1.0), (0.3, 1.0), (0.3, 0.8), (0.0, 0.5)])
def test_ks_upper_is_above_the_laws_distance_in_19_of_20_cases(shift, share):
    rng = np.random.default_rng(7)
    truth = share * (2 * scipy.stats.norm.cdf(shift / 2) - 1) + 1 - share
    bounds = []
    for valid in rng.binomial(400, share, size=500):
        distance = fit.ks(rng.standard_normal(valid) + shift, NORMAL, 400 - valid)
        bounds.append(fit.ks_upper(distance, valid, 400 - valid))
    assert np.mean(np.array(bounds) >= truth) >= 0.95
    assert np.mean(bounds) < truth + 0.2  # and it is no trivial bound


def test_total_variation_by_hand():
    values = np.array([0.0] * 70 + [1.0] * 20)
    assert fit.total_variation(values, COIN) == pytest.approx((abs(7 / 9 - 0.9) + abs(2 / 9 - 0.1)) / 2)
    assert fit.total_variation(values, COIN, 10) == pytest.approx((0.2 + 0.1 + 0.1) / 2)


def test_total_variation_of_a_long_support_and_of_numbers_far_out():
    values = np.random.default_rng(8).poisson(5, 500).astype(float)
    integers = np.arange(60)
    shares = np.array([(values == integer).mean() for integer in integers])
    assert fit.total_variation(values, POISSON) == pytest.approx(np.abs(shares - POISSON.pmf(integers)).sum() / 2)
    assert fit.total_variation(np.full(50, 1e9), POISSON) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 10, 73])
def test_total_variation_floor_of_a_coin_is_its_enumeration(n):
    heads = np.arange(n + 1)
    distances, masses = np.abs(heads / n - 0.1), scipy.stats.binom.pmf(heads, n, 0.1)
    floor = fit.total_variation_floor(COIN, n)
    assert floor.mean == pytest.approx(distances @ masses)
    order = np.argsort(distances)
    exact = distances[order][np.searchsorted(masses[order].cumsum(), 0.95)]
    assert floor.high == pytest.approx(exact, abs=1.01 / n)  # one step, where the quantile is close to a jump


@pytest.mark.parametrize(
    "prompt", [prompt for prompt in SELECTED if REGISTRY[prompt.family].discrete], ids=lambda prompt: prompt.prompt_id
)
def test_total_variation_floor_is_what_a_perfect_sampler_scores(prompt):
    target, rng = frozen(prompt), np.random.default_rng(9)
    found = [fit.total_variation(stats.quantiles_of(target, levels), target) for levels in rng.random((600, 1000))]
    assert fit.total_variation_floor(target, 1000).mean == pytest.approx(np.mean(found), rel=0.05)
    assert fit.total_variation_floor(target, 1000).high == pytest.approx(np.quantile(found, 0.95), rel=0.15)


@pytest.mark.parametrize(
    ("texts", "decimals"),
    [
        (["1.25", "3.5", "0.75"], 2),
        (["3", "-4", "+2.", "1e3", "0.5"], 0),
        (["1e-3", "2.5E-2", "<think>3.14</think> 0.125\n"], 3),
        (["0.1", "0.25"], 2),
        (["1e-99999999999999999999999"], 12),
        (["0." + "3" * 80], 12),
        (["\uff11.\uff15"], 1),
        ([], 0),
    ],
)  # fmt: skip
def test_printed_decimals(texts, decimals):
    assert fit.printed_decimals(texts) == decimals


def test_p_value_of_finely_printed_draws_is_scipys():
    values = np.random.default_rng(10).standard_normal(150) + 0.3
    expected = scipy.stats.kstest(values, NORMAL.cdf, method="exact").pvalue
    assert 0.001 < expected < 0.5
    assert fit.p_value(values, NORMAL, 0, np.random.default_rng(0)) == pytest.approx(expected, rel=1e-6)


def test_p_value_of_a_discrete_target_is_that_of_pearsons_test():
    values = np.array([0.0] * 870 + [1.0] * 130)
    expected = scipy.stats.chisquare([870, 130], [900, 100]).pvalue
    assert fit.p_value(values, COIN, 0, np.random.default_rng(0)) == pytest.approx(expected)


def test_cells_are_the_targets_and_expect_five_draws():
    values = np.random.default_rng(11).poisson(4, 200).astype(float)
    # Expected at 0, 1, … of 200: 3.7 14.7 29.3 39.1 39.1 31.3 20.8 11.9 6.0 2.6 1.1 … : the first two pooled, and
    # everything from 8 on, as from 9 on only 4.3 are left.
    edges = [*range(2, 9), 1000]
    observed = np.histogram(values, [0, *edges])[0]
    cumulative = np.append(POISSON.cdf(np.array(edges[:-1]) - 1), 1)
    expected = scipy.stats.chisquare(observed, 200 * np.diff(cumulative, prepend=0)).pvalue
    assert fit.p_value(values, POISSON, 0, np.random.default_rng(0)) == pytest.approx(expected)


def test_p_value_of_few_draws_is_that_of_the_enumeration():
    heads = np.arange(11)
    masses = scipy.stats.binom.pmf(heads, 10, 0.1)
    for found in (1, 2, 3, 4):
        values = np.array([1.0] * found + [0.0] * (10 - found))
        exact = masses[np.abs(heads - 1) >= abs(found - 1)].sum()
        # 1,999 simulations: a standard error of at most 0.011.
        assert fit.p_value(values, COIN, 0, np.random.default_rng(0)) == pytest.approx(exact, abs=0.03)


def perfect_rejections(discrete, n, decimals, replicates=2000):
    """How often perfect samplers of all selected prompts of a kind are rejected at 5 %."""
    rng = np.random.default_rng(12)
    prompts = [prompt for prompt in SELECTED if REGISTRY[prompt.family].discrete == discrete]
    rejected = []
    for number, prompt in enumerate(prompts):
        target = frozen(prompt)
        for _ in range(number, replicates, len(prompts)):
            values = np.round(stats.quantiles_of(target, rng.random(n)), decimals)
            rejected.append(fit.p_value(values, target, 0, rng, decimals) <= 0.05)
    assert len(rejected) == replicates
    return np.mean(rejected)


@pytest.mark.parametrize(
    ("discrete", "n", "decimals"),
    [(False, 1000, 5), (False, 1000, 2), (False, 100, 2), (True, 1000, 0), (True, 100, 0), (True, 30, 0)],
)
def test_a_perfect_sampler_is_rejected_at_the_level(discrete, n, decimals):
    # 2,000 replicates: a standard error of 0.5 percentage points.
    assert 0.035 <= perfect_rejections(discrete, n, decimals) <= 0.065


def test_rounding_that_drops_zeros_is_told_from_the_texts():
    # With two decimals a tenth of the texts end earlier, and at 0.14 the standard deviation is a dozen units.
    target, rng = REGISTRY["exponential"].frozen({"lambda": 7.0}), np.random.default_rng(13)
    found = []
    for _ in range(400):
        texts = [str(round(value, 2)) for value in rng.exponential(1 / 7, 1000)]
        values = np.array([float(text) for text in texts])
        found.append(fit.p_value(values, target, 0, rng, fit.printed_decimals(texts)))
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.085
    many = np.round(rng.exponential(1 / 7, 5000), 2)
    assert fit.p_value(many, target, 0, rng, decimals=2) > 0.01
    assert fit.p_value(many, target, 0, rng) < 1e-3  # as exact numbers they lie on a few dozen points


@pytest.mark.parametrize(
    ("family", "parameters", "answers"),
    [
        ("gaussian", {"mu": 3.5, "sigma": 3.0}, lambda u: np.round(scipy.stats.norm(3.5, 3).ppf(u))),
        ("beta", {"alpha": 7.0, "beta": 7.0}, lambda u: np.round(u)),
        ("gaussian", {"mu": 3.5, "sigma": 3.0}, lambda u: scipy.stats.norm(4.0, 3).ppf(u)),
        ("poisson", {"lambda": 4.0}, lambda u: scipy.stats.poisson(4.5).ppf(u)),
        ("bernoulli", {"p": 0.1}, lambda u: (u > 0.85).astype(float)),
    ],
)
def test_wrong_samplers_are_rejected(family, parameters, answers):
    rng = np.random.default_rng(14)
    values = answers(rng.random(1000))
    decimals = 5 if (values % 1).any() else 0
    assert fit.p_value(values, REGISTRY[family].frozen(parameters), 0, rng, decimals) < 1e-3


@pytest.mark.parametrize(
    "target", [NORMAL, POISSON, COIN, REGISTRY["bernoulli"].frozen({"p": 0.5})], ids=lambda target: target.dist.name
)
def test_invalid_draws_lead_to_rejection(target):
    rng = np.random.default_rng(15)
    values = stats.quantiles_of(target, stats.midpoints(900))
    assert fit.p_value(values, target, 100, rng) < 0.005
    assert fit.p_value(values, target, 1, rng) > 0.5


def test_invalid_draws_do_not_stand_in_for_values_that_are_missing():
    # 40 ones too few, 40 invalid draws: they count as zeros, not as ones.
    values = np.array([0.0] * 900 + [1.0] * 60)
    expected = scipy.stats.chisquare([940, 60], [900, 100]).pvalue
    assert fit.p_value(values, COIN, 40, np.random.default_rng(0)) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_target_that_is_too_wide_or_a_number_too_large_is_no_error():
    wide = REGISTRY["lognormal"].frozen({"mu": 0.0, "sigma": 2000.0})
    assert 0 <= fit.p_value(np.array([1.0, 2.0]), wide, 0, np.random.default_rng(0)) <= 1
    assert fit.p_value(np.full(100, 1e308), NORMAL, 0, np.random.default_rng(0)) < 1e-12


def test_holm_by_hand():
    assert fit.holm([0.01, 0.04, np.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert fit.holm([0.6, 0.7]).tolist() == [1, 1]


def test_benjamini_hochberg_by_hand():
    found = fit.benjamini_hochberg([0.01, 0.04, np.nan, 0.03, 0.005])
    assert found == pytest.approx([0.02, 0.04, np.nan, 0.04, 0.02], nan_ok=True)
    assert np.isnan(fit.benjamini_hochberg([np.nan])).all()


def test_share_passing():
    assert fit.share_passing([0.01, 0.04, np.nan, 0.03, 0.005]) == 0.5
    assert fit.share_passing([0.01, 0.04, 0.03, 0.005], alpha=0.01) == 1
    assert math.isnan(fit.share_passing([np.nan]))


def test_share_passing_of_a_perfect_sampler():
    # Of two: one is rejected where the lesser is at most a/2, the other too where both are at most a.
    a = 0.05
    rejected = 1 - (1 - a / 2) ** 2 + a**2 - (a / 2) ** 2
    assert fit.perfect_share_passing(2) == pytest.approx(1 - rejected / 2, abs=0.003)
    uniform = np.random.default_rng(16).random((4000, 24))
    simulated = np.mean([fit.share_passing(row) for row in uniform])
    assert fit.perfect_share_passing(24) == pytest.approx(simulated, abs=0.001)
    assert math.isnan(fit.perfect_share_passing(0))
