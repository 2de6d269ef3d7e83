"""Ensembles without some of their shards: the same as those of a study that never had these members, and said so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from report_pages import claimed, page
from synthetic_results import make_study as make_drawn_study
from synthetic_results import make_whole
from test_ensemble import World, make_study, settings_of

from emergent_equivariance import controller, store
from emergent_equivariance.ensemble import aggregate
from emergent_equivariance.errors import StoreError, StudyError
from emergent_equivariance.figures import FIGURES
from emergent_equivariance.report import key_numbers
from emergent_equivariance.study import ensemble_shards, load_study, missing_members, missing_report, parse_study
from emergent_equivariance.study.products import PICTURES, figure_names, final_products, products
from emergent_equivariance.study.resources import jobs
from emergent_equivariance.summary import join, tables
from emergent_equivariance.verify.places import expected, shards_planned

ROOT = Path(__file__).parents[2]

SHARD, MEMBERS = 8, 64
GONE = (1, 2, 5)  # shards, of 8


def without(world, values, gone, diverged=()):
    """The ensemble of the shards that are there, and that of a study that consists of their members alone."""
    missing = [SHARD * k + i for k in gone for i in range(SHARD)]
    there = [
        world.shard(values[start : start + SHARD], start, diverged)
        for start in range(0, len(values), SHARD)
        if start // SHARD not in gone
    ]
    marked = aggregate(there, world.reference(), settings_of(), len(values), missing=missing)
    kept = np.delete(np.arange(len(values)), missing)
    renumbered = np.flatnonzero(np.isin(kept, diverged))
    sizes = [SHARD] * len(there)
    by_hand = aggregate(
        world.shards(values[kept], sizes, renumbered), world.reference(), settings_of(), len(kept), missing=()
    )
    return marked, by_hand, kept


@pytest.mark.parametrize("diverged", [(), (3, 30, 31)])
def test_all_statistics_are_those_of_a_study_without_these_members(diverged):
    world = World(sites=True)
    marked, by_hand, kept = without(world, world.draw(MEMBERS), GONE, diverged)
    assert set(marked.variables) == set(by_hand.variables)
    for name, variable in by_hand.variables.items():
        found = marked.variables[name]
        if name == "example":
            variable = variable.copy(data=kept[variable.values])
        elif "member" in variable.dims:
            rest = found.isel(member=np.delete(np.arange(MEMBERS), kept))
            assert rest.isnull().all() if rest.dtype.kind == "f" else name in ("member", "diverged", "missing"), name
            found = found.isel(member=kept)
            variable = variable.copy(data=kept) if name == "member" else variable
        np.testing.assert_array_equal(found, variable, err_msg=name)
    assert np.flatnonzero(marked["missing"]).tolist() == np.setdiff1d(np.arange(MEMBERS), kept).tolist()
    assert (marked.attrs["missing"], marked.attrs["diverged"]) == (SHARD * len(GONE), len(diverged))
    assert marked["member_count"].max() == marked.attrs["members"] == len(kept) - len(diverged)
    study, smaller = make_study(members=MEMBERS), make_study(members=len(kept))
    joined, expected = join(study, [marked]), join(smaller, [by_hand])
    by_member = [n for n, v in expected.variables.items() if "member" in v.dims]
    changed = ["missing", *by_member]
    xr.testing.assert_identical(joined.drop_vars(changed), expected.drop_vars(changed))
    assert (joined["missing"].item(), joined["members"].item()) == (SHARD * len(GONE), len(kept) - len(diverged))
    for name, table in tables(expected).items():
        assert tables(joined)[name].equals(table), name
    numbers, few = key_numbers(study, joined), key_numbers(smaller, expected)
    assert numbers.drop(columns="missing").equals(few.drop(columns="missing"))
    assert (numbers["missing"] == SHARD * len(GONE)).all() and (few["missing"] == 0).all()


def test_a_shard_that_holds_a_missing_member_and_one_that_is_not_said_to_be_missing_are_refused():
    world, settings = World(), settings_of()
    values = world.draw(24)
    with pytest.raises(ValueError, match="said to be missing"):
        aggregate(world.shards(values), world.reference(), settings, 24, missing=[3])
    gap = [world.shard(values[:8]), world.shard(values[16:], 16)]
    with pytest.raises(StoreError, match="consecutive ones from 8"):
        aggregate(gap, world.reference(), settings, 24)
    with pytest.raises(StoreError, match="hold 8 members, the study asks for 16"):
        aggregate(gap[:1], world.reference(), settings, 24, missing=range(8, 16))


def test_the_page_and_every_picture_say_how_many_members_are_missing():
    study = make_drawn_study()
    metrics = make_whole(study)
    arm = study.arms[-1].path
    assert "missing" not in claimed(page(study, metrics))
    metrics["missing"] = ("arm", [0] * len(study.arms))
    assert "missing" not in claimed(page(study, metrics))
    metrics["missing"].loc[{"arm": arm}] = 64
    metrics["members"].loc[{"arm": arm}] -= 64
    text = page(study, metrics)
    assert f"64 of 256 members are missing: {arm}" in claimed(text)
    assert f"(their shards are not there): 64 of 256 members are missing: {arm}." in text and ">missing</th>" in text
    names = figure_names(study)
    assert len(names) >= 5
    for name, picture in ((name, FIGURES[name]) for name in names):
        figure = picture.draw(metrics)
        assert "64 of 256 members are missing" in figure.get_suptitle(), name


# --------------------------------------------------------------------------------------------- files of a study


CONTENT = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3},
    "network": {"name": "mlp", "width": 4},
    "training": {"steps": 2},
    "ensemble": {"members": 10},
    "sweep": {"augmentation": ["none", "full"]},
}


def on_disk(folder, shards, allow_missing=False, content=CONTENT):
    """A study of shards of 4 members, of which those exist (empty files) whose first members are given per arm."""
    execution = {"shard_size": 4, "allow_missing": allow_missing}
    study = parse_study({**content, "execution": execution}, Path("study.yaml"), folder / "results")
    for arm, starts in zip(study.arms, shards, strict=True):
        for first in starts:
            path = study.shard_path(arm, first, min(first + 3, 9))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return study


def test_the_key_is_in_no_hash(tmp_path):
    without_key, with_key = (on_disk(tmp_path, ((), ()), allowed).arms for allowed in (False, True))
    for one, other in zip(without_key, with_key, strict=True):
        for name in ("data_key", "theory_key", "probe_key", "config_hash", "ensemble_hash", "result_hash", "path"):
            assert getattr(one, name) == getattr(other, name), name


def test_missing_shards_are_refused_by_name_with_both_remedies(tmp_path):
    study = on_disk(tmp_path, ((0, 4, 8), (0, 8)))
    assert ensemble_shards(study, study.arms[0]) == [(0, 3), (4, 7), (8, 9)]
    with pytest.raises(StoreError) as error:
        ensemble_shards(study, study.arms[1])
    said = str(error.value)
    for text in (
        "augmentation~full 1 of 3 shards are missing",
        "members/augmentation~full/members-000004-000007.zarr.zip",
        "logs/members/augmentation~full/members-000004-000007.log",
        "snakemake --configfile study.yaml",
        "execution.allow_missing: true",
    ):
        assert text in said, said


def test_allowed_to_be_missing_they_are_left_out(tmp_path):
    study = on_disk(tmp_path, ((4,), ()), allow_missing=True)
    none, full = study.arms
    assert ensemble_shards(study, none) == study.needed_shards(none) == [(4, 7)]
    assert missing_members(study, none) == [0, 1, 2, 3, 8, 9]
    assert study.needed_shards(full) == []
    with pytest.raises(StoreError, match=r"nothing to form an ensemble of.*all_members.*out of the sweep"):
        ensemble_shards(study, full)


TRACEBACK = """Traceback (most recent call last):
  File "/a/cli.py", line 1, in main
    app()
  File "/a/my_networks.py", line 3, in forward
    return x @ w
           ~~^~~
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("probe: 1/4\nerror: the disk is full", "error: the disk is full"),
        ("error: two reasons:\n  one\nand another", "error: two reasons:"),
        (TRACEBACK + "my.Own: shapes\nnetwork.factory: 'my:make'\n", "my.Own: shapes"),
        (TRACEBACK + "ValueError: a\n\nDuring handling …\n\n" + TRACEBACK + "KeyError: 'b'\n", "KeyError: 'b'"),
        (TRACEBACK, "~~^~~"),
        ("members: 1/4\rmembers: 2/4\nSIGTERM: preempted\n", "SIGTERM: preempted"),
        ("x" * 20_000, "x" * 240 + "…"),
    ],
)
def test_the_reason_that_a_log_gives_is_that_of_its_last_error(tmp_path, log, reason):
    study = on_disk(tmp_path, ((0, 4, 8), (0, 8)))
    path = study.log_path(study.shard_path(study.arms[1], 4, 7))
    path.parent.mkdir(parents=True)
    path.write_text(log)
    assert f"log {path}: {reason}\n" in missing_report(study)


def test_what_is_missing_is_said_with_the_last_words_of_its_log(tmp_path):
    study = on_disk(tmp_path, ((0, 4, 8), (0, 8)))
    none, full = study.arms
    assert "was not started" in missing_report(study)
    for arm in study.arms:
        for path in (study.data_path(arm), study.theory_path(arm), study.probe_path(arm)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        study.learning_rate_path(arm).touch()
    study.ensemble_path(none).parent.mkdir()
    study.ensemble_path(none).touch()
    shard = study.shard_path(full, 4, 7)
    log = study.log_path(shard)
    log.parent.mkdir(parents=True)
    log.write_text("members: 1/4\rmembers: 2/4\nerror: the disk is full\n\n")
    said = missing_report(study)
    for text in (
        "arm augmentation~full: 1 of 3 shards",
        f"members 4–7: {shard}",
        f"log {log}: error: the disk is full",
        "Complete arms: augmentation~none.",
        "metrics.nc",
        "allow_missing: true in study.yaml",
    ):
        assert text in said, said
    assert "augmentation~none:" not in said and "analytic" not in said
    log.write_bytes(b"")
    assert "is empty: the job was ended from outside" in missing_report(study)
    shard.touch()
    study.ensemble_path(full).touch()
    for path in final_products(study):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert missing_report(study) == ""
    study.shard_path(none, 0, 3).unlink()
    assert "members 0–3" in missing_report(study), "the ensemble that is there was made of more"
    closed = on_disk(tmp_path, ((), ()), allow_missing=True)
    assert missing_report(closed) == ""


@pytest.mark.parametrize("name", ["cosine", "digits", "histology_ntk", "kernel_convergence"])
def test_every_product_that_is_not_there_is_missed(tmp_path, name):
    study = load_study(ROOT / "config" / f"{name}.yaml", tmp_path)
    places = [*expected(study).values(), *shards_planned(study, []).values()]
    assert set(products(study)) == {place.path for place in places if place.needed}
    assert set(figure_names(study)) <= set(FIGURES)
    for path in products(study):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert missing_report(study) == ""
    for path in products(study):
        path.unlink()
        assert str(path) in missing_report(study)
        assert any(job.missing for job in jobs(study)), path
        path.touch()


def test_every_picture_belongs_to_a_kind_of_study():
    assert set(FIGURES) == {name for pictures in PICTURES.values() for name in pictures}


def test_results_of_another_version_are_not_complete(tmp_path):
    study = on_disk(tmp_path, ((0, 4, 8), (0, 4, 8)))
    for path in products(study):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert missing_report(study) == ""
    none, full = study.arms
    attributes = {"config_hash": none.result_hash}
    store.write(xr.Dataset({"x": ("sample", np.zeros(2))}), study.result_path(none), attributes)
    assert missing_report(study) == ""
    store.write(xr.Dataset({"x": ("sample", np.zeros(2))}), study.result_path(full), attributes)
    said = missing_report(study)
    assert f"{study.result_path(full)}\n      is of another version of the study" in said
    assert "Complete arms: augmentation~none." in said
    study.result_path(full).unlink()
    study.result_path(full).touch()
    store.write_netcdf(xr.Dataset({"x": ("arm", np.zeros(2))}), study.metrics_path, attributes)
    assert f"{study.metrics_path}: is of another version of the study" in missing_report(study)


def test_values_of_a_sweep_that_mean_the_same_are_refused():
    for key, values in {"training.learning_rate": [1, 1.0, 2], "network.width": {"a": 4, "b": 4}}.items():
        with pytest.raises(StudyError, match=r"study.yaml: sweep: the arms .*~.* and .*~.* have the same settings"):
            parse_study({**CONTENT, "sweep": {key: values}}, Path("study.yaml"))


def test_one_controller_at_a_time_and_none_after_its_end(tmp_path):
    study = on_disk(tmp_path, ((), ()))
    assert controller.other(study) == ""
    held = controller.acquire(study)
    assert held is not None and json.loads(controller.lock_path(study).read_text())["study_file"] == "study.yaml"
    with pytest.raises(StudyError, match=r"study.yaml: another Snakemake \(process \d+ on .* works on .*tiny now"):
        controller.acquire(study)
    assert "with study.yaml in" in controller.other(study)
    other = parse_study({**CONTENT, "study": "another"}, Path("study.yaml"), tmp_path / "results")
    second = controller.acquire(other)
    assert second is not None
    held.close()
    assert controller.other(study) == ""
    again = controller.acquire(study)
    assert again is not None
    for file in (again, second):
        file.close()
