"""The benchmarks: what they keep and show, and that both ways of training are the same step."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "perf"))
import record  # noqa: E402


def test_a_row_has_the_median_of_the_ratios_within_turns():
    row = record.compared("a step", "s", [1.0, 2.0, 4.0], [10.0, 10.0, 10.0], wanted=2)
    assert row["ours"] == {"median": 2, "low": 1, "high": 4}
    assert row["ratio"] == {"median": 5, "low": 2.5, "high": 10}
    assert row["rounds"] == 3 and row["wanted"] == 2


def test_ways_are_measured_in_turns():
    calls, now = [], iter(range(100))
    ways = {name: lambda name=name: calls.append(name) or name for name in ("ours", "other")}
    times, found = record.in_turns(ways, 2, clock=lambda: next(now))
    assert calls == ["ours", "other"] * 3  # the first round warms up
    assert times == {"ours": [1, 1], "other": [1, 1]} and found == {"ours": "ours", "other": "other"}


def test_a_section_joins_those_of_other_scripts(tmp_path):
    rows = [record.compared("work", "s", [1.0])]
    record.keep("training", "first", rows, results=tmp_path)
    record.keep("targets", "other", rows, results=tmp_path)
    record.keep("training", "again", rows, ["A note."], results=tmp_path)
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert list(found) == ["targets", "training"]  # in the page's order
    assert found["training"]["title"] == "again" and path.stem == record.machine()


def test_the_table_says_what_was_kept(tmp_path):
    rows = [
        record.compared("16,384 values", "s", [0.5, 0.25, 0.5], [5.0, 10.0, 5.0], 20),
        record.compared("alone", "s", [1234.5]),
    ]
    record.keep("targets", "Targets against loops", rows, ["A note."], results=tmp_path)
    text = record.tables(tmp_path)
    assert "| 16,384 values | 0.5 s (0.25–0.5) | 5 s (5–10) | 10 (10–40) | ≥ 20, missed |" in text
    assert "| alone | 1,234 s |  |  |  |" in text
    assert text.startswith(f"### {record.machine()}\n\n**Targets against loops**") and text.endswith("\n\nA note.")


def test_only_what_lies_between_the_marks_is_written(tmp_path):
    record.keep("targets", "Targets", [record.compared("work", "s", [1.0])], results=tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{record.BEGIN}\nold\n{record.END}\nafter\n")
    for _ in range(2):
        record.update(page, tmp_path)
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith(f"\n\n{record.END}\nafter\n")
        assert "old" not in text and text.count("**Targets**") == 1


def test_a_page_without_the_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(SystemExit, match="marks"):
        record.update(page, tmp_path)
    assert page.read_text() == "text\n"


def test_the_documentation_shows_what_was_measured():
    text = record.PAGE.read_text()
    assert text.partition(record.BEGIN)[2].partition(record.END)[0].strip() == record.tables().strip()


@pytest.mark.parametrize(("name", "bins"), [("soft", 101), ("hard", 101)])
@pytest.mark.parametrize("draws", [1, 4])
def test_both_ways_of_training_are_the_same_step(tiny, name, bins, draws):
    import training

    from cft.models import load_model, load_tokenizer

    changes = {"draws": 4, "draws_per_prompt": draws, "batch_size": 8, "max_steps": 1, "max_bins": bins, "decimals": 1}
    data = training.data_of(load_tokenizer(tiny("qwen3")), training.method(name, **changes))
    model = load_model(tiny("qwen3"))
    soft = name == "soft"
    supports = {key: training.support_of(data, key) for key in dict(data.steps[0])} if soft else {}
    gradients, losses = [], []
    for loss in (training.our_loss(model, data), training.naive_loss(model, data, supports)):
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-4


def test_both_ways_to_a_target_are_the_same(tiny):
    import targets

    from cft.distributions import registry
    from cft.models import load_tokenizer

    tokenizer, frozen = load_tokenizer(tiny("llama")), registry()["gaussian"].frozen({"mu": 3.5, "sigma": 3.0})
    wanted = targets.ours(tokenizer, frozen, 300)
    for how in ({}, {"slow_masses": True}, {"fast_tokens": True}):
        targets.check(wanted, targets.naive(tokenizer, frozen, 300, **how))
