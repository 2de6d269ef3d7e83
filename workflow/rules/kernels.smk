rule compute_kernel_tiles:
    input:
        inputs(NEEDS.tiles),
    output:
        temp(f"{ROOT}/kernels/{{key}}/tiles-{{first}}-{{last}}.zarr.zip"),
    log:
        f"{ROOT}/logs/kernels/{{key}}/tiles-{{first}}-{{last}}.log",
    benchmark:
        f"{ROOT}/benchmarks/kernels/{{key}}/tiles-{{first}}-{{last}}.tsv"
    priority: 30
    threads: JOBS.threads("compute_kernel_tiles")
    resources:
        **JOBS.resources("compute_kernel_tiles"),
    params:
        tile_size=lambda wildcards: STUDY.arm_with_tiles(
            wildcards.key
        ).settings.execution.tile_size,
    shell:
        emeq(
            "kernel-tiles",
            "--key {wildcards.key} --first {wildcards.first} --last {wildcards.last}",
            "--threads {threads} 2>&1 | tee {log} >&2",
        )


rule assemble_kernels:
    input:
        inputs(NEEDS.assembly),
    output:
        f"{ROOT}/kernels/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/kernels/{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/kernels/{{key}}.tsv"
    priority: 30
    resources:
        **JOBS.resources("assemble_kernels"),
    shell:
        emeq("assemble-kernels", "--key {wildcards.key} > {log} 2>&1")


rule measure_kernels:
    input:
        inputs(NEEDS.measure),
    output:
        f"{ROOT}/measures/{{arm}}.zarr.zip",
    log:
        f"{ROOT}/logs/measures/{{arm}}.log",
    benchmark:
        f"{ROOT}/benchmarks/measures/{{arm}}.tsv"
    threads: JOBS.threads("measure_kernels")
    resources:
        **JOBS.resources("measure_kernels"),
    params:
        depends_on=lambda wildcards: NEEDS.arms[wildcards.arm].result_hash,
    shell:
        emeq(
            "measure",
            "--arm {wildcards.arm} --threads {threads} 2>&1 | tee {log} >&2",
        )
