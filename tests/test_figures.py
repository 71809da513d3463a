"""The figures' numbers against independent arithmetic, and what a reader needs: fonts, labels that do not touch."""

import itertools
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from cft import CftError, figures, parts
from cft.benchmarks import open_ended
from cft.distributions import registry
from cft.settings import read_yaml
from cft.stats import wilson
from cft.target import make_target

NAMES = ["fig1", "fig2", "fig3", "fig4", "fig5", "fig6"]


def sources(models=("SmolLM2-135M",), methods=synthetic.METHODS, seeds=(0,), count=120) -> figures.Sources:
    return figures.Sources(
        scores=synthetic.scores(models, methods, seeds),
        draws=synthetic.draws(models[:1], methods, seeds[:1], count),
        tokenizer=synthetic.tokenize,
        decode=synthetic.decode,
        terminator=synthetic.TERMINATOR,
    )


@pytest.fixture(scope="module")
def one():
    return sources()


@pytest.fixture(scope="module")
def drawn(one):
    return {name: figures.load(name).draw(one) for name in NAMES}


def clashes(figure: Figure) -> list[str]:
    """Texts that leave the page, and pairs of tick labels, titles or axis labels that overlap."""
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    boxes = []
    for axes in figure.findobj(lambda artist: hasattr(artist, "get_xticklabels")):
        if not axes.get_visible():
            continue
        texts = [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        texts += [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]
        boxes += [(t.get_text(), t) for t in texts if t.get_text() and t.get_visible()]
    found, shown = [], []
    for text, artist in boxes:
        extent = artist.get_window_extent()
        if extent.x0 < page.x0 - 1 or extent.x1 > page.x1 + 1 or extent.y0 < page.y0 - 1 or extent.y1 > page.y1 + 1:
            found.append(f"{text!r} leaves the page")
        if artist.get_rotation() in (0, 90):  # a slanted label's box overlaps its neighbour's without touching it
            shown.append((text, extent.shrunk(0.98, 0.9)))
    pairs = itertools.combinations(shown, 2)
    return found + [f"{a!r} touches {b!r}" for (a, first), (b, second) in pairs if first.overlaps(second)]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_or_is_cut_off(drawn, name):
    assert clashes(drawn[name][0]) == []


def test_twelve_models_with_gaps_are_readable():
    scores = synthetic.scores(synthetic.MODELS, seeds=(0, 1, 2))
    last = (scores["model"] == "gpt-oss-20b") & (scores["method"] == "base")
    scores.loc[last & (scores["metric"] == "w1_over_scale"), "value"] = np.nan
    scores = scores[~((scores["model"] == "Qwen3-4B") & (scores["method"] == "hard"))]
    figure, numbers = figures.load("fig2").draw(figures.Sources(scores=scores))
    assert clashes(figure) == []
    assert len(numbers) == 3 * 2 * (12 * 3 - 1)
    assert len(figure.findobj(lambda artist: artist.get_gid() == "no-value")) == 2
    assert "no valid draw" in figure.get_supxlabel()


@pytest.mark.parametrize("name", NAMES)
def test_files_are_the_same_every_time_with_embedded_fonts(drawn, name, tmp_path):
    figure, numbers = drawn[name]
    figures.save(figure, numbers, tmp_path / "first.pdf")
    figures.save(figure, numbers, tmp_path / "second.pdf")
    for suffix in (".pdf", ".svg", ".png", ".csv"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 8
    pdf = (tmp_path / "first.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    streams = [_inflate(found) for found in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)]
    assert not any(b"/Type3" in stream for stream in streams)
    assert b"/CreationDate" not in pdf


def _inflate(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return stream


def test_another_process_draws_the_same_bytes(tmp_path):
    code = (
        "import sys, synthetic; from cft import figures;"
        "s = figures.Sources(tokenizer=synthetic.tokenize, decode=synthetic.decode, terminator=0);"
        "figures.save(*figures.load('fig1').draw(s), sys.argv[1])"
    )
    for seed in "12":
        path, environment = tmp_path / f"{seed}.pdf", {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
    assert (tmp_path / "1.pdf").read_bytes() == (tmp_path / "2.pdf").read_bytes()
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_fig1_shows_the_law_and_conditionals_that_multiply_to_it(drawn):
    numbers = drawn["fig1"][1]
    target = make_target(registry(), "gaussian", {"mu": 1.0, "sigma": 2.0}, 1)
    law = numbers[numbers["panel"] == "law"]
    assert law["probability"].tolist() == pytest.approx(target.probabilities)
    soft, hard = numbers[numbers["panel"] == "soft"], numbers[numbers["panel"] == "hard"]
    assert soft.groupby("position")["probability"].sum().tolist() == pytest.approx([1] * soft["position"].nunique())
    value = max(hard["value"].unique(), key=len)
    along = soft[soft["token"] == soft["position"].map(lambda place: [*value, "end"][int(place)])]
    assert along["probability"].prod() == pytest.approx(target.probabilities[target.values.index(value)])
    assert len(along) == len(value) + 1


def test_fig2_draws_the_numbers_of_table1(one, drawn):
    from cft.tables import table1

    table, numbers = table1.make(one.scores), drawn["fig2"][1]
    for measure in ("w1_over_scale", "pit_w1", "trie_kl_nats"):
        found = numbers[numbers["measure"] == measure]
        assert found["value"].tolist() == pytest.approx(table[measure].tolist())
    points = [
        line.get_ydata()[0] for axes in drawn["fig2"][0].axes for line in axes.get_lines() if line.get_marker() in "os^"
    ]
    assert sorted(points) == pytest.approx(sorted(numbers["value"]))
    bars = [line.get_ydata() for axes in drawn["fig2"][0].axes for line in axes.get_lines() if line.get_gid() == "law"]
    wanted = table[["law_pit_w1_low", "law_pit_w1_high"]].to_numpy().tolist()
    np.testing.assert_allclose(sorted(map(list, bars)), sorted(wanted))


def test_fig2_shows_the_floor_as_a_band():
    scores = with_tests(synthetic.scores(), {})
    figure, numbers = figures.load("fig2").draw(figures.Sources(scores=scores))
    pit = numbers[numbers["measure"] == "pit_w1"]
    assert pit[["floor", "floor_high"]].to_numpy() == pytest.approx(np.tile([0.012, 0.018], (len(pit), 1)))
    bands = [band for axes in figure.axes for band in axes.collections if band.get_gid() == "floor"]
    heights = [band.get_paths()[0].vertices[:, 1] for band in bands]
    assert [(each.min(), each.max()) for each in heights] == [pytest.approx((0.012, 0.018))] * len(pit)
    for axes in figure.axes[-2:]:  # the trie KL, whose floor is not one of draws
        lines = [line.get_ydata() for line in axes.get_lines() if line.get_linewidth() == 2.2]
        assert [list(line) for line in lines] == [pytest.approx([0.3, 0.3])] * 3


def test_fig2_with_a_distance_that_nobody_has():
    scores = synthetic.scores()
    scores.loc[scores["metric"].isin(["w1_over_scale", "w1_over_scale_floor"]), "value"] = np.nan
    figure, numbers = figures.load("fig2").draw(figures.Sources(scores=scores))
    assert clashes(figure) == []
    assert numbers.loc[numbers["measure"] == "w1_over_scale", "value"].isna().all()


def test_fig2_without_a_law():
    scores = synthetic.scores()
    scores = scores[~scores["metric"].str.startswith(("law_", "trie_kl", "sequence_kl", "support_probability"))]
    _, numbers = figures.load("fig2").draw(figures.Sources(scores=scores))
    known = numbers.set_index("measure")["value"].notna().groupby("measure").all()
    assert known.to_dict() == {"w1_over_scale": True, "pit_w1": True, "trie_kl_nats": False}


def test_fig3_counts_valid_draws_and_picks_prompts_by_name(one, drawn):
    numbers = drawn["fig3"][1]
    prompts = numbers["prompt_id"].unique()
    kinds = [registry().parse(prompt)[0].discrete for prompt in prompts]
    assert len(prompts) == 6 and sum(kinds) == 2
    mine = one.draws[(one.draws["prompt_id"] == prompts[0]) & (one.draws["method"] == "soft")]
    valid = [float(text) for text in mine["text"] if text != "a number"]
    shown = numbers[(numbers["prompt_id"] == prompts[0]) & (numbers["method"] == "soft")]
    assert shown["value"].tolist() == sorted(valid)
    family, parameters = registry().parse(prompts[0])
    assert shown["target_cdf"].tolist() == pytest.approx(family.frozen(parameters).cdf(sorted(valid)))
    assert set(shown["valid"]) == {len(valid)} and set(shown["draws"]) == {len(mine)}
    target = numbers[(numbers["prompt_id"] == prompts[0]) & (numbers["method"] == "target")]
    assert target["target_cdf"].tolist() == pytest.approx(family.frozen(parameters).cdf(target["value"]))


def test_fig3_when_a_method_has_no_valid_draw_and_few_prompts(one):
    draws = one.draws[one.draws["prompt_id"].isin(["bernoulli(p=0.9)", "pareto(alpha=6.5,xm=3.5)"])].copy()
    draws.loc[draws["method"] == "base", "text"] = "no"
    figure, numbers = figures.load("fig3").draw(figures.Sources(draws=draws))
    assert clashes(figure) == []
    assert "base 0% valid" in figure.axes[0].texts[0].get_text()
    silent = numbers[numbers["method"] == "base"]
    assert silent["prompt_id"].nunique() == 2 and (silent["valid"] == 0).all() and (silent["draws"] > 0).all()


def test_fig4_shares_and_intervals(one, drawn):
    numbers = drawn["fig4"][1]
    texts = one.draws.query("benchmark == 'open_ended' and prompt_id == 'weekday' and method == 'hard'")["text"]
    counts = texts.value_counts()
    found = numbers[(numbers["noun"] == "weekday") & (numbers["method"] == "hard")].set_index("answer")
    assert found["count"].to_dict() == counts.to_dict()
    assert found["share"].is_monotonic_decreasing
    for answer, row in found.iterrows():
        assert (row["share"], row["low"], row["high"]) == pytest.approx(wilson(int(counts[answer]), len(texts)))
    # Beside what seven equally likely days have in so many draws; how many cities there are, nobody knows.
    weeks = np.random.default_rng(3).integers(7, size=(4000, len(texts)))
    counted = np.sort([np.bincount(row, minlength=7) for row in weeks], axis=1) / len(texts)
    assert found["top_perfect"].unique() == pytest.approx([counted[:, -1].mean()], abs=0.005)
    assert found["top4_perfect"].unique() == pytest.approx([counted[:, -4:].sum(axis=1).mean()], abs=0.005)
    assert numbers.loc[numbers["noun"] == "city", ["top_perfect", "top4_perfect"]].isna().all(axis=None)


def test_fig4_shows_the_models_that_the_paper_shows():
    draws = synthetic.draws(models=["Qwen3-0.6B", "gemma-3-27b-it", "Qwen3-14B"], seeds=(3, 4), count=30)
    figure, numbers = figures.load("fig4").draw(figures.Sources(draws=draws))
    shown = numbers[["noun", "model"]].drop_duplicates().to_numpy().tolist()
    assert shown == [["weekday", "Qwen3-14B"], ["city", "gemma-3-27b-it"]]
    first = draws.query("model == 'gemma-3-27b-it' and prompt_id == 'city' and method == 'soft' and seed == 3")["text"]
    found = numbers.query("noun == 'city' and method == 'soft'").set_index("answer")["count"]
    assert found.to_dict() == first.value_counts()[found.index].to_dict()
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["Qwen3-14B", "gemma-3-27b-it"]
    _, numbers = figures.load("fig4").draw(figures.Sources(draws=draws[draws["model"] != "gemma-3-27b-it"]))
    assert set(numbers.query("noun == 'city'")["model"]) == {"Qwen3-0.6B"}


def test_fig4_with_odd_answers(one):
    draws = one.draws[one.draws["benchmark"] == "open_ended"].copy()
    odd = ["", "x$y_$", "😀", "two\nlines", "a long answer that nobody would call a city", "tab\there"]
    here = (draws["method"] == "base") & (draws["prompt_id"] == "city")
    draws.loc[here, "text"] = [odd[i % len(odd)] for i in range(here.sum())]
    draws = draws[~((draws["method"] == "hard") & (draws["prompt_id"] == "city"))]
    drawn = draws.query("method == 'base' and prompt_id == 'city'")
    figure, numbers = figures.load("fig4").draw(figures.Sources(draws=draws))
    assert clashes(figure) == []
    assert {"(empty)", "two"} <= set(numbers["answer"])
    # Empty answers are draws, but none of those that differ or are frequent: as the benchmark scores them.
    scores = open_ended.score(drawn, None, registry()).set_index(["item", "metric"])["value"]
    found = numbers.query("noun == 'city' and method == 'base'").iloc[0]
    assert found["answer"] == "(empty)" and found["different"] == len(odd) - 1
    assert found["top4"] == pytest.approx(scores["city", "top4_share"])
    told = f"base: a random city\n5 different in {len(drawn)}\ntop four {found['top4']:.0%}"
    assert told in [axes.get_title(loc="right") for axes in figure.axes]


def test_methods_look_the_same_everywhere_and_differ_from_each_other():
    shipped = {
        name
        for path in (Path(__file__).parents[1] / "config").glob("*.yaml")
        for name in read_yaml(path).get("methods", {})
    }
    assert len(shipped) >= 9
    few, many = figures.method_styles(["soft", "base"]), figures.method_styles([*shipped, "a", "b", "c", "d"])
    assert few["soft"] == many["soft"] and few["base"] == many["base"]
    for name in shipped:  # whatever else a figure shows
        assert figures.method_styles([name]) == {name: many[name]}
    own = [f"own{number:02}" for number in range(16)]
    found = figures.method_styles(own)
    for key in ("marker", "linestyle"):  # points have no line, lines no marker
        assert len({(style["color"], style[key]) for style in found.values()}) == 16
    with pytest.raises(CftError, match="no colours for 17 methods"):
        figures.method_styles([*own, "one more"])
    for key in ("color", "marker"):
        assert len({style[key] for style in many.values()}) == len(many)


def test_every_table_and_figure_has_a_caption():
    captions = Path(__file__).parents[1] / "workflow" / "report"
    for package in ("cft.figures", "cft.tables"):
        for name in parts.names(package):
            assert len((captions / f"{name}.rst").read_text()) > 200


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_source_is_named(name):
    module = figures.load(name)
    with pytest.raises(CftError, match=r"needs the source .*\(--(scores|draws|model) of `cft figure`\)"):
        module.draw(figures.Sources())


def test_unknown_figure():
    with pytest.raises(CftError, match="unknown figure 'fig9'; known: fig1, fig2, fig3, fig4"):
        figures.load("fig9")


def test_fig4_shows_every_interval_whole():
    """Also those of a later method that is more certain than the first."""
    rows = [("base", noun, f"answer {i}") for noun in ("city", "weekday") for i in range(20)]
    rows += [("soft", noun, "Paris") for noun in ("city", "weekday") for _ in range(20)]
    draws = pd.DataFrame(rows, columns=["method", "prompt_id", "text"])
    draws = draws.assign(model="m", seed=1, benchmark="open_ended", draw=range(len(draws)))
    drawn, numbers = figures.load("fig4").draw(figures.Sources(draws=draws))
    assert numbers["high"].max() == 1
    assert all(axes.get_xlim() == (0, pytest.approx(103)) for axes in drawn.axes)


def test_fig2_cuts_an_interval_that_a_few_wild_draws_stretch():
    scores = synthetic.scores()
    wild = (scores["metric"] == "w1_over_scale") & (scores["method"] == "base")
    families = scores["item"].str.partition("(")[0]
    scores.loc[wild & families.isin(["gaussian", "cauchy", "beta", "gamma", "pareto", "uniform", "chi"]), "value"] = 1e9
    drawn, numbers = figures.load("fig2").draw(figures.Sources(scores=scores))
    shown = numbers[numbers["measure"] == "w1_over_scale"]
    assert shown["high"].max() > 1e6 > shown["value"].max()  # the numbers keep the end of the interval
    assert drawn.axes[0].get_ylim()[1] == pytest.approx(30 * shown["value"].max())


def test_fig6_draws_the_numbers_of_the_tables(one, drawn):
    from cft.tables import table3, table5

    figure, numbers = drawn["fig6"]
    retention, fidelity = table3.make(one.scores), table5.make(one.scores)
    assert numbers["method"].tolist() == ["base", "soft", "hard"]
    change = retention["mean_of_five_tasks_difference"].fillna(0)
    assert numbers["change"].tolist() == pytest.approx((100 * change).tolist())
    assert numbers["pit_w1_high"].tolist() == pytest.approx(fidelity["pit_w1_unseen_families_high"].tolist())
    points = [line.get_xydata()[0] for line in figure.axes[0].get_lines() if line.get_marker() in "os^"]
    assert np.array(points) == pytest.approx(numbers[["pit_w1", "change"]].to_numpy())


def test_fig6_numbers_the_models_apart():
    scores = synthetic.scores(synthetic.MODELS, [*synthetic.METHODS, "ssot"])
    figure, numbers = figures.load("fig6").draw(figures.Sources(scores=scores))
    assert clashes(figure) == []
    assert len(numbers) == 12 * 3 and "ssot" not in set(numbers["method"])  # it has no retention
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert sorted(int(text.get_text()) for text in axes.texts) == sorted(list(range(1, 13)) * 2)
        numbers_shown = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
        markers = [line for line in axes.get_lines() if line.get_marker() in ("o", "s", "^")]
        assert len(markers) == 24
        points = [Bbox(axes.transData.transform(line.get_xydata()).repeat(2, axis=0)).padded(7) for line in markers]
        pairs = [*itertools.combinations(numbers_shown, 2), *itertools.product(numbers_shown, points)]
        assert not any(first.overlaps(second) for first, second in pairs)


def test_fig6_without_retention_says_what_to_run():
    scores = synthetic.scores()
    with pytest.raises(CftError, match="five tasks of tinybenchmarks"):
        figures.load("fig6").draw(figures.Sources(scores=scores[scores["split"] != "mmlu"]))


def test_fig6_with_two_models_keeps_one_panel():
    figure, numbers = figures.load("fig6").draw(figures.Sources(scores=synthetic.scores(synthetic.MODELS[:2])))
    assert clashes(figure) == []
    assert len(figure.axes) == 1 and len(figure.axes[0].texts) == len(numbers) == 6


def with_tests(scores: pd.DataFrame, p_values: dict[str, float]) -> pd.DataFrame:
    """Scores with a p-value for each method's prompts, and the floor's quantile."""
    runs = scores[scores["metric"] == "pit_w1"]
    p_fit = runs.assign(metric="p_fit", value=runs["method"].map(p_values))
    return pd.concat([scores, p_fit, runs.assign(metric="pit_w1_floor_high", value=0.018)], ignore_index=True)


def test_fig5_means_and_ranges_by_family():
    scores = synthetic.scores(synthetic.MODELS[:2], seeds=(0, 1))
    figure, numbers = figures.load("fig5").draw(figures.Sources(scores=scores))
    assert clashes(figure) == []
    assert len(numbers) == (24 + 6) * 3 and list(numbers["method"][:3]) == synthetic.METHODS
    mine = scores[(scores["metric"] == "pit_w1") & (scores["method"] == "hard")]
    values = mine.loc[mine["item"].str.startswith("chi("), "value"]
    assert len(values) == 2 * 2 * 3
    row = numbers[(numbers["family"] == "chi") & (numbers["method"] == "hard")].iloc[0]
    found = row[["runs", "value", "low", "high", "floor"]].tolist()
    assert found == pytest.approx([12, values.mean(), values.min(), values.max(), synthetic.FLOORS["pit_w1_floor"]])
    assert numbers[["floor_high", "rejected"]].isna().all(axis=None)  # these scores have no tests


def test_fig5_draws_its_numbers_and_the_floor_as_a_band():
    scores = with_tests(synthetic.scores(), {"base": 1e-9, "soft": 0.2, "hard": 1e-9})
    figure, numbers = figures.load("fig5").draw(figures.Sources(scores=scores))
    assert clashes(figure) == []
    points = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() in ("o", "s", "^")]
    assert sorted(float(line.get_xdata()[0]) for line in points) == pytest.approx(sorted(numbers["value"]))
    assert {line.get_marker() for line in points if line.get_markerfacecolor() == "white"} == {"s"}
    bands = [patch for axes in figure.axes for patch in axes.patches if patch.get_gid() == "floor"]
    assert [(band.get_x(), band.get_x() + band.get_width()) for band in bands] == [pytest.approx((0.012, 0.018))] * 2
    left = [label.get_text().replace(" ", "_") for label in figure.axes[0].get_yticklabels()]
    hard = numbers[(numbers["method"] == "hard") & (numbers["split"] == "unseen_params")].set_index("family")["value"]
    assert left == hard.sort_values().index.tolist()


def test_fig5_rejects_by_benjamini_and_hochberg_within_a_split():
    scores = with_tests(synthetic.scores(methods=["soft"]), {"soft": 0.9})
    doubtful = scores["item"].isin(["poisson(lambda=1.0)", "poisson(lambda=4.0)", "gaussian(mu=3.5,sigma=3.0)"])
    # Of 18 tests two at 0.004 are rejected, as 0.004 <= 2 * 0.05 / 18; of 24 one is not.
    scores.loc[doubtful & (scores["metric"] == "p_fit"), "value"] = 0.004
    _, numbers = figures.load("fig5").draw(figures.Sources(scores=scores))
    rejected = numbers[numbers["rejected"] > 0]
    assert rejected[["family", "rejected"]].to_numpy().tolist() == [["poisson", pytest.approx(2 / 3)]]


def test_fig5_with_one_split_and_a_method_that_lacks_a_family():
    scores = synthetic.scores()
    lacking = (scores["method"] == "hard") & scores["item"].str.startswith(("chi(", "maxwell("))
    scores = scores[~lacking & (scores["split"] != "unseen_params")]
    figure, numbers = figures.load("fig5").draw(figures.Sources(scores=scores))
    assert clashes(figure) == []
    assert len(figure.axes) == 1 and len(numbers) == 6 * 3 - 2
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()[-2:]} == {"chi", "maxwell"}
    with pytest.raises(CftError, match="no draws of the splits"):
        figures.load("fig5").draw(figures.Sources(scores=scores[scores["metric"] != "pit_w1"]))
