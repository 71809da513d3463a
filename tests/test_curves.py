"""The report's distribution functions, against counting and the laws' files."""

import base64
import json
import zlib

import numpy as np
import pandas as pd
import pytest
import synthetic

from cft import CftError, curves
from cft.assets import Assets
from cft.distributions import registry
from cft.method_settings import SsotMethod
from cft.prompting import write_instructions
from cft.provenance import write_table

IDS = ["gaussian(mu=3.5,sigma=3.0)", "poisson(lambda=4.0)"]
TEXTS = {IDS[0]: ["3.5", "-1", "9.25", "no number"], IDS[1]: ["0", "4", "4", "3.5"]}


@pytest.fixture
def known():
    return registry()


def points_of(known, prompt_id):
    family, parameters = known.parse(prompt_id)
    frozen = family.frozen(parameters)
    return np.unique(frozen.ppf(np.arange(1, 100) / 100)), frozen


def draws(path, method, seeds):
    rows = [("m", method, seed, prompt_id, text) for seed in seeds for prompt_id in IDS for text in TEXTS[prompt_id]]
    write_table(pd.DataFrame(rows, columns=["model", "method", "seed", "prompt_id", "text"]), path)
    return path


def law(path, known, method, seed, by=0.0):
    rows = []
    for prompt_id in IDS:
        points, frozen = points_of(known, prompt_id)
        low = 0.5 * frozen.cdf(points)
        rows.append(("m", method, seed, prompt_id, points + by, low, low + 0.1, 0.5, 0.8))
    names = ["model", "method", "seed", "prompt_id", "points", "cdf_low", "cdf_high", "law_valid_low", "law_valid_high"]
    write_table(pd.DataFrame(rows, columns=names), path)
    return path


def test_draws_are_counted_and_invalid_ones_nowhere(known, tmp_path):
    found = curves.measure([draws(tmp_path / "d.parquet", "base", [1])], [], known).set_index("prompt_id")
    for prompt_id in IDS:
        points, _ = points_of(known, prompt_id)
        numbers = {IDS[0]: [3.5, -1, 9.25], IDS[1]: [0, 4, 4]}[prompt_id]
        expected = [sum(number <= point for number in numbers) / 4 for point in points]
        assert found.at[prompt_id, "drawn"] == pytest.approx(expected)
        assert found.at[prompt_id, "samples"] == TEXTS[prompt_id] and found.at[prompt_id, "low"] is None


def test_texts_that_hold_more_than_an_answer_are_read_as_the_scorer_reads_them(known, tmp_path):
    settings = SsotMethod(kind="ssot", benchmarks=["structured"])
    write_instructions(settings, Assets({}, None, "unused"), tmp_path / "ssot.json")
    path, answer = tmp_path / "d.parquet", "<random_string>x9</random_string> so <answer>{}</answer>" + "." * 300
    frame = pd.read_parquet(draws(path, "base", [1]))
    other = frame.assign(method="ssot", text=[answer.format(text) for text in frame["text"]])
    write_table(pd.concat([other, frame], ignore_index=True), path)
    found = curves.measure([path], [], known, [tmp_path / "ssot.json"]).set_index(["method", "prompt_id"])
    for prompt_id in IDS:
        assert found.loc[("ssot", prompt_id), "samples"] == TEXTS[prompt_id]
        assert (found.loc[("ssot", prompt_id), "drawn"] == found.loc[("base", prompt_id), "drawn"]).all()
    [raw, _] = curves.measure([path], [], known).query("method == 'ssot'")["samples"]
    assert len(raw[0]) == curves.SHOWN


def test_a_method_without_adapter_has_one_law_for_all_seeds(known, tmp_path):
    files = [draws(tmp_path / f"{method}.parquet", method, [1, 2]) for method in ("base", "soft")]
    laws = [
        law(tmp_path / f"law-{method}{seed}.parquet", known, method, seed)
        for method, seed in (("base", 1), ("soft", 1), ("soft", 2), ("hard", 1))
    ]
    found = curves.measure(files, laws, known)
    assert len(found) == len(IDS) * (2 + 2 + 1)
    assert found["low"].notna().all() and (found["method"] == "hard").sum() == found["drawn"].isna().sum() == 2
    for row in found.itertuples():
        points, frozen = points_of(known, row.prompt_id)
        # Of all answers, as draws are counted; the files' are shares of the valid ones, which are half to four fifths.
        assert row.low == pytest.approx(0.5 * 0.5 * frozen.cdf(points))
        assert row.high == pytest.approx(0.8 * (0.5 * frozen.cdf(points) + 0.1))


def test_a_law_of_another_target_is_refused(known, tmp_path):
    with pytest.raises(CftError, match=r"law\.parquet: the law of gaussian.* is of another target"):
        curves.measure([], [law(tmp_path / "law.parquet", known, "base", 1, by=0.1)], known)


def test_what_the_page_unpacks(known, tmp_path):
    rows = curves.measure(
        [draws(tmp_path / "d.parquet", "base", [1])], [law(tmp_path / "l.parquet", known, "base", 1)], known
    )
    write_table(rows, tmp_path / "curves.parquet")  # as the report reads them
    prompts = curves.by_prompt(pd.read_parquet(tmp_path / "curves.parquet"), known)
    assert [prompt.prompt_id for prompt in prompts] == IDS
    assert prompts[0].split == "unseen_params" and prompts[1].title == "Poisson"
    numbers = {("m", "base", 1, IDS[0]): {"pit_w1": 0.25, "p_fit": float("nan")}}
    packed = prompts[0].packed(known, numbers)
    content = json.loads(zlib.decompress(base64.b64decode(packed)))
    points, frozen = points_of(known, IDS[0])
    assert content["points"] == pytest.approx(points, rel=1e-5) and content["discrete"] is False
    assert np.array(content["target"]) / curves.PARTS == pytest.approx(frozen.cdf(points), abs=5.1e-4)
    (run,) = content["runs"]
    assert run["numbers"] == {"pit_w1": 0.25, "p_fit": None} and run["samples"] == TEXTS[IDS[0]]
    lower = 0.5 * frozen.cdf(points)
    assert np.array(run["high"]) / curves.PARTS == pytest.approx(0.8 * (lower + 0.1), abs=5.1e-4)
    assert np.array(run["low"]) / curves.PARTS == pytest.approx(0.5 * lower, abs=5.1e-4)


def test_numbers_are_those_of_the_scores():
    scores = synthetic.scores(seeds=(3,))
    found = curves.numbers_of(scores)
    rows = scores[(scores["benchmark"] == "structured") & (scores["metric"] == "pit_w1")]
    assert len(found) == len(rows)
    for row in rows.itertuples():
        assert found[(row.model, row.method, row.seed, row.item)]["pit_w1"] == row.value
