# distributions.yaml -> results/data/{method}/seed{seed}/{prompts,examples}.parquet
#                    -> results/prompts/{benchmark}.parquet
# upstream files     -> results/prompts, results/instructions/{method}.json, results/corpora/paloma, results/irt.parquet


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
        assets=ancient(experiment.assets),
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
        upstream=lambda wildcards: upstream_version_of(BENCHMARKS[wildcards.benchmark]),
        mirror=lambda wildcards: mirror_for(BENCHMARKS[wildcards.benchmark]),
    shell:
        "cft benchmark-prompts {wildcards.benchmark} --settings {params.settings:q} --distributions {input.families:q} "
        "--assets {input.assets:q} {params.mirror:q} --out {output:q} 2> {log:q}"


rule instructions:
    # What a prompting method tells the model before the question.
    input:
        ancient(experiment.assets),
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
        upstream=lambda wildcards: upstream_version_of(experiment.methods[wildcards.method]),
        mirror=lambda wildcards: mirror_for(experiment.methods[wildcards.method]),
    shell:
        "cft instructions --settings {params.settings:q} --assets {input:q} {params.mirror:q} --out {output:q} 2> {log:q}"


rule corpus:
    # Where the texts of PALOMA lie; they are fetched, or made, here.
    input:
        ancient(experiment.assets),
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
        upstream=lambda wildcards: upstream_version_of(BENCHMARKS["paloma"]),
        mirror=lambda wildcards: mirror_for(BENCHMARKS["paloma"]),
        out=subpath(output[0], parent=True),
    shell:
        "cft corpus --settings {params.settings:q} --assets {input:q} {params.mirror:q} --replace --out {params.out:q} "
        "2> {log:q}"


rule irt:
    # The item parameters behind tinyBenchmarks' estimates.
    input:
        ancient(experiment.assets),
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
        upstream=lambda wildcards: upstream_version_of(BENCHMARKS["tinybenchmarks"]),
        mirror=lambda wildcards: mirror_for(BENCHMARKS["tinybenchmarks"]),
    shell:
        "cft irt --settings {params.settings:q} --assets {input:q} {params.mirror:q} --out {output:q} 2> {log:q}"
