"""Fine-tuning runs: resume after a kill, effective batches, the adapter that comes out, over-fitting a few targets."""

import csv
import json
import signal

import pandas as pd
import pytest
import torch
from command import python
from safetensors.torch import load_file

from cft import CftError, chat, trainer
from cft.data import write_data
from cft.law import trie_law
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings, ModelSource, TrainingSettings
from cft.models import load_model, load_tokenizer
from cft.prefix import Prefixes
from cft.prepare import prepare
from cft.target import make_target
from cft.train import finetune
from cft.trainer import COMPLETE
from cft.trie import build_trie

SETTINGS = {
    "kind": "finetune", "labels": "law", "average": "value", "decimals": 1, "max_bins": 101, "epochs": 1, "draws": 1,
    "batch_size": 8, "max_steps": 6, "save_every": 2, "learning_rate": 1e-3,
}  # fmt: skip
METHOD = FinetuneMethod.model_validate(SETTINGS)
EIGHT = TrainingSettings(micro_batch=8)


@pytest.fixture(scope="module")
def data(families, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(families, METHOD, 3, folder)
    return folder


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_an_adapter_and_its_log(tiny, data, tmp_path):
    out = tmp_path / "adapter"
    finetune(tiny("llama"), data, METHOD.model_copy(update={"warmup": 0.3}), 3, EIGHT, out)
    run = json.loads((out / "run.json").read_text())
    assert (run["steps"], run["values"], run["seed"], run["terminator"]) == (6, 48, 3, "<|im_end|>")
    # Two layers; rank 16 on q and o (64 <-> 64) and k and v (64 -> 32).
    assert run["trainable_parameters"] == 2 * 16 * (2 * (64 + 64) + 2 * (64 + 32))
    log = list(csv.DictReader((out / "train_log.csv").open()))
    assert [int(row["step"]) for row in log] == [1, 2, 3, 4, 5, 6]
    rates = [float(row["learning_rate"]) for row in log]
    assert rates[1] == pytest.approx(1e-3)  # after one warm-up step, as 1.8 are rounded down; then a cosine to zero
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert not list(tmp_path.glob("*.checkpoints")) and not list(tmp_path.glob(".*"))


def test_micro_batches_do_not_change_the_result(tiny, data, tmp_path):
    still = METHOD.model_copy(update={"lora": METHOD.lora.model_copy(update={"dropout": 0.0})})
    for micro in (8, 3):
        finetune(tiny("llama"), data, still, 3, TrainingSettings(micro_batch=micro), tmp_path / str(micro))
    for name, tensor in weights(tmp_path / "8").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "3")[name], rtol=1e-3, atol=2e-6)


# Where a run is killed, as code that runs in its process: in a step, while a checkpoint is written, in its loader.
KILLS = {
    "step": """
step = trainer.CalibrationTrainer.training_step
def killed(self, *a, **k):
    if self.state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *a, **k)
trainer.CalibrationTrainer.training_step = killed
""",
    "saving": """
save = trainer.CalibrationTrainer._save_optimizer_and_scheduler
def killed(self, *a, **k):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, *a, **k)
trainer.CalibrationTrainer._save_optimizer_and_scheduler = killed
""",
    "loader": """
item = batches.Batches.__getitem__
def killed(self, step):
    if step == 5:
        time.sleep(2)  # until the checkpoint of step 4 is whole
        os.kill(os.getpid(), signal.SIGKILL)
    return item(self, step)
batches.Batches.__getitem__ = killed
""",
}


@pytest.fixture(scope="module")
def whole(tiny, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "adapter"
    finetune(tiny("llama"), data, METHOD, 3, EIGHT, out)
    return out


@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_continues_and_ends_the_same(tiny, data, whole, tmp_path, where):
    killed, how = tmp_path / "killed", EIGHT.model_copy(update={"loaders": int(where == "loader")})
    script = (
        "import os, pathlib, signal, time\n"
        "from cft import batches, train, trainer\n"
        "from cft.method_settings import FinetuneMethod\n"
        "from cft.model_settings import TrainingSettings\n"
        f"{KILLS[where]}\n"
        f"train.finetune(pathlib.Path({str(tiny('llama'))!r}), pathlib.Path({str(data)!r}),"
        f" FinetuneMethod.model_validate({SETTINGS!r}), 3, TrainingSettings.model_validate({how.model_dump()!r}),"
        f" pathlib.Path({str(killed)!r}))\n"
    )
    result = python(script, timeout=120)
    assert result.returncode == (1 if where == "loader" else -signal.SIGKILL), result.stderr
    assert not killed.exists()
    finetune(tiny("llama"), data, METHOD, 3, how, killed)
    assert json.loads((killed / "run.json").read_text())["resumed_from"] == "checkpoint-4", result.stderr
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(killed)[name]), name
    assert (whole / "train_log.csv").read_text() == (killed / "train_log.csv").read_text()


def test_a_run_is_the_same_bytes_again_and_another_seed_is_not(tiny, families, data, whole, tmp_path):
    finetune(tiny("llama"), data, METHOD, 3, EIGHT, tmp_path / "again")
    same = [(folder / "adapter_model.safetensors").read_bytes() for folder in (whole, tmp_path / "again")]
    assert same[0] == same[1]
    assert (whole / "adapter_config.json").read_bytes() == (tmp_path / "again/adapter_config.json").read_bytes()
    config = json.loads((whole / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(METHOD.lora.targets)  # a set's order is another in each process
    write_data(families, METHOD, 4, tmp_path / "data")
    examples = [pd.read_parquet(folder / "examples.parquet") for folder in (data, tmp_path / "data")]
    assert len(examples[0]) == len(examples[1])
    assert examples[0]["value"].tolist() != examples[1]["value"].tolist()


def test_checkpoints_of_other_settings_are_not_continued(tiny, data, tmp_path):
    stale = tmp_path / "adapter.checkpoints"
    (stale / "checkpoint-2").mkdir(parents=True)
    (stale / "checkpoint-2" / COMPLETE).touch()
    (stale / "settings.json").write_text("{}")
    finetune(tiny("llama"), data, METHOD, 3, EIGHT, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "run.json").read_text())["resumed_from"] is None


@pytest.fixture
def stopped_at_5(monkeypatch):
    """Let a run fail in its fifth step, after its second checkpoint."""

    def stop(*arguments):
        step = trainer.CalibrationTrainer.training_step

        def until(self, *given, **named):
            if self.state.global_step == 4:
                raise KeyboardInterrupt
            return step(self, *given, **named)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(trainer.CalibrationTrainer, "training_step", until)
            finetune(*arguments)

    return stop


def test_checkpoints_of_other_data_are_not_continued(tiny, data, whole, families, stopped_at_5, tmp_path):
    write_data(families, METHOD, 4, tmp_path / "data")
    stopped_at_5(tiny("llama"), tmp_path / "data", METHOD, 3, EIGHT, tmp_path / "adapter")
    finetune(tiny("llama"), data, METHOD, 3, EIGHT, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "run.json").read_text())["resumed_from"] is None
    assert (tmp_path / "adapter/train_log.csv").read_text() == (whole / "train_log.csv").read_text()


@pytest.mark.parametrize(("lora", "dtype"), [("weights", torch.bfloat16), ("float32", torch.float32)])
def test_a_run_in_bfloat16_continues_in_its_precision(data, stopped_at_5, tmp_path, lora, dtype):
    prepare(ModelSource(source="tiny", architecture="llama", dtype="bfloat16"), tmp_path / "model")
    method = METHOD.model_copy(update={"lora": METHOD.lora.model_copy(update={"dtype": lora})})
    given = (tmp_path / "model", data, method, 3, EIGHT)
    finetune(*given, tmp_path / "whole")
    stopped_at_5(*given, tmp_path / "killed")
    finetune(*given, tmp_path / "killed")
    assert json.loads((tmp_path / "killed/run.json").read_text())["resumed_from"] == "checkpoint-4"
    whole, killed = (weights(tmp_path / name) for name in ("whole", "killed"))
    for name, tensor in whole.items():
        assert tensor.dtype == killed[name].dtype == dtype and torch.equal(tensor, killed[name]), name


def test_a_diverging_loss_and_a_wrong_layer_are_named(tiny, data, tmp_path):
    with pytest.raises(CftError, match="lower the learning rate"):
        finetune(tiny("llama"), data, METHOD.model_copy(update={"learning_rate": 1e30}), 3, EIGHT, tmp_path / "a")
    wrong = METHOD.model_copy(update={"lora": METHOD.lora.model_copy(update={"targets": ["no_such_layer"]})})
    with pytest.raises(CftError, match="no_such_layer"):
        finetune(tiny("llama"), data, wrong, 3, EIGHT, tmp_path / "b")
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
    assert len(set(pd.read_parquet(tmp_path / "data" / "examples.parquet")["step"])) == 300
    finetune(tiny("llama"), tmp_path / "data", method, 1, TrainingSettings(micro_batch=3 * draws), tmp_path / "adapter")
    model, tokenizer = load_model(tiny("llama"), tmp_path / "adapter"), load_tokenizer(tiny("llama"))
    end = chat.terminator(tokenizer, ChatSettings())
    for item in chosen:
        target = make_target(families, item.family, item.parameters, 2, 101)
        trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, end)
        with torch.inference_mode():
            law = trie_law(Prefixes.of(model, [chat.prompt_tokens(tokenizer, item.text, ChatSettings())]), trie, 64)
        assert law.trie_kl < 0.02, (item.prompt_id, law.trie_kl)
