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
    params:
        evaluate=lambda wildcards: ARMS[
            wildcards.arm
        ].settings.evaluate.model_dump_json(),
        members=lambda wildcards: ARMS[wildcards.arm].settings.ensemble.members,
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
