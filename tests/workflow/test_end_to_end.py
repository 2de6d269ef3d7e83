"""The whole way from a study file to metrics, and what a second run makes again."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance import store
from emergent_equivariance.study import Choice, load_study, read_probe, read_yaml

from .conftest import ROOT, TINY, Workplace


def shards(workplace):
    return {str(p.relative_to(workplace.root)): p.stat().st_mtime_ns for p in workplace.root.glob("members/**/*.zip")}


def test_a_study_becomes_metrics_figures_and_words(finished):
    metrics = store.read_netcdf(finished.root / "metrics.nc")
    assert {"arm", "step", "split", "member_count"} <= set(metrics["orbit_variance"].dims)
    assert set(metrics["augmentation"].values) == {"none", "full"}
    assert list(metrics["member_count"].values) == [1, 2, 4, 8, 12]
    assert list(metrics["split"].values) == ["train", "test", "ood-gaussian"]
    for name in ("orbit_variance", "orbit_mse", "difference_to_ntk", "zscore_to_ntk", "predicted_orbit_variance"):
        assert np.isfinite(metrics[name].sel(step=10)).all(), name
        assert f"{name}_se" in metrics
    assert (finished.root / "report.html").read_text().count("tiny")
    pictures = {p.stem for p in (finished.root / "figures").glob("*.svg")}
    assert {"orbit_scaling", "orbit_in_time"} <= pictures
    assert pictures == {p.stem for p in (finished.root / "figures").glob("*.png")}
    assert (finished.root / "tables" / "key_numbers.csv").read_text().count("\n") > 2


def test_the_ensemble_is_the_mean_of_its_members(finished):
    study = load_study(finished.file, finished.folder / "results")
    arm = study.arm("augmentation~full")
    members = xr.concat(
        [store.read(study.shard_path(arm, first, last)) for first, last in study.shards(arm)], dim="member"
    )["prediction"].astype(float)
    ensemble = store.read(study.ensemble_path(arm))
    np.testing.assert_allclose(ensemble["mean"], members.mean("member"), rtol=1e-12, atol=1e-12)
    observable = -members.sum("output") / 9
    expected = observable.mean("member").var("element").groupby("split").mean("sample")
    metrics = store.read_netcdf(finished.root / "metrics.nc")
    measured = metrics["orbit_variance"].sel(arm=arm.path, member_count=12)
    np.testing.assert_allclose(measured.sel(split=expected["split"]).transpose(*expected.dims), expected, rtol=1e-6)


def test_a_finished_study_has_nothing_to_do(workplace):
    assert workplace.planned() == {}


@pytest.mark.slow
def test_a_deleted_shard_alone_is_made_again(workplace):
    before = shards(workplace)
    lost = "members/augmentation~full/members-000004-000007.zarr.zip"
    content = store.read(workplace.root / lost).load()
    metrics = store.read_netcdf(workplace.root / "metrics.nc")
    (workplace.root / lost).unlink()
    assert workplace.planned() == {
        "train_shard": 1,
        "aggregate_arm": 1,
        "join_metrics": 1,
        "draw_figures": 1,
        "all": 1,
    }
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    after = shards(workplace)
    assert {name for name in after if after[name] != before[name]} == {lost}
    xr.testing.assert_equal(store.read(workplace.root / lost).load(), content)
    xr.testing.assert_equal(store.read_netcdf(workplace.root / "metrics.nc"), metrics)


@pytest.mark.slow
def test_more_members_and_another_arm_reuse_every_shard(workplace):
    before = shards(workplace)
    workplace.write(ensemble={"members": 18}, sweep={"augmentation": ["none", "full", "random"]})
    assert workplace.planned()["train_shard"] == 2 * 2 + 5
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    after = shards(workplace)
    assert {name: after[name] for name in before} == before
    metrics = store.read_netcdf(workplace.root / "metrics.nc")
    assert list(metrics["members"].values) == [18, 18, 18]
    random = metrics.sel(arm="augmentation~random", step=10)
    assert np.isfinite(random["difference_to_ntk"]).all()
    assert random["predicted_orbit_variance"].isnull().all()


@pytest.mark.slow
def test_changed_evaluation_and_theory_keep_the_members(workplace):
    workplace.write(evaluate={"samples": 8, "member_counts": [3]})
    assert workplace.planned() == {"aggregate_arm": 2, "join_metrics": 1, "draw_figures": 1, "all": 1}
    workplace.write(evaluate=TINY["evaluate"], theory={"covariance": False})
    assert workplace.planned() == {
        "compute_theory": 2,
        "aggregate_arm": 2,
        "join_metrics": 1,
        "draw_figures": 1,
        "all": 1,
    }
    workplace.write(theory={}, sweep={"augmentation": ["none"]})
    assert workplace.planned() == {"join_metrics": 1, "draw_figures": 1, "all": 1}


@pytest.mark.parametrize(
    ("lost", "members", "trained"),
    [("data", 16, 2), pytest.param("theory", 16, 2, marks=pytest.mark.slow), ("theory", 12, 0)],
)
def test_lost_inputs_do_not_retrain_existing_shards(workplace, lost, members, trained):
    shutil.rmtree(workplace.root / lost)
    workplace.write(ensemble={"members": members})
    assert workplace.planned().get("train_shard", 0) == trained


@pytest.mark.slow
def test_a_key_swept_for_a_while_leaves_nothing_stale(workplace):
    workplace.write(sweep={"augmentation": ["none", "full"], "ensemble.seed": [0]})
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    workplace.write(sweep=TINY["sweep"])
    assert workplace.planned() == {"join_metrics": 1, "draw_figures": 1, "all": 1}


@pytest.mark.slow
def test_forcing_everything_makes_everything_again_but_shards(workplace):
    def inodes(pattern):
        return {str(path): path.stat().st_ino for path in workplace.root.glob(pattern)}

    made = {pattern: inodes(pattern) for pattern in ("data/*", "theory/*", "ensemble/*", "metrics.nc", "report.html")}
    before = inodes("members/**/*.zip")
    done = workplace.snakemake("--forceall", "--cores", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert inodes("members/**/*.zip") == before
    for pattern, files in made.items():
        again = inodes(pattern)
        assert set(again) == set(files) and all(again[name] != files[name] for name in files), pattern


def test_a_changed_study_is_refused_and_nothing_is_lost(workplace):
    before = shards(workplace)
    workplace.write(training={**TINY["training"], "learning_rate": {"critical_fraction": 0.4}})
    done = workplace.snakemake()
    assert done.returncode != 0
    output = done.stdout + done.stderr
    for text in ("study.yaml", "members/augmentation~none", "another version", "another name", "delete"):
        assert text in output, output
    assert "Traceback" not in output
    assert shards(workplace) == before
    arguments = ["--arm", "augmentation~none", "--first", "0", "--last", "3"]
    by_hand = workplace.emeq("train", "study.yaml", *arguments)
    assert by_hand.returncode == 1
    assert "another version of the study" in by_hand.stderr
    assert "another version of the study" in workplace.emeq("metrics", "study.yaml").stderr
    assert shards(workplace) == before


@pytest.mark.slow
def test_more_steps_beyond_the_last_record_change_nothing(workplace):
    workplace.write(training={**TINY["training"], "steps": 20})
    assert workplace.planned() == {}


@pytest.mark.slow
def test_one_arm_can_be_built_alone(tmp_path):
    workplace = Workplace(tmp_path, {**TINY, "ensemble": {"members": 2}})
    done = workplace.snakemake("results/tiny/ensemble/augmentation~full.zarr.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.parent.name for p in workplace.root.glob("members/**/*.zip")} == {"augmentation~full"}


@pytest.mark.slow
def test_a_damaged_shard_is_refused_by_name_and_nothing_is_lost(workplace):
    path = workplace.root / "members" / "augmentation~full" / "members-000000-000003.zarr.zip"
    path.write_bytes(path.read_bytes()[:2000])
    before = shards(workplace)
    done = workplace.snakemake()
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert str(path.relative_to(workplace.folder)) in output
    assert "is damaged" in output
    assert "Delete this file" in output
    assert "Traceback" not in output
    assert shards(workplace) == before
    path.unlink()
    assert workplace.snakemake().returncode == 0


def test_a_shard_of_another_study_is_refused_by_name(workplace):
    folder = workplace.root / "members"
    foreign = folder / "augmentation~full" / "members-000000-000003.zarr.zip"
    shutil.copy(folder / "augmentation~none" / foreign.name, foreign)
    done = workplace.emeq("aggregate", "study.yaml", "--arm", "augmentation~full")
    assert done.returncode == 1
    assert "another version of the study" in done.stderr
    assert str(foreign.relative_to(workplace.folder)) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_study_is_refused_before_anything_runs(tmp_path):
    workplace = Workplace(tmp_path, {**TINY, "group": "q8"})
    done = workplace.snakemake("-n")
    assert done.returncode != 0
    assert "study.yaml: group: 'q8' is not a known group" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_study_changed_from_the_command_line_is_refused(workplace):
    done = workplace.snakemake("-n", "--config", "group=c2")
    assert done.returncode != 0
    assert "--config" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_task_of_ones_own_runs_to_the_report(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    place = Workplace(tmp_path, {**read_yaml(ROOT / "examples" / "parity.yaml"), "tracking": {"wandb": "disabled"}})
    done = place.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    ratio = store.read_netcdf(place.root / "metrics.nc")["orbit_variance_ratio"]
    full = ratio.sel(arm="augmentation~full", step=0)
    assert ((full > 0.5) & (full < 2)).all(), full.values


SHIPPED = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name.endswith("_full") else ()) for name in SHIPPED],
)
def test_every_shipped_study_dry_runs(tmp_path, name):
    place = Workplace(tmp_path, {"study": "unused"})
    place.file = ROOT / "config" / f"{name}.yaml"
    done = place.snakemake("-n", "--quiet", "all")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_configfile_the_ising_study_runs(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--cores", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "results/ising/metrics.nc" in done.stdout + done.stderr


def test_the_learning_rate_file_is_what_training_used(finished):
    study = load_study(finished.file, finished.folder / "results")
    for arm in study.arms:
        rates = json.loads(study.learning_rate_path(arm).read_text())
        assert rates["learning_rate"] == pytest.approx(0.5 * rates["critical_learning_rate"])
        assert store.read(study.shard_path(arm, 0, 3)).attrs["learning_rate"] == rates["learning_rate"]


def choices(workplace):
    return {p.name: p.read_text() for p in (workplace.root / "engine").iterdir()}


def test_shards_say_how_they_were_trained(finished):
    study = load_study(finished.file, finished.folder / "results")
    assert len(choices(finished)) == 2, "one per arm: they differ in their number of rows"
    for arm in study.arms:
        probe = read_probe(study.probe_path(arm), arm.probe_key)
        assert probe is not None and "less than a measurement is worth" in probe.reason
        for first, last in study.shards(arm):
            attributes = store.read(study.shard_path(arm, first, last)).attrs
            assert attributes["probe_key"] == arm.probe_key
            assert attributes["device"] == probe.device == "cpu"
            for name in ("engine", "variant", "members_at_once"):
                assert attributes[name] == getattr(probe.choice, name)
    assert list((finished.root / ".cache" / "jax").rglob("*-cache")), "jobs share what they compile"


@pytest.mark.slow
def test_how_an_arm_is_trained_is_decided_once(workplace):
    """What lies there is used, whatever it says; existing shards do not ask for it."""
    study = load_study(workplace.file, workplace.folder / "results")
    arm = study.arm("augmentation~full")
    path, shard = study.probe_path(arm), study.shard_path(arm, 4, 7)
    probe = read_probe(path, arm.probe_key)
    assert probe is not None
    before, content = shards(workplace), store.read(shard).load()
    other = dataclasses.replace(probe, choice=Choice("torch", "vmap", 3, 4), device="cpu")
    path.write_text(other.to_json())
    written = choices(workplace)
    shard.unlink()
    workplace.write(ensemble={"members": 12}, sweep={"augmentation": ["none", "full"]})
    assert "probe_engine" not in workplace.planned()
    done = workplace.snakemake(str(shard.relative_to(workplace.folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert choices(workplace) == written
    trained = store.read(shard).load()
    assert (trained.attrs["engine"], trained.attrs["members_at_once"], trained.attrs["device"]) == ("torch", 3, "cpu")
    np.testing.assert_allclose(trained["prediction"], content["prediction"], atol=1e-5)
    after = shards(workplace)
    assert {name for name in after if after[name] != before[name]} == {str(shard.relative_to(workplace.root))}
    shutil.rmtree(workplace.root / "engine")
    planned = workplace.planned()
    assert "train_shard" not in planned and "probe_engine" not in planned


@pytest.mark.slow
def test_seeds_share_the_choice(workplace):
    workplace.write(sweep={"augmentation": ["none", "full"], "ensemble.seed": [0, 1, 2]})
    planned = workplace.planned()
    assert planned["train_shard"] == 18 and "probe_engine" not in planned
    shutil.rmtree(workplace.root / "engine")
    assert workplace.planned()["probe_engine"] == 2


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda text: text[:100], "Delete it"),
        (lambda text: text.replace('"device": "cpu"', '"device": "H200"'), "delete this file"),
    ],
)
def test_a_choice_that_is_damaged_or_for_a_gpu_that_is_not_here_is_refused_by_name(workplace, change, remedy):
    study = load_study(workplace.file, workplace.folder / "results")
    path = study.probe_path(study.arms[0])
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    done = workplace.emeq("train", "study.yaml", "--arm", study.arms[0].path, "--first", "12", "--last", "12")
    assert done.returncode == 1
    assert str(path.relative_to(workplace.folder)) in done.stderr and remedy in done.stderr
    assert "Traceback" not in done.stderr
