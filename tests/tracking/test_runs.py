"""Weights & Biases mirrors the results: what a run holds, and that no failure of it fails or delays a job."""

import json
import os
import subprocess
import sys
import time
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from emergent_equivariance.tracking import log_shard, runs
from emergent_equivariance.tracking.reading import lost, recorded, records
from tests.tracking.conftest import data_of, leaked, recordings, said_by_client, shard_of, tiny
from tests.tracking.wandb_server import KEY, WandbServer


def record(study, seed: int = 0) -> None:
    log_shard(study, study.arms[0], shard_of(study, seed=seed), data_of(study))


def warnings(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: Weights & Biases")]


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_an_offline_run_holds_the_arm_its_curves_and_its_counts_in_one_file(tmp_path, capfd):
    study = tiny(tmp_path, "offline")
    record(study)
    assert warnings(capfd) == []
    (file,) = recordings(study)
    assert [path for path in (study.root / "tracking").rglob("*") if not path.is_dir()] == [file]
    found: dict[str, list[Any]] = {}
    for entry in records(file):
        found.setdefault(entry.WhichOneof("record_type"), []).append(entry)
    run = found["run"][0].run
    assert (run.run_group, run.job_type, run.display_name) == ("tiny", "train", "width~4/0-3")
    assert (list(run.tags), run.host, run.project) == (["width=4"], "unnamed", "emergent-equivariance")
    config = values(run.config.update)
    assert (config["arm"], config["arm_key"], config["first"], config["last"]) == ("width~4", "width-4", 0, 3)
    assert config["training"]["steps"] == 20
    rows = [values(entry.history.item) for entry in found["history"]]
    assert [(row["_step"], row["step"]) for row in rows] == [(step, step) for step in (0, 1, 5, 20)]
    assert {"training_loss/mean", "orbit_deviation/test/ensemble", "loss/train/q10"} <= set(rows[0])
    axes = [(entry.metric.name or entry.metric.glob_name, entry.metric.step_metric) for entry in found["metric"]]
    assert ("*", "step") in axes
    summary: dict[str, Any] = {}
    for entry in found["summary"]:
        summary |= values(entry.summary.update)
    assert (summary["members"], summary["diverged"]) == (4, 0)
    assert recorded(file).finished


def test_the_same_job_has_the_same_identity_and_another_one_another(tmp_path):
    study = tiny(tmp_path, "offline")
    record(study)
    record(study, seed=1)
    log_shard(study, study.arms[0], shard_of(study, first=4), data_of(study))
    log_shard(study, study.arms[1], shard_of(study), data_of(study))
    names = [path.stem for path in recordings(study)]
    assert len(names) == 4
    assert len(set(names)) == 3


def test_disabled_imports_nothing_of_wandb(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.tracking.conftest import *; "
        "from emergent_equivariance.tracking import log_shard; study = tiny(Path(sys.argv[1]), 'disabled'); "
        "log_shard(study, study.arms[0], None, None); assert not [m for m in sys.modules if m.startswith('wandb')]"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, timeout=100).returncode == 0
    assert not (tmp_path / "results").exists()


def test_a_tracking_folder_that_is_a_file_is_a_warning(tmp_path, capfd):
    study = tiny(tmp_path, "offline")
    study.root.mkdir(parents=True)
    (study.root / "tracking").write_text("in the way")
    record(study)
    (warning,) = warnings(capfd)
    assert "File exists" in warning
    assert str(study.root / "tracking") in warning


@pytest.mark.parametrize("where", ["", "wandb", "staging", runs.MARKER])
def test_a_tracking_folder_that_leads_out_of_the_results_is_a_warning(where, tmp_path, capfd):
    study = tiny(tmp_path, "online")
    away = tmp_path / "away"
    away.mkdir()
    (away / "mine").write_text("kept")
    link = study.root / "tracking" / where
    link.parent.mkdir(parents=True)
    link.symlink_to(away / "mine" if where == runs.MARKER else away)
    record(study)
    (warning,) = warnings(capfd)
    assert str(link) in warning
    assert "nothing of this job is recorded" in warning
    assert [path.name for path in away.rglob("*")] == ["mine"]
    assert (away / "mine").read_text() == "kept"


def test_only_wandbs_own_log_is_removed_through_its_link(tmp_path):
    place = tmp_path / "wandb" / "run-20260101_000000-a"
    logs = tmp_path / "staging" / "wandb" / "logs"
    for folder in (place / "logs", logs):
        folder.mkdir(parents=True)
    for victim, stays in ((tmp_path / "core-debug.log", True), (logs / "core-debug-1.log", False)):
        victim.write_text("content")
        (place / "logs").mkdir(exist_ok=True)
        (place / "logs" / runs.CORE_LOG).symlink_to(victim)
        runs.tidy(place)
        assert victim.exists() is stays
        assert not (place / "logs").exists()


def test_errors_that_wandb_has_elsewhere_do_not_fail_a_job(tmp_path, capfd, monkeypatch):
    elsewhere = (("wandb.sdk.nowhere", "Error"), ("wandb.sdk.mailbox.mailbox", "NoSuchError"))
    monkeypatch.setattr(runs, "PRIVATE_ERRORS", elsewhere)
    monkeypatch.setattr(runs, "MINIMUM_SPACE", 2**70)
    record(tiny(tmp_path, "offline"))
    (warning,) = warnings(capfd)
    assert "No space left" in warning


def test_errors_of_wandb_are_where_they_are_looked_for():
    """Fails with a version of wandb that has them elsewhere: before the bound in pyproject.toml is raised."""
    names = {error.__name__ for error in runs._failures()}
    assert {name for _, name in runs.PRIVATE_ERRORS} <= names


def test_relative_results_hold_one_tracking_folder(tmp_path, monkeypatch, server: WandbServer):
    """A run is started online with the tracking folder as working folder."""
    monkeypatch.chdir(tmp_path)
    study = tiny(Path("."), "online")
    assert not study.results.is_absolute()
    record(study)
    assert server.by_job("train")
    files = {path for path in (study.root / "tracking").rglob("*") if path.is_file()}
    assert files == {path for file in recordings(study) for path in (file, file.with_suffix(runs.SENT))}
    assert not (study.root / "tracking" / "results").exists()


def test_a_full_disk_is_a_warning(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(runs, "MINIMUM_SPACE", 2**70)
    record(tiny(tmp_path, "offline"))
    (warning,) = warnings(capfd)
    assert "No space left" in warning


def test_a_file_that_is_cut_off_is_a_warning(tmp_path, capfd, monkeypatch):
    stop = runs._stop

    def cut() -> None:
        stop()
        (file,) = recordings(study)
        os.truncate(file, file.stat().st_size - 5)

    study = tiny(tmp_path, "offline")
    monkeypatch.setattr(runs, "_stop", cut)
    record(study)
    (warning,) = warnings(capfd)
    assert "cut off" in warning
    assert f"emeq sync {study.file} --results {study.results}" in warning


def test_a_variable_that_wandb_does_not_understand_is_a_warning(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "nowhere")
    record(tiny(tmp_path, "offline"))
    (warning,) = warnings(capfd)
    assert "nowhere" in warning


def test_online_without_a_key_is_recorded_offline(tmp_path, capfd):
    study = tiny(tmp_path, "online")
    record(study)
    (warning,) = warnings(capfd)
    assert "No API key" in warning
    (file,) = recordings(study)
    assert str(file.parent) in warning
    assert recorded(file).rows == 4


def test_online_the_server_has_the_run_and_a_repeated_job_continues_it(tmp_path, capfd, server: WandbServer):
    study = tiny(tmp_path, "online")
    record(study)
    (run,) = server.by_job("train")
    assert (run.fields["groupName"], run.fields["displayName"], run.fields["tags"]) == (
        "tiny",
        "width~4/0-3",
        ["width=4"],
    )
    assert [row["_step"] for row in run.history] == [0, 1, 5, 20]
    assert (run.config["arm"], run.summary["members"], run.finished) == ("width~4", 4, True)
    first = list(run.history)
    record(study, seed=1)
    assert list(server.runs) == [run.id]
    assert run.history == first
    assert warnings(capfd) == []
    files = {path for path in (study.root / "tracking").rglob("*") if path.is_file()}
    assert files == {path for file in recordings(study) for path in (file, file.with_suffix(runs.SENT))}


def test_rows_that_the_server_refuses_are_told_though_the_client_says_nothing(tmp_path, capfd, server: WandbServer):
    server.fault = lambda request: (403, {}) if request.operation == "file_stream" else None
    study = tiny(tmp_path, "online")
    record(study)
    (warning,) = warnings(capfd)
    assert "403" in warning
    assert "emeq sync" in warning
    (file,) = recordings(study)
    assert not file.with_suffix(runs.SENT).exists()
    assert recorded(file).rows == 4


def test_no_job_waits_for_a_server_that_another_found_unreachable(tmp_path, capfd, server: WandbServer):
    study = tiny(tmp_path, "online")
    marker = study.root / "tracking" / runs.MARKER
    marker.parent.mkdir(parents=True)
    marker.write_text("connection refused\n")
    record(study)
    assert server.requests == []
    (warning,) = warnings(capfd)
    assert "connection refused" in warning
    assert str(marker) in warning
    assert recorded(recordings(study)[0]).rows == 4
    os.utime(marker, (time.time() - runs.PAUSE - 1,) * 2)
    record(study)
    assert len(server.by_job("train")) == 1


def test_wandbs_log_is_asked_what_the_server_did_not_take(tmp_path):
    lines = [
        {"level": "ERROR", "msg": "api: HTTP error", "sync_path": "run-11aa.wandb"},
        {"level": "INFO", "msg": "filestream: request sent", "sync_path": "run-11aa.wandb"},
        {"level": "ERROR+4", "msg": "filestream: fatal error: 403", "sync_path": "run-22bb.wandb"},
    ]
    log = tmp_path / "log"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"level": "ERR')
    assert lost(log, "11aa") == ""
    assert lost(log, "22bb") == "filestream: fatal error: 403"
    assert lost(tmp_path / "none", "22bb") == ""


def test_the_end_of_the_background_process_is_a_warning(tmp_path, capfd):
    study = tiny(tmp_path, "offline")
    with runs.run(study, "train", "one", ["one"], {}) as active:
        children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True)
        for process in children.stdout.split():
            os.kill(int(process), 9)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # until a write fails
            active.log({"loss": 1.0})
            time.sleep(0.05)
    assert len(warnings(capfd)) == 1
    with runs.run(study, "train", "two", ["two"], {}) as active:
        assert active is not None


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_no_secret_no_environment_and_no_place_leaves(mode, tmp_path, monkeypatch, server: WandbServer):
    planted = {"MY_SECRET_TOKEN": "swordfish-4711", "AWS_SECRET_ACCESS_KEY": "tuna-0815", "SLURM_JOB_ID": "918273645"}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine other.org login someone password halibut-1234\n")
    monkeypatch.chdir(tmp_path)
    study = tiny(tmp_path, mode)
    record(study)
    kept = [path.read_bytes() for path in (study.root / "tracking").rglob("*") if path.is_file()]
    kept += [str(entry).encode() for file in recordings(study) for entry in records(file)]
    sent = said_by_client(server)
    assert any(b"training_loss/mean" in content for content in kept)
    assert (mode == "online") == any(b"training_loss/mean" in content for content in sent)
    names = [*planted, *planted.values(), "halibut-1234", KEY, os.uname().nodename, getuser(), str(tmp_path)]
    names += [str(Path.home()), str(Path(__file__).parents[2]), sys.executable, "site-packages"]
    assert leaked(names, kept + sent) == []
