# Calibration fine-tuning, from prompts to figures. Rules: workflow/rules; settings: config; one rule is one `cft` command.
from snakemake.exceptions import WorkflowError

from cft import CftError
from cft.config import read_yaml

# Snakemake reads these itself, and of two equal keys keeps the last without a word.
try:
    for file in workflow.overwrite_configfiles:
        read_yaml(file)
except CftError as error:
    raise WorkflowError(str(error))

# Not unconditional: Snakemake would merge the file of --configfile into it.
if "models" not in config:
    if workflow.overwrite_configfiles:
        raise WorkflowError(
            f"{' '.join(map(str, workflow.overwrite_configfiles))}: no models; name first the configuration that it adds to"
        )

    configfile: "config/demo.yaml"


include: "workflow/experiment.smk"


# The same workflow on tiny random models, below results/smoke.
module smoke_test:
    snakefile:
        "workflow/experiment.smk"
    config:
        read_yaml("config/smoke.yaml") | {"images": experiment.images}
    replace_prefix:
        {"results/": "results/smoke/"}


use rule * from smoke_test as smoke_*


rule smoke:
    input:
        rules.smoke_experiment.input,


rule all:
    default_target: True
    input:
        rules.experiment.input,
