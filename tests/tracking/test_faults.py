"""Servers that are dead, silent, busy, broken or gone, full disks: a job ends in time, and its data are kept.

Each job is a process of its own. TIMEOUT is shortened in all but one of them, and bounds are those of START and END
with a margin for the start of a process on a busy machine.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emergent_equivariance.tracking import runs, sync
from emergent_equivariance.tracking.reading import recorded
from tests.tracking.conftest import recordings, tiny
from tests.tracking.wandb_server import KEY, WandbServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

#: A job that records one shard; what it prints are the seconds that its start and its end took.
JOB = """
import sys, time
from pathlib import Path
from emergent_equivariance.tracking import runs
from tests.tracking.conftest import tiny
runs.TIMEOUT = int(sys.argv[2])
study = tiny(Path(sys.argv[1]), "online")
start = time.monotonic()
with runs.run(study, "train", "one", ["one"], {"a": 1}) as active:
    print(time.monotonic() - start, flush=True)
    for step in range(5):
        active.log({"loss": 1.0 / (1 + step)}, step=step)
    if len(sys.argv) > 3:
        sys.stdin.readline()
    end = time.monotonic()
print(time.monotonic() - end)
"""

SHORT = 5

#: Seconds by which a busy machine may exceed the stated bounds: two starts and an end of wandb's background process.
MARGIN = 25


def job(folder: Path, timeout: int = SHORT) -> tuple[float, float, list[str]]:
    """Seconds of start and end, and the warnings, of a job."""
    command = [sys.executable, "-c", JOB, str(folder), str(timeout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    start, end = map(float, done.stdout.split())
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: Weights & Biases")]
    return start, end, warnings


def rows_kept(folder: Path) -> list[int]:
    """Rows of the recordings that are complete."""
    kept = [recorded(file) for file in recordings(tiny(folder, "online"))]
    return [entry.rows for entry in kept if entry.finished]


UNREACHABLE = {
    "refused": ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "connection refused"),
    "no network": ({"WANDB_BASE_URL": "http://wandb.invalid"}, "wandb.invalid"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_an_unreachable_server_holds_a_job_up_for_the_stated_time_once(name, tmp_path, monkeypatch):
    environment, reason = UNREACHABLE[name]
    for variable, value in {**environment, "WANDB_API_KEY": KEY}.items():
        monkeypatch.setenv(variable, value)
    timeout = runs.TIMEOUT if name == "refused" else SHORT
    start, end, warnings = job(tmp_path, timeout)
    assert start < 2 * timeout + MARGIN
    assert end < timeout + MARGIN
    assert rows_kept(tmp_path) == [5]
    (warning,) = warnings
    assert reason in warning
    assert "emeq sync" in warning
    start, end, warnings = job(tmp_path, 300)  # the marker of the first job: no server is asked
    assert start + end < MARGIN
    assert "s ago" in warnings[0]
    assert rows_kept(tmp_path) == [5, 5]


@pytest.mark.parametrize("where", ["all", "file_stream"])
@pytest.mark.parametrize(
    "answer",
    ["hang", (429, {"Retry-After": "3600"}), (500, {}), (401, {}), (403, {})],
    ids=["silent", "429", "500", "401", "403"],
)
def test_a_server_that_fails_neither_stops_nor_delays_a_job_and_nothing_is_lost(
    where, answer, tmp_path, server: WandbServer
):
    server.fault = lambda request: answer if where in ("all", request.operation) else None
    start, end, warnings = job(tmp_path)
    assert start < 2 * SHORT + MARGIN
    assert end < SHORT + MARGIN
    assert len(warnings) == 1, warnings
    assert "emeq sync" in warnings[0]
    server.fault = lambda request: None
    assert sync.find(tmp_path / "results" / "tiny" / "tracking").unsent
    monkey = sync.ABANDONED
    sync.ABANDONED = 0  # a run that could not be ended in time is not being recorded any more
    try:
        assert sync.send(tiny(tmp_path, "online"), print) == 0
    finally:
        sync.ABANDONED = monkey
    (run,) = server.by_job("train")
    assert {row["_step"]: row["loss"] for row in run.history} == pytest.approx({i: 1 / (1 + i) for i in range(5)})


def test_a_server_that_dies_meanwhile_costs_the_time_of_an_end(tmp_path, server: WandbServer):
    command = [sys.executable, "-c", JOB, str(tmp_path), str(SHORT), "wait"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    assert process.stdout is not None
    assert float(process.stdout.readline()) > 0
    server.stop()
    out, err = process.communicate("go on\n", timeout=200)
    assert process.returncode == 0, err
    assert float(out) < SHORT + MARGIN
    (warning,) = [line for line in err.splitlines() if line.startswith("warning: Weights & Biases")]
    assert "emeq sync" in warning
    (file,) = recordings(tiny(tmp_path, "online"))
    assert recorded(file).rows == 5
    assert (tmp_path / "results" / "tiny" / "tracking" / runs.MARKER).is_file()


def test_a_disk_that_fills_up_is_told(tmp_path, monkeypatch):
    """A small file system of its own, filled up after the run has started."""
    if os.geteuid() or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("mount namespaces need root")
    code = """
import sys
from pathlib import Path
from emergent_equivariance.tracking import runs
from tests.tracking.conftest import tiny
study = tiny(Path(sys.argv[1]), "offline")
with runs.run(study, "train", "one", ["one"], {"a": 1}) as active:
    with open(study.root / "filler", "wb") as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
                filler.flush()
        except OSError:
            pass
    for step in range(500):
        active.log({f"loss/{i}": 1.0 / (1 + step) for i in range(20)}, step=step)
"""
    script = f'mount -t tmpfs -o size=40m tmpfs "{tmp_path}" && exec "{sys.executable}" -c "$0" "{tmp_path}"'
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, code], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "warning: Weights & Biases" in done.stderr
    assert time.monotonic() - started < runs.END + 60
