"""Saving a dashboard: once, in the place of an earlier one, or refused clearly within a stated time."""

import json
import os
import subprocess
import sys
import time

import pytest
import yaml

from emergent_equivariance.errors import TrackingError
from emergent_equivariance.study import load_study
from emergent_equivariance.tracking import curves
from emergent_equivariance.tracking.dashboard import save, specification
from tests.tracking.conftest import data_of, shard_of, tiny
from tests.tracking.wandb_server import KEY, WandbServer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")

STUDY = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp"},
    "training": {"learning_rate": 0.1, "steps": 2},
    "sweep": {"network.width": [4, 8]},
}


class Views(WandbServer):
    """A server with the saved views of one project; ``project`` is whether it exists."""

    def __init__(self, project=True):
        super().__init__()
        self.project, self.views = project, {}

    def _GetDefaultEntity(self, _):
        return {"viewer": {"id": "u", "entity": "me"}}

    def _View(self, variables):
        view = self.views.get(variables["viewName"])
        edges = [{"node": view}] if view else []
        return {"project": {"allViews": {"edges": edges}} if self.project else None}

    def _UpsertView2(self, variables):
        name = variables["name"]
        if name in self.views:  # which a server changes only where its id is given
            assert variables["id"] == self.views[name]["id"]
        self.views[name] = {"id": f"id-{name}", "spec": variables["spec"], "displayName": variables["displayName"]}
        return {"upsertView": {"view": {"id": f"id-{name}", "name": name}, "inserted": True}}


def use(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def emeq_dashboard(folder, url, **environment):
    variables = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, **environment}
    command = [sys.executable, "-m", "emergent_equivariance", "dashboard", "study.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, timeout=300)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path


def test_every_key_of_the_training_curves_is_one_that_shards_record(tmp_path):
    study = tiny(tmp_path, "offline")
    row = curves.shard_curves(study.arms[0], shard_of(study), data_of(study))[0]
    sections = json.loads(specification(study))["spec"]["section"]["panelBankConfig"]["sections"]
    (training,) = (part["panels"] for part in sections if part["name"] == "Training")
    assert len(training) == 4
    for panel in training:
        assert {panel["config"]["xAxis"], *panel["config"]["metrics"]} <= set(row)


def test_it_is_saved_to_the_project_and_saved_again_in_its_place(folder, monkeypatch):
    study = load_study(folder / "study.yaml")
    with Views() as server:
        done = emeq_dashboard(folder, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        ((name, view),) = server.views.items()
        assert done.stdout == f"{server.url}/me/emergent-equivariance?nw={name[3:-2]}\n"
        use(server, monkeypatch)
        assert save(study) == done.stdout.strip()
        assert list(server.views) == [name]
    content = json.loads(specification(study))
    assert (name, json.loads(view["spec"])) == (content["name"], content["spec"])
    assert [request.operation for request in server.requests].count("UpsertView2") == 2
    assert not (folder / "results").exists() and not (folder / "wandb").exists()


@pytest.mark.parametrize(
    ("refuse", "project", "key", "said"),
    [
        (401, True, KEY, "error 401"),
        (None, False, KEY, "emergent-equivariance` not found"),
        (None, True, "short", "API key must have 40"),
        (None, True, "", "No API key"),
    ],
    ids=["refused", "no project", "not a key", "no key"],
)
def test_what_goes_wrong_is_named_with_a_remedy(folder, monkeypatch, refuse, project, key, said):
    with Views(project) as server:
        server.fault = lambda request: refuse and (refuse, {})
        use(server, monkeypatch)
        monkeypatch.setenv("WANDB_API_KEY", key)
        with pytest.raises(TrackingError) as caught:
            save(load_study(folder / "study.yaml"))
    assert said in str(caught.value)
    assert "--output FILE.json" in caught.value.remedy
    assert KEY not in str(caught.value)
    assert server.views == {}


def test_a_broken_server_is_one_error_after_a_stated_time(folder):
    with Views() as server:
        server.fault = lambda request: (500, {})
        done = emeq_dashboard(folder, server.url, WANDB_HTTP_TIMEOUT="2")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Weights & Biases: the dashboard of tiny was not saved")
    assert "no answer, or only errors, for 2 s" in line


@pytest.mark.slow
def test_a_dead_server_is_waited_for_a_stated_time(folder):
    start = time.monotonic()
    done = emeq_dashboard(folder, "http://127.0.0.1:9")
    assert time.monotonic() - start < 60
    assert done.returncode == 1
    assert "no answer, or only errors, for 15 s" in done.stderr


def test_a_study_that_is_not_tracked_has_no_dashboard(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "tracking": {"wandb": "disabled"}}))
    with pytest.raises(TrackingError, match="wandb = disabled"):
        save(load_study(folder / "study.yaml"))
