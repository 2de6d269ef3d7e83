"""What `emeq status` says of a study, from what lies on disk."""

import dataclasses
import io
import json
import os
import re
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from emergent_equivariance import controller, lease, status
from emergent_equivariance.cli import app
from emergent_equivariance.cli.view import headline, view
from emergent_equivariance.errors import StoreError, StudyError
from emergent_equivariance.study import load_study
from emergent_equivariance.study.products import products

CONTENT = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp", "width": 4},
    "training": {"steps": 3, "learning_rate": 0.1},
    "ensemble": {"members": 10},
    "sweep": {"augmentation": ["none", "full"]},
    "evaluate": {"samples": 4},
    "execution": {"shard_size": 4},
}


def study_in(folder, **changes):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return load_study(file, folder / "results")


def put(path, age=0.0, **attributes):
    """A file; a store with attributes only, where some are given; modified ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if attributes:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("zarr.json", json.dumps({"attributes": attributes}))
    else:
        path.touch()
    os.utime(path, (time.time() - age,) * 2)
    return path


def log(study, path, text, age=0.0):
    place = put(study.log_path(path))
    place.write_text(text)
    os.utime(place, (time.time() - age,) * 2)


def worked_on(monkeypatch, since=1000.0):
    """A Snakemake works on the study since so many seconds."""
    begin = datetime.fromtimestamp(time.time() - since, UTC).isoformat()
    owner = {"user": "me", "host": "here", "process": 7, "since": begin}
    monkeypatch.setattr(controller, "owner", lambda study: owner)


def stages(found):
    return {stage.rule: stage.states for stage in found.stages}


def text_of(found, width=80, height=None):
    out = io.StringIO()
    Console(file=out, width=width).print(view(found, width, height))
    return out.getvalue()


def test_of_a_study_that_has_not_begun_everything_is_missing(tmp_path):
    found = status.status(study_in(tmp_path))
    assert [arm.states for arm in found.arms] == [["missing"] * 3] * 2
    assert (found.members_done, found.members, found.complete, found.worker) == (0, 20, False, "")
    assert found.pace.seconds_left is None and found.pace.members_per_second is None
    assert stages(found)["train_shard"] == {"missing": 6}
    assert stages(found)["make_data"] == {"missing": 1}
    assert stages(found)["draw_figures"] == {"missing": 1}
    assert not list(tmp_path.glob("results/*")), "nothing is written"


def test_shards_tell_members_and_speed(tmp_path):
    study = study_in(tmp_path)
    none, full = study.arms
    put(study.shard_path(none, 0, 3), seconds=8.0)
    put(study.shard_path(none, 8, 11), seconds=4.0)  # reaches past the 10 members
    found = status.status(study)
    assert found.arms[0].states == ["done", "missing", "done"]
    assert found.arms[0].members_done == 6
    assert found.arms[0].seconds_per_member == pytest.approx(12 / 8) and found.arms[0].measured
    assert not found.arms[1].measured and found.arms[1].seconds_per_member > 0
    assert full.path == found.arms[1].path


def test_members_of_another_version_of_the_study_are_not_counted(tmp_path):
    study = study_in(tmp_path)
    put(study.shard_path(study.arms[0], 0, 3), seconds=8.0, config_hash=study.arms[0].config_hash)
    assert status.status(study).members_done == 4
    other = study_in(tmp_path, training={"steps": 3, "learning_rate": 0.2})
    with pytest.raises(StudyError, match="members of another version of this study"):
        status.status(other)


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    study = study_in(tmp_path)
    put(study.root / "members")
    with pytest.raises(StoreError, match=r"members/.* cannot be read \(Not a directory\)"):
        status.status(study)


def test_few_headers_are_read_however_many_shards_there_are(tmp_path, monkeypatch):
    study = study_in(tmp_path, ensemble={"members": 400})
    for arm in study.arms:
        for first in range(0, 400, 4):
            put(study.shard_path(arm, first, first + 3), age=400 - first, seconds=float(first))
    read = []
    header = status.header
    monkeypatch.setattr(status, "header", lambda path: read.append(path) or header(path))
    found = status.status(study)
    assert found.members_done == 800
    assert len(read) == 2 * status.SAMPLED
    assert found.arms[0].seconds_per_member == pytest.approx((384 + 388 + 392 + 396) / 16), "the newest"


def test_a_living_lease_is_a_running_shard(tmp_path):
    study = study_in(tmp_path)
    arm = study.arms[1]
    place = study.lease_path(arm, 4, 7)
    with lease.Lease(place, "members 4 to 7", print) as held:
        held.acquire()
        found = status.status(study)
        assert found.arms[1].states == ["missing", "running", "missing"]
        (job,) = found.running
        assert job.arm == arm.path and job.what == "members 4–7"
        assert f"process {os.getpid()}" in job.holder and 0 <= job.seconds < 60
        assert found.pace.seconds_left > 0 and not found.pace.measured
    assert "running" not in status.status(study).arms[1].states


@pytest.mark.parametrize(
    ("changes", "age", "state", "words"),
    [
        ({"start": 1}, 0, "failed", "has ended without a word"),
        ({"host": "elsewhere", "job": "42"}, 20, "running", "elsewhere, SLURM job 42"),
        ({"host": "elsewhere", "job": "42"}, 500, "failed", "SLURM job 42: has not been heard of for 500 s"),
    ],
)
def test_a_holder_that_is_gone_or_silent_is_a_failed_shard(tmp_path, changes, age, state, words):
    study = study_in(tmp_path)
    place = study.lease_path(study.arms[0], 0, 3)
    holder = dataclasses.replace(lease.this_process(), since=datetime.now(UTC).isoformat(), **changes)
    put(place / "3").write_text(json.dumps(dataclasses.asdict(holder)))
    log(study, study.shard_path(study.arms[0], 0, 3), "members: 1/4\n")
    os.utime(place / "3", (time.time() - age,) * 2)
    found = status.status(study)
    assert found.arms[0].states == [state, "missing", "missing"]
    said = [job.reason for job in found.failed] + [job.holder for job in found.running]
    assert words in said[0]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("members: 1/4\nerror: the disk is full\n", "failed"),
        ('Traceback\n  File "a.py", line 1\nmy.Own: no\n', "failed"),
        ("SIGTERM: members 0 to 3 stopped with a checkpoint\n", "missing"),
        ("", "missing"),
    ],
)
def test_the_log_says_whether_a_job_failed(tmp_path, text, state):
    study = study_in(tmp_path)
    log(study, study.shard_path(study.arms[0], 0, 3), text)
    found = status.status(study)
    assert found.arms[0].states[0] == state
    assert [job.reason for job in found.failed] == ([text.splitlines()[-1]] if state == "failed" else [])


def test_while_a_snakemake_works_what_has_not_begun_waits(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    arm = study.arms[0]
    log(study, study.shard_path(arm, 0, 3), "error: of an earlier run\n", age=5000)
    log(study, study.shard_path(arm, 4, 7), "error: of this run\n", age=10)
    log(study, study.shard_path(arm, 8, 9), "", age=2)  # about to take its lease
    log(study, study.theory_path(arm), "kernel pairs: 1/10\n")
    worked_on(monkeypatch)
    found = status.status(study)
    assert found.arms[0].states == ["waiting", "failed", "running"]
    assert found.arms[1].states == ["waiting"] * 3
    assert stages(found)["compute_theory"] == {"running": 1, "waiting": 1}
    assert found.worker.startswith("Snakemake (process 7 on here, by me, since ")


def test_speed_and_time_left_are_those_of_the_work_done_lately(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    none, full = study.arms
    worked_on(monkeypatch, since=10_000)
    put(study.shard_path(none, 0, 3), age=5000, seconds=100.0)  # not lately
    put(study.shard_path(none, 4, 7), age=100, seconds=100.0)
    put(study.shard_path(full, 0, 3), seconds=200.0)
    pace = status.status(study).pace
    assert pace.window == pytest.approx(200, abs=2)
    assert pace.members_per_second == pytest.approx(8 / 200, rel=0.02)
    # left: 2 members at 25 s and 6 at 50 s; 300 s of work were done in 200 s
    assert pace.seconds_left == pytest.approx((2 * 25 + 6 * 50) / 1.5, rel=0.02)
    assert pace.measured


def test_arms_that_have_not_begun_are_estimated_with_the_error_of_those_that_have(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    none, _ = study.arms
    before = {arm.path: arm.seconds_per_member for arm in status.status(study).arms}
    worked_on(monkeypatch)
    for first, last in study.shards(none):
        put(study.shard_path(none, first, last), seconds=1000 * before[none.path] * (last - first + 1))
    pace = status.status(study).pace
    slow = [1000 * before[arm.path] for arm in study.arms]
    assert not pace.measured
    assert pace.seconds_left == pytest.approx(10 * slow[1] * pace.window / (10 * slow[0]), rel=0.1)


@pytest.mark.parametrize("kind", ["ensemble", "kernel_convergence"])
def test_a_study_whose_products_are_there_is_complete(tmp_path, kind):
    study = study_in(tmp_path)
    if kind == "kernel_convergence":
        content = {key: CONTENT[key] for key in ("study", "task", "network")}
        (tmp_path / "tiny.yaml").write_text(
            yaml.safe_dump({**content, "kind": kind, "convergence": {"inputs": 2}, "sweep": {"network.width": [1, 2]}})
        )
        study = load_study(tmp_path / "tiny.yaml", tmp_path / "results")
    for path in products(study):
        put(path)
    found = status.status(study)
    assert found.complete and all(arm.complete for arm in found.arms)
    assert all(set(stage.states) == {"done"} for stage in found.stages), found.stages
    assert "complete" in headline(found).plain
    study.result_path(study.arms[1]).unlink()
    found = status.status(study)
    assert not found.complete and [arm.complete for arm in found.arms] == [True, False]


def test_a_study_that_is_closed_is_complete_without_some_shards(tmp_path):
    study = study_in(tmp_path, execution={"shard_size": 4, "allow_missing": True})
    for arm in study.arms:
        put(study.shard_path(arm, 0, 3))
    for path in products(study):
        put(path)
    found = status.status(study)
    assert found.complete and found.members_done == 8
    assert found.arms[0].states == ["done", "missing", "missing"]


def test_json_and_exit_codes(tmp_path):
    study = study_in(tmp_path)
    arguments = ["status", str(study.file), "--results", str(study.results), "--json"]
    put(study.shard_path(study.arms[0], 0, 3), seconds=4.0)
    log(study, study.theory_path(study.arms[0]), "error: no\n")
    result = CliRunner().invoke(app, arguments)
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["arms"][0]["shards"] == {"done": 1, "missing": 2}
    assert (found["members_done"], found["members"], found["complete"]) == (4, 20, False)
    assert found["failed"][0]["reason"] == "error: no"
    for path in products(study):
        put(path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and json.loads(result.stdout)["complete"]


def test_watching_ends_when_the_study_is_complete(tmp_path, monkeypatch):
    study = study_in(tmp_path)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        for path in products(study) if len(slept) == 2 else []:
            put(path)

    monkeypatch.setattr(time, "sleep", sleep)
    result = CliRunner().invoke(app, ["status", str(study.file), "--results", str(study.results), "--watch", "3"])
    assert result.exit_code == 0 and slept == [3, 3]
    assert len(result.stdout.splitlines()) == 3, "a line each time, where there is no terminal"


def test_looking_changes_nothing(tmp_path):
    study = study_in(tmp_path)
    put(study.shard_path(study.arms[0], 0, 3), seconds=4.0)
    controller.acquire(study).close()
    (study.lease_path(study.arms[0], 4, 7)).mkdir()

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    before = state()
    status.status(study)
    assert state() == before


def test_many_arms_fit_a_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = study_in(Path(), sweep={"augmentation": ["none", "full"], "network.width": list(range(4, 34))})
    for i, arm in enumerate(study.arms):
        for first, last in study.shards(arm)[: 3 if i < 20 else i % 3]:
            put(study.shard_path(arm, first, last))
    log(study, study.shard_path(study.arms[59], 8, 9), "error: the disk is full\n")
    found = status.status(study)
    for width in (80, 120):
        shown = text_of(found, width, height=24)
        lines = shown.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= width, shown
        assert "20 arms, all done" in shown
        assert not [line for line in lines if re.search(r"\(\d+$|^(failed|running)\)", line)], "breaks between stages"
        assert "\x1b" not in shown
        rows = [line for line in lines if "~" in line.split(" ")[0]]
        assert rows[0].startswith(study.arms[59].path), "what failed comes first"


def test_bars_show_every_state_that_occurs(tmp_path):
    study = study_in(tmp_path, ensemble={"members": 800})
    for first, last in study.shards(study.arms[0])[:198]:
        put(study.shard_path(study.arms[0], first, last))
    log(study, study.shard_path(study.arms[0], 792, 795), "error: no\n")
    shown = next(line for line in text_of(status.status(study)).splitlines() if line.startswith("augmentation~none"))
    assert "█" * 6 + "×·" in shown
