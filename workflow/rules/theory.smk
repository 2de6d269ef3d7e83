rule resolve_learning_rate:
    input:
        unpack(learning_rate_inputs),
    output:
        f"{ROOT}/theory/{{key}}.learning-rate.json",
    log:
        f"{ROOT}/logs/theory/{{key}}.learning-rate.log",
    priority: 20
    threads:
        lambda wildcards: STUDY.arm_with(
            "learning_rate_key", wildcards.key
        ).settings.execution.kernel_threads
    resources:
        **needed(
            "resolve_learning_rate",
            lambda wildcards: STUDY.arm_with("learning_rate_key", wildcards.key),
        ),
    shell:
        EMEQ
        + " learning-rate {STUDY_FILE} --key {wildcards.key} --threads {threads} 2>&1 | tee {log} >&2"


rule compute_theory:
    input:
        unpack(theory_inputs),
    output:
        f"{ROOT}/theory/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/theory/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/theory/{{key}}.tsv"
    priority: 10
    threads:
        lambda wildcards: STUDY.arm_with(
            "theory_key", wildcards.key
        ).settings.execution.kernel_threads
    resources:
        **needed(
            "compute_theory",
            lambda wildcards: STUDY.arm_with("theory_key", wildcards.key),
        ),
    shell:
        EMEQ
        + " theory {STUDY_FILE} --key {wildcards.key} --threads {threads} 2>&1 | tee {log} >&2"


rule all_theory:
    input:
        sorted({path for arm in TRAINED for path in theory_of(arm)}),
