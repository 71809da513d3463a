import json
import random
import shutil

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cft import CftError, judges
from cft.benchmarks import novelty
from cft.distributions import registry
from cft.judges import Judge, judge, raw_rewards
from cft.model_settings import ModelSource
from cft.partition import partition, same_words
from cft.prepare import prepare
from cft.tiny import CLASSIFIERS, tiny_model
from cft.windows import by_length

WORDS = ["the", "a", "river", "stone", "runs", "quickly", "over", "old", "bridge", "and", "nobody", "sees", "why", "7!"]


def some_answers(generator, count):
    """Answers of mixed lengths: empty, short, and longer than the classifier reads; some repeated."""
    found = []
    for _ in range(count):
        repeated = bool(found) and generator.random() < 0.3
        text = " ".join(generator.choices(WORDS, k=generator.choice([0, 1, 3, 5, 6, 8, 15, 30, 60])))
        found.append(generator.choice(found) if repeated else text)
    return found


@pytest.fixture(scope="module")
def asked():
    ids = [f"p{number}" for number in range(8)]
    return pd.DataFrame(
        {"prompt_id": ids, "split": ["curated", "wildchat"] * 4, "prompt": [f"Question {name}?" for name in ids]}
    )


@pytest.fixture(scope="module")
def drawn(asked):
    generator = random.Random(5)
    rows = [
        ("m", "base", 1, "novelty", name, draw, text)
        for name in asked["prompt_id"]
        for draw, text in enumerate(some_answers(generator, 6))
    ]
    return pd.DataFrame(rows, columns=["model", "method", "seed", "benchmark", "prompt_id", "draw", "text"])


@pytest.fixture(scope="module")
def judged(tiny, asked, drawn, tmp_path_factory):
    """A judged file: its rows and its run.json."""
    out = tmp_path_factory.mktemp("judged") / "judged.parquet"
    judge(drawn, asked, tiny("deberta_v2"), tiny("gemma2"), 2048, 4096, out, draws_file="draws.parquet")
    return pd.read_parquet(out), json.loads(out.with_suffix(".run.json").read_text())


# The rule, one comparison at a time, as upstream's code has it


def one_by_one(answers, equivalent):
    members, labels = [], []
    for answer in answers:
        for label, first in enumerate(members):
            same = same_words(first, answer)
            if same if same is not None else equivalent(first, answer):
                labels.append(label)
                break
        else:
            labels.append(len(members))
            members.append(answer)
    return labels


@given(st.lists(st.lists(st.text("ab ", max_size=16), max_size=7), max_size=5))
def test_rounds_make_the_comparisons_of_the_sequential_rule_and_no_others(prompts):
    sequential, in_rounds = [], []

    def equivalent(first, second):  # not symmetric
        return (3 * len(first) + len(second)) % 4 == 0

    def alone(first, second):
        sequential.append((first, second))
        return equivalent(first, second)

    def together(pairs):
        in_rounds.extend(pairs)
        return [equivalent(*pair) for pair in pairs]

    assert partition(prompts, together) == [one_by_one(answers, alone) for answers in prompts]
    assert sorted(in_rounds) == sorted(sequential)


def test_labels_are_those_of_the_sequential_rule(tiny, drawn, judged):
    folder = tiny("deberta_v2")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    verdicts = []

    @torch.inference_mode()
    def equivalent(first, second):
        ids = [tokenizer.cls_token_id]
        for text in (first, second):
            ids += tokenizer.encode(text, add_special_tokens=False, truncation=True, max_length=128)
            ids.append(tokenizer.sep_token_id)
        verdicts.append(model(torch.tensor([ids])).logits.softmax(-1)[0, 1].item() > 0.102)
        return verdicts[-1]

    expected = [
        label for _, group in drawn.groupby("prompt_id") for label in one_by_one(group["text"].tolist(), equivalent)
    ]
    frame, run = judged
    assert frame.sort_values(["prompt_id", "draw"])["label"].tolist() == expected
    assert set(verdicts) == {True, False}
    assert run["similarity"]["texts"] == len(verdicts)
    assert run["similarity"]["distinct"] < len(verdicts)


def test_rewards_are_those_of_one_conversation_at_a_time(tiny, asked, judged):
    folder = tiny("gemma2")
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = asked.set_index("prompt_id")["prompt"]
    frame, _ = judged
    for row in frame.iloc[::5].itertuples():
        conversation = [{"role": "user", "content": prompts[row.prompt_id]},
                        {"role": "assistant", "content": row.text}]  # fmt: skip
        inputs = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            assert row.reward == pytest.approx(model(**inputs).logits.item(), abs=1e-4)


# The judged file


def test_a_judged_file_keeps_all_columns_and_says_how_it_was_made(drawn, asked, judged):
    frame, run = judged
    assert frame.columns.tolist() == [*drawn.columns, "split", "label", "reward", "version"]
    merged = frame.merge(drawn, on=["prompt_id", "draw"], suffixes=("", "_before"))
    assert len(merged) == len(drawn)
    assert (merged["text"] == merged["text_before"]).all()
    assert frame["prompt_id"].map(asked.set_index("prompt_id")["split"]).tolist() == frame["split"].tolist()
    assert set(frame["version"]) == {"NoveltyBench v1.0"} == {run["version"]}
    assert run["device"] in ("cpu", "cuda")
    assert run["draws_file"] == "draws.parquet"
    assert [run[name]["source"]["architecture"] for name in ("similarity", "reward")] == ["deberta_v2", "gemma2"]
    assert all(run[name]["seconds"] >= 0 for name in ("similarity", "reward"))
    assert run["reward"]["texts"] == len(drawn)
    assert run["reward"]["cut"] == 0
    long = {text for text in drawn["text"] if len(text.encode()) > judges.MAX_TOKENS}
    assert run["similarity"]["cut"] == len(long) > 0


def test_a_judged_file_is_scored(judged):
    frame, _ = judged
    found = novelty.summary(frame, registry())
    assert found["all"]["prompts"] == 8
    assert 1 < found["all"]["distinct_v1.0"] < 6
    assert 0 < found["all"]["utility_v1.0"] < found["all"]["reward_v1.0"] < 10
    assert set(novelty.COLUMNS) <= set(frame.columns)


def test_neither_rows_in_another_order_nor_batches_change_a_judged_file(tiny, asked, drawn, judged, tmp_path):
    out = tmp_path / "again.parquet"
    shuffled = drawn.sample(frac=1, random_state=3)
    judge(shuffled, asked.iloc[::-1], tiny("deberta_v2"), tiny("gemma2"), 1, 700, out)
    pd.testing.assert_frame_equal(pd.read_parquet(out), judged[0], rtol=1e-4, atol=1e-4)


def test_thinking_is_not_judged(tiny, asked, drawn, judged, tmp_path):
    out = tmp_path / "thinking.parquet"
    thinking = drawn.assign(text=[f"<think>{i} steps</think> {text}" for i, text in enumerate(drawn["text"])])
    judge(thinking, asked, tiny("deberta_v2"), tiny("gemma2"), 2048, 4096, out)
    pd.testing.assert_frame_equal(
        pd.read_parquet(out).drop(columns="text"), judged[0].drop(columns="text"), rtol=1e-4, atol=1e-4
    )


def test_one_judge_is_in_memory_at_a_time(tiny, asked, drawn, tmp_path, monkeypatch):
    alive, loaded = [], []

    class Counted(Judge):
        def __init__(self, name, *arguments):
            alive.append(name)
            loaded.append(list(alive))
            super().__init__(name, *arguments)

        def __del__(self):
            alive.pop()

    monkeypatch.setattr(judges, "Judge", Counted)
    some = drawn[drawn["prompt_id"] == "p0"]
    judge(some, asked.iloc[:1], tiny("deberta_v2"), tiny("gemma2"), 2048, 4096, tmp_path / "out.parquet")
    assert loaded == [["similarity"], ["reward"]]
    assert not alive


# Batches and thresholds


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    found = list(by_length(lengths, budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    ordered = [lengths[index] for batch in found for index in batch]
    assert ordered == sorted(lengths, reverse=True)


def test_equivalence_needs_more_than_the_threshold(tiny, monkeypatch):
    """Logits whose probabilities lie just on both sides of 0.102."""
    long = [[f"{word} b c d e f" for word in ("a", "z")]]
    model = Judge("similarity", tiny("deberta_v2"), 100)
    for probability, labels in ((0.10199, [0, 1]), (0.10201, [0, 0])):
        logits = torch.tensor([[1 - probability, probability]]).log()
        monkeypatch.setattr(model, "logits", lambda rows, logits=logits: logits.expand(len(rows), 2))
        assert judges.classes(model, long) == [labels]


def test_long_conversations_are_cut_at_the_tokenizers_limit_and_counted(tiny, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(tiny("gemma2"), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 64}))
    model = Judge("reward", folder, 1000)
    found = raw_rewards(model, [("q", "x" * 100), ("q", "x" * 100 + "y"), ("q", "x")])
    assert model.facts["cut"] == 2
    assert found[0] == found[1] != found[2]


# Errors


def test_missing_prompts_and_draws_are_named(tiny, asked, drawn, tmp_path):
    def run(draws, prompts):
        judge(draws, prompts, tiny("deberta_v2"), tiny("gemma2"), 2048, 4096, tmp_path / "out.parquet")

    with pytest.raises(CftError, match="2 prompts are missing from the prompts, such as p0"):
        run(drawn, asked.iloc[2:])
    with pytest.raises(CftError, match="1 prompts are missing from the draws, such as p7; sample again"):
        run(drawn[drawn["prompt_id"] != "p7"], asked)
    with pytest.raises(CftError, match="p0 has draw 0 twice"):
        run(pd.concat([drawn, drawn.iloc[:1]]), asked)
    assert not (tmp_path / "out.parquet").exists()


def test_running_out_of_memory_names_the_setting(tiny, monkeypatch):
    def full(self, rows):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Judge, "_forward", full)
    model = Judge("reward", tiny("gemma2"), 77)
    with pytest.raises(CftError, match=r"77 tokens in one pass: lower judges\.reward\.batch_tokens"):
        model.logits([(1, 2)])


def test_a_model_that_is_no_such_judge_is_refused(tiny, tmp_path):
    with pytest.raises(CftError, match="1 outputs; a judge of similarity has 2"):
        Judge("similarity", tiny("gemma2"), 100)
    with pytest.raises(CftError, match="not a sequence classifier"):
        Judge("similarity", tiny("llama"), 100)
    with pytest.raises(CftError, match="not a prepared model"):
        Judge("reward", tmp_path, 100)
    with pytest.raises(CftError, match="no cls or sep token"):
        model = Judge("similarity", tiny("deberta_v2"), 100)
        model.tokenizer.sep_token = None
        judges.classes(model, [["a"]])
    with pytest.raises(CftError, match="no chat template"):
        model = Judge("reward", tiny("gemma2"), 100)
        model.tokenizer.chat_template = None
        raw_rewards(model, [("a", "b")])


def test_a_folder_without_its_tokenizer_is_refused(tiny, tmp_path):
    """transformers gives a tokenizer that knows nothing but special tokens, and every answer would look alike."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny("deberta_v2"), folder, ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(CftError, match="its tokenizer knows 7 tokens; add the tokenizer's files"):
        Judge("similarity", folder, 100)


def test_weights_that_give_no_numbers_are_refused(tiny):
    model = Judge("reward", tiny("gemma2"), 100)
    model.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(CftError, match="outputs that are no numbers"):
        model.logits([(1, 2, 3)])


# The tiny judges


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("deberta_v2", "DebertaV2ForSequenceClassification"), ("gemma2", "Gemma2ForSequenceClassification")],
)
def test_tiny_judges_are_the_true_architectures(tiny, architecture, kind):
    name = {"deberta_v2": "similarity", "gemma2": "reward"}[architecture]
    model = Judge(name, tiny(architecture), 100).model
    assert type(model).__name__ == kind
    again, _ = tiny_model(architecture)
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])
    assert set(CLASSIFIERS) == {"deberta_v2", "gemma2"}


def test_tiny_deberta_attends_by_relative_position_alone(tiny):
    config = Judge("similarity", tiny("deberta_v2"), 100).model.config
    assert (config.relative_attention, config.pos_att_type) == (True, ["p2c", "c2p"])
    assert (config.position_biased_input, config.type_vocab_size) == (False, 0)
    assert (config.share_att_key, config.norm_rel_ebd) == (True, "layer_norm")


def test_gemma_is_run_with_the_kernel_that_caps_attention_scores(tiny):
    assert Judge("reward", tiny("gemma2"), 100).model.config._attn_implementation == "eager"


def test_a_judge_runs_in_its_dtype(tmp_path):
    prepare(ModelSource(source="tiny", architecture="deberta_v2", dtype="bfloat16"), tmp_path / "m")
    model = Judge("similarity", tmp_path / "m", 100)
    assert model.model.dtype == torch.bfloat16
    assert model.logits([(1, 5, 2, 5, 2)]).dtype == torch.float32
