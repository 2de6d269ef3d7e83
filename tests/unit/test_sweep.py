"""The sweep file of Weights & Biases: every cell, as W&B's agent would start it, is one arm.

The agent itself: tests/tracking/test_sweep_agent.py.
"""

import os
import subprocess
from itertools import product
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from emergent_equivariance.errors import StudyError
from emergent_equivariance.study import load_study, parse_study
from emergent_equivariance.tracking.sweep import sweep_file

ROOT = Path(__file__).parents[2]
SHIPPED = [file for file in sorted((ROOT / "config").glob("*.yaml")) if "sweep" in yaml.safe_load(file.read_text())]
CONTENT = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp", "width": 4},
    "training": {"learning_rate": 0.1, "steps": 2},
}


@pytest.fixture
def snakemake(tmp_path, monkeypatch):
    """A command of that name that prints its arguments."""
    program = tmp_path / "bin" / "snakemake"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def cells(config):
    """Arguments of every cell of a grid as the server sends them to an agent."""
    parameters = config["parameters"]
    for values in product(*(parameter["values"] for parameter in parameters.values())):
        yield {name: {"value": value} for name, value in zip(parameters, values, strict=True)}


def started(config, arguments):
    """The command of a cell, put together as wandb.wandb_agent.Agent._command_run does."""
    macros = {**create_sweep_command_args({"args": arguments}), "env": ["/usr/bin/env"]}
    words = create_sweep_command(config["command"])
    return [word for c in words for word in (macros[c[2:-1]] if c.startswith("${") and c.endswith("}") else [c])]


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def targets(study, folder, text=None):
    """What Snakemake is asked for in every cell."""
    file = folder / "sweep.yaml"
    file.write_text(text or sweep_file(study))
    config = load_sweep_config(str(file))
    assert config["method"] == "grid"
    return [run(started(config, arguments)) for arguments in cells(config)]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_cells_are_the_arms_of_shipped_studies(file, tmp_path, snakemake, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    expected = [[str(study.result_path(arm)), "--configfile", f"config/{file.name}"] for arm in study.arms]
    assert sorted(targets(study, tmp_path)) == sorted(expected)


@pytest.mark.parametrize(
    "sweep",
    [
        {"network.width": [4, 8], "augmentation": ["none", {"subset": 2}]},
        {"network.W_std": [1.0, 1.4142, 1e-05, 2], "training.learning_rate": [0.1, {"critical_fraction": 0.5}]},
        {"task.seed": [0, 1], "ensemble.seed": [0, 1]},
        {"theory.mean": [True, False]},
        {"network": {"yes": {"name": "mlp", "width": 2}, "a b": {"name": "mlp", "width": 3}}},
    ],
    ids=lambda sweep: "-".join(sweep),
)
def test_values_of_every_kind_reach_the_command_as_the_labels_of_folders(sweep, tmp_path, snakemake):
    study = parse_study({**CONTENT, "sweep": sweep}, tmp_path / "study.yaml")
    found = [words[0] for words in targets(study, tmp_path)]
    assert sorted(found) == sorted(str(study.result_path(arm)) for arm in study.arms)


def test_widths_are_numbers_and_mappings_labels(tmp_path):
    sweep = {"network.width": [4, 8], "augmentation": ["full", {"subset": 2}], "network.W_std": [1.0, 1.5]}
    study = parse_study({**CONTENT, "sweep": sweep}, tmp_path / "study.yaml")
    parameters = yaml.safe_load(sweep_file(study))["parameters"]
    assert parameters == {
        "width": {"values": [4, 8]},
        "augmentation": {"values": ["full", "subset-2"]},
        "W_std": {"values": ["1.0", 1.5]},
    }


def test_project_and_entity_are_those_of_the_study(tmp_path):
    study = parse_study(
        {**CONTENT, "sweep": {"network.width": [4]}, "tracking": {"project": "mine", "entity": "team"}},
        tmp_path / "study.yaml",
    )
    content = yaml.safe_load(sweep_file(study))
    assert (content["name"], content["project"], content["entity"]) == ("tiny", "mine", "team")


def test_a_study_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(StudyError, match="has no sweep"):
        sweep_file(parse_study(CONTENT, tmp_path / "study.yaml"))
