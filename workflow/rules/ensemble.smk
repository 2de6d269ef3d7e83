rule aggregate_arm:
    input:
        unpack(aggregate_inputs),
    output:
        f"{ROOT}/ensemble/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/ensemble/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/ensemble/{{arm}}.tsv"
    resources:
        **needed("aggregate_arm", lambda wildcards: ARMS[wildcards.arm]),
    params:
        depends_on=lambda wildcards: formed_of(ARMS[wildcards.arm]),
    shell:
        EMEQ + " aggregate {STUDY_FILE} --arm {wildcards.arm} > {log} 2>&1"


rule join_metrics:
    input:
        metrics_inputs,
    output:
        metrics=f"{ROOT}/metrics.nc",
        tables=directory(f"{ROOT}/tables"),
    log:
        f"{ROOT}/logs/metrics.log",
    resources:
        **needed("join_metrics"),
    params:
        arms=[arm.join_fields for arm in STUDY.arms],
    shell:
        EMEQ + " metrics {STUDY_FILE} > {log} 2>&1"
