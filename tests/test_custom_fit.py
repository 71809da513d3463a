"""`cft fit` as a user runs it, on a tiny model: exact laws against plain forward passes, the folder, the page."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import cft

from cft import chat
from cft.custom_fit import total_variation
from cft.models import load_model, load_tokenizer, settings_of

ROOT = Path(__file__).resolve().parents[1]
TARGET = """
prompts: ["Flip: {outcomes}?", "A coin falls on"]
held_out: "Toss it"
outcomes: {a: 0.7, ab: 0.2, b: 0.1}
"""
STEPS = ["--steps", "30", "--learning-rate", "0.02", "--threads", "1", "--seed", "3"]


def run(*words):
    return cft("fit", *words)


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder with a target, and the options that fit it to a tiny model."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "coin.yaml").write_text(TARGET)
    return folder, [folder / "coin.yaml", "--model", tiny("llama"), *STEPS]


@pytest.fixture(scope="module")
def done(place):
    folder, words = place
    answer = run(*words, "--out", folder / "one")
    assert answer.returncode == 0, answer.stderr
    return folder / "one", answer.stdout


def by_forward_passes(model, tokenizer, settings, prompt, outcome):
    """The probability of the outcome and the terminator, token by token, each from a pass over all before it."""
    tokens = chat.prompt_tokens(tokenizer, prompt, settings)
    answer = [*chat.tokenize_values(tokenizer, [outcome])[0].tolist(), chat.terminator(tokenizer, settings)]
    probability = 1.0
    for token in answer:
        with torch.inference_mode():
            law = model(torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
        probability *= law[token].item()
        tokens = [*tokens, token]
    return probability


def test_laws_are_those_of_plain_forward_passes(done, place, tiny):
    laws = pd.read_csv(done[0] / "laws.csv")
    model_folder = tiny("llama")
    tokenizer, settings = load_tokenizer(model_folder), settings_of(model_folder).chat
    prompts = {"trained 1": "Flip: a, ab, b?", "trained 2": "A coin falls on", "held out 1": "Toss it"}
    for name, adapter in (("base", None), ("tuned", done[0] / "adapter")):
        model = load_model(model_folder, adapter).eval()
        for phrasing, prompt in prompts.items():
            rows = laws[laws["phrasing"] == phrasing].set_index("outcome")
            for outcome in ("a", "ab", "b"):
                expected = by_forward_passes(model, tokenizer, settings, prompt, outcome)
                assert rows.at[outcome, name] == pytest.approx(expected, rel=1e-4)
    sums = laws.groupby("phrasing")[["target", "base", "tuned"]].sum()
    assert sums.to_numpy() == pytest.approx(1)


def test_training_brings_the_law_to_the_target(done):
    measures = pd.read_csv(done[0] / "measures.csv").set_index(["phrasing", "model"])["total_variation"]
    laws = pd.read_csv(done[0] / "laws.csv")
    for phrasing in ("trained 1", "trained 2"):
        assert measures[phrasing, "tuned"] < 0.3 < 0.9 < measures[phrasing, "base"]
    for (phrasing, name), value in measures.items():
        rows = laws[laws["phrasing"] == phrasing]
        assert value == pytest.approx((rows["target"] - rows[name]).abs().sum() / 2)
    assert "trained 1: total variation from the target" in done[1] and "held out 1" in done[1]


def test_total_variation_counts_what_is_no_outcome():
    assert total_variation(np.array([0.5, 0.5]), np.array([0.5, 0.25])) == pytest.approx(0.25)
    assert total_variation(np.array([1.0]), np.array([0.0])) == 1 and total_variation(np.ones(1), np.ones(1)) == 0


def test_the_page_needs_no_other_and_says_what_was_found(done):
    text = (done[0] / "report.html").read_text()
    assert "default-src 'none'" in text and "<script" not in text and "<link" not in text
    assert not re.search(r"(src|href)=", text.replace('xlink:href="#', "").replace('href="#', ""))
    assert "Toss it" in text and "held out" in text and "<svg" in text
    tuned = pd.read_csv(done[0] / "laws.csv").query("split == 'trained' and outcome == 'a'")["tuned"].mean()
    assert f">{tuned:.3f}<" in text


def test_the_same_seed_gives_the_same_bytes(done, place):
    folder, words = place
    assert run(*words, "--out", folder / "two").returncode == 0
    for name in ("data/prompts.parquet", "data/examples.parquet", "adapter/adapter_model.safetensors", "laws.csv"):
        assert (done[0] / name).read_bytes() == (folder / "two" / name).read_bytes(), name


def test_a_finished_fit_is_kept_and_a_changed_target_trained_anew(place, done):
    folder, words = place
    refused = run(*words, "--out", done[0])
    assert refused.returncode == 1 and "holds a finished fit; add --force" in refused.stderr
    other = folder / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    refused = run(*words, "--out", other)
    assert refused.returncode == 1 and "holds other files" in refused.stderr
    assert (other / "notes.txt").read_text() == "mine"
    # Interrupted after training: with the same target the adapter serves, with another it does not.
    half = folder / "two"
    if not half.is_dir():
        assert run(*words, "--out", half).returncode == 0
    (half / "run.json").unlink()
    trained = json.loads((half / "adapter/run.json").read_text())["started"]
    assert run(*words, "--out", half).returncode == 0
    assert json.loads((half / "adapter/run.json").read_text())["started"] == trained
    (half / "run.json").unlink()
    (folder / "coin.yaml").write_text(TARGET.replace("a: 0.7, ab: 0.2", "a: 0.2, ab: 0.7"))
    assert run(*words, "--out", half).returncode == 0
    laws = pd.read_csv(half / "laws.csv").query("split == 'trained' and outcome == 'ab'")
    assert (laws["tuned"] > 0.4).all()
    (folder / "coin.yaml").write_text(TARGET)


def test_numbers_get_bounds_on_the_law(place, tiny):
    folder, _ = place
    (folder / "wait.yaml").write_text(
        "prompt: How long?\ndistribution: {name: expon, parameters: {scale: 2}}\ndecimals: 0\n"
    )
    answer = run(folder / "wait.yaml", "--model", tiny("llama"), "--out", folder / "wait", "--steps", "40",
                 "--learning-rate", "0.02", "--threads", "1")  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    measures = pd.read_csv(folder / "wait" / "measures.csv").set_index("model")
    assert (measures["law_pit_w1_low"] <= measures["law_pit_w1_high"]).all()
    assert measures.at["tuned", "law_pit_w1_high"] < measures.at["base", "law_pit_w1_low"]
    # Numbers with whole minutes only cannot be nearer to a continuous law than its rounding allows.
    assert measures.at["tuned", "law_ks_high"] > 0.1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "nobody"], "nobody is no folder with a model, and .*demo.yaml names smollm2"),
        (["--model", "x", "--steps", "0"], "Invalid value for '--steps'"),
    ],
)
def test_mistakes_are_one_line(place, words, told):
    answer = run(place[0] / "coin.yaml", "--out", place[0] / "none", *words)
    assert answer.returncode != 0 and re.search(told, answer.stderr) and "Traceback" not in answer.stderr
    assert not (place[0] / "none").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").iterdir()))
def test_every_example_is_fitted(name, tiny, tmp_path):
    """Some steps: the folder is whole, its laws are of the example's outcomes, and training is on its prompts."""
    from cft.custom import read

    asked = ["--prompt", "How old? {outcomes}"] if name.endswith(".csv") else []
    own = read(ROOT / "examples" / name, asked[1:])
    out = tmp_path / "fit"
    words = [
        *asked,
        "--model",
        tiny("llama"),
        "--out",
        out,
        "--steps",
        "4",
        "--learning-rate",
        "0.02",
        "--threads",
        "1",
    ]
    answer = run(ROOT / "examples" / name, *words)
    assert answer.returncode == 0, answer.stderr
    laws = pd.read_csv(out / "laws.csv", dtype={"outcome": str})
    for _, rows in laws.groupby("phrasing"):
        assert rows["outcome"].tolist() == [*own.target.values, "something else"]
        assert rows["target"].to_numpy()[:-1] == pytest.approx(own.target.probabilities)
        assert rows[["target", "base", "tuned"]].sum().to_numpy() == pytest.approx(1)
    assert laws["phrasing"].nunique() == len(own.prompts) + len(own.held_out)
    assert pd.read_parquet(out / "data/prompts.parquet")["prompt"].tolist() == own.prompts
    assert (laws["base"] != laws["tuned"]).any() and own.name in (out / "report.html").read_text()
