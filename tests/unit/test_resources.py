"""Minutes, memory and GPUs that jobs are estimated to need."""

import math
from pathlib import Path

import pytest

from emergent_equivariance.study import Candidate, Choice, Probe, load_study, parse_study
from emergent_equivariance.study.budget import job_memory, training_job_memory
from emergent_equivariance.study.resources import SNAKEMAKE, START, Demands, jobs, threads_of
from emergent_equivariance.study.work import (
    aggregation_seconds,
    evaluated,
    gradient_steps,
    pair_seconds,
    recording_share,
    solution_seconds,
    training_seconds,
)

ROOT = Path(__file__).parents[2]

LONG = {
    "task": {"name": "ising", "lattice": 4, "train": 64, "test": 16},
    "network": {"name": "mlp", "width": 256},
    "training": {"learning_rate": 0.1, "steps": 30_000, "record": [0, 30_000]},
    "ensemble": {"members": 256},
    "execution": {"shard_size": 64},
}


def parsed(content, results):
    return parse_study({"study": "s", **content}, Path("study.yaml"), results)


def work(study, rule, arm=None):
    """Seconds of a job, without its start."""
    minutes = Demands(study).of(rule, study.arms[0] if arm is None else arm).minutes
    return math.inf if minutes is None else 60 * minutes - START


def write_probe(study, arm, seconds=None, device="cpu"):
    choice = Choice("jax", "map", 1, 1000)
    candidates = [Candidate("jax", "map", 1, device, seconds)] if seconds else []
    probe = Probe(arm.probe_key, choice, "", device, "m", 1, {}, candidates)
    study.probe_path(arm).parent.mkdir(parents=True, exist_ok=True)
    study.probe_path(arm).write_text(probe.to_json())


def test_training_takes_what_was_measured_or_else_estimated(tmp_path):
    study = parsed(LONG, tmp_path)
    (arm,) = study.arms
    demands = Demands(study)
    before = demands.of("train_shard", arm)
    assert before.minutes == pytest.approx((START + training_seconds(arm.settings) / 4) / 60)
    assert before.memory == training_job_memory(arm.settings, None) + SNAKEMAKE
    write_probe(study, arm, seconds=0.01)
    after = demands.of("train_shard", arm)
    seconds = 64 * gradient_steps(arm.settings) * 0.01 * (1 + recording_share(arm.settings))
    assert after.minutes == pytest.approx((START + seconds) / 60), "the same object sees the file that came"
    assert 19200 <= seconds <= 19210
    study.probe_path(arm).write_text("torn")
    assert demands.of("train_shard", arm) == before


def test_a_gpu_goes_to_jobs_that_can_use_it(tmp_path):
    study = parsed(LONG, tmp_path)
    (arm,) = study.arms
    demands = Demands(study)
    assert demands.of("probe_engine", arm).gpu and demands.of("train_shard", arm).gpu
    write_probe(study, arm, 0.01, device="cpu")
    assert not demands.of("train_shard", arm).gpu
    write_probe(study, arm, 0.001, device="H200")
    assert demands.of("train_shard", arm).gpu
    for rule in ("compute_theory", "resolve_learning_rate", "aggregate_arm", "make_data"):
        assert not demands.of(rule, arm).gpu
    assert not demands.of("draw_figures", None).gpu


@pytest.mark.parametrize(
    ("content", "gpu"),
    [
        ({}, True),
        ({"ensemble": {"members": 1}, "training": {"learning_rate": 0.1, "steps": 3}}, False),
        ({"network": {"name": "cnn"}, "execution": {"engine": "numba"}}, False),
        ({"network": {"name": "cnn"}}, True),
    ],
)
def test_no_gpu_where_nothing_is_measured_or_the_engine_has_none(tmp_path, content, gpu):
    study = parsed({**LONG, **content}, tmp_path)
    assert Demands(study).of("probe_engine", study.arms[0]).gpu == gpu


def test_a_task_of_ones_own_has_no_known_length(tmp_path):
    study = load_study(ROOT / "config" / "custom_network.yaml", tmp_path)
    arm, demands = study.arms[0], Demands(study)
    for rule in ("train_shard", "probe_engine", "compute_theory"):
        assert demands.of(rule, arm).minutes is None
    write_probe(study, arm, seconds=0.5)
    assert demands.of("train_shard", arm).minutes is not None, "once it is measured it has"


def test_every_job_of_a_study_is_counted_and_what_is_made_is_not_to_do(tmp_path):
    study = load_study(ROOT / "config" / "digits.yaml", tmp_path)
    found = jobs(study)
    counts = {}
    for job in found:
        counts[job.rule] = counts.get(job.rule, 0) + job.count
    assert counts == {
        "make_data": 1,
        "resolve_learning_rate": 4,
        "compute_theory": 4,
        "probe_engine": 4,
        "train_shard": 8,
        "aggregate_arm": 4,
        "join_metrics": 1,
        "draw_figures": 1,
    }
    assert all(job.missing == job.count for job in found)
    arm = study.arms[0]
    path = study.shard_path(arm, 0, 63)
    path.parent.mkdir(parents=True)
    path.touch()
    (job,) = [job for job in jobs(study) if job.rule == "train_shard" and job.arm is arm]
    assert (job.count, job.missing) == (2, 1)


def test_tiles_and_their_assembly(tmp_path):
    study = load_study(ROOT / "config" / "histology_ntk_full.yaml", tmp_path)
    found = {job.rule: job for job in jobs(study)}
    assert found["compute_kernel_tiles"].count == 33 and found["assemble_kernels"].count == 1
    cnn, c4, d4 = study.arms
    tiles = {arm.path: work(study, "compute_kernel_tiles", arm) for arm in study.arms}
    assert 3.5 < tiles[c4.path] / tiles[cnn.path] < 4.5 and 7 < tiles[d4.path] / tiles[cnn.path] < 9
    demand = Demands(study).of("compute_kernel_tiles", cnn)
    assert demand.memory == job_memory(cnn.settings, "tiles") + SNAKEMAKE
    assert threads_of("compute_kernel_tiles", cnn) == cnn.settings.execution.kernel_threads
    assert threads_of("assemble_kernels", cnn) == threads_of("join_metrics", None) == 1


def changed(content, **sections):
    return {**content, **{name: {**content.get(name, {}), **values} for name, values in sections.items()}}


def test_how_estimates_grow(tmp_path):
    """Kernels as the square of samples and of pixels, solutions as the cube, ensembles as members × log(members)."""
    base = {
        "task": {"name": "digits", "train": 200, "test": 50},
        "network": {"name": "cnn", "head": "global_average_pool"},
        "training": {"learning_rate": 0.1, "steps": 10},
    }

    def arm(**sections):
        return parsed(changed(base, **sections), tmp_path).arms[0].settings

    assert solution_seconds(arm(task={"train": 400})) / solution_seconds(arm()) == pytest.approx(8, rel=0.5)
    full = solution_seconds(arm(augmentation={"kind": "full"}))
    direct = solution_seconds(arm(augmentation={"kind": "full"}, theory={"route": "direct"}))
    assert 2 < direct / full < 16, "blocks of c4, some complex, against 4 times the rows"
    deep, flat = arm(network={"conv_layers": 4}), arm(network={"head": "flatten"})
    assert pair_seconds(deep) / pair_seconds(arm()) == pytest.approx(2, rel=0.05)
    assert pair_seconds(flat) < pair_seconds(arm()) / 10
    few, many = (aggregation_seconds(arm(ensemble={"members": count})) for count in (64, 1024))
    assert 15 < many / few < 17, "powers of two: about 2 M subsets"
    one = aggregation_seconds(arm(ensemble={"members": 1024}, evaluate={"member_counts": [1024]}))
    assert many / one == pytest.approx(2, rel=0.01), "single members are evaluated always"
    assert evaluated(arm(evaluate={"samples": 10})) == 4 * 10 * len(arm().splits())


DIGITS = {"name": "digits", "train": 256, "test": 512, "ood": "smooth"}
ISING = {"name": "ising", "lattice": 4}
FEW = {"learning_rate": 0.1, "steps": 10, "record": [0, 1, 3, 6, 10]}

#: Study, rule, processor seconds and peak memory in MB of a job of its first arm, on one core of an AVX-512 server.
MEASURED = [
    (
        {"task": DIGITS, "network": {"name": "mlp", "width": 8}, "training": FEW, "ensemble": {"members": 512}}
        | {"evaluate": {"samples": 256}, "execution": {"shard_size": 256, "engine": "jax"}},
        "aggregate_arm",
        22.8,
        644,
    ),
    (
        {"task": ISING | {"target": "local", "train": 600, "test": 128}, "network": {"name": "mlp", "width": 8}}
        | {"training": FEW, "evaluate": {"samples": 128}, "augmentation": "full"},
        "compute_theory",
        4.1,
        473,
    ),
    (
        {"kind": "kernel_regression", "task": ISING | {"train": 2400, "test": 200}, "network": {"name": "mlp"}}
        | {"regression": {"sizes": [400, 800], "repeats": 2, "times": ["inf"]}}
        | {"execution": {"kernel_threads": 1, "tiles_above": 1000, "tiles_per_job": 70, "memory": 4}},
        "compute_kernel_tiles",
        3.1,
        386,
    ),
    (
        {"kind": "kernel_convergence", "task": ISING | {"target": "total", "train": 16, "test": 16, "ood": "none"}}
        | {"network": {"name": "gcnn", "width": 80}, "convergence": {"members": 200, "inputs": 6}},
        "measure_kernels",
        22.4,
        712,
    ),
]


@pytest.mark.parametrize(("content", "rule", "seconds", "peak"), MEASURED, ids=[row[1] for row in MEASURED])
def test_estimates_cover_what_was_measured(tmp_path, content, rule, seconds, peak):
    study = parsed(content, tmp_path)
    found = Demands(study).of(rule, study.arms[0])
    assert seconds <= work(study, rule) + 6 <= 10 * seconds, "6 s: libraries and compilation, on a quiet machine"
    assert peak <= found.memory - SNAKEMAKE


def test_joining_grows_with_the_members_of_all_arms(tmp_path):
    """Measured: 6.2 s and 566 MB for 3 arms of 40,000 members, 2.6 s and 272 MB for 10,000 (6 steps, 3 splits)."""
    record = {"learning_rate": 0.1, "steps": 10, "record": [0, 1, 3, 5, 7, 10]}
    content = {**LONG, "training": record, "sweep": {"network.width": [8, 16, 32]}}
    found = {}
    for members, seconds, peak in ((10_000, 2.6, 272), (40_000, 6.2, 566), (1_000_000, 0, 3 * 3100)):
        study = parsed({**content, "ensemble": {"members": members}}, tmp_path)
        demands = Demands(study)
        found[members], drawing = demands.of("join_metrics", None), demands.of("draw_figures", None)
        assert 60 * found[members].minutes - START >= seconds
        assert found[members].memory - SNAKEMAKE >= peak and drawing.memory == found[members].memory
    assert found[10_000].memory == 1000 + SNAKEMAKE
    assert 15e3 < found[1_000_000].memory < 25e3, "two times what is expected"


def test_no_estimate_is_slow(tmp_path):
    """A controller evaluates them for every resource of every job: they are found once."""
    study = parsed({**LONG, "sweep": {"network.width": list(range(8, 108))}}, tmp_path)
    demands = Demands(study)
    first = [demands.of("train_shard", arm) for arm in study.arms]
    assert [demands.of("train_shard", arm) for arm in study.arms] == first
    assert all(a is b for a, b in zip(first, (demands.of("train_shard", arm) for arm in study.arms), strict=True))
