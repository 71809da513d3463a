"""Settings of models: what they are, how they are asked, how they are run."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cft.settings import Seeds, Settings
from cft.shapes import Shape

ARCHITECTURES = Literal["llama", "qwen3", "gemma3", "gemma3_vision", "gpt_oss", "deberta_v2", "gemma2"]

# YAML reads a date as such; files of settings hold its text.
Day = Annotated[str, BeforeValidator(lambda day: date.fromisoformat(str(day)).isoformat())]


class ChatSettings(Settings):
    """What a model's chat template is given besides the messages."""

    template_options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the template")
    answer_prefix: str = Field(default="", description="opened before the answer, such as gpt-oss's final channel")
    thinking_options: dict[str, Any] | None = Field(
        default=None, description="keyword arguments where a method lets the model think first; unset: as above"
    )
    instruction_role: Literal["system", "developer"] = Field(
        default="system", description="who gives the instructions of a prompting method"
    )
    today: Day = Field(
        default="2024-07-26",
        description="the date that a template writes (YYYY-MM-DD): prompts must not change overnight",
    )
    terminator: str | None = Field(default=None, description="the token that must end an answer; unset: not checked")
    end: Literal["template", "eos"] = Field(
        default="template",
        description="what ends an answer: the template's token, or as in the paper the tokenizer's eos",
    )

    def thinking(self) -> "ChatSettings":
        """The settings of a method that lets the model think: its own options, and no answer opened for it."""
        options = self.template_options if self.thinking_options is None else self.thinking_options
        return self.model_copy(update={"template_options": options, "answer_prefix": ""})


class ModelSource(Settings):
    """What a model is: a change of any key makes other results."""

    source: Literal["hub", "folder", "package", "tiny"]
    repo: str | None = Field(default=None, description="hub: owner/name")
    revision: str | None = Field(default=None, description="hub: commit, tag or branch")
    tokenizer: str | None = Field(default=None, description="hub: owner/name of its tokenizer, if repo has none")
    tokenizer_revision: str | None = Field(default=None, description="hub: commit, tag or branch of the tokenizer")
    path: str | None = Field(default=None, description="folder: where the model lies")
    package: str | None = Field(default=None, description="package: the installed package that carries a GGUF file")
    architecture: ARCHITECTURES | None = Field(default=None, description="tiny: which recipe")
    dtype: Literal["float32", "bfloat16", "float64"] = "bfloat16"
    chat: ChatSettings = ChatSettings()
    lora_scope: str | None = Field(
        default=None, description="the part of the model whose layers get adapters; unset: its language model"
    )

    @model_validator(mode="after")
    def _source_is_complete(self) -> "ModelSource":
        wanted = {"hub": "repo", "folder": "path", "package": "package", "tiny": "architecture"}[self.source]
        if getattr(self, wanted) is None:
            raise ValueError(f"source {self.source!r} needs the key {wanted!r}")
        return self

    def source_only(self) -> dict[str, Any]:
        """The keys that say what the model is."""
        return self.model_dump(include=set(ModelSource.model_fields))


class VllmSettings(Settings):
    """How vLLM runs a model."""

    tensor_parallel: int | None = Field(
        default=None, ge=1, description="GPUs that share the model; unset: the model's gpus"
    )
    memory: float = Field(default=0.9, gt=0, le=1, description="share of each GPU's memory")
    adapter: Literal["auto", "merge", "request"] = Field(
        default="auto", description="merge into a temporary checkpoint, or a LoRARequest; auto: merge where faster"
    )
    batch_invariant: bool = Field(default=False, description="kernels whose results do not depend on the batch (GPUs)")


class TrainingSettings(Settings):
    """How an adapter is trained: speed and memory, not the result but for rounding and the masks of dropout."""

    micro_batch: int = Field(default=32, ge=1, description="training values in one forward pass")
    processes: int = Field(default=1, ge=1, description="processes that train together, each with a GPU of its own")
    sharding: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="what each of them holds: the whole model, or a share of its weights"
    )
    gradient_checkpointing: bool = Field(default=False, description="compute activations twice, to save memory")
    loaders: Literal[0, 1] = Field(default=0, description="processes that prepare batches ahead of training")


class ModelSettings(ModelSource, TrainingSettings):
    """A model, and how it is run: the keys below change speed and memory, not the experiment."""

    cache_tokens: int = Field(
        default=65536, ge=1, description="tokens of key-value cache while drawing or measuring the law"
    )
    window_tokens: int = Field(default=16384, ge=1, description="tokens of perplexity windows in one forward pass")
    vllm: VllmSettings = VllmSettings()
    gpus: int = Field(default=1, ge=0, description="GPUs that a job of this model asks for; 0: it runs on a processor")
    seeds: Seeds | None = Field(default=None, description="replaces the experiment's seeds for this model")
    methods: list[str] | None = Field(default=None, description="the methods it is run with; unset: all")
    benchmarks: list[str] | None = Field(default=None, description="the benchmarks it is measured on; unset: all")
    shape: Shape | None = Field(default=None, description="its sizes, for the plan")
    licence: str | None = Field(default=None, description="its licence, for the plan")
    gated: bool = Field(default=False, description="whether the hub asks for its licence to be accepted")

    def on_vllm(self) -> VllmSettings:
        """How vLLM runs it in a job, which may see more GPUs than it asked for where no scheduler hides them."""
        return self.vllm.model_copy(update={"tensor_parallel": self.vllm.tensor_parallel or max(1, self.gpus)})

    def training(self) -> TrainingSettings:
        return TrainingSettings.model_validate(self.model_dump(include=set(TrainingSettings.model_fields)))

    @model_validator(mode="after")
    def _has_gpus_to_train_on(self) -> "ModelSettings":
        if self.gpus and self.processes > self.gpus:
            raise ValueError(f"processes ({self.processes}) is more than gpus ({self.gpus})")
        return self


class JudgeSettings(ModelSource):
    """A model that judges texts, and how it is run."""

    batch_tokens: int = Field(default=16384, ge=1, description="tokens, padding included, in one forward pass")


class Judges(Settings):
    """The two judges of NoveltyBench."""

    similarity: JudgeSettings = Field(description="sequence classifier: are two answers functionally the same?")
    reward: JudgeSettings = Field(description="sequence classifier with one output: how good is an answer?")
