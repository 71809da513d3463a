import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cft.assets import Assets
from cft.benchmark_settings import McqBenchmark
from cft.benchmarks import mcq
from cft.distributions import registry
from cft.settings import check, read_yaml
from cft.stats import wilson

REGISTRY = registry()
TABLE = read_yaml(Path(__file__).parents[1] / "config" / "assets.yaml")


def settings(**values):
    return check(McqBenchmark, {"draws": 1, "max_new_tokens": 1, **values}, "test")


def question(letter="B"):
    return f"Question: q\nA. w\nB. x\nC. y\nD. z\nCorrect Answer: {letter}\nExplanation: e"


def scores(texts):
    found = mcq.score(pd.DataFrame({"text": texts}), None, REGISTRY)
    return dict(zip(found["metric"], found["value"], strict=True))


def golden_rows(golden):
    rows = [json.loads(line) for line in (golden / "mcq.jsonl").read_text().splitlines()]
    return rows[:-1], rows[-1]["summary"]


def test_golden_parser(golden):
    rows, _ = golden_rows(golden)
    assert len(rows) == 17
    for row in rows:
        assert {"text": row["text"], **dataclasses.asdict(mcq.parse(row["text"]))} == row


def test_golden_summary(golden):
    rows, expected = golden_rows(golden)
    found = mcq.summary(pd.DataFrame({"text": [row["text"] for row in rows]}), REGISTRY)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-12)
    assert set(found) - set(expected) == {
        "tv_uniform", "tv_uniform_floor", "tv_uniform_floor_high", "tv_uniform_parsed_only_floor",
        "tv_uniform_parsed_only_floor_high", "tv_detectable",
    }  # fmt: skip


def test_every_fault_of_a_text_is_listed():
    assert mcq.parse("Hello\nA. x\nA. y").format_errors == [
        "unexpected_line", "duplicate_option_a", "missing_option_b", "missing_option_c", "missing_option_d",
        "missing_question", "missing_explanation", "missing_correct_answer", "empty_question", "empty_explanation",
        "empty_option_b", "empty_option_c", "empty_option_d", "invalid_correct_answer",
    ]  # fmt: skip


@pytest.mark.parametrize("letter", ["", "E", "AB", "a", "A.", "(A)"])
def test_only_one_bare_capital_letter_is_an_answer(letter):
    assert not mcq.parse(question(letter)).has_valid_correct_answer


def test_order_of_the_lines_does_not_matter():
    lines = question("D").splitlines()
    assert mcq.parse("\n".join(reversed(lines))).is_parseable


def test_nothing_parsed_is_the_worst_score_not_the_best():
    found = scores(["", "no", question("?")])
    assert math.isnan(found["tv_uniform_parsed_only"]) and math.isnan(found["chi_square_pvalue"])
    assert found["parse_rate"] == 0
    assert found["tv_uniform"] == 1
    released = mcq.summary(pd.DataFrame({"text": [""]}), REGISTRY)
    assert (released["tv_distance_from_uniform"], released["chi_square_pvalue"]) == (0, 1)
    assert (released["freq_a"], released["tv_uniform"]) == (0, 1)


def test_total_variation_by_hand():
    assert mcq.total_variation(np.array([4, 0, 0, 0])) == 0.75
    assert mcq.total_variation(np.array([1, 1, 1, 1])) == 0
    # A quarter of the texts does not parse: shares 3/16 for each letter and 1/4 for the fifth.
    assert mcq.total_variation(np.array([3, 3, 3, 3]), 16) == 0.25
    assert mcq.total_variation(np.array([3, 0, 0, 0]), 4) == 0.75
    assert math.isnan(mcq.total_variation(np.zeros(4)))


def test_invalid_texts_are_in_tv_uniform_only():
    texts = [question(letter) for letter in "ABCD"] * 10
    assert scores(texts)["tv_uniform"] == scores(texts)["tv_uniform_parsed_only"] == 0
    mixed = scores(texts + ["?"] * 40)
    assert (mixed["tv_uniform"], mixed["tv_uniform_parsed_only"], mixed["n"]) == (0.5, 0, 80)


def test_chi_square_by_hand():
    found = scores([question(letter) for letter in "AABBBBCD"])
    assert found["chi_square_statistic"] == pytest.approx((0 + 4 + 1 + 1) / 2)
    assert found["count_b"] == 4 and found["freq_b"] == 0.5


@pytest.mark.parametrize(("n", "expected"), [(1, 0.75), (2, 0.25 * 0.75 + 0.75 * 0.5), (1000, 0.022)])
def test_floor_of_a_perfect_sampler(n, expected):
    assert mcq.total_variation_floor(n).mean == pytest.approx(expected, rel=0.01)


def test_a_perfect_sampler_is_seldom_above_the_floors_quantile():
    counts = np.random.default_rng(3).multinomial(1000, [0.25] * 4, size=4000)
    above = [mcq.total_variation(row, 1000) > mcq.total_variation_floor(1000).high for row in counts]
    assert 0.035 < np.mean(above) < 0.065


@pytest.mark.parametrize("sign", [1, -1])
def test_the_detectable_shift_is_found_in_four_of_five_cases(sign):
    shift = mcq.detectable_shift(1000)
    masses = np.array([0.25 + sign * shift, *[0.25 - sign * shift / 3] * 3])
    counts = np.random.default_rng(4).multinomial(1000, masses, size=4000)
    assert np.mean(stats.chisquare(counts, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_a_shift_of_two_letters_must_be_larger():
    shift = mcq.detectable_shift(1000) * (4 / 3) ** 0.5
    masses = 0.25 + shift / 2 * np.array([1, 1, -1, -1])
    counts = np.random.default_rng(5).multinomial(1000, masses, size=4000)
    assert np.mean(stats.chisquare(counts, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_scores_are_one_item():
    found = mcq.score(pd.DataFrame({"text": [question()]}), None, REGISTRY)
    assert set(found["split"]) == {"mcq"} and set(found["item"]) == {"all"}
    assert not found["metric"].duplicated().any()


def test_shares_have_wilson_intervals():
    texts = [question()] * 3 + ["no question"]
    found = mcq.score(pd.DataFrame({"text": texts}), None, REGISTRY).set_index("metric")["value"]
    letters = [found[f"freq_{letter}"] for letter in "abcd"]
    assert (found["parse_rate_low"], found["parse_rate_high"]) == pytest.approx(wilson(3, 4)[1:])
    for letter, share in zip("abcd", letters, strict=True):
        ends = found[f"freq_{letter}_low"], found[f"freq_{letter}_high"]
        assert ends == pytest.approx(wilson(round(3 * share), 3)[1:])
    assert sorted(letters) == [0, 0, 0, 1]


def test_own_prompt_asks_for_what_the_parser_reads(shared_assets):
    found = mcq.prompts(settings(), REGISTRY, Assets(TABLE, None, "unused"))
    assert found.drop(columns="prompt").to_dict("records") == [{"prompt_id": "mcq", "split": "mcq"}]
    (text,) = found["prompt"]
    lines = text.splitlines()
    for prefix in mcq.PREFIXES.values():
        assert sum(line.startswith(prefix) for line in lines) == 1
    template = "\n".join(lines[-len(mcq.PREFIXES) :])
    filled = template.replace("<one letter, nothing else>", "C")
    assert mcq.parse(filled).is_parseable
    upstream = (shared_assets / "mcq_prompt.txt").read_text()
    sentences = [part.strip() for line in upstream.splitlines() for part in line.split(". ") if len(part) > 25]
    assert not [sentence for sentence in sentences if sentence in text]


def test_the_papers_prompt_comes_from_the_assets(shared_assets, tmp_path):
    found = mcq.prompts(settings(prompt="paper"), REGISTRY, Assets(TABLE, shared_assets, tmp_path))
    assert found["prompt"].tolist() == [(shared_assets / "mcq_prompt.txt").read_text()]
