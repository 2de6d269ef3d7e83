rule make_data:
    output:
        f"{ROOT}/data/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/data/{{key}}.log",
    shell:
        EMEQ + " data {STUDY_FILE} --key {wildcards.key} > {log} 2>&1"
