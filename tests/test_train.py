"""Fine-tuning runs: resume after a kill, effective batches, the adapter that comes out, over-fitting a few targets."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cft import CftError, chat
from cft.data import write_data
from cft.law import trie_law
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings
from cft.models import load_model, load_tokenizer
from cft.prefix import Prefixes
from cft.target import make_target
from cft.train import COMPLETE, finetune
from cft.trie import build_trie

SETTINGS = {
    "kind": "finetune", "labels": "law", "average": "value", "decimals": 1, "max_bins": 101, "epochs": 1, "draws": 1,
    "batch_size": 8, "max_steps": 6, "save_every": 2, "learning_rate": 1e-3,
}  # fmt: skip
METHOD = FinetuneMethod.model_validate(SETTINGS)


@pytest.fixture(scope="module")
def data(families, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(families, METHOD, 3, folder)
    return folder


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_an_adapter_and_its_log(tiny, data, tmp_path):
    out = tmp_path / "adapter"
    finetune(tiny("llama"), data, METHOD, 3, 8, out)
    run = json.loads((out / "run.json").read_text())
    assert (run["steps"], run["values"], run["seed"], run["terminator"]) == (6, 48, 3, "<|im_end|>")
    # Two layers; rank 16 on q and o (64 <-> 64) and k and v (64 -> 32).
    assert run["trainable_parameters"] == 2 * 16 * (2 * (64 + 64) + 2 * (64 + 32))
    log = list(csv.DictReader((out / "train_log.csv").open()))
    assert [int(row["step"]) for row in log] == [1, 2, 3, 4, 5, 6]
    rates = [float(row["learning_rate"]) for row in log]
    assert rates[1] == pytest.approx(1e-3)  # after one warm-up step, then a cosine to zero
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert not list(tmp_path.glob("*.checkpoints")) and not list(tmp_path.glob(".*"))


def test_micro_batches_do_not_change_the_result(tiny, data, tmp_path):
    still = METHOD.model_copy(update={"lora": METHOD.lora.model_copy(update={"dropout": 0.0})})
    for micro in (8, 3):
        finetune(tiny("llama"), data, still, 3, micro, tmp_path / str(micro))
    for name, tensor in weights(tmp_path / "8").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "3")[name], rtol=1e-3, atol=2e-6)


def test_a_killed_run_continues_and_ends_the_same(tiny, data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finetune(tiny("llama"), data, METHOD, 3, 8, whole)
    checkpoints = tmp_path / "killed.checkpoints"
    script = (
        "import sys, time, pathlib; from cft.method_settings import FinetuneMethod; from cft import train\n"
        "step = train.CalibrationTrainer.training_step\n"
        "def slow(self, *a, **k):\n"
        "    time.sleep(0.0 if self.state.global_step < 5 else 600)\n"  # past the checkpoint of step 4, for ever
        "    return step(self, *a, **k)\n"
        "train.CalibrationTrainer.training_step = slow\n"
        f"train.finetune(pathlib.Path({str(tiny('llama'))!r}), pathlib.Path({str(data)!r}),"
        f" FinetuneMethod.model_validate({SETTINGS!r}), 3, 8, pathlib.Path({str(killed)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (checkpoints / "checkpoint-4" / COMPLETE).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    (checkpoints / "checkpoint-5").mkdir()  # as if the kill had come while a checkpoint was written
    finetune(tiny("llama"), data, METHOD, 3, 8, killed)
    assert json.loads((killed / "run.json").read_text())["resumed_from"] == "checkpoint-4"
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(killed)[name]), name
    assert (whole / "train_log.csv").read_text() == (killed / "train_log.csv").read_text()


def test_checkpoints_of_other_settings_are_not_continued(tiny, data, tmp_path):
    stale = tmp_path / "adapter.checkpoints"
    (stale / "checkpoint-2").mkdir(parents=True)
    (stale / "checkpoint-2" / COMPLETE).touch()
    (stale / "settings.json").write_text("{}")
    finetune(tiny("llama"), data, METHOD, 3, 8, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "run.json").read_text())["resumed_from"] is None


def test_a_diverging_loss_and_a_wrong_layer_are_named(tiny, data, tmp_path):
    with pytest.raises(CftError, match="lower the learning rate"):
        finetune(tiny("llama"), data, METHOD.model_copy(update={"learning_rate": 1e30}), 3, 8, tmp_path / "a")
    wrong = METHOD.model_copy(update={"lora": METHOD.lora.model_copy(update={"targets": ["no_such_layer"]})})
    with pytest.raises(CftError, match="no_such_layer"):
        finetune(tiny("llama"), data, wrong, 3, 8, tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


# All linear layers: the random head of a tiny model cannot express a law by attention alone.
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
HANDFUL = [("bernoulli", {"p": 0.3}), ("poisson", {"lambda": 2.0}), ("gaussian", {"mu": 0.0, "sigma": 0.03})]


@pytest.mark.parametrize("labels", ["law", "draw"])
def test_overfitting_a_handful_of_targets_reaches_their_laws(tiny, families, tmp_path, monkeypatch, labels):
    """The proof that both losses aim at the right law: an exact trie KL below 0.02 nats per token."""
    draws = {"law": 8, "draw": 64}[labels]  # a drawn token says less than the law it was drawn from
    prompt = families.prompts[0]
    chosen = [
        type(prompt)(families[name].identifier(p), "train", name, p, families[name].prompt(p), True, False)
        for name, p in HANDFUL
    ]
    method = FinetuneMethod.model_validate(
        SETTINGS
        | {"labels": labels, "average": "value" if labels == "law" else "token", "decimals": 2, "batch_size": 3 * draws}
        | {"draws": draws, "draws_per_prompt": draws, "epochs": 300, "max_steps": None, "save_every": 1000}
        | {
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "lora": {"rank": 64, "alpha": 64, "dropout": 0.0, "targets": LAYERS},
        }
    )
    monkeypatch.setattr(families, "select", lambda split: chosen)
    write_data(families, method, 1, tmp_path / "data")
    assert pd.read_parquet(tmp_path / "data" / "examples.parquet")["step"].nunique() == 300
    finetune(tiny("llama"), tmp_path / "data", method, 1, 3 * draws, tmp_path / "adapter")
    model, tokenizer = load_model(tiny("llama"), tmp_path / "adapter"), load_tokenizer(tiny("llama"))
    end = chat.terminator(tokenizer, ChatSettings())
    for item in chosen:
        target = make_target(families, item.family, item.parameters, 2, 101)
        trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, end)
        with torch.inference_mode():
            law = trie_law(Prefixes.of(model, [chat.prompt_tokens(tokenizer, item.text, ChatSettings())]), trie, 64)
        assert law.trie_kl < 0.02, (item.prompt_id, law.trie_kl)
