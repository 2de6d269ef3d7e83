"""Every rule on a full disk and on a read-only one: one paragraph that names the file, and nothing is lost."""

import os
import shutil
import subprocess

import pytest

from emergent_equivariance import controller
from emergent_equivariance.cli import stages
from emergent_equivariance.errors import StoreError
from emergent_equivariance.study import load_study
from emergent_equivariance.study.tiling import planned_tiling

from .conftest import TINY, Workplace

#: Subcommand → what it makes, and its arguments after the study file and before the results folder.
ENSEMBLE = {
    "data": lambda study, arm: (study.data_path(arm), (arm.data_key,)),
    "learning_rate": lambda study, arm: (study.learning_rate_path(arm), (arm.learning_rate_key, 1)),
    "theory": lambda study, arm: (study.theory_path(arm), (arm.theory_key, 1)),
    "probe": lambda study, arm: (study.probe_path(arm), (arm.probe_key,)),
    "train": lambda study, _: (study.shard_path(study.arms[0], 0, 3), (study.arms[0].path, 0, 3)),
    "aggregate": lambda study, arm: (study.ensemble_path(arm), (arm.path,)),
    "metrics": lambda study, arm: (study.root / "tables" / "metrics.csv", ()),
    "figures": lambda study, arm: (study.root / "figures" / "orbit_scaling.svg", ()),
}
KERNELS = {
    "kernel_tiles": lambda study, arm: (
        study.kernel_path(arm).with_suffix("").with_suffix("") / "tile-000000.zarr.zip",
        (arm.kernel_key, 0, 0, 1),
    ),
    "assemble_kernels": lambda study, arm: (study.kernel_path(arm), (arm.kernel_key,)),
    "measure": lambda study, arm: (study.measure_path(arm), (arm.path, 1)),
}
REGRESSION = {
    "study": "kernels",
    "kind": "kernel_regression",
    **{key: TINY[key] for key in ("task", "network", "tracking")},
    "regression": {"sizes": [2, 4]},
    "execution": {"tiles_above": 4, "tile_size": 16},
}


def mount(folder, *options):
    """Mount a file system for the time of a test, or skip it."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")


def call(command, workplace, results):
    study = load_study(workplace.file, results)
    made, arguments = {**ENSEMBLE, **KERNELS}[command](study, study.arms[-1])
    return made, lambda: getattr(stages, command)(workplace.file, *arguments, results=results)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts}


def refused(workplace, results, commands, *reasons):
    """Every command on a disk that takes nothing; what it makes is missing, as it would be."""
    before = contents(results)
    for command in commands:
        made, run = call(command, workplace, results)
        with pytest.raises(StoreError) as error:
            run()
        said = str(error.value)
        assert made.name.split(".")[0] in said and any(reason in said for reason in reasons), (command, said)
        assert contents(results) == before, command


def kernels_workplace(folder):
    folder.mkdir()
    place = Workplace(folder, REGRESSION)
    study = load_study(place.file, folder / "results")
    arm = study.arms[0]
    stages.data(place.file, arm.data_key, folder / "results")
    for first, last in planned_tiling(arm.settings).jobs(arm.settings.execution.tiles_per_job):
        stages.kernel_tiles(place.file, arm.kernel_key, first, last, 1, folder / "results")
    stages.assemble_kernels(place.file, arm.kernel_key, folder / "results")
    return place


def everything(workplace, tmp_path, results):
    """Finished results, without what is to be made again, in a folder; → study files and their commands."""
    kernels = kernels_workplace(tmp_path / "kernels")
    shutil.copytree(workplace.root, results / "tiny", symlinks=True)
    shutil.copytree(kernels.root, results / "kernels")
    made, _ = call("train", workplace, results)
    made.unlink()
    return [(workplace, ENSEMBLE), (kernels, KERNELS)]


def test_a_read_only_disk_is_named_by_every_rule(workplace, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    places = everything(workplace, tmp_path, results)
    mount(results, "--bind", str(results))
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(results)], check=True)
        for place, commands in places:
            refused(place, results, commands, "read-only")
        with pytest.raises(StoreError, match=r"tiny/.controller: cannot be written: .*read-only.*Nothing was started"):
            controller.acquire(load_study(workplace.file, results))
    finally:
        subprocess.run(["umount", "--lazy", str(results)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_by_every_rule(workplace, tmp_path):
    results = tmp_path / "small"
    mount(results, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    try:
        places = everything(workplace, tmp_path, results)
        free = os.statvfs(results)
        with (results / "filler").open("wb") as file:
            file.write(bytes(free.f_bavail * free.f_frsize))
        for place, commands in places:
            refused(place, results, commands, "disk is full")
        (results / "filler").unlink()
        for command in ENSEMBLE:
            made, run = call(command, workplace, results)
            run()
            assert made.exists(), command
    finally:
        subprocess.run(["umount", "--lazy", str(results)], check=True)
