"""Configuration files: the shipped ones are valid, and every mistake is named."""

from pathlib import Path

import pytest
import yaml

from cft import CftError
from cft.config import Experiment, load, schema
from cft.foresee import notes
from cft.method_settings import FinetuneMethod
from cft.settings import check, read_yaml, setting

CONFIG = Path(__file__).resolve().parents[1] / "config"


@pytest.mark.parametrize("name", ["paper", "demo", "smoke", "smollm2"])
def test_shipped_configurations(name):
    assert load(CONFIG / f"{name}.yaml").title


def test_the_paper_is_the_paper():
    paper = load(CONFIG / "paper.yaml")
    assert len(paper.models) == 12
    soft, hard = paper.methods["soft"], paper.methods["hard"]
    assert isinstance(soft, FinetuneMethod) and isinstance(hard, FinetuneMethod)
    assert (soft.labels, soft.average, soft.max_bins, soft.epochs, soft.draws) == ("law", "value", 1001, 3, 1)
    assert (hard.labels, hard.average, hard.max_bins, hard.epochs, hard.draws) == ("draw", "token", 16384, 2, 16)
    for method in (soft, hard):
        assert (method.decimals, method.batch_size, method.learning_rate, method.weight_decay) == (5, 32, 2e-4, 0.01)
        assert (method.draws_per_prompt, method.temperature, method.warmup, method.max_steps) == (1, 1.0, 0.03, None)
        assert (method.lora.rank, method.lora.alpha, method.lora.dropout) == (16, 32, 0.05)
        assert method.lora.targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [len(paper.seeds_of(m)) for m in ("qwen3-4b", "qwen3-8b", "gemma-3-27b")] == [5, 3, 3]
    draws = {name: (s.draws, s.max_new_tokens) for name, s in paper.benchmarks.chosen().items() if hasattr(s, "draws")}
    assert draws == {"structured": (1000, 32), "open_ended": (100, 16), "mcq": (1000, 256), "novelty": (10, 512)}
    paloma, tiny = paper.benchmarks.paloma, paper.benchmarks.tinybenchmarks
    assert paloma and (paloma.context, paloma.stride, len(paloma.slices), paloma.data) == (2048, 1024, 7, "upstream")
    assert tiny and (tiny.max_new_tokens, tiny.data, tiny.limit) == (256, "upstream", None)
    assert paper.methods["ssot"].model_dump()["max_new_tokens"] == 4096
    assert paper.pinned and len({model.revision for model in paper.models.values()}) == 12
    assert [name for name, model in paper.models.items() if model.lora_scope] == [
        "gemma-3-4b",
        "gemma-3-12b",
        "gemma-3-27b",
    ]
    assert {name for name, model in paper.models.items() if model.gated} == {
        n for n in paper.models if n[0] in "lg"
    } - {"gpt-oss-20b"}


def test_arms_that_match_the_budget_of_the_other():
    """Equal optimiser steps and equal values seen: the settings of one method, the labels of the other."""
    paper = load(CONFIG / "paper.yaml").methods
    matched = load(CONFIG / "paper.yaml", CONFIG / "matched.yaml").methods
    assert list(matched)[: len(paper)] == list(paper)
    for name, budget, labels in [
        ("soft-matched", "hard", "soft"),
        ("hard-matched", "soft", "hard"),
        ("hybrid", "soft", ""),
    ]:
        found = matched[name].model_dump()
        for key in ("epochs", "draws", "batch_size", "max_steps", "learning_rate"):
            assert found[key] == paper[budget].model_dump()[key]
        for key in ("labels", "average", "max_bins") if labels else ():
            assert found[key] == paper[labels].model_dump()[key]
    assert (matched["hybrid"].labels, matched["hybrid"].law_weight) == ("mixed", 0.5)  # type: ignore[union-attr]


def smoke(**changes):
    return yaml.safe_load((CONFIG / "smoke.yaml").read_text()) | changes


MODEL = {"m": {"source": "tiny", "architecture": "llama"}}
TUNED = {"kind": "finetune", "labels": "law", "average": "value", "max_bins": 9, "decimals": 1, "epochs": 1, "draws": 1}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sedes": [1]}, "unknown key sedes; config/README.md lists the keys"),
        (
            {"models": {"m": {"source": "tiny", "architecture": "lama"}}},
            r"models\.m\.architecture: Input should be 'llama'",
        ),
        ({"models": {"m": {"source": "hub"}}}, r"models\.m: source 'hub' needs the key 'repo'"),
        ({"models": {"reward": MODEL["m"]}}, "reward is the name of a judge"),
        ({"models": {"m": MODEL["m"] | {"methods": ["tune"]}}}, r"models\.m\.methods: tune is not run"),
        ({"models": {"m": MODEL["m"] | {"benchmarks": ["mmlu"]}}}, r"models\.m\.benchmarks: mmlu is not run"),
        ({"models": {"m": MODEL["m"] | {"processes": 2}}}, r"processes \(2\) is more than gpus \(1\)"),
        (
            {"models": {"m": MODEL["m"] | {"chat": {"today": "2024-13-01"}}}},
            r"models\.m\.chat\.today: .*month must be in 1",
        ),
        (
            {"pinned": True, "models": {"m": {"source": "hub", "repo": "a/b", "revision": "main"}}},
            r"models\.m\.revision: give the 40-digit commit of a/b",
        ),
        ({"judges": None}, "benchmark novelty needs the key 'judges'"),
        ({"needs": {"sampel": {}}}, "needs.sampel"),
        ({"models": {"a/b": MODEL["m"]}}, "models"),
        ({"methods": {"x": {"kind": "finetune", "labels": "law"}}}, r"methods\.x\.finetune\.average: Field required"),
        ({"methods": {"x": {"kind": "tune"}}}, r"methods\.x: Input tag 'tune'"),
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 is there more than once"),
        ({"seeds": [-1]}, r"seeds\.0: Input should be greater than or equal to 0"),
        ({"seeds": [2**63]}, r"seeds\.0: Input should be less than"),
        (
            {"methods": {"x": TUNED | {"learning_rate": float("inf")}}},
            r"learning_rate: .* a finite number",
        ),
        ({"methods": {"x": TUNED | {"lora": {"alpha": float("nan")}}}}, r"lora\.alpha: Input should be"),
        ({"methods": {"x": TUNED | {"lora": {"targets": []}}}}, r"lora\.targets: List should have at least 1 item"),
        ({"seeds": [True]}, r"seeds\.0: Input should be a valid integer"),
        ({"seeds": [1.0]}, r"seeds\.0: Input should be a valid integer"),
        ({"models": {"m": MODEL["m"] | {"seeds": []}}}, r"models\.m\.seeds: List should have at least 1 item"),
        ({"tables": {"table1": {"scores": ["structured"] * 2}}}, r"table1\.scores: structured is there more than once"),
        ({"tables": {"table7": {"scores": ["structured"]}}}, r"tables: there is no src/cft/tables/table7\.py; known: "),
        ({"figures": {"fig7": {"draws": ["mcq"]}}}, r"figures: there is no src/cft/figures/fig7\.py; known: fig1, "),
        (
            {"methods": {"base": TUNED}, "models": MODEL},
            r"methods\.base: `base: \{kind: base\}` is the untouched model",
        ),
        ({"methods": {"raw": {"kind": "base"}}, "models": MODEL}, r"methods\.raw: `base: \{kind: base\}`"),
        (
            {"methods": {"x": TUNED | {"decimals": 2}}, "models": MODEL},
            r"methods\.x\.decimals is 2 and benchmarks\.structured\.decimals is 1: the values of the two would not",
        ),
        (
            {"benchmarks": {"structured": {"draws": 0, "max_new_tokens": 4}}},
            r"draws: Input should be greater than or equal",
        ),
        (
            {"benchmarks": {"mcq": {"draws": 1, "max_new_tokens": 4}}},
            "table1 shows structured, which benchmarks does not run",
        ),
    ],
)
def test_mistakes_are_named(changes, says):
    with pytest.raises(CftError, match=says):
        check(Experiment, smoke(**changes), "config")


def test_other_decimals_than_those_that_are_measured_are_for_what_is_not_measured():
    methods = {"base": {"kind": "base"}, "x": TUNED | {"decimals": 2}}
    mcq = {"mcq": smoke()["benchmarks"]["mcq"]}
    unmeasured = smoke(models={"m": MODEL["m"] | {"benchmarks": ["mcq"]}}, methods=methods)
    without = smoke(models=MODEL, methods=methods, benchmarks=mcq, tables={}, figures={})
    for experiment in (unmeasured, without):
        check(Experiment, experiment, "config")


def test_additions_to_the_demo_instead_of_the_paper_are_refused():
    """What Snakemake makes of `--configfile config/matched.yaml` alone: its default, the demo, with more methods."""
    with pytest.raises(
        CftError, match=r"methods\.soft-matched\.decimals is 5 and benchmarks\.structured\.decimals is 2"
    ):
        load(CONFIG / "demo.yaml", CONFIG / "matched.yaml")
    with pytest.raises(CftError, match=r"matched\.yaml: title: Field required; models: Field required"):
        load(CONFIG / "matched.yaml")


def test_a_key_that_is_there_twice_is_an_error(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("title: one\nmodels:\n  m: {source: tiny}\n  n: {source: tiny}\n  m: {source: hub}\n")
    with pytest.raises(CftError, match=r"c\.yaml: line 5: the key m is there already"):
        load(file)
    # A key beside the merge key replaces what is merged, as in all our configurations.
    file.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}}


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ({"figures": {"fig2": {}}}, r"figures\.fig2 needs scores: structured"),
        ({"figures": {"fig1": {}}}, r"figures\.fig1 needs tokenizer: true"),
        ({"figures": {"fig4": {"draws": ["mcq"]}}}, r"figures\.fig4 shows the draws of open_ended, not of mcq"),
        (
            {"tables": {"table2": {"scores": ["structured"]}}},
            r"table2 shows the scores of open_ended or mcq or novelty, not",
        ),
    ],
)
def test_tables_and_figures_that_would_have_nothing_to_show(shown, says):
    with pytest.raises(CftError, match=says):
        notes(check(Experiment, smoke(**shown), "config"))


def test_what_an_experiment_goes_without_is_told():
    assert notes(check(Experiment, smoke(), "config")) == []
    shown = {"figures": {"fig2": {"scores": ["structured"]}}}
    [note] = notes(check(Experiment, smoke(models=MODEL, methods={"x": TUNED}, **shown), "config"))
    assert note.startswith("Without the method base: no differences")
    with pytest.raises(CftError, match="figures: fig6 shows changes from the method base, which is not among methods"):
        notes(check(Experiment, smoke(models=MODEL, methods={"x": TUNED}), "config"))
    alone = {"m": MODEL["m"], "n": MODEL["m"] | {"methods": ["soft"]}}
    [note] = notes(check(Experiment, smoke(models=alone), "config"))
    assert note.startswith("Without the method base for n: no differences")


def test_data_that_only_a_mirror_can_give_are_told_before_hours_of_training(tmp_path, monkeypatch):
    row = {"repo": "somebody/tasks", "kind": "dataset", "folder": "tasks"}
    unpinned = row | {"revision": None}
    table = {"tiny_mmlu": unpinned, "tiny_gsm8k": row | {"revision": "0" * 40}, "paloma": unpinned}
    (tmp_path / "assets.yaml").write_text(yaml.safe_dump(table))
    config = smoke(assets=str(tmp_path / "assets.yaml"))
    made_up = check(Experiment, config, "config")
    config["benchmarks"]["tinybenchmarks"]["data"] = "upstream"
    upstream = check(Experiment, config, "config")
    monkeypatch.delenv("CFT_ASSETS", raising=False)
    assert notes(made_up) == []
    [note] = notes(upstream)
    assert note.startswith(f"{tmp_path}/assets.yaml: tiny_mmlu has no revision yet")
    assert notes(upstream.model_copy(update={"assets_mirror": str(tmp_path)})) == []


def test_more_methods_than_figures_can_tell_apart_are_refused_before_they_are_trained():
    own = {f"own{number:02}": TUNED for number in range(17)}
    with pytest.raises(CftError, match="no colours for 17 methods"):
        notes(check(Experiment, smoke(models=MODEL, methods={"base": {"kind": "base"}} | own), "config"))


def test_the_table_of_families_is_checked_with_the_experiment(tmp_path):
    table = yaml.safe_load((CONFIG / "distributions.yaml").read_text())
    table["families"]["gaussian"]["unseen_familes"] = table["families"]["gaussian"].pop("unseen_params")
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(CftError, match=r"table\.yaml: unknown key families\.gaussian\.unseen_familes"):
        notes(check(Experiment, smoke(distributions=str(tmp_path / "table.yaml")), "config"))


def test_draws_must_fill_groups():
    with pytest.raises(CftError, match=r"draws \(3\) must be a multiple of draws_per_prompt"):
        setting(FinetuneMethod, '{"kind": "finetune", "labels": "law", "average": "value", "max_bins": 9, "epochs": 1,'
                                ' "draws": 3, "draws_per_prompt": 2}')  # fmt: skip


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CftError, match=r"missing\.yaml: no such file"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(CftError, match=r"bad\.yaml: not valid YAML"):
        load(tmp_path / "bad.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CftError, match=r"bytes\.yaml: not valid YAML"):
        load(tmp_path / "bytes.yaml")
    with pytest.raises(CftError, match="not valid JSON"):
        setting(FinetuneMethod, "{oops")


def test_every_key_is_in_the_documentation():
    text = (CONFIG / "README.md").read_text()
    keys = {key for part in (schema(), *schema()["$defs"].values()) for key in part.get("properties", {})}
    assert not {key for key in keys if f"`{key}`" not in text}
