rule compute_theory:
    input:
        ancient(theory_data),
    output:
        store=f"{ROOT}/theory/{{key}}.zarr.zip",
        learning_rate=f"{ROOT}/theory/{{key}}.learning-rate.json",
    log:
        f"{ROOT}/logs/theory/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/theory/{{key}}.tsv"
    priority: 10
    threads: 2
    shell:
        EMEQ + " theory {STUDY_FILE} --key {wildcards.key} > {log} 2>&1"


rule all_theory:
    input:
        sorted({path for arm in STUDY.arms for path in theory_of(arm)}),
