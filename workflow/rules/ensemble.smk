rule aggregate_arm:
    input:
        data=lambda wildcards: ancient(str(STUDY.data_path(arm_of(wildcards)))),
        theory=lambda wildcards: theory_of(arm_of(wildcards)),
        shards=lambda wildcards: shards_of(arm_of(wildcards)),
    output:
        f"{ROOT}/ensemble/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/ensemble/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/ensemble/{{arm}}.tsv"
    params:
        evaluate=lambda wildcards: arm_of(wildcards).settings.evaluate.model_dump_json(),
        members=lambda wildcards: arm_of(wildcards).settings.ensemble.members,
    shell:
        EMEQ + " aggregate {STUDY_FILE} --arm {wildcards.arm} > {log} 2>&1"


rule join_metrics:
    input:
        [str(STUDY.ensemble_path(arm)) for arm in STUDY.arms],
    output:
        metrics=f"{ROOT}/metrics.nc",
        tables=directory(f"{ROOT}/tables"),
    log:
        f"{ROOT}/logs/metrics.log",
    shell:
        EMEQ + " metrics {STUDY_FILE} > {log} 2>&1"
