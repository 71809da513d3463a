# scores, draws -> results/scores.parquet, results/tables/*, results/figures/*, results/report.html


rule scores:
    # All scores in one tidy file.
    input:
        files_of("scores", BENCHMARKS),
    output:
        "results/scores.parquet",
    log:
        "results/logs/scores.log",
    benchmark:
        "results/benchmarks/scores.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    shell:
        "cft scores {input:q} --out {output:q} 2> {log:q}"


rule claims:
    # What the scores say of each claim of the paper.
    input:
        scores="results/scores.parquet",
    output:
        report("results/claims.csv", caption="../report/claims.rst", category="Claims"),
    log:
        "results/logs/claims.log",
    benchmark:
        "results/benchmarks/claims.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        code=lambda wildcards: version_of("cft.claims"),
    shell:
        "cft claims --scores {input.scores:q} --out {output:q} 2> {log:q}"


# A rule per table and figure, as each has its own inputs and caption.
for name, shown in experiment.tables.items():

    rule:
        # A table from the scores of its benchmarks.
        name:
            name
        input:
            scores=files_of("scores", shown.scores),
        output:
            csv=report(f"results/tables/{name}.csv", caption=f"../report/{name}.rst", category="Tables"),
            others=multiext(f"results/tables/{name}", ".tex", ".md"),
        log:
            f"results/logs/tables/{name}.log",
        benchmark:
            f"results/benchmarks/tables/{name}.tsv"
        localrule: True
        resources:
            mem_mb=needs("default", "mem_mb"),
            runtime=needs("default", "runtime"),
        params:
            name=name,
            scores=lambda wildcards, input: [f"--scores={file}" for file in input.scores],
            code=lambda wildcards, name=name: version_of(f"cft.tables.{name}"),
        shell:
            "cft table {params.name} {params.scores:q} --out {output.csv:q} 2> {log:q}"


for name, shown in experiment.figures.items():

    rule:
        # A figure from the scores or draws of its benchmarks.
        name:
            name
        input:
            scores=files_of("scores", shown.scores),
            draws=files_of("samples", shown.draws),
            instructions=INSTRUCTIONS if shown.draws else [],
            model=f"results/models/{next(iter(experiment.models))}/model.json" if shown.tokenizer else [],
            families=experiment.distributions,
            style="src/cft/figures/style.mplstyle",
        output:
            pdf=report(f"results/figures/{name}.pdf", caption=f"../report/{name}.rst", category="Figures"),
            others=multiext(f"results/figures/{name}", ".svg", ".png", ".csv"),
        log:
            f"results/logs/figures/{name}.log",
        benchmark:
            f"results/benchmarks/figures/{name}.tsv"
        localrule: True
        resources:
            mem_mb=needs("default", "mem_mb"),
            runtime=needs("default", "runtime"),
        params:
            name=name,
            sources=lambda wildcards, input: [
                *(f"--scores={file}" for file in input.scores),
                *(f"--draws={file}" for file in input.draws),
                *(f"--instructions={file}" for file in input.instructions),
                *([f"--model={Path(input.model).parent}"] if input.model else []),
            ],
            code=lambda wildcards, name=name: version_of(f"cft.figures.{name}"),
        shell:
            "cft figure {params.name} {params.sources:q} --distributions {input.families:q} "
            "--out {output.pdf:q} 2> {log:q}"


rule curves:
    # What the report shows of each structured prompt of a model.
    input:
        draws=lambda wildcards: files_of("samples", STRUCTURED, wildcards.model),
        laws=lambda wildcards: laws_of(STRUCTURED, wildcards.model),
        instructions=INSTRUCTIONS,
        families=experiment.distributions,
    output:
        "results/curves/{model}.parquet",
    log:
        "results/logs/curves/{model}.log",
    benchmark:
        "results/benchmarks/curves/{model}.tsv"
    group:
        "score_{model}"
    resources:
        alone=1,
        mem_mb=needs("score", "mem_mb"),
        runtime=needs("score", "runtime"),
    params:
        files=lambda wildcards, input: [
            f"--{kind}={file}" for kind in ("draws", "laws", "instructions") for file in input[kind]
        ],
        code=lambda wildcards: version_of("cft.curves"),
    shell:
        "cft curves {params.files:q} --distributions {input.families:q} --out {output:q} 2> {log:q}"


rule report:
    # One page with everything: claims, key results, figures, tables, families, prompts, what was run.
    input:
        scores="results/scores.parquet",
        tables=["results/claims.csv", *(f"results/tables/{name}.csv" for name in experiment.tables)],
        figures=[f"results/figures/{name}.svg" for name in experiment.figures],
        captions=[f"workflow/report/{name}.rst" for name in ["claims", *experiment.tables, *experiment.figures]],
        runs=[
            *(f"results/models/{model}/run.json" for model in experiment.models),
            *sorted({f"results/data/{method}/seed{seed}/run.json" for _, method, seed in adapters()}),
            *(f"results/adapters/{model}/{method}/seed{seed}/run.json" for model, method, seed in adapters()),
            *(f"results/temperatures/{model}/{method}.run.json" for model, method in temperatures()),
            *(
                name.replace(".parquet", ".run.json")
                for name in [
                    *files_of("samples", SAMPLED),
                    *(law for model in experiment.models for law in laws_of(LAWS, model)),
                    *judged_or_measured(),
                ]
            ),
        ],
        curves=[f"results/curves/{model}.parquet" for model in experiment.models if evaluations(STRUCTURED, model)],
        families=experiment.distributions,
        page=[f"src/cft/page/report.{kind}" for kind in ("html.j2", "css", "js")],
    output:
        report("results/report.html", caption="../report/report.rst", category="Report"),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        settings=settings(experiment),
        files=lambda wildcards, input: [
            f"--{kind}={file}" for kind in ("tables", "figures", "runs", "curves") for file in getattr(input, kind)
        ],
        code=lambda wildcards: version_of("cft.report"),
    shell:
        "cft report --settings {params.settings:q} --scores {input.scores:q} {params.files:q} "
        "--distributions {input.families:q} --out {output:q} 2> {log:q}"


rule card:
    # For those who will use an adapter: what it is, how faithful and at what cost.
    input:
        adapter="results/adapters/{model}/{method}/seed{seed}/adapter_model.safetensors",
        scores="results/scores.parquet",
    output:
        "results/adapters/{model}/{method}/seed{seed}/README.md",
    log:
        "results/logs/card/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/card/{model}/{method}/seed{seed}.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        adapter=subpath(input.adapter, parent=True),
        licence=lambda wildcards: [f"--licence={it}" for it in [experiment.models[wildcards.model].licence] if it],
    shell:
        "cft card --adapter {params.adapter:q} --scores {input.scores:q} {params.licence:q} --out {output:q} 2> {log:q}"


rule push:
    # An adapter and its card on the hub; only where the experiment has the key `hub`.
    input:
        adapter="results/adapters/{model}/{method}/seed{seed}/adapter_model.safetensors",
        card="results/adapters/{model}/{method}/seed{seed}/README.md",
    output:
        "results/pushed/{model}/{method}/seed{seed}.json",
    log:
        "results/logs/push/{model}/{method}/seed{seed}.log",
    benchmark:
        "results/benchmarks/push/{model}/{method}/seed{seed}.tsv"
    localrule: True
    resources:
        mem_mb=needs("default", "mem_mb"),
        runtime=needs("default", "runtime"),
    params:
        adapter=subpath(input.adapter, parent=True),
        repo=repository,
        private=lambda wildcards: "--private" if experiment.hub.private else "--no-private",
    shell:
        "cft push --adapter {params.adapter:q} --repo {params.repo:q} {params.private} --out {output:q} 2> {log:q}"
