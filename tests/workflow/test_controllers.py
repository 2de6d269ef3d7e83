"""Controllers that are killed, come second, or work on what another study left under the same name."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import xarray as xr

from emergent_equivariance import controller, store
from emergent_equivariance.cli import stages
from emergent_equivariance.errors import StoreError
from emergent_equivariance.study import load_study

from .conftest import ROOT, TINY, Workplace

AFTER = {"join_metrics": 1, "draw_figures": 1, "all": 1}
SHARDS = [f"members/augmentation~full/members-{members}.zarr.zip" for members in ("000000-000003", "000004-000007")]
#: Found by Python where its folder is on PYTHONPATH: a job that trains is killed when it has written its shard.
KILLED_AT_THE_END = """
import atexit, os, signal, sys
if "train" in sys.orig_argv:
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
"""


def study_of(workplace):
    return load_study(workplace.file, workplace.root.parent)


def stamps(workplace):
    """What changes when a shard is written again."""
    found = ((p, p.stat()) for p in workplace.root.glob("members/**/members-*.zip"))
    return {str(path.relative_to(workplace.root)): (at.st_ino, at.st_mtime_ns) for path, at in found}


def products(workplace):
    """Every product of a study in a form that can be compared: its arrays, or its bytes."""
    root = workplace.root
    stores = {p: store.read(p).attrs["checksum"] for p in root.glob("[demt]*/**/*.zarr.zip")}
    texts = {p: p.read_bytes() for p in [*root.glob("tables/*.csv"), *root.glob("figures/*"), root / "report.html"]}
    return {str(path.relative_to(root)): content for path, content in (stores | texts).items()}


def assert_equal(workplace, other):
    found, expected = products(workplace), products(other)
    assert set(found) == set(expected)
    assert {name for name in found if found[name] != expected[name]} == set()
    metrics = (store.read_netcdf(place.root / "metrics.nc") for place in (workplace, other))
    xr.testing.assert_identical(*(ds.drop_attrs() for ds in metrics))


def start(workplace, *targets):
    """Snakemake on the study, in a process group of its own."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    profile = ["--workflow-profile", str(ROOT / "profiles" / "default"), "--configfile", str(workplace.file)]
    environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (workplace.folder / "controller.log").open("a") as log:
        return subprocess.Popen(
            [*command, *targets, *profile],
            cwd=workplace.folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(condition, process, seconds=300.0):
    """Poll until the condition holds or the process has ended; → whether it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return bool(condition())


def kill_group(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def unlock(workplace):
    done = workplace.snakemake("--unlock")
    assert done.returncode == 0, done.stdout + done.stderr


def finish(workplace):
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------- killed


def test_what_counts_is_written_last(workplace, monkeypatch):
    """Where it is, all outputs of the job are: Snakemake takes what it finds after it was killed."""

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    root = workplace.root
    (root / "metrics.nc").unlink()
    shutil.rmtree(root / "tables")
    (root / "report.html").unlink()
    shutil.rmtree(root / "figures")
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_netcdf", kill)
        with pytest.raises(Killed):
            stages.metrics(workplace.file, root.parent)
    assert {p.stem for p in (root / "tables").iterdir()} == {"metrics", "members", "scaling", "key_numbers"}
    stages.metrics(workplace.file, root.parent)
    write = store.write_text
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_text", lambda text, path: kill() if path.suffix == ".html" else write(text, path))
        with pytest.raises(Killed):
            stages.figures(workplace.file, root.parent)
    assert {p.suffix for p in (root / "figures").iterdir()} == {".svg", ".png", ".pdf", ".csv"}
    assert not (root / "report.html").exists()


@pytest.mark.slow
def test_killed_while_metrics_and_figures_are_written(workplace, finished):
    root, before = workplace.root, stamps(workplace)
    shutil.rmtree(root / "tables")
    (root / "metrics.nc").unlink()
    moments = {
        "tables": lambda: (root / "tables").is_dir() and any((root / "tables").iterdir()),
        "metrics": lambda: (root / "metrics.nc").exists(),
        "svg": lambda: (root / "figures").is_dir() and any((root / "figures").glob("[a-z]*.svg")),
        "png": lambda: (root / "figures" / "orbit_in_time.png").exists(),
    }
    for name, moment in moments.items():
        if name == "svg":
            shutil.rmtree(root / "figures")
        process = start(workplace)
        assert wait_for(moment, process), name
        kill_group(process)
        assert not (root / "report.html").exists() or name in ("tables", "metrics"), name
        unlock(workplace)
    finish(workplace)
    assert_equal(workplace, finished)
    assert stamps(workplace) == before


@pytest.mark.slow
def test_killed_at_many_moments_a_study_is_complete_and_nothing_is_trained_twice(finished, tmp_path):
    """-s prints where the kills landed."""
    place = Workplace(tmp_path, TINY)
    rng, root = random.Random(1), place.root
    stages_left = ["data/*.zip", "engine/*.json", "theory/*.json", "theory/*.zip", "members/**/members-*.zip"]
    stages_left += ["logs/members/**/*.log", "ensemble/*.zip", "tables/*", "metrics.nc", "figures/[a-z]*"]
    seen, kills, ended = {}, 0, False

    def begun():
        """The first of the stages not yet disturbed of which there is a new file."""
        return next((p for p in stages_left if set(root.glob(p)) - known[p]), None)

    while stages_left and not ended:
        known = {pattern: set(root.glob(pattern)) for pattern in stages_left}
        process = start(place)
        ended = not wait_for(begun, process)
        if (stage := begun()) is not None:
            time.sleep(rng.choice([0, 0, 0.3, 1.5]))
            stages_left.remove(stage)
            print("killed after", stage)
            kills += 1
        kill_group(process)
        unlock(place)
        now = stamps(place)
        assert {name for name in seen if now.get(name) != seen[name]} == set(), "a complete shard was trained again"
        seen = now
    finish(place)
    assert kills >= 8
    now = stamps(place)
    assert {name: now[name] for name in seen} == seen
    assert_equal(place, finished)
    assert place.planned() == {}


@pytest.mark.slow
def test_a_shard_that_a_job_finished_after_its_controller_was_killed_is_not_trained_again(workplace):
    root = workplace.root
    shard = root / "members" / "augmentation~full" / "members-000004-000007.zarr.zip"
    log = root / "logs" / "members" / "augmentation~full" / "members-000004-000007.log"
    shard.unlink()
    log.unlink()
    process = start(workplace)
    assert wait_for(log.exists, process)
    os.kill(process.pid, signal.SIGKILL)  # the controller alone: its job goes on
    process.wait()
    deadline = time.monotonic() + 120
    while not shard.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    before = stamps(workplace)
    assert str(shard.relative_to(root)) in before
    unlock(workplace)
    assert workplace.planned() == {"aggregate_arm": 1, **AFTER}
    finish(workplace)
    assert stamps(workplace) == before


@pytest.mark.slow
def test_a_shard_is_kept_whose_job_died_after_it_had_written_it(workplace, tmp_path, monkeypatch):
    (workplace.root / SHARDS[0]).unlink()
    (tmp_path / "sitecustomize.py").write_text(KILLED_AT_THE_END)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        failed = workplace.snakemake("all_members")
    assert failed.returncode != 0 and "Error in rule train_shard" in failed.stderr, failed.stdout + failed.stderr
    before = stamps(workplace)
    assert SHARDS[0] in before
    assert workplace.planned() == {"aggregate_arm": 1, **AFTER}
    again = workplace.emeq("train", "study.yaml", "--arm", "augmentation~full", "--first", "0", "--last", "3")
    assert again.returncode == 0 and "nothing is trained" in again.stderr, again.stderr
    assert stamps(workplace) == before


@pytest.mark.slow
def test_a_shard_is_kept_that_another_job_finished_while_its_own_was_queued(workplace, tmp_path):
    """As where the jobs of a Snakemake that was killed go on: on one core, the second shard waits for the first."""
    root = workplace.root
    logs = {name: root / "logs" / name.replace(".zarr.zip", ".log") for name in SHARDS}
    before = stamps(workplace)
    for name in SHARDS:
        (root / name).rename(tmp_path / name.rpartition("/")[-1])
        logs[name].unlink()
    process = start(workplace, "all_members")
    assert wait_for(lambda: any(log.exists() for log in logs.values()), process)
    queued = next(name for name in SHARDS if not logs[name].exists())
    (tmp_path / queued.rpartition("/")[-1]).rename(root / queued)
    assert process.wait(timeout=300) == 0
    assert "nothing is trained" in logs[queued].read_text()
    after = stamps(workplace)  # Snakemake sets the times of what its jobs leave: only the inode says whose it is
    assert {name for name in before if after[name][0] != before[name][0]} == set(SHARDS) - {queued}
    assert not list((workplace.folder / ".snakemake").glob("backups/**/*.zip"))
    assert workplace.planned("all_members") == {}


# ------------------------------------------------------------------------------------------------- second


def linked(workplace, folder, **sections):
    """Another working folder on the same results, with a study file of its own."""
    folder.mkdir()
    (folder / "results").symlink_to(workplace.root.parent)
    return Workplace(folder, {**TINY, **sections})


def test_a_second_controller_in_another_folder_is_refused_by_name(workplace, tmp_path):
    other = linked(workplace, tmp_path / "other")
    (workplace.root / "report.html").unlink()
    with controller.acquire(study_of(workplace)):
        refused = other.snakemake()
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    for text in (str(other.file), f"process {os.getpid()}", str(workplace.file), "Nothing was started", "Wait until"):
        assert text in said, said
    assert "Traceback" not in said and not (workplace.root / "report.html").exists()


@pytest.mark.slow
def test_two_controllers_at_once_in_one_folder_and_in_two(workplace, finished, tmp_path):
    other = linked(workplace, tmp_path / "other")
    shutil.rmtree(workplace.root / "members" / "augmentation~full")
    first = start(workplace)
    assert wait_for(lambda: controller.other(study_of(workplace)), first)
    for place, text in ((workplace, "cannot be locked"), (other, "Nothing was started")):
        second = place.snakemake()
        said = second.stdout + second.stderr
        assert second.returncode != 0
        assert text in said and f"{place.file}: another Snakemake (process {first.pid}" in said, said
        assert first.poll() is None, "the first one was to be running still"
    assert first.wait(timeout=300) == 0
    assert controller.other(study_of(workplace)) == ""
    assert_equal(workplace, finished)
    assert other.planned() == {}


# ------------------------------------------------------------------------------- another study of the same name


@pytest.mark.slow
def test_metrics_of_another_study_of_the_same_name_are_refused_and_made_again(workplace, tmp_path):
    """Its arms are other ones, so that no member is in the way; only metrics.nc, tables and pictures are shared."""
    other = linked(workplace, tmp_path / "other", sweep={"augmentation": ["full"]})
    stages.metrics(other.file, other.root.parent)
    with pytest.raises(StoreError, match=r"metrics.nc: was made from another version .* Run `emeq metrics"):
        stages.figures(workplace.file, workplace.root.parent)
    assert workplace.planned() == AFTER, "Snakemake's own record says that nothing has changed"
    assert other.planned()["draw_figures"] == 1


@pytest.mark.slow
def test_ensembles_of_another_study_of_the_same_name_are_refused_and_made_again(workplace, tmp_path):
    other = linked(workplace, tmp_path / "other", evaluate={"samples": 8, "member_counts": [3]})
    stages.aggregate(other.file, "augmentation~full", other.root.parent)
    with pytest.raises(StoreError, match=r"ensemble/augmentation~full.zarr.zip: was written by another version"):
        stages.metrics(workplace.file, workplace.root.parent)
    assert workplace.planned() == {"aggregate_arm": 1, **AFTER}
    assert other.planned() == {"aggregate_arm": 1, **AFTER}
