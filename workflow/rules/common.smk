# Helpers and wildcard constraints; no rule.
import json
import math
import os
import signal
from pathlib import Path

from snakemake.exceptions import WorkflowError

from cft import CftError, images, jobs, slurm
from cft.benchmark_settings import SamplingSettings
from cft.config import Experiment, Needs
from cft.settings import check
from cft.sources import families_version, upstream_version, version_of

# Slurm warns all processes of a job before its time is up; `cft finetune` acts on it, and this one must outlive it.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

try:
    experiment = check(Experiment, config, "configuration")
    IMAGES = images.read(experiment.images)
    # What jobs find around them: binds, caches. Those of the smoke test are the same.
    if workflow.modifier.is_main_snakefile():
        # Which executor will run is not known yet, but that `jobs` besides `cores` is for one that submits.
        here = workflow.remote_exec or workflow.resource_settings.nodes is None
        os.environ.update(jobs.environment(experiment, here, [workflow.deployment_settings.apptainer_prefix]))
except CftError as error:
    raise WorkflowError(str(error))

BENCHMARKS = experiment.benchmarks.chosen()
# Where the scorer of a benchmark finds what it scores: draws, judged draws, or measurements.
RAW = {"novelty": "judged", "tinybenchmarks": "retention", "paloma": "perplexity"}
SAMPLED = [name for name in BENCHMARKS if RAW.get(name) in (None, "judged")]
STRUCTURED = [name for name in BENCHMARKS if name == "structured"]
LAWS = [name for name in BENCHMARKS if name in ("structured", "open_ended")]
JUDGES = dict(experiment.judges or ())


def of_kind(*kinds):
    return [name for name, method in experiment.methods.items() if method.kind in kinds]


TUNED = of_kind("finetune")
PROMPTING = of_kind("ssot", "verbalised")
TEMPERATURES = of_kind("temperature")
INSTRUCTIONS = [f"results/instructions/{method}.json" for method in PROMPTING]  # also how to find the answers
ADAPTER = ["adapter_model.safetensors", "adapter_config.json"]


wildcard_constraints:
    model="|".join([*experiment.models, *JUDGES]),
    method="|".join(experiment.methods),
    benchmark="|".join(BENCHMARKS),
    seed=r"\d+",


def image(name):
    """The image of a job, which must be there if jobs run in images."""
    wanted = [str(method) for method in workflow.deployment_settings.deployment_method]
    try:
        if "apptainer" in wanted:
            IMAGES[name].present(name)
        return IMAGES[name].location(name)
    except CftError as error:
        raise WorkflowError(str(error))


def image_for(benchmarks):
    """The image that has the engines of some benchmarks."""
    engines = [getattr(BENCHMARKS[name], "engine", None) for name in benchmarks if name in BENCHMARKS]
    return image("sampling" if "vllm" in engines else "finetune")


def settings(value):
    """Settings as one word of a command line."""
    return json.dumps(value if isinstance(value, dict) else value.model_dump(mode="json"))


def settings_of_prompts(wildcards):
    """Settings of a benchmark that decide which prompts it has."""
    chosen = BENCHMARKS[wildcards.benchmark]
    return settings(chosen.for_prompts() if isinstance(chosen, SamplingSettings) else chosen)


def identity(wildcards):
    """The columns that say whose draws or law a file holds."""
    return json.dumps({"model": wildcards.model, "method": wildcards.method, "seed": int(wildcards.seed)})


def source(wildcards):
    """What a model or a judge is made from."""
    return (experiment.models | JUDGES)[wildcards.model].source_only()


def run_by(key):
    """A key of how a model is run: a resource of its jobs, as a change of it must not run them again."""
    return lambda wildcards: getattr(experiment.models[wildcards.model], key)


def training_settings(wildcards):
    """How an adapter of a model is trained: a resource too."""
    return settings(experiment.models[wildcards.model].training())


def vllm_settings(wildcards):
    """How vLLM runs a model: a resource too."""
    return settings(experiment.models[wildcards.model].on_vllm())


def needs(rule, what, times=lambda wildcards: 1):
    """Memory or time of a rule's jobs, growing with every attempt up to what the site gives: the experiment's table."""
    row = experiment.needs.get(rule) or experiment.needs.get("default") or Needs()
    most = getattr(experiment.largest_job, what) or math.inf
    return lambda wildcards, attempt: min(getattr(row, what) * times(wildcards) * attempt, most)


def families_of_benchmark(wildcards):
    """The version of the table of distributions, for the one benchmark that reads it."""
    return families_version(experiment.distributions) if wildcards.benchmark in STRUCTURED else ""


def families_trained_on(wildcards):
    """In place of the table as an input: a family that is added to evaluate on must not train anything again."""
    return families_version(experiment.distributions, trained_on=True)


def upstream_version_of(chosen):
    """In place of the table of upstream files as an input: a row that another benchmark reads must not draw anew."""
    return upstream_version(experiment.assets, tuple(chosen.upstream()))


def mirror_for(chosen):
    """Where upstream files come from, for what reads some."""
    return [f"--mirror={experiment.assets_mirror}"] if experiment.assets_mirror and chosen.upstream() else []


def adapter_files(wildcards):
    """The adapter of a run; nothing for a method without one."""
    folder = f"results/adapters/{wildcards.model}/{wildcards.method}/seed{wildcards.seed}"
    return [f"{folder}/{name}" for name in ADAPTER] if wildcards.method in TUNED else []


def adapter_option(wildcards, input):
    return f"--adapter {Path(input.adapter[0]).parent}" if input.adapter else ""


def instructions_file(wildcards):
    """What a prompting method tells the model before the question; nothing for another method."""
    return f"results/instructions/{wildcards.method}.json" if wildcards.method in PROMPTING else []


def temperature_file(wildcards):
    """The temperature that was fitted for a model; nothing for a method without one."""
    return f"results/temperatures/{wildcards.model}/{wildcards.method}.json" if wildcards.method in TEMPERATURES else []


def option(name, flag=None):
    """--FLAG FILE (by default --NAME FILE) where the job has such an input, else nothing."""
    return lambda wildcards, input: f"--{flag or name} {input[name]}" if input[name] else ""


def seeds_of(model, method, benchmark):
    """The seeds at which a method is evaluated: all where training or draws differ, else the first."""
    seeds = experiment.seeds_of(model)
    if method in TUNED or (method not in PROMPTING + TEMPERATURES and benchmark in SAMPLED):
        return seeds
    return seeds[:1]


def law_of(benchmark, model, method, seed):
    """The law behind scores; a method without adapter has the same law for every seed."""
    if benchmark not in LAWS or method in PROMPTING:
        return []
    seed = seed if method in TUNED else experiment.seeds_of(model)[0]
    return [f"results/laws/{benchmark}/{model}/{method}/seed{seed}.parquet"]


def law_file(wildcards):
    return law_of(wildcards.benchmark, wildcards.model, wildcards.method, wildcards.seed)


def raw_file(wildcards):
    """What a score file is made from."""
    kind = RAW.get(wildcards.benchmark, "samples")
    return f"results/{kind}/{wildcards.benchmark}/{wildcards.model}/{wildcards.method}/seed{wildcards.seed}.parquet"


def evaluations(benchmarks, only=None):
    """(benchmark, model, method, seed) of everything that is evaluated on some benchmarks, or of one model."""
    return [
        (benchmark, model, method, seed)
        for benchmark in benchmarks
        for model in (experiment.models if only is None else [only])
        for method in experiment.methods
        if experiment.runs(model, method, benchmark)
        for seed in seeds_of(model, method, benchmark)
    ]


def files_of(kind, benchmarks, model=None):
    """The files of one kind (samples, scores, judged, …) of some benchmarks, for all models, methods and seeds."""
    return [
        f"results/{kind}/{benchmark}/{model}/{method}/seed{seed}.parquet"
        for benchmark, model, method, seed in evaluations(benchmarks, model)
    ]


def laws_of(benchmarks, model):
    """The files of all laws of a model on some benchmarks, each once."""
    return list(dict.fromkeys(name for one in evaluations(benchmarks, model) for name in law_of(*one)))


def judged_or_measured():
    """The raw files of benchmarks that are more than draws."""
    return [name for benchmark in BENCHMARKS if benchmark in RAW for name in files_of(RAW[benchmark], [benchmark])]


def temperatures():
    """(model, method) of every fitted temperature."""
    return [(model, method) for model in experiment.models for method in TEMPERATURES if experiment.runs(model, method)]


def adapters():
    """(model, method, seed) of every adapter."""
    return [
        (model, method, seed)
        for model in experiment.models
        for method in TUNED
        if experiment.runs(model, method)
        for seed in experiment.seeds_of(model)
    ]


def repository(wildcards):
    """The repository of an adapter on the hub."""
    if experiment.hub is None:
        raise WorkflowError("nothing is pushed without the key `hub` in the configuration: config/README.md")
    return f"{experiment.hub.namespace}/{wildcards.model}-{wildcards.method}-seed{wildcards.seed}"


def everything():
    return [
        "results/scores.parquet",
        "results/claims.csv",
        *(f"results/tables/{name}.{kind}" for name in experiment.tables for kind in ("csv", "tex", "md")),
        *(f"results/figures/{name}.{kind}" for name in experiment.figures for kind in ("pdf", "svg", "png", "csv")),
        "results/report.html",
        *(f"results/pushed/{model}/{method}/seed{seed}.json" for model, method, seed in adapters() if experiment.hub),
    ]
