"""The engines that draw: one module each, found by its name in the settings. All draw from the same law.

A module has `start(job) -> Engine`. An engine is handed all requests at once and yields draws as they end, in any
order. What a draw is depends on the job's seed, its prompt and its number alone, not on the other draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cft import parts
from cft.benchmark_settings import SamplingSettings
from cft.model_settings import VllmSettings


@dataclass(frozen=True)
class Request:
    """One text to draw: the prompt's tokens and which draw it is."""

    prompt_id: str
    prompt: list[int]
    draw: int


@dataclass(frozen=True)
class Draw:
    """One drawn text: its tokens without the stop token, and whether it stopped by itself."""

    request: Request
    tokens: list[int]
    finished: bool


@dataclass(frozen=True)
class Job:
    """Everything an engine needs to start.

    prompts       token lists by prompt_id
    stops         tokens that end a draw; the strings of settings.stop end it too
    cache_tokens  tokens of key-value cache; vLLM on a GPU takes its share of memory instead
    """

    model: Path
    adapter: Path | None
    tokenizer: Any
    prompts: dict[str, list[int]]
    stops: list[int]
    settings: SamplingSettings
    seed: int
    cache_tokens: int
    vllm: VllmSettings

    @cached_property
    def requests(self) -> list[Request]:
        """Every draw of every prompt, draws of a prompt side by side."""
        return [
            Request(prompt_id, tokens, draw)
            for prompt_id, tokens in self.prompts.items()
            for draw in range(self.settings.draws)
        ]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest possible sequence, prompt and draw."""
        return max(map(len, self.prompts.values())) + self.settings.max_new_tokens

    def stops_at(self, tokens: list[int]) -> bool:
        """Whether a draw's text holds a stop string."""
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in self.settings.stop)

    def text(self, tokens: list[int]) -> str:
        """A draw's text: up to the first stop string, special tokens shown as they are."""
        text = self.tokenizer.decode(tokens)
        return text[: min((place for stop in self.settings.stop if (place := text.find(stop)) >= 0), default=None)]


class Engine(Protocol):
    """A model that is ready to draw; `facts` go to run.json."""

    facts: dict[str, Any]

    def draw(self, requests: list[Request]) -> Iterator[Draw]: ...


def start(job: Job) -> Engine:
    """Load the model into the engine that the settings name."""
    return parts.load(__name__, job.settings.engine, ["start"]).start(job)
