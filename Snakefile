# Calibration fine-tuning, from prompts to figures. Rules: workflow/rules; settings: config; one rule is one `cft` command.
from snakemake.exceptions import WorkflowError

from cft import CftError
from cft.config import check_files, read_yaml

try:
    check_files(workflow.overwrite_configfiles, config)
except CftError as error:
    raise WorkflowError(str(error))

# Not unconditional: Snakemake would merge the file of --configfile into it.
if "models" not in config:

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
