rule aggregate_arm:
    input:
        inputs(NEEDS.ensemble),
    output:
        f"{ROOT}/ensemble/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/ensemble/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/ensemble/{{arm}}.tsv"
    resources:
        **JOBS.resources("aggregate_arm"),
    params:
        depends_on=lambda wildcards: NEEDS.formed_of(wildcards.arm),
    shell:
        emeq("aggregate", "--arm {wildcards.arm} > {log} 2>&1")


rule join_metrics:
    input:
        inputs(NEEDS.metrics),
    output:
        metrics=f"{ROOT}/metrics.nc",
        tables=directory(f"{ROOT}/tables"),
    log:
        f"{ROOT}/logs/metrics.log",
    resources:
        **JOBS.resources("join_metrics"),
    params:
        arms=[arm.join_fields for arm in STUDY.arms],
    shell:
        emeq("metrics", "> {log} 2>&1")
