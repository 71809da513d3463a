import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import NoveltyBenchmark
from cft.benchmarks import novelty
from cft.distributions import registry
from cft.partition import partition, same_words
from cft.settings import check, read_yaml

REGISTRY = registry()
ROOT = Path(__file__).resolve().parents[1]
REWARD_OF = dict(enumerate([-9, -7, -6.1, -5.9, -5.6, -5.2, -4.9, -4, -3, 0], start=1))


def prompts(assets=None, **settings):
    settings = check(NoveltyBenchmark, {"draws": 10, "max_new_tokens": 8, **settings}, "test")
    return novelty.prompts(settings, REGISTRY, assets or Assets({}, None, "unused"))


def judged(labels, scores, prompt_id="a", split="curated"):
    """Judged draws of one prompt with these classes and scores from 1 to 10."""
    rewards = [float(REWARD_OF[score]) for score in scores]
    return pd.DataFrame(
        {"prompt_id": prompt_id, "split": split, "draw": range(len(labels)), "label": labels, "reward": rewards}
    )


def metrics(scores, item="a"):
    return scores[scores["item"] == item].set_index("metric")["value"].to_dict()


# Prompts


def test_own_prompts_need_no_files():
    found = prompts(prompts="own")
    assert set(found["split"]) == {"own"}
    assert found["prompt_id"].is_unique
    assert found["prompt"].is_unique
    assert prompts(prompts="own", limit=2)["prompt"].tolist() == found["prompt"].tolist()[:2]


class Upstream:
    """Assets of two small files of upstream's form."""

    def __init__(self, folder):
        self.folder = folder
        for split, asset in novelty.SPLITS.items():
            rows = [{"id": f"{split}-{i}", "prompt": f"Prompt {i}\u2028of {split}", "more": 1} for i in range(3)]
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            self.path(asset).write_text("".join(lines), encoding="utf-8")

    def path(self, name):
        return self.folder / f"{name}.jsonl"


def test_limit_keeps_the_first_prompts_of_each_split(tmp_path):
    found = prompts(Upstream(tmp_path), limit=2)
    assert found["prompt_id"].tolist() == ["curated-0", "curated-1", "wildchat-0", "wildchat-1"]
    assert found["split"].tolist() == ["curated", "curated", "wildchat", "wildchat"]
    assert found["prompt"].tolist()[3] == "Prompt 1\u2028of wildchat"


def test_prompts_are_upstreams(shared_assets):
    table = read_yaml(ROOT / "config" / "assets.yaml")
    if not set(novelty.SPLITS.values()) <= set(table):
        pytest.skip("config/assets.yaml does not name the prompts of NoveltyBench")
    found = prompts(Assets(table, shared_assets, "unused"))
    assert found["split"].value_counts().to_dict() == {"wildchat": 1000, "curated": 100}
    assert found["prompt_id"].is_unique
    assert found["prompt"].iloc[0] == "Tell me a story in five sentences about a girl and her dog."


# Golden


def test_golden_partition_and_utility(golden_rows):
    row = golden_rows("novelty")[0]

    def congruent(pairs):
        return [len(first.split()) % 3 == len(second.split()) % 3 for first, second in pairs]

    assert partition([row["responses"]], congruent) == [row["partition"]]
    labels, rewards = np.array(row["partition"]), np.array(row["raw_rewards"])
    scores = novelty.ratings(rewards)
    assert (scores * novelty.firsts(labels)).tolist() == row["generation_scores"]
    assert scores[novelty.firsts(labels)].tolist() == row["partition_scores"]
    assert novelty.utility(labels, scores) == pytest.approx(row["utility"], rel=1e-9)
    draws = judged(labels, scores).assign(reward=rewards)
    found = metrics(novelty.score(draws, None, REGISTRY))
    assert found == pytest.approx(
        {"distinct_v1.0": row["distinct"], "utility_v1.0": row["utility"], "reward_v1.0": scores.mean()}, rel=1e-9
    )


def test_golden_scores_of_rewards(golden_rows):
    pairs = golden_rows("novelty")[1]["rewards"]
    assert novelty.ratings(np.array([reward for reward, _ in pairs])).tolist() == [score for _, score in pairs]


def test_golden_rule_for_short_answers(golden_rows):
    cases = golden_rows("novelty")[2]["equality"]
    assert [same_words(first, second) for first, second, _ in cases] == [same for *_, same in cases]


# Borders


def test_a_reward_at_a_threshold_gets_the_lower_score():
    for below, threshold in enumerate(novelty.THRESHOLDS, start=1):
        around = np.array([np.nextafter(threshold, -np.inf), threshold, np.nextafter(threshold, np.inf)])
        assert novelty.ratings(around).tolist() == [below, below, below + 1]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a b", "a c", True),  # 2 * 1 >= 2
        ("a b c", "a x y", False),  # 2 * 1 < 3
        ("a b c", "B A z", True),
        ("a a a a", "a a a a", False),  # one different word, four in length: not even the answer itself
        ("a b c d e", "a b z", False),
        ("a b c d e", "c b a", True),
        ("a b c d e", "a b c d e f", None),
        (" \n", "", True),
    ],
)
def test_short_answers(first, second, same):
    assert same_words(first, second) is same
    assert same_words(second, first) is same


# Scores


def test_all_different_and_all_the_same_in_closed_form():
    mean = metrics(novelty.score(judged(range(10), [7] * 10), None, REGISTRY))
    assert mean == pytest.approx({"distinct_v1.0": 10, "utility_v1.0": 7, "reward_v1.0": 7})
    same = metrics(novelty.score(judged([0] * 10, [7] * 10), None, REGISTRY))
    # Only the first of ten weights 1, p, p², … counts: (1 - p) / (1 - p^10).
    assert same == pytest.approx({"distinct_v1.0": 1, "utility_v1.0": 7 * 0.2 / (1 - 0.8**10), "reward_v1.0": 7})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 10)), min_size=1, max_size=12), st.randoms())
def test_rows_may_come_in_any_order(draws, random):
    labels, scores = zip(*draws, strict=True)
    frame = pd.concat([judged(labels, scores), judged(labels[::-1], scores[::-1], "b", "wildchat")])
    found = novelty.score(frame, None, REGISTRY)
    rows = list(range(len(frame)))
    random.shuffle(rows)
    pd.testing.assert_frame_equal(novelty.score(frame.iloc[rows], None, REGISTRY), found)
    first = [score * (label not in labels[:i]) for i, (label, score) in enumerate(draws)]
    weights = [0.8**i for i in range(len(draws))]
    expected = sum(weight * score for weight, score in zip(weights, first, strict=True)) / sum(weights)
    assert metrics(found)["utility_v1.0"] == pytest.approx(expected)
    assert metrics(found)["distinct_v1.0"] == len(set(labels))


def test_summary_has_means_over_prompts_of_each_split_and_of_all():
    frame = pd.concat(
        [judged([0, 1], [4, 4]), judged([0, 0], [2, 2], "b"), judged([0, 1, 2], [9, 9, 9], "c", "wildchat")]
    )
    found = json.loads(json.dumps(novelty.summary(frame, REGISTRY), allow_nan=False))
    assert found["version"] == "NoveltyBench v1.0"
    assert found["splits"]["curated"]["distinct_v1.0"] == 1.5
    assert found["splits"]["curated"]["reward_v1.0"] == 3
    wildchat = {"prompts": 1, "distinct_v1.0": 3, "utility_v1.0": 9, "reward_v1.0": 9}
    assert found["splits"]["wildchat"] == pytest.approx(wildchat)
    assert found["all"]["prompts"] == 3
    assert found["all"]["distinct_v1.0"] == 2


def test_every_metric_names_its_version():
    scores = novelty.score(judged([0], [1]), None, REGISTRY)
    assert scores["metric"].str.endswith("_v1.0").all()


def test_draws_of_two_models_are_refused():
    frame = pd.concat([judged([0, 1], [4, 4]), judged([0, 1], [4, 4])])
    with pytest.raises(CftError, match="prompt a has draw 0 twice; give the draws of one model"):
        novelty.score(frame, None, REGISTRY)


def test_a_reward_that_is_no_number_is_refused():
    with pytest.raises(CftError, match="not a number"):
        novelty.score(judged([0], [1]).assign(reward=float("nan")), None, REGISTRY)


# Upstream's files


def write_scores(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_published(row, path):
    """A file of upstream's form with one of the golden prompts, in which distinct is the largest class index."""
    kept = {key: row[key] for key in ("partition", "generation_scores", "partition_scores", "utility")}
    return write_scores(path, [{"id": "a", "generations": row["responses"], "distinct": max(row["partition"]), **kept}])


def test_a_file_of_upstreams_form_is_scored_again(golden_rows, tmp_path):
    row = golden_rows("novelty")[0]
    kept = {key: row[key] for key in ("partition", "generation_scores", "utility")}
    whole = {"id": "a", "prompt": "p", "generations": row["responses"], "distinct": max(row["partition"]), **kept}
    alone = {"id": "b", "partition": [0, 0], "generation_scores": [9, 0]}
    found = novelty.rescore(write_scores(tmp_path / "scores.jsonl", [whole, alone]))
    assert found["prompts"] == 2
    assert found["utility_v1.0"] == pytest.approx((row["utility"] + 5) / 2, rel=1e-9)
    assert found["distinct_v1.0"] == (whole["distinct"] + 1 + 1) / 2


# Names a published scores.jsonl of novelty-bench/novelty-bench; they are too large to carry along.
@pytest.mark.parametrize("path", [Path(name) for name in [os.environ.get("CFT_NOVELTY_SCORES")] if name] or [None])
def test_a_published_file_is_scored_again(path, golden_rows, tmp_path):
    path = path or as_published(golden_rows("novelty")[0], tmp_path / "scores.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    found = novelty.rescore(path)
    assert found["utility_v1.0"] == pytest.approx(np.mean([row["utility"] for row in rows]), rel=1e-9)
    # Some files were published with the largest class index, others with the number of classes.
    missing = [len(row["partition_scores"]) - row["distinct"] for row in rows]
    assert missing in ([0] * len(rows), [1] * len(rows))
    assert found["distinct_v1.0"] == pytest.approx(np.mean([row["distinct"] for row in rows]) + missing[0])


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b"no", b"\xff", b'{"partition": [0, 1], "generation_scores": [1]}',
     b'{"partition": [0, 1], "generation_scores": [1, NaN]}', b'{"partition": [0], "generation_scores": [null]}'],
)  # fmt: skip
def test_a_line_of_another_form_is_named(tmp_path, line):
    path = tmp_path / "scores.jsonl"
    path.write_bytes(b'{"partition": [0], "generation_scores": [1]}\n' + line + b"\n")
    with pytest.raises(CftError, match=r"line 2 has no partition"):
        novelty.rescore(path)


def test_files_without_prompts_are_named(tmp_path):
    with pytest.raises(CftError, match="no such file"):
        novelty.rescore(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CftError, match="holds no prompts"):
        novelty.rescore(tmp_path / "empty.jsonl")
