def figure_stores():
    """Stores that the pictures are drawn from, beside the metrics."""
    arms = store_arms(STUDY)
    paths = [path for arm in arms for path in (str(STUDY.data_path(arm)), str(STUDY.ensemble_path(arm)), *theory_of(arm))]
    return sorted(set(paths))


def figure_files():
    """Every picture of the study, as SVG with its caption for Snakemake's report and as PNG."""
    vector = {
        name: report(
            f"{ROOT}/figures/{name}.svg",
            caption=f"../report/{name}.rst",
            category="Figures",
            labels={"figure": name.replace("_", " ")},
        )
        for name in FIGURES
    }
    return vector | {f"{name}_png": f"{ROOT}/figures/{name}.png" for name in FIGURES}


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
    shell:
        EMEQ + " figures {STUDY_FILE} > {log} 2>&1"
