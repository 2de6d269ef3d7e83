"""A real W&B agent, a stand-in server: a sweep makes the arms of a study."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from emergent_equivariance.study import load_study
from emergent_equivariance.tracking import log_shard
from emergent_equivariance.tracking.reading import records
from emergent_equivariance.tracking.runs import AGENT_VARIABLES
from tests.tracking.conftest import data_of, recordings, shard_of, tiny
from tests.tracking.wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
CONTENT = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp"},
    "training": {"learning_rate": 0.1, "steps": 2},
    "ensemble": {"members": 2},
    "sweep": {"network.width": [4, 8]},
}


class Sweeps(WandbServer):
    """A server that hands out the cells of one grid to an agent, one after the other, and then ends it."""

    def _UpsertSweep(self, variables):
        self.config = variables["config"]
        values = {name: grid["values"] for name, grid in yaml.safe_load(self.config)["parameters"].items()}
        self.waiting = list(enumerate(product(*([(name, value) for value in values[name]] for name in values))))
        project = {"id": "p", "name": variables["projectName"], "entity": {"id": "e", "name": "me"}}
        return {"upsertSweep": {"sweep": {"name": "grid", "project": project}, "configValidationWarnings": []}}

    def _SweepWithRuns(self, _):
        return {"project": {"sweep": {"id": "s", "name": "grid", "config": self.config, "runs": {"edges": []}}}}

    def _CreateAgent(self, _):
        return {"createAgent": {"agent": {"id": "a"}}}

    def _Heartbeat(self, variables):
        commands = []
        if not json.loads(variables["runState"]):
            commands = [{"type": "exit"}]
            if self.waiting:
                index, cell = self.waiting.pop(0)
                arguments = {name: {"value": value} for name, value in cell}
                commands = [{"type": "run", "run_id": f"cell{index}", "args": arguments, "program": ""}]
        return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}


def test_a_run_below_an_agent_keeps_its_own_identity(tmp_path, monkeypatch):
    study = tiny(tmp_path, "offline")
    for name in AGENT_VARIABLES:
        monkeypatch.setenv(name, "cell0")
    log_shard(study, study.arms[0], shard_of(study), data_of(study))
    (file,) = recordings(study)
    (run,) = (record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.display_name, run.sweep_id) == ("tiny", "width~4/0-3", "")
    assert run.run_id != "cell0"


@pytest.mark.slow
def test_an_agent_makes_all_arms_and_its_runs_do_not_swallow_theirs(tmp_path):
    for name in ("Snakefile", "workflow", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(CONTENT))
    study = load_study(tmp_path / "study.yaml", tmp_path / "results")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def call(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr

    with Sweeps() as server:
        environment = {**os.environ, **server.environment, "PATH": path, "OMP_NUM_THREADS": "1", "NPROC": "1"}
        environment["WANDB_ERROR_REPORTING"] = "false"
        call("emeq", "sweep", "study.yaml", "--output", "sweep.yaml")
        call("wandb", "sweep", "sweep.yaml")
        call("wandb", "agent", "me/emergent-equivariance/grid")
    assert all(study.result_path(arm).is_file() for arm in study.arms)
    found = sorted((tmp_path / "results" / "tiny" / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"))
    jobs = [record.run for file in found for record in records(file) if record.WhichOneof("record_type") == "run"]
    assert sorted((run.run_group, run.display_name) for run in jobs if run.job_type == "train") == [
        ("tiny", "width~4/0-1"),
        ("tiny", "width~8/0-1"),
    ]
    assert len({run.run_id for run in jobs}) == len(found) == 3
    assert not any(run.sweep_id for run in jobs)
