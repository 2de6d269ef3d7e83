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
        **needed("draw_figures"),
    shell:
        EMEQ + " figures {STUDY_FILE} > {log} 2>&1"
