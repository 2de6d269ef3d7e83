# The study, and the paths and parameters the rules need from it. Nothing heavy is imported here:
# every cluster job parses this file again.
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from emergent_equivariance.errors import UserError
from emergent_equivariance.figures import figure_names, store_arms
from emergent_equivariance.study import load_study, read_yaml


def find_study_file():
    """The one file given with --configfile, or the default study; refuses anything merged into it."""
    files = workflow.configfiles or [Path(workflow.basedir) / "config" / "ising.yaml"]
    if len(files) != 1:
        raise WorkflowError(f"one study file is expected, got {', '.join(map(str, files))}. Give one --configfile.")
    file = Path(files[0])
    if config and json.loads(json.dumps(config)) != json.loads(json.dumps(read_yaml(file))):
        raise WorkflowError(
            f"{file}: its content is changed by --config or another file, so that results would not belong to the "
            "file. Copy the study file and change the copy."
        )
    if not config:
        config.update(read_yaml(file))  # the report's description names the study
    return file


try:
    STUDY = load_study(find_study_file())
    FIGURES = figure_names(STUDY)
except UserError as error:
    raise WorkflowError(str(error))

ROOT = str(STUDY.root)
ARMS = {arm.path: arm for arm in STUDY.arms}
STUDY_FILE = shlex.quote(str(STUDY.file))
EMEQ = f"NPROC={{threads}} OMP_NUM_THREADS={{threads}} {shlex.quote(sys.executable)} -m emergent_equivariance"


def arm_of(wildcards):
    """The arm a job belongs to."""
    if wildcards.arm not in ARMS:
        raise WorkflowError(f"{STUDY.file}: there is no arm {wildcards.arm}. The arms are: {', '.join(ARMS)}.")
    return ARMS[wildcards.arm]


def shards_of(arm):
    """Paths of the shards of an arm, those on disk re-used."""
    return [str(STUDY.shard_path(arm, first, last)) for first, last in STUDY.shards(arm)]


def theory_of(arm):
    """The theory store of an arm, where it has an analytic mean."""
    return [str(STUDY.theory_path(arm))] if arm.settings.has_mean else []


def study_products():
    """What a complete study consists of. The shards are named too: Snakemake would not miss a lost one otherwise."""
    return [
        *(path for arm in STUDY.arms for path in shards_of(arm)),
        f"{ROOT}/metrics.nc",
        f"{ROOT}/summary.html",
        *(f"{ROOT}/figures/{name}.svg" for name in FIGURES),
    ]
