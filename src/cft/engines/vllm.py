"""Draws by vLLM, on GPUs or on a processor: what the paper's runs use.

All requests are one queue, of which the engine always has more than it can run; the prompt of a thousand draws is
computed once (prefix cache), and each draw has a seed of its own. Before the first draw the engine must agree with
transformers on what follows a few prompts: an adapter that is not applied is an error: the released code's default for
NoveltyBench draws from the base model without a word.
"""

# pyright: reportMissingImports=false
# vLLM has environments of its own
import gc
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cft import CftError
from cft.chat import prompt_tokens
from cft.distributions import registry
from cft.engines import Draw, Job, Request
from cft.models import adapter_effect, load_model, load_tokenizer, next_token_log_law, save_merged, settings_of
from cft.parity import PROBES, TOP, check_parity
from cft.streams import stream
from cft.vllm_setup import arguments_for, check_device, explained, gpus, rank_of, takes_adapters

QUEUE = 8192  # requests that the engine knows of: more than it runs at once, far fewer than a paper's benchmark has


def start(job: Job) -> "VllmEngine":
    cpu = check_device(job)
    arguments = arguments_for(job, cpu)
    better_merged = {"auto": cpu or not takes_adapters(arguments, job), "merge": True, "request": False}
    merged = job.adapter is not None and better_merged[job.vllm.adapter]
    probes = probes_of(job)
    arguments["max_model_len"] = max(arguments["max_model_len"], 1 + max(map(len, probes)))
    with tempfile.TemporaryDirectory(prefix="cft-merged-") as scratch:
        base, tuned = _reference(job, probes, Path(scratch) if merged else None)
        if merged:
            arguments |= {"model": scratch, "revision": None}
        elif job.adapter is not None:
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank_of(job.adapter)}
        engine = VllmEngine(job, arguments, merged)
    engine.check(probes, base, tuned)
    return engine


def probes_of(job: Job) -> list[list[int]]:
    """[probes] tokens of prompts of the benchmark, and with an adapter of as many that ask for a number: there adapters
    act most, where a benchmark may have one prompt, after which every model goes on alike."""
    own = list(job.prompts.values())[:: max(1, len(job.prompts) // PROBES)][:PROBES]
    if job.adapter is None:
        return own
    tokenizer, how = load_tokenizer(job.model), settings_of(job.model).chat
    numbers = registry().select(selected=True)[:PROBES]
    return [*own, *(prompt_tokens(tokenizer, prompt.text, how) for prompt in numbers)]


class VllmEngine:
    """The engine; `arguments` are vLLM's own, `merged` says that the weights hold the adapter."""

    def __init__(self, job: Job, arguments: dict[str, Any], merged: bool):
        from vllm import LLM, __version__
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform

        self.job = job
        try:
            self.llm = LLM(**arguments, generation_config="vllm", seed=job.seed, use_tqdm_on_load=False)
        except Exception as error:  # a worker that does not start raises no narrower class
            raise explained(error, job)
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
            self.facts["adapter"] = {"path": str(job.adapter), "merged": merged, "lora_request": not merged}

    def check(self, probes: list[list[int]], base: torch.Tensor, tuned: torch.Tensor | None) -> None:
        """Raise CftError unless the engine agrees with transformers' laws [probes, vocabulary] after each probe."""
        found = self._log_law(probes, self.lora)
        plain = self._log_law(probes, None) if self.lora is not None else None
        self.facts["parity"] = check_parity(found, plain, base, tuned, settings_of(self.job.model).dtype)

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
            try:
                running.update(self._enqueue(list(islice(waiting, QUEUE - len(running)))))
                outputs = self.llm.llm_engine.step() if running else []
            except Exception as error:
                raise explained(error, self.job)
            if not running:
                return
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
        if output.finish_reason not in ("stop", "length"):
            raise CftError(f"vLLM gave up a draw of {request.prompt_id} ({output.finish_reason}): start again")
        tokens, finished = list(output.token_ids), output.finish_reason == "stop"
        return Draw(request, tokens[:-1] if finished and tokens[-1] in self.job.stops else tokens, finished)


def _reference(job: Job, probes: list[list[int]], merged: Path | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers expects after each probe, of the base model and of the tuned one; saves the merged weights."""
    # On the processor where one GPU may be too small, and where vLLM has to be the first to use it.
    on = torch.device("cpu") if gpus(job) > 1 or job.vllm.batch_invariant else None
    try:
        model = load_model(job.model, job.adapter, on)
        if job.adapter is None:
            base, tuned = next_token_log_law(model, probes), None
        else:
            base, tuned = adapter_effect(model, probes)
        if merged is not None:
            save_merged(model, job.model, merged)
    except torch.OutOfMemoryError as error:
        raise explained(error, job)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return base, tuned
