"""What the rules of the workflow ask the package: which study file, which inputs, which command."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from emergent_equivariance import workflow
from emergent_equivariance.errors import StudyError
from emergent_equivariance.study import load_study
from emergent_equivariance.study.dependencies import AGELESS, KEYS, Dependencies
from emergent_equivariance.study.resources import jobs

CONTENT = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 8, "test": 8},
    "network": {"name": "mlp", "width": 16},
    "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 10, "record": [0, 10]},
    "ensemble": {"members": 12},
    "sweep": {"augmentation": ["none", "full"]},
    "execution": {"shard_size": 4},
}


def study_of(folder, results="results", **sections):
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, **sections}))
    return load_study(file, folder / results)


def needs_of(study, forced=False):
    """The inputs of a study, and the files that are to be made again."""
    again = []
    return Dependencies(study, lambda: forced, again.append), again


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


# ------------------------------------------------------------------------------------------- the study file


def test_the_study_file_is_the_one_with_the_content_of_the_config(tmp_path):
    a, b = (tmp_path / f"{name}.yaml" for name in "ab")
    a.write_text(yaml.safe_dump(CONTENT))
    b.write_text(yaml.safe_dump({**CONTENT, "study": "other"}))
    default = Path("config/ising.yaml")
    assert workflow.find_study_file({}, [], default) == default
    assert workflow.find_study_file(CONTENT, [a], default) == a
    assert workflow.find_study_file(CONTENT, [a, a], default) == a
    assert workflow.find_study_file({**CONTENT, "study": "other"}, [a, b], default) == b
    assert workflow.find_study_file({"study_file": "x.yaml"}, [a, b], default) == Path("x.yaml")


def test_a_config_that_is_not_the_content_of_a_file_is_refused(tmp_path):
    a, b = (tmp_path / f"{name}.yaml" for name in "ab")
    for file in (a, b):
        file.write_text(yaml.safe_dump(CONTENT))
    changed = {**CONTENT, "study": "changed"}
    with pytest.raises(StudyError, match=r"a.yaml: its content is changed by --config .* Copy the study file"):
        workflow.find_study_file(changed, [a], a)
    with pytest.raises(StudyError, match=r"one study file is expected, got .*a.yaml, .*b.yaml. Give one --configfile"):
        workflow.find_study_file(changed, [a, b], a)
    with pytest.raises(StudyError, match=r"one study file is expected, got .*a.yaml.*'study_file': PATH"):
        workflow.find_study_file({}, [a], a)
    with pytest.raises(StudyError, match="one study file is expected, got none"):
        workflow.find_study_file(changed, [], a)


# ------------------------------------------------------------------------------------------- inputs


def test_inputs_of_a_shard_until_it_is_there(tmp_path):
    study = study_of(tmp_path)
    needs, _ = needs_of(study)
    arm = study.arms[0]
    wanted = needs.shard(arm=arm.path, first="000000", last="000003")
    assert set(wanted) == {"data", "learning_rate", "probe"} <= set(AGELESS)
    assert wanted["probe"] == f"results/tiny/engine/{arm.probe_key}.json"
    touch(study.shard_path(arm, 0, 3))
    assert needs.shard(arm=arm.path, first="000000", last="000003") == {}
    forced, _ = needs_of(study, forced=True)
    assert forced.shard(arm=arm.path, first="000000", last="000003") == wanted
    touch(study.probe_path(arm))
    assert needs.probe(key=arm.probe_key) == {} and set(forced.probe(key=arm.probe_key)) == {"data"}


def test_an_ensemble_needs_its_shards_and_says_what_it_lacks(tmp_path):
    study = study_of(tmp_path, execution={"shard_size": 4, "allow_missing": True})
    needs, again = needs_of(study)
    arm = study.arms[0]
    assert needs.ensemble(arm=arm.path)["shards"] == []
    touch(study.shard_path(arm, 4, 7))
    assert needs.ensemble(arm=arm.path)["shards"] == [f"results/tiny/members/{arm.path}/members-000004-000007.zarr.zip"]
    assert needs.formed_of(arm.path) == [arm.ensemble_hash, [(0, 3), (8, 11)]]
    for first in (0, 8):
        touch(study.shard_path(arm, first, first + 3))
    assert needs.formed_of(arm.path) == arm.ensemble_hash and not again
    assert len(needs.all_members()) == 6 and len(needs.all_theory()) == 2


def test_a_file_of_another_version_is_made_again(tmp_path, monkeypatch):
    study = study_of(tmp_path)
    needs, again = needs_of(study)
    found = {"config_hash": study.metrics_hash}
    monkeypatch.setattr("emergent_equivariance.study.dependencies.header", lambda path: found)
    needs.metrics()
    assert again == []
    found["config_hash"] = "other"
    needs.metrics()
    assert again == [study.metrics_path]


def test_files_are_declared_below_results_wherever_these_are(tmp_path):
    study = study_of(tmp_path, "elsewhere/out")
    needs, _ = needs_of(study)
    assert needs.declared(study.root) == "results/tiny"
    assert all(path.startswith("results/tiny/") for path in needs.products())


def test_every_job_finds_the_arm_it_works_for(tmp_path):
    study = study_of(tmp_path)
    needs, _ = needs_of(study)
    assert {job.rule for job in jobs(study)} <= set(workflow.RULES)
    for job in jobs(study):
        if job.arm is None:
            assert needs.arm_of(job.rule) is None
        elif job.rule in KEYS:
            key = getattr(job.arm, KEYS[job.rule])
            assert getattr(needs.arm_of(job.rule, key=key), KEYS[job.rule]) == key
        else:
            assert needs.arm_of(job.rule, arm=job.arm.path, first="0") is job.arm


# ------------------------------------------------------------------------------------------- commands and resources


def test_a_command_is_a_format_string_that_the_shell_reads_back(tmp_path):
    study = replace(study_of(tmp_path), file=Path("my {odd} study.yaml"), results=Path("results"))
    said = workflow.command(study, "train", "--arm {wildcards.arm}", in_place=True)
    words = shlex.split(said.format(threads=2, wildcards=SimpleNamespace(arm="a~1")))
    assert words[:3] == ["NPROC=2", "OMP_NUM_THREADS=2", "exec"]
    assert words[4:] == ["-m", "emergent_equivariance", "train", "my {odd} study.yaml", "--arm", "a~1"]
    said = workflow.command(replace(study, results=Path("toy/results")), "metrics", "", python="python")
    assert shlex.split(said.format(threads=1))[2:] == [
        *("python", "-m", "emergent_equivariance", "metrics", "my {odd} study.yaml", "--results", "toy/results")
    ]


def test_resources_and_threads_are_functions_of_the_wildcards(tmp_path):
    study = study_of(tmp_path, execution={"shard_size": 4, "threads": 3, "kernel_threads": 2})
    needs, _ = needs_of(study)
    asked = workflow.Jobs(needs, {rule: rule for rule in workflow.RULES}, None)
    arm = study.arms[0]
    for rule, wildcards, threads in (
        ("train_shard", {"arm": arm.path, "first": "000000", "last": "000003"}, 3),
        ("compute_theory", {"key": arm.theory_key}, 2),
        ("join_metrics", {}, 1),
    ):
        assert asked.threads(rule)(wildcards) == threads
        found = {name: value(wildcards, 1) for name, value in asked.resources(rule).items()}
        again = {name: value(wildcards, 2) for name, value in asked.resources(rule).items()}
        assert set(found) == {"mem_mb", "runtime"} and found["mem_mb"] > 600
        assert again["runtime"] > found["runtime"] and again["mem_mb"] > found["mem_mb"]


def test_warnings_name_arms_that_nothing_trains(tmp_path):
    study = study_of(tmp_path, execution={"shard_size": 4, "allow_missing": True})
    said = list(workflow.warnings(study))
    assert len(said) == 2 and all("has no shard" in line for line in said)
    assert list(workflow.warnings(study_of(tmp_path))) == []
