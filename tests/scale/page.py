"""The tables of docs/scaling.md, from measured constants and the program's own estimates.

    python -m tests.scale.page      write them into the page

The constants are rows of docs/benchmarks.json (constants.py), the estimates those that `emeq plan` shows: jobs, bytes,
core-hours, kernels, memory.
"""

import math
import re
from pathlib import Path

from emergent_equivariance.plan import data_bytes, estimate
from emergent_equivariance.study import load_study, parse_study, read_yaml
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

#: profiles/slurm and its executor: seconds between two looks at the jobs while some end, more after each look at which
#: none did, and at most. A job takes about START seconds on a node beside its work (docs/cluster.md).
LOOK, MORE, LONGEST = 20, 10, 180
START = 20.0

#: Members and shard sizes of the studies of the first table, training samples of the second.
MEMBERS = {1_000: 50, 10_000: 200, 60_000: 200, 100_000: 500}
SAMPLES = (1_000, 10_000, 100_000)
GPUS = (1, 8, 64)

#: Training jobs of the workflow that import the libraries of a training job; the others compute on the processor only.
TRAINING = ("train_shard", "probe_engine")


def job_counts(study):
    """Rule → number of jobs."""
    counts = {}
    for job in jobs(study):
        counts[job.rule] = counts.get(job.rule, 0) + job.count
    return counts


def runs(study):
    """Runs of Weights & Biases: of shards, of theories, the summary."""
    counts = job_counts(study)
    return counts["train_shard"] + counts.get("compute_theory", 0) + 1


def files_at_most(study, constant):
    """Files under results/STUDY of a study of up to ten arms, without logs and tracking."""
    return constant[constants.FILES_PER_SHARD] * job_counts(study)["train_shard"] + constant[constants.FILES_BESIDE]


def controller_seconds(study, constant, *, slurm):
    """Processor seconds of the Snakemake that runs the study."""
    each = constant[constants.PLAN_JOB] + constant[constants.SLURM_JOB if slurm else constants.LOCAL_JOB]
    return constant[constants.PLAN_START] + 1e-3 * each * sum(job_counts(study).values())


def latency_seconds(study):
    """Seconds, at most, for which a study on SLURM stands still because its controller has not yet seen jobs end.

    Once for each of the stages that wait for all of the one before: learning rates, engines, shards, ensembles,
    metrics, figures. The wait of jobs in SLURM's queue is not counted.
    """
    counts = job_counts(study)
    work = {
        "train_shard": max(training_seconds(arm.settings) / len(study.shards(arm)) for arm in study.arms),
        "aggregate_arm": max(aggregation_seconds(arm.settings) for arm in study.arms),
    }
    rules = ("resolve_learning_rate", "probe_engine", "train_shard", "aggregate_arm", "join_metrics", "draw_figures")
    return sum(last_gap(START + work.get(rule, 0.0)) for rule in rules if rule in counts)


def last_gap(seconds):
    """Seconds between the two looks between which a job of so many seconds ends, where no other ends before it."""
    gap = passed = LOOK
    while passed <= seconds:
        gap = min(gap + MORE, LONGEST)
        passed += gap
    return gap


def cores_for(study, constant, latency):
    """Cores on SLURM up to which start-up and so many seconds of latency are at most SHARE of the wall time."""
    work = sum(training_seconds(arm.settings) for arm in study.arms)
    overhead = overhead_seconds(study, constant, slurm=True)
    return max((SHARE * (overhead + work) - overhead) / ((1 - SHARE) * latency), 0.0)


def shard_start(constant, *, slurm, gpu=False):
    """Seconds that the job of a shard takes beside its training."""
    start = constant[constants.TRAIN] + constant[constants.WANDB]
    return start + slurm * constant[constants.INNER] + gpu * GPU_START


def gpu_seconds(study, constant, gpus):
    """Seconds that all shards take on so many GPUs of a cluster at the assumed rate; shards count as alike."""
    shards = job_counts(study)["train_shard"]
    flops = sum(estimate(study, arm).flops for arm in study.arms)
    return math.ceil(shards / gpus) * (flops / GPU_RATE / shards + shard_start(constant, slurm=True, gpu=True))


def overhead_seconds(study, constant, *, slurm):
    """Processor seconds that the workflow and the starts of its processes take, from measured constants."""
    counts = job_counts(study)
    total = sum(counts.values())
    training = sum(counts.get(rule, 0) for rule in TRAINING)
    seconds = controller_seconds(study, constant, slurm=slurm)
    seconds += constant[constants.TRAIN] * training
    seconds += constant[constants.COMMAND] * (total - training)
    seconds += constant[constants.WANDB] * runs(study) * (study.tracking.wandb != "disabled")
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
        shards, total = sum(cost.shards for cost in costs), sum(job_counts(study).values())
        work = sum(training_seconds(arm.settings) for arm in study.arms)
        flops = sum(cost.flops for cost in costs)
        raw = constant[constants.DISK] * sum(cost.shard_bytes for cost in costs)
        columns.append(f"{members:,} members in shards of {shard_size}")
        add("shards", f"{shards:,}")
        add("jobs", f"{total:,}")
        add(f"{constants.FILES}, at most", f"{files_at_most(study, constant):,.0f}")
        add("predictions on disk", size(raw))
        add("ensembles, metrics, data, theory", size(sum(cost.ensemble_bytes for cost in costs) + data_bytes(study)))
        add("core-hours of training", f"{work / 3600:.2g}")
        for cores in (2, 64, 1024):
            add(f"hours on {cores} cores", f"{work / 3600 * math.ceil(shards / cores) / shards:.2g}")
        add("GPU-hours of training (assumed rate)", f"{flops / GPU_RATE / 3600:.2g}")
        for gpus in GPUS:
            name = f"hours on {gpus} GPU{'s' * (gpus > 1)}, start-up included (assumed rate)"
            add(name, f"{gpu_seconds(study, constant, gpus) / 3600:.2g}")
        for where in constants.WHERE:
            overhead = overhead_seconds(study, constant, slurm=where == "SLURM")
            add(f"workflow and start-up / processor time, {where}", f"{100 * overhead / (overhead + work):.2g} %")
        latency = latency_seconds(study)
        add("status latency, SLURM (estimate)", f"{latency / 2:.0f} s, at most {latency:.0f} s")
        few, many = (cores_for(study, constant, seconds) for seconds in (latency, latency / 2))
        cores = f"{many:.0f}, at least {few:.0f}" if few >= 1 else "none"
        add(f"cores up to which both are {100 * SHARE:.0f} % of the wall time, SLURM (estimate)", cores)
        memory = constant[constants.PLAN_MEMORY] + 1e-3 * constant[constants.PLAN_MEMORY_JOB] * total
        add("controller: memory", f"{memory:.0f} MB")
        for where in constants.WHERE:
            seconds = controller_seconds(study, constant, slurm=where == "SLURM")
            add(f"controller: processor time, {where}", f"{seconds:.2g} s")
        largest = max(constant[constants.DISK] * cost.shard_bytes for cost in costs)
        add(
            "aggregation of an arm: processor time, as measured",
            f"{largest / 1e9 / constant[constants.AGGREGATE] / 60:.2g} min",
        )
        add(
            "aggregation of an arm: processor time, as `emeq plan` estimates",
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
        read = constant[constants.VERIFY_START] + raw / 1e9 / constant[constants.VERIFY]
        add("emeq verify: processor time, at most", f"{read:.2g} s")
        number = runs(study)
        add("runs of Weights & Biases", f"{number:,}")
        for how, shard, summary in (
            ("online", constants.SHARD_REQUESTS, constants.SUMMARY_REQUESTS),
            ("by emeq sync", constants.SHARD_SENT, constants.SUMMARY_SENT),
        ):
            asked = (number - 1) * constant[shard] + constant[summary]
            add(f"requests of Weights & Biases, {how}, at most", f"{asked:,.0f}")
        files = (number - 1) * constant[constants.SHARD_RUN_FILES] + constant[constants.SUMMARY_RUN_FILES]
        stored = (number - 1) * constant[constants.SHARD_RUN_BYTES] + constant[constants.SUMMARY_RUN_BYTES]
        add("offline runs on disk, at most", f"{files:,.0f} files, {size(1e3 * stored)}")
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
    start, cluster = (shard_start(constant, slurm=slurm) for slurm in (False, True))
    on_device = shard_start(constant, slurm=True, gpu=True)
    for arm in study.arms:
        cost, members = estimate(study, arm), arm.settings.ensemble.members
        on_core, on_gpu = training_seconds(arm.settings) / members, cost.flops / members / GPU_RATE
        needed = [(start, on_core), (cluster, on_core), (on_device, on_gpu)]
        rows[f"`{arm.path}`"] = [f"{math.ceil((1 / SHARE - 1) * s / each):,}" for s, each in needed]
    return table("arm", columns, rows)


def constants_table(constant):
    """The measured constants."""
    rows = {name.removeprefix("scale: "): [f"{constant[name]:.3g}"] for name in constants.names()}
    return table("constant", ["value"], rows)


def simulated_table(constant):
    """What the simulated studies took, and what the formulas of the page say for that of this machine."""
    rows = {
        what: [f"{constant[constants.simulated(where, what)]:.3g}" for where in constants.WHERE]
        for what in constants.TAKEN
    }
    return table("", [f"on {where}" for where in constants.WHERE], rows)


def demo_table(constant):
    """What of the demo's first study is not training; the last line is held against a run for real."""
    study = load_study(ROOT / "config" / "ising.yaml", "nowhere")
    work = sum(training_seconds(arm.settings) for arm in study.arms)
    local, slurm = (overhead_seconds(study, constant, slurm=where == "SLURM") for where in constants.WHERE)
    rows = {
        "jobs": f"{sum(job_counts(study).values())}",
        "workflow and start-up, one machine": f"{local:.0f} s",
        "workflow and start-up, SLURM": f"{slurm:.0f} s",
        "training, as `emeq plan` estimates": f"{work:.0f} s",
        "all processes of a run on one machine, measured": f"{constant[constants.DEMO]:.0f} s",
        "workflow and start-up / all processes measured": f"{100 * local / constant[constants.DEMO]:.0f} %",
    }
    return table("processor time", ["demo (`ising`)"], {name: [cell] for name, cell in rows.items()})


def table(corner, columns, rows):
    """Markdown; rows: name → cells. What rests on a constant that was not measured is a question mark."""
    told = {name: ["?" if "nan" in cell else cell for cell in cells] for name, cells in rows.items()}
    lines = [[corner, *columns], ["---"] * (1 + len(columns)), *([name, *cells] for name, cells in told.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES = {
    "simulated": simulated_table,
    "constants": constants_table,
    "demo": demo_table,
    "members": members_table,
    "shards": shards_table,
    "samples": samples_table,
}


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
