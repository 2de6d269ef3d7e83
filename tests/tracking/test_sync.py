"""emeq sync sends what was recorded offline: each run once, the summary last, and says what could not be sent."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from getpass import getuser
from pathlib import Path

import pandas as pd
import pytest

from emergent_equivariance import store
from emergent_equivariance.errors import StoreError, TrackingError
from emergent_equivariance.store import write_netcdf
from emergent_equivariance.tracking import log_shard, log_summary, runs, sync
from emergent_equivariance.tracking.again import record_again
from emergent_equivariance.tracking.reading import recorded
from tests.tracking.conftest import data_of, leaked, recordings, said_by_client, shard_of, tiny
from tests.tracking.test_curves import gaussian, joined
from tests.tracking.wandb_server import KEY, WandbServer


def record_shard(study, first: int = 0, seed: int = 0) -> None:
    log_shard(study, study.arms[0], shard_of(study, first=first, seed=seed), data_of(study))


def record_summary(study, folder: Path) -> None:
    metrics, numbers = joined(study)
    write_netcdf(metrics, study.root / "metrics.nc", {})
    picture = folder / "a picture.png"
    picture.write_bytes(bytes.fromhex(PIXEL))
    tables = {"key_numbers": numbers, "mixed": pd.DataFrame({"value": [1, "two"]})}
    log_summary(study, metrics, tables, [picture], study.root / "metrics.nc")


#: A PNG file of one pixel.
PIXEL = (
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)


@pytest.fixture
def quick(monkeypatch) -> None:
    """No waits between attempts."""
    monkeypatch.setattr(sync, "WAITS", (0, 0.01))


def test_each_run_is_sent_once_and_the_summary_last(tmp_path, server: WandbServer):
    said: list[str] = []
    study = tiny(tmp_path, "offline")
    record_summary(study, tmp_path)
    record_shard(study)
    record_shard(study, first=4)
    assert sync.send(study, said.append, dry_run=True) == 0
    assert server.requests == []
    assert [line.split(" (")[0] for line in said[:-1]] == [
        "to send: train width~4/0-3",
        "to send: train width~4/4-7",
        "to send: summary tiny",
    ]
    marker = study.root / "tracking" / runs.MARKER
    marker.write_text("some time ago\n")
    said.clear()
    assert sync.send(study, said.append) == 0
    assert said == ["sent: train width~4/0-3", *said[1:3], "3 of 3 runs sent, 0 sent before"]
    assert {len(run.history) for run in server.by_job("train")} == {4}
    assert not marker.exists()
    (summary,) = server.by_job("summary")
    assert summary.summary["diverged/width-8"] == 1
    assert [row["members"] for row in summary.history if "members" in row] == [1, 2, 4]
    assert summary.summary["figures/a picture"]["_type"] == "image-file"
    assert (
        json.loads(server.artifacts_like("tableskey_numbers")["tables/key_numbers.table.json"])["data"][0][0]
        == "width~4"
    )
    assert server.artifacts["tiny-metrics"]["metrics.nc"] == (study.root / "metrics.nc").read_bytes()
    before = len(server.requests)
    assert sync.send(study, said.append) == 0
    assert len(server.requests) == before
    assert said[-1] == "0 of 0 runs sent, 3 sent before"


def test_a_repeated_job_is_one_run_whose_history_does_not_double(tmp_path, server: WandbServer):
    said: list[str] = []
    study = tiny(tmp_path, "offline")
    record_shard(study)
    record_shard(study, seed=1)
    assert sync.send(study, said.append) == 0
    (run,) = server.by_job("train")
    assert [row["step"] for row in run.history] == [0, 1, 5, 20]
    record_shard(study, seed=2)  # the shard was deleted and trained again
    assert sync.send(study, said.append) == 0
    assert [row["step"] for row in run.history] == [0, 1, 5, 20]
    assert said[-1] == "0 of 0 runs sent, 1 sent before"


def test_a_run_that_was_interrupted_online_is_completed(tmp_path, server: WandbServer, capfd):
    server.fault = lambda request: (403, {}) if request.operation == "file_stream" else None
    study = tiny(tmp_path, "online")
    record_shard(study)
    server.fault = lambda request: None
    assert sync.send(study, lambda line: None) == 0
    (run,) = server.by_job("train")
    assert [row["_step"] for row in run.history] == [0, 1, 5, 20]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (lambda request: (401, {}), "wandb login"),
        pytest.param(
            lambda request: (403, {}) if request.operation == "file_stream" else None, "403", marks=pytest.mark.slow
        ),
    ],
    ids=["key", "rows"],
)
def test_what_the_server_refuses_is_not_taken_for_sent(fault, remedy, tmp_path, server: WandbServer):
    said: list[str] = []
    study = tiny(tmp_path, "offline")
    record_shard(study)
    server.fault = fault
    assert sync.send(study, said.append) == 1
    assert said[-2].startswith("not sent: train width~4/0-3: ")
    assert remedy in said[-2]
    server.fault = lambda request: None
    assert sync.send(study, said.append) == 0
    (run,) = server.by_job("train")
    assert len(run.history) == 4


def test_a_run_that_is_being_recorded_waits_and_one_of_a_killed_job_does_not(tmp_path):
    study = tiny(tmp_path, "offline")
    record_shard(study)
    (file,) = recordings(study)
    os.truncate(file, file.stat().st_size - 5)
    found = sync.find(study.root / "tracking")
    assert (found.unsent, found.recording) == ([], ["train width~4/0-3"])
    old = file.stat().st_mtime - sync.ABANDONED - 1
    os.utime(file, (old, old))
    found = sync.find(study.root / "tracking")
    assert ([entry.said for entry in found.unsent], found.recording) == (["train width~4/0-3"], [])


def test_only_one_sends_at_a_time(tmp_path):
    study = tiny(tmp_path, "offline")
    (study.root / "tracking").mkdir(parents=True)
    with (study.root / "tracking" / ".sync.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match="another emeq sync"):
            sync.send(study, print)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOLCK], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_written_or_locked_is_named(code, tmp_path, monkeypatch):
    study = tiny(tmp_path, "offline")
    record_shard(study)
    real = os.open

    def refuse(path, *arguments, **options):
        if os.fspath(path).endswith(".sync.lock"):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return real(path, *arguments, **options)

    def no_lock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((sync.fcntl, "flock", no_lock) if code == errno.ENOLCK else (os, "open", refuse)))
    with pytest.raises(TrackingError, match=re.escape(os.strerror(code).lower())) as caught:
        sync.send(study, print)
    assert str(study.root / "tracking") in caught.value.message
    assert "--results" in caught.value.remedy
    said: list[str] = []
    assert sync.send(study, said.append, dry_run=True) == 0
    assert said[-1] == "1 runs to send, 0 sent before"


def test_what_cannot_be_recorded_again_is_not_said_to_be(tmp_path, monkeypatch, capfd):
    study = tiny(tmp_path, "offline")
    arm = study.arms[0]
    store.write(store.task_to_dataset(data_of(study)), study.data_path(arm), store.provenance(study))
    attributes = store.provenance(study, arm) | {"config_hash": arm.config_hash}
    store.write(shard_of(study), study.shard_path(arm, 0, 3), attributes)
    monkeypatch.setattr(runs, "MINIMUM_SPACE", 2**70)
    said: list[str] = []
    with pytest.raises(TrackingError, match=r"train width~4/0-3 could not be recorded\. See the warning"):
        record_again(study, said.append)
    assert said == []
    assert "No space left" in capfd.readouterr().err


@pytest.mark.parametrize("where", ["", "wandb", "staging", ".sync.lock", runs.MARKER, "files", "files/media", "logs"])
def test_links_out_of_the_results_are_refused_by_name(where, tmp_path):
    """Neither sent, nor followed by what sync removes and writes."""
    study = tiny(tmp_path, "offline")
    record_shard(study)
    folder = study.root / "tracking"
    (file,) = recordings(study)
    inside = file.parent if where in ("files", "files/media", "logs") else folder
    away = tmp_path / "away"
    link = inside / where
    if link.exists():
        link.rename(away)
    else:
        away.mkdir()
        link.parent.mkdir(exist_ok=True)
    (away / "mine").write_text("kept")
    link.symlink_to(away / "mine" if where in (".sync.lock", runs.MARKER) else away)
    for call in (lambda: sync.send(study, print), lambda: record_again(study, print)):
        with pytest.raises(StoreError, match=rf"{re.escape(str(link))}.*leads out of"):
            call()
    assert (away / "mine").read_text() == "kept"


def test_nothing_recorded_is_nothing_to_send(tmp_path):
    said: list[str] = []
    assert sync.send(tiny(tmp_path, "offline"), said.append) == 0
    assert "nothing is recorded" in said[0]


def test_lost_runs_are_recorded_again_from_the_results(tmp_path):
    """Nothing is lost with the tracking folder: shards and theory stores hold all that is recorded."""
    study = tiny(tmp_path, "disabled")
    arm = study.arms[0]
    store.write(store.task_to_dataset(data_of(study)), study.data_path(arm), store.provenance(study))
    attributes = store.provenance(study, arm) | {"config_hash": arm.config_hash}
    for first in (0, 4):
        store.write(shard_of(study, first=first), study.shard_path(arm, first, first + 3), attributes)
    store.write(gaussian(study, 1)[0], study.theory_path(arm), store.provenance(study))
    record_shard(tiny(tmp_path, "offline"))
    said: list[str] = []
    record_again(study, said.append)
    assert said == [f"recorded: theory {arm.theory_key}", "recorded: train width~4/4-7"]
    kept = [recorded(file) for file in recordings(study)]
    assert sorted((entry.job, entry.name, entry.rows, entry.finished) for entry in kept) == [
        ("theory", f"theory/{arm.theory_key}", 4, True),
        ("train", "width~4/0-3", 4, True),
        ("train", "width~4/4-7", 4, True),
    ]
    said.clear()
    record_again(study, said.append)
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [lambda request: "hang", lambda request: (500, {}), lambda request: (429, {"Retry-After": "3600"})],
    ids=["hang", "500", "429"],
)
def test_a_server_that_does_not_answer_is_given_up(fault, tmp_path, server: WandbServer, monkeypatch, quick):
    said: list[str] = []
    monkeypatch.setattr(sync, "CALL", 8)
    monkeypatch.setattr(sync, "EACH", 1)
    study = tiny(tmp_path, "offline")
    for first in (0, 4):
        record_shard(study, first=first)
    server.fault = fault
    assert sync.send(study, said.append) == 2
    assert [line for line in said if "next attempt" in line]
    assert said[-1] == "0 of 2 runs sent, 0 sent before"
    server.fault = lambda request: None
    assert sync.send(study, said.append) == 0
    assert [len(run.history) for run in server.by_job("train")] == [4, 4]


@pytest.mark.slow
def test_sending_that_is_killed_is_taken_up_again(tmp_path, server: WandbServer):
    """SIGKILL at different times: what is sent is whole, and no history doubles."""
    code = (
        "import sys; from pathlib import Path; from tests.tracking.conftest import tiny; "
        "from emergent_equivariance.tracking import sync; sync.BATCH = 1; "
        "sys.exit(sync.send(tiny(Path(sys.argv[1]), 'offline'), print))"
    )
    study = tiny(tmp_path, "offline")
    for first in range(0, 12, 4):
        record_shard(study, first=first)
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[2]
    for seconds in (4.0, 5.0, 6.0):
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert subprocess.run(command, cwd=root, timeout=200).returncode == 0
    found = server.by_job("train")
    assert len(found) == 3
    for run in found:
        assert {row["_step"]: row["step"] for row in run.history} == {step: step for step in (0, 1, 5, 20)}


def test_nothing_of_the_machine_is_sent_later(tmp_path, monkeypatch, server: WandbServer):
    monkeypatch.setenv("MY_SECRET_TOKEN", "swordfish-4711")
    monkeypatch.chdir(tmp_path)
    study = tiny(tmp_path, "offline")
    record_summary(study, tmp_path)
    assert sync.send(study, print) == 0
    kept = [path.read_bytes() for path in (study.root / "tracking").rglob("*") if path.is_file()]
    sent = said_by_client(server)
    assert any(b"tiny-metrics" in content for content in sent)
    names = ["MY_SECRET_TOKEN", "swordfish-4711", KEY, os.uname().nodename, getuser(), str(tmp_path), str(Path.home())]
    names += [str(Path(__file__).parents[2]), sys.executable, "site-packages"]
    assert leaked(names, kept + sent) == []
