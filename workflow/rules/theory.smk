rule resolve_learning_rate:
    input:
        inputs(NEEDS.learning_rate),
    output:
        f"{ROOT}/theory/{{key}}.learning-rate.json",
    log:
        f"{ROOT}/logs/theory/{{key}}.learning-rate.log",
    priority: 20
    threads: JOBS.threads("resolve_learning_rate")
    resources:
        **JOBS.resources("resolve_learning_rate"),
    shell:
        emeq(
            "learning-rate",
            "--key {wildcards.key} --threads {threads} 2>&1 | tee {log} >&2",
        )


rule compute_theory:
    input:
        inputs(NEEDS.theory),
    output:
        f"{ROOT}/theory/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/theory/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/theory/{{key}}.tsv"
    priority: 10
    threads: JOBS.threads("compute_theory")
    resources:
        **JOBS.resources("compute_theory"),
    shell:
        emeq(
            "theory",
            "--key {wildcards.key} --threads {threads} 2>&1 | tee {log} >&2",
        )


rule all_theory:
    input:
        NEEDS.all_theory(),
