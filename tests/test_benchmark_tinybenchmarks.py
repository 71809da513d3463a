"""The items of tinyBenchmarks, how answers are read, and the scores."""

import hashlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import TinyBenchmarks
from cft.benchmarks import tinybenchmarks
from cft.benchmarks.tinybenchmarks import BENCHMARK_OF, flexible_number, plain, score, strict_number
from cft.distributions import registry
from cft.irt import bank_of, estimates
from cft.settings import read_yaml
from cft.task_items import MADE_UP, SOURCES, made_up, made_up_parameters

REGISTRY = registry()
TABLE = read_yaml(Path(__file__).parents[1] / "config" / "assets.yaml")
GENERATED = TinyBenchmarks(data="generated", extended=True)


def prompts(settings=GENERATED, mirror=None, cache="unused"):
    return tinybenchmarks.prompts(settings, REGISTRY, Assets(TABLE, mirror, cache))


def test_golden_numbers(golden_rows):
    rows = golden_rows("gsm8k")
    assert len(rows) == 13
    for row in rows:
        found = {"text": row["text"], "strict": strict_number(row["text"]), "flexible": flexible_number(row["text"])}
        assert found == row


@pytest.mark.parametrize(
    ("number", "expected"),
    [("1,000,000", "1000000"), ("-0", "0"), ("+7", "7"), ("0.50", "0.5"), ("100", "100"), ("-1,234.0", "-1234")],
)
def test_equal_numbers_have_one_form(number, expected):
    assert plain(number) == expected


def test_an_answer_is_right_under_both_ways_to_read_it():
    def read(text):
        return tinybenchmarks.gsm8k({"answer": "1,200"}, [text])

    assert read("so\n#### 1200.0") == {"strict": 1, "flexible": 1}
    assert read("It is 1,200.") == {"strict": 0, "flexible": 1}
    assert read("#### 1200\nor 7") == {"strict": 1, "flexible": 0}
    assert read("<think>#### 3</think>#### 1200") == {"strict": 1, "flexible": 1}
    assert read("<think>it is 1200") == {"strict": 0, "flexible": 0}


def test_share_of_the_true_answers():
    found = tinybenchmarks.mc2({"labels": [0, 1, 1]}, [(math.log(p) - 900, False) for p in (0.2, 0.1, 0.5)])
    assert found == {"mc2": pytest.approx(0.75)}


def test_every_task_has_its_items():
    found = prompts()
    tasks = [*BENCHMARK_OF, "gsm8k_full", "ifeval"]
    assert found["prompt_id"].tolist() == [f"{task}/{number}" for task in tasks for number in range(MADE_UP)]
    assert (found["split"] == found["prompt_id"].str.split("/").str[0]).all()
    assert not found.duplicated(["split", "prompt"]).any()
    pd.testing.assert_frame_equal(found, prompts())
    assert prompts(TinyBenchmarks(data="generated", limit=2)).groupby("split").size().to_dict() == dict.fromkeys(
        BENCHMARK_OF, 2
    )


def test_what_scoring_needs():
    rows = {row.prompt_id: (row.prompt, json.loads(row.row)) for row in prompts().itertuples()}
    assert rows["mmlu/1"][1] == {"choices": ["A", "B", "C", "D"], "answer": 1}
    assert rows["hellaswag/1"][1] == {
        "choices": ["eats it. He sleeps.", "sails away. The sea.", "sings", "drinks it slowly."], "answer": 3
    }  # fmt: skip
    assert rows["truthfulqa/0"][1]["labels"] == [1, 1, 0, 0]
    prompt, facts = rows["winogrande/1"]
    assert facts["answer"] == 1 and facts["continuation"] == "was big."
    assert facts["contexts"] == [prompt.removesuffix("box") + "ball", prompt]
    assert rows["gsm8k/2"][1] == {"answer": "58"}
    assert rows["gsm8k_full/2"][0].count("####") == 5 and rows["gsm8k_full/2"][0].endswith(rows["gsm8k/2"][0])
    assert json.loads(rows["ifeval/3"][1]["kwargs"]) == [
        {"relation": "at least", "num_words": 2},
        {"keywords": ["tea"]},
    ]


@pytest.fixture
def hub(tmp_path):
    """A mirror with the data sets as they lie on the hub, filled with the items that we make up."""
    for name, source in SOURCES.items():
        folder = tmp_path / "mirror" / TABLE[source.asset]["folder"]
        frame = pd.DataFrame(made_up(name))
        if name == "ifeval":
            folder.mkdir()
            frame.to_json(folder / "ifeval_input_data.jsonl", orient="records", lines=True)
            continue
        place = folder / {"default": "data"}.get(source.configuration, source.configuration)
        place.mkdir(parents=True, exist_ok=True)
        frame.iloc[:4].to_parquet(place / f"{source.split}-00000-of-00002.parquet")
        frame.iloc[4:].to_parquet(place / f"{source.split}-00001-of-00002.parquet")
    other = tmp_path / "mirror" / "tinyTruthfulQA" / "generation"
    other.mkdir()
    pd.DataFrame({"question": ["another configuration"]}).to_parquet(other / "validation-00000-of-00001.parquet")
    return tmp_path / "mirror"


def test_published_items_are_read_by_the_same_code(hub):
    pd.testing.assert_frame_equal(prompts(TinyBenchmarks(extended=True), hub), prompts())


def test_a_broken_data_set_is_named(hub):
    file = hub / "tinyHellaswag" / "data" / "validation-00001-of-00002.parquet"
    frame = pd.read_parquet(file)
    frame.drop(columns="endings").to_parquet(file)
    with pytest.raises(CftError, match=r"00001-of-00002\.parquet: no column endings"):
        prompts(TinyBenchmarks(), hub)
    frame.assign(label="9").to_parquet(file)
    with pytest.raises(CftError, match="hellaswag, item 4: not in the form of its data set"):
        prompts(TinyBenchmarks(), hub)
    for old in file.parent.iterdir():
        old.unlink()
    (file.parent / "test-0.parquet").touch()
    with pytest.raises(CftError, match=r"tinyHellaswag: no file default/validation\*\.parquet"):
        prompts(TinyBenchmarks(), hub)


def test_a_prompt_that_does_not_end_with_its_answer_is_refused(hub):
    file = hub / "tinyWinogrande" / "winogrande_xl" / "validation-00000-of-00002.parquet"
    frame = pd.read_parquet(file)
    frame.assign(option1="cup", option2="cup").to_parquet(file)
    with pytest.raises(CftError, match=r"winogrande, item 0: .*the prompt does not end with 'cup'"):
        prompts(TinyBenchmarks(), hub)


def test_a_line_that_is_no_item_is_named(hub):
    file = hub / "IFEval" / "ifeval_input_data.jsonl"
    file.write_text('{"key": 1}\n')
    with pytest.raises(CftError, match=r"ifeval_input_data\.jsonl: its lines are not JSON objects with key, prompt"):
        prompts(TinyBenchmarks(extended=True), hub)


def measured(tasks=(("mmlu", "acc"), ("gsm8k", "strict"), ("gsm8k", "flexible")), seed=0):
    generator = np.random.default_rng(seed)
    rows = [
        (f"{task}/{number}", task, metric, float(generator.random() < 0.6), "", "")
        for task, metric in tasks
        for number in range(MADE_UP)
    ]
    frame = pd.DataFrame(rows, columns=list(tinybenchmarks.COLUMNS)).sample(frac=1, random_state=1)
    written = frame["split"] == "gsm8k"
    return frame.assign(text=("#### " + frame["value"].astype(str)).where(written, ""), gold=np.where(written, "1", ""))


def values(scores, split, metric):
    some = scores[(scores["split"] == split) & (scores["metric"] == metric)]
    return dict(zip(some["item"], some["value"], strict=True))


def test_a_text_is_read_again_when_it_is_scored():
    """What the job on a GPU made of it may be older than how it is read now."""
    texts = {
        "7": (0, 1),
        "8 #### 7": (1, 1),
        "#### 8, not 7": (0, 1),
        "<think>9</think>#### 7": (1, 1),
        "#### 8": (0, 0),
    }
    rows = [
        (f"gsm8k/{number}", "gsm8k", metric, 0.5, text, "7.0")
        for number, text in enumerate(texts)
        for metric in ("strict", "flexible")
    ]
    draws = pd.DataFrame(rows, columns=list(tinybenchmarks.COLUMNS))
    found = score(draws, None, REGISTRY)
    for place, split in enumerate(("gsm8k_strict", "gsm8k_flexible")):
        wanted = [right[place] for right in texts.values()]
        assert list(values(found, split, "correct").values()) == wanted
        assert tinybenchmarks.summary(draws, REGISTRY)[split] == pytest.approx(np.mean(wanted))


def test_scores_of_items_and_tasks():
    draws = measured()
    found = score(draws, None, REGISTRY)
    assert set(found["split"]) == {"mmlu", "gsm8k_strict", "gsm8k_flexible"}
    strict = draws[draws["metric"] == "strict"].set_index("prompt_id")["value"]
    assert values(found, "gsm8k_strict", "correct") == strict.to_dict()
    assert values(found, "gsm8k_strict", "mean") == {"all": pytest.approx(strict.mean())}
    assert set(found["metric"]) == {"correct", "mean"}
    summary = tinybenchmarks.summary(draws, REGISTRY)
    assert summary == {split: values(found, split, "mean")["all"] for split in summary} and len(summary) == 3


def test_estimates_in_the_order_of_the_items():
    draws, parameters = measured(), tinybenchmarks.parameters(GENERATED, Assets(TABLE, None, "unused"))
    found = score(draws, parameters, REGISTRY)
    for task, metric, split in [("mmlu", "acc", "mmlu"), ("gsm8k", "flexible", "gsm8k_flexible")]:
        answers = draws[(draws["split"] == task) & (draws["metric"] == metric)].set_index("prompt_id")["value"]
        ordered = np.array([answers[f"{task}/{number}"] for number in range(MADE_UP)])
        assert 0 < ordered.mean() < 1
        expected = estimates(ordered, bank_of(parameters, task))
        for name in ("p_irt", "gp_irt"):
            assert values(found, split, name) == {"all": pytest.approx(expected[name])}
            assert 0 < expected[name] < 1


def test_no_estimate_from_some_of_the_items():
    parameters = tinybenchmarks.parameters(GENERATED, Assets(TABLE, None, "unused"))
    draws = measured()
    without = draws[draws["prompt_id"] != "mmlu/3"]
    assert not values(score(without, parameters, REGISTRY), "mmlu", "gp_irt")
    assert values(score(without, parameters, REGISTRY), "gsm8k_strict", "gp_irt")
    few = TinyBenchmarks(data="generated", limit=2)
    parameters = tinybenchmarks.parameters(few, Assets(TABLE, None, "unused"))
    first = draws[draws["prompt_id"].isin(["mmlu/0", "mmlu/1"])]
    assert values(score(first, parameters, REGISTRY), "mmlu", "gp_irt")


def test_published_parameters_are_read_by_the_same_code(tmp_path):
    content = pickle.dumps(made_up_parameters(BENCHMARK_OF, MADE_UP))
    (tmp_path / "p.pkl").write_bytes(content)
    row = {"url": "https://nowhere", "file": "p.pkl", "sha256": hashlib.sha256(content).hexdigest()}
    assets = Assets({"tinybenchmarks_irt": row}, tmp_path, tmp_path / "cache")
    found = tinybenchmarks.parameters(TinyBenchmarks(), assets)
    pd.testing.assert_frame_equal(found, tinybenchmarks.parameters(GENERATED, assets))
    assert found.groupby("task")["seen"].max().to_dict() == dict.fromkeys(BENCHMARK_OF, MADE_UP - 1)
