"""Settings of methods: nothing, an adapter, other prompts, another temperature."""

from typing import Annotated, Literal, assert_never

from pydantic import Field, model_validator

from cft.settings import Settings

PROMPTABLE = Literal["structured", "open_ended"]
SSOT_TASKS = {"structured": "numeric", "open_ended": "open"}
INSTRUCTION_ROLES = ("system", "developer")


class LoraSettings(Settings):
    """The adapter (arXiv 2605.11845)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: list[str] = Field(default=["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    dtype: Literal["weights", "float32"] = Field(
        default="weights", description="of the adapter: the model's, or float32"
    )


class BaseMethod(Settings):
    """A method without an adapter: the untouched model."""

    kind: Literal["base"]


class FinetuneMethod(Settings):
    """A method that trains an adapter. Defaults are the paper's where both of its methods share them."""

    kind: Literal["finetune"]
    labels: Literal["law", "draw", "mixed"] = Field(
        description="law: soft targets from the trie; draw: the drawn token; mixed: both, by law_weight"
    )
    law_weight: float = Field(default=0.5, gt=0, lt=1, description="mixed labels: the law's share of a label")
    average: Literal["value", "token"] = Field(
        description="mean over a value's tokens, then values; or over all tokens"
    )
    max_bins: int = Field(ge=2, description="most values in a target's support")
    decimals: int = Field(default=5, ge=0, le=12)
    epochs: int = Field(ge=1)
    draws: int = Field(ge=1, description="values drawn per prompt and epoch")
    draws_per_prompt: int = Field(
        1, ge=1, description="how many values of a prompt travel together; 1 is the paper's order"
    )
    batch_size: int = Field(default=32, ge=1, description="values per optimiser step, whatever the micro-batch")
    max_steps: int | None = Field(default=None, ge=1, description="stop after so many steps (the paper: no limit)")
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of the steps")
    temperature: float = Field(default=1.0, gt=0, description="tau of the soft loss")
    save_every: int = Field(default=50, ge=1, description="steps between checkpoints")
    lora: LoraSettings = LoraSettings()

    @property
    def needs_laws(self) -> bool:
        """Whether labels are made of the target's law, not of the drawn value alone."""
        match self.labels:
            case "law" | "mixed":
                return True
            case "draw":
                return False
        assert_never(self.labels)

    @model_validator(mode="after")
    def _groups_fill_batches(self) -> "FinetuneMethod":
        for name in ("draws", "batch_size"):
            if getattr(self, name) % self.draws_per_prompt:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of draws_per_prompt")
        return self


class SsotMethod(Settings):
    """String Seed of Thought: the model writes a random string, reasons from it and answers (arXiv 2510.21150)."""

    kind: Literal["ssot"]
    benchmarks: list[PROMPTABLE] = Field(default=["structured", "open_ended"], min_length=1)
    instructions: Literal["own", "paper"] = Field(default="own", description="our own, or the paper's")
    max_new_tokens: int = Field(default=4096, ge=1, description="replaces the benchmark's")

    def upstream(self) -> list[str]:
        """The rows of config/assets.yaml that its instructions come from."""
        tasks = [SSOT_TASKS[name] for name in self.benchmarks] if self.instructions == "paper" else []
        return [f"ssot_{task}_{role}" for task in tasks for role in INSTRUCTION_ROLES]


class VerbalisedMethod(Settings):
    """Verbalised sampling: the model lists values with probabilities, and one is drawn (arXiv 2510.01171)."""

    kind: Literal["verbalised"]
    benchmarks: list[PROMPTABLE] = Field(default=["structured", "open_ended"], min_length=1)
    values: int = Field(default=5, ge=2, description="how many values the model is asked to list")
    max_new_tokens: int = Field(default=512, ge=1, description="replaces the benchmark's")

    def upstream(self) -> list[str]:
        return []


class TemperatureMethod(Settings):
    """The untouched model at the temperature at which its law is closest to the targets of training prompts."""

    kind: Literal["temperature"]
    benchmarks: list[PROMPTABLE] = Field(default=["structured", "open_ended"], min_length=1)
    prompts_per_family: int = Field(default=2, ge=1, description="training prompts of each family it is fitted on")
    lowest: float = Field(default=0.2, ge=0.01)
    highest: float = Field(default=5.0, gt=0)
    decimals: int = Field(default=5, ge=0, le=12, description="of the targets it is fitted on")
    max_bins: int = Field(default=1001, ge=2)

    @model_validator(mode="after")
    def _range_is_one(self) -> "TemperatureMethod":
        if self.lowest >= self.highest:
            raise ValueError(f"lowest ({self.lowest}) must be below highest ({self.highest})")
        return self


PromptingMethod = SsotMethod | VerbalisedMethod
Method = Annotated[
    BaseMethod | FinetuneMethod | SsotMethod | VerbalisedMethod | TemperatureMethod, Field(discriminator="kind")
]
