"""Several processes, sharded weights and gradient checkpointing: the same run as one process alone."""

import csv
import json
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from command import cft
from safetensors.torch import load_file

from cft import CftError, parallel
from cft.batches import Batches
from cft.data import write_data
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings, TrainingSettings
from cft.models import load_tokenizer
from cft.train import finetune
from cft.trainer import COMPLETE

# Without dropout: its masks come from a stream of each process.
METHOD = {
    "kind": "finetune", "labels": "law", "average": "value", "decimals": 1, "max_bins": 101, "epochs": 1, "draws": 1,
    "batch_size": 9, "max_steps": 5, "save_every": 2, "learning_rate": 1e-3, "lora": {"dropout": 0.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(families, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(families, FinetuneMethod.model_validate(METHOD), 3, folder)
    return folder


@pytest.fixture(scope="module")
def alone(tiny, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "adapter"
    finetune(tiny("llama"), data, FinetuneMethod.model_validate(METHOD), 3, TrainingSettings(micro_batch=4), out)
    return out


def command(model, data, out, training, method=METHOD):
    return [
        "finetune", "--model", str(model), "--data", str(data), "--seed", "3", "--settings", json.dumps(method),
        "--training", json.dumps(training), "--threads", "1", "--out", str(out),
    ]  # fmt: skip


def losses(folder):
    return [float(row["loss"]) for row in csv.DictReader((folder / "train_log.csv").open())]


def assert_same_run(found, wanted):
    assert losses(found) == pytest.approx(losses(wanted), rel=1e-6, abs=1e-6)
    tensors = load_file(wanted / "adapter_model.safetensors")
    assert tensors.keys() == load_file(found / "adapter_model.safetensors").keys()
    for name, tensor in load_file(found / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "training",
    [
        {"micro_batch": 2, "processes": 2},
        {"micro_batch": 2, "processes": 2, "sharding": "fsdp", "gradient_checkpointing": True, "loaders": 1},
    ],
    ids=["ddp", "fsdp"],
)
def test_two_processes_train_what_one_does(tiny, data, alone, tmp_path, training):
    """With batches of nine values, of which the processes take four and five."""
    result = cft(*command(tiny("llama"), data, tmp_path / "a", training))
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "a", alone)
    run, whole = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "a", alone))
    assert run["training"]["processes"] == 2 and run["trainable_parameters"] == whole["trainable_parameters"]
    frozen = whole["parameters_held"] - whole["trainable_parameters"]
    held = run["parameters_held"] - run["trainable_parameters"]
    assert held == frozen if "sharding" not in training else 0.5 <= held / frozen < 0.51  # odd rows are padded
    assert not list(tmp_path.glob("*.checkpoints"))
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "a", alone)]
    assert [sorted(config.pop("target_modules")) for config in configs] == [
        ["k_proj", "o_proj", "q_proj", "v_proj"]
    ] * 2
    assert configs[0] == configs[1]


@pytest.mark.parametrize("architecture", ["llama", "gemma3_vision", "gpt_oss"])
def test_gradient_checkpointing_changes_nothing(tiny, data, tmp_path, architecture):
    for kind in (False, True):
        training = TrainingSettings(micro_batch=4, gradient_checkpointing=kind)
        method = FinetuneMethod.model_validate(METHOD | {"max_steps": 3})
        finetune(tiny(architecture), data, method, 3, training, tmp_path / str(kind))
    assert_same_run(tmp_path / "True", tmp_path / "False")


@pytest.mark.parametrize(("size", "micro", "processes"), [(9, 2, 2), (9, 1, 4), (3, 2, 4), (1, 8, 3), (32, 32, 1)])
def test_processes_share_a_batch(tiny, families, tmp_path, size, micro, processes):
    """Every value once, in as many micro-batches for one as for the other; weights add up to those of one process."""
    method = FinetuneMethod.model_validate(METHOD | {"batch_size": size, "max_steps": 1})
    write_data(families, method, 3, tmp_path)
    tokenizer = load_tokenizer(tiny("llama"))

    def items(share):
        return Batches(tmp_path, tokenizer, ChatSettings(), method, micro, share)[0]

    parts = [items((process, processes)) for process in range(processes)]
    assert len({len(part) for part in parts}) == 1
    # Every value weighs one part of the batch, but for one that only fills a round.
    assert all(round(float(m["weight"].sum()) * size, 3) <= micro for part in parts for m in part)
    weights = torch.cat([m["weight"] for part in parts for m in part])
    assert float(weights.sum()) == pytest.approx(1)
    labels = sum(len(m["weight"]) for m in items((0, 1)))
    assert int((weights > 0).sum()) == labels


def test_a_failing_process_is_one_line(tiny, data, tmp_path):
    wrong = METHOD | {"lora": {"targets": ["no_such_layer"]}}
    arguments = command(tiny("llama"), data, tmp_path / "a", {"processes": 2}, wrong)
    result = cft(*arguments)
    assert result.returncode == 1
    assert "cft: lora.targets: no_such_layer names no layer" in result.stderr
    assert "ended with exit code 1; its last line is above" in result.stderr.splitlines()[-1]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CftError, match="processes is 2, but 1 GPUs are visible"):
        parallel.launch(2, [])


@pytest.mark.parametrize("training", [{}, {"processes": 2}], ids=["one", "two"])
def test_a_warning_writes_a_checkpoint_and_stops(tiny, families, tmp_path, training):
    """As Slurm does before a job's time is up: SIGUSR1 to every process of the job."""
    long = METHOD | {"max_steps": 1000, "epochs": 5, "save_every": 2000}
    write_data(families, FinetuneMethod.model_validate(long), 3, tmp_path / "data")
    arguments = command(tiny("llama"), tmp_path / "data", tmp_path / "a", training, long)
    process = subprocess.Popen([sys.executable, "-m", "cft.cli", *arguments], stderr=subprocess.PIPE, text=True)
    log = ""
    while "finetune" not in log:  # the first line of progress
        line = process.stderr.readline()  # type: ignore[union-attr]
        assert line, log
        log += line
    started = psutil.Process(process.pid)
    for each in [started, *started.children(recursive=True)]:
        each.send_signal(signal.SIGUSR1)
    log += process.communicate()[1]
    assert process.returncode == 1, log
    assert "as the job's time is almost up; a checkpoint is written" in log
    (checkpoint,) = (tmp_path / "a.checkpoints").glob("checkpoint-*")
    assert (checkpoint / COMPLETE).exists() and not (tmp_path / "a").exists()
