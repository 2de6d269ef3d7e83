"""Studies that `emeq new` writes."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from emergent_equivariance.cli import app
from emergent_equivariance.errors import StudyError
from emergent_equivariance.study import load_study
from emergent_equivariance.templates import DEFAULT, templates, write_study

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "workflow" / "schemas" / "study.schema.json").read_text())


@pytest.mark.parametrize("template", templates())
def test_every_template_is_a_valid_study_called_as_its_file(template, tmp_path):
    file = tmp_path / "mine.yaml"
    write_study(file, template)
    study = load_study(file, tmp_path)
    assert study.name == "mine"
    assert not study.warnings()
    jsonschema.validate(yaml.safe_load(file.read_text()), SCHEMA)
    assert "NAME" not in file.read_text()
    assert "results/mine" in file.read_text()


def test_every_kind_of_study_has_a_template(tmp_path):
    for template in templates():
        write_study(tmp_path / f"{template}.yaml", template)
    assert {load_study(file).kind for file in tmp_path.iterdir()} == {
        "ensemble",
        "kernel_convergence",
        "kernel_regression",
    }


def test_the_default_is_listed_first_and_written_by_default(tmp_path):
    assert next(iter(templates())) == DEFAULT
    write_study(tmp_path / "a.yaml")
    write_study(tmp_path / "b.yaml", DEFAULT)
    written, named = (load_study(tmp_path / f"{name}.yaml") for name in "ab")
    assert written.arms == named.arms


@pytest.mark.parametrize("name", ["2024", "1e5", "no", "null", "a.b", "0x1f", "2024-01-01", "NAME", "studyNAME"])
def test_names_that_yaml_reads_as_something_else_stay_names(name, tmp_path):
    write_study(tmp_path / f"{name}.yaml")
    assert load_study(tmp_path / f"{name}.yaml").name == name


def test_the_schema_is_named_where_there_is_one(tmp_path):
    folder = tmp_path / "workflow" / "schemas"
    folder.mkdir(parents=True)
    (folder / "study.schema.json").write_text("{}")
    write_study(tmp_path / "studies" / "deep" / "a.yaml")
    first = (tmp_path / "studies" / "deep" / "a.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../../workflow/schemas/study.schema.json"
    folder.joinpath("study.schema.json").unlink()
    write_study(tmp_path / "b.yaml")
    assert "$schema" not in (tmp_path / "b.yaml").read_text()


@pytest.mark.parametrize("name", ["a b.yaml", "-a.yaml", "ä.yaml", "a.txt", "a", f"{'a' * 81}.yaml"])
def test_a_file_that_cannot_name_a_study_is_refused(name, tmp_path):
    with pytest.raises(StudyError, match=r"\.yaml|letters"):
        write_study(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_not_overwritten(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("mine")
    with pytest.raises(StudyError, match=r"a\.yaml: exists, and is not overwritten"):
        write_study(file)
    assert file.read_text() == "mine"
    (tmp_path / "b.yaml").symlink_to("nowhere")
    with pytest.raises(StudyError, match="exists"):
        write_study(tmp_path / "b.yaml")


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert run(app, ["new", "--list"]).output.splitlines()[0].startswith(DEFAULT)
    assert run(app, ["new", "mine.yaml", "-t", "cosine"]).exit_code == 0
    assert load_study("mine.yaml").arms[0].settings.task.name == "cosine"
    wrong = run(app, ["new", "other.yaml", "--template", "nothing"])
    assert wrong.exit_code == 2
    assert not Path("other.yaml").exists()


@pytest.mark.slow
def test_the_workflow_plans_a_study_that_was_written(tmp_path):
    write_study(tmp_path / "mine.yaml")
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--cores", "1"]
    done = subprocess.run(
        [*command, "--configfile", "mine.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "train_shard" in done.stdout + done.stderr
