# Emergent equivariance of deep ensembles: from a study file to a report.
#
#   snakemake --configfile config/digits.yaml        run a study (without the option: config/ising.yaml)
#   snakemake -n                                     show what would run
#   snakemake --report results/ising/snakemake-report.html
#
# Every rule calls one subcommand of `emeq`; all logic lives in src/emergent_equivariance.


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


# The image of envs/Containerfile. Read with `--sdm apptainer` alone, and not exercised.
container: "envs/emergent-equivariance.sif"


wildcard_constraints:
    key="[0-9a-f]{16}",
    arm="|".join(re.escape(arm) for arm in NEEDS.arms),
    first=r"\d{6}",
    last=r"\d{6}",


onstart:
    begin()


onerror:
    tell_missing()


rule all:
    default_target: True
    input:
        NEEDS.products(),


include: "workflow/rules/data.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/kernels.smk"
include: "workflow/rules/members.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/report.smk"
