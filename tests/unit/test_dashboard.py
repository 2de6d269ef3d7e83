"""The dashboard of Weights & Biases: what its specification says. How it is saved: tests/tracking."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_results import classification_study, make_metrics, make_study

from emergent_equivariance.report import key_numbers
from emergent_equivariance.study import load_study
from emergent_equivariance.tracking import curves
from emergent_equivariance.tracking.dashboard import SPLIT, specification

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")

ROOT = Path(__file__).parents[2]


def section(study):
    return json.loads(specification(study))["spec"]["section"]


def panels(study):
    """All panels, by section."""
    return {part["name"]: part["panels"] for part in section(study)["panelBankConfig"]["sections"]}


def plotted(study, kind):
    """Titles and configurations of the panels of a kind."""
    found = [panel["config"] for part in panels(study).values() for panel in part if panel["viewType"] == kind]
    return {config["chartTitle"]: config for config in found}


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_same_study_gives_the_same_specification(file):
    study = load_study(file)
    text = specification(study)
    assert text == specification(study)
    identifiers = [panel["__id__"] for part in panels(study).values() for panel in part]
    assert len(identifiers) == len(set(identifiers)) > 0


def test_it_shows_the_runs_of_the_study_grouped_by_arm():
    content = json.loads(specification(make_study(tracking={"project": "mine"})))
    assert (content["project"], content["displayName"]) == ("mine", "Study synthetic")
    (runs,) = content["spec"]["section"]["runSets"]
    (chosen,) = runs["filters"]["filters"]
    assert (chosen["key"], chosen["op"], chosen["value"]) == ({"section": "run", "name": "group"}, "=", "synthetic")
    assert runs["grouping"] == [{"section": "config", "name": "arm.value"}]
    other = json.loads(specification(make_study(study="another")))
    assert other["name"] != content["name"]


def test_every_key_of_the_summary_is_one_that_is_logged():
    study = make_study()
    metrics = make_metrics(study)
    numbers = key_numbers(study, metrics)
    lines, bars = plotted(study, "Run History Line Plot"), plotted(study, "Bar Chart")
    deviation = lines["Orbit deviation against ensemble size, with the prediction"]
    rows = curves.by_members(study, metrics, numbers)
    assert set(deviation["metrics"]) == {key for key in rows[0] if f"/{SPLIT}/" in key}
    assert deviation["xAxis"] in rows[0] and deviation["xLogScale"] and deviation["yLogScale"]
    distance = lines["Distance to the NTK mean against width"]
    by_width = curves.by_width(study, metrics, numbers)
    assert len(by_width) == 3
    assert set(distance["metrics"]) == {key for key in by_width[0] if f"/{SPLIT}/" in key}
    assert distance["xAxis"] in by_width[0]
    values = curves.key_values(study, metrics, numbers)
    for title in ("Measured over predicted orbit variance", "Missing members"):
        assert len(bars[title]["metrics"]) == 6
        assert set(bars[title]["metrics"]) <= set(values), title


def test_training_curves_are_drawn_against_the_unit_of_time():
    lines = plotted(make_study(), "Run History Line Plot")
    assert lines["Training loss"] | {"xAxis": "step", "metrics": ["training_loss/mean"]} == lines["Training loss"]
    lines = plotted(classification_study(), "Run History Line Plot")
    assert lines["Accuracy of the mean of one shard"]["xAxis"] == "epoch"
    assert "Accuracy of the mean of one shard" not in plotted(make_study(), "Run History Line Plot")


def test_failures_are_summed_by_arm():
    bars = plotted(make_study(), "Bar Chart")
    for title, key in (("Diverged members", "diverged"), ("Resumed shards", "resumed")):
        assert bars[title]["metrics"] == [key]
        assert (bars[title]["groupBy"], bars[title]["groupAgg"]) == ("arm.value", "sum")


def test_no_panel_without_something_to_show():
    lines = plotted(make_study(sweep=None, network={"name": "mlp", "width": 8}), "Run History Line Plot")
    assert not any("width" in title for title in lines)
    bars = plotted(classification_study(), "Bar Chart")
    assert "Measured over predicted orbit variance" not in bars
    lines = plotted(classification_study(), "Run History Line Plot")
    assert [key for key in lines["Orbit deviation against ensemble size, with the prediction"]["metrics"]] == [
        "orbit_deviation_by_members/test/augmentation-none",
        "orbit_deviation_by_members/test/augmentation-full",
    ]


def test_many_arms_share_a_panel_where_they_differ_in_width_alone():
    sweep = {"network.width": [2, 4, 8, 16, 32], "augmentation": ["none", "full"]}
    lines = plotted(make_study(sweep=sweep), "Run History Line Plot")
    found = {t: c["metrics"] for t, c in lines.items() if t.startswith("Orbit deviation against")}
    assert [t.rsplit(", ", 1)[-1] for t in found] == ["augmentation-none", "augmentation-full"]
    assert [len(metrics) for metrics in found.values()] == [10, 10]


def test_studies_of_kernels_have_tables_and_pictures():
    parts = panels(load_study(ROOT / "config" / "kernel_convergence.yaml"))
    assert list(parts) == ["Results", "Tables", "Pictures"]
    assert [panel["config"]["chartTitle"] for panel in parts["Results"]] == [
        "Error of the mean NNGP against width",
        "Error of the mean NTK against width",
    ]
    assert list(panels(load_study(ROOT / "config" / "histology_ntk.yaml"))) == ["Tables", "Pictures"]


def test_the_command_line_imports_neither_wandb_nor_its_workspaces():
    code = (
        "import sys; from emergent_equivariance.cli import app;"
        "print([m for m in ('wandb', 'wandb_workspaces', 'emergent_equivariance.tracking') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
