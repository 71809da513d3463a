"""What models and jobs take beside time: memory of a GPU, disk, downloads."""

from cft.config import Experiment
from cft.costs import GB, Costs
from cft.estimates import Job, answer_tokens, counted, prompts_of
from cft.memory import MicroBatch, reading_bytes, sampling_bytes, training_bytes
from cft.method_settings import FinetuneMethod
from cft.model_settings import JudgeSettings, ModelSettings
from cft.shapes import BYTES


def judges(experiment: Experiment) -> dict[str, JudgeSettings]:
    """The models that judge, by name."""
    return dict(experiment.judges or ())


def download_gb(costs: Costs, source: ModelSettings | JudgeSettings, experiment: Experiment) -> float | None:
    """GB of a hub repository's weights; None where its size is not known, 0 where nothing is downloaded."""
    if source.source != "hub":
        return 0.0
    if source.repo in costs.downloads.files:
        return costs.downloads.files[source.repo]
    if isinstance(source, ModelSettings):
        return None if source.shape is None else source.shape.weight_bytes("bfloat16") / GB
    name = next(name for name, judge in judges(experiment).items() if judge == source)
    return getattr(costs.judges, name).parameters_b * 2


def micro_batch(costs: Costs, model: ModelSettings, method: FinetuneMethod) -> MicroBatch:
    """The largest micro-batch of a training run."""
    values = min(model.micro_batch, method.batch_size)
    prompts = -(-values // method.draws_per_prompt)
    return MicroBatch(prompts, costs.tokens.longest_prompt, values, costs.tokens.longest_value)


def training_peak(costs: Costs, model: ModelSettings, method: FinetuneMethod) -> int:
    """Bytes of a GPU that trains a model with a shape, without the reserve."""
    assert model.shape is not None
    return training_bytes(
        model.shape,
        model.dtype,
        micro_batch(costs, model, method),
        method.lora.rank,
        method.lora.targets,
        adapter_dtype(model, method),
        model.gradient_checkpointing,
        model.processes if model.sharding == "fsdp" else 1,
    )


def adapter_dtype(model: ModelSettings, method: FinetuneMethod) -> str:
    return "float32" if method.lora.dtype == "float32" else model.dtype


def sampling_peak(costs: Costs, model: ModelSettings) -> int:
    """Bytes of a GPU that draws with transformers, without the reserve."""
    assert model.shape is not None
    length = costs.tokens.longest_prompt + costs.tokens.longest_value
    return sampling_bytes(model.shape, model.dtype, model.cache_tokens, max(1, model.cache_tokens // length))


def peak_bytes(rule: str, job: Job) -> float:
    """What a job takes of one GPU, without the reserve."""
    costs, model = job.costs, job.model
    method = job.experiment.methods.get(job.method)
    if rule == "finetune" and isinstance(method, FinetuneMethod):
        return training_peak(costs, model, method)
    if rule == "perplexity":
        return reading_bytes(job.shape, model.dtype, model.window_tokens)
    if rule == "judge":
        return costs.judges.reward.parameters_b * 2 * GB
    name = "tinybenchmarks" if rule == "retention" else job.benchmark
    engine = getattr(job.experiment.benchmarks.chosen().get(name), "engine", "transformers")
    if engine == "vllm" and rule in ("sample", "retention"):
        return model.vllm.memory * costs.gpu.memory_gb * GB - costs.gpu.reserve_gb * GB
    return sampling_peak(costs, model)


def disk_bytes(rule: str, job: Job) -> float | None:
    """What stays of a job on disk but files of less than a few MB; None where its benchmark is not counted."""
    method = job.experiment.methods.get(job.method)
    if rule == "finetune" and isinstance(method, FinetuneMethod):
        return job.shape.trainable(method.lora.rank, method.lora.targets) * BYTES[adapter_dtype(job.model, method)]
    if rule in ("sample", "judge"):
        job = job._replace(benchmark="novelty") if rule == "judge" else job
        draws = job.experiment.benchmarks.chosen()[job.benchmark].draws
        if not counted(job):
            return None
        return prompts_of(job) * draws * answer_tokens(job) * job.costs.tokens.bytes
    if rule == "law" and job.benchmark == "structured":
        return prompts_of(job) * job.experiment.benchmarks.chosen()["structured"].max_bins * job.costs.law.bytes
    return 0.0


def model_rows(experiment: Experiment, costs: Costs) -> list[list[str]]:
    """For each model what `cft models` prints; a dash where a model has no shape or the experiment trains nothing."""
    methods = [method for method in experiment.methods.values() if isinstance(method, FinetuneMethod)]
    reserve = costs.gpu.reserve_gb
    rows = []
    for name, model in experiment.models.items():
        shape, sizes = model.shape, ["-"] * 5
        if shape is not None:
            adapter = max((shape.trainable(m.lora.rank, m.lora.targets) for m in methods), default=None)
            training = max((training_peak(costs, model, m) for m in methods), default=None)
            sizes = [
                f"{shape.parameters / 1e9:.2f}",
                "-" if adapter is None else f"{adapter / 1e6:.1f}",
                f"{shape.weight_bytes(model.dtype) / GB:.1f}",
                "-" if training is None else f"{training / GB + reserve:.1f}",
                f"{sampling_peak(costs, model) / GB + reserve:.1f}",
            ]
        parameters, adapter, *memory = sizes
        licence = (model.licence or "-") + (", gated" if model.gated else "")
        terminator = model.chat.terminator or "-"
        rows.append(
            [model.repo or model.path or model.package or name, (model.revision or "-")[:12], model.dtype, parameters,
             adapter, licence, terminator, str(model.gpus), str(model.micro_batch), *memory]
        )  # fmt: skip
    return rows


def too_large(experiment: Experiment, costs: Costs) -> list[str]:
    """A line for each model that one GPU of the table has no room for, with what would help."""
    methods = [method for method in experiment.methods.values() if isinstance(method, FinetuneMethod)]
    reserve, whole = costs.gpu.reserve_gb, costs.gpu.memory_gb
    lines = []
    for name, model in experiment.models.items():
        if model.shape is None or not model.gpus:
            continue

        def training(model: ModelSettings = model, **changed: object) -> float:
            changed_model = model.model_copy(update=changed)
            return max((training_peak(costs, changed_model, method) / GB + reserve for method in methods), default=0)

        if training() > whole:
            fitting = [values for values in range(1, model.micro_batch) if training(micro_batch=values) <= whole]
            lines.append(
                f"{name}: training needs up to {training():.1f} GB of {whole:g}. Largest micro_batch that fits: "
                f"{max(fitting, default='none')}. With gradient_checkpointing: "
                f"{training(gradient_checkpointing=True):.1f} GB. Or share it: processes, sharding: fsdp"
            )
        sampling = sampling_peak(costs, model) / GB + reserve
        if sampling > whole:
            lines.append(f"{name}: transformers needs up to {sampling:.1f} GB of {whole:g}: lower cache_tokens")
    return lines
