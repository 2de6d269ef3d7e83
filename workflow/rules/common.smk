# The study, and the functions that the rules ask for its files. All that is known of them is in
# src/emergent_equivariance; nothing heavy is imported: every cluster job parses this file again.
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

try:
    from emergent_equivariance import workflow as starting
    from emergent_equivariance.errors import UserError
    from emergent_equivariance.figures import FIGURES as PICTURES
    from emergent_equivariance.study import missing_report, read_yaml
    from emergent_equivariance.study.dependencies import AGELESS
    from emergent_equivariance.study.products import FIGURE_FORMATS, figure_names
except ModuleNotFoundError as error:
    if error.name != "emergent_equivariance":
        raise
    raise WorkflowError(
        "the environment that runs Snakemake has no package emergent-equivariance. Install that of this workflow, of "
        "the same version (docs/module.md)."
    )

HERE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))

try:
    JOBS = starting.set_up(workflow, config, HERE.parents[1] / "config" / "ising.yaml")
except UserError as error:
    raise WorkflowError(str(error))

NEEDS = JOBS.needs
STUDY = NEEDS.study
if not config:
    config.update(read_yaml(STUDY.file))  # the report's description names the study
if workflow.is_main_process:
    for warning in starting.warnings(STUDY):
        logger.warning(warning)

ROOT = NEEDS.declared(STUDY.root)
# A job of a scheduler is ended after the time it asked for: it stops itself in time. Jobs on this machine have no limit.
TIME_LIMIT = "--minutes {resources.runtime}" if workflow.remote_exec else ""
CONTAINER = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
PYTHON = "python" if CONTAINER else sys.executable


def emeq(stage, *options, **how):
    """The command of a rule."""
    words = " ".join(filter(None, options))
    return starting.command(STUDY, stage, words, python=PYTHON, **how)


def inputs(of):
    """Inputs of a rule, by name: what `of` says for the wildcards of a job."""

    def of_job(wildcards):
        files = of(**dict(wildcards.items()))
        return {
            name: ancient(file) if name in AGELESS else file
            for name, file in files.items()
        }

    return unpack(of_job)


def begin():
    """Be the only controller of the results; refuse to start what cannot end well."""
    try:
        for line in JOBS.begin(workflow):
            logger.warning(line)
    except UserError as error:
        raise WorkflowError(str(error))


def tell_missing():
    """Say by name what a run that failed has not made, and how to go on."""
    if text := missing_report(STUDY):
        logger.error(f"\n{text}\n")


def figure_files():
    """Every picture of the study in all its formats, the SVG with its caption for Snakemake's report."""
    names = figure_names(STUDY)
    vector = {
        name: report(
            f"{ROOT}/figures/{name}.svg",
            caption=f"../../src/emergent_equivariance/report/captions/{PICTURES[name].caption}",
            category="Figures",
            labels={"figure": PICTURES[name].title},
        )
        for name in names
    }
    others = [suffix for suffix in FIGURE_FORMATS if suffix != "svg"]
    return vector | {
        f"{name}_{suffix}": f"{ROOT}/figures/{name}.{suffix}"
        for name in names
        for suffix in others
    }
