# Helpers and wildcard constraints; no rule.
import json
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

from cft import CftError, images, jobs, slurm
from cft.config import Experiment
from cft.settings import check

try:
    experiment = check(Experiment, config, "configuration")
    IMAGES = images.read(experiment.images)
    # What jobs find around them: binds, caches. Those of the smoke test are the same.
    if workflow.modifier.is_main_snakefile():
        here = workflow.local_exec and not workflow.dryrun
        os.environ.update(jobs.environment(experiment, here, [workflow.deployment_settings.apptainer_prefix]))
except CftError as error:
    raise WorkflowError(str(error))

BENCHMARKS = experiment.benchmarks.chosen()
LAWS = [name for name in BENCHMARKS if name != "mcq"]
TUNED = [name for name, method in experiment.methods.items() if method.kind == "finetune"]
SAMPLER = "sampling" if any(each.engine == "vllm" for each in BENCHMARKS.values()) else "finetune"
ADAPTER = ["adapter_model.safetensors", "adapter_config.json"]


wildcard_constraints:
    model="|".join(experiment.models),
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


def settings(value):
    """Settings as one word of a command line."""
    return json.dumps(value if isinstance(value, dict) else value.model_dump(mode="json"))


def identity(wildcards):
    """The columns that say whose draws or law a file holds."""
    return json.dumps({"model": wildcards.model, "method": wildcards.method, "seed": int(wildcards.seed)})


def gpus(wildcards):
    return experiment.models[wildcards.model].gpus


def adapter_files(wildcards):
    """The adapter of a run; nothing for a method without one."""
    folder = f"results/adapters/{wildcards.model}/{wildcards.method}/seed{wildcards.seed}"
    return [f"{folder}/{name}" for name in ADAPTER] if wildcards.method in TUNED else []


def adapter_option(wildcards, input):
    return f"--adapter {Path(input.adapter[0]).parent}" if input.adapter else ""


def law_file(wildcards):
    """The law behind a score file; a method without adapter has the same law for every seed."""
    if wildcards.benchmark not in LAWS:
        return []
    seed = wildcards.seed if wildcards.method in TUNED else experiment.seeds_of(wildcards.model)[0]
    return f"results/laws/{wildcards.benchmark}/{wildcards.model}/{wildcards.method}/seed{seed}.parquet"


def runs(pattern, methods=experiment.methods):
    """`pattern` for every (model, method, seed) of the experiment."""
    return [
        pattern.format(model=model, method=method, seed=seed)
        for model in experiment.models
        for method in methods
        for seed in experiment.seeds_of(model)
    ]


def files_of(kind, benchmarks):
    """The files of draws (samples) or scores of some benchmarks."""
    return [
        name
        for benchmark in benchmarks
        for name in runs(f"results/{kind}/{benchmark}/{{model}}/{{method}}/seed{{seed}}.parquet")
    ]


def everything():
    return [
        "results/scores.parquet",
        *(f"results/tables/{name}.{kind}" for name in experiment.tables for kind in ("csv", "tex", "md")),
        *(f"results/figures/{name}.{kind}" for name in experiment.figures for kind in ("pdf", "png", "csv")),
        "results/report.html",
    ]
