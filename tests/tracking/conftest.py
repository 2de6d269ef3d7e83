"""A study whose shards need no training, and processes whose environment names no server but the test's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance.study import Study
from emergent_equivariance.study.reading import parse_study
from emergent_equivariance.tasks import build_task
from tests.tracking.wandb_server import WandbServer

CONTENT: dict[str, Any] = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 6, "test": 5},
    "network": {"name": "mlp", "width": 4},
    "training": {"learning_rate": 0.1, "steps": 20, "record": [1, 5, 20]},
    "ensemble": {"members": 8},
    "execution": {"shard_size": 4},
    "sweep": {"network.width": [4, 8]},
}


def tiny(folder: Path, mode: str, **changes: Any) -> Study:
    content = {**CONTENT, "tracking": {"wandb": mode}, **changes}
    return parse_study(content, folder / "study.yaml", folder / "results")


def data_of(study: Study):
    return build_task(study.arms[0].settings)


def shard_of(study: Study, first: int = 0, members: int = 4, seed: int = 0) -> xr.Dataset:
    """What training would write, of random numbers."""
    arm, data = study.arms[0], data_of(study)
    samples = data.evaluated(arm.settings.evaluate.samples)
    steps = arm.settings.training.recorded
    shape = (members, len(steps), len(samples), data.output_action.group.order, data.target.shape[1])
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {
            "prediction": (
                ("member", "step", "sample", "element", "output"),
                rng.normal(size=shape).astype(np.float32),
            ),
            "loss": (("member", "step"), rng.uniform(size=shape[:2])),
            "done": ("member", np.ones(members, bool)),
            "diverged": ("member", np.zeros(members, bool)),
        },
        {"member": np.arange(first, first + members), "step": steps, "sample": samples},
    )


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No W&B variable from outside, none left behind, and no key from the home."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "none"))
    yield
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def recordings(study: Study, job: str = "") -> list[Path]:
    """The .wandb files of a study, oldest first."""
    return sorted((study.root / "tracking" / "wandb").glob("*run-*/run-*.wandb"))


def leaked(names: Iterable[str], contents: Iterable[bytes]) -> list[str]:
    """Those of the names that occur as words; in what is not text only the longer ones, which do not by chance."""
    found = set()
    for content in contents:
        try:
            text, shortest = content.decode(), 1
        except UnicodeDecodeError:
            text, shortest = content.decode("latin-1"), 6
        found |= {n for n in names if len(n) >= shortest and re.search(rf"(?<!\w){re.escape(n)}(?!\w)", text)}
    return sorted(found)


def said_by_client(server: WandbServer) -> list[bytes]:
    """Bodies and headers of all requests, but for the key, where it belongs."""
    headers = [f"{k}: {v}" for r in server.requests for k, v in r.headers.items() if k != "Authorization"]
    return [*(request.body for request in server.requests), *(line.encode() for line in headers)]
