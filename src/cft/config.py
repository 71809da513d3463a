"""The YAML files as typed settings: every key is known, every value checked before a job starts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cft.settings import Settings, check, read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ChatSettings(Settings):
    """What a model's chat template is given besides the messages."""

    template_options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the template")
    answer_prefix: str = Field(default="", description="opened before the answer, such as gpt-oss's final channel")


class ModelSource(Settings):
    """What a model is: a change of any key makes other results."""

    source: Literal["hub", "folder", "package", "tiny"]
    repo: str | None = Field(default=None, description="hub: owner/name")
    revision: str | None = Field(default=None, description="hub: commit, tag or branch")
    path: str | None = Field(default=None, description="folder: where the model lies")
    package: str | None = Field(default=None, description="package: the installed package that carries a GGUF file")
    architecture: Literal["llama", "qwen3", "gemma3", "gpt_oss"] | None = Field(
        default=None, description="tiny: which recipe"
    )
    dtype: Literal["float32", "bfloat16", "float64"] = "bfloat16"
    chat: ChatSettings = ChatSettings()

    @model_validator(mode="after")
    def _source_is_complete(self) -> "ModelSource":
        wanted = {"hub": "repo", "folder": "path", "package": "package", "tiny": "architecture"}[self.source]
        if getattr(self, wanted) is None:
            raise ValueError(f"source {self.source!r} needs the key {wanted!r}")
        return self


class VllmSettings(Settings):
    """How vLLM runs a model."""

    tensor_parallel: int | None = Field(default=None, ge=1, description="GPUs that share the model; unset: all visible")
    memory: float = Field(default=0.9, gt=0, le=1, description="share of each GPU's memory")
    adapter: Literal["auto", "merge", "request"] = Field(
        default="auto", description="merge into a temporary checkpoint, or a LoRARequest; auto: merge where faster"
    )
    batch_invariant: bool = Field(default=False, description="kernels whose results do not depend on the batch (GPUs)")


class ModelSettings(ModelSource):
    """A model, and how it is run: the keys below change speed and memory, not the experiment."""

    micro_batch: int = Field(default=32, ge=1, description="training values in one forward pass")
    cache_tokens: int = Field(
        default=65536, ge=1, description="tokens of key-value cache while drawing or measuring the law"
    )
    vllm: VllmSettings = VllmSettings()
    gpus: int = Field(default=1, ge=0, description="GPUs that a job of this model asks for; 0: it runs on a processor")
    seeds: list[int] | None = Field(default=None, description="replaces the experiment's seeds for this model")

    def source_only(self) -> dict[str, Any]:
        """The keys that say what the model is."""
        return self.model_dump(include=set(ModelSource.model_fields))


class LoraSettings(Settings):
    """The adapter (paper section 3)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = 32
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: list[str] = Field(default=["q_proj", "k_proj", "v_proj", "o_proj"])


class BaseMethod(Settings):
    """A method without an adapter: the untouched model."""

    kind: Literal["base"]


class FinetuneMethod(Settings):
    """A method that trains an adapter. Defaults are the paper's where both of its methods share them."""

    kind: Literal["finetune"]
    labels: Literal["law", "draw"] = Field(description="law: soft targets from the trie; draw: the drawn token")
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

    @model_validator(mode="after")
    def _groups_fill_batches(self) -> "FinetuneMethod":
        for name in ("draws", "batch_size"):
            if getattr(self, name) % self.draws_per_prompt:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of draws_per_prompt")
        return self


Method = Annotated[BaseMethod | FinetuneMethod, Field(discriminator="kind")]


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


class StructuredBenchmark(SamplingSettings):
    """One random number per text; see benchmarks/structured.py."""

    prompts: Literal["selected", "all"] = "selected"
    decimals: int = Field(default=5, ge=0, le=12, description="of the target lattice behind the trie KL")
    max_bins: int = Field(default=1001, ge=2)


class OpenEndedBenchmark(SamplingSettings):
    """Random cities, names, …; see benchmarks/open_ended.py."""

    limit: int | None = Field(default=None, ge=1, description="only the first prompts")


class McqBenchmark(SamplingSettings):
    """Answer positions of generated questions; see benchmarks/mcq.py."""

    prompt: Literal["own", "paper"] = Field(default="own", description="our own prompt, or the paper's from upstream")


class Benchmarks(Settings):
    """The benchmarks of an experiment; leave one out and it is not run."""

    structured: StructuredBenchmark | None = None
    open_ended: OpenEndedBenchmark | None = None
    mcq: McqBenchmark | None = None

    def chosen(self) -> dict[str, SamplingSettings]:
        """The benchmarks that are run, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}


class TableSettings(Settings):
    """What a table reads; tables/NAME.py makes it."""

    scores: list[str] = Field(description="benchmarks")


class FigureSettings(Settings):
    """What a figure reads; figures/NAME.py draws it."""

    scores: list[str] = Field(default=[], description="benchmarks whose scores it shows")
    draws: list[str] = Field(default=[], description="benchmarks whose draws it shows")
    tokenizer: bool = Field(default=False, description="whether it needs the first model's tokenizer")


class Experiment(Settings):
    """One configuration file: everything that is run."""

    title: str
    models: dict[Name, ModelSettings] = Field(min_length=1)
    methods: dict[Name, Method] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    benchmarks: Benchmarks
    tables: dict[Name, TableSettings] = Field(default={})
    figures: dict[Name, FigureSettings] = Field(default={})
    images: str = Field(default="containers/images.yaml", description="images of jobs under --sdm apptainer")
    cache: str | None = Field(
        default=None, description="folder of downloads and compiled kernels; $VARIABLES are those of a job's machine"
    )
    threads: int = Field(default=2, ge=1, description="processor threads of a job that runs a model")
    distributions: str = "config/distributions.yaml"
    assets: str = "config/assets.yaml"
    assets_mirror: str | None = Field(default=None, description="a local folder that holds the upstream files")

    @model_validator(mode="after")
    def _shows_what_is_run(self) -> "Experiment":
        run = set(self.benchmarks.chosen())
        for name, shown in {**self.tables, **self.figures}.items():
            missing = {*shown.scores, *getattr(shown, "draws", ())} - run
            if missing:
                raise ValueError(f"{name} shows {', '.join(sorted(missing))}, which benchmarks does not run")
        return self

    def seeds_of(self, model: str) -> list[int]:
        return self.models[model].seeds or self.seeds


def load(path: Path | str) -> Experiment:
    """An experiment's configuration file."""
    return check(Experiment, read_yaml(path), str(path))


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors."""
    return Experiment.model_json_schema()
