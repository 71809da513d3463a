import math

import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

from cft import stats
from cft.distributions import registry

QUANTILES = (0.001, 0.999)


def frozen(family, **parameters):
    return registry()[family].frozen(parameters)


def closed_form_floor(target, n):
    spread, _ = quad(lambda x: math.sqrt(target.cdf(x) * target.sf(x)), *target.ppf([1e-12, 1 - 1e-12]), limit=200)
    return math.sqrt(2 / (math.pi * n)) * spread


@pytest.mark.parametrize("prompt", registry().select(selected=True), ids=lambda prompt: prompt.prompt_id)
def test_quantiles_are_scipys(prompt):
    target = registry()[prompt.family].frozen(prompt.parameters)
    levels = np.append(stats.midpoints(90), [1e-6, 1 - 1e-6])
    assert stats.quantiles_of(target, levels) == pytest.approx(target.ppf(levels), rel=1e-12)


@pytest.mark.parametrize(
    ("family", "parameters", "level", "integer"),
    [
        ("bernoulli", {"p": 0.9}, 0.1, 0),
        ("geometric", {"p": 0.25}, 0.25, 1),
        ("hypergeometric", {"M": 100.0, "K": 50.0, "N": 25.0}, 0.5, 12),
    ],
)
def test_a_level_that_the_distribution_function_reaches_up_to_rounding(family, parameters, level, integer):
    assert stats.quantiles_of(frozen(family, **parameters), np.array([level])) == integer


def test_quantiles_where_scipys_search_fails():
    target = frozen("skellam", mu1=8.5, mu2=12.0)
    levels = stats.midpoints(60)
    with pytest.raises(RuntimeError):
        target.ppf(levels)
    found = stats.quantiles_of(target, levels)
    assert (target.cdf(found) >= levels).all() and (target.cdf(found - 1) < levels).all()


@pytest.mark.parametrize(("p", "r"), [(0.15, 15.0), (0.9, 0.01), (0.001, 0.02)])
def test_the_table_of_a_long_tailed_law_covers_its_tail(p, r):
    target = frozen("negative_binomial", r=r, p=p)
    assert stats.quantiles_of(target, np.array([1 - 1e-9])) == target.ppf(1 - 1e-9)


def test_w1_by_hand():
    # Quantiles of uniform(0, 1) at 1/4 and 3/4, against 0.5 and 0.25 in any order.
    assert stats.w1_quantile(np.array([0.5, 0.25]), frozen("uniform", a=0.0, b=1.0)) == pytest.approx(0.125)


def test_w1_is_the_shift_of_a_shifted_sample():
    target = frozen("gaussian", mu=0.0, sigma=1.0)
    exact = target.ppf(stats.midpoints(400))
    assert stats.w1_quantile(exact, target) == 0
    assert stats.w1_quantile(exact + 3, target) == pytest.approx(3)


def test_distances_without_draws_are_undefined():
    target = frozen("gaussian", mu=0.0, sigma=1.0)
    assert math.isnan(stats.w1_quantile(np.array([]), target))
    assert math.isnan(stats.pit_w1(np.array([]), target))


def test_pit_w1_does_not_depend_on_scale_and_counts_invalid_draws():
    rng = np.random.default_rng(1)
    draws = rng.standard_normal(500) + 0.3
    plain = stats.pit_w1(draws, frozen("gaussian", mu=0.0, sigma=1.0))
    assert stats.pit_w1(100 * draws, frozen("gaussian", mu=0.0, sigma=100.0)) == pytest.approx(plain)
    assert stats.pit_w1(draws, frozen("gaussian", mu=0.0, sigma=1.0), invalid=500) == pytest.approx(plain / 2 + 0.25)
    assert stats.pit_w1(np.array([]), frozen("gaussian", mu=0.0, sigma=1.0), invalid=3) == 0.5


def test_pit_w1_of_the_worst_valid_sampler_is_that_of_an_invalid_draw():
    assert stats.pit_w1(np.full(1000, 1e9), frozen("gaussian", mu=0.0, sigma=1.0)) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(
    "target", [frozen("bernoulli", p=0.3), frozen("poisson", **{"lambda": 4.0}), frozen("geometric", p=0.125)]
)
def test_randomised_transform_of_a_discrete_target_is_uniform(target):
    rng = np.random.default_rng(2)
    values = target.rvs(size=20_000, random_state=rng).astype(float)
    transformed = stats.pit(values, target, rng)
    # A 20,000-draw Kolmogorov distance exceeds 0.0138 once in a thousand times; without randomising it is above 0.05.
    assert scipy.stats.kstest(transformed, "uniform").statistic < 0.0138
    assert scipy.stats.kstest(target.cdf(values), "uniform").statistic > 0.05


def test_the_same_generator_gives_the_same_transform():
    target, values = frozen("bernoulli", p=0.3), np.array([0.0, 1.0, 1.0])
    one, other = (stats.pit(values, target, np.random.default_rng(5)) for _ in range(2))
    assert (one == other).all()


@pytest.mark.parametrize(
    ("family", "parameters", "stated"),
    [
        ("gaussian", {"mu": 3.5, "sigma": 3.0}, 0.120),
        ("uniform", {"a": 3.5, "b": 10.5}, 0.070),
        ("exponential", {"lambda": 7.0}, None),
        ("weibull", {"k": 1.5, "lambda": 1.5}, None),
        ("truncnorm", {"mu": 0.0, "sigma": 1.0, "lower": -2.0, "upper": 2.0}, None),
    ],
)
def test_w1_floor_is_the_closed_form(family, parameters, stated):
    floor = stats.w1_floor(frozen(family, **parameters), 1000)
    # 200 replicates with a control variate: a standard error of about 1 %.
    assert floor.mean == pytest.approx(closed_form_floor(frozen(family, **parameters), 1000), rel=0.03)
    assert stated is None or floor.mean == pytest.approx(stated, rel=0.03)
    assert floor.mean < floor.high < 3 * floor.mean


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("skellam", {"mu1": 10.5, "mu2": 10.5}),
        ("beta_binomial", {"n": 40.0, "alpha": 6.5, "beta": 6.5}),
        ("bernoulli", {"p": 0.5}),
    ],
)
def test_w1_floor_of_a_discrete_target_is_what_its_own_draws_score(family, parameters):
    target = frozen(family, **parameters)
    rng = np.random.default_rng(3)
    levels = target.ppf(stats.midpoints(100))
    integers = np.arange(-40, 41)
    draws = rng.choice(integers, size=(2000, 100), p=target.pmf(integers))
    simulated = np.abs(np.sort(draws) - levels).mean(axis=1)
    floor = stats.w1_floor(target, 100)
    assert floor.mean == pytest.approx(simulated.mean(), rel=0.06)
    assert floor.high == pytest.approx(np.quantile(simulated, 0.95), rel=0.15)


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_pit_floor_is_what_uniform_draws_score(n):
    draws = np.sort(np.random.default_rng(4).random((4000, n)))
    simulated = np.abs(draws - stats.midpoints(n)).mean(axis=1)
    assert stats.pit_floor(n).mean == pytest.approx(simulated.mean(), rel=0.03)
    assert stats.pit_floor(n).high == pytest.approx(np.quantile(simulated, 0.95), rel=0.15)


def test_pit_floor_at_a_thousand_draws():
    assert stats.pit_floor(1000).mean == pytest.approx(0.0099, abs=0.0001)


def test_floors_fall_with_the_square_root_of_n_also_beyond_what_is_simulated():
    target = frozen("gaussian", mu=0.0, sigma=1.0)
    for small, large in ((1000, 4000), (5000, 1_000_000)):
        ratio = math.sqrt(large / small)
        assert stats.w1_floor(target, small).mean / stats.w1_floor(target, large).mean == pytest.approx(ratio, rel=0.05)
        assert stats.pit_floor(small).mean / stats.pit_floor(large).mean == pytest.approx(ratio, rel=0.02)


def test_floors_without_draws_are_undefined():
    assert math.isnan(stats.pit_floor(0).mean)
    assert math.isnan(stats.w1_floor(frozen("gaussian", mu=0.0, sigma=1.0), 0).high)


@pytest.mark.parametrize("prompt", registry().select(selected=True), ids=lambda prompt: prompt.prompt_id)
def test_scale_is_the_standard_deviation_of_the_clipped_target(prompt):
    family = registry()[prompt.family]
    target = family.frozen(prompt.parameters)
    scale = stats.target_scale(family, target, QUANTILES)
    if family.discrete or np.isfinite(target.support()).all():
        assert scale == pytest.approx(target.std(), rel=0.02)
    else:
        low, high = target.ppf(QUANTILES)
        inside = [quad(lambda x, k=k: x**k * target.pdf(x), low, high, limit=500, points=[target.median()])[0]
                  + 0.001 * (low**k + high**k) for k in (1, 2)]  # fmt: skip
        assert scale == pytest.approx(math.sqrt(inside[1] - inside[0] ** 2), rel=1e-3)


def test_scale_of_a_constant_is_zero():
    assert stats.target_scale(registry()["bernoulli"], frozen("bernoulli", p=0.0), QUANTILES) == 0


@pytest.mark.parametrize(
    ("family", "parameters", "expected"),
    [
        ("gaussian", {"mu": 3.5, "sigma": 3.0}, 2 * 0.6744898 * 3),
        ("cauchy", {"x0": 3.5, "gamma": 3.0}, 6),
        ("exponential", {"lambda": 7.0}, math.log(3) / 7),
        ("bernoulli", {"p": 0.5}, 1),
        ("bernoulli", {"p": 0.1}, 0),
    ],
)
def test_interquartile_range_is_the_closed_form(family, parameters, expected):
    assert stats.target_iqr(frozen(family, **parameters)) == pytest.approx(expected)


SAMPLERS = {
    "shifted": lambda rng, n: rng.normal(1, 1, n),
    "wide": lambda rng, n: rng.normal(0, 2, n),
    "narrow": lambda rng, n: rng.normal(0, 0.5, n),
    "three values": lambda rng, n: rng.choice([-1.0, 0.0, 2.0], n),
    "constant": lambda rng, n: np.zeros(n),
}


@pytest.mark.parametrize("share_invalid", [0.0, 0.3])
@pytest.mark.parametrize("draw", SAMPLERS.values(), ids=SAMPLERS)
def test_the_error_of_a_distance_is_its_standard_deviation(draw, share_invalid):
    target, rng, n = frozen("gaussian", mu=0.0, sigma=1.0), np.random.default_rng(8), 300
    w1, pit, errors = [], [], []
    for invalid in rng.binomial(n, share_invalid, 400):
        values, levels = np.sort(draw(rng, n - invalid)), stats.midpoints(n - invalid)
        w1.append(stats.w1_quantile(values, target))
        pit.append(stats.pit_w1(values, target, int(invalid)))
        one = stats.distance_error(values, stats.quantiles_of(target, levels))
        errors.append((one, stats.distance_error(target.cdf(values), levels, int(invalid))))
    # The standard deviation of 400 values has a relative standard error of 3.5%.
    stated = np.mean(errors, axis=0)
    assert stated == pytest.approx([np.std(w1), np.std(pit)], rel=0.1, abs=1e-3)


def test_the_error_of_a_perfect_samplers_distance_is_rather_too_large():
    rng, levels = np.random.default_rng(8), stats.midpoints(300)
    ordered = np.sort(rng.random((400, 300)), axis=1)
    stated = np.mean([stats.distance_error(row, levels) for row in ordered])
    assert 1.2 < stated / np.abs(ordered - levels).mean(axis=1).std() < 1.6


def test_the_error_of_the_distance_of_few_draws():
    """Of a law that is far away, for which it is n - 1 in place of n that matters."""
    rng, levels = np.random.default_rng(9), stats.midpoints(4)
    ordered = np.sort(5 + rng.random((4000, 4)), axis=1)
    stated = np.mean([stats.distance_error(row, levels) ** 2 for row in ordered]) ** 0.5
    assert stated == pytest.approx(np.abs(ordered - levels).mean(axis=1).std(), rel=0.05)


def test_the_error_of_a_distance_where_there_is_none_or_it_is_too_large():
    nothing, huge = np.zeros(0), np.array([-1e308, 1e308])
    assert math.isnan(stats.distance_error(nothing, nothing))
    assert math.isnan(stats.distance_error(np.array([3.0]), np.array([1.0])))
    assert math.isnan(stats.distance_error(huge, np.array([0.0, 1.0])))
    assert stats.distance_error(nothing, nothing, invalid=5) == 0


def test_wilson_by_hand():
    # n = 10, 0 successes: the upper end is z²/(n + z²).
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert stats.wilson(0, 10) == pytest.approx((0, 0, z2 / (10 + z2)))
    assert stats.wilson(5, 10).estimate == 0.5
    assert stats.wilson(0, 0)[1:] == (0, 1)
