"""Weights & Biases mirrors the results: what an offline run holds, and that no failure of it fails or delays a job."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest
import yaml

STUDY: dict[str, Any] = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp", "width": 4},
    "training": {"learning_rate": 0.1, "steps": 2},
    "ensemble": {"members": 2},
}

SHARD = Path("results/tiny/members/arm~single/members-000000-000001.zarr.zip")
TRACKING = Path("results/tiny/tracking")
DEAD_SERVER = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "f" * 40}


def emeq(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emergent_equivariance", *arguments]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    variables = {**inherited, "NPROC": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, timeout=200)


def train(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Train the only shard; whatever tracking does, it must be there at the end."""
    done = emeq(folder, "train", "study.yaml", "--arm", "arm~single", "--first", "0", "--last", "1", **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / SHARD).is_file()
    return done


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("warning: Weights & Biases")]


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / TRACKING / "wandb").glob("offline-run-*/run-*.wandb"))


def with_data(folder: Path, mode: str) -> Path:
    from emergent_equivariance.study import load_study

    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "tracking": {"wandb": mode}}))
    arm = load_study(folder / "study.yaml").arms[0]
    for command, key in (("data", arm.data_key), ("probe", arm.probe_key)):
        assert emeq(folder, command, "study.yaml", "--key", key).returncode == 0
    return folder


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    return with_data(tmp_path, "offline")


@pytest.fixture
def online(tmp_path: Path) -> Path:
    return with_data(tmp_path, "online")


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format in blocks of 32 kB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    position, message = 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(message)
            yield record
            message = b""


def values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_an_offline_run_holds_the_arm_the_curves_and_the_counts(offline):
    from emergent_equivariance.store import read
    from emergent_equivariance.study import load_study

    assert warnings(train(offline)) == []
    (file,) = offline_runs(offline)
    found = {kind: [r for r in records(file) if r.WhichOneof("record_type") == kind] for kind in ("run", "history")}
    run = found["run"][0].run
    assert (run.run_group, run.job_type, run.display_name) == ("tiny", "train", "arm~single/0-1")
    assert list(run.tags) == ["arm=single"]
    assert run.host == "unnamed"
    config = values(run.config.update)
    config.pop("_wandb")
    arm = load_study(offline / "study.yaml").arms[0]
    assert config == arm.settings.model_dump(mode="json") | {"arm": arm.path}
    curve = [values(r.history.item) for r in found["history"]]
    loss = read(offline / SHARD)["loss"].load()
    assert [row["step"] for row in curve] == loss["step"].values.tolist()
    assert [row["loss/mean"] for row in curve] == pytest.approx(loss.mean("member").values.tolist())
    assert all(row["loss/q10"] <= row["loss/q50"] <= row["loss/q90"] for row in curve)
    summary: dict[str, Any] = {}
    for record in records(file):
        if record.WhichOneof("record_type") == "summary":
            summary |= values(record.summary.update)
    assert (summary["members"], summary["diverged"]) == (2, 0)


def test_offline_tracking_leaks_neither_environment_nor_machine(offline):
    train(offline, MY_SECRET_TOKEN="swordfish-4711", WANDB_API_KEY="f" * 40)
    files = [p for p in (offline / TRACKING).rglob("*") if p.is_file()]
    content = b"".join(p.read_bytes() for p in files)
    assert b"loss/mean" in content
    python = shutil.which("python3") or sys.executable
    assert [text for text in ("swordfish-4711", "f" * 40, python) if text.encode() in content] == []
    (file,) = offline_runs(offline)
    text = "\n".join(str(record) for record in records(file))  # what would be sent
    names = (socket.gethostname(), getuser(), "site-packages", "requirements", str(offline), str(Path.home()))
    assert [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)] == []


def test_a_tracking_folder_that_is_a_file_is_a_warning(offline):
    (offline / TRACKING).write_text("in the way")
    (warning,) = warnings(train(offline))
    assert "File exists" in warning
    assert str(TRACKING) in warning


def test_a_variable_that_wandb_does_not_understand_is_a_warning(offline):
    (warning,) = warnings(train(offline, WANDB_BASE_URL="nowhere"))
    assert "nowhere" in warning


def test_online_without_a_key_is_recorded_offline(online):
    (warning,) = warnings(train(online, HOME=str(online), NETRC=str(online / "none")))
    assert "No API key" in warning
    (file,) = offline_runs(online)
    assert str(file.parent.relative_to(online)) in warning


@pytest.mark.slow
def test_a_dead_server_holds_a_job_up_for_a_stated_time(online):
    start = time.monotonic()
    (warning,) = warnings(train(online, **DEAD_SERVER))
    assert time.monotonic() - start < 60
    assert "connection refused" in warning
    assert (online / TRACKING / "server-unreachable.txt").is_file()
    (file,) = offline_runs(online)
    assert str(file.parent.relative_to(online)) in warning
    assert any(r.WhichOneof("record_type") == "history" for r in records(file))


def test_a_job_after_one_that_found_the_server_dead_does_not_wait(online):
    (online / TRACKING).mkdir()
    (online / TRACKING / "server-unreachable.txt").write_text("connection refused\n")
    start = time.monotonic()
    (warning,) = warnings(train(online, **DEAD_SERVER))
    assert time.monotonic() - start < 25
    assert "connection refused" in warning
    assert "server-unreachable.txt" in warning
    (file,) = offline_runs(online)
    assert any(r.WhichOneof("record_type") == "history" for r in records(file))


def test_the_pause_after_a_failure_ends(tmp_path):
    from emergent_equivariance.tracking.runs import PAUSE, _unreachable

    marker = tmp_path / "marker"
    assert _unreachable(marker) == ""
    marker.write_text("refused\n")
    assert _unreachable(marker).endswith("s ago: refused")
    os.utime(marker, (time.time() - PAUSE - 1,) * 2)
    assert _unreachable(marker) == ""


def test_the_end_of_the_background_process_is_a_warning(offline, monkeypatch, capfd):
    from emergent_equivariance.tracking import runs as tracking
    from emergent_equivariance.study import load_study

    monkeypatch.chdir(offline)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    study = load_study(Path("study.yaml"))
    with tracking.run(study, "train", "one", {}, []) as active:
        children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True)
        for process in children.stdout.split():
            os.kill(int(process), 9)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # until a write fails
            active.log({"loss": 1.0})
            time.sleep(0.05)
    assert capfd.readouterr().err.count("warning: Weights & Biases") == 1
    with tracking.run(study, "train", "two", {}, []) as active:
        assert active is not None
