"""What vLLM is started with, as far as it can be told without it."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cft import CftError
from cft.benchmark_settings import SamplingSettings
from cft.engines import Draw, Job, Request
from cft.engines.vllm import VllmEngine, probes_of
from cft.model_settings import ModelSettings, VllmSettings
from cft.models import load_model, load_tokenizer
from cft.vllm_setup import BLOCK, arguments_for, check_device, explained


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_room_on_a_processor(tiny, architecture):
    """The cache that vLLM is given holds the tokens asked for: bytes against those of a real cache."""
    folder = tiny(architecture)
    job = Job(folder, None, None, {"a": [5, 6, 7]}, [2], SamplingSettings(draws=1, max_new_tokens=40), 0, 960,
              VllmSettings())  # fmt: skip
    cache = load_model(folder)(torch.tensor([[5, 6, 7, 8]]), use_cache=True).past_key_values
    bytes_of_4 = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    arguments = arguments_for(job, cpu=True)
    assert arguments["kv_cache_memory_bytes"] == 960 * bytes_of_4 // 4
    assert arguments["max_model_len"] == 43 and arguments["max_num_seqs"] == 960 // (2 * BLOCK)
    small = arguments_for(replace(job, cache_tokens=1), cpu=True)
    assert small["max_num_seqs"] == 1 and small["kv_cache_memory_bytes"] == 2 * BLOCK * bytes_of_4 // 4


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            "To serve at least one request with the model's max seq len (900), 2 GiB KV cache is needed",
            "raise the model's",
        ),
        (
            "Free memory on device cuda:0 (3/80 GiB) on startup is less than desired GPU memory utilization",
            "vllm.memory",
        ),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", "vllm.memory"),
        ("Total number of attention heads (9) must be divisible by tensor parallel size (2).", "vllm.tensor_parallel"),
        ("Model architectures ['X'] are not supported for now.", "engine to transformers"),
        ("WorkerProc initialization failed due to an exception in a background process.", "log above"),
        ("'_OpNamespace' '_C' object has no attribute 'init_cpu_memory_env'", "kernels were not loaded"),
        ("something\nnew", "see the log above (something new)"),
    ],
)
def test_errors_of_vllm_in_one_line(tiny, error, advice):
    job = Job(tiny("llama"), None, None, {"a": [5]}, [2], SamplingSettings(draws=1, max_new_tokens=4), 0, 960,
              VllmSettings())  # fmt: skip
    line = str(explained(RuntimeError(error), job))
    assert advice in line and "\n" not in line


def test_the_sampler_that_is_compiled_at_start_is_off(tiny, monkeypatch):
    """Images have no nvcc; draws with seeds never use it. Without vLLM installed this ends after the environment."""
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    for name in ("VLLM_BATCH_INVARIANT", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL",
                 "OMP_NUM_THREADS"):  # fmt: skip
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setitem(sys.modules, "vllm", None)
    job = Job(tiny("llama"), None, None, {"a": [5]}, [2], SamplingSettings(draws=1, max_new_tokens=4), 0, 960,
              VllmSettings())  # fmt: skip
    with pytest.raises(CftError, match="engine vllm cannot be imported"):
        check_device(job)
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_no_memory_is_kept_for_images(tiny):
    def arguments(architecture):
        job = Job(tiny(architecture), None, None, {"a": [5]}, [2], SamplingSettings(draws=1, max_new_tokens=4), 0, 960,
                  VllmSettings(tensor_parallel=1))  # fmt: skip
        return arguments_for(job, cpu=False)

    assert arguments("gemma3_vision")["limit_mm_per_prompt"] == {"image": 0}
    assert "limit_mm_per_prompt" not in arguments("gemma3")


def test_a_job_uses_the_gpus_that_it_asks_for():
    model = ModelSettings(source="tiny", architecture="llama", gpus=2)
    assert model.on_vllm().tensor_parallel == 2
    assert model.model_copy(update={"gpus": 0}).on_vllm().tensor_parallel == 1
    given = model.model_copy(update={"vllm": VllmSettings(tensor_parallel=1, memory=0.5)})
    assert given.on_vllm() == VllmSettings(tensor_parallel=1, memory=0.5)


def test_a_draw_that_vllm_gave_up_is_not_a_truncated_one():
    engine, request = object.__new__(VllmEngine), Request("a", [5], 0)
    engine.job = SimpleNamespace(stops=[2])

    def drawn(*tokens, why):
        return engine._draw(request, SimpleNamespace(token_ids=tokens, finish_reason=why))

    assert drawn(4, 2, why="stop") == Draw(request, [4], True)
    assert drawn(4, 3, why="length") == Draw(request, [4, 3], False)
    with pytest.raises(CftError, match=r"gave up a draw of a \(abort"):
        drawn(4, why="abort")


def test_an_adapter_is_looked_for_where_adapters_act(tiny, tmp_path):
    """One multiple-choice prompt may say nothing: every adapter was trained on prompts for numbers."""
    folder = tiny("llama")
    tokenizer = load_tokenizer(folder)
    plain = SimpleNamespace(model=folder, adapter=None, prompts={"mcq": [5, 6, 7]})
    assert probes_of(plain) == [[5, 6, 7]]
    own, *numbers = probes_of(SimpleNamespace(**vars(plain) | {"adapter": tmp_path}))
    assert own == [5, 6, 7] and len(numbers) == 3
    assert all("random number" in tokenizer.decode(tokens) for tokens in numbers)
