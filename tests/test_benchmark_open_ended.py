import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import OpenEndedBenchmark
from cft.benchmarks import open_ended
from cft.distributions import registry
from cft.settings import check

REGISTRY = registry()


def golden_rows(golden, name):
    return [json.loads(line) for line in (golden / name).read_text().splitlines()]


def prompts(**settings):
    settings = check(OpenEndedBenchmark, {"draws": 1, "max_new_tokens": 1, **settings}, "test")
    return open_ended.prompts(settings, REGISTRY, Assets({}, None, "unused"))


def test_prompts_are_upstreams(shared_assets):
    found = prompts()
    assert found["prompt"].tolist() == json.loads((shared_assets / "open_random_gen_prompts.json").read_text())
    assert found["prompt_id"].is_unique
    assert set(found["split"]) == {"open_ended"}


def test_limit_keeps_the_first_prompts():
    found = prompts(limit=3)
    assert found["prompt_id"].tolist() == ["word", "first name", "city"]
    assert found["prompt"].tolist()[2] == "Name a random city. Output ONLY the answer."


def test_golden_answers(golden):
    rows = golden_rows(golden, "open_ended.jsonl")
    texts, whole = rows[:-1], rows[-1]
    assert [open_ended.normalise(row["text"]) for row in texts] == [row["normalised"] for row in texts]
    draws = pd.DataFrame({"prompt_id": "city", "text": [row["text"] for row in texts]})
    found = open_ended.summary(draws, REGISTRY)
    assert {key: found[key] for key in whole} == whole
    assert found["prompts"]["city"]["num_unique"] == whole["num_unique"]
    assert found["thinking"] == sum(row["thinking"] for row in texts)
    assert found["empty"] == sum(not row["normalised"] for row in texts)


@pytest.mark.parametrize(
    ("text", "answer"),
    [('"', '"'), ('""', ""), ("''Rome''", "'Rome'"), ("'Rome\"", "'Rome\""), ('" Rome "', "Rome"), (" \n\t\n", "")],
)
def test_quotes_are_removed_once_and_only_in_pairs(text, answer):
    assert open_ended.normalise(text) == answer


@given(st.text())
def test_an_answer_is_one_line_without_outer_white_space(text):
    answer = open_ended.normalise(text)
    assert answer == answer.strip()
    assert len(answer.splitlines()) <= 1


def test_golden_support_sizes(golden):
    rows = golden_rows(golden, "support_size.jsonl")
    assert rows
    for row in rows:
        found = open_ended.support_size(np.array(row["probabilities"]), tuple(map(float, row["sizes"])))
        assert found.tolist() == list(row["sizes"].values())


def test_support_size_by_hand():
    laws = np.array([[0.5, 0.1, 0.4], [0.0, 1.0, 0.0]])
    assert open_ended.support_size(laws, (0.5, 0.6, 0.95)).tolist() == [[1, 2, 3], [1, 1, 1]]


def test_support_size_of_a_uniform_law_is_its_share_of_the_tokens():
    sizes = open_ended.support_size(np.full(1000, 1e-3))
    assert sizes == pytest.approx(1000 * np.array(open_ended.THRESHOLDS), abs=1)


def test_rounding_below_the_threshold_gives_every_token():
    assert open_ended.support_size(np.array([0.4, 0.3]), (1.0,)).tolist() == [2]


def test_scores_count_empty_answers_against_the_prompt():
    draws = pd.DataFrame({"prompt_id": ["city"] * 4 + ["tree"], "text": ["Oslo", '"Oslo"', "Rome", "", "oak"]})
    law = pd.DataFrame({"prompt_id": ["city"], "support_size_0.9": [12], "support_size_0.99": [40], "other": [1]})
    scores = open_ended.score(draws, law, REGISTRY)
    assert set(scores["split"]) == {"open_ended"}
    city, tree = ({metric: value for _, name, metric, value in scores.itertuples(index=False) if name == item}
                  for item in ("city", "tree"))  # fmt: skip
    assert city == {
        "n": 4, "unique_rate": 0.5, "empty_rate": 0.25, "top_share": 0.5, "top4_share": 0.75,
        "support_size_0.9": 12, "support_size_0.99": 40,
    }  # fmt: skip
    assert tree == {"n": 1, "unique_rate": 1, "empty_rate": 0, "top_share": 1, "top4_share": 1}


def test_the_share_of_the_weekday_that_the_paper_names():
    texts = ["Wednesday", "wednesday.", "**Wednesday**", "Friday", "", "Wednesday, of course"]
    scores = open_ended.score(pd.DataFrame({"prompt_id": "weekday", "text": texts}), None, REGISTRY)
    assert scores.set_index("metric")["value"]["wednesday_share"] == pytest.approx(2 / 6)


def test_shares_of_the_most_frequent_answers():
    """Empty answers are no answer, however frequent; the others count among all draws."""
    draws = pd.DataFrame({"prompt_id": "city", "text": [*"aaabbbccde", *[""] * 10]})
    scores = open_ended.score(draws, None, REGISTRY).set_index("metric")["value"]
    assert (scores["top_share"], scores["top4_share"]) == (3 / 20, 9 / 20)
    nothing = open_ended.score(draws.tail(5), None, REGISTRY).set_index("metric")["value"]
    assert (nothing["top_share"], nothing["top4_share"]) == (0, 0)


def test_the_most_frequent_of_equally_likely_answers_have_more_than_their_share():
    # Two draws of a coin are the same side, or one of each; of three numbers, in 6, 18 or 3 of 27 cases.
    assert open_ended.expected_share(2, 2, 1) == pytest.approx(3 / 4, abs=0.01)
    assert open_ended.expected_share(3, 3, 1) == pytest.approx((6 / 3 + 18 * 2 / 3 + 3) / 27, abs=0.01)
    assert open_ended.expected_share(7, 1_000_000, 4) == pytest.approx(4 / 7, abs=0.001)
    # What captions say.
    captions = {(7, 100, 1): 0.20, (7, 20, 1): 0.27, (85, 100, 4): 0.15}
    for (outcomes, n, most), share in captions.items():
        assert open_ended.expected_share(outcomes, n, most) == pytest.approx(share, abs=0.005)


def test_tokens_per_draw_are_scored_where_the_draws_have_them():
    draws = pd.DataFrame({"prompt_id": ["city", "tree", "city"], "text": ["Oslo", "oak", ""], "tokens": [2, 900, 5]})
    scores = open_ended.score(draws, None, REGISTRY)
    found = scores[scores["metric"] == "tokens_per_draw"]
    assert list(found[["item", "value"]].itertuples(index=False, name=None)) == [("city", 3.5), ("tree", 900.0)]
    assert "tokens_per_draw" not in open_ended.summary(draws, REGISTRY)


def test_summary_is_json_and_counts_the_most_common_first():
    draws = pd.DataFrame({"prompt_id": ["city"] * 3, "text": ["Oslo", "Rome", "Rome"]})
    found = json.loads(json.dumps(open_ended.summary(draws, REGISTRY), allow_nan=False))
    assert list(found["counts"].items()) == [("Rome", 2), ("Oslo", 1)]


def test_missing_prompt_id_is_named():
    with pytest.raises(CftError, match="prompt_id"):
        open_ended.summary(pd.DataFrame({"text": ["Oslo"]}), REGISTRY)
