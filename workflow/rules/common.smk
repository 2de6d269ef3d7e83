# The study, and the paths and parameters the rules need from it. Nothing heavy is imported here:
# every cluster job parses this file again.
import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from emergent_equivariance import controller, slurm
from emergent_equivariance.errors import UserError
from emergent_equivariance.figures import FIGURES as PICTURES
from emergent_equivariance.figures import figure_names, store_arms
from emergent_equivariance.slurm_states import heed_lost_jobs
from emergent_equivariance.study import (
    ensemble_shards,
    header,
    load_study,
    missing_members,
    missing_report,
    read_yaml,
)
from emergent_equivariance.study.cluster import (
    find_cluster,
    read_cluster,
    request,
    resource_names,
)
from emergent_equivariance.study.products import products
from emergent_equivariance.study.resources import Demands
from emergent_equivariance.study.submission import Asked, check_jobs
from emergent_equivariance.study.tiling import planned_tiling


def find_study_file():
    """The one file given with --configfile, or the default study; refuses anything merged into it."""
    files = workflow.configfiles or [Path(workflow.basedir) / "config" / "ising.yaml"]
    if len(files) != 1:
        raise WorkflowError(
            f"one study file is expected, got {', '.join(map(str, files))}. Give one --configfile."
        )
    file = Path(files[0])
    if config and json.loads(json.dumps(config, default=str)) != json.loads(
        json.dumps(read_yaml(file))
    ):
        raise WorkflowError(
            f"{file}: its content is changed by --config or another file, so that results would not belong to the "
            "file. Copy the study file and change the copy."
        )
    if not config:
        config.update(read_yaml(file))  # the report's description names the study
    return file


try:
    STUDY = load_study(find_study_file())
    if workflow.is_main_process:
        STUDY.check_existing()
    FIGURES = figure_names(STUDY)
    CLUSTER_FILE = find_cluster(Path(workflow.basedir), os.environ)
    CLUSTER = read_cluster(CLUSTER_FILE)
except UserError as error:
    raise WorkflowError(str(error))

if workflow.is_main_process:
    for warning in STUDY.warnings():
        logger.warning(f"warning: {warning}")

ROOT = str(STUDY.root)
ARMS = {arm.path: arm for arm in STUDY.arms}
DEMANDS = Demands(STUDY)
TRAINED = STUDY.arms if STUDY.kind == "ensemble" else []
STUDY_FILE = shlex.quote(str(STUDY.file))
THREADS = "NPROC={threads} OMP_NUM_THREADS={threads}"
PROGRAM = f"{shlex.quote(sys.executable)} -m emergent_equivariance"
EMEQ = f"{THREADS} {PROGRAM}"
EXEC_EMEQ = (
    f"{THREADS} exec {PROGRAM}"  # in the place of the shell: it gets the signals
)
# A job of a scheduler is ended after the time it asked for: it stops itself in time. Jobs on this machine have no limit.
TIME_LIMIT = " --minutes {resources.runtime}" if workflow.remote_exec else ""


def shards_of(arm):
    """Paths of the shards of an arm, those on disk re-used."""
    return [str(STUDY.shard_path(arm, *shard)) for shard in STUDY.shards(arm)]


def needed_shards_of(arm):
    """Paths of the shards that the ensemble of an arm is formed of: with execution.allow_missing those on disk."""
    return [str(STUDY.shard_path(arm, *shard)) for shard in STUDY.needed_shards(arm)]


def formed_of(arm):
    """What the ensemble of an arm depends on beside its inputs: a shard that arrives later changes it."""
    allowed = arm.settings.execution.allow_missing
    missing = STUDY.missing_shards(arm) if allowed else []
    return [arm.ensemble_hash, missing] if missing else arm.ensemble_hash


def theory_of(arm):
    """The theory store of an arm, where it has an analytic mean."""
    return [str(STUDY.theory_path(arm))] if arm.settings.has_mean else []


def study_products():
    """What a complete study consists of. Intermediate files are named too: a lost one would
    not be missed otherwise."""
    return [str(path) for path in products(STUDY)]


ARM_OF = {}  # rule: its wildcards → the arm that a job works for


def needed(rule, arm_of=lambda wildcards: None):
    """Resources of a rule whose jobs work for one arm each, or for all: functions of the wildcards and the attempt."""
    ARM_OF[rule] = arm_of

    def resource(name):
        return lambda wildcards, attempt: request(
            CLUSTER, rule, DEMANDS.of(rule, arm_of(wildcards)), attempt
        ).get(name)

    return {name: resource(name) for name in resource_names(CLUSTER, rule)}


def inputs_of(arm):
    """Data of an arm, and the learning rate file where one is resolved. Their content is in their names: age is not."""
    files = {"data": ancient(str(STUDY.data_path(arm)))}
    if arm.settings.resolves_learning_rate:
        files["learning_rate"] = ancient(str(STUDY.learning_rate_path(arm)))
    return files


def stays(path):
    """Whether a file is there to stay: what exists needs no inputs, whatever became of them, unless runs are forced."""
    forced = workflow.dag_settings.forceall or workflow.dag_settings.forcerun
    return path.exists() and not forced


def kernel_inputs(arm, made):
    """Data of an arm, and its kernels where they are computed in tiles, unless what is made of them is there to stay."""
    files = {"data": ancient(str(STUDY.data_path(arm)))}
    if planned_tiling(arm.settings) is not None and not made:
        files["kernels"] = ancient(str(STUDY.kernel_path(arm)))
    return files


def assembly_inputs(wildcards):
    """Inputs of a kernel store that is to be assembled; one that exists stays, however it was cut."""
    arm = STUDY.arm_with_tiles(wildcards.key)
    if stays(STUDY.kernel_path(arm)):
        return {}
    jobs = planned_tiling(arm.settings).jobs(arm.settings.execution.tiles_per_job)
    tiles = [str(STUDY.tiles_path(arm, first, last)) for first, last in jobs]
    return {"data": ancient(str(STUDY.data_path(arm))), "tiles": tiles}


def learning_rate_inputs(wildcards):
    """Inputs of a learning rate that is resolved."""
    arm = STUDY.arm_with("learning_rate_key", wildcards.key)
    return kernel_inputs(arm, stays(STUDY.learning_rate_path(arm)))


def theory_inputs(wildcards):
    """Inputs of an analytic solution."""
    arm = STUDY.arm_with("theory_key", wildcards.key)
    return inputs_of(arm) | kernel_inputs(arm, stays(STUDY.theory_path(arm)))


def current(path, expected):
    """Whether a file carries this config hash. One with another is made again, also where .snakemake, which would
    tell, is lost, or in another folder than that of the study that wrote it."""
    found = header(Path(path)).get("config_hash")
    if found not in (None, expected):
        make_again(path)
    return found == expected


def make_again(path):
    """Have a file made, whatever Snakemake knows of it."""
    workflow.dag.forcefiles.add(str(path))


def measure_inputs(wildcards):
    """Inputs of an arm of a study of kernels."""
    arm = ARMS[wildcards.arm]
    path = STUDY.measure_path(arm)
    return kernel_inputs(arm, current(path, arm.result_hash) and stays(path))


def aggregate_inputs(wildcards):
    """Inputs of an ensemble."""
    arm = ARMS[wildcards.arm]
    path = STUDY.ensemble_path(arm)
    if current(path, arm.ensemble_hash) and header(path).get("missing", 0) != len(
        missing_members(STUDY, arm)
    ):
        make_again(path)
    return {
        "data": ancient(str(STUDY.data_path(arm))),
        "theory": theory_of(arm),
        "shards": needed_shards_of(arm),
    }


def metrics_inputs(wildcards):
    """Stores of all arms."""
    current(f"{ROOT}/metrics.nc", STUDY.metrics_hash)
    return [str(STUDY.result_path(arm)) for arm in STUDY.arms]


def shard_inputs(wildcards):
    """Inputs of a shard that is to be trained; one that exists needs nothing, whatever became of its inputs."""
    arm = ARMS[wildcards.arm]
    made = STUDY.shard_path(arm, int(wildcards.first), int(wildcards.last))
    if stays(made):
        return {}
    return inputs_of(arm) | {"probe": ancient(str(STUDY.probe_path(arm)))}


def probe_inputs(wildcards):
    """Inputs of the measurement of engines; one that is made needs nothing."""
    arm = STUDY.arm_with("probe_key", wildcards.key)
    if stays(STUDY.probe_path(arm)):
        return {}
    return {"data": ancient(str(STUDY.data_path(arm)))}


def figure_stores():
    """Stores that the pictures are drawn from, beside the metrics."""
    arms = store_arms(STUDY)
    paths = [
        path
        for arm in arms
        for path in (
            str(STUDY.data_path(arm)),
            str(STUDY.ensemble_path(arm)),
            *theory_of(arm),
        )
    ]
    return sorted(set(paths))


def figure_files():
    """Every picture of the study, as SVG with its caption for Snakemake's report and as PNG."""
    vector = {
        name: report(
            f"{ROOT}/figures/{name}.svg",
            caption=f"../report/{PICTURES[name].caption}",
            category="Figures",
            labels={"figure": PICTURES[name].title},
        )
        for name in FIGURES
    }
    return vector | {f"{name}_png": f"{ROOT}/figures/{name}.png" for name in FIGURES}


# ------------------------------------------------------------------------------------------- runs that begin and end

HELD = []  # the lock on the results, as long as this process lives


def begin():
    """Be the only controller of the results; refuse to start where another one is, or for an arm without members."""
    jobs = [
        job for job in workflow.dag.needrun_jobs() if job.rule.name == "aggregate_arm"
    ]
    try:
        for arm in (ARMS[job.wildcards.arm] for job in jobs):
            if not STUDY.needed_shards(arm):
                ensemble_shards(STUDY, arm)
        if workflow.non_local_exec:
            check_cluster()
        HELD.append(controller.acquire(STUDY))
    except UserError as error:
        raise WorkflowError(str(error))
    if HELD[-1] is None:
        logger.warning(
            f"warning: the file system of {ROOT} has no locks: see to it that no other Snakemake works on it meanwhile"
        )


def check_cluster():
    """Refuse jobs that the cluster cannot run, before any is submitted."""
    asked = []
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in ARM_OF and not job.is_local:
            arm = ARM_OF[job.rule.name](job.wildcards)
            need = DEMANDS.of(job.rule.name, arm)
            asked.append(
                Asked(
                    job.rule.name, arm, need, dict(job.resources.items()), job.threads
                )
            )
    offer = None
    if workflow.executor_plugin.name == "slurm":
        slurm.check_login()
        heed_lost_jobs(
            sys.modules["snakemake_executor_plugin_slurm"],
            workflow.executor_settings.requeue,
        )
        offer = slurm.offered(any("slurm_account" in job.resources for job in asked))
        for line in offer.unknown:
            logger.warning(f"warning: {line}")
    runs = 1 + workflow.execution_settings.retries
    check_jobs(CLUSTER, CLUSTER_FILE, asked, offer, runs)


def tell_missing():
    """Say by name what a run that failed has not made, and how to go on."""
    if text := missing_report(STUDY):
        logger.error(f"\n{text}\n")


if workflow.is_main_process:
    if other := controller.other(STUDY):
        logger.warning(f"{STUDY.file}: {other} works on {ROOT} now.")
    for arm in TRAINED:
        if not STUDY.needed_shards(arm):
            logger.warning(
                f"warning: {STUDY.file}: the arm {arm.path} has no shard, and execution.allow_missing keeps the default "
                "target from training any: its ensemble will be refused. The target all_members trains them."
            )
