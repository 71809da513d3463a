"""The claims' estimates against independent arithmetic, and every verdict on made-up scores."""

import math

import numpy as np
import pandas as pd
import pytest
import synthetic
from test_benchmark_mcq import question

from cft import claims, paired
from cft.benchmarks import mcq, structured
from cft.distributions import registry
from cft.stats import Interval
from cft.verdict import ABOVE_1, BELOW_0, criterion, verdict

CUT = "soft cuts normalised W1 on unseen parameters"
COLUMNS = ["claim", "verdict", "models", "seeds", "measure", "estimate", "low", "high", "criterion", "source"]
MODELS = ["Qwen3-0.6B", "Qwen3-14B", "Llama-3.2-1B-Instruct", "Gemma-3-27B-it"]


@pytest.fixture(scope="module")
def scores():
    return synthetic.scores(MODELS, seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def found(scores):
    return claims.claims(scores).set_index("claim")


def verdicts(scores: pd.DataFrame, words: str) -> set[str]:
    """The verdicts of the claims that hold all of `words`."""
    rows = claims.claims(scores)
    chosen = [all(word in claim for word in words.split(" & ")) for claim in rows["claim"]]
    assert any(chosen)
    return set(rows.loc[chosen, "verdict"])


def twice(scores: pd.DataFrame) -> pd.DataFrame:
    """Each model under a second name too."""
    return pd.concat([scores, scores.assign(model=scores["model"] + "-again")], ignore_index=True)


def rows_of(scores, benchmark, *metrics, method=None):
    chosen = (scores["benchmark"] == benchmark) & scores["metric"].isin(metrics)
    return chosen if method is None else chosen & (scores["method"] == method)


@pytest.mark.parametrize(
    ("low", "high", "region", "expected"),
    [
        (-2, -1, BELOW_0, "supported"),
        (1, 2, BELOW_0, "refuted"),
        (-1, 1, BELOW_0, "undecided"),
        (0, 0, BELOW_0, "undecided"),
        (math.nan, math.nan, BELOW_0, "undecided"),
        (1.1, 9, ABOVE_1, "supported"),
        (12, 80, (10, 100), "supported"),
        (5, 80, (10, 100), "undecided"),
        (5, 200, (10, 100), "undecided"),
        (2, 9, (10, 100), "refuted"),
        (101, 900, (10, 100), "refuted"),
    ],
)
def test_verdict(low, high, region, expected):
    assert verdict(Interval((low + high) / 2, low, high), region) == expected
    assert verdict(None, region) == "not run"


def test_criteria_in_words():
    assert "interval is below 0, refuted if it is wholly above 0" in criterion(BELOW_0)
    assert "above 1, refuted if it is wholly below 1" in criterion(ABOVE_1)
    assert "between 10 and 100, refuted if it is wholly below 10 or above 100" in criterion((10, 100))


def test_nothing_is_guessed_where_nothing_was_run(scores, found):
    rows = claims.claims(scores[scores["benchmark"] == "elsewhere"])
    assert list(rows.columns) == COLUMNS
    assert (rows["verdict"] == "not run").all()
    assert (rows[["models", "seeds"]] == 0).all(axis=None)
    assert rows[["estimate", "low", "high"]].isna().all(axis=None)
    assert sorted(rows["claim"]) == sorted(found.index)  # the same claims, whatever was run
    assert found.index.is_unique


@pytest.mark.parametrize("benchmark", ["structured", "open_ended", "mcq", "novelty", "tinybenchmarks", "paloma"])
def test_each_benchmark_decides_its_own_claims(scores, found, benchmark):
    alone = claims.claims(scores[scores["benchmark"] == benchmark]).set_index("claim")
    run = alone["verdict"] != "not run"
    assert run.any()
    pd.testing.assert_frame_equal(alone[run], found[run])
    without = claims.claims(scores[scores["benchmark"] != benchmark]).set_index("claim")
    assert (without.loc[run, "verdict"] == "not run").all()


def test_a_claim_says_how_many_models_and_seeds_it_rests_on(scores, found):
    near = found.index.str.contains("95%")  # no family of base is nearly valid, so that no model has this estimate
    assert (found.loc[near, ["models", "seeds"]] == 0).all(axis=None) and (found.loc[~near, "seeds"] == 3).all()
    assert (found.loc[found.index.str.contains("weekday|city"), "models"] == 1).all()
    assert found.loc[[CUT, "soft evens out MCQ answer positions most in Qwen3"], "models"].tolist() == [4, 4]
    fewer = scores[~((scores["model"] == MODELS[0]) & (scores["method"] == "soft") & (scores["seed"] > 0))]
    fewer = fewer[~((fewer["model"] == MODELS[1]) & (fewer["benchmark"] == "paloma") & (fewer["split"] == "ptb"))]
    rows = claims.claims(fewer).set_index("claim")
    assert rows.loc[CUT, ["models", "seeds"]].tolist() == [4, 1]
    assert rows.loc["hard cuts normalised W1 on unseen parameters", ["models", "seeds"]].tolist() == [4, 3]
    perplexity = rows.index[rows.index.str.contains("PALOMA")][0]
    assert rows.loc[perplexity, ["models", "seeds"]].tolist() == [3, 1]


def test_a_method_that_was_not_run(scores):
    assert verdicts(scores[scores["method"] != "hard"], "hard") == {"not run"}
    assert "not run" not in verdicts(scores[scores["method"] != "hard"], "soft cuts")
    without_base = claims.claims(scores[scores["method"] != "base"]).query("verdict != 'not run'")["claim"]
    assert [claim[:40] for claim in without_base] == [
        "hard is better than soft on unseen param",
        "soft is better than hard on unseen famil",
    ]


def families(scores, model, method, metric, statistic):
    rows = scores.query("model == @model and method == @method and metric == @metric and split == 'unseen_params'")
    return getattr(rows.groupby(rows["item"].str.partition("(")[0])["value"].mean(), statistic)()


def test_fidelity_by_hand(scores, found):
    ratios = [
        families(scores, model, "soft", "w1_over_scale", "median")
        / families(scores, model, "base", "w1_over_scale", "median")
        for model in MODELS
    ]
    row = found.loc["soft cuts normalised W1 on unseen parameters"]
    assert row["estimate"] == pytest.approx(math.prod(ratios) ** (1 / len(MODELS)))
    assert row["verdict"] == "supported"
    factors = [
        families(scores, m, "base", "trie_kl", "mean") / families(scores, m, "hard", "trie_kl", "mean") for m in MODELS
    ]
    row = found.loc["hard cuts trie KL at least fivefold (paper: about tenfold) on unseen parameters"]
    assert row["estimate"] == pytest.approx(math.prod(factors) ** (1 / len(MODELS)))


def test_fidelity_refuted_and_undecided(scores):
    worse = scores.copy()
    worse.loc[rows_of(scores, "structured", "w1_over_scale", "trie_kl", method="soft"), "value"] *= 30
    assert verdicts(worse, "soft cuts normalised W1 on unseen & parameters") >= {"refuted"}
    # A factor of about 3 is a fall, but not about tenfold.
    some = scores.copy()
    some.loc[rows_of(scores, "structured", "trie_kl", method="soft"), "value"] *= 4
    assert "refuted" in verdicts(some, "soft cuts trie KL & on unseen families")
    alike = scores.copy()
    base = rows_of(scores, "structured", "w1_over_scale", method="base").to_numpy()
    soft = rows_of(scores, "structured", "w1_over_scale", method="soft").to_numpy()
    noise = np.exp(np.random.default_rng(5).normal(0, 0.5, soft.sum()))
    alike.loc[soft, "value"] = alike.loc[base, "value"].to_numpy() * noise
    assert (
        claims.claims(alike).set_index("claim")["verdict"]["soft cuts normalised W1 on unseen families"] == "undecided"
    )


def test_only_families_where_base_is_valid_count(scores, found):
    near = [claim for claim in found.index if "95%" in claim]
    assert len(near) == 8
    assert set(found.loc[near, "verdict"]) == {"undecided"} and found.loc[near, "estimate"].isna().all()
    valid = scores.copy()
    chosen = scores["item"].str.startswith(("gamma(", "beta(", "uniform("))
    valid.loc[chosen & rows_of(scores, "structured", "valid_rate", method="base"), "value"] = 0.97
    valid.loc[~chosen & rows_of(scores, "structured", "w1_over_scale", method="soft"), "value"] = 99
    rows = claims.claims(valid).set_index("claim")
    assert rows["verdict"]["soft cuts normalised W1 on unseen parameters"] == "refuted"
    row = rows.loc[
        "soft cuts normalised W1 on unseen parameters, in families where at least 95% of base's draws are valid"
    ]
    assert row["verdict"] == "supported" and row["estimate"] < 0.2
    unknown = claims.claims(scores[scores["metric"] != "valid_rate"]).set_index("claim")
    assert unknown.loc[near, "estimate"].isna().all()


def test_hard_and_soft(scores, found):
    row = found.loc["hard is better than soft on unseen parameters"]
    pairs = [[families(scores, m, name, "w1_over_scale", "median") for name in ("hard", "soft")] for m in MODELS]
    assert row["estimate"] == pytest.approx(np.mean([hard - soft for hard, soft in pairs]))
    one = scores.copy()
    one.loc[rows_of(one, "structured", "w1_over_scale", method="hard") & (one["model"] == MODELS[2]), "value"] *= 100
    assert verdicts(one, "soft is better than hard") == {"supported"}
    # What one model does is no less so where another has no valid draw.
    silent = one.copy()
    silent.loc[rows_of(one, "structured", "w1_over_scale", method="soft") & (one["model"] == MODELS[0]), "value"] = (
        np.nan
    )
    rows = claims.claims(silent).set_index("claim").filter(like="soft is better than hard", axis=0)
    assert rows["verdict"].tolist() == ["supported"] and rows["models"].tolist() == [len(MODELS) - 1]
    none = scores.copy()
    none.loc[rows_of(none, "structured", "w1_over_scale", method="soft"), "value"] *= 100
    assert verdicts(none, "soft is better than hard") == {"refuted"}


PROMPTS = registry().select("unseen_params", selected=True)


def sampled(valid: int, spread: float, seed: int) -> pd.DataFrame:
    """Scores of 1,000 texts a prompt, `valid` of them numbers: exact draws, or of the middle `spread` of the target."""
    generator, frames = np.random.default_rng(seed), []
    for prompt in PROMPTS:
        family = registry()[prompt.family]
        levels = 0.5 + spread * (generator.random(valid) - 0.5)
        numbers = family.frozen(prompt.parameters).ppf(levels)
        texts = [f"{number:.{0 if family.discrete else 5}f}" for number in numbers] + ["no"] * (1000 - valid)
        frames.append(pd.DataFrame({"prompt_id": prompt.prompt_id, "text": texts}))
    found = structured.score(pd.concat(frames, ignore_index=True), None, registry())
    return found.assign(model="m", seed=0, benchmark="structured")


def test_what_only_validity_changes_is_no_cut_of_w1():
    """Both draw exactly from the target; of base's draws 2% are valid, which are further from it by their number."""
    base, soft = sampled(20, 1, 1).assign(method="base"), sampled(1000, 1, 2).assign(method="soft")
    row = claims.claims(pd.concat([base, soft])).set_index("claim").loc[CUT]
    assert row["verdict"] == "undecided"
    assert row["estimate"] == pytest.approx(1, abs=0.25)  # 0.15 without the correction
    poor = sampled(20, 0.4, 3).assign(method="base")
    row = claims.claims(pd.concat([poor, soft])).set_index("claim").loc[CUT]
    assert row["verdict"] == "supported"  # a cut that is there is found in 20 valid draws


def test_invalid_draws_count_in_one_claim():
    """Base answers always, from too narrow a law; soft nearly never, and exactly then."""
    base, soft = sampled(1000, 0.6, 4).assign(method="base"), sampled(50, 1, 5).assign(method="soft")
    rows = claims.claims(pd.concat([base, soft])).set_index("claim")
    pit = rows.loc["soft cuts PIT-scale W1, in which invalid draws count, on unseen parameters"]
    assert pit["verdict"] == "refuted"
    means = [frame.query("metric == 'pit_w1'") for frame in (soft, base)]
    families = [frame.groupby(frame["item"].str.partition("(")[0])["value"].mean().mean() for frame in means]
    assert pit["estimate"] == pytest.approx(families[0] / families[1])
    assert rows.loc[CUT, "verdict"] == "supported"


def test_at_equal_draws_adds_the_noise_that_one_side_lacks():
    cells = {"a": {"w": 0.4, "w_floor": 0.3, "w_se": 0.05}, "b": {"w": 0.2, "w_floor": 0.1, "w_se": 0.05}}
    rows = [("m", method, "s", "f(a=1)", 0, *each) for method, found in cells.items() for each in found.items()]
    columns = ["model", "method", "split", "item", "seed", "metric", "value"]
    wide = paired.scores_of(pd.DataFrame(rows, columns=columns).assign(benchmark="structured"), "structured")
    first, second = paired.at_equal_draws(wide, "w", "m", ("a", "b"), "s")
    assert first.found.to_numpy().item() == pytest.approx(0.4)
    assert second.found.to_numpy().item() == pytest.approx((0.2**2 + 0.3**2 - 0.1**2) ** 0.5)
    assert second.errors.to_numpy().item() == 0.05
    assert paired.at_equal_draws(wide, "w", "m", ("a", "c"), "s")[1].empty


def test_support_in_every_model(scores, found):
    wide, tenfold = "soft widens the top-90% support in every model that was run", "at least one order of magnitude"
    hundredfold = "at most two orders of magnitude"
    factors = []
    for model in MODELS:
        rows = scores[(scores["model"] == model) & (scores["metric"] == "support_size_0.9")]
        sizes = rows.groupby(["method", "item"])["value"].mean()
        factors.append((sizes["soft"] / sizes["base"]).median())
    assert found.loc[wide, "estimate"] == pytest.approx(min(factors))
    assert found.loc[wide, "verdict"] == "supported"
    mine = rows_of(scores, "open_ended", "support_size_0.9", method="soft")
    assert verdicts(scores, hundredfold) == {"supported"} and verdicts(scores, tenfold) == {"undecided"}  # 16, 20 fold
    wider = scores.copy()
    wider.loc[mine, "value"] *= 2
    assert verdicts(wider, tenfold) == verdicts(wider, hundredfold) == {"supported"}
    narrow = wider.copy()
    narrow.loc[mine & (scores["model"] == MODELS[1]), "value"] = 1
    assert verdicts(narrow, wide) == verdicts(narrow, tenfold) == {"refuted"}
    assert verdicts(narrow, hundredfold) == {"supported"}
    many = wider.copy()
    many.loc[mine & (scores["model"] == MODELS[1]), "value"] *= 100  # one is enough
    assert verdicts(many, hundredfold) == {"refuted"} and verdicts(many, tenfold) == {"supported"}


def test_nouns_of_two_models_found_by_name(scores, found):
    fall = found.loc["soft lowers the share of the answer Wednesday to 'weekday' in qwen3-14b"]
    assert fall["estimate"] == pytest.approx(-0.4) and fall["verdict"] == "supported"
    half = found[found.index.str.contains("by about 2 (paper: 80% to 40%)", regex=False)].iloc[0]
    assert half["estimate"] == pytest.approx(0.5) and half["verdict"] == "supported"
    city = found[found.index.str.contains("by about 4.9 (paper: 74% to 15%)", regex=False)].iloc[0]
    assert city["estimate"] == pytest.approx(0.6 / 0.9) and city["verdict"] == "refuted"
    same = scores.copy()
    same.loc[rows_of(scores, "open_ended", "wednesday_share"), "value"] = 0.5
    assert verdicts(same, "soft lowers & weekday") == {"undecided"}
    same.loc[rows_of(scores, "open_ended", "wednesday_share", method="soft"), "value"] = 0.9
    assert verdicts(same, "soft lowers & weekday") == {"refuted"}
    assert verdicts(scores[scores["model"] != "Qwen3-14B"], "weekday") == {"not run"}


def test_positions_need_several_models(scores, found):
    change = scores.query("metric == 'tv_uniform_parsed_only'").groupby(["method", "model"])["value"].mean()
    difference = change["soft"] - change["base"]
    assert found.loc["soft evens out MCQ answer positions", "estimate"] == pytest.approx(difference.mean())
    most = found.loc["soft evens out MCQ answer positions most in Qwen3"]
    assert most["estimate"] == pytest.approx(difference[MODELS[:2]].mean() - difference[MODELS[2:]].mean())
    one = scores[scores["model"] == "Qwen3-14B"]
    row = claims.claims(one).set_index("claim").loc["soft evens out MCQ answer positions"]
    assert row["verdict"] == "undecided" and np.isnan(row["low"]) and row["estimate"] == difference["Qwen3-14B"]
    assert verdicts(one, "most in Qwen3") == {"not run"}
    more = scores.copy()
    more.loc[
        rows_of(scores, "mcq", "tv_uniform_parsed_only", method="base") & scores["model"].str.startswith("Qwen"),
        "value",
    ] = 0.7
    assert verdicts(more, "soft evens out & most in Qwen3") == {"undecided"}  # two of each say little
    assert verdicts(twice(more), "soft evens out & most in Qwen3") == {"supported"}


def test_more_that_parses_is_no_more_even():
    """Base's letters are even where they parse, soft's are not; of base's texts fewer parse."""
    rows = []
    for model in MODELS:
        for method, parse, letters in (("base", 0.6, [0.25] * 4), ("soft", 0.95, [0.4, 0.2, 0.2, 0.2])):
            for seed in range(3):
                counts = np.random.default_rng([seed, len(rows)]).multinomial(
                    1000, [*np.multiply(parse, letters), 1 - parse]
                )
                texts = [
                    text for letter, count in zip("ABCD", counts, strict=False) for text in [question(letter)] * count
                ]
                found = mcq.score(pd.DataFrame({"text": texts + ["no"] * counts[4]}), None, registry())
                rows.append(found.assign(model=model, method=method, seed=seed, benchmark="mcq"))
    verdict = claims.claims(pd.concat(rows)).set_index("claim")["verdict"]
    assert verdict["soft evens out MCQ answer positions"] == "refuted"
    assert verdict["soft evens out MCQ answer positions, unparsed texts counted"] == "supported"


def test_novelty_counts_models(scores, found):
    claim = "NoveltyBench utility is best under soft for most models (paper: 8 of 12)"
    means = scores.query("metric == 'utility_v1.0'").groupby(["model", "method"])["value"].mean().unstack()
    assert found.loc[claim, "estimate"] == (means.idxmax(axis=1) == "soft").mean()
    better = scores.copy()
    mine = rows_of(scores, "novelty", "utility_v1.0", method="soft")
    better.loc[mine, "value"] += 5
    assert verdicts(better, "NoveltyBench") == {"undecided"}  # four of four, as four coins may fall
    assert verdicts(twice(better), "NoveltyBench") == {"supported"}
    assert verdicts(better[better["model"] == MODELS[0]], "NoveltyBench") == {"undecided"}
    better.loc[mine, "value"] -= 10
    assert verdicts(twice(better), "NoveltyBench") == {"refuted"}


def test_retention_by_hand(scores, found):
    rows = scores.query("split == 'gsm8k_strict' and metric == 'correct'")
    means = rows.groupby(["method", "model"])["value"].mean()
    row = found.loc["hard lowers the score of gsm8k_strict"]
    assert row["estimate"] == pytest.approx((means["hard"] - means["base"]).mean())
    assert row["verdict"] == "supported"
    lost = scores.copy()
    lost.loc[(scores["split"] == "mmlu") & (scores["method"] == "soft"), "value"] = 0
    assert verdicts(lost, "soft raises & mmlu") == {"refuted"}
    same = scores.copy()
    same.loc[(scores["split"] == "mmlu"), "value"] = 1
    assert verdicts(same, "raises & mmlu") == {"undecided"}


def test_perplexity_by_the_better_variant_on_the_worst_slice(scores, found):
    claim = found.loc["on every PALOMA slice at least one tuned variant has lower perplexity than base"]
    assert claim["estimate"] == pytest.approx(0.97 * 1.001, rel=1e-6)  # soft's factor, the middle one of three seeds
    assert claim["verdict"] == "supported"
    one = scores.copy()
    mine = (one["split"] == "ptb") & (one["metric"] == "nats") & (one["method"] == "soft")
    one.loc[mine, "value"] *= 1.1
    assert verdicts(one, "PALOMA") == {"refuted"}  # now hard, at 1.01, is the better one there
    other = one.copy()
    other.loc[(one["split"] == "ptb") & (one["metric"] == "nats") & (one["method"] == "hard"), "value"] *= 0.9
    assert verdicts(other, "PALOMA") == {"supported"}
    # A slice that was not run may be worse: without c4_en nothing supports the claim, but one worse slice refutes it.
    assert verdicts(scores[scores["split"] != "c4_en"], "PALOMA") == {"undecided"}
    assert verdicts(one[one["split"] != "c4_en"], "PALOMA") == {"refuted"}


def test_the_file(scores, found, tmp_path):
    claims.write(scores, tmp_path / "claims.csv")
    written = pd.read_csv(tmp_path / "claims.csv")
    assert list(written.columns) == COLUMNS
    assert written["claim"].tolist() == found.index.tolist()
    assert written["estimate"].to_numpy() == pytest.approx(found["estimate"].to_numpy(), rel=1e-5, nan_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["claims.csv"]
