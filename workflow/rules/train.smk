# a model's source -> results/models/{model}
# model + data     -> results/adapters/{model}/{method}/seed{seed}
# model            -> results/temperatures/{model}/{method}.json


rule model:
    # Fetch, unpack or make a model, once.
    output:
        "results/models/{model}/model.json",
        "results/models/{model}/run.json",
    log:
        "results/logs/model/{model}.log",
    benchmark:
        "results/benchmarks/model/{model}.tsv"
    threads: experiment.threads
    resources:
        mem_mb=needs("model", "mem_mb"),
        runtime=needs("model", "runtime"),
    params:
        settings=lambda wildcards: settings(source(wildcards)),
        out=subpath(output[0], parent=True),
    shell:
        "cft model --settings {params.settings:q} --replace --out {params.out:q} 2> {log:q}"


rule finetune:
    # Train the adapter of a (model, method, seed).
    input:
        model="results/models/{model}/model.json",
        prompts="results/data/{method}/seed{seed}/prompts.parquet",
        examples="results/data/{method}/seed{seed}/examples.parquet",
    output:
        "results/adapters/{model}/{method}/seed{seed}/adapter_model.safetensors",
        "results/adapters/{model}/{method}/seed{seed}/adapter_config.json",
        "results/adapters/{model}/{method}/seed{seed}/train_log.csv",
        "results/adapters/{model}/{method}/seed{seed}/run.json",
    log:
        "results/logs/finetune/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/finetune/{model}/{method}/seed{seed}.tsv"
    threads: experiment.threads
    # How a job is run is a resource, as a change of it must not run the job again.
    resources:
        gpu=run_by("gpus"),
        training=training_settings,
        # Each of several processes reads the whole model first.
        mem_mb=needs("finetune", "mem_mb", times=run_by("processes")),
        runtime=needs("finetune", "runtime"),
    params:
        settings=lambda wildcards: settings(experiment.methods[wildcards.method]),
        model=subpath(input.model, parent=True),
        data=subpath(input.prompts, parent=True),
        out=subpath(output[0], parent=True),
    # This shell must outlive Slurm's warning, inside a container too.
    shell:
        "trap '' USR1; "
        "cft finetune --model {params.model:q} --data {params.data:q} --settings {params.settings:q} "
        "--seed {wildcards.seed} --training {resources.training:q} --threads {threads} --replace --out {params.out:q} 2> {log:q}"


rule temperature:
    # The temperature at which the untouched model is closest to the targets of training prompts.
    input:
        model="results/models/{model}/model.json",
        families=ancient(experiment.distributions),
    output:
        file="results/temperatures/{model}/{method}.json",
        run="results/temperatures/{model}/{method}.run.json",
    log:
        "results/logs/temperature/{model}/{method}.log",
    benchmark:
        "results/benchmarks/temperature/{model}/{method}.tsv"
    threads: experiment.threads
    resources:
        gpu=run_by("gpus"),
        cache_tokens=run_by("cache_tokens"),
        mem_mb=needs("temperature", "mem_mb"),
        runtime=needs("temperature", "runtime"),
    params:
        settings=lambda wildcards: settings(experiment.methods[wildcards.method]),
        families=families_trained_on,
        model=subpath(input.model, parent=True),
    shell:
        "cft temperature --settings {params.settings:q} --distributions {input.families:q} --model {params.model:q} "
        "--cache-tokens {resources.cache_tokens} --threads {threads} --out {output.file:q} 2> {log:q}"
