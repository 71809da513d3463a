# model, adapter, prompts -> results/samples/{benchmark}/{model}/{method}/seed{seed}.parquet   draws
#                         -> results/laws/{benchmark}/{model}/{method}/seed{seed}.parquet      no draws
# draws and law           -> results/scores/{benchmark}/{model}/{method}/seed{seed}.parquet    on a processor, in seconds


rule sample:
    # Draw texts; sampling seeds are those of training, and the same for every method.
    input:
        prompts="results/prompts/{benchmark}.parquet",
        model="results/models/{model}/model.json",
        adapter=adapter_files,
    output:
        file="results/samples/{benchmark}/{model}/{method}/seed{seed}.parquet",
        run="results/samples/{benchmark}/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/sample/{benchmark}/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/sample/{benchmark}/{model}/{method}/seed{seed}.tsv"
    container:
        image(SAMPLER)
    threads: experiment.threads
    resources:
        gpu=gpus,
        cache_tokens=lambda wildcards: experiment.models[wildcards.model].cache_tokens,
        vllm=lambda wildcards: settings(experiment.models[wildcards.model].vllm),
    params:
        settings=lambda wildcards: settings(BENCHMARKS[wildcards.benchmark]),
        identity=identity,
        adapter=adapter_option,
        model=subpath(input.model, parent=True),
    shell:
        "cft sample {wildcards.benchmark} --settings {params.settings:q} --prompts {input.prompts:q} "
        "--model {params.model:q} {params.adapter} --identity {params.identity:q} --seed {wildcards.seed} "
        "--cache-tokens {resources.cache_tokens} --vllm {resources.vllm:q} --threads {threads} "
        "--out {output.file:q} 2> {log:q}"


rule law:
    # The model's own law on the targets, exactly.
    input:
        prompts="results/prompts/{benchmark}.parquet",
        families=experiment.distributions,
        model="results/models/{model}/model.json",
        adapter=adapter_files,
    output:
        file="results/laws/{benchmark}/{model}/{method}/seed{seed}.parquet",
        run="results/laws/{benchmark}/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/law/{benchmark}/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/law/{benchmark}/{model}/{method}/seed{seed}.tsv"
    threads: experiment.threads
    resources:
        gpu=gpus,
        cache_tokens=lambda wildcards: experiment.models[wildcards.model].cache_tokens,
    params:
        settings=lambda wildcards: settings(BENCHMARKS[wildcards.benchmark]),
        identity=identity,
        adapter=adapter_option,
        model=subpath(input.model, parent=True),
    shell:
        "cft law {wildcards.benchmark} --settings {params.settings:q} --prompts {input.prompts:q} "
        "--distributions {input.families:q} --model {params.model:q} {params.adapter} --identity {params.identity:q} "
        "--cache-tokens {resources.cache_tokens} --threads {threads} --out {output.file:q} 2> {log:q}"


rule score:
    # Draws and law -> tidy scores.
    input:
        draws="results/samples/{benchmark}/{model}/{method}/seed{seed}.parquet",
        law=law_file,
        families=experiment.distributions,
        code="src/cft/benchmarks/{benchmark}.py",
    output:
        "results/scores/{benchmark}/{model}/{method}/seed{seed}.parquet",
    log:
        "results/logs/score/{benchmark}/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/score/{benchmark}/{model}/{method}/seed{seed}.tsv"
    group:
        "score_{model}"
    resources:
        slots=1,
    params:
        law=lambda wildcards, input: f"--law {input.law}" if input.law else "",
    shell:
        "cft score {wildcards.benchmark} {input.draws:q} {params.law} --distributions {input.families:q} "
        "--out {output:q} 2> {log:q}"
