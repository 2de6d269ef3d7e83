"""How the Snakefile starts and ends: which study file it is given, what jobs ask for, what is checked before the first.

Nothing of Snakemake is imported; its objects are given by the Snakefile.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from . import controller, slurm
from .errors import StudyError
from .scheduling import look_when_it_matters
from .slurm_states import heed_lost_jobs
from .study import Study, ensemble_shards, load_study, read_yaml
from .study.cluster import find_cluster, read_cluster, request, resource_names
from .study.dependencies import Dependencies
from .study.resources import Demands, threads_of
from .study.submission import Asked, check_jobs, unused_gpus

__all__ = ["RULES", "STUDY_FILE", "Jobs", "command", "find_study_file", "set_up", "warnings"]

#: Key of Snakemake's config that names a study file; for a Snakefile that uses this one as a module.
STUDY_FILE = "study_file"

#: The rules that have jobs of their own.
RULES = (
    "make_data",
    "compute_kernel_tiles",
    "assemble_kernels",
    "resolve_learning_rate",
    "compute_theory",
    "measure_kernels",
    "probe_engine",
    "train_shard",
    "aggregate_arm",
    "join_metrics",
    "draw_figures",
)


def find_study_file(config: Mapping[str, Any], files: Sequence[Path], default: Path) -> Path:
    """The study file that Snakemake is given.

    Args:
      config: Snakemake's config: the content of one of ``files``, or a mapping with the one key ``study_file``.
      files: the files that Snakemake was told to read.
      default: the study where neither says anything.

    Raises StudyError if there is no telling which file is meant, or if something was merged into it.
    """
    if set(config) == {STUDY_FILE}:
        return Path(config[STUDY_FILE])
    given = list({file.resolve(): file for file in files}.values())
    if not (given or config):
        return default
    meant = [file for file in given if _plain(read_yaml(file)) == _plain(config)]
    if meant:
        return meant[0]
    if len(given) == 1 and config:
        raise StudyError(
            f"{given[0]}: its content is changed by --config or another file, so that results would not belong to the "
            "file.",
            remedy="Copy the study file and change the copy.",
        )
    raise StudyError(
        f"one study file is expected, got {', '.join(map(str, given)) or 'none'}.",
        remedy="Give one --configfile; in a Snakefile that uses this one as a module, "
        f"config: {{{STUDY_FILE!r}: PATH}}.",
    )


def _plain(content: Mapping[str, Any]) -> Any:
    """What JSON makes of it: Snakemake's config holds other types of the same values."""
    return json.loads(json.dumps(content, default=str))


def command(study: Study, stage: str, options: str, *, python: str = sys.executable, in_place: bool = False) -> str:
    """The shell command of a rule, a format string as Snakemake takes it.

    Args:
      study: the study.
      stage: subcommand of emeq.
      options: its options, and where its output goes.
      python: the interpreter.
      in_place: whether the program takes the place of the shell, so that it gets the signals.
    """
    words = [python, "-m", "emergent_equivariance", stage, str(study.file)]
    if study.results != Path("results"):
        words += ["--results", str(study.results)]
    program = " ".join(map(shlex.quote, words)).replace("{", "{{").replace("}", "}}")
    return f"NPROC={{threads}} OMP_NUM_THREADS={{threads}} {'exec ' * in_place}{program} {options}"


def warnings(study: Study) -> Iterator[str]:
    """What the user is told before a run, or a dry run, of a study."""
    yield from (f"warning: {warning}" for warning in study.warnings())
    if other := controller.other(study):
        yield f"{study.file}: {other} works on {study.root} now."
    for arm in study.arms if study.kind == "ensemble" else ():
        if not study.needed_shards(arm):
            yield (
                f"warning: {study.file}: the arm {arm.path} has no shard, and execution.allow_missing keeps the "
                "default target from training any: its ensemble will be refused. The target all_members trains them."
            )


def set_up(workflow: Any, config: Mapping[str, Any], default: Path) -> Jobs:
    """The jobs of the study that Snakemake is given; see find_study_file.

    Args:
      workflow: Snakemake's, while it reads the Snakefile; as a module it has a prefix and other names of rules.
      config: its config.
      default: the study where none is given.

    Raises UserError if the study file or the cluster file is not valid, or members on disk are of another version.
    """
    files = [Path(file) for file in workflow.configfiles]
    results = Path(workflow.modifier.path_modifier.replace_prefix("results/_")).parent
    study = load_study(find_study_file(config, files, default), results)
    if workflow.is_main_process:
        study.check_existing()

    def forced() -> bool:
        return bool(workflow.dag_settings.forceall or workflow.dag_settings.forcerun)

    def remake(path: Path) -> None:
        workflow.dag.forcefiles.add(str(path))

    cluster_file = find_cluster(Path(), os.environ) or find_cluster(Path(workflow.basedir), os.environ)
    names = {workflow.modifier.modify_rulename(rule): rule for rule in RULES}
    return Jobs(Dependencies(study, forced, remake), names, cluster_file)


class Jobs:
    """The jobs of a study: what they ask for, and the checks before the first is started.

    Attributes:
      needs: the study, and what its jobs are made from.
      names: name of a rule in the workflow that runs → its name here, a key of RULES.
      cluster_file: the cluster file; None: there is none.

    Raises StudyError if the cluster file is not valid.
    """

    def __init__(self, needs: Dependencies, names: Mapping[str, str], cluster_file: Path | None) -> None:
        self.needs, self.names, self.cluster_file = needs, names, cluster_file
        self._cluster, self._demands = read_cluster(cluster_file), Demands(needs.study)
        self._lock: IO[str] | None = None

    def resources(self, rule: str) -> dict[str, Callable[..., int | str | None]]:
        """Name of a resource → function of the wildcards and the attempt of a job of that rule."""

        def resource(name: str) -> Callable[..., int | str | None]:
            return lambda wildcards, attempt: request(
                self._cluster, rule, self._demands.of(rule, self._arm(rule, wildcards)), attempt
            ).get(name)

        return {name: resource(name) for name in resource_names(self._cluster, rule)}

    def threads(self, rule: str) -> Callable[[Any], int]:
        """CPU threads of a job of a rule: a function of its wildcards."""
        return lambda wildcards: threads_of(rule, self._arm(rule, wildcards))

    def _arm(self, rule: str, wildcards: Any) -> Any:
        return self.needs.arm_of(rule, **dict(wildcards.items()))

    def begin(self, workflow: Any) -> list[str]:
        """Become the only controller of the results, as long as this object lives.

        Args:
          workflow: Snakemake's, with the jobs that it will run.

        Returns: what the user is to be told. Raises UserError where another controller is, for an arm without members,
        and where the cluster cannot run a job, before any is submitted.
        """
        study, said = self.needs.study, []
        planned = [job for job in workflow.dag.needrun_jobs() if job.rule.name in self.names]
        for job in planned:
            if self.names[job.rule.name] == "aggregate_arm":
                arm = self.needs.arms[job.wildcards.arm]
                if not study.needed_shards(arm):
                    ensemble_shards(study, arm)
        if workflow.non_local_exec:
            said += self._check_cluster(workflow, planned)
        look_when_it_matters(workflow.scheduler)
        self._lock = controller.acquire(study)
        if self._lock is None:
            said.append(
                f"warning: the file system of {study.root} has no locks: see to it that no other Snakemake works on it "
                "meanwhile"
            )
        return said

    def _check_cluster(self, workflow: Any, planned: Sequence[Any]) -> list[str]:
        """Raise ClusterError if the cluster cannot run a job; returns warnings."""
        asked = []
        for job in planned:
            if not job.is_local:
                rule = self.names[job.rule.name]
                arm = self._arm(rule, job.wildcards)
                need = self._demands.of(rule, arm)
                asked.append(Asked(rule, arm, need, dict(job.resources.items()), job.threads))
        offer = None
        if workflow.executor_plugin.name == "slurm":
            slurm.check_login()
            heed_lost_jobs(sys.modules["snakemake_executor_plugin_slurm"], workflow.executor_settings.requeue)
            offer = slurm.offered(any("slurm_account" in job.resources for job in asked))
        runs = 1 + workflow.execution_settings.retries
        check_jobs(self._cluster, self.cluster_file, asked, offer, runs)
        return [f"warning: {line}" for line in [*unused_gpus(asked), *(offer.unknown if offer is not None else [])]]
