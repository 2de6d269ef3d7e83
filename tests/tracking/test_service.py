"""The background process of the W&B client is ended in bounded time."""

from __future__ import annotations

import subprocess
import sys
import time

import wandb
from wandb.sdk import wandb_setup

from emergent_equivariance.tracking import service


def test_the_process_of_the_pinned_version_is_found_and_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()
    assert service._service() is None
    wandb_setup.singleton().ensure_service()
    process = service._service()
    assert process is not None and process.poll() is None
    service.end_service()
    assert process.poll() is not None


def test_a_process_that_does_not_end_is_killed(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    monkeypatch.setattr(service, "_service", lambda: process)
    monkeypatch.setattr(wandb, "teardown", lambda: sys.exit(process.wait()))
    start = time.monotonic()
    service.end_service(0.2)
    assert time.monotonic() - start < 60 and process.returncode == -9
