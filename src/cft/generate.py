"""Draw texts from a model: one interface, whatever the engine."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cft import CftError, chat
from cft.benchmark_settings import SamplingSettings
from cft.engines import Draw, Job, start
from cft.journal import Journal, adapter_weights, digest
from cft.model_settings import VllmSettings
from cft.models import load_tokenizer, published_ends, settings_of
from cft.progress import Progress
from cft.provenance import write_table

log = logging.getLogger(__name__)
CHUNK_SECONDS = 1.0


def plan(
    prompts: pd.DataFrame,
    settings: SamplingSettings,
    seed: int,
    model: Path,
    adapter: Path | None,
    cache_tokens: int,
    vllm: VllmSettings,
    instruction: str | None = None,
    thinking: bool = False,
) -> Job:
    """The draws of `prompts` (columns prompt_id, prompt) as a job for an engine; raises CftError when it is empty.

    instruction    told to the model before each prompt
    thinking       whether the model may think before it answers, as its settings say
    """
    if prompts.empty:
        raise CftError("no prompts to draw from")
    tokenizer, chat_settings = load_tokenizer(model), settings_of(model).chat
    if thinking:
        chat_settings = chat_settings.thinking()
    tokens = {
        prompt_id: chat.prompt_tokens(tokenizer, text, chat_settings, instruction)
        for prompt_id, text in zip(prompts["prompt_id"], prompts["prompt"], strict=True)
    }
    stops = chat.stops(tokenizer, chat_settings, published_ends(model))
    return Job(model, adapter, tokenizer, tokens, stops, settings, seed, cache_tokens, vllm)


def sample(job: Job, identity: dict[str, Any], out: Path) -> None:
    """Draw all texts of a job and write them to a parquet file.

    Columns: those of `identity` (constants), prompt_id, draw, text, tokens, finished (False: cut at the token limit).
    Draws are kept in a journal beside `out` as they come; a killed job continues from it, and ends in the same file.
    Raises CftError when the adapter does not fit or is not active.
    """
    journal = Journal(out, _header(job, identity), ("prompt_id", "draw"), "draws")
    todo = [request for request in job.requests if (request.prompt_id, request.draw) not in journal.done]
    engine = start(job)
    with Progress("sample", len(job.requests), "draws") as progress:
        progress.resume(len(job.requests) - len(todo))
        for draws in _chunks(engine.draw(todo)):
            journal.add([_row(job, draw) for draw in draws])
            progress.update(len(draws))
    rows = [{**identity, **journal.done[request.prompt_id, request.draw]} for request in job.requests]
    write_table(
        pd.DataFrame(rows), out, **engine.facts, sampling=job.settings.for_draws(), seed=job.seed, identity=identity
    )
    journal.remove()


def _header(job: Job, identity: dict[str, Any]) -> dict[str, Any]:
    """All that draws depend on: a journal under another header is of another job."""
    return {
        **settings_of(job.model).model_dump(),
        **job.settings.for_draws(),
        **identity,
        "seed": job.seed,
        # Not its memory: that may be lowered after a failure.
        "vllm": job.vllm.model_dump(include={"adapter", "batch_invariant"}) if job.settings.engine == "vllm" else None,
        "prompts": digest(json.dumps([job.prompts, job.stops]).encode()),
        "adapter": job.adapter and digest(adapter_weights(job.adapter)),
    }


def _row(job: Job, draw: Draw) -> dict[str, Any]:
    return {
        "prompt_id": draw.request.prompt_id,
        "draw": draw.request.draw,
        "text": job.text(draw.tokens),
        "tokens": len(draw.tokens),
        "finished": draw.finished,
    }


def _chunks(draws: Iterable[Draw]) -> Iterator[list[Draw]]:
    """Gather draws for a moment, so that each write is worth its while."""
    chunk: list[Draw] = []
    since = time.monotonic()
    for draw in draws:
        chunk.append(draw)
        if time.monotonic() - since >= CHUNK_SECONDS:
            yield chunk
            chunk, since = [], time.monotonic()
    if chunk:
        yield chunk
