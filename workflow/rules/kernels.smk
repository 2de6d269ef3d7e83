rule compute_kernel_tiles:
    input:
        lambda wildcards: ancient(
            str(STUDY.data_path(STUDY.arm_with_tiles(wildcards.key)))
        ),
    output:
        temp(f"{ROOT}/kernels/{{key}}/tiles-{{first}}-{{last}}.zarr.zip"),
    log:
        f"{ROOT}/logs/kernels/{{key}}/tiles-{{first}}-{{last}}.log",
    benchmark:
        f"{ROOT}/benchmarks/kernels/{{key}}/tiles-{{first}}-{{last}}.tsv"
    priority: 30
    threads: lambda wildcards: STUDY.arm_with_tiles(wildcards.key).settings.execution.kernel_threads
    resources:
        **needed(
            "compute_kernel_tiles",
            lambda wildcards: STUDY.arm_with_tiles(wildcards.key),
        ),
    params:
        tile_size=lambda wildcards: STUDY.arm_with_tiles(
            wildcards.key
        ).settings.execution.tile_size,
    shell:
        EMEQ
        + " kernel-tiles {STUDY_FILE} --key {wildcards.key} --first {wildcards.first} --last {wildcards.last}"
        + " --threads {threads} 2>&1 | tee {log} >&2"


rule assemble_kernels:
    input:
        unpack(assembly_inputs),
    output:
        f"{ROOT}/kernels/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/kernels/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/kernels/{{key}}.tsv"
    priority: 30
    resources:
        **needed(
            "assemble_kernels", lambda wildcards: STUDY.arm_with_tiles(wildcards.key)
        ),
    shell:
        EMEQ + " assemble-kernels {STUDY_FILE} --key {wildcards.key} > {log} 2>&1"


rule measure_kernels:
    input:
        unpack(measure_inputs),
    output:
        f"{ROOT}/measures/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/measures/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/measures/{{arm}}.tsv"
    threads: lambda wildcards: ARMS[wildcards.arm].settings.execution.kernel_threads
    resources:
        **needed("measure_kernels", lambda wildcards: ARMS[wildcards.arm]),
    params:
        depends_on=lambda wildcards: ARMS[wildcards.arm].result_hash,
    shell:
        EMEQ
        + " measure {STUDY_FILE} --arm {wildcards.arm} --threads {threads} 2>&1 | tee {log} >&2"
