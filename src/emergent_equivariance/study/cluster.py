"""The cluster file: read, checked, and turned into what a job asks the scheduler for."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path

from pydantic import ValidationError

from ..errors import StudyError
from ..settings.cluster import Cluster
from .problems import explain
from .reading import read_yaml
from .resources import Demand

__all__ = ["ENVIRONMENT", "find_cluster", "read_cluster", "request", "resource_names"]

#: Environment variable that names another cluster file.
ENVIRONMENT = "EMEQ_CLUSTER"

EXAMPLE = "profiles/slurm/cluster.example.yaml"


def read_cluster(file: Path | None) -> Cluster:
    """Read and check a cluster file; without one nothing is said, and the site's defaults apply.

    Raises StudyError naming file, key, value and remedy.
    """
    if file is None:
        return Cluster()
    content = read_yaml(file, example=EXAMPLE)
    try:
        return Cluster.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{file}: {explain(Cluster, error)}") from None


def find_cluster(project: Path, environment: Mapping[str, str]) -> Path | None:
    """The cluster file: the one that the environment names, else that of the profile; None if there is none."""
    if given := environment.get(ENVIRONMENT):
        return Path(given)
    usual = project / "profiles" / "slurm" / "cluster.yaml"
    return usual if usual.exists() else None


def resource_names(cluster: Cluster, rule: str) -> list[str]:
    """Names of the resources that jobs of a rule may ask for; see request."""
    needs = (Demand(1.0, 1, gpu) for gpu in (False, True))
    return list(dict.fromkeys(name for need in needs for name in request(cluster, rule, need)))


#: Key of a queue → name of the resource in the SLURM executor of Snakemake.
_NAMES = {
    "account": "slurm_account",
    "partition": "slurm_partition",
    "qos": "qos",
    "constraint": "constraint",
    "extra": "slurm_extra",
}


def request(cluster: Cluster, rule: str, demand: Demand, attempt: int = 1) -> dict[str, int | str]:
    """What a job asks the scheduler for.

    Args:
      cluster: the cluster.
      rule: name of the rule.
      demand: what the job needs.
      attempt: 1 the first time a job is run.

    Returns: name of the resource → value: mem_mb in MB (10⁶ bytes), runtime in minutes, and where it is sent.
    """
    minutes = cluster.unknown_minutes if demand.minutes is None else demand.minutes * cluster.minutes_factor
    minutes *= cluster.minutes_growth ** (attempt - 1)
    memory = demand.memory * cluster.memory_growth ** (attempt - 1)
    found: dict[str, int | str] = {
        "mem_mb": ceil(min(memory, 1000 * (cluster.max_memory or memory))),
        "runtime": ceil(min(minutes, cluster.max_minutes or minutes)),
    }
    gpu = cluster.gpu if cluster.gpu and demand.gpu and rule in cluster.gpu.rules else None
    for key, name in _NAMES.items():
        value = getattr(gpu, key) if gpu and getattr(gpu, key) is not None else getattr(cluster, key)
        if value is not None:
            found[name] = value
    if gpu and gpu.request == "gres":
        found["gres"] = f"gpu:{gpu.type}:1" if gpu.type else "gpu:1"
    elif gpu:
        found["gpu"] = 1
        if gpu.type:
            found["gpu_model"] = gpu.type
    return found
