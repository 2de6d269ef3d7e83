rule aggregate_arm:
    input:
        data=lambda wildcards: ancient(str(STUDY.data_path(ARMS[wildcards.arm]))),
        theory=lambda wildcards: theory_of(ARMS[wildcards.arm]),
        shards=lambda wildcards: shards_of(ARMS[wildcards.arm]),
    output:
        f"{ROOT}/ensemble/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/ensemble/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/ensemble/{{arm}}.tsv"
    resources:
        **needed("aggregate_arm", lambda wildcards: ARMS[wildcards.arm]),
    params:
        depends_on=lambda wildcards: ARMS[wildcards.arm].ensemble_hash,
    shell:
        EMEQ + " aggregate {STUDY_FILE} --arm {wildcards.arm} > {log} 2>&1"


rule join_metrics:
    input:
        [str(STUDY.result_path(arm)) for arm in STUDY.arms],
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
