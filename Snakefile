# Emergent equivariance of deep ensembles: from a study file to a report.
#
#   snakemake --configfile config/digits.yaml        run a study (without the option: config/ising.yaml)
#   snakemake -n                                     show what would run
#   snakemake --report results/ising/snakemake-report.html
#
# Every rule calls one subcommand of `emeq`; all logic lives in src/emergent_equivariance.


include: "workflow/study.smk"


rule all:
    default_target: True
    input:
        NEEDS.products(),
