import json
import math
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cft import CftError, benchmarks, fit, stats
from cft.assets import Assets
from cft.benchmark_settings import StructuredBenchmark
from cft.benchmarks import structured
from cft.distributions import registry
from cft.law_scores import LAW_FLOORS, LAW_METRICS
from cft.settings import check

REGISTRY = registry()
REALS = (-math.inf, math.inf)
GAUSSIAN = "gaussian(mu=3.5,sigma=3.0)"


def golden_rows(golden):
    return [json.loads(line) for line in (golden / "structured_scores.jsonl").read_text().splitlines()]


def frame(prompt_id, texts):
    return pd.DataFrame({"prompt_id": prompt_id, "text": texts})


def perfect_texts(prompt, n, seed=0):
    target = REGISTRY[prompt.family].frozen(prompt.parameters)
    values = target.ppf(np.random.default_rng(seed).random(n))
    return [f"{value:.0f}" if REGISTRY[prompt.family].discrete else f"{value:.5f}" for value in values]


def test_golden_error_codes(golden):
    rows = golden_rows(golden)
    assert len(rows) == 4
    for row in rows:
        family = REGISTRY[row["family"]]
        support = family.frozen(row["parameters"]).support()
        codes = [structured.read_number(text, support, family.discrete)[1] for text in row["texts"]]
        assert codes == row["error_codes"]


def test_golden_scores(golden):
    for row in golden_rows(golden):
        metrics, _ = structured.measure(row["texts"], REGISTRY[row["family"]], row["parameters"], REGISTRY.quantiles)
        for ours, theirs in (("w1_valid_only", "w1"), *((key, key) for key in
                             ("valid_rate", "support_violation_rate", "mean_error", "variance_error"))):  # fmt: skip
            assert metrics[ours] == pytest.approx(row[theirs], rel=1e-9, nan_ok=True), (row["family"], ours)


@pytest.mark.parametrize(
    ("text", "value", "code"),
    [
        ("7", 7, None),
        ("-0", 0, None),
        ("+2.", 2, None),
        ("16.0", 16, None),
        ("5.0000000001", 5, None),
        ("1E1", 10, None),
        ("\uff17", 7, None),
        ("<think>9</think>\n 8 ", 8, None),
        ("10.5", 10.5, "non_integer"),
        ("-0.5", -0.5, "below_support"),
        ("20.5", 20.5, "above_support"),
        ("1e999", math.inf, "non_finite"),
        ("-1e999", -math.inf, "non_finite"),
        ("\u00a0", None, "empty"),
        ("<think>5", None, "empty"),
        *((text, None, "malformed") for text in
          (".", "+", "e5", "1e", "1e+", "1.2.3", "5 6", "5%", "1,5", "1_0", "0x1F", "nan", "inf", "½", "−5", "5\n\n6")),
    ],
)  # fmt: skip
def test_a_text_is_one_number_of_the_support(text, value, code):
    found, error = structured.read_number(text, (0, 20), discrete=True)
    assert error == code
    assert math.isnan(found) if value is None else found == pytest.approx(value)


def test_a_draw_on_a_rounded_bound_is_inside():
    family, parameters = REGISTRY["uniform"], {"a": -4.3, "b": 0.1}
    lower, upper = family.frozen(parameters).support()
    assert upper != 0.1, "choose parameters whose bound SciPy rounds"
    assert structured.read_number("0.1", (lower, upper), discrete=False)[1] is None
    assert structured.read_number("0.1001", (lower, upper), discrete=False)[1] == "above_support"


@given(st.floats(-1e300, 1e300), st.sampled_from(["{!r}", "{:.5f}", "{:+e}", " {:.3g}\n"]))
def test_every_printed_float_is_read_as_float_reads_it(value, style):
    text = style.format(value)
    assert structured.read_number(text, REALS, discrete=False) == (float(text), None)


@given(st.text(alphabet="0123456789+-.eE_x, nainf", max_size=12))
def test_what_is_accepted_is_a_float_and_what_is_refused_is_not_a_plain_one(text):
    value, code = structured.read_number(text, REALS, discrete=False)
    if code in (None, "non_finite"):
        assert value == float(text)
    else:
        stripped = text.strip()
        assert (
            not stripped or "_" in stripped or not _is_float(stripped) or stripped.strip("+-").lower() in ("nan", "inf")
        )


def _is_float(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_a_long_malformed_text_is_refused_at_once():
    assert structured.read_number("1" * 200_000 + "x", REALS, discrete=False)[1] == "malformed"


@pytest.mark.parametrize(("choice", "counts"), [("selected", (24, 18)), ("all", (591, 92))])
def test_prompts_are_the_papers(choice, counts, golden):
    settings = check(StructuredBenchmark, {"draws": 1, "max_new_tokens": 1, "prompts": choice}, "test")
    found = structured.prompts(settings, REGISTRY, Assets({}, None, "unused"))
    assert list(found.columns) == ["prompt_id", "split", "prompt"]
    assert found["prompt_id"].is_unique
    assert tuple(found["split"].value_counts()[["unseen_params", "unseen_families"]]) == counts
    rows = [json.loads(line) for line in (golden / "prompts.jsonl").read_text().splitlines()]
    wanted = {row["prompt"] for row in rows if row["split"] != "train"
              and (row["selected"] if choice == "selected" else not row.get("only_selected"))}  # fmt: skip
    assert set(found["prompt"]) == wanted


@pytest.mark.parametrize("prompt", REGISTRY.select(selected=True)[::4], ids=lambda prompt: prompt.prompt_id)
def test_a_perfect_sampler_scores_its_floor(prompt):
    runs = []
    for seed in range(30):
        texts = perfect_texts(prompt, 200, [seed, zlib.crc32(prompt.prompt_id.encode())])
        found, errors = structured.measure(texts, REGISTRY[prompt.family], prompt.parameters, REGISTRY.quantiles)
        assert found["valid_rate"] == 1 and not errors
        runs.append(found)
    for name in ("w1_over_scale", "pit_w1"):
        score, floor, high = (np.array([run[name + end] for run in runs]) for end in ("", "_floor", "_floor_high"))
        # The floor is the expectation: all 22 such means are within 4 standard errors in 99 % of cases (29 degrees).
        assert score.mean() == pytest.approx(floor[0], abs=4 * score.std(ddof=1) / 30**0.5)
        assert (score > high).sum() <= 6  # of 30 with a chance of 5 %: all 22 in 99 % of cases


def test_invalid_draws_move_pit_w1_but_not_w1_valid_only():
    prompt = REGISTRY.select("unseen_params", selected=True)[1]
    texts = perfect_texts(prompt, 500)
    clean, _ = structured.measure(texts, REGISTRY["gaussian"], prompt.parameters, REGISTRY.quantiles)
    mixed, errors = structured.measure(
        texts + ["no"] * 500, REGISTRY["gaussian"], prompt.parameters, REGISTRY.quantiles
    )
    assert mixed["w1_valid_only"] == clean["w1_valid_only"]
    assert mixed["pit_w1"] == pytest.approx(clean["pit_w1"] / 2 + 0.25)
    assert (mixed["n"], mixed["valid_rate"], errors["malformed"]) == (1000, 0.5, 500)


@pytest.mark.parametrize("prompt", REGISTRY.select(selected=True)[::3], ids=lambda prompt: prompt.prompt_id)
def test_distances_and_tests_of_a_prompt_are_those_of_fit_and_stats(prompt):
    family = REGISTRY[prompt.family]
    target = family.frozen(prompt.parameters)
    texts = ["word"] * 10 + perfect_texts(prompt, 390)
    found, _ = structured.measure(texts, family, prompt.parameters, REGISTRY.quantiles)
    values = np.array([float(text) for text in texts[10:]])
    assert set(found) == set(structured.METRICS)
    iqr, floors = stats.target_iqr(target), stats.w1_floor(target, 390)  # of valid draws, as the distance is
    expected = {"w1_floor_high": floors.high, "pit_w1_floor_high": stats.pit_floor(400).high}
    expected |= {"ks_floor": fit.ks_floor(400).mean, "ks_floor_high": fit.ks_floor(400).high}
    if iqr:
        expected |= {"w1_over_iqr": found["w1_valid_only"] / iqr, "w1_over_iqr_floor": floors.mean / iqr}
    if family.discrete:
        variation = fit.total_variation_floor(target, 400)
        expected |= {"tv": fit.total_variation(values, target, 10), "tv_floor_high": variation.high}
    else:
        expected["ks"] = fit.ks(values, target, 10)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["w1_over_iqr"]) == (iqr == 0)
    assert math.isnan(found["tv"]) == math.isnan(found["tv_floor"]) == (not family.discrete)
    assert found["ks"] < found["ks_upper"] == fit.ks_upper(found["ks"], 390, 10)


def test_tests_of_the_first_draws_see_no_later_ones():
    prompt = REGISTRY.select("unseen_params", selected=True)[1]
    texts = perfect_texts(prompt, 300) + ["1000"] * 700
    found, _ = structured.measure(texts, REGISTRY["gaussian"], prompt.parameters, REGISTRY.quantiles)
    names = [f"not_rejected_at_{count}" for count in structured.TESTED_AT]
    assert [found[name] for name in names] == [1, 1, 0]
    assert found["p_fit"] < 1e-12
    fewer, _ = structured.measure(texts[:999], REGISTRY["gaussian"], prompt.parameters, REGISTRY.quantiles)
    assert [fewer[name] for name in names] == [1, 1, pytest.approx(math.nan, nan_ok=True)]


def test_draws_that_are_rounded_fit_until_they_are_too_coarse():
    parameters, rng = {"mu": 3.5, "sigma": 3.0}, np.random.default_rng(1)
    values = rng.normal(3.5, 3, 1000)
    for decimals, passes in ((5, True), (1, True), (0, False)):
        texts = [f"{value:.{decimals}f}" for value in values]
        found, _ = structured.measure(texts, REGISTRY["gaussian"], parameters, REGISTRY.quantiles)
        assert (found["p_fit"] > 0.05) == passes


def test_a_perfect_sampler_passes_at_every_number_of_draws_19_times_in_20():
    prompts = REGISTRY.select(selected=True)
    scores = []
    for turn in range(5):
        texts = [(p.prompt_id, perfect_texts(p, 300, 100 * turn + place)) for place, p in enumerate(prompts)]
        scores.append(structured.score(pd.concat([frame(*pair) for pair in texts]), None, REGISTRY))
    found = pd.concat(scores)
    for count in (100, 300):
        share = found.loc[found["metric"] == f"not_rejected_at_{count}", "value"].mean()
        assert 0.91 <= share <= 0.99  # 210 tests: a standard error of 1.5 percentage points
    assert found.loc[found["metric"] == "not_rejected_at_1000", "value"].isna().all()


def test_summary_adjusts_the_tests_of_fit():
    good, bad = REGISTRY.select("unseen_params", selected=True)[1:3]
    texts = [frame(good.prompt_id, perfect_texts(good, 200)), frame(bad.prompt_id, ["0.5"] * 200)]
    found = structured.summary(pd.concat(texts, ignore_index=True), REGISTRY)
    assert found["share_passing"] == 0.5
    assert found["p_fit"] == pytest.approx(2 * found["prompts"][bad.prompt_id]["p_fit"])


def test_numbers_outside_the_support_are_violations_and_other_texts_are_not():
    texts = ["1e999", "-1", "3", "1.5", "word", "", "1", "1", "1", "0"]
    found, errors = structured.measure(texts, REGISTRY["bernoulli"], {"p": 0.5}, REGISTRY.quantiles)
    assert found["support_violation_rate"] == 0.4
    assert found["valid_rate"] == 0.4
    assert (found["valid_rate_low"], found["valid_rate_high"]) == pytest.approx(stats.wilson(4, 10)[1:])
    assert dict(errors) == {
        "non_finite": 1, "below_support": 1, "above_support": 2, "malformed": 1, "empty": 1,
    }  # fmt: skip


def test_scores_are_tidy_and_cover_draws_and_law():
    law = pd.DataFrame({"prompt_id": [GAUSSIAN, "cauchy(x0=3.5,gamma=3.0)"],
                        **{name: [0.5, float("nan")] for name in LAW_METRICS},
                        "values": [["3.4", "3.6"]] * 2, "target": [np.array([0.25, 0.75])] * 2})  # fmt: skip
    scores = structured.score(frame(GAUSSIAN, ["3.1", "word"]), law, REGISTRY)
    assert list(scores.columns) == ["split", "item", "metric", "value"]
    assert set(scores["split"]) == {"unseen_params"}
    assert len(scores) == len(structured.METRICS) + 2 * len(LAW_METRICS + LAW_FLOORS)
    with pytest.raises(CftError, match="no column law_valid_low: an earlier version"):
        structured.score(frame([GAUSSIAN], ["3"]), law.drop(columns="law_valid_low"), REGISTRY)
    with pytest.raises(CftError, match="no column values: an earlier version"):
        structured.score(frame([GAUSSIAN], ["3"]), law.drop(columns="values"), REGISTRY)
    assert not scores.duplicated(["item", "metric"]).any()
    values = {(item, metric): value for _, item, metric, value in scores.itertuples(index=False)}
    assert values[GAUSSIAN, "valid_rate"] == 0.5
    assert values[GAUSSIAN, "mean_error"] == pytest.approx(0.4)
    assert values[GAUSSIAN, "trie_kl"] == 0.5
    assert math.isnan(values["cauchy(x0=3.5,gamma=3.0)", "trie_kl"])
    normal = REGISTRY["gaussian"].frozen({"mu": 3.5, "sigma": 3.0})
    shares = np.diff(normal.cdf([3.35, 3.45, 3.55, 3.65]))[[0, 2]]
    assert values[GAUSSIAN, "support_probability_floor"] == pytest.approx(shares.sum())
    wanted = 0.25 * math.log(0.25 / shares[0]) + 0.75 * math.log(0.75 / shares[1])
    assert values[GAUSSIAN, "sequence_kl_floor"] == pytest.approx(wanted)


def test_tokens_per_draw_are_scored_where_the_draws_have_them():
    ids = ["poisson(lambda=4)", "gaussian(mu=100,sigma=1)", "poisson(lambda=4.0)"]
    draws = frame(ids, ["1", "100", "no"]).assign(tokens=[3, 700, 4])
    scores = structured.score(draws, None, REGISTRY)
    found = scores[scores["metric"] == "tokens_per_draw"]
    assert list(found[["item", "value"]].itertuples(index=False, name=None)) == [
        ("poisson(lambda=4.0)", 3.5),
        ("gaussian(mu=100.0,sigma=1.0)", 700.0),
    ]
    assert "tokens_per_draw" not in structured.summary(draws, REGISTRY)
    without = structured.score(draws.drop(columns="tokens"), None, REGISTRY)
    kept = scores[~scores["metric"].str.startswith("tokens_per_draw")]
    pd.testing.assert_frame_equal(without, kept)
    errors = scores[scores["metric"] == "tokens_per_draw_se"]
    assert errors["value"].tolist() == pytest.approx([0.5, float("nan")], nan_ok=True)


def test_without_a_valid_draw_distances_are_undefined_but_pit_w1_is_the_worst():
    scores = structured.score(frame(GAUSSIAN, ["a", "b"]), None, REGISTRY)
    values = dict(zip(scores["metric"], scores["value"], strict=True))
    assert values["pit_w1"] == 0.5
    assert all(math.isnan(values[name]) for name in ("mean_error", "variance_error", "w1_valid_only", "w1_over_scale"))
    assert math.isnan(values["w1_floor"]) and values["pit_w1_floor"] > 0


def test_a_rate_of_0_or_1_has_an_error_too():
    """Jeffreys' posterior, against a simulation of it."""
    for texts, k in ((["x"] * 60, 0), (["0.5"] * 60, 60), (["0.5"] * 7 + ["x"] * 2, 7)):
        found, _ = structured.measure(texts, REGISTRY["gaussian"], {"mu": 0, "sigma": 1}, REGISTRY.quantiles)
        rates = np.random.default_rng(0).beta(k + 0.5, len(texts) - k + 0.5, 200_000)
        assert found["valid_rate_se"] == pytest.approx(rates.std(), rel=0.02)


def test_the_floor_of_valid_draws_is_that_of_so_many_draws():
    """A perfect sampler, most of whose texts are no numbers: excess over the floor does not depend on how many."""
    prompt = REGISTRY.select("unseen_params", selected=True)[1]
    family, excess = REGISTRY[prompt.family], []
    for seed in range(40):
        texts = perfect_texts(prompt, 20, seed) + ["no"] * 980
        found, _ = structured.measure(texts, family, prompt.parameters, REGISTRY.quantiles)
        excess.append(found["w1_over_scale"] / found["w1_over_scale_floor"])
    assert np.mean(excess) == pytest.approx(1, abs=4 * np.std(excess) / 40**0.5)  # at the floor of 1,000 draws: 7


def test_scoring_twice_gives_the_same_numbers():
    draws = frame("poisson(lambda=4.0)", ["1", "4", "9", "x"])
    pd.testing.assert_frame_equal(structured.score(draws, None, REGISTRY), structured.score(draws, None, REGISTRY))


def test_a_prompt_of_ones_own_is_scored_elsewhere():
    scores = structured.score(frame("gaussian(mu=100,sigma=1)", ["100"]), None, REGISTRY)
    assert set(scores["split"]) == {"elsewhere"}
    assert set(scores["item"]) == {"gaussian(mu=100.0,sigma=1.0)"}


def test_family_of():
    assert structured.family_of(GAUSSIAN) == "gaussian"


def test_summary_weighs_families_not_prompts():
    draws = pd.concat([frame("bernoulli(p=0.1)", ["1"]), frame("bernoulli(p=0.5)", ["x"] * 6), frame(GAUSSIAN, ["x"])])
    found = structured.summary(draws.reset_index(drop=True), REGISTRY)
    assert found["valid_rate"] == pytest.approx((0.5 + 0) / 2)
    assert found["n"] == 8
    assert found["prompts"][GAUSSIAN]["error_counts"] == {"malformed": 1}
    assert found["prompts"][GAUSSIAN]["w1_valid_only"] is None
    assert found["mean_error"] == pytest.approx(0.9)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_summary_of_a_file_of_draws_made_elsewhere(golden, tmp_path, kind):
    rows = golden_rows(golden)[:2]
    draws = [{"family": row["family"], "parameters": row["parameters"], "text": text} for row in rows for text in
             row["texts"]]  # fmt: skip
    path = tmp_path / f"draws.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(draw) + "\n" for draw in draws), encoding="utf-8")
    else:
        pd.DataFrame(draws).to_parquet(path)
    found = structured.summary(benchmarks.read_draws(path, "structured"), REGISTRY)
    assert [prompt["w1_valid_only"] for prompt in found["prompts"].values()] == pytest.approx([r["w1"] for r in rows])
    assert found["valid_rate"] == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("columns", "culprit"),
    [
        ({"prompt_id": ["gauss(mu=1,sigma=1)"]}, "gauss"),
        ({"prompt_id": ["gaussian"]}, "gaussian"),
        ({"prompt_id": ["gaussian(mu=1)"]}, "missing sigma"),
        ({"prompt_id": [GAUSSIAN.replace("sigma=3.0", "sigma=-3.0")]}, "sigma > 0"),
        ({"prompt_id": [None]}, "None"),
        ({"family": ["gauss"], "parameters": [{"mu": 1, "sigma": 1}]}, "gauss"),
        ({"family": ["gaussian"], "parameters": [{"mu": "one", "sigma": 1}]}, "one"),
        ({"family": ["gaussian"], "parameters": ["mu=1"]}, "mu=1"),
        ({"family": ["gaussian"]}, "parameters"),
    ],
)
def test_what_cannot_be_identified_is_named(columns, culprit):
    with pytest.raises(CftError, match=culprit) as caught:
        structured.summary(pd.DataFrame({"text": ["1"], **columns}), REGISTRY)
    assert "\n" not in str(caught.value)
