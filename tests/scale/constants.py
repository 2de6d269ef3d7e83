"""Names of the measured constants of docs/scaling.md: rows of docs/benchmarks.json.

Written by tests/benchmarks/test_workflow_overhead.py, read by page.py. Seconds are processor time of one core.
"""

import json
import math
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "benchmarks.json"

PLAN_START = "scale: controller, start and an empty plan / s"
PLAN_JOB = "scale: controller, planning a job / ms"
PLAN_MEMORY = "scale: controller, memory at the start / MB"
PLAN_MEMORY_JOB = "scale: controller, memory of a job / kB"
LOCAL_JOB = "scale: controller, a local job of 15 s or more, watched for its benchmark / ms"
SLURM_JOB = "scale: controller, a SLURM job, sbatch and squeue included / ms"
INNER = "scale: Snakemake within a SLURM job, two processes / s"
INNER_MEMORY = "scale: Snakemake within a SLURM job, memory of both / MB"
COMMAND = "scale: start and end of a subcommand that computes nothing / s"
TRAIN = "scale: start and end of a training job, engine jax, compiled programs from disk / s"
WANDB = "scale: a run of Weights & Biases, offline / s"
SHARD_RUN_FILES = "scale: files of the offline run of a shard"
SHARD_RUN_BYTES = "scale: the offline run of a shard of six recorded times / kB"
SHARD_REQUESTS = "scale: requests of the run of a shard, online"
SHARD_SENT = "scale: requests of the run of a shard, by emeq sync"
SUMMARY_RUN_FILES = "scale: files of the offline summary run, of ten arms"
SUMMARY_RUN_BYTES = "scale: the offline summary run, of ten arms / kB"
SUMMARY_REQUESTS = "scale: requests of the summary run of ten arms, online"
SUMMARY_SENT = "scale: requests of the summary run of ten arms, by emeq sync"
FILES_PER_SHARD = "scale: files under results/ per shard, without logs and tracking"
FILES_BESIDE = "scale: files under results/ beside the shards, of ten arms"
DISK = "scale: disk of shards / emeq plan"
WRITE = "scale: recording and writing shards, GB per second of one core"
VERIFY = "scale: emeq verify, GB per second of one core, its start left out"
VERIFY_START = "scale: emeq verify, start with two reading processes and what does not grow / s"
AGGREGATE = "scale: aggregation of an arm, GB of shards per second of one core"
AGGREGATE_MEMORY = "scale: aggregation of 10,000 members, memory / MB"
AGGREGATE_GROWTH = "scale: aggregation, memory of 10,000 members / of 2,000"
METRICS = "scale: join_metrics, s per 10,000 members of one arm"
METRICS_MEMORY = "scale: join_metrics, memory per 10,000 members of one arm / MB"
DEMO = "scale: demo (ising), processor time of a run / s"

#: Rows of the simulated studies, ``simulated(where, what)``: where they ran, and what they took.
WHERE = ("one machine", "SLURM")
JOBS, FILES, BYTES = "jobs", "files under results/, without logs and tracking", "the same / MB"
WALL, SECONDS, MEMORY = "wall time / min", "controller, processor time / s", "controller, memory / MB"
TAKEN = (JOBS, WALL, FILES, BYTES, SECONDS, MEMORY)


def simulated(where, what):
    """The name of a row."""
    return f"scale: simulated study, {where}: {what}"


def names():
    """Names of all constants, in the order of the page."""
    return [value for value in globals().values() if isinstance(value, str) and value.startswith("scale: ")]


class Constants(dict):
    """Name → value; NaN for what was never measured."""

    def __missing__(self, name):
        return math.nan


def read():
    """The values of all rows."""
    return Constants({row["name"]: row["value"] for row in json.loads(FILE.read_text())["rows"]})
