rule draw_figures:
    input:
        f"{ROOT}/metrics.nc",
    output:
        **figure_files(),
        page=report(
            f"{ROOT}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"content": "report page"},
        ),
    log:
        f"{ROOT}/logs/figures.log",
    resources:
        **JOBS.resources("draw_figures"),
    shell:
        emeq("figures", "> {log} 2>&1")
