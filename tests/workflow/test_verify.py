"""A damaged shard: found, removed, and made again by the next run, with what was made from it."""

import pytest

from emergent_equivariance import store
from emergent_equivariance.study import load_study

SHARD = "members/augmentation~full/members-000004-000007.zarr.zip"


@pytest.mark.slow
def test_a_repaired_study_is_completed_and_equals_the_original(workplace, finished):
    whole = (workplace.root / SHARD).read_bytes()
    (workplace.root / SHARD).write_bytes(whole[: len(whole) // 2])
    repaired = workplace.emeq("verify", "study.yaml", "--repair")
    assert repaired.returncode == 1, repaired.stderr
    assert [line.split()[1] for line in repaired.stdout.splitlines() if line.startswith("removed")] == [
        f"results/tiny/{SHARD}"
    ]

    again = {"train_shard": 1, "aggregate_arm": 1, "join_metrics": 1, "draw_figures": 1, "all": 1}
    assert workplace.planned() == again
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    verified = workplace.emeq("verify", "study.yaml")
    assert verified.returncode == 0 and "all is well" in verified.stdout, verified.stdout + verified.stderr

    original = load_study(finished.file, finished.root.parent)
    for path in (SHARD, original.ensemble_path(original.arms[1]).relative_to(original.root)):
        assert store.read(workplace.root / path).equals(store.read(original.root / path))
    assert store.read_netcdf(workplace.root / "metrics.nc").equals(store.read_netcdf(original.metrics_path))
