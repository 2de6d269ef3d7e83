rule measure_kernels:
    input:
        lambda wildcards: ancient(str(STUDY.data_path(ARMS[wildcards.arm]))),
    output:
        f"{ROOT}/measures/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/measures/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/measures/{{arm}}.tsv"
    threads: lambda wildcards: ARMS[wildcards.arm].settings.execution.kernel_threads
    params:
        depends_on=lambda wildcards: ARMS[wildcards.arm].result_hash,
    shell:
        EMEQ + " measure {STUDY_FILE} --arm {wildcards.arm} 2>&1 | tee {log} >&2"
