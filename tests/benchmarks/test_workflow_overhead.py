"""What the workflow costs beside the work: processor time, memory and files of simulated studies (tests/scale).

One command measures all constants of docs/scaling.md and writes the page's tables anew, about half an hour on two quiet
cores: `pytest -m benchmark -s tests/benchmarks/test_workflow_overhead.py`. Seconds are processor time of one core.
"""

import ctypes
import os
import resource
import shutil
import sys
from pathlib import Path
from statistics import median

import pytest
import yaml

from emergent_equivariance.plan import estimate
from emergent_equivariance.study import load_study
from emergent_equivariance.study.resources import jobs
from emergent_equivariance.study.work import training_seconds

from ..scale import constants, page
from ..scale.simulation import ROOT, Simulation, content
from ..slurm.cluster import Cluster, missing

pytestmark = pytest.mark.benchmark

TRAIN_ALL = Path(page.__file__).with_name("train_all.py")

#: Linux: orphans become children of this process, so that their processor time is counted.
PR_SET_CHILD_SUBREAPER = 36

FOUND: dict[str, float] = {}


@pytest.fixture
def measured(record):
    """record() that also keeps the value for the shares at the end."""

    def add(name, value, goal=""):
        FOUND[name] = value
        record(name, value, goal)

    return add


def succeeded(account):
    assert account.code == 0, account.output[-3000:]
    return account


def test_planning(measured, tmp_path):
    """A dry run of 100 and of 5,000 shards of ten arms."""
    few, many = (Simulation(tmp_path / str(n), content(10, n * 20, 200)) for n in (100, 5000))
    counts = [sum(job.count for job in jobs(real(sim))) for sim in (few, many)]
    taken = [
        [succeeded(sim.local("-n", "--quiet", "all")).of("controller")[0] for _ in range(3)] for sim in (few, many)
    ]
    seconds = [median(p["seconds"] for p in runs) for runs in taken]
    memory = [median(p["memory"] for p in runs) for runs in taken]
    each, kept = ((values[1] - values[0]) / (counts[1] - counts[0]) for values in (seconds, memory))
    measured(constants.PLAN_JOB, 1e3 * each)
    measured(constants.PLAN_START, seconds[0] - each * counts[0])
    measured(constants.PLAN_MEMORY_JOB, kept / 1e3)
    measured(constants.PLAN_MEMORY, (memory[0] - kept * counts[0]) / 1e6)


def real(simulation):
    """The study of a simulation as one with a real engine: plans are the same."""
    file = simulation.folder / "real.yaml"
    study = {**simulation.study, "execution": {**simulation.study["execution"], "engine": "jax"}}
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return load_study(file, simulation.folder / "results")


def test_local_run(measured, tmp_path):
    """10,000 members in 100 shards of ten arms, from data to figures."""
    simulation = Simulation(tmp_path, content())
    account = succeeded(simulation.local())
    number = sum(len(account.of(kind)) for kind in account.processes if kind != "controller")
    (controller,) = account.of("controller")
    planning = FOUND[constants.PLAN_START] + 1e-3 * FOUND[constants.PLAN_JOB] * number
    measured(constants.LOCAL_JOB, 1e3 * max(controller["seconds"] - planning, 0.0) / number)
    shards = list(simulation.root.glob("members/**/*.zarr.zip"))
    assert len(shards) == len(account.of("train")) == 100
    files = simulation.files()
    ours = [p for p in files if "members" in p.relative_to(simulation.root).parts[:2]]
    measured(constants.FILES_PER_SHARD, len(ours) / len(shards), "<= 2")
    measured(constants.FILES_BESIDE, len(files) - len(ours))
    runs = list(simulation.root.glob("tracking/wandb/offline-run-*"))
    kept = [p for run in runs for p in run.rglob("*") if p.is_file()]
    measured(constants.WANDB_FILES, len(kept) / len(runs))
    measured(constants.WANDB_BYTES, sum(p.stat().st_size for p in kept) / len(runs) / 1e3)


def test_watching(measured, tmp_path):
    """Twelve shards that sleep for 40 s, side by side, and the same twelve that do not."""
    taken = {}
    for rate in (0.04, 1e-9):  # seconds of a gradient step of the stub
        study = content(2, 12, 2, wandb="disabled")
        study["training"]["learning_rate"] = rate
        simulation = Simulation(tmp_path / str(rate), study)
        succeeded(simulation.local("--until", "probe_engine"))
        (taken[rate],) = succeeded(simulation.local("all_members", "--cores", "12")).of("controller")
    measured(constants.WATCH, (taken[0.04]["seconds"] - taken[1e-9]["seconds"]) / 12)


def test_slurm_run(measured, tmp_path):
    """2,000 members in 20 shards of two arms, on a private cluster."""
    if reason := missing():
        pytest.skip(reason)
    with Cluster(tmp_path / "slurm") as cluster:
        simulation = Simulation(tmp_path / "study", content(2, 1000, 100, wandb="disabled"), cluster)
        account = succeeded(simulation.slurm())
    (controller,), inner = account.of("controller"), account.of("job")
    number = len(inner) / 2
    planning = FOUND[constants.PLAN_START] + 1e-3 * FOUND[constants.PLAN_JOB] * number
    local = account.total("data")
    beside = controller["seconds"] + controller["children"] - planning - local
    measured(constants.SLURM_JOB, 1e3 * max(beside, 0.0) / number)
    measured(constants.INNER, 2 * median(p["seconds"] for p in inner))
    measured(constants.INNER_MEMORY, 2 * median(p["memory"] for p in inner) / 1e6)


def all_seconds(simulation, *command):
    """Processor time of a subcommand of emeq with everything it starts, also what it leaves behind."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    succeeded(simulation.emeq(*command))
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_start_of_jobs(measured, tmp_path):
    """Jobs with next to no work, nine of each kind in turn."""
    study = content(2, 64, 64)
    study["network"] |= {"width": 32}
    study["sweep"] = {"augmentation": ["full"]}
    study["training"] |= {"learning_rate": 1.0, "steps": 3, "record": [0, 3]}
    simulations = {}
    for name, engine, mode in (("jax", "jax", "disabled"), ("tracked", "jax", "offline")):
        study = {**study, "execution": {"shard_size": 8, "engine": engine}, "tracking": {"wandb": mode}}
        simulations[name] = Simulation(tmp_path / name, study)
        succeeded(simulations[name].local("--until", "probe_engine"))
    arm = "augmentation~full"
    taken = {name: [] for name in (*simulations, "data")}
    for first in range(0, 64, 8):
        for name, simulation in simulations.items():
            shard = ["--arm", arm, "--first", str(first), "--last", str(first + 7)]
            taken[name].append(all_seconds(simulation, "train", str(simulation.file), *shard))
        key = load_study(simulation.file).arms[0].data_key
        taken["data"].append(all_seconds(simulation, "data", str(simulation.file), "--key", key))
    start = median(taken["jax"][1:])  # the first compiles
    measured(constants.COMMAND, median(taken["data"]))
    measured(constants.TRAIN, start)
    measured(constants.WANDB, median(taken["tracked"][1:]) - start)


def test_aggregation(measured, tmp_path):
    """An arm of 10,000 members of the bytes of config/ising_full.yaml, 2.9 GB."""
    study = content(2, 10_000, 200, full_size=True, wandb="disabled")
    study["sweep"] = {"network.width": [512]}
    simulation = Simulation(tmp_path, study)
    arm = "width~512"
    succeeded(simulation.snakemake("--cores", "1", "all_theory"))
    succeeded(simulation.snakemake("--cores", "1", "--until", "probe_engine"))
    account = succeeded(simulation.run(sys.executable, str(TRAIN_ALL), str(simulation.file), "results", arm))
    shards = list(simulation.root.glob("members/**/*.zarr.zip"))
    written = sum(p.stat().st_size for p in shards) / 1e9
    known = real(simulation)
    measured(constants.DISK, 1e9 * written / estimate(known, known.arms[0]).shard_bytes)
    measured(constants.WRITE, written / account.of("other")[0]["seconds"])
    (whole,) = succeeded(simulation.emeq("aggregate", str(simulation.file), "--arm", arm)).of("aggregate")
    measured(constants.AGGREGATE, written / whole["seconds"])
    measured(constants.AGGREGATE_MEMORY, whole["memory"] / 1e6)
    (joined,) = succeeded(simulation.emeq("metrics", str(simulation.file))).of("metrics")
    measured(constants.METRICS, joined["seconds"])
    measured(constants.METRICS_MEMORY, joined["memory"] / 1e6)
    succeeded(simulation.emeq("figures", str(simulation.file)))
    (read,) = succeeded(simulation.emeq("verify", str(simulation.file))).of("verify")
    measured(constants.VERIFY, written / (read["seconds"] + read["children"]))
    fewer = Simulation(tmp_path, {**study, "ensemble": {"members": 2000, "seed": 0}})
    (part,) = succeeded(fewer.emeq("aggregate", str(fewer.file), "--arm", arm)).of("aggregate")
    measured(constants.AGGREGATE_GROWTH, whole["memory"] / part["memory"], "<= 1.5")
    shutil.rmtree(tmp_path)


def known_constants():
    """Those of this run, and the latest of the others."""
    return constants.Constants({**constants.read(), **FOUND})


def test_shares(measured):
    """Overhead over wall time with all cores busy: of config/ising_full.yaml and of the demo's studies."""
    for name, goal in (("ising_full", "<= 0.05"), ("ising", "")):
        study = load_study(ROOT / "config" / f"{name}.yaml", "nowhere")
        work = sum(map(training_seconds, (arm.settings for arm in study.arms)))
        for where in ("local", "SLURM"):
            overhead = page.overhead_seconds(study, known_constants(), slurm=where == "SLURM")
            measured(f"scale: {name}, {where}: workflow and start-up / wall time", overhead / (overhead + work), goal)


def test_the_demo(measured, tmp_path):
    """config/ising.yaml as it is, trained for real: what is not training, as a line of its own."""
    study = yaml.safe_load((ROOT / "config" / "ising.yaml").read_text())
    simulation = Simulation(tmp_path, study)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    account = succeeded(simulation.local())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    known = load_study(ROOT / "config" / "ising.yaml", "nowhere")
    overhead = page.overhead_seconds(known, known_constants(), slurm=False)
    measured("scale: demo (ising), measured: workflow and start-up / processor time", overhead / total)
    measured("scale: demo (ising): jobs", sum(len(v) for k, v in account.processes.items() if k != "controller"))
