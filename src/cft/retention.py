"""The items of tinyBenchmarks answered by a model: lm-eval asks and judges, the model is loaded and asked as elsewhere.

lm-eval runs the task files in retention_tasks/. What a model sees is prompt_tokens() of chat.py, then the tokens of an
answer. With transformers, a prompt is computed once for all its answers, and logits only where theirs are predicted.
"""

import json
import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from lm_eval import __version__
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from cft import CftError, chat, engines, ifeval
from cft.benchmark_settings import SamplingSettings, TinyBenchmarks
from cft.engines import Job
from cft.likelihoods import Pair, batches, log_likelihoods
from cft.model_settings import ChatSettings, VllmSettings
from cft.models import load_for_evaluation, load_tokenizer, published_ends, settings_of
from cft.progress import Progress
from cft.provenance import write_table
from cft.vllm_setup import called_vllm

Transformers: Any = HFLM  # lm-eval's registry hides its type


def measure(
    settings: TinyBenchmarks,
    prompts: pd.DataFrame,
    model: Path,
    adapter: Path | None,
    cache_tokens: int,
    vllm: VllmSettings,
    identity: dict[str, Any],
    out: Path,
) -> None:
    """Let a model answer all items (a frame of tinybenchmarks.prompts) and write a parquet file, a row per metric.

    Columns: those of `identity` (constants), prompt_id, split, metric, value (0 or 1; mc2 a share), text (what was
    written, "" where given answers were compared) and gold (the number that should have been, else "").
    At most `cache_tokens` tokens are computed at once, or one prompt's; vLLM on a GPU takes its share of memory.
    Raises CftError when the adapter does not fit or is not active, an item is too long, or memory is too small.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of everything that is ours on purpose
    tasks = _tasks(settings, prompts)
    lm, facts = _start(_job(settings, tasks, model, adapter, cache_tokens, vllm), settings_of(model).chat)
    try:
        found: Any = evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, log_samples=True, apply_chat_template=True)
    except torch.OutOfMemoryError:
        raise CftError(f"out of memory with {cache_tokens} tokens of key-value cache: lower the model's cache_tokens")
    rows = [
        {**identity, "prompt_id": sample["doc"]["prompt_id"], "split": task, "metric": metric,
         "value": float(sample[metric]), **_written(sample)}
        for task, samples in found["samples"].items()
        for sample in samples
        for metric in sample["metrics"]
    ]  # fmt: skip
    facts |= {"lm_eval": __version__, "benchmark": settings.model_dump(), "identity": identity}
    write_table(pd.DataFrame(rows), out, **facts)


def _written(sample: dict[str, Any]) -> dict[str, str]:
    text = sample["resps"][0][0]
    if not isinstance(text, str):
        return {"text": "", "gold": ""}
    return {"text": text, "gold": sample["doc"].get("answer", "")}


def items(task: str, prompts: pd.DataFrame, **_: Any) -> dict[str, Dataset]:
    """The items of a task as lm-eval wants them; the task files name this function."""
    rows = prompts[prompts["split"] == task]
    docs = [
        {"prompt_id": prompt_id, "prompt": prompt, **json.loads(row)}
        for prompt_id, prompt, row in zip(rows["prompt_id"], rows["prompt"], rows["row"], strict=True)
    ]
    return {"test": Dataset.from_list(docs)}


def _tasks(settings: TinyBenchmarks, prompts: pd.DataFrame) -> dict[str, Any]:
    """lm-eval's tasks by name, those that `prompts` has items of."""
    folder, given = str(files("cft") / "retention_tasks"), {"prompts": prompts}
    manager = TaskManager(include_path=folder, include_defaults=False, metadata=given)  # type: ignore[arg-type]
    tasks = manager.load(list(dict.fromkeys(prompts["split"])))["tasks"]
    for name, task in tasks.items():
        # IFEval's own number of tokens is too many for tiny models.
        if task.OUTPUT_TYPE == "generate_until" and (name != "ifeval" or settings.data == "generated"):
            task.set_config("generation_kwargs", {"max_gen_toks": settings.max_new_tokens}, update=True)
    if "ifeval" in tasks:
        ifeval.check_data(rule for doc in tasks["ifeval"].test_docs() for rule in doc["instruction_id_list"])
    return tasks


def _job(
    settings: TinyBenchmarks, tasks: dict[str, Any], model: Path, adapter: Path | None, cache_tokens: int, vllm: Any
) -> Job:
    """Prompts, stops and the longest sequence, as engines know them."""
    tokenizer, how = load_tokenizer(model), settings_of(model).chat
    answer, prompts = 1, dict[str, list[int]]()
    for task in tasks.values():
        for doc in task.test_docs():
            for place, text in enumerate(doc.get("contexts", [doc["prompt"]])):
                prompts[f"{doc['prompt_id']}/{place}"] = chat.prompt_tokens(tokenizer, text, how)
            if task.OUTPUT_TYPE == "generate_until":
                answer = max(answer, task.config.generation_kwargs["max_gen_toks"])
            else:
                given = [doc["continuation"]] if "contexts" in doc else doc["choices"]
                answer = max(answer, *map(len, tokenizer(given, add_special_tokens=False).input_ids))
    # vLLM writes a token even where it only reads.
    asked = SamplingSettings(engine=settings.engine, draws=1, max_new_tokens=answer + 1)
    stops = chat.stops(tokenizer, how, published_ends(model))
    return Job(model, adapter, tokenizer, prompts, stops, asked, 0, cache_tokens, vllm)


def _start(job: Job, how: ChatSettings) -> tuple[Any, dict[str, Any]]:
    """The model for lm-eval, and what run.json says of it."""
    if job.settings.engine == "vllm":
        return _on_vllm(job, how)
    model, facts = load_for_evaluation(job.model, job.adapter, next(iter(job.prompts.values())))
    lm = OnTransformers(model, job, how)
    if job.longest > lm.max_length:
        raise CftError(
            f"the longest item takes {job.longest} tokens and the model reads {lm.max_length}: "
            "lower the benchmark's max_new_tokens, or leave the benchmark out for this model"
        )
    return lm, facts


class InChat:
    """Asks as chat.py does; the other half of a class of lm-eval."""

    how: ChatSettings
    tokenizer: Any
    tok_encode: Any

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        (message,) = chat_history
        return chat.prompt_text(self.tokenizer, message["content"], self.how)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[misc]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.tok_encode(context), self.tok_encode(continuation)


class OnTransformers(InChat, Transformers):
    """A loaded model (its adapter merged) for lm-eval."""

    def __init__(self, model: Any, job: Job, how: ChatSettings):
        # Templates write the first token themselves.
        Transformers.__init__(self, model, "causal", tokenizer=job.tokenizer, add_bos_token=False)
        self.job, self.how = job, how

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        tokens = super()._model_generate(context, max_length, stop, eos_token_id=self.job.stops, **options)
        # A terminator that the tokenizer does not call special would stay in the text.
        stops = torch.isin(tokens, torch.tensor(self.job.stops, device=tokens.device))
        return tokens.masked_fill(stops, self.tokenizer.pad_token_id)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        self.batch_size_per_gpu = rows = max(1, self.job.cache_tokens // self.job.longest)
        order = sorted(range(len(requests)), key=lambda place: -len(requests[place].args[0]))
        texts: dict[int, str] = {}
        with Progress("retention, writing", len(requests), "answers") as progress:
            for first in range(0, len(order), rows):
                some = order[first : first + rows]
                found = super().generate_until([requests[place] for place in some], disable_tqdm=True)
                texts.update(zip(some, found, strict=True))
                progress.update(len(some))
        return [texts[place] for place in range(len(requests))]

    def _loglikelihood_tokens(self, requests: list[Pair], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        found: dict[int, tuple[float, bool]] = {}
        with Progress("retention, comparing", len(requests), "answers") as progress:
            for batch in batches(requests, self.job.cache_tokens):
                some = log_likelihoods(self.model, [requests[place] for place in batch])
                found.update(zip(batch, some, strict=True))
                progress.update(len(batch))
        return [found[place] for place in range(len(requests))]


def _on_vllm(job: Job, how: ChatSettings) -> tuple[Any, dict[str, Any]]:
    """vLLM as for drawing: it holds the adapter, and agrees with transformers on a few prompts."""
    engine: Any = engines.start(job)
    with called_vllm():
        from lm_eval.models import vllm_causallms
    vllm: Any = vllm_causallms.VLLM

    class OnVllm(InChat, vllm):
        def __init__(self) -> None:
            TemplateLM.__init__(self)  # type: ignore[arg-type]  # VLLM's own would load the model once more
            self.model, self.lora_request, self.tokenizer, self.how = engine.llm, engine.lora, job.tokenizer, how
            self.batch_size, self.data_parallel_size = "auto", 1
            self.add_bos_token, self.custom_prefix_token_id, self.truncation_side = False, None, "left"
            self.enable_thinking = self.think_end_token = None
            self._max_length, self._max_gen_toks = job.longest, job.settings.max_new_tokens

        def modify_gen_kwargs(self, *arguments: Any, **named: Any) -> tuple[dict[str, Any], list[str], int]:
            options, until, most = vllm.modify_gen_kwargs(*arguments, **named)
            return {**options, "stop_token_ids": job.stops, "skip_special_tokens": True}, until, most

    return OnVllm(), engine.facts
