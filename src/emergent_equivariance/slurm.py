"""What a SLURM cluster offers, asked for once before anything is submitted, and whether jobs fit into it.

Only a few quick questions are asked (sinfo, scontrol, sacctmgr). Sites may forbid any of them; then what it would have
told is not checked, and one line says so.
"""

from __future__ import annotations

import getpass
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import UserError

__all__ = ["SBATCH", "ClusterError", "Misfit", "Offer", "Partition", "asked_gpus", "check", "check_login", "offered"]

#: Seconds that an answer may take.
PATIENCE = 20.0

#: Program that jobs are submitted with.
SBATCH = "sbatch"

#: Runs a command and returns what it prints; raises OSError or subprocess.SubprocessError.
Ask = Callable[[Sequence[str]], str]


class ClusterError(UserError):
    """Jobs ask for what the cluster does not have."""


@dataclass
class Partition:
    """What the nodes of a partition have.

    Attributes:
      name: its name.
      minutes: longest time of a job.
      memory: largest memory of a job in MB (2²⁰ bytes).
      cpus: most CPUs of a node.
      gpus: type → most GPUs of a node; "" where no type is named.
      features: of any of its nodes.
      default: whether jobs go there that name none: the cluster's default, or where it has none, that of the user
        ($SBATCH_PARTITION).
    """

    name: str
    minutes: float = math.inf
    memory: float = 0.0
    cpus: int = 0
    gpus: dict[str, int] = field(default_factory=dict)
    features: set[str] = field(default_factory=set)
    default: bool = False


@dataclass(frozen=True)
class Offer:
    """What a cluster offers.

    Attributes:
      partitions: name → partition; None: not known.
      accounts: those the user may charge, lower case; None: not known.
      unknown: a line for every question that was not answered.
    """

    partitions: Mapping[str, Partition] | None
    accounts: frozenset[str] | None
    unknown: Sequence[str] = ()


def check_login() -> None:
    """Raise ClusterError where no job can be submitted from this machine."""
    if shutil.which(SBATCH) is None:
        raise ClusterError(
            f"{SBATCH} is not on this machine (not in PATH): no job can be submitted.",
            remedy="Nothing was submitted. Run on a login node of the cluster (load SLURM's module where there is one) "
            "or leave out --workflow-profile profiles/slurm to run on this machine.",
        )


def offered(accounts: bool = True, ask: Ask | None = None) -> Offer:
    """Ask SLURM what there is; for the accounts of the user only where ``accounts`` says so."""
    ask = ask or _ask
    unknown: list[str] = []

    def answer(what: str, *command: str) -> list[list[str]]:
        try:
            return [line.split("|") for line in ask(command).splitlines() if line.strip()]
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or getattr(error, "strerror", None) or str(error)
            unknown.append(f"{what} not checked: {command[0]}: {(said.strip().splitlines() or ['no answer'])[0]}")
            return []

    nodes = answer("partitions, GPUs, memory and time are", "sinfo", "-h", "-e", "-o", "%P|%m|%c|%G|%f|%l")
    partitions = _partitions([row for row in nodes if len(row) == 6])
    if partitions:
        _choose_default(partitions)
        limits = answer("the memory that partitions allow is", "scontrol", "show", "partition", "-o")
        _limit_memory(partitions, [row[0] for row in limits])
    user = f"user={getpass.getuser()}"
    question = "sacctmgr", "-n", "-P", "show", "assoc", user, "format=account"
    rows = answer("the account is", *question) if accounts else []
    return Offer(partitions or None, frozenset(row[0].strip().lower() for row in rows) or None, unknown)


def _ask(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def _partitions(rows: Sequence[Sequence[str]]) -> dict[str, Partition]:
    """From lines of sinfo: name, MB of memory, CPUs, generic resources, features and time limit of equal nodes."""
    found: dict[str, Partition] = {}
    for name, memory, cpus, gres, features, limit in rows:
        name, default = name.rstrip("*"), name.endswith("*")
        part = found.setdefault(name, Partition(name, _minutes(limit), default=default))
        part.memory = max(part.memory, float(memory.rstrip("+")))
        part.cpus = max(part.cpus, int(cpus.rstrip("+")))
        part.features |= {feature for feature in features.split(",") if feature != "(null)"}
        here: dict[str, int] = {}
        for kind, count in re.findall(r"\bgpu(?::([^:,()]+))?:(\d+)", gres):
            here[kind] = here.get(kind, 0) + int(count)
        for kind, number in here.items():
            part.gpus[kind] = max(number, part.gpus.get(kind, 0))
    return found


def _choose_default(partitions: Mapping[str, Partition]) -> None:
    if not any(part.default for part in partitions.values()):
        for name in os.environ.get("SBATCH_PARTITION", "").split(","):
            if name in partitions:
                partitions[name].default = True


def _limit_memory(partitions: Mapping[str, Partition], lines: Sequence[str]) -> None:
    for line in lines:
        told = dict(part.split("=", 1) for part in line.split() if "=" in part)
        part, limit = partitions.get(told.get("PartitionName", "")), told.get("MaxMemPerNode", "")
        if part is not None and limit.isdigit() and int(limit) > 0:
            part.memory = min(part.memory, float(limit))


def _minutes(text: str) -> float:
    """Minutes of a time limit of SLURM: D-HH:MM:SS, HH:MM:SS, MM:SS, infinite."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if found is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 1440 * days + 60 * hours + minutes + seconds / 60


class Misfit(NamedTuple):
    """What a job asks for and the cluster does not have.

    Attributes:
      key: of the cluster file (settings.cluster).
      value: what is asked for.
      said: what there is.
      remedy: what to do about it.
    """

    key: str
    value: str
    said: str
    remedy: str


def check(offer: Offer, resources: Mapping[str, int | str], threads: int, start: float = 0.0) -> Misfit | None:
    """The first thing that a job asks for and the cluster does not have; None where there is none, or none is known.

    Args:
      offer: what there is.
      resources: what the job asks for, by the names of Snakemake's SLURM executor.
      threads: its CPUs.
      start: minutes that it may take to start; a partition that allows no more is of no use.
    """
    account = resources.get("slurm_account")
    if account is not None and offer.accounts is not None:
        for one in re.split(r"[,\s]+", str(account)):
            if one.lower() not in offer.accounts:
                said = f"not one of your accounts, which are {_list(offer.accounts)}"
                return Misfit("account", one, said, "Name one of these.")
    if offer.partitions is None:
        return None
    names = resources.get("slurm_partition")
    if names is None:
        chosen = [part for part in offer.partitions.values() if part.default]
        if not chosen:
            said = f"none is named, and the cluster has no default; it has {_list(offer.partitions)}"
            return Misfit("partition", "null", said, "Name one of these.")
    else:
        for name in str(names).split(","):
            if name not in offer.partitions:
                said = f"there is no such partition; the cluster has {_list(offer.partitions)}"
                return Misfit("partition", name, said, "Name one of these.")
        chosen = [offer.partitions[name] for name in str(names).split(",")]
    problems = [_misfit(part, resources, threads, start) for part in chosen]
    return None if None in problems else next(iter(problems), None)


def _misfit(part: Partition, resources: Mapping[str, int | str], threads: int, start: float) -> Misfit | None:
    where = f"partition {part.name}"
    minutes, memory = int(resources.get("runtime", 0)), int(resources.get("mem_mb", 0))
    if minutes > part.minutes:
        remedy = f"Set max_minutes to {math.floor(part.minutes)} or less, or name another partition."
        if math.floor(part.minutes) <= start:
            remedy = f"Name another partition: {start:g} minutes are the allowance for the start of a job alone."
        return Misfit("minutes", f"{minutes}", f"{where} allows {part.minutes:g}", remedy)
    if memory > part.memory:
        said = f"no node of {where} gives a job more than {part.memory:g} MB"
        remedy = f"Set max_memory to {math.floor(part.memory / 100) / 10:g} or less, or name another partition."
        return Misfit("memory", f"{memory} MB", said, remedy)
    if threads > part.cpus:
        said, remedy = f"no node of {where} has more than {part.cpus}", "Lower execution.threads or kernel_threads."
        return Misfit("CPUs", f"{threads}", said, remedy)
    constraint = str(resources.get("constraint") or "")
    if lacking := _lacking(part, constraint):
        there = f"they have {_list(part.features)}" if part.features else "they have none"
        said = f"no node of {where} has the feature {' or '.join(lacking)}; {there}"
        return Misfit("constraint", constraint, said, "Name one of these." if part.features else "Leave it out.")
    kind, count = asked_gpus(resources)
    if count == 0:
        return None
    typed = [name for name in part.gpus if name]
    if not part.gpus:
        return Misfit("gpu.partition", part.name, "no node of it has GPUs", "Name a partition that has.")
    if kind and kind not in part.gpus:
        said = f"no node of {where} has such GPUs; " + (f"it has {_list(typed)}" if typed else "its GPUs have no types")
        return Misfit("gpu.type", kind, said, "Name one of these." if typed else "Leave gpu.type out.")
    most = part.gpus[kind] if kind else sum(part.gpus.values())
    said = f"no node of {where} has more than {most}"
    return Misfit("gpu", f"{count}", said, "Ask for one.") if count > most else None


def _lacking(part: Partition, constraint: str) -> list[str]:
    """Features of a constraint that no node of a partition has: any of them, or all where alternatives are given.

    Whether one node has all that are asked for together is not known.
    """
    names = re.findall(r"[^\s&|,()\[\]]+", re.sub(r"\*\d+", "", constraint))
    lacking = [name for name in names if name not in part.features]
    return lacking if "|" not in constraint or len(lacking) == len(names) else []


def asked_gpus(resources: Mapping[str, int | str]) -> tuple[str, int]:
    """Type and number of the GPUs that a job asks for."""
    if found := re.fullmatch(r"gpu(?::([^:]*[^:\d][^:]*))?(?::(\d+))?", str(resources.get("gres", ""))):
        return found[1] or "", int(found[2] or 1)
    kind = str(resources.get("gpu_model") or "")
    return kind, int(resources.get("gpu") or bool(kind))


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
