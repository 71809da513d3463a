"""Settings of benchmarks: what is drawn, or what is measured, and which upstream files that takes (`upstream`)."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cft.settings import Once, Settings

TINY_SETS = ["tiny_mmlu", "tiny_hellaswag", "tiny_truthfulqa", "tiny_winogrande", "tiny_gsm8k"]
PALOMA_SLICES = ["wikitext_103", "c4_en", "dolma-v1_5", "mc4", "ptb", "redpajama", "falcon-refinedweb"]


class SamplingSettings(Settings):
    """How a benchmark's texts are drawn."""

    engine: Literal["transformers", "vllm"] = "transformers"
    draws: int = Field(ge=1, description="texts per prompt")
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(default=1.0, ge=0.01)  # vLLM takes a lower one for this
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="texts that end a draw; the draw ends before them"
    )

    def for_draws(self) -> dict[str, Any]:
        """What drawing reads: a change of anything else needs no new draws."""
        return self.model_dump(include=set(SamplingSettings.model_fields))

    def for_law(self) -> dict[str, Any]:
        """What computing the law reads; one draw stands for any number."""
        return self.model_dump(exclude=set(SamplingSettings.model_fields) - {"max_new_tokens"}) | {"draws": 1}

    def upstream(self) -> list[str]:
        """The rows of config/assets.yaml that its data come from."""
        return []

    def for_prompts(self) -> dict[str, Any]:
        """What choosing prompts reads; the least stands for how they are answered."""
        others = {*SamplingSettings.model_fields, *LawSettings.model_fields}
        return self.model_dump(exclude=others) | {"draws": 1, "max_new_tokens": 1}


class LawSettings(Settings):
    """How the law of answers is computed, without draws."""

    decimals: int = Field(default=5, ge=0, le=12, description="of the target lattice behind the trie KL")
    max_bins: int = Field(default=1001, ge=2)
    gap: float = Field(default=0.005, gt=0, description="where bounds on the law stop; see bounds.py")
    nodes: int = Field(default=4000, ge=1, description="where they stop at the latest: texts that were continued")


class StructuredBenchmark(SamplingSettings, LawSettings):
    """One random number per text; see benchmarks/structured.py."""

    prompts: Literal["selected", "all"] = "selected"


class OpenEndedBenchmark(SamplingSettings):
    """Random cities, names, …; see benchmarks/open_ended.py."""

    limit: int | None = Field(default=None, ge=1, description="only the first prompts")


class McqBenchmark(SamplingSettings):
    """Answer positions of generated questions; see benchmarks/mcq.py."""

    prompt: Literal["own", "paper"] = Field(default="own", description="our own prompt, or the paper's from upstream")

    def upstream(self) -> list[str]:
        return ["mcq_prompt"] if self.prompt == "paper" else []


class NoveltyBenchmark(SamplingSettings):
    """NoveltyBench v1.0: different and good answers; see benchmarks/novelty.py."""

    prompts: Literal["own", "upstream"] = Field(default="upstream", description="a few of our own, or the benchmark's")
    limit: int | None = Field(default=None, ge=1, description="only the first prompts of each split")

    def upstream(self) -> list[str]:
        return ["noveltybench_curated", "noveltybench_wildchat"] if self.prompts == "upstream" else []


class TinyBenchmarks(Settings):
    """What an adapter costs on five small task sets; see benchmarks/tinybenchmarks.py."""

    engine: Literal["transformers", "vllm"] = "transformers"
    data: Literal["upstream", "generated"] = Field(
        default="upstream", description="the published sets, or a few made-up items of the same form"
    )
    limit: int | None = Field(default=None, ge=1, description="only the first items of each task")
    max_new_tokens: int = Field(default=256, ge=1, description="of a GSM8K answer")
    extended: bool = Field(default=False, description="also the whole of GSM8K, and IFEval")

    def upstream(self) -> list[str]:
        whole = ["gsm8k", "ifeval"] if self.extended else []
        return [*TINY_SETS, *whole, "tinybenchmarks_irt"] if self.data == "upstream" else []


class PalomaBenchmark(Settings):
    """Perplexity on PALOMA's test split; see benchmarks/paloma.py."""

    data: str = Field(
        default="upstream", description="upstream, generated (a few made-up texts), or a folder SLICE/test/*.jsonl.gz"
    )
    slices: Annotated[list[str], Once] = Field(default=PALOMA_SLICES, min_length=1)
    context: int = Field(default=2048, ge=2, description="tokens of a window")
    stride: int = Field(default=1024, ge=1, description="tokens from one window to the next")
    limit: int | None = Field(default=None, ge=1, description="only the first documents of each file")

    def upstream(self) -> list[str]:
        return ["paloma"] if self.data == "upstream" else []

    @model_validator(mode="after")
    def _windows_touch(self) -> "PalomaBenchmark":
        if self.stride > self.context:
            raise ValueError(f"stride ({self.stride}) must not exceed context ({self.context})")
        return self


class Benchmarks(Settings):
    """The benchmarks of an experiment; leave one out and it is not run."""

    structured: StructuredBenchmark | None = None
    open_ended: OpenEndedBenchmark | None = None
    mcq: McqBenchmark | None = None
    novelty: NoveltyBenchmark | None = None
    tinybenchmarks: TinyBenchmarks | None = None
    paloma: PalomaBenchmark | None = None

    def chosen(self) -> dict[str, Any]:
        """The benchmarks that are run, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
