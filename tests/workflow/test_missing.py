"""A shard that fails for good: what the others gave, what is said of it, and how a study is closed without it."""

import shutil

import pytest

from emergent_equivariance import store
from emergent_equivariance.cli import stages
from emergent_equivariance.study import load_study

from .conftest import TINY

FULL = "members/augmentation~full/members-000004-000007.zarr.zip"
ALLOWED = {**TINY["execution"], "allow_missing": True}
AFTER_A_SHARD = {"aggregate_arm": 1, "join_metrics": 1, "draw_figures": 1, "all": 1}


def output_of(done):
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_shard_that_fails_for_good_is_named_and_the_study_closed_without_it(workplace):
    study = load_study(workplace.file, workplace.root.parent)
    none, full = study.arms
    kept = workplace.folder / "kept.zip"
    shutil.move(workplace.root / FULL, kept)
    shutil.rmtree(workplace.root / "ensemble")
    choice = study.probe_path(full)
    text = choice.read_text()
    choice.write_text(text[:50])

    failed = workplace.snakemake()
    assert failed.returncode != 0
    said = output_of(failed).split("is not complete")[-1]
    for part in (
        "arm augmentation~full: 1 of 3 shards",
        f"members 4–7: results/tiny/{FULL}",
        "log results/tiny/logs/members/augmentation~full/members-000004-000007.log: error: results/tiny/engine/",
        "Complete arms: augmentation~none.",
        f"execution.allow_missing: true in {workplace.file}",
    ):
        assert part in said, said
    assert study.ensemble_path(none).exists() and not study.ensemble_path(full).exists()
    assert "arm augmentation~none" not in said

    refused = workplace.emeq("aggregate", "study.yaml", "--arm", full.path)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    for part in (FULL, "snakemake --configfile study.yaml", "execution.allow_missing: true"):
        assert part in refused.stderr, refused.stderr

    workplace.write(execution=ALLOWED)
    assert workplace.planned() == AFTER_A_SHARD
    assert workplace.planned("all_members")["train_shard"] == 1
    closed = workplace.snakemake()
    assert closed.returncode == 0, output_of(closed)
    assert not (workplace.root / FULL).exists()
    metrics = store.read_netcdf(workplace.root / "metrics.nc")
    assert metrics["missing"].sel(arm=[none.path, full.path]).values.tolist() == [0, 4]
    assert metrics["members"].sel(arm=[none.path, full.path]).values.tolist() == [12, 8]
    assert "4 of 12 members are missing: augmentation~full" in (workplace.root / "report.html").read_text()
    assert "no ensembles of" not in study.log_path(study.ensemble_path(none)).read_text()
    assert "4 of 12 members are missing" in study.log_path(study.ensemble_path(full)).read_text()
    assert workplace.planned() == {}

    shutil.move(kept, workplace.root / FULL)
    assert workplace.planned() == AFTER_A_SHARD, "a shard that arrives later makes the ensemble again"
    (workplace.root / FULL).unlink()
    workplace.write(execution=TINY["execution"])
    assert workplace.planned()["train_shard"] == 1
    by_hand = workplace.emeq("metrics", "study.yaml")
    assert by_hand.returncode == 1
    assert "4 members are missing in it, and study.yaml does not set execution.allow_missing" in by_hand.stderr


@pytest.mark.slow
def test_an_ensemble_without_a_shard_does_not_pass_for_the_complete_one(workplace):
    """Though the shard that arrives later is older, and Snakemake's own records are lost."""
    shard, kept = workplace.root / FULL, workplace.folder / "kept.zip"
    shutil.move(shard, kept)
    workplace.write(execution=ALLOWED)
    stages.aggregate(workplace.file, "augmentation~full", workplace.root.parent)
    shutil.move(kept, shard)
    shutil.rmtree(workplace.folder / ".snakemake")
    assert workplace.planned() == AFTER_A_SHARD
    workplace.write(execution=TINY["execution"])
    assert workplace.planned() == AFTER_A_SHARD


@pytest.mark.slow
def test_the_key_changes_nothing_in_a_complete_study(workplace):
    workplace.write(execution=ALLOWED)
    assert workplace.planned() == {}
    complete = workplace.emeq("missing", "study.yaml")
    assert complete.returncode == 0 and "is complete" in complete.stdout
    workplace.write(training={**TINY["training"], "learning_rate": {"critical_fraction": 0.25}})
    changed = workplace.emeq("missing", "study.yaml")
    assert changed.returncode == 1 and "holds members of another version of this study" in changed.stderr


@pytest.mark.slow
def test_an_arm_without_any_shard_is_refused_by_name_and_can_be_trained(workplace):
    shutil.rmtree(workplace.root / "members" / "augmentation~full")
    (workplace.root / "ensemble" / "augmentation~full.zarr.zip").unlink()
    workplace.write(execution=ALLOWED)
    dry = workplace.snakemake("-n")
    assert "the arm augmentation~full has no shard" in output_of(dry)
    refused = workplace.snakemake()
    assert refused.returncode != 0
    for part in ("augmentation~full 3 of 3 shards are missing", "all_members", "out of the sweep"):
        assert part in output_of(refused), output_of(refused)
    assert "Traceback" not in output_of(refused)
    assert workplace.planned("all_members")["train_shard"] == 3
    workplace.write(sweep={"augmentation": ["none"]})
    assert workplace.planned() == {"join_metrics": 1, "draw_figures": 1, "all": 1}


@pytest.mark.slow
def test_an_ensemble_without_a_shard_is_that_of_a_study_that_never_had_it(workplace):
    """Through the command line; all statistics in tests/unit/test_missing_members.py."""
    import numpy as np
    import xarray as xr

    study = load_study(workplace.file, workplace.root.parent)
    arm = study.arm("augmentation~full")
    (workplace.root / FULL).unlink()
    workplace.write(execution=ALLOWED)
    done = workplace.emeq("aggregate", "study.yaml", "--arm", arm.path)
    assert done.returncode == 0, done.stderr
    assert "4 of 12 members are missing" in done.stderr
    ensemble = store.read(study.ensemble_path(arm))
    shards = [store.read(study.shard_path(arm, *shard)) for shard in ((0, 3), (8, 11))]
    members = xr.concat(shards, dim="member")["prediction"].astype(float)
    np.testing.assert_allclose(ensemble["mean"], members.mean("member"), rtol=1e-12, atol=1e-12)
    assert np.unique(ensemble["member_count"]).tolist() == [1, 2, 4, 8]
