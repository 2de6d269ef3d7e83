rule probe_engine:
    input:
        inputs(NEEDS.probe),
    output:
        f"{ROOT}/engine/{{key}}.json",
    log:
        f"{ROOT}/logs/engine/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/engine/{{key}}.tsv"
    priority: 20
    threads: JOBS.threads("probe_engine")
    resources:
        **JOBS.resources("probe_engine"),
    shell:
        emeq("probe", "--key {wildcards.key} > {log} 2>&1")


rule train_shard:
    input:
        inputs(NEEDS.shard),
    output:
        # Not removed before the job starts: a job of an earlier Snakemake may have finished it meanwhile.
        update(f"{ROOT}/members/{{arm}}/members-{{first}}-{{last}}.zarr.zip"),
    log:
        f"{ROOT}/logs/members/{{arm}}/members-{{first}}-{{last}}.log",
    benchmark:
        f"{ROOT}/benchmarks/members/{{arm}}/members-{{first}}-{{last}}.tsv"
    threads: JOBS.threads("train_shard")
    resources:
        **JOBS.resources("train_shard"),
    shell:
        emeq(
            "train",
            "--arm {wildcards.arm} --first {wildcards.first} --last {wildcards.last}",
            TIME_LIMIT,
            "> {log} 2>&1",
            in_place=True,
        )


rule all_members:
    input:
        NEEDS.all_members(),
