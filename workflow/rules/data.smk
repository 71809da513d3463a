# distributions.yaml -> results/data/{method}/seed{seed}/{prompts,examples}.parquet
#                    -> results/prompts/{benchmark}.parquet


rule data:
    # The ordered training examples of a method and seed, as strings.
    input:
        experiment.distributions,
    output:
        "results/data/{method}/seed{seed}/prompts.parquet",
        "results/data/{method}/seed{seed}/examples.parquet",
        "results/data/{method}/seed{seed}/run.json",
    log:
        "results/logs/data/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/data/{method}/seed{seed}.tsv"
    group:
        "prepare"
    resources:
        slots=1,
    params:
        settings=lambda wildcards: settings(experiment.methods[wildcards.method]),
        out=subpath(output[0], parent=True),
    shell:
        "cft data --settings {params.settings:q} --seed {wildcards.seed} --distributions {input:q} --out {params.out:q} 2> {log:q}"


rule prompts:
    # The prompts that a benchmark draws from. Not remade when its scoring code is edited, as that would draw anew.
    input:
        families=experiment.distributions,
        assets=experiment.assets,
    output:
        "results/prompts/{benchmark}.parquet",
    log:
        "results/logs/prompts/{benchmark}.log",
    benchmark:
        "results/benchmarks/prompts/{benchmark}.tsv"
    group:
        "prepare"
    resources:
        slots=1,
    params:
        settings=lambda wildcards: settings(BENCHMARKS[wildcards.benchmark]),
        mirror=f"--mirror {experiment.assets_mirror}" if experiment.assets_mirror else "",
    shell:
        "cft benchmark-prompts {wildcards.benchmark} --settings {params.settings:q} --distributions {input.families:q} "
        "--assets {input.assets:q} {params.mirror} --out {output:q} 2> {log:q}"
