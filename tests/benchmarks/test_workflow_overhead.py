"""What the workflow costs beside the work: processor time, memory and files of simulated studies (tests/scale).

One command measures all constants of docs/scaling.md and writes the page's tables anew, about half an hour on two quiet
cores: `pytest -m benchmark -s tests/benchmarks/test_workflow_overhead.py`. Seconds are processor time of one core.
"""

import ctypes
import os
import re
import resource
import shutil
import sys
from pathlib import Path
from statistics import mean, median

import pytest
import yaml

from emergent_equivariance.plan import estimate
from emergent_equivariance.study import load_study
from emergent_equivariance.study.work import training_seconds
from emergent_equivariance.tracking.reading import recorded

from ..scale import constants, page
from ..scale.simulation import ROOT, Simulation, content
from ..slurm import cluster as slurm
from ..tracking.wandb_server import WandbServer

pytestmark = pytest.mark.benchmark

TRAIN_ALL = Path(page.__file__).with_name("train_all.py")

#: Linux: orphans become children of this process, so that their processor time is counted.
PR_SET_CHILD_SUBREAPER = 36

#: Seconds of a gradient step of the stub: a shard sleeps for 20 s, and the others wait. For the first 15 s Snakemake
#: looks at a process every half second, for its benchmark.
STEP = "0.01"

#: Values of this run.
FOUND: dict[str, float] = {}


@pytest.fixture
def measured(record):
    """record() that also keeps the value for the shares at the end."""

    def add(name, value, goal=""):
        FOUND[name] = value
        record(name, value, goal)

    return add


def known_constants():
    """Those of this run, and the latest of the others."""
    return constants.Constants({**constants.read(), **FOUND})


def succeeded(account):
    assert account.code == 0, account.output[-3000:]
    return account


def test_planning(measured, tmp_path):
    """A dry run of 100 and of 5,000 shards of ten arms."""
    few, many = (Simulation(tmp_path / str(n), content(10, n * 20, 200)) for n in (100, 5000))
    counts = [sum(page.job_counts(sim.real()).values()) for sim in (few, many)]
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


def record_run(measured, where, simulation, account):
    """Rows of what a simulated study took; → milliseconds of the controller per job beside planning."""
    taken = simulation.taken(account)
    for what, value in taken.items():
        measured(constants.simulated(where, what), value)
    known = known_constants()
    planning = known[constants.PLAN_START] + 1e-3 * known[constants.PLAN_JOB] * taken[constants.JOBS]
    return 1e3 * max(taken[constants.SECONDS] - planning, 0.0) / taken[constants.JOBS]


def test_local_run(measured, tmp_path):
    """10,000 members in 100 shards of ten arms, from data to figures; what was recorded is then sent."""
    simulation = Simulation(tmp_path, content(), STUB_STEP=STEP)
    account = succeeded(simulation.local("--cores", "8"))
    measured(constants.LOCAL_JOB, record_run(measured, constants.WHERE[0], simulation, account))
    shards = list(simulation.root.glob("members/**/*.zarr.zip"))
    assert len(shards) == len(account.of("train")) == 100
    files = simulation.files()
    ours = [p for p in files if "members" in p.relative_to(simulation.root).parts[:2]]
    measured(constants.FILES_PER_SHARD, len(ours) / len(shards), "<= 2")
    measured(constants.FILES_BESIDE, len(files) - len(ours))
    measure_runs(measured, simulation, shards[0])


def measure_runs(measured, simulation, shard):
    """Files, bytes and requests of the run of a shard and of the summary, offline then sent, and online."""
    folders = {"train": [], "theory": [], "summary": []}
    for file in simulation.root.glob("tracking/wandb/offline-run-*/run-*.wandb"):
        folders[recorded(file).job].append(file.parent)
    assert len(folders["train"]) == 100, "one offline run per shard"
    kept = {job: [[p for p in folder.rglob("*") if p.is_file()] for folder in folders[job]] for job in folders}
    for job, files, size in (
        ("train", constants.SHARD_RUN_FILES, constants.SHARD_RUN_BYTES),
        ("summary", constants.SUMMARY_RUN_FILES, constants.SUMMARY_RUN_BYTES),
    ):
        measured(files, median(len(run) for run in kept[job]))
        measured(size, median(sum(p.stat().st_size for p in run) for run in kept[job]) / 1e3)
    first, _, *others = folders["train"]
    aside = first.rename(simulation.folder / "aside")
    for folder in (*others, *folders["theory"]):
        shutil.rmtree(folder)
    with WandbServer() as server:
        simulation.environment |= server.environment
        sync = ("sync", str(simulation.file))
        both = requests(server, simulation, 2, *sync)
        aside.rename(first)
        one = requests(server, simulation, 1, *sync)
    measured(constants.SHARD_SENT, one)
    measured(constants.SUMMARY_SENT, both - one)
    simulation.file.write_text(simulation.file.read_text().replace("wandb: offline", "wandb: online"))
    (arm,) = {shard.parent.relative_to(simulation.root / "members")}
    first, last = map(int, re.findall(r"\d+", shard.name.split(".")[0]))
    shard.unlink()
    with WandbServer() as server:
        simulation.environment |= server.environment
        train = ("train", str(simulation.file), "--arm", str(arm), "--first", str(first), "--last", str(last))
        measured(constants.SHARD_REQUESTS, requests(server, simulation, 1, *train))
        measured(constants.SUMMARY_REQUESTS, requests(server, simulation, 1, "figures", str(simulation.file)))


def requests(server, simulation, runs, *command):
    """Number of requests that a subcommand of emeq makes for so many runs."""
    before, finished = len(server.requests), sum(run.finished for run in server.runs.values())
    succeeded(simulation.emeq(*command))
    assert sum(run.finished for run in server.runs.values()) == finished + runs
    return len(server.requests) - before


def test_slurm_run(measured, tmp_path, monkeypatch):
    """The same study on a private cluster of eight cores."""
    if reason := slurm.missing():
        pytest.skip(reason)
    monkeypatch.setattr(slurm, "CPUS", 8)
    with slurm.Cluster(tmp_path / "slurm") as cluster:
        simulation = Simulation(tmp_path / "study", content(wandb="disabled"), cluster, STUB_STEP=STEP)
        account = succeeded(simulation.slurm("--jobs", "8"))
    inner = account.of("job")
    measured(constants.SLURM_JOB, record_run(measured, constants.WHERE[1], simulation, account))
    measured(constants.INNER, 2 * mean(p["seconds"] for p in inner))
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
    known = simulation.real()
    measured(constants.DISK, 1e9 * written / estimate(known, known.arms[0]).shard_bytes)
    measured(constants.WRITE, written / account.of("other")[0]["seconds"])
    (whole,) = succeeded(simulation.emeq("aggregate", str(simulation.file), "--arm", arm)).of("aggregate")
    measured(constants.AGGREGATE, written / whole["seconds"])
    measured(constants.AGGREGATE_MEMORY, whole["memory"] / 1e6)
    (joined,) = succeeded(simulation.emeq("metrics", str(simulation.file))).of("metrics")
    measured(constants.METRICS, joined["seconds"])
    measured(constants.METRICS_MEMORY, joined["memory"] / 1e6)
    succeeded(simulation.emeq("figures", str(simulation.file)))
    measure_verification(measured, simulation)
    fewer = Simulation(tmp_path, {**study, "ensemble": {"members": 2000, "seed": 0}})
    (part,) = succeeded(fewer.emeq("aggregate", str(fewer.file), "--arm", arm)).of("aggregate")
    measured(constants.AGGREGATE_GROWTH, whole["memory"] / part["memory"], "<= 1.5")
    shutil.rmtree(tmp_path)


def measure_verification(measured, simulation):
    """The rate is of the bytes of four fifths of the shards, the last ones, read by one thread; what two reading
    processes take beside it is their start and what does not grow. Those shards are gone then."""

    def read(jobs):
        account = simulation.emeq("verify", str(simulation.file), "--jobs", str(jobs))
        (process,) = account.of("verify")
        size = sum(p.stat().st_size for p in simulation.files()) / 1e9
        return account.code, process["seconds"] + process["children"], size

    (code, both, size), (_, one, _) = read(2), read(1)
    assert code == 0
    shards = sorted(simulation.root.glob("members/**/*.zarr.zip"))
    for shard in shards[len(shards) // 5 :]:
        shard.unlink()
    _, few, rest = read(1)
    rate = (size - rest) / (one - few)
    measured(constants.VERIFY, rate)
    measured(constants.VERIFY_START, both - size / rate)


def test_shares(measured):
    """Overhead over wall time with all cores busy: of config/ising_full.yaml and of the demo's studies."""
    for name, goal in (("ising_full", "<= 0.05"), ("ising", "")):
        study = load_study(ROOT / "config" / f"{name}.yaml", "nowhere")
        work = sum(map(training_seconds, (arm.settings for arm in study.arms)))
        for where in ("local", "SLURM"):
            overhead = page.overhead_seconds(study, known_constants(), slurm=where == "SLURM")
            row = f"scale: {name}, {where}: workflow and start-up / processor time"
            measured(row, overhead / (overhead + work), goal)


def test_the_demo(measured, tmp_path):
    """config/ising.yaml as it is, trained for real: the denominator of what is not training."""
    study = yaml.safe_load((ROOT / "config" / "ising.yaml").read_text())
    simulation = Simulation(tmp_path, study)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    succeeded(simulation.local())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured(constants.DEMO, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
