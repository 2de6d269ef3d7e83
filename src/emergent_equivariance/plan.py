"""What a study will cost before anything runs: members, shards, floating-point work, kernels, memory and disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from rich.console import Console
from rich.table import Table

from .groups import get_group
from .settings import ConvergenceSettings, Settings
from .settings.cluster import Cluster
from .study import Arm, Probe, Study, read_probe
from .study.budget import needs, size, training_job_bytes
from .study.cluster import request
from .study.resources import LOCAL, START, Demand, Demands, Job, jobs, threads_of
from .study.tiling import planned_tiling
from .study.work import core_seconds, gradient_steps, joined_bytes, training_flops

#: Columns below which a terminal is narrow.
NARROW = 100

#: Members whose predictions are kept in the ensemble store as examples.
EXAMPLES = 8


@dataclass(frozen=True)
class Cost:
    """Estimated cost of one arm.

    Attributes:
      members, shards: counts.
      flops: floating-point operations of training; None: unknown.
      shard_bytes: raw predictions of all members and, where their size is known, the weights that are stored; before
        compression (random numbers hardly compress).
      ensemble_bytes: the ensemble store and the arm's part of metrics.nc.
    """

    members: int
    shards: int
    flops: float | None
    shard_bytes: int
    ensemble_bytes: int


def estimate(study: Study, arm: Arm) -> Cost | None:
    """Cost of an arm, or None where only the data of a custom task tells its shapes."""
    s = arm.settings
    shape, outputs = s.task.input_shape(), s.task.outputs()
    if shape is None or outputs is None:
        return None
    order = get_group(s.group).order
    evaluated = sum(min(s.evaluate.samples, s.task.train if split == "train" else s.task.test) for split in s.splits())
    values = len(s.training.recorded) * evaluated * order * outputs
    weights = len(s.training.store_weights) * 4 * (s.network.parameters(shape, outputs) or 0)
    members = s.ensemble.members
    counts = members.bit_length() if s.evaluate.member_counts == "powers_of_two" else len(s.evaluate.member_counts)
    kept = 16 + 4 * (s.evaluate.stored_subsets * counts + EXAMPLES)
    return Cost(
        members=members,
        shards=len(study.shards(arm)),
        flops=training_flops(s, shape, outputs),
        shard_bytes=members * (4 * values + weights),
        ensemble_bytes=values * kept + joined_bytes(s),
    )


def data_bytes(study: Study) -> int:
    """Size of all data, kernel and theory stores of a study, before compression."""
    stores: dict[str, int] = {}
    for arm in study.arms:
        s = arm.settings
        shape, outputs = s.task.input_shape(), s.task.outputs()
        if shape is None or outputs is None:
            continue
        samples = s.task.train + s.task.test * (1 + len(s.task.ood))
        stores[arm.data_key] = 8 * samples * (prod(shape) + outputs)
        if found := needs(s):
            stores[arm.kernel_key] = max(found.disk, stores.get(arm.kernel_key, 0))
        if study.kind == "ensemble" and s.has_mean:
            order, records = get_group(s.group).order, len(s.training.recorded)
            evaluated = min(samples, s.evaluate.samples * len(s.splits()))
            stores[arm.theory_key] = 8 * records * evaluated * order * (outputs + order * s.has_covariance)
    return sum(stores.values())


def render(study: Study, keys: bool, console: Console | None = None, cluster: Cluster | None = None) -> None:
    """Print the plan of a study as tables: what is trained, the kernels of the analytic side, and all jobs with what
    they need, and what they ask a cluster for where one is given."""
    console = console or Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    narrow = console.width < NARROW
    if study.kind == "ensemble":
        _show(console, _members_table(study, narrow))
        if keys:
            _show(console, _keys_table(study, narrow))
    elif study.kind == "kernel_convergence":
        _show(console, _networks_table(study, keys, narrow))
    kernels, tile_jobs = _kernels_table(study, keys, narrow)
    if kernels.row_count:
        _show(console, kernels)
    costs = [estimate(study, arm) for arm in study.arms] if study.kind == "ensemble" else []
    disk = sum(cost.shard_bytes + cost.ensemble_bytes for cost in costs if cost is not None) + data_bytes(study)
    disk += 0 if costs else sum(joined_bytes(arm.settings) for arm in study.arms)
    parts = []
    if study.kind == "ensemble":
        members = sum(arm.settings.ensemble.members for arm in study.arms)
        shards = sum(len(study.shards(arm)) for arm in study.arms)
        parts.append(f"{_counted(members, 'member')} in {_counted(shards, 'shard')}")
        solutions = {arm.theory_key: arm.settings.theory.monte_carlo for arm in study.arms if arm.settings.has_mean}
        estimated = sum(networks is not None for networks in solutions.values())
        if len(solutions) > estimated or not estimated:
            parts.append(_counted(len(solutions) - estimated, "analytic solution"))
        parts += [_counted(estimated, "solution") + " with Monte-Carlo kernels"] if estimated else []
    parts += [f"{_counted(tile_jobs, 'job')} for tiles of kernels"] if tile_jobs else []
    console.print(f"in all: {', '.join([*parts, size(disk)])} under {study.root}")
    if any(cost is None for cost in costs):
        console.print("work and disk of a custom task (?) are known once its data is made")
    if any(cost is not None and cost.flops is None for cost in costs):
        console.print("the work of network torch (?) is known once it is measured; its stored weights are not counted")
    console.print()
    _show(console, _jobs_table(study, cluster, narrow))
    if cluster is not None:
        console.print(_asked(study, cluster))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def si(value: float) -> str:
    """A number in three digits with the prefix of a unit: 540, 107 k, 1.59 T."""
    for prefix in ("", " k", " M", " G", " T", " P"):
        if value < 999.5:
            return f"{value:.3g}{prefix}"
        value /= 1000
    return f"{value:.3g} E"


def _table(title: str, columns: list[str], narrow: bool) -> Table:
    """A table without lines; a column whose heading begins with "<" is left-aligned and may be folded."""
    gap = 1 if narrow else 2
    table = Table(
        title=title,
        header_style="dim",
        box=None,
        padding=(0, gap, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        is_left = column.startswith("<")
        table.add_column(
            column.removeprefix("<"), justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold"
        )
    return table


def _show(console: Console, table: Table) -> None:
    """Print a table under its title, and an empty line."""
    title, table.title = table.title, None
    console.print(title, style="bold")
    console.print(table, "")


def _name(arm: Arm, room: int | None) -> str:
    """Folder name of an arm, on several lines where it has more characters than there is room for."""
    return arm.path if room is None or len(arm.path) <= room else arm.path.replace("/", "/\n")


def _title(study: Study) -> str:
    return f"{study.file}: study {study.name!r}, {_counted(len(study.arms), 'arm')}"


def _members_table(study: Study, narrow: bool) -> Table:
    """Members of every arm, how they are trained, and what that costs."""
    columns = ["<arm", "members", "shards", "to\ntrain", "<engine", "FLOP", "core-\nhours", "memory,\nabout"]
    table = _table(_title(study), [*columns, "predic-\ntions"], narrow)
    for arm in study.arms:
        cost, probe = estimate(study, arm), read_probe(study.probe_path(arm), arm.probe_key)
        missing = len(set(study.missing_shards(arm)) & set(study.needed_shards(arm)))
        cells = [
            _name(arm, 17 if narrow else None),
            str(arm.settings.ensemble.members),
            str(len(study.shards(arm))),
            str(missing),
        ]
        cells.append("by probe" if probe is None else str(probe.choice))
        cells.append("?" if cost is None or cost.flops is None else si(cost.flops))
        cells.append(_hours(arm, cost, probe))
        memory = training_job_bytes(arm.settings, probe)
        cells.append("?" if memory is None else size(memory))
        cells.append("?" if cost is None else size(cost.shard_bytes))
        table.add_row(*cells)
    return table


def _keys_table(study: Study, narrow: bool) -> Table:
    """Keys of the data, of how it is trained and of the analytic solution, of every arm."""
    table = _table("keys", ["<arm", "<data key", "<engine key", "<theory key"], narrow)
    for arm in study.arms:
        table.add_row(_name(arm, 26 if narrow else None), arm.data_key, arm.probe_key, arm.theory_key)
    return table


def _hours(arm: Arm, cost: Cost | None, probe: Probe | None) -> str:
    """Core-hours of training, or hours of a GPU: as measured, or else estimated, or "?"."""
    s = arm.settings
    if probe is not None and probe.seconds is not None:
        hours = s.ensemble.members * gradient_steps(s) * probe.seconds / 3600
        return f"{hours * probe.threads:.2g}" if probe.device == "cpu" else f"{hours:.2g} of GPU"
    if cost is None or cost.flops is None:
        return "?"
    return f"{core_seconds(s, cost.flops, s.ensemble.members * gradient_steps(s)) / 3600:.2g}"


def _networks_table(study: Study, keys: bool, narrow: bool) -> Table:
    """Networks of every arm of a study of kind kernel_convergence."""
    columns = ["<arm", "networks", "width", "inputs", "empirical\nkernels", "to do"]
    table = _table(_title(study), [*columns, *(["<data key"] if keys else [])], narrow)
    for arm in study.arms:
        s = arm.settings
        assert isinstance(s, ConvergenceSettings)
        networks, inputs = s.convergence.members, s.convergence.inputs
        missing = int(not study.measure_path(arm).exists())
        cells = [
            _name(arm, 40 if narrow else None),
            networks,
            s.network.width,
            inputs,
            networks * inputs * (inputs + 1) // 2,
            missing,
        ]
        table.add_row(*map(str, cells), *([arm.data_key] if keys else []))
    return table


def _kernels_table(study: Study, keys: bool, narrow: bool) -> tuple[Table, int]:
    """Kernels of every analytic solution (of every arm in kernel regression), and the number of jobs for tiles."""
    title = "analytic side" if study.kind == "ensemble" else _title(study)
    is_tiled = any((found := needs(arm.settings)) is not None and found.tiling is not None for arm in study.arms)
    tiles = ["tiles", "jobs", "to do", "disk"] if is_tiled else []
    columns = ["<arm", "training\nsamples", "other\nsamples", "kernel\npairs", *tiles, "memory"]
    table = _table(title, [*columns, *(["<kernel key"] if keys and is_tiled else [])], narrow)
    done: set[str] = set()
    tile_jobs: dict[str, int] = {}
    for arm in study.arms:
        found = needs(arm.settings)
        name = arm.theory_key if isinstance(arm.settings, Settings) else arm.path
        if found is None or name in done:
            continue
        done.add(name)
        whole, tiling = found.whole, found.tiling
        cells = [_name(arm, 30 if narrow else None), str(whole.train), str(whole.rows - whole.train), si(found.pairs)]
        if tiling is None:
            cells += [""] * len(tiles)
        else:
            ranges = _tile_jobs(study, arm.kernel_key)
            missing = [job for job in ranges if not study.tiles_path(arm, *job).exists()]
            to_compute = 0 if study.kernel_path(arm).exists() else len(missing)
            tile_jobs[arm.kernel_key] = len(ranges)
            cells += [f"{tiling.count} of {tiling.side}²", str(len(ranges)), str(to_compute), size(found.disk)]
        cells.append(size(max(found.tile_job, found.solution)))
        table.add_row(*cells, *([arm.kernel_key if tiling else ""] if keys and is_tiled else []))
    return table, sum(tile_jobs.values())


def _jobs_table(study: Study, cluster: Cluster | None, narrow: bool) -> Table:
    """Jobs of every rule with what they need, those that are alike in one row."""
    asked = [] if cluster is None else ["asks for\nminutes", "\nMB", "\nCPUs", "<\nsent to"]
    title = f"jobs on a cluster, with {START / 60:g} minutes each to start"
    table = _table(title, ["<rule", "jobs", "to do", "minutes", "memory", *asked], narrow)
    rows: dict[tuple[str, ...], list[int]] = {}
    for job, demand in _demands(study):
        counts = rows.setdefault(_need(job, demand, cluster), [0, 0])
        counts[0] += job.count
        counts[1] += job.missing
    for (rule, *cells), counts in rows.items():
        table.add_row(rule, *map(str, counts), *cells)
    return table


def _need(job: Job, demand: Demand, cluster: Cluster | None) -> tuple[str, ...]:
    """Rule, minutes and memory of a job, and what it asks a cluster for."""
    minutes = "?" if demand.minutes is None else f"{demand.minutes:.1f}"
    cells = (job.rule, minutes, size(demand.memory * 1e6))
    if cluster is None:
        return cells
    found = request(cluster, job.rule, demand)
    gpu = found.get("gres") or (f"gpu:{found.get('gpu_model', '1')}" if "gpu" in found else "")
    queue = f"{found.get('slurm_partition', 'the default partition')} {gpu}".strip()
    threads = threads_of(job.rule, job.arm)
    where = "this machine" if job.rule in LOCAL else queue
    return (*cells, str(found["runtime"]), str(found["mem_mb"]), str(threads), where)


def _asked(study: Study, cluster: Cluster) -> str:
    """What all jobs that are to do ask a cluster for."""
    jobs, hours, cores, gpus = 0, 0.0, 0.0, 0.0
    for job, demand in _demands(study):
        if job.rule in LOCAL:
            continue
        found = request(cluster, job.rule, demand)
        each = job.missing * int(found["runtime"]) / 60
        jobs, hours, cores = jobs + job.missing, hours + each, cores + each * threads_of(job.rule, job.arm)
        gpus += each if "gpu" in found or "gres" in found else 0.0
    said = f"{_counted(jobs, 'job')} to submit, asking for {hours:.3g} hours in all, {cores:.3g} core-hours"
    return f"{said}, {gpus:.3g} hours of a GPU at most"


def _demands(study: Study) -> Iterator[tuple[Job, Demand]]:
    demands = Demands(study)
    return ((job, demands.of(job.rule, job.arm)) for job in jobs(study))


def _tile_jobs(study: Study, key: str) -> list[tuple[int, int]]:
    """Ranges (first, last) of the tiles of the jobs that compute the kernels with this key."""
    settings = study.arm_with_tiles(key).settings
    tiling = planned_tiling(settings)
    return tiling.jobs(settings.execution.tiles_per_job) if tiling else []
