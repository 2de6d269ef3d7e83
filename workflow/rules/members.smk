def shard_inputs(wildcards):
    """Data of an arm, and the learning rate file where the theory resolves it."""
    arm = arm_of(wildcards)
    files = {"data": ancient(str(STUDY.data_path(arm)))}
    if arm.settings.resolves_learning_rate:
        files["learning_rate"] = ancient(str(STUDY.learning_rate_path(arm)))
    return files


rule train_shard:
    input:
        unpack(shard_inputs),
    output:
        f"{ROOT}/members/{{arm}}/members-{{first}}-{{last}}.zarr.zip",
    log:
        f"{ROOT}/logs/members/{{arm}}/members-{{first}}-{{last}}.log",
    benchmark:
        f"{ROOT}/benchmarks/members/{{arm}}/members-{{first}}-{{last}}.tsv"
    params:
        config_hash=lambda wildcards: arm_of(wildcards).config_hash,
    threads: lambda wildcards: arm_of(wildcards).settings.execution.threads
    shell:
        EMEQ + " train {STUDY_FILE} --arm {wildcards.arm} --first {wildcards.first} --last {wildcards.last} > {log} 2>&1"


rule all_members:
    input:
        [path for arm in STUDY.arms for path in shards_of(arm)],
