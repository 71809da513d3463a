"""The model card: its head as the hub's library reads it, its numbers computed anew, its Python run."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from command import cft
from huggingface_hub import ModelCard

from cft import CftError, chat
from cft.benchmark_settings import Benchmarks, McqBenchmark
from cft.benchmarks.structured import family_of
from cft.card import card
from cft.data import write_data
from cft.method_settings import FinetuneMethod
from cft.model_settings import ModelSource, TrainingSettings
from cft.models import load_model, load_tokenizer
from cft.prepare import prepare
from cft.provenance import write_table
from cft.train import finetune

METHOD = FinetuneMethod.model_validate(
    {"kind": "finetune", "labels": "law", "average": "value", "decimals": 1, "max_bins": 101, "epochs": 1, "draws": 1,
     "batch_size": 8, "max_steps": 2, "learning_rate": 1e-2}
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")
CHATS = {
    "llama": {},
    "gpt_oss": {"template_options": {"reasoning_effort": "low"}, "answer_prefix": "<|channel|>final<|message|>"},
}


@pytest.fixture(scope="module")
def trained(families, tmp_path_factory):
    """Adapters where the workflow would write them, made once: a function from the architecture to the folder."""
    root = tmp_path_factory.mktemp("results")

    def folder(architecture: str) -> Path:
        model, data = root / "models" / architecture, root / "data" / "soft" / "seed3"
        out = root / "adapters" / architecture / "soft" / "seed3"
        if not out.exists():
            source = {"source": "tiny", "architecture": architecture, "dtype": "float32", "chat": CHATS[architecture]}
            prepare(ModelSource.model_validate(source), model)
            write_data(families, METHOD, 3, data)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["cft", "finetune", *map(str, ("--model", model, "--data", data)),
                                            "--seed", "3", "--out", str(out)])  # fmt: skip
                finetune(model, data, METHOD, 3, TrainingSettings(micro_batch=8), out)
        return out

    return folder


@pytest.fixture
def changed(trained, tmp_path):
    """A copy of an adapter with other facts in its run.json."""

    def copy(**facts) -> Path:
        out = tmp_path / "copy"
        shutil.copytree(trained("llama"), out)
        run = json.loads((out / "run.json").read_text())
        run |= {key: run.get(key) | value if isinstance(value, dict) else value for key, value in facts.items()}
        (out / "run.json").write_text(json.dumps(run))
        return out

    return copy


@pytest.fixture(scope="module")
def scores():
    return synthetic.scores(models=("llama", "other"), seeds=(3, 4))


def tables(text):
    """Heading or split -> row -> column -> text, of all tables of a card."""
    found, name = {}, ""
    for line in text.splitlines():
        if line.startswith("#") or line.startswith("Unseen"):
            name = line.strip("# ").partition(":")[0]
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows = found.setdefault(name, {})
            if not rows:
                columns = cells
            rows[cells[0]] = dict(zip(columns, cells, strict=True))
    return found


def first(text):
    """The number that a cell begins with."""
    return float(text.split(" ")[0].replace(",", ""))


def test_the_head_is_what_the_hub_reads(changed):
    hub = {"source": "hub", "repo": "meta-llama/Llama-3.2-1B-Instruct", "revision": "92131767", "architecture": None}
    read = ModelCard(card(changed(source=hub), None, "Llama 3.2 Community"))
    head = read.data.to_dict()
    assert (head["base_model"], head["library_name"]) == ("meta-llama/Llama-3.2-1B-Instruct", "peft")
    assert head["license"] == "llama3.2" and "license_name" not in head
    assert {"lora", "calibration"} <= set(head["tags"])
    assert read.text.lstrip().startswith("# llama, soft, seed 3\n")
    assert "- Commit: `92131767`" in read.text and "licence is Llama 3.2 Community." in read.text
    assert 'from_pretrained(base, revision="92131767", dtype=torch.float32)' in read.text


def test_a_base_that_the_hub_does_not_have_is_not_named_as_one(trained):
    """Any name of ours may be a stranger's there."""
    read = ModelCard(card(trained("llama"), None))
    assert not {"base_model", "license"} & read.data.to_dict().keys()
    assert "licence is not recorded here" in read.text and "a tiny random llama model" in read.text


def test_a_licence_that_the_hub_has_no_name_for(changed):
    hub = {"source": "hub", "repo": "me/mine", "tokenizer": "me/words", "tokenizer_revision": "abc"}
    read = ModelCard(card(changed(source=hub), None, "My Own 2"))
    assert (read.data.get("license"), read.data.get("license_name")) == ("other", "my-own-2")
    assert "- Commit: not recorded" in read.text and 'from_pretrained("me/words", revision="abc")' in read.text


def test_fidelity(trained, scores):
    """Against plain means and medians over families, without the bootstrap's code."""
    found = tables(card(trained("llama"), scores))
    structured = scores[(scores["model"] == "llama") & (scores["benchmark"] == "structured")]
    structured = structured.assign(family=structured["item"].map(family_of))
    ways = {"valid rate": ("valid_rate", np.mean), "trie KL (nats)": ("trie_kl", np.mean),
            "sequence KL (nats)": ("sequence_kl", np.mean), "support probability": ("support_probability", np.mean),
            "W1 over scale": ("w1_over_scale", np.median), "PIT W1": ("pit_w1", np.mean)}  # fmt: skip
    for split, label in (("unseen_params", "Unseen parameters"), ("unseen_families", "Unseen families")):
        for row, (metric, statistic) in ways.items():
            of_split = structured[(structured["split"] == split) & (structured["metric"] == metric)]
            columns = {"base model": ("base", (3, 4)), "this adapter": ("soft", (3,)), "all 2 seeds": ("soft", (3, 4))}
            for column, (method, seeds) in columns.items():
                cells = of_split[(of_split["method"] == method) & of_split["seed"].isin(seeds)]
                wanted = statistic(cells.groupby("family")["value"].mean())
                shown = found[label][row][column]
                assert first(shown) == pytest.approx(wanted, rel=0.02, abs=0.002), (label, row, column)
                low, high = map(float, re.findall(r"[\d.]+", shown.partition("[")[2]))
                assert low < wanted < high
    # A made-up floor, which the synthetic scores have everywhere; a rate has none.
    assert found["Unseen families"]["W1 over scale"]["perfect sampler"] == "0.0300"
    assert found["Unseen families"]["PIT W1"]["perfect sampler"] == "0.0120"
    assert found["Unseen families"]["sequence KL (nats)"]["perfect sampler"] == "5.50"
    assert found["Unseen families"]["support probability"]["perfect sampler"] == "0.250"
    assert found["Unseen families"]["valid rate"]["perfect sampler"] == "–"
    assert found["Unseen families"]["trie KL (nats)"]["perfect sampler"] == "0.300"


def test_the_floor_is_that_of_as_many_valid_draws(trained, scores):
    """The base model's few valid draws would be far from the target if it were perfect."""
    few = scores.copy()
    few.loc[(few["method"] == "base") & (few["metric"] == "w1_over_scale_floor"), "value"] = 0.25
    found = tables(card(trained("llama"), few))["Unseen families"]
    assert found["W1 over scale"]["perfect sampler"] == "0.0300 (base model: 0.250)"
    assert found["PIT W1"]["perfect sampler"] == "0.0120"


def test_what_fidelity_is_measured_on(trained, scores):
    text = card(trained("llama"), scores)
    for split, label in (("unseen_params", "Unseen parameters"), ("unseen_families", "Unseen families")):
        prompts = [prompt for prompt in synthetic.PROMPTS if prompt.split == split]
        families = {prompt.family for prompt in prompts}
        assert f"{label}: {len(prompts)} prompts of {len(families)} families, 1,000 draws each; 0 prompts" in text
    assert "One training seed was measured" not in text
    assert "One training seed was measured" in card(trained("llama"), scores[scores["seed"] == 3])


def test_what_it_costs_elsewhere(trained, scores):
    """Differences of plain means, and the ratio of perplexities from sums, of the adapter's own seed."""
    found = tables(card(trained("llama"), scores))
    mine = scores[(scores["model"] == "llama") & (scores["seed"] == 3)]
    right = mine[(mine["benchmark"] == "tinybenchmarks") & (mine["metric"] == "correct")]
    means = right.groupby(["method", "split"])["value"].mean()
    knowledge = found["Knowledge and reasoning (tinyBenchmarks)"]
    for task, name in (("mmlu", "MMLU"), ("gsm8k_strict", "GSM8K strict"), ("truthfulqa", "TruthfulQA")):
        difference = means["soft", task] - means["base", task]
        assert first(knowledge[f"{name} difference"]["this adapter"]) == pytest.approx(difference, abs=0.006)
        assert knowledge[f"{name} difference"]["base model"] == "–"
    blocks = mine[(mine["benchmark"] == "paloma") & mine["item"].str.startswith("block-")]
    sums = blocks.groupby(["method", "split", "metric"])["value"].sum()
    perplexity = found["Perplexity of ordinary text (PALOMA)"]
    for name in ("ptb", "c4_en"):
        each = {
            method: np.exp(sums[method, name, "nats"] / sums[method, name, "tokens"]) for method in ("base", "soft")
        }
        row = name.replace("_", " ")
        assert first(perplexity[f"{row} ratio"]["this adapter"]) == pytest.approx(each["soft"] / each["base"], abs=1e-3)
        assert first(perplexity[f"{row} perplexity"]["base model"]) == pytest.approx(each["base"], rel=0.01)
    assert "hard" not in json.dumps(found)


def test_what_was_not_measured_is_said(trained, scores):
    whole = card(trained("llama"), scores)
    assert "Not measured" not in whole
    nothing = card(trained("llama"), None)
    assert "## Fidelity\n\nNot measured.\n" in nothing
    listed = re.search(r"^Not measured: (.+)\.$", nothing, re.M)
    assert listed and len(listed[1].split("; ")) == len(Benchmarks.model_fields)
    some = card(trained("llama"), scores[scores["benchmark"].isin(["structured", "paloma"])])
    listed = re.search(r"^Not measured: (.+)\.$", some, re.M)
    assert (
        listed
        and len(listed[1].split("; ")) == len(Benchmarks.model_fields) - 2
        and "PALOMA" not in listed[1]
        and "NoveltyBench" in listed[1]
    )


def test_a_benchmark_of_one_s_own_goes_by_its_name(trained, scores, monkeypatch):
    class More(Benchmarks):
        roulette: McqBenchmark | None = None

    monkeypatch.setattr("cft.card.Benchmarks", More)
    assert "\nNot measured: roulette.\n" in card(trained("llama"), scores)
    rolled = scores[scores["benchmark"] == "mcq"].assign(benchmark="roulette")
    assert "Not measured" not in card(trained("llama"), pd.concat([scores, rolled]))


def test_without_scores_of_the_base_model(trained, scores):
    found = tables(card(trained("llama"), scores[scores["method"] == "soft"]))
    row = found["Unseen families"]["trie KL (nats)"]
    assert row["base model"] == "not measured" and first(row["this adapter"]) > 0


def test_a_distance_that_no_valid_draw_defines(trained, scores):
    without = scores.assign(value=scores["value"].where(scores["metric"] != "w1_over_scale"))
    row = tables(card(trained("llama"), without))["Unseen families"]["W1 over scale"]
    assert row["this adapter"] == row["base model"] == "not measured"


def test_training_and_settings(trained, changed):
    text = card(trained("llama"), None)
    data = pd.read_parquet(trained("llama").parents[2] / "../data/soft/seed3/examples.parquet")
    families = sorted({family_of(name) for name in data["prompt_id"]})
    assert f"{data['prompt_id'].nunique()} prompts of {len(families)} families ({', '.join(families)}), and 16" in text
    settings = tables(text)["Settings"]
    assert (settings["learning rate"]["value"], settings["LoRA rank"]["value"]) == ("0.01", "16")
    assert settings["LoRA targets"]["value"] == "q_proj, k_proj, v_proj, o_proj"
    assert "`<|im_end|>`" in text and "cft finetune --model" in text and f"torch {torch.__version__}" in text
    # Data of another run in the same place are not this adapter's.
    other = card(changed(seed=5), None)
    assert "not recorded here" in other and " families (" not in other


def python_of(text):
    return text.partition("```python\n")[2].partition("\n```")[0]


@pytest.mark.parametrize("architecture", CHATS)
def test_its_python_has_the_adapter_s_law(trained, architecture):
    """The same question, the same next-token law as ours, an answer that ends where ours do."""
    found: dict = {}
    torch.manual_seed(0)
    exec(python_of(card(trained(architecture), None)), found)
    folder = trained(architecture).parents[2] / f"../models/{architecture}"
    tokenizer = load_tokenizer(folder)
    source = ModelSource.model_validate(json.loads((trained(architecture) / "run.json").read_text())["source"])
    assert found["text"] == chat.prompt_text(tokenizer, found["prompt"], source.chat)
    assert found["end"] == chat.terminator(tokenizer, source.chat)
    model = load_model(folder, trained(architecture))
    with torch.inference_mode():
        ours, theirs = (each(found["inputs"].input_ids).logits[0, -1] for each in (model, found["model"]))
        with found["model"].disable_adapter():
            base = found["model"](found["inputs"].input_ids).logits[0, -1]
    torch.testing.assert_close(theirs, ours)
    assert (theirs - base).abs().max() > 1e-4
    assert len(found["answers"]) == 10 and all(isinstance(answer, str) for answer in found["answers"])


def test_mistakes_are_told_in_one_line(trained, changed, scores, tmp_path):
    with pytest.raises(CftError, match=r"is no adapter made by `cft finetune`: it has no run\.json"):
        card(tmp_path, None)
    model = trained("llama").parents[2] / "../models/llama"
    with pytest.raises(CftError, match=r"it has no adapter_config\.json"):
        card(model, None)
    folder = changed()
    with pytest.raises(CftError, match="the scores hold nothing of llama, soft, seed 3; they begin with other, base"):
        card(folder, scores[scores["model"] == "other"])
    with pytest.raises(CftError, match="nothing of llama, soft, seed 3"):
        card(folder, scores[scores["seed"] == 4])  # another seed is another adapter
    whole = (folder / "run.json").read_text()
    (folder / "run.json").write_text(json.dumps(json.loads(whole) | {"command": ["cft", "fit", "die.yaml"]}))
    with pytest.raises(CftError, match=r"is of `cft fit`: the report\.html above it"):
        card(folder, None)
    shutil.copy(model / "run.json", folder / "run.json")
    with pytest.raises(CftError, match=r"its run\.json is of something else"):
        card(folder, None)
    (folder / "run.json").write_text("{")
    with pytest.raises(CftError, match=r"run\.json cannot be read"):
        card(folder, None)


def test_an_adapter_that_the_workflow_did_not_place(changed):
    folder = changed()
    run = json.loads((folder / "run.json").read_text())
    run["command"][run["command"].index("--out") + 1] = "mine"
    (folder / "run.json").write_text(json.dumps(run))
    assert "\n# llama, law, seed 3\n" in card(folder, None)


def test_the_command(changed, scores, tmp_path):
    folder = changed()
    write_table(scores, tmp_path / "scores.parquet")
    command = ["card", "--adapter", folder, "--scores", tmp_path / "scores.parquet"]
    cft(*command, check=True)
    written = (folder / "README.md").read_text(encoding="utf-8")
    assert written == card(folder, scores)
    cft(*command, "--out", tmp_path / "card.md", check=True)
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == written
    failed = cft("card", "--adapter", tmp_path)
    assert failed.returncode == 1 and re.fullmatch(r"cft: .+ it has no run\.json\n", failed.stderr)
