# The workflow without its default target, which the two Snakefiles give.


include: "rules/common.smk"


report: "report/workflow.rst"


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


include: "rules/data.smk"
include: "rules/theory.smk"
include: "rules/kernels.smk"
include: "rules/members.smk"
include: "rules/ensemble.smk"
include: "rules/report.smk"
