"""The tables' numbers against independent arithmetic, and their three file formats."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from cft import CftError, tables
from cft.paired import mcnemar_exact
from cft.stats import wilson


@pytest.fixture(scope="module")
def scores():
    return synthetic.scores(synthetic.MODELS[:2], seeds=(0, 1))


@pytest.fixture(scope="module")
def table1(scores):
    return tables.load("table1").make(scores)


def by_hand(scores, model, method, split, metric):
    """Family means by plain loops: {family: mean over its prompts and seeds}."""
    values: dict[str, list[float]] = {}
    for row in scores.itertuples():
        if (row.model, row.method, row.split, row.metric) == (model, method, split, metric):
            values.setdefault(row.item.split("(")[0], []).append(row.value)
    return {family: np.mean(found) for family, found in values.items()}


@pytest.mark.parametrize("split", ["unseen_params", "unseen_families"])
def test_table1_is_the_mean_or_median_of_family_means(scores, table1, split):
    row = table1.query("model == 'Qwen3-1.7B' and method == 'soft' and split == @split").iloc[0]
    families = {m: list(by_hand(scores, "Qwen3-1.7B", "soft", split, m).values()) for m in synthetic.NAMES}
    assert row["trie_kl_nats"] == pytest.approx(np.mean(families["trie_kl"]))
    assert row["valid_rate"] == pytest.approx(np.mean(families["valid_rate"]))
    assert row["w1_over_scale"] == pytest.approx(np.median(families["w1_over_scale"]))
    for mean, metric in {"w1_over_scale_mean": "w1_over_scale", "pit_w1": "pit_w1"}.items():
        assert row[mean] == pytest.approx(np.mean(families[metric]))
    for median, metric in {"trie_kl_nats_median": "trie_kl", "pit_w1_median": "pit_w1"}.items():
        assert row[median] == pytest.approx(np.median(families[metric]))
    assert row["w1_over_scale_floor"] == pytest.approx(synthetic.FLOORS["w1_over_scale_floor"])
    assert row["seeds"] == 2
    assert row["prompts"] == {"unseen_params": 24, "unseen_families": 18}[split]


def test_table1_excess_is_over_each_familys_floor():
    scores = synthetic.scores()
    floor = scores["metric"] == "w1_over_scale_floor"
    scores.loc[floor, "value"] = np.random.default_rng(5).random(floor.sum()) / 10
    row = tables.load("table1").make(scores).query("method == 'hard' and split == 'unseen_families'").iloc[0]
    both = [by_hand(scores, "SmolLM2-135M", "hard", "unseen_families", f"w1_over_scale{end}") for end in ("", "_floor")]
    excess = [both[0][family] - both[1][family] for family in both[0]]
    assert row["w1_over_scale_excess"] == pytest.approx(np.median(excess))
    assert row["w1_over_scale_excess_low"] <= row["w1_over_scale_excess"] <= row["w1_over_scale_excess_high"]
    assert row["pit_w1_excess"] == pytest.approx(row["pit_w1"] - row["pit_w1_floor"])
    names = ("sequence_kl_nats", "support_probability", "trie_kl_nats", "trie_kl_nats_median")
    assert row[[f"{name}_floor" for name in names]].tolist() == pytest.approx([5.5, 0.25, 0.3, 0.3])
    without = ("trie_kl_nats_excess", "sequence_kl_nats_excess", "support_probability_excess")
    assert not any(column.startswith(without) for column in row.index)


def test_table1_bounds_by_the_law(scores, table1):
    row = table1.query("model == 'Qwen3-1.7B' and method == 'soft' and split == 'unseen_params'").iloc[0]
    pit = np.mean(list(by_hand(scores, "Qwen3-1.7B", "soft", "unseen_params", "pit_w1").values()))
    ends = row[["law_pit_w1_low", "law_pit_w1", "law_pit_w1_high"]].tolist()
    assert ends == pytest.approx([0.9 * pit, 0.975 * pit, 1.05 * pit])
    of_law = scores["metric"].str.startswith(("law_", "trie_kl", "sequence_kl", "support_probability"))
    without = tables.load("table1").make(scores[~of_law])
    assert without[["law_pit_w1", "trie_kl_nats", "sequence_kl_nats_floor"]].isna().all(axis=None)
    kept = ["model", "method", "split", "valid_rate", "pit_w1", "pit_w1_floor"]
    pd.testing.assert_frame_equal(without[kept], table1[kept])


def test_table1_tests_of_fit_by_holm_within_a_row(scores, table1, tmp_path):
    shown = ["share_passing", "perfect_share_passing", "p_of_the_worst_prompt"]
    assert table1[shown].isna().all(axis=None)  # these scores have no tests
    mine = scores[(scores["metric"] == "pit_w1") & (scores["method"] == "soft")].assign(metric="p_fit", value=0.5)
    first = (mine["split"] == "unseen_params") & (mine["model"] == "Qwen3-0.6B") & (mine["seed"] == 0)
    mine.loc[mine.index[first][:3], "value"] = [1e-300, 0.001, 0.0011]  # of 48: rejected below 0.05/48, then 0.05/47
    frame = tables.load("table1").make(pd.concat([scores, mine])).set_index(["model", "method", "split"])
    row = frame.loc[("Qwen3-0.6B", "soft", "unseen_params")]
    assert row["share_passing"] == pytest.approx(46 / 48, abs=1e-4)
    assert row["p_of_the_worst_prompt"] == pytest.approx(48e-300)
    assert 0.998 < row["perfect_share_passing"] < 1
    other = frame.loc[("Qwen3-0.6B", "soft", "unseen_families")]
    assert other[["share_passing", "p_of_the_worst_prompt"]].tolist() == [1, 1]
    assert frame.loc[("Qwen3-0.6B", "base", "unseen_params"), shown].isna().all()
    shown = list(tables.readable(frame.reset_index())["p of the worst prompt"])
    assert shown[list(frame.index).index(row.name)] == "<0.0001" and max(map(len, shown)) <= 7
    tables.save(frame.reset_index(), tmp_path / "t.csv")
    assert pd.read_csv(tmp_path / "t.csv")["p_of_the_worst_prompt"].min() == pytest.approx(48e-300)
    assert "& $<$0.0001 &" in (tmp_path / "t.tex").read_text()


def test_table1_tests_of_the_first_draws(scores):
    mine = scores[(scores["metric"] == "pit_w1") & (scores["method"] == "soft")].assign(metric="not_rejected_at_100")
    mine["value"] = (np.arange(len(mine)) % 4 == 0).astype(float)
    frame = tables.load("table1").make(pd.concat([scores, mine])).set_index(["model", "method", "split"])
    wanted = mine.groupby(["model", "method", "split"])["value"].mean()
    assert frame.loc[wanted.index, "not_rejected_at_100"].tolist() == pytest.approx(wanted.tolist())
    assert frame["not_rejected_at_1000"].isna().all() and frame.xs("base", level=1)["not_rejected_at_100"].isna().all()


def test_rows_keep_the_order_of_first_appearance(table1):
    assert list(table1["model"].unique()) == synthetic.MODELS[:2]
    assert list(table1["method"].unique()) == synthetic.METHODS
    assert len(table1) == 2 * 3 * 2


def test_prompts_without_valid_draw_are_counted_and_left_out_of_the_distance():
    scores = synthetic.scores(methods=["base"])
    nothing = scores["item"].isin(["gaussian(mu=3.5,sigma=3.0)", "cauchy(x0=3.5,gamma=3.0)"])
    scores.loc[nothing & (scores["metric"] == "valid_rate"), "value"] = 0
    scores.loc[nothing & (scores["metric"] == "w1_over_scale"), "value"] = np.nan
    row = tables.load("table1").make(scores).iloc[0]
    assert row["prompts_without_valid_draw"] == 2
    families = by_hand(scores[~nothing], "SmolLM2-135M", "base", "unseen_params", "w1_over_scale")
    assert len(families) == 22
    assert row["w1_over_scale"] == pytest.approx(np.median(list(families.values())))


def test_a_metric_that_is_nan_throughout_stays_empty(tmp_path):
    scores = synthetic.scores()
    scores.loc[scores["metric"] == "w1_over_scale", "value"] = np.nan
    frame = tables.load("table1").make(scores)
    assert frame["w1_over_scale"].isna().all()
    tables.save(frame, tmp_path / "table1.csv")
    assert "| – |" in (tmp_path / "table1.md").read_text()


def test_table2_numbers(scores):
    frame = tables.load("table2").make(scores)
    assert list(frame["method"]) == synthetic.METHODS * 2
    mine = scores.query("model == 'Qwen3-0.6B' and method == 'hard'")
    row = frame.query("model == 'Qwen3-0.6B' and method == 'hard'").iloc[0]
    nouns = mine[mine["metric"] == "support_size_0.9"].groupby("item")["value"].mean()
    assert row["support_size_90_percent"] == pytest.approx(nouns.median())
    assert row["nouns"] == len(nouns) == 20
    assert row["unique_rate"] == pytest.approx(mine.query("metric == 'unique_rate'")["value"].mean())
    assert row["mcq_total_variation"] == pytest.approx(mine.query("metric == 'tv_uniform'")["value"].mean())
    assert (row["mcq_total_variation_floor"], row["mcq_total_variation_parsed_only_floor"]) == pytest.approx(
        (0.035, 0.04)
    )
    assert (row["mcq_parse_rate_low"], row["mcq_parse_rate_high"]) == pytest.approx(wilson(160, 200)[1:])
    share = mine.query("metric == 'freq_b'")["value"].mean()
    letter = row[["mcq_letter_B", "mcq_letter_B_low", "mcq_letter_B_high"]].tolist()
    assert letter == pytest.approx([share, *wilson(round(160 * share), 160)[1:]])
    tests = scores.query("metric == 'chi_square_pvalue'").groupby(["model", "method"])["value"]
    of_seeds = np.minimum(1, tests.min() * tests.size())  # Rüger's rule for one or two seeds
    assert set(tests.size()) <= {1, 2} and len(of_seeds) == len(frame)
    least = frame.sort_values("mcq_adjusted_p")["mcq_adjusted_p"].iloc[0]
    assert least == pytest.approx(min(1, of_seeds.min() * len(frame)))  # Holm's first step


def test_table2_without_a_benchmark_lacks_its_columns(scores):
    frame = tables.load("table2").make(scores[scores["benchmark"] != "mcq"])
    assert "unique_rate" in frame and not any(column.startswith("mcq") for column in frame)
    frame = tables.load("table2").make(scores[scores["benchmark"] == "novelty"])
    assert all(column.startswith(("model", "method", "seeds", "NoveltyBench")) for column in frame)


def test_table2_novelty_by_prompt_and_version(scores):
    frame = tables.load("table2").make(scores)
    mine = scores.query("model == 'Qwen3-1.7B' and metric == 'utility_v1.0'")
    prompts = mine.groupby(["method", "split", "item"])["value"].mean()
    row = frame.query("model == 'Qwen3-1.7B' and method == 'soft'").iloc[0]
    assert row["NoveltyBench_prompts"] == 20
    assert row["NoveltyBench_v1.0_utility"] == pytest.approx(prompts["soft"].mean())
    assert row["NoveltyBench_v1.0_utility_curated"] == pytest.approx(prompts["soft", "curated"].mean())
    difference = prompts["soft"] - prompts["base"]
    assert row["NoveltyBench_v1.0_utility_difference"] == pytest.approx(difference.mean())
    assert row["NoveltyBench_v1.0_utility_difference_low"] < difference.mean()
    assert "NoveltyBench v1.0 distinct" in tables.readable(frame)
    assert frame.query("method == 'base'")["NoveltyBench_v1.0_utility_difference"].isna().all()
    one = tables.load("table2").make(scores[scores["split"] != "curated"])
    assert "NoveltyBench_v1.0_utility_wildchat" not in one  # the same as over all prompts


def test_prompting_methods_have_the_columns_that_they_were_run_on():
    scores = synthetic.scores(methods=[*synthetic.METHODS, *synthetic.PROMPTING])
    row = tables.load("table2").make(scores).query("method == 'ssot'").iloc[0]
    assert np.isfinite(row["unique_rate"])
    assert row.filter(regex="mcq|v1.0").isna().all()
    assert set(tables.load("table3").make(scores)["method"]) == set(synthetic.METHODS)


@pytest.fixture(scope="module")
def table3(scores):
    return tables.load("table3").make(scores)


def items(scores, method, task, seed, model="Qwen3-1.7B"):
    rows = scores[(scores["model"] == model) & (scores["method"] == method) & (scores["seed"] == seed)]
    return rows[(rows["split"] == task) & (rows["metric"] == "correct")]["value"].to_numpy()


def test_table3_differences_to_a_base_that_was_measured_once(scores, table3):
    row = table3.query("model == 'Qwen3-1.7B' and method == 'soft'").iloc[0]
    for task, label in (("mmlu", "MMLU"), ("truthfulqa", "TruthfulQA"), ("gsm8k_flexible", "GSM8K_flexible")):
        base = items(scores, "base", task, 0)
        changes = [items(scores, "soft", task, seed) - base for seed in (0, 1)]
        assert row[f"{label}_difference"] == pytest.approx(np.mean(changes))
        assert row[f"{label}_difference_low"] < np.mean(changes) < row[f"{label}_difference_high"]
    assert table3.query("method == 'base'").filter(like="difference").isna().all(axis=None)
    assert table3["seeds"].tolist() == [1, 2, 2] * 2


def test_table3_estimates_where_every_run_has_one(scores, table3):
    whole = scores.query("model == 'Qwen3-1.7B' and method == 'soft' and item == 'all' and split == 'mmlu'")
    row = table3.query("model == 'Qwen3-1.7B' and method == 'soft'").iloc[0]
    assert row["MMLU_gp-IRT"] == pytest.approx(whole[whole["metric"] == "gp_irt"]["value"].mean())
    means = [items(scores, "soft", "gsm8k_flexible", seed).mean() for seed in (0, 1)]
    assert row["GSM8K_flexible_mean"] == pytest.approx(np.mean(means))
    one_without = (scores["metric"] == "gp_irt") & (scores["method"] == "hard") & (scores["split"] == "mmlu")
    frame = tables.load("table3").make(scores[~one_without])
    assert "MMLU_mean" in frame and "MMLU_gp-IRT" not in frame and "HellaSwag_gp-IRT" in frame


def test_table3_p_values_are_mcnemars_by_holm():
    scores = synthetic.scores(synthetic.MODELS[:2])
    frame = tables.load("table3").make(scores)
    columns = [column for column in frame if column.endswith("_p")]
    assert "TruthfulQA_McNemar_p" not in columns and len(columns) == 5
    raw = {}
    for row in frame[frame["method"] != "base"].itertuples():
        for column in columns:
            task = column.removesuffix("_McNemar_p").lower()
            base, tuned = (items(scores, name, task, 0, row.model) for name in ("base", row.method))
            raw[row.Index, column] = mcnemar_exact(sum(base > tuned), sum(base < tuned))
    worst = 0
    for place, (cell, value) in enumerate(sorted(raw.items(), key=lambda pair: pair[1])):
        worst = max(worst, min(1, value * (len(raw) - place)))
        assert frame.loc[cell] == pytest.approx(worst)
    assert frame.loc[frame["method"] == "base", columns].isna().all(axis=None)


def test_table3_shows_further_tasks(scores):
    more = scores[scores["split"] == "mmlu"].assign(split="gsm8k_full_strict")
    frame = tables.load("table3").make(pd.concat([more, scores]))
    assert frame["gsm8k_full_strict_difference"].tolist() == pytest.approx(
        frame["MMLU_difference"].tolist(), nan_ok=True
    )
    assert list(frame).index("MMLU_difference") < list(frame).index("gsm8k_full_strict_difference")


def test_table4_perplexities_and_their_ratio_to_base(scores):
    frame = tables.load("table4").make(scores)
    row = frame.query("model == 'Qwen3-0.6B' and method == 'hard'").iloc[0]
    mine = scores.query("model == 'Qwen3-0.6B' and benchmark == 'paloma' and item == 'all' and metric == 'perplexity'")
    logs = np.log(mine.set_index(["method", "split", "seed"])["value"]).sort_index()
    for name in [*synthetic.SLICES, "all"]:
        assert row[f"{name}_perplexity"] == pytest.approx(np.exp(logs["hard", name].mean()))
        ratio = np.exp(logs["hard", name].mean() - logs["base", name].mean())
        assert row[f"{name}_ratio"] == pytest.approx(ratio)  # from the blocks, not from the sums of the slice
        assert row[f"{name}_ratio_low"] <= ratio <= row[f"{name}_ratio_high"]
    bits = scores.query("model == 'Qwen3-0.6B' and method == 'hard' and metric == 'bits_per_byte' and split == 'all'")
    assert row["bits_per_byte"] == pytest.approx(bits["value"].mean())
    assert frame.query("method == 'base'").filter(like="ratio").isna().all(axis=None)


def test_slices_are_fixed_in_the_ratio_over_all():
    """Slices that the adapter changes differently, each by the same in all of its blocks, leave nothing uncertain."""
    rows = []
    for name, factor in {"c4": 0.90, "ptb": 1.05, "mc4": 1.10}.items():
        for block in range(20):
            for method, nats in (("base", 2.0), ("soft", 2.0 + np.log(factor))):
                head = ("m", method, 0, "paloma", name)
                sums = {"nats": 100 * nats, "tokens": 100}
                rows += [(*head, f"block-{block:02d}", metric, value) for metric, value in sums.items()]
                rows += [(*head, "all", "perplexity", np.exp(nats))] if block == 0 else []
    columns = ["model", "method", "seed", "benchmark", "split", "item", "metric", "value"]
    row = tables.load("table4").make(pd.DataFrame(rows, columns=columns)).query("method == 'soft'").iloc[0]
    together = (0.90 * 1.05 * 1.10) ** (1 / 3)
    assert row[["all_ratio", "all_ratio_low", "all_ratio_high"]].tolist() == pytest.approx([together] * 3)
    assert row["c4_ratio"] == pytest.approx(0.90)


def test_table5_fidelity_and_cost_of_all_methods():
    scores = synthetic.scores(methods=[*synthetic.METHODS, *synthetic.PROMPTING])
    frame = tables.load("table5").make(scores).set_index("method")
    assert list(frame.index) == [*synthetic.METHODS, *synthetic.PROMPTING]
    assert frame.loc["ssot", ["structured_tokens_per_draw", "structured_tokens_ratio"]].tolist() == [900, 150]
    assert frame.loc["verbalised", "open-ended_tokens_ratio_high"] == pytest.approx(20)
    families = by_hand(scores, "SmolLM2-135M", "temperature", "unseen_families", "pit_w1")
    assert frame.loc["temperature", "pit_w1_unseen_families"] == pytest.approx(np.mean(list(families.values())))
    assert frame.loc["temperature", "pit_w1_unseen_families_floor"] == pytest.approx(synthetic.FLOORS["pit_w1_floor"])
    assert np.isnan(frame.loc["base", "structured_tokens_ratio"])
    no_law = scores[~((scores["method"] == "ssot") & (scores["metric"] == "support_size_0.9"))]
    frame = tables.load("table5").make(no_law).set_index("method")
    assert np.isnan(frame.loc["ssot", "open-ended_support_size_90_percent"])
    only = tables.load("table5").make(scores[scores["benchmark"] == "open_ended"])
    assert "open-ended_unique_rate" in only and not any(column.startswith("valid_rate") for column in only)


def test_every_table_is_written_and_read_again(tmp_path):
    scores = synthetic.scores(methods=[*synthetic.METHODS, *synthetic.PROMPTING])
    for name in ("table2", "table3", "table4", "table5"):
        frame = tables.load(name).make(scores)
        tables.save(frame, tmp_path / f"{name}.csv")
        again = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(tables.readable(again)) == list(tables.readable(frame))
        assert not any(column.endswith((" low", " high")) for column in tables.readable(again))


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("table1", ["structured"]),
        ("table2", ["open_ended", "mcq", "novelty"]),
        ("table3", ["tinybenchmarks"]),
        ("table4", ["paloma"]),
        ("table5", ["structured", "open_ended"]),
    ],
)
def test_scores_without_the_benchmark(scores, name, missing):
    kept = scores[~scores["benchmark"].isin(missing)]
    with pytest.raises(CftError, match=missing[0]):
        tables.load(name).make(kept)


def test_unknown_table():
    with pytest.raises(CftError, match="unknown table 'table9'; known: table1, table2"):
        tables.load("table9")


def test_three_files_of_the_same_rows(table1, tmp_path):
    frame = table1.assign(model=table1["model"].str.replace("Qwen3", "a_b|50%"))
    tables.save(frame, tmp_path / "t.csv")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".tex"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), frame, rtol=1e-5, check_dtype=False)
    tex, markdown = (tmp_path / "t.tex").read_text(), (tmp_path / "t.md").read_text()
    assert r"\toprule" in tex and r"a\_b|50\%" in tex and r"unseen\_params" in tex
    assert tex.count(r"\\") == len(frame) + 1
    assert r"a_b\|50%" in markdown and len(markdown.splitlines()) == len(frame) + 2
    assert "trie KL (nats)" in tex and "low" not in tex
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    tables.save(frame, tmp_path / "t.csv")
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_bounds_are_no_interval_and_no_p_value_is_0():
    ends = {"law_pit_w1": [0.3, np.nan], "law_pit_w1_low": [0.29412, np.nan], "law_pit_w1_high": [0.30641, np.nan]}
    shown = tables.readable(pd.DataFrame(ends | {"McNemar_p": [3e-9, 0.04567], "top": [1e-9, 2.0]}))
    assert shown.to_dict("list") == {
        "law PIT W1": ["0.294 to 0.306", "–"], "McNemar p": ["<0.0001", "0.0457"], "top": ["1.0e-09", "2"]
    }  # fmt: skip


def test_a_tiny_number_is_short():
    assert [tables.number(value) for value in (4.66635e-09, -2e-7, 0.00012345)] == ["4.7e-09", "-2.0e-07", "0.000123"]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.47312, 0.41234, 0.53456), "0.47 [0.41, 0.53]"),
        ((10.23, 8.111, 12.345), "10.2 [8.1, 12.3]"),
        ((0.000312, 0.000211, 0.000455), "0.00031 [0.00021, 0.00046]"),
        ((12345.6, 11000, 14000), "12,346 [11,000, 14,000]"),
        ((1.0, 1.0, 1.0), "1 [1, 1]"),
        ((1.2, -0.2, 395.0), "1 [0, 395]"),
        ((0.5, 0.5 - 1e-10, 0.5), "0.500 [0.500, 0.500]"),
        ((np.nan, np.nan, np.nan), "–"),
        ((0.1234, np.nan, np.nan), "0.123"),
    ],
)
def test_numbers_are_rounded_to_their_interval(numbers, text):
    assert tables.with_interval(*numbers) == text
