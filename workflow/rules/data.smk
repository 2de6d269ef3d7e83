localrules:
    make_data,  # it may download, and compute nodes often have no network


rule make_data:
    output:
        f"{ROOT}/data/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/data/{{key}}.log",
    resources:
        **needed(
            "make_data", lambda wildcards: STUDY.arm_with("data_key", wildcards.key)
        ),
    shell:
        EMEQ + " data {STUDY_FILE} --key {wildcards.key} > {log} 2>&1"
