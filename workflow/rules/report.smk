rule draw_figures:
    input:
        metrics=f"{ROOT}/metrics.nc",
        stores=figure_stores(),
    output:
        **figure_files(),
        summary=report(
            f"{ROOT}/summary.html",
            caption="../report/summary.rst",
            category="Key numbers",
            labels={"content": "key numbers in words"},
        ),
    log:
        f"{ROOT}/logs/figures.log",
    resources:
        **JOBS.resources("draw_figures"),
    shell:
        emeq("figures", "> {log} 2>&1")
