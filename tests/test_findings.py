"""The report's key results against independent arithmetic."""

import numpy as np
import pytest
import synthetic

from cft import findings


@pytest.fixture(scope="module")
def scores():
    return synthetic.scores()


def family_mean(scores, method, metric, split=None):
    rows = scores[(scores["method"] == method) & (scores["metric"] == metric)]
    rows = rows[(rows["benchmark"] == "structured") & ((rows["split"] == split) | (split is None))]
    return rows.groupby(rows["item"].str.replace(r"\(.*", "", regex=True))["value"].mean()


def test_key_results_are_computed_from_the_scores(scores):
    rows = findings.key_results(scores)
    assert [(row["method"], row["prompts"]) for row in rows] == [
        (method, prompts)
        for method in ("soft", "hard")
        for prompts in ("all held-out prompts", "unseen parameters", "unseen families")
    ]
    for row, split in zip(rows[:3], [None, "unseen_params", "unseen_families"], strict=True):
        before, after = (family_mean(scores, name, "sequence_kl", split) for name in ("base", "soft"))
        assert row["kl_ratio"].estimate == pytest.approx(before.mean() / after.mean())
        assert row["kl_ratio"].low < row["kl_ratio"].estimate < row["kl_ratio"].high
        assert row["support_after"].estimate == pytest.approx(
            family_mean(scores, "soft", "support_probability", split).mean()
        )
        assert row["pit_after"].estimate == pytest.approx(family_mean(scores, "soft", "pit_w1", split).mean())
        assert row["valid_before"].estimate == pytest.approx(family_mean(scores, "base", "valid_rate", split).mean())
    sentence = rows[0]["sentence"]
    assert "share of valid draws rose from" in sentence and "where none is valid, fell from" in sentence
    assert "target's strings rose from" in sentence and "sequence KL fell from" in sentence


def test_what_does_not_change_is_told_as_such(scores):
    none = scores.copy()
    none.loc[none["metric"] == "valid_rate", "value"] = 0
    assert "the share of valid draws stayed at 0 [0, 0];" in findings.key_results(none)[0]["sentence"]


def test_a_change_for_the_worse_is_told_as_such(scores):
    worse = scores.copy()
    names = worse["method"].map({"base": "soft", "soft": "base"}).fillna(worse["method"])
    sentence = findings.key_results(worse.assign(method=names))[0]["sentence"]
    assert "target's strings fell from" in sentence and "sequence KL rose from" in sentence


def test_prompts_without_valid_draws_are_remarked_upon(scores):
    bad = scores.copy()
    bad.loc[(bad["metric"] == "valid_rate") & (bad["method"] == "base"), "value"] = 0
    assert any("base 42 of 42. The" in remark for remark in findings.remarks(bad))
    assert not any("single valid draw" in remark for remark in findings.remarks(scores))


def test_the_budget_is_not_guessed(scores):
    remarks = " ".join(findings.remarks(scores))
    assert "One model:" in remarks and "limited" not in remarks
    assert "families, their prompts and draws vary" in remarks


def test_what_perfect_answers_have_on_the_strings_is_said(scores):
    remark = findings.remarks(scores)[-1]
    assert "support probability of 0.250 and a sequence KL of 5.50 nats" in remark
    assert "not 1 and 0" not in findings.remarks(scores[~scores["metric"].isin(findings.LAW_FLOORS)])[-1]


def test_missing_law_gives_dashes_not_numbers(scores):
    bad = scores.copy()
    bad.loc[bad["metric"] == "sequence_kl", "value"] = np.nan
    row = findings.key_results(bad)[0]
    assert row["cells"][-1] == "–" and row["sentence"] is None
