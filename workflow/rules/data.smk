# distributions.yaml -> results/data/{method}/seed{seed}/{prompts,examples}.parquet
#                    -> results/prompts/{benchmark}.parquet
# upstream files     -> results/prompts, results/instructions/{method}.json, results/corpora/paloma, results/irt.parquet
MIRROR = [f"--mirror={experiment.assets_mirror}"] if experiment.assets_mirror else []


rule data:
    # The ordered training examples of a method and seed, as strings.
    input:
        ancient(experiment.distributions),
    output:
        "results/data/{method}/seed{seed}/prompts.parquet",
        "results/data/{method}/seed{seed}/examples.parquet",
        "results/data/{method}/seed{seed}/run.json",
    log:
        "results/logs/data/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/data/{method}/seed{seed}.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        settings=lambda wildcards: settings(experiment.methods[wildcards.method]),
        families=families_trained_on,
        out=subpath(output[0], parent=True),
    shell:
        "cft data --settings {params.settings:q} --seed {wildcards.seed} --distributions {input:q} --out {params.out:q} 2> {log:q}"


rule prompts:
    # The prompts that a benchmark draws from. Not remade when its scoring code is edited, as that would draw anew.
    input:
        families=ancient(experiment.distributions),
        assets=experiment.assets,
    output:
        "results/prompts/{benchmark}.parquet",
    log:
        "results/logs/prompts/{benchmark}.log",
    benchmark:
        "results/benchmarks/prompts/{benchmark}.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        settings=settings_of_prompts,
        families=families_of_benchmark,
        mirror=MIRROR,
    shell:
        "cft benchmark-prompts {wildcards.benchmark} --settings {params.settings:q} --distributions {input.families:q} "
        "--assets {input.assets:q} {params.mirror:q} --out {output:q} 2> {log:q}"


rule instructions:
    # What a prompting method tells the model before the question.
    input:
        experiment.assets,
    output:
        "results/instructions/{method}.json",
    log:
        "results/logs/instructions/{method}.log",
    benchmark:
        "results/benchmarks/instructions/{method}.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        settings=lambda wildcards: settings(experiment.methods[wildcards.method]),
        mirror=MIRROR,
    shell:
        "cft instructions --settings {params.settings:q} --assets {input:q} {params.mirror:q} --out {output:q} 2> {log:q}"


rule corpus:
    # Where the texts of PALOMA lie; they are fetched, or made, here.
    input:
        experiment.assets,
    output:
        "results/corpora/paloma/corpus.json",
        "results/corpora/paloma/run.json",
    log:
        "results/logs/corpus.log",
    benchmark:
        "results/benchmarks/corpus.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        # Not what is measured on the texts: another stride needs no other corpus.
        settings=lambda wildcards: settings(BENCHMARKS["paloma"].model_dump(include={"data", "slices"})),
        mirror=MIRROR,
        out=subpath(output[0], parent=True),
    shell:
        "cft corpus --settings {params.settings:q} --assets {input:q} {params.mirror:q} --replace --out {params.out:q} "
        "2> {log:q}"


rule irt:
    # The item parameters behind tinyBenchmarks' estimates.
    input:
        experiment.assets,
    output:
        "results/irt.parquet",
    log:
        "results/logs/irt.log",
    benchmark:
        "results/benchmarks/irt.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        settings=lambda wildcards: settings(BENCHMARKS["tinybenchmarks"]),
        mirror=MIRROR,
    shell:
        "cft irt --settings {params.settings:q} --assets {input:q} {params.mirror:q} --out {output:q} 2> {log:q}"
