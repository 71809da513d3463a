"""What the plan assumes of machines and texts: config/costs.yaml, whose comments say what the keys mean."""

from pathlib import Path

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from cft.benchmark_settings import Benchmarks
from cft.settings import Settings, check, read_yaml

GB = 1e9


class Part(Settings):
    source: str = Field(min_length=1, description="where the figures come from")


class Gpu(Part):
    name: str
    tflops: PositiveFloat
    bandwidth_tb_s: PositiveFloat
    memory_gb: PositiveFloat
    reserve_gb: float = Field(ge=0)


class Reached(Part):
    training: float = Field(gt=0, le=1)
    prefill: float = Field(gt=0, le=1)
    decoding: float = Field(gt=0, le=1)


class Overhead(Part):
    layer_ms: float = Field(ge=0)
    step_ms: float = Field(ge=0)
    start_s: float = Field(ge=0)
    vllm_start_s: float = Field(ge=0)
    load_gb_s: PositiveFloat
    rows: PositiveInt


class Prompts(Part):
    """How many prompts there are; besides these keys, those of a benchmark under its name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PositiveInt] = Field(init=False)

    train: PositiveInt
    selected: PositiveInt
    all: PositiveInt
    own: PositiveInt
    families: PositiveInt

    @model_validator(mode="after")
    def _names_are_of_benchmarks(self) -> "Prompts":
        unknown = sorted(set(self.__pydantic_extra__) - set(Benchmarks.model_fields))
        if unknown:
            raise ValueError(f"unknown key {', '.join(unknown)}; it is no benchmark")
        return self


class Tokens(Part):
    prompt: dict[str, PositiveInt]
    longest_prompt: PositiveInt
    value: PositiveInt
    longest_value: PositiveInt
    answer: dict[str, PositiveInt]
    bytes: PositiveFloat


class Law(Part):
    values: PositiveInt
    tokens: PositiveInt
    bounds: PositiveInt
    levels: PositiveInt
    bytes: PositiveInt


class Retention(Part):
    items: PositiveInt
    tokens: PositiveInt
    written: PositiveInt
    answer: PositiveInt


class Paloma(Part):
    slices: dict[str, PositiveInt]
    download_gb: PositiveFloat


class JudgeCost(Settings):
    parameters_b: PositiveFloat
    tokens: PositiveInt
    pairs: PositiveInt


class JudgeCosts(Part):
    similarity: JudgeCost
    reward: JudgeCost


class Downloads(Part):
    files: dict[str, PositiveFloat]


class Costs(Settings):
    """The whole table."""

    gpu: Gpu
    reached: Reached
    overhead: Overhead
    prompts: Prompts
    tokens: Tokens
    law: Law
    retention: Retention
    paloma: Paloma
    judges: JudgeCosts
    downloads: Downloads


def read_costs(path: Path) -> Costs:
    """The table; raises CftError naming each key that is unknown or missing."""
    return check(Costs, read_yaml(path), str(path))
