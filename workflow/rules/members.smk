rule probe_engine:
    input:
        unpack(probe_inputs),
    output:
        f"{ROOT}/engine/{{key}}.json",
    log:
        f"{ROOT}/logs/engine/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/engine/{{key}}.tsv"
    priority: 20
    threads: lambda wildcards: STUDY.arm_with("probe_key", wildcards.key).settings.execution.threads
    resources:
        **needed(
            "probe_engine",
            lambda wildcards: STUDY.arm_with("probe_key", wildcards.key),
        ),
    shell:
        EMEQ + " probe {STUDY_FILE} --key {wildcards.key} > {log} 2>&1"


rule train_shard:
    input:
        unpack(shard_inputs),
    output:
        # Not removed before the job starts: a job of an earlier Snakemake may have finished it meanwhile.
        update(f"{ROOT}/members/{{arm}}/members-{{first}}-{{last}}.zarr.zip"),
    log:
        f"{ROOT}/logs/members/{{arm}}/members-{{first}}-{{last}}.log",
    benchmark:
        f"{ROOT}/benchmarks/members/{{arm}}/members-{{first}}-{{last}}.tsv"
    threads: lambda wildcards: ARMS[wildcards.arm].settings.execution.threads
    resources:
        **needed("train_shard", lambda wildcards: ARMS[wildcards.arm]),
    shell:
        EXEC_EMEQ
        + " train {STUDY_FILE} --arm {wildcards.arm} --first {wildcards.first} --last {wildcards.last}"
        + TIME_LIMIT
        + " > {log} 2>&1"


rule all_members:
    input:
        [path for arm in TRAINED for path in shards_of(arm)],
