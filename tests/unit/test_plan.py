"""What `emeq plan` prints, for every kind of study."""

import io
import re
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from rich.console import Console

from emergent_equivariance.plan import render
from emergent_equivariance.settings.cluster import Cluster
from emergent_equivariance.study import Candidate, Choice, Probe, load_study, parse_study, read_probe
from emergent_equivariance.study.budget import CUDA, size, training_job_bytes, training_job_memory
from emergent_equivariance.study.training_memory import training_memory
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import ENGINES, build_problem, get_engine

ROOT = Path(__file__).parents[2]
TASK = {"name": "ising", "lattice": 4, "train": 20, "test": 12}


def printed(content, results, keys=False, cluster=None):
    text = io.StringIO()
    study = parse_study({"study": "s", "task": TASK, **content}, Path("study.yaml"), results)
    render(study, keys, Console(file=text, width=220), cluster)
    return study, text.getvalue()


def row(text, name):
    """Cells of the last row that begins with a name."""
    (*_, line) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return re.split(r" {2,}", line.strip())


def members(text):
    """The first table."""
    return text.partition("analytic side")[0]


ENSEMBLE = {
    "network": {"name": "mlp"},
    "training": {"learning_rate": 0.1, "steps": 3},
    "evaluate": {"samples": 4},
    "sweep": {"network.width": [8, 16], "augmentation": ["none", "full"]},
    "execution": {"tiles_above": 10, "tile_size": 6, "tiles_per_job": 3},
}


def test_an_ensemble_study_shows_members_and_kernels(tmp_path):
    study, text = printed(ENSEMBLE, tmp_path, keys=True)
    arm = study.arms[0]
    cells = row(text, arm.path)
    assert cells[1:3] == ["20", "8"]
    tiles = 4 * 5 // 2 + 4
    assert cells[4:7] == [f"{tiles} of 6²", "5", "5"]
    assert cells[7] == "35.8 kB", "16 bytes × 28 rows × 20 columns × 4 elements"
    assert cells[9] == arm.kernel_key
    assert f"{arm.theory_key}" in text
    assert text.count("of 6²") == 2, "one row per analytic solution: widths share it"
    assert "256 members in 4 shards, 2 analytic solutions, 5 jobs for tiles of kernels" in text
    study.tiles_path(arm, 0, 2).parent.mkdir(parents=True)
    study.tiles_path(arm, 0, 2).touch()
    assert row(printed(ENSEMBLE, tmp_path)[1], arm.path)[6] == "4"
    study.kernel_path(arm).touch()
    assert row(printed(ENSEMBLE, tmp_path)[1], arm.path)[6] == "0"


def written_probe(study, arm, device="cpu", seconds=0.5, threads=3):
    chosen = Candidate("torch", "vmap", 8, device, seconds, 1.0)
    other = Candidate("jax", "map", 1, device, 9.0, 1.0)
    choice = Choice("torch", "vmap", 8, 100)
    probe = Probe(arm.probe_key, choice, "", device, "m", threads, {}, [other, chosen] if seconds else [])
    path = study.probe_path(arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(probe.to_json())


def test_engines_and_times_are_those_of_the_probe(tmp_path):
    study, text = printed(ENSEMBLE, tmp_path, keys=True)
    arm = study.arms[0]
    assert f"{arm.data_key}  {arm.probe_key}  {arm.theory_key}" in text
    assert text.count("by probe") == 4
    for options, hours in (({}, 64 * 3 * 0.5 / 3600 * 3), ({"device": "H200"}, 64 * 3 * 0.5 / 3600)):
        written_probe(study, arm, **options)
        cells = row(members(printed(ENSEMBLE, tmp_path)[1]), arm.path)
        assert cells[4] == "torch vmap, 8 at once"
        assert cells[6] == f"{hours:.2g}" + (" of GPU" if options else "")
    written_probe(study, arm, seconds=None)
    cells = row(members(printed(ENSEMBLE, tmp_path)[1]), arm.path)
    assert float(cells[6]) < 1e-6, "estimated where nothing was measured"


def test_memory_is_that_of_a_training_job(tmp_path):
    content = {**ENSEMBLE, "network": {"name": "cnn"}, "sweep": {"augmentation": ["full"]}}
    content["task"] = {"name": "digits", "train": 400, "test": 40}
    study, text = printed(content, tmp_path)
    arm = study.arms[0]
    most = training_job_bytes(arm.settings, None)
    assert row(members(text), arm.path)[7] == size(most)
    written_probe(study, arm)
    probe = read_probe(study.probe_path(arm), arm.probe_key)
    shape, outputs = arm.settings.task.input_shape(), arm.settings.task.outputs()
    expected = training_memory(arm.settings, probe.choice, shape, outputs, 1600)
    assert row(members(printed(content, tmp_path)[1]), arm.path)[7] == size(expected)
    assert 1e8 < expected < most
    assert training_job_memory(arm.settings, probe) == max(1000, -int(-1.25 * expected // 1e6))
    written_probe(study, arm, device="H200")
    on_gpu = read_probe(study.probe_path(arm), arm.probe_key)
    assert CUDA < training_job_bytes(arm.settings, on_gpu) < expected + CUDA, "members are in the memory of the GPU"


def test_memory_before_the_probe_is_enough_for_all_that_is_tried():
    for network in ("mlp", "cnn", "gcnn"):
        for execution in ({"shard_size": 50}, {"shard_size": 20, "members_at_once": 11}):
            content = {**ENSEMBLE, "sweep": {"network.name": [network]}, "network": {"width": 16}}
            content = {"study": "s", "task": TASK, **content, "execution": execution}
            settings = parse_study(content, Path("study.yaml")).arms[0].settings
            problem = build_problem(settings, build_task(settings), 0.1)
            shape, rows = problem.orbit_input.shape[2:], len(problem.row_input)
            most = training_job_bytes(settings, None)
            for engine in map(get_engine, ENGINES):
                for choice in engine.candidates(problem, execution["shard_size"]):
                    together = execution.get("members_at_once", choice.members_at_once)
                    choice = replace(choice, members_at_once=together)
                    assert training_memory(settings, choice, shape, problem.outputs, rows) <= most, choice


def test_what_the_settings_do_not_tell_is_given_the_budget():
    task = {"name": "custom", "factory": "a.b:c", "train": 10, "test": 4}
    content = {"study": "s", **ENSEMBLE, "task": task, "execution": {"memory": 3}}
    settings = parse_study(content, Path("study.yaml")).arms[0].settings
    assert training_job_bytes(settings, None) is None
    assert training_job_memory(settings, None) == 3000


def test_minibatches_count_as_steps(tmp_path):
    training = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 4, "batch_size": 30}
    content = {**ENSEMBLE, "training": training, "sweep": {"augmentation": ["full"]}}
    study, _ = printed(content, tmp_path)
    written_probe(study, study.arms[0], threads=1)
    assert row(printed(content, tmp_path)[1], study.arms[0].path)[6] == f"{64 * 4 * 3 * 0.5 / 3600:.2g}"


def test_small_kernels_have_no_tiles(tmp_path):
    study, text = printed({**ENSEMBLE, "execution": {}}, tmp_path)
    assert len(row(text, study.arms[0].path)) == 5, "arm, samples, pairs, memory"
    assert "tiles" not in text


@pytest.mark.parametrize("network", ["cnn", "gcnn"])
def test_every_network_has_a_plan(tmp_path, network):
    _, text = printed({**ENSEMBLE, "network": {"name": network}}, tmp_path)
    assert "FLOP" in text and "?" not in text


def test_a_study_without_an_analytic_side(tmp_path):
    _, text = printed({**ENSEMBLE, "theory": {"mean": False}}, tmp_path)
    assert "analytic side" not in text and "0 analytic solutions" in text


def test_kernel_convergence_shows_networks(tmp_path):
    content = {"kind": "kernel_convergence", "network": {"name": "mlp"}, "sweep": {"network.width": [8, 64]}}
    study, text = printed({**content, "convergence": {"members": 50, "inputs": 4}}, tmp_path, keys=True)
    data = 8 * (20 + 2 * 12) * (4 * 4 + 1)
    assert f"in all: {size(data + 2 * 50 * 2 * 4**2 * 8)} under" in text, "two arms of 50 networks, 4 inputs"
    assert row(text, study.arms[1].path) == ["width~64", "50", "64", "4", "500", "1", study.arms[1].data_key]


def test_kernel_regression_shows_kernels(tmp_path):
    content = {
        "kind": "kernel_regression",
        "network": {"name": "cnn"},
        "sweep": {"network.conv_layers": [1, 2]},
        "regression": {"sizes": [5, 20], "repeats": 7, "times": ["inf"]},
        "execution": {"tiles_above": 10, "tile_size": 10, "tiles_per_job": 4},
    }
    study, text = printed(content, tmp_path)
    assert row(text, study.arms[1].path)[1:8] == ["20", "12", "540", "7 of 10²", "2", "2", "10.2 kB"]
    (data,) = {prod(arm.settings.task.input_shape()) + arm.settings.task.outputs() for arm in study.arms}
    disk = 8 * (20 + 2 * 12) * data + 2 * 16 * 32 * 20 + 2 * 2 * 7 * 1 * 12 * 9
    assert f"in all: 4 jobs for tiles of kernels, {size(disk)} under" in text


def test_one_is_not_many(tmp_path):
    one = {"ensemble": {"members": 1}, "sweep": {"augmentation": ["full"]}, "execution": {"tiles_above": 10}}
    _, text = printed({**ENSEMBLE, **one}, tmp_path)
    assert text.splitlines()[0].rstrip() == "study.yaml: study 's', 1 arm"
    assert "in all: 1 member in 1 shard, 1 analytic solution, 1 job for tiles of kernels, " in text


def test_every_job_is_shown_with_what_it_needs_and_asks_a_cluster_for(tmp_path):
    study, text = printed(ENSEMBLE, tmp_path)
    assert row(text, "train_shard") == ["train_shard", "4", "4", "3.0", "1.3 GB"]
    assert row(text, "compute_kernel_tiles")[1:3] == ["5", "5"]
    assert "core-hours, " not in text
    study.shard_path(study.arms[0], 0, 63).parent.mkdir(parents=True)
    study.shard_path(study.arms[0], 0, 63).touch()
    site = Cluster(partition="cpu", max_minutes=5)
    text = printed(ENSEMBLE, tmp_path, cluster=site)[1]
    assert row(text, "train_shard") == ["train_shard", "4", "3", "3.0", "1.3 GB", "5", "1300", "1", "cpu"]
    assert row(text, "make_data")[-1] == "this machine"
    todo = 5 + 1 + 2 + 4 + 3 + 4 + 2
    assert f"{todo} jobs to submit, asking for {todo * 5 / 60:.3g} hours in all" in text
    assert ", 0 hours of a GPU at most" in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.stem)
def test_plans_of_shipped_studies_fit_a_terminal(file, width, tmp_path):
    text = io.StringIO()
    render(load_study(file, tmp_path), False, Console(file=text, width=width))
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown and "\x1b" not in shown
