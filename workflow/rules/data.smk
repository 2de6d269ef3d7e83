rule make_data:
    output:
        f"{ROOT}/data/{{key}}.zarr.zip",
    log:
        f"{ROOT}/logs/data/{{key}}.log",
    localrule: True  # it may download, and compute nodes often have no network
    resources:
        **JOBS.resources("make_data"),
    shell:
        emeq("data", "--key {wildcards.key} > {log} 2>&1")
