import json

import pytest

from cft.text import has_thinking, strip_thinking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 4.5\n", "4.5"),
        ("<think>a</think>4", "4"),
        ("<think>a</think> 4 <think>b</think>", "4"),
        ("<THINK>a\nb</THINK>\n4", "4"),
        ("<think>never closed 4", ""),
        ("4 <think>never closed", "4"),
        ("reasoning that the template opened</think> 4", "4"),
        ("<think></think>", ""),
        ("a < b and <thinking>c</thinking>", "a < b and <thinking>c</thinking>"),
        ("", ""),
    ],
)
def test_only_the_answer_is_left(text, answer):
    assert strip_thinking(text) == answer


def test_no_tag_survives_and_stripping_twice_changes_nothing():
    for text in ("<think>a<think>b</think>c", "</think></think>x", "a</think>b<think>c"):
        once = strip_thinking(text)
        assert "think>" not in once
        assert strip_thinking(once) == once


def test_a_text_of_opening_tags_alone_takes_no_longer_than_its_length():
    """It would be minutes if each of them looked for its end."""
    assert strip_thinking("<think>" * 100_000) == ""
    assert strip_thinking("<think>" * 100_000 + "</think>5") == "5"


def test_thinking_flag_of_the_golden_rows(golden):
    rows = [json.loads(line) for line in (golden / "open_ended.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "text" in row]
    assert len(rows) > 10
    assert [has_thinking(row["text"]) for row in rows] == [row["thinking"] for row in rows]
