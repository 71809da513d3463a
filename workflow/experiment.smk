# One experiment: the flow from data to report for the settings in `config`.
include: "rules/common.smk"


container: image("finetune")


onstart:
    slurm.nothing_left(Path.cwd(), not workflow.local_exec)


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


rule experiment:
    # Everything that the configuration asks for.
    input:
        everything(),
