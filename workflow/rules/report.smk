def figure_files():
    """Every picture of the study as SVG, with its caption for Snakemake's report."""
    return {
        name: report(
            f"{ROOT}/figures/{name}.svg",
            caption=f"../report/{name}.rst",
            category="Figures",
            labels={"figure": name.replace("_", " ")},
        )
        for name in FIGURES
    }


rule draw_figures:
    input:
        metrics=f"{ROOT}/metrics.nc",
        ensembles=[str(STUDY.ensemble_path(arm)) for arm in STUDY.arms],
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
    shell:
        EMEQ + " figures {STUDY_FILE} > {log} 2>&1"
