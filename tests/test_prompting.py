"""What prompting methods tell a model, and what counts as its answer."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cft import CftError, prompting
from cft.assets import Assets
from cft.benchmarks import open_ended, structured
from cft.method_settings import BaseMethod, SsotMethod, TemperatureMethod, VerbalisedMethod
from cft.prompting import answers, extract, instructions, stated
from cft.settings import read_yaml

ROOT = Path(__file__).resolve().parents[1]
SSOT, VERBALISED = SsotMethod(kind="ssot"), VerbalisedMethod(kind="verbalised", values=3)
NOTHING = Assets({}, None, "unused")
ANALYSIS = "<|channel|>analysis<|message|>Seed: q7#. <answer>1</answer><|end|><|start|>assistant"


def test_every_benchmark_has_its_own_text_for_each_role():
    found = instructions(SSOT, NOTHING)
    assert list(found) == ["structured", "open_ended"]
    assert len({text for texts in found.values() for text in texts.values()}) == 4
    for texts in found.values():
        for tag in ("random_string", "thinking", "answer"):
            assert f"<{tag}>" in texts["system"] and f"</{tag}>" in texts["system"]
        assert "<" not in texts["developer"]
        assert "analysis channel" in texts["developer"] and "final channel" in texts["developer"]
    assert list(instructions(SsotMethod(kind="ssot", benchmarks=["open_ended"]), NOTHING)) == ["open_ended"]


def test_the_form_that_is_asked_for_is_the_form_that_is_read():
    asked = instructions(SSOT, NOTHING)["structured"]["system"]
    form = asked[asked.index("<random_string>\n") :]
    assert extract(form) == ("the number", False)
    asked = instructions(VERBALISED, NOTHING)["open_ended"]["system"]
    form = asked.splitlines()[-1].replace("its probability", "0.5")
    assert stated("\n".join([form] * 3), 3) == [("one possible answer", pytest.approx(1 / 3))] * 3


def test_verbalised_says_how_many_answers():
    found = instructions(VerbalisedMethod(kind="verbalised", values=7), NOTHING)
    assert {text for texts in found.values() for text in texts.values()} == {found["structured"]["developer"]}
    assert re.findall(r"\b7\b", found["structured"]["system"]) == ["7", "7"]
    assert "{" not in found["structured"]["system"]


def test_the_papers_texts_are_assets(shared_assets, tmp_path):
    upstream = Assets(read_yaml(ROOT / "config" / "assets.yaml"), shared_assets, tmp_path)
    found = instructions(SsotMethod(kind="ssot", instructions="paper"), upstream)
    for benchmark, task in (("structured", "numeric"), ("open_ended", "open")):
        assert found[benchmark]["system"] == (shared_assets / f"ssot_{task}_system.txt").read_text()
        assert found[benchmark]["developer"] == (shared_assets / f"ssot_{task}_developer_gpt_oss.txt").read_text()


def test_golden_extraction(golden_rows):
    rows = golden_rows("ssot")
    assert rows
    for row in rows:
        assert list(extract(row["text"])) == row["strict"], row["text"]
        assert list(extract(row["text"], strict=False)) == row["lenient"], row["text"]


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("<think>so <answer>1</answer></think>\n<answer>2</answer>", "2", "2"),
        ("<think>so <answer>1</answer>", "", ""),
        ("opened by the template <answer>1</answer></think><answer>\n2\n</answer>", "2", "2"),
        ("<random_string>a\n7</random_string>\n4\n<thinking>t\n9</thinking>\n", "", "4"),
        ("<answer></answer>5", "", ""),
        (ANALYSIS + "<|channel|>final<|message|> 4.2\n<|return|>", "4.2", "4.2"),
        (ANALYSIS + "<|channel|>final<|message|>4.2<|end|><|start|>assistant", "4.2", "4.2"),
        (ANALYSIS + "<|channel|>final<|message|>4.", "4.", "4."),
        (ANALYSIS + "<|channel|>final<|message|>So: <answer>5</answer><|return|>", "5", "5"),
        (ANALYSIS, "", ""),
        (ANALYSIS + "<|channel|>commentary<|message|>5<|end|>", "", ""),
        (ANALYSIS + "<|channel|>final<|message|><|return|>", "", ""),
    ],
)
def test_extraction_beyond_the_golden_file(text, strict, lenient):
    assert extract(text)[0] == strict
    assert extract(text, strict=False)[0] == lenient


def line(answer, probability):
    return f"<answer>{answer}</answer> <probability>{probability}</probability>"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (line("Oslo", "0.75") + "\n" + line("Rome", ".25"), {"Oslo": 0.75, "Rome": 0.25}),
        ("Sure!\n1. " + line(" a | b ", "0.2") + "\n- " + line("c", "0.6") + ".", {"a | b": 0.25, "c": 0.75}),
        (line("a", "20%") + "\n" + line("b", "60 %"), {"a": 0.25, "b": 0.75}),
        (line("a", "25%") + "\n" + line("b", "0.75"), {"a": 0.25, "b": 0.75}),
        (line("a", "1e-3") + line("b", "0"), {"a": 1, "b": 0}),
        (line("ANSWER", "its probability") + "\n" + line("a", "about 0.3") + "\n" + line("b", "0.3"), {"b": 1}),
        ("\n".join(line(name, 0.25) for name in "abcd"), {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ("<think>" + line("a", 1) + "</think>" + line("b", 1), {"b": 1}),
        ("<|channel|>analysis<|message|>" + line("a", 1) + "<|end|><|start|>assistant<|channel|>final<|message|>"
         + line("b", 1), {"b": 1}),
        (line("a", "-0.5") + "\n" + line("b", "1"), {}),
        (line("a", "0") + "\n" + line("b", "0.0"), {}),
        (line("a", "1e999"), {}),
        ("<answer>a</answer>\n<probability>1</probability>", {}),
        ("<answer>a</answer> <probability>1\n</probability>", {}),
        ("<answer>a</answer> 0.5", {}),
        ("a | 0.5", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_a_list_of_answers_states(text, wanted):
    assert dict(stated(text, 3)) == pytest.approx(wanted)


def draws_of(text, n, **columns):
    return pd.DataFrame({"seed": 11, "prompt_id": "city", "draw": range(n), "text": text, **columns})


def test_answers_are_drawn_with_the_stated_probabilities():
    listed = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05, "never": 0.0}
    text = "\n".join(line(answer, probability) for answer, probability in listed.items())
    draws = draws_of(text, 4000)
    found = answers(VerbalisedMethod(kind="verbalised"), draws)
    counts = found["text"].value_counts()
    assert set(counts.index) == set("abcd")
    assert stats.chisquare(counts[list("abcd")], 4000 * np.array([0.5, 0.3, 0.15, 0.05])).pvalue > 0.01
    assert draws["text"].nunique() == 1  # the draws themselves stay as they are


def test_which_answer_is_drawn_depends_on_seed_prompt_and_draw_alone():
    text = "\n".join(line(name, 0.2) for name in "abcde")
    method = VerbalisedMethod(kind="verbalised")
    draws = draws_of(text, 200)
    found = answers(method, draws)["text"]
    shuffled = draws.sample(frac=1, random_state=3)
    pd.testing.assert_series_equal(answers(method, shuffled)["text"].sort_index(), found)
    for other in ({"seed": 12}, {"prompt_id": "tree"}, {"draw": range(200, 400)}):
        changed = answers(method, draws.assign(**other))["text"]
        assert 0.05 < (changed == found).mean() < 0.4  # one in five by chance


def test_a_list_that_states_nothing_has_no_answer():
    found = answers(VERBALISED, draws_of("Oslo", 2))
    assert found["text"].tolist() == ["", ""]


def test_draws_without_what_names_their_stream():
    with pytest.raises(CftError, match="lack the column seed"):
        answers(VERBALISED, draws_of("x", 1).drop(columns="seed"))


def test_answers_of_ssot_are_scored_by_the_benchmarks_own_rules(families):
    texts = ["<answer>3</answer>", "3", "<answer>3", "<answer>many</answer>"]
    draws = draws_of(texts, 4, prompt_id="poisson(lambda=4.0)", tokens=10)
    found = structured.score(answers(SSOT, draws), None, families).set_index("metric")["value"]
    assert (found["valid_rate"], found["tokens_per_draw"]) == (0.25, 10)
    found = open_ended.score(answers(SSOT, draws_of(texts, 4)), None, families).set_index("metric")["value"]
    assert (found["empty_rate"], found["unique_rate"]) == (0.5, 0.5)


@pytest.mark.parametrize("method", [BaseMethod(kind="base"), TemperatureMethod(kind="temperature")])
def test_draws_of_other_methods_are_unchanged(method):
    draws = draws_of("<answer>3</answer>", 2)
    pd.testing.assert_frame_equal(answers(method, draws), draws)


def test_a_file_of_instructions_says_how_to_ask(tiny, tmp_path):
    method, path = SsotMethod(kind="ssot", max_new_tokens=9, benchmarks=["structured"]), tmp_path / "i.json"
    prompting.write_instructions(method, Assets({}, None, tmp_path), path)
    assert prompting.read_method(path) == method
    replaced, ask = prompting.asked(path, "structured", tiny("llama"))
    assert replaced == {"max_new_tokens": 9}
    assert ask["thinking"] and "<random_string>" in ask["instruction"]  # the system's text, not the developer's
    with pytest.raises(CftError, match="none for open_ended"):
        prompting.asked(path, "open_ended", tiny("llama"))
    path.write_text("{}")
    with pytest.raises(CftError, match="holds no instructions"):
        prompting.read_method(path)
