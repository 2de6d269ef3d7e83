"""Kernels in tiles through the real workflow."""

import jax
import numpy as np
import pytest

from emergent_equivariance import kernel_store, store
from emergent_equivariance.study import load_study
from emergent_equivariance.study.tiling import planned_tiling
from emergent_equivariance.tasks import build_task
from emergent_equivariance.theory import solve

from .conftest import TINY, Workplace

CUT = {**TINY["execution"], "tiles_above": 10, "tile_size": 6, "tiles_per_job": 3}


@pytest.mark.slow
def test_a_study_in_tiles_gives_the_same_means_and_takes_up_where_it_stopped(tmp_path, monkeypatch):
    place = Workplace(tmp_path, {**TINY, "execution": CUT})
    study = load_study(place.file, place.folder / "results")
    kernels = study.kernel_path(study.arms[0])
    data = build_task(study.arms[0].settings)

    def planned():
        return place.planned("--cores", "1", "all_theory")

    made = {"make_data": 1, "compute_kernel_tiles": 3, "assemble_kernels": 1, "resolve_learning_rate": 2}
    assert planned() == {"all_theory": 1, "compute_theory": 2, **made}
    with jax.enable_x64(True), monkeypatch.context() as interrupted:
        interrupted.setattr(kernel_store, "_pack", lambda *arguments: None)
        kernel_store.compute(study, study.arms[0], data, 0, 1, say=print)
    done = place.snakemake("all_theory")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = place.root / "logs" / "kernels" / kernels.name.split(".")[0]
    assert "tiles: 1 computed, 2 found" in (logs / "tiles-000000-000002.log").read_text()
    assert "tiles: 3 computed, 0 found" in (logs / "tiles-000003-000005.log").read_text()
    left = {str(p.relative_to(place.root / "kernels")) for p in (place.root / "kernels").rglob("*") if p.is_file()}
    assert left == {kernels.name}, "the packed tiles are gone"
    with jax.enable_x64(True):
        for arm in study.arms:
            inline = solve(arm.settings, data)["mean"]
            np.testing.assert_allclose(store.read(study.theory_path(arm))["mean"], inline, rtol=1e-10, atol=1e-12)

    assert set(planned()) <= {"all_theory"}
    place.write(execution={**CUT, "tile_size": 4})
    assert set(planned()) <= {"all_theory"}, "assembled kernels stay, however they were cut"
    kernels.unlink()
    assert set(planned()) <= {"all_theory"}, "nothing needs them"
    study.theory_path(study.arms[0]).unlink()
    jobs = planned_tiling(load_study(place.file).arms[0].settings).jobs(3)
    assert planned()["compute_kernel_tiles"] == len(jobs) == 4


DIGITS = {"name": "digits", "train": 8, "test": 8, "ood": "none"}


@pytest.mark.parametrize(
    ("sections", "solutions"),
    [
        ({"sweep": {"theory.route": ["direct", "auto"]}}, 2),
        ({"sweep": {"training.loss": ["cross_entropy", "mse"]}, "task": DIGITS}, 1),
    ],
)
@pytest.mark.slow
def test_arms_without_tiles_share_kernels_with_those_that_have_them(tmp_path, sections, solutions):
    training = {"learning_rate": 0.1, "steps": 10}
    place = Workplace(tmp_path, {**TINY, "execution": CUT, "training": training, **sections})
    study = load_study(place.file)
    assert [planned_tiling(arm.settings) is not None for arm in study.arms] == [False, True]
    assert len({arm.kernel_key for arm in study.arms}) == 1
    planned = place.planned("--cores", "1", "all_theory")
    jobs = planned_tiling(study.arms[1].settings).jobs(CUT["tiles_per_job"])
    assert planned["compute_kernel_tiles"] == len(jobs)
    assert (planned["assemble_kernels"], planned["compute_theory"]) == (1, solutions)
    shown = place.snakemake("-np", "--cores", "1", "all_theory").stdout
    assert shown.count("--threads 1 ") == len(jobs) + solutions, "one thread is granted, kernel_threads is 2"
    assert shown.count("mem_mb=1300") == len(jobs) + 2 + solutions
    data_key, key = study.arms[1].data_key, study.arms[1].kernel_key
    for command in (["data", "--key", data_key], ["kernel-tiles", "--key", key, "--first", "0", "--last", "0"]):
        done = place.emeq(command[0], "study.yaml", *command[1:])
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_study_beyond_its_memory_is_refused_before_anything_runs(tmp_path):
    task = {"name": "ising", "lattice": 4, "train": 50_000, "test": 8}
    place = Workplace(tmp_path, {**TINY, "task": task})
    for done in (place.snakemake("-n"), place.emeq("validate", "study.yaml"), place.emeq("plan", "study.yaml")):
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert "execution.memory" in said and "tiles of 256" in said and "on disk" in said
        assert "Traceback" not in said
