# a model's source -> results/models/{model}
# model + data     -> results/adapters/{model}/{method}/seed{seed}


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
    params:
        settings=lambda wildcards: settings(experiment.models[wildcards.model].source_only()),
        out=subpath(output[0], parent=True),
    shell:
        "cft model --settings {params.settings:q} --out {params.out:q} 2> {log:q}"


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
        gpu=gpus,
        micro_batch=lambda wildcards: experiment.models[wildcards.model].micro_batch,
    params:
        settings=lambda wildcards: settings(experiment.methods[wildcards.method]),
        model=subpath(input.model, parent=True),
        data=subpath(input.prompts, parent=True),
        out=subpath(output[0], parent=True),
    shell:
        "cft finetune --model {params.model:q} --data {params.data:q} --settings {params.settings:q} "
        "--seed {wildcards.seed} --micro-batch {resources.micro_batch} --threads {threads} --out {params.out:q} 2> {log:q}"
