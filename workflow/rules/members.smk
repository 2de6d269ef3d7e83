rule train_shard:
    input:
        unpack(shard_inputs),
    output:
        f"{ROOT}/members/{{arm}}/members-{{first}}-{{last}}.zarr.zip",
    log:
        f"{ROOT}/logs/members/{{arm}}/members-{{first}}-{{last}}.log",
    benchmark:
        f"{ROOT}/benchmarks/members/{{arm}}/members-{{first}}-{{last}}.tsv"
    threads: lambda wildcards: ARMS[wildcards.arm].settings.execution.threads
    shell:
        EMEQ
        + " train {STUDY_FILE} --arm {wildcards.arm} --first {wildcards.first} --last {wildcards.last} > {log} 2>&1"


rule all_members:
    input:
        [path for arm in TRAINED for path in shards_of(arm)],
