"""The tables of docs/scaling.md, from measured constants and the program's own estimates.

    python -m tests.scale.page      write them into the page

The constants are rows of docs/benchmarks.json (constants.py), the estimates those that `emeq plan` shows: jobs, bytes,
core-hours, kernels, memory.
"""

import math
import re
from pathlib import Path

from emergent_equivariance.plan import data_bytes, estimate
from emergent_equivariance.study import parse_study, read_yaml
from emergent_equivariance.study.budget import aggregation_memory, joining_memory, needs, size
from emergent_equivariance.study.resources import jobs
from emergent_equivariance.study.work import EIGEN, aggregation_seconds, pair_seconds, training_seconds

from . import constants

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"

#: Operations per second of a GPU in float32: half of the 19.5e12 published for an NVIDIA A100. Assumed, not measured.
GPU_RATE = 0.5 * 19.5e12

#: Seconds that a training job takes to start beside the work on a GPU: CUDA on top of what is measured. Assumed.
GPU_START = 5.0

#: Start-up over wall time that shards are cut for.
SHARE = 0.05

#: Members and shard sizes of the studies of the first table, training samples of the second.
MEMBERS = {1_000: 50, 10_000: 200, 60_000: 200, 100_000: 500}
SAMPLES = (1_000, 10_000, 100_000)

#: Training jobs of the workflow that import the libraries of a training job; the others compute on the processor only.
TRAINING = ("train_shard", "probe_engine")


def overhead_seconds(study, constant, *, slurm):
    """Processor seconds that the workflow and the starts of its processes take, from measured constants."""
    counts = {}
    for job in jobs(study):
        counts[job.rule] = counts.get(job.rule, 0) + job.count
    total = sum(counts.values())
    training = sum(counts.get(rule, 0) for rule in TRAINING)
    tracked = counts.get("train_shard", 0) + counts.get("compute_theory", 0) + 1
    each = constant[constants.PLAN_JOB] + constant[constants.SLURM_JOB if slurm else constants.LOCAL_JOB]
    seconds = constant[constants.PLAN_START] + 1e-3 * each * total
    seconds += (constant[constants.TRAIN] + constant[constants.WATCH]) * training
    seconds += constant[constants.COMMAND] * (total - training)
    seconds += constant[constants.WANDB] * tracked * (study.tracking.wandb != "disabled")
    return seconds + (constant[constants.INNER] * total if slurm else 0.0)


def members_study(members, shard_size):
    """config/ising_full.yaml with so many members in all of its six arms together."""
    content = read_yaml(ROOT / "config" / "ising_full.yaml")
    content["ensemble"]["members"] = math.ceil(members / 6)
    content["execution"]["shard_size"] = shard_size
    return parse_study(content, Path("ising_full.yaml"), Path("nowhere"))


def members_table(constant):
    """Columns: sizes of the study; rows: what it takes."""
    columns, rows = [], {}

    def add(name, text):
        rows.setdefault(name, []).append(text)

    for members, shard_size in MEMBERS.items():
        study = members_study(members, shard_size)
        costs = [estimate(study, arm) for arm in study.arms]
        shards, total = sum(cost.shards for cost in costs), sum(job.count for job in jobs(study))
        work = sum(training_seconds(arm.settings) for arm in study.arms)
        flops = sum(cost.flops for cost in costs)
        raw = constant[constants.DISK] * sum(cost.shard_bytes for cost in costs)
        runs = shards + sum(job.count for job in jobs(study) if job.rule == "compute_theory") + 1
        columns.append(f"{members:,} members in shards of {shard_size}")
        add("shards", f"{shards:,}")
        add("jobs", f"{total:,}")
        add(
            "files under results/, without logs and tracking",
            f"{constant[constants.FILES_PER_SHARD] * shards + constant[constants.FILES_BESIDE]:,.0f}",
        )
        add("predictions on disk", size(raw))
        add("ensembles, metrics, data, theory", size(sum(cost.ensemble_bytes for cost in costs) + data_bytes(study)))
        add("core-hours of training", f"{work / 3600:.2g}")
        for cores in (2, 64, 1024):
            add(f"hours on {cores} cores", f"{work / 3600 * math.ceil(shards / cores) / shards:.2g}")
        add("GPU-hours of training (assumed rate)", f"{flops / GPU_RATE / 3600:.2g}")
        for where in ("one machine", "SLURM"):
            overhead = overhead_seconds(study, constant, slurm=where == "SLURM")
            add(f"workflow and start-up / wall time, {where}", f"{100 * overhead / (overhead + work):.2g} %")
        memory = constant[constants.PLAN_MEMORY] + 1e-3 * constant[constants.PLAN_MEMORY_JOB] * total
        add("controller: memory", f"{memory:.0f} MB")
        for where, row in (("one machine", constants.LOCAL_JOB), ("SLURM", constants.SLURM_JOB)):
            seconds = constant[constants.PLAN_START] + 1e-3 * (constant[constants.PLAN_JOB] + constant[row]) * total
            add(f"controller: processor time, {where}", f"{seconds:.2g} s")
        add(
            "aggregation of an arm: processor time",
            f"{max(aggregation_seconds(a.settings) for a in study.arms) / 60:.2g} min",
        )
        add(
            "aggregation of an arm: memory asked for",
            f"{max(aggregation_memory(a.settings) for a in study.arms) / 1e3:.2g} GB",
        )
        each = study.arms[0].settings.ensemble.members / 10_000
        joined = constant[constants.METRICS] * each * len(study.arms)
        add("join_metrics: processor time, at most", f"{joined:.2g} s")
        add("join_metrics: memory asked for", f"{joining_memory([a.settings for a in study.arms]) / 1e3:.2g} GB")
        add("emeq verify: processor time", f"{raw / 1e9 / constant[constants.VERIFY] / 60:.2g} min")
        add("runs of Weights & Biases", f"{runs:,}")
        files, stored = (runs * constant[row] for row in (constants.WANDB_FILES, constants.WANDB_BYTES))
        add("offline runs on disk", f"{files:,.0f} files, {size(1e3 * stored)}")
    return table("", columns, rows)


def sample_study(samples, network, route="auto"):
    """Group c4, full augmentation, one arm of 1,000 members; a memory budget that refuses nothing."""
    content = {
        "study": "samples",
        "task": {"name": "ising", "lattice": 16, "target": "total", "train": samples, "test": 1000},
        "network": network,
        "augmentation": "full",
        "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 1000, "record": [0, 10, 100, 1000]},
        "ensemble": {"members": 1000},
        "theory": {"route": route},
        "execution": {"memory": 1e9},
    }
    return parse_study(content, Path("samples.yaml"), Path("nowhere"))


NETWORKS = {
    "mlp": {"name": "mlp", "hidden_layers": 3, "width": 512},
    "cnn": {"name": "cnn", "conv_layers": 2, "kernel_size": 3, "width": 64, "head": "global_average_pool"},
}


def samples_table(_):
    """Columns: training samples; rows: what the analytic side takes, and training of 1,000 members."""
    columns, rows = [f"{samples:,} training samples" for samples in SAMPLES], {}

    def add(name, text):
        rows.setdefault(name, []).append(text)

    for samples in SAMPLES:
        for name, network in NETWORKS.items():
            study = sample_study(samples, network)
            (arm,), settings = study.arms, study.arms[0].settings
            found = needs(settings)
            if name == "mlp":
                add("jobs for tiles", f"{found.jobs:,}" if found.tiling else "none, in one job")
                add("kernels on disk", size(found.disk) if found.tiling else "none")
                add("memory of a job of tiles", size(found.tile_job) if found.tiling else "none")
                add("memory of the solution in blocks", size(found.solution))
                direct = sample_study(samples, network, "direct").arms[0].settings
                add("memory of the solution on the augmented set", size(needs(direct).solution))
                add("core-hours of the solution in blocks", f"{EIGEN * 4 * samples**3 / 3600:.2g}")
                add("core-hours of the solution on the augmented set", f"{EIGEN * (4 * samples) ** 3 / 3600:.2g}")
            add(f"{name}: core-hours of kernels", f"{found.pairs * pair_seconds(settings) / 3600:.2g}")
            add(f"{name}: core-hours of 1,000 members, 1000 steps", f"{training_seconds(settings) / 3600:.2g}")
            add(f"{name}: GPU-hours of them (assumed rate)", f"{estimate(study, arm).flops / GPU_RATE / 3600:.2g}")
    return table("", columns, rows)


def shards_table(constant):
    """Smallest shards whose start-up is at most SHARE of their time, for the arms of config/ising_full.yaml."""
    study = members_study(60_000, 200)
    columns = ["one machine", "SLURM, one core", "SLURM, one GPU (assumed rate)"]
    rows = {}
    start = constant[constants.TRAIN] + constant[constants.WANDB] + constant[constants.WATCH]
    cluster = start + constant[constants.INNER]
    for arm in study.arms:
        cost, members = estimate(study, arm), arm.settings.ensemble.members
        on_core, on_gpu = training_seconds(arm.settings) / members, cost.flops / members / GPU_RATE
        needed = [(start, on_core), (cluster, on_core), (cluster + GPU_START, on_gpu)]
        rows[f"`{arm.path}`"] = [f"{math.ceil((1 / SHARE - 1) * s / each):,}" for s, each in needed]
    return table("arm", columns, rows)


def constants_table(constant):
    """The measured constants."""
    names = [value for key, value in vars(constants).items() if key.isupper() and isinstance(value, str)]
    return table("constant", ["value"], {name.removeprefix("scale: "): [f"{constant[name]:.3g}"] for name in names})


def table(corner, columns, rows):
    """Markdown; rows: name → cells. What rests on a constant that was not measured is a question mark."""
    told = {name: ["?" if "nan" in cell else cell for cell in cells] for name, cells in rows.items()}
    lines = [[corner, *columns], ["---"] * (1 + len(columns)), *([name, *cells] for name, cells in told.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES = {"constants": constants_table, "members": members_table, "shards": shards_table, "samples": samples_table}


def with_tables(text, constant):
    """The page with its tables, between comments that name them, computed anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        made = f"{begin}\n{make(constant)}\n{end}"
        text, found = pattern.subn(lambda _, made=made: made, text)
        assert found == 1, f"{PAGE}: {begin} is there {found} times"
    return text


def main():
    PAGE.write_text(with_tables(PAGE.read_text(), constants.read()))


if __name__ == "__main__":
    main()
