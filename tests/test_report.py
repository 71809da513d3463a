"""The report's key results against independent arithmetic, and that the page needs nothing but itself."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic

from cft import figures, report, tables
from cft.config import load

RUN = {
    "command": ["cft", "finetune", "--model", "m"],
    "started": "2026-05-20T10:00:00Z",
    "seconds": 61.5,
    "code": {"commit": "abc123", "modified": True},
    "packages": {"torch": "2.13.0"},
    "python": "3.11.9",
    "machine": {"system": "Linux", "processor": "A processor", "cores": 2},
}
RUNS = [
    RUN | {"command": ["cft", "score", "structured", "results/x.parquet"], "seconds": 2.0, "started": "2026-05-20T11"},
    RUN,
    RUN | {"seconds": 30.0},
]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags; complains about tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def scores():
    return synthetic.scores()


@pytest.fixture(scope="module")
def page(scores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    paths = {name: folder / f"{name}.csv" for name in ("table1", "table2")}
    for name, path in paths.items():
        tables.save(tables.load(name).make(scores), path)
    figures.save(*figures.load("fig2").draw(figures.Sources(scores=scores)), folder / "fig2.pdf")
    settings = {"draws per prompt": {"structured": 1000}, "training steps": 150, "note": "<b>escaped</b>"}
    captions = {"table1": "First.\n\nSecond & last.", "fig2": "Fidelity."}
    text = report.build("A demo", settings, scores, paths, {"fig2": folder / "fig2.png"}, captions, RUNS)
    return text, Page(text)


def family_mean(scores, method, metric, split=None):
    rows = scores[(scores["method"] == method) & (scores["metric"] == metric)]
    rows = rows[(rows["benchmark"] == "structured") & ((rows["split"] == split) | (split is None))]
    return rows.groupby(rows["item"].str.replace(r"\(.*", "", regex=True))["value"].mean()


def test_key_results_are_computed_from_the_scores(scores):
    rows = report.key_results(scores)
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
    assert "rose from" in rows[0]["sentence"] and "the sequence KL fell" in rows[0]["sentence"]


def test_a_change_for_the_worse_is_told_as_such(scores):
    worse = scores.copy()
    names = worse["method"].map({"base": "soft", "soft": "base"}).fillna(worse["method"])
    sentence = report.key_results(worse.assign(method=names))[0]["sentence"]
    assert "fell from" in sentence and "did not fall" in sentence


def test_the_page_is_whole_and_needs_no_other(page):
    text, parsed = page
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert not parsed.all("link") and not parsed.all("script")
    (image,) = parsed.all("img")
    assert image["src"].startswith("data:image/png;base64,iVBOR") and image["alt"] == "fig2: Fidelity."


def test_the_page_is_accessible(page):
    _, parsed = page
    assert parsed.all("html") == [{"lang": "en"}]
    assert parsed.all("th") and all(cell.get("scope") in ("col", "row") for cell in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 4
    identifiers = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link["href"].removeprefix("#") for link in parsed.all("a")} <= set(identifiers)


def test_the_page_says_what_was_run(page):
    text, parsed = page
    for fact in ("commit abc123 with uncommitted changes", "A processor, 2 cores", "torch 2.13.0", "structured 1,000"):
        assert fact in parsed.text
    assert "&lt;b&gt;escaped" in text and "Second &amp; last." in text
    assert "1,000 draws per prompt" in parsed.text and "One training seed" in parsed.text


def test_wall_time_per_step():
    assert report.steps(RUNS) == [
        {"step": "finetune", "runs": 2, "total": 91.5, "longest": 61.5},
        {"step": "score structured", "runs": 1, "total": 2.0, "longest": 2.0},
    ]
    assert report.steps([]) == []


def test_prompts_without_valid_draws_are_remarked_upon(scores):
    bad = scores.copy()
    bad.loc[(bad["metric"] == "valid_rate") & (bad["method"] == "base"), "value"] = 0
    assert any("base 42" in remark for remark in report.remarks(bad))
    assert not any("single valid draw" in remark for remark in report.remarks(scores))


def test_a_report_without_the_structured_benchmark(scores):
    text = report.build("t", {}, scores[scores["benchmark"] == "mcq"], {}, {}, {}, [])
    assert "Key results" not in Page(text).text


def test_missing_law_gives_dashes_not_numbers(scores):
    bad = scores.copy()
    bad.loc[bad["metric"] == "sequence_kl", "value"] = np.nan
    row = report.key_results(bad)[0]
    assert row["cells"][-1] == "–" and row["sentence"] is None


def test_settings_are_described_for_readers():
    described = report.describe(load(Path(__file__).parents[1] / "config" / "demo.yaml"))
    assert "soft targets with 2 decimals" in described["training, soft"]
    assert "at most 120 steps of 16 values" in described["training, hard"]
    assert described["benchmark, structured"].startswith("60 draws per prompt of at most 16 tokens")
    assert "training, base" not in described
