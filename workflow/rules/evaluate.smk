# model, adapter, prompts -> results/samples/{benchmark}/{model}/{method}/seed{seed}.parquet      draws
#                         -> results/laws/{benchmark}/{model}/{method}/seed{seed}.parquet         no draws
# draws, two judges       -> results/judged/novelty/{model}/{method}/seed{seed}.parquet
# model, adapter          -> results/retention/tinybenchmarks/…, results/perplexity/paloma/…      what an adapter costs
# all of these            -> results/scores/{benchmark}/{model}/{method}/seed{seed}.parquet       a processor, seconds


rule sample:
    # Draw texts; sampling seeds are those of training, and the same for every method.
    input:
        prompts="results/prompts/{benchmark}.parquet",
        model="results/models/{model}/model.json",
        adapter=adapter_files,
        instructions=instructions_file,
        temperature=temperature_file,
    output:
        file="results/samples/{benchmark}/{model}/{method}/seed{seed}.parquet",
        run="results/samples/{benchmark}/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/sample/{benchmark}/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/sample/{benchmark}/{model}/{method}/seed{seed}.tsv"
    container:
        image_for(SAMPLED)
    threads: experiment.threads
    resources:
        gpu=run_by("gpus"),
        cache_tokens=run_by("cache_tokens"),
        vllm=vllm_settings,
        mem_mb=needs("sample", "mem_mb"),
        runtime=needs("sample", "runtime"),
    params:
        settings=lambda wildcards: settings(BENCHMARKS[wildcards.benchmark].for_draws()),
        identity=identity,
        adapter=adapter_option,
        instructions=option("instructions"),
        temperature=option("temperature", "temperature-of"),
        model=subpath(input.model, parent=True),
    shell:
        "cft sample {wildcards.benchmark} --settings {params.settings:q} --prompts {input.prompts:q} "
        "--model {params.model:q} {params.adapter} {params.instructions} {params.temperature} "
        "--identity {params.identity:q} --seed {wildcards.seed} --cache-tokens {resources.cache_tokens} "
        "--vllm {resources.vllm:q} --threads {threads} --out {output.file:q} 2> {log:q}"


rule law:
    # The model's own law on the targets, exactly.
    input:
        prompts="results/prompts/{benchmark}.parquet",
        families=ancient(experiment.distributions),
        model="results/models/{model}/model.json",
        adapter=adapter_files,
        temperature=temperature_file,
    output:
        file="results/laws/{benchmark}/{model}/{method}/seed{seed}.parquet",
        run="results/laws/{benchmark}/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/law/{benchmark}/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/law/{benchmark}/{model}/{method}/seed{seed}.tsv"
    group:
        "law_{benchmark}_{model}"
    threads: experiment.threads
    resources:
        gpu=run_by("gpus"),
        alone=1,
        cache_tokens=run_by("cache_tokens"),
        mem_mb=needs("law", "mem_mb"),
        runtime=needs("law", "runtime"),
    params:
        settings=lambda wildcards: settings(BENCHMARKS[wildcards.benchmark].for_law()),
        identity=identity,
        adapter=adapter_option,
        temperature=option("temperature", "temperature-of"),
        families=families_of_benchmark,
        model=subpath(input.model, parent=True),
    shell:
        "cft law {wildcards.benchmark} --settings {params.settings:q} --prompts {input.prompts:q} "
        "--distributions {input.families:q} --model {params.model:q} {params.adapter} {params.temperature} "
        "--identity {params.identity:q} --cache-tokens {resources.cache_tokens} --threads {threads} "
        "--out {output.file:q} 2> {log:q}"


rule judge:
    # Which of a prompt's answers say the same, and how good each is.
    input:
        draws="results/samples/novelty/{model}/{method}/seed{seed}.parquet",
        prompts="results/prompts/novelty.parquet",
        similarity="results/models/similarity/model.json",
        reward="results/models/reward/model.json",
    output:
        file="results/judged/novelty/{model}/{method}/seed{seed}.parquet",
        run="results/judged/novelty/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/judge/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/judge/{model}/{method}/seed{seed}.tsv"
    group:
        "judge_{model}"
    threads: experiment.threads
    resources:
        gpu=lambda wildcards: min(1, experiment.models[wildcards.model].gpus),
        alone=1,
        similarity_tokens=lambda wildcards: JUDGES["similarity"].batch_tokens,
        reward_tokens=lambda wildcards: JUDGES["reward"].batch_tokens,
        mem_mb=needs("judge", "mem_mb"),
        runtime=needs("judge", "runtime"),
    params:
        similarity=subpath(input.similarity, parent=True),
        reward=subpath(input.reward, parent=True),
    shell:
        "cft judge {input.draws:q} --prompts {input.prompts:q} --similarity {params.similarity:q} "
        "--reward {params.reward:q} --similarity-tokens {resources.similarity_tokens} "
        "--reward-tokens {resources.reward_tokens} --threads {threads} --out {output.file:q} 2> {log:q}"


rule retention:
    # What the model still knows: tinyBenchmarks.
    input:
        prompts="results/prompts/tinybenchmarks.parquet",
        model="results/models/{model}/model.json",
        adapter=adapter_files,
    output:
        file="results/retention/tinybenchmarks/{model}/{method}/seed{seed}.parquet",
        run="results/retention/tinybenchmarks/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/retention/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/retention/{model}/{method}/seed{seed}.tsv"
    group:
        "retention_{model}"
    container:
        image_for(["tinybenchmarks"])
    threads: experiment.threads
    resources:
        gpu=run_by("gpus"),
        alone=1,
        cache_tokens=run_by("cache_tokens"),
        vllm=vllm_settings,
        mem_mb=needs("retention", "mem_mb"),
        runtime=needs("retention", "runtime"),
    params:
        settings=lambda wildcards: settings(BENCHMARKS["tinybenchmarks"]),
        identity=identity,
        adapter=adapter_option,
        model=subpath(input.model, parent=True),
    shell:
        "cft retention --settings {params.settings:q} --prompts {input.prompts:q} --model {params.model:q} "
        "{params.adapter} --identity {params.identity:q} --cache-tokens {resources.cache_tokens} "
        "--vllm {resources.vllm:q} --threads {threads} --out {output.file:q} 2> {log:q}"


rule perplexity:
    # How well the model still predicts ordinary text: PALOMA.
    input:
        corpus="results/corpora/paloma/corpus.json",
        model="results/models/{model}/model.json",
        adapter=adapter_files,
    output:
        file="results/perplexity/paloma/{model}/{method}/seed{seed}.parquet",
        run="results/perplexity/paloma/{model}/{method}/seed{seed}.run.json",
    log:
        "results/logs/perplexity/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/perplexity/{model}/{method}/seed{seed}.tsv"
    threads: experiment.threads
    resources:
        gpu=run_by("gpus"),
        window_tokens=run_by("window_tokens"),
        mem_mb=needs("perplexity", "mem_mb"),
        runtime=needs("perplexity", "runtime"),
    params:
        settings=lambda wildcards: settings(BENCHMARKS["paloma"]),
        identity=identity,
        adapter=adapter_option,
        corpus=subpath(input.corpus, parent=True),
        model=subpath(input.model, parent=True),
    shell:
        "cft perplexity --settings {params.settings:q} --corpus {params.corpus:q} --model {params.model:q} "
        "{params.adapter} --identity {params.identity:q} --window-tokens {resources.window_tokens} "
        "--threads {threads} --out {output.file:q} 2> {log:q}"


rule score:
    # Draws and law, or measurements -> tidy scores.
    input:
        draws=raw_file,
        law=law_file,
        irt=lambda wildcards: ["results/irt.parquet"] if wildcards.benchmark == "tinybenchmarks" else [],
        instructions=instructions_file,
        families=ancient(experiment.distributions),
    output:
        "results/scores/{benchmark}/{model}/{method}/seed{seed}.parquet",
    log:
        "results/logs/score/{benchmark}/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/score/{benchmark}/{model}/{method}/seed{seed}.tsv"
    group:
        "score_{model}"
    resources:
        alone=1,
        mem_mb=needs("score", "mem_mb"),
        runtime=needs("score", "runtime"),
    params:
        law=option("law"),
        irt=option("irt"),
        instructions=option("instructions"),
        families=families_of_benchmark,
        code=lambda wildcards: version_of(f"cft.benchmarks.{wildcards.benchmark}"),
    shell:
        "cft score {wildcards.benchmark} {input.draws:q} {params.law} {params.irt} {params.instructions} "
        "--distributions {input.families:q} --out {output:q} 2> {log:q}"
