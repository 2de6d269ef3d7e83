"""``open_study``: the results of a study from its folder alone."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import yaml

import emergent_equivariance
from emergent_equivariance import open_study, store
from emergent_equivariance.errors import StoreError, StudyError

from .finished_study import CONTENT

NONE, FULL = "augmentation~none", "augmentation~full"

KERNELS = {
    **{key: CONTENT[key] for key in ("task", "network", "tracking")},
    "study": "kernels",
    "kind": "kernel_regression",
    "regression": {"sizes": [2, 6]},
    "sweep": {"network.b_std": [0.5, 0.1]},
}


@pytest.fixture
def folder(measured, tmp_path):
    """The results moved elsewhere, without the study file."""
    return shutil.copytree(measured.root, tmp_path / "small")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    from emergent_equivariance.study import load_study

    folder = tmp_path_factory.mktemp("kernels")
    file = folder / "kernels.yaml"
    file.write_text(yaml.safe_dump(KERNELS))
    study = load_study(file, folder)
    commands = [["data", "--key", study.arms[0].data_key]]
    commands += [["measure", "--arm", arm.path] for arm in study.arms]
    script = "import json, sys; from emergent_equivariance.cli import app\n"
    for name, *rest in [*commands, ["metrics"]]:
        script += f"app({[name, str(file), *rest, '--results', str(folder)]!r}, standalone_mode=False)\n"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return study.root


def test_it_imports_no_engine_and_the_package_imports_nothing():
    script = """
import sys, emergent_equivariance
assert not {"numpy", "pydantic", "xarray"} & set(sys.modules)
emergent_equivariance.open_study
assert not {"jax", "torch", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert {"open_study", "Results"} <= set(dir(emergent_equivariance))
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = emergent_equivariance.nonesuch


def test_arms_are_labelled_in_the_order_of_the_study_file(folder):
    study = open_study(folder)
    assert list(study.arms.index) == [NONE, FULL]
    assert study.arms.loc[FULL].to_dict() == {"augmentation": "full", "network_width": 8, "group": "c4"}
    assert study.settings(augmentation="none").training.recorded == [0, 3, 10]
    assert "'small'" in repr(study) and FULL in repr(study)
    (folder / "metrics.nc").unlink()
    assert sorted(open_study(folder).arms.index) == [FULL, NONE]


def test_members_are_those_of_the_shards_and_give_the_mean_of_the_ensemble(folder, measured):
    study = open_study(folder)
    members = study.members(augmentation="full")
    assert members["prediction"].chunks[0] == (2, 2)
    arm = measured.arm(FULL)
    shards = [store.read(measured.shard_path(arm, *shard)) for shard in measured.shards(arm)]
    together = np.concatenate([shard["prediction"].values for shard in shards])
    assert np.array_equal(members["prediction"].values, together)
    assert members["member"].values.tolist() == [0, 1, 2, 3]
    mean = members["prediction"].astype(float).mean("member")
    ensemble = study.ensemble(FULL)["mean"].drop_vars("split_of_sample")
    xr.testing.assert_allclose(mean.drop_vars("split"), ensemble, rtol=1e-12)


def test_data_theory_metrics_and_tables_are_those_of_the_files(folder, measured):
    study = open_study(folder, verify=True)
    xr.testing.assert_identical(study.metrics, store.read_netcdf(measured.metrics_path))
    assert study.metrics["orbit_variance"].sel(arm=FULL, split="test", member_count=4).sizes == {"step": 3}
    xr.testing.assert_equal(study.theory(FULL), store.read(measured.theory_path(measured.arm(FULL))))
    assert set(study.data(FULL)["split"].values) == {"train", "test", "ood-gaussian"}
    written = (measured.root / "tables" / "key_numbers.csv").read_text()
    assert study.table().to_csv(index=False) == written
    with pytest.raises(StudyError, match=r"no table 'means'\. Use one of .*key_numbers"):
        study.table("means")


@pytest.mark.parametrize(
    ("arguments", "selection", "said"),
    [
        ((), {}, "which of 2 arms is not said. Give augmentation, or the name"),
        ((), {"network_width": [2, 3]}, "no arm has network_width = [2, 3]. Values of network_width are "),
        ((), {"augmentation": "half"}, "no arm has augmentation = 'half'. Values of augmentation are 'none', 'full'"),
        ((), {"width": 8}, "not labelled by 'width'. Use some of augmentation, network_width, group"),
        ((), {"network_width": 8}, "2 arms have network_width = 8. Give augmentation"),
        (("width~8",), {}, "there is no arm 'width~8'. Use one of"),
        ((FULL,), {"augmentation": "full"}, "Give one of them"),
    ],
)
def test_a_selection_that_singles_out_no_arm_is_told(measured, arguments, selection, said):
    with pytest.raises(StudyError) as caught:
        open_study(measured.root).ensemble(*arguments, **selection)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(measured.root))


def test_what_is_not_there_is_told(folder, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere: is no folder\. Give"):
        open_study(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"holds no results of a study .* for instance .*small"):
        open_study(tmp_path)
    bare = tmp_path / "bare"
    (bare / "logs" / "ensemble").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"bare: holds no results of a study .* Run the study again"):
        open_study(bare)
    study = open_study(folder)
    (folder / "metrics.nc").unlink()
    with pytest.raises(StoreError, match=r"metrics\.nc: does not exist: the study is not finished"):
        _ = study.metrics
    (folder / "members" / FULL / "members-000000-000001.zarr.zip").unlink()
    with pytest.raises(StoreError, match=r"2 of 4 members are not there, the first is 0\. .*allow_missing=True"):
        study.members(FULL)
    assert study.members(FULL, allow_missing=True)["member"].values.tolist() == [2, 3]
    shutil.rmtree(folder / "members" / FULL)
    with pytest.raises(StoreError, match=r"4 of 4 members are not there"):
        study.members(FULL, allow_missing=True)


def test_a_foreign_shard_is_refused(folder):
    name = "members-000000-000001.zarr.zip"
    shutil.copy(folder / "members" / NONE / name, folder / "members" / FULL / name)
    with pytest.raises(StoreError, match=rf"{FULL}/{name}: was written by another version"):
        open_study(folder).members(FULL)


def test_damage_is_found_by_who_verifies(folder, measured):
    path = folder / "ensemble" / f"{FULL}.zarr.zip"
    content = bytearray(path.read_bytes())
    at = content.index(b"mean/c/0/0/0/0") + 200
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        open_study(folder, verify=True).ensemble(FULL)


def test_studies_of_kernels_have_measures_and_no_members(kernels):
    study = open_study(kernels)
    assert study.arms["b_std"].tolist() == [0.5, 0.1]
    assert study.measure(b_std=0.5).sizes["size"] == 2
    assert list(study.table("learning_curves")["b_std"].unique()) == [0.5, 0.1]
    with pytest.raises(StudyError, match=r"of kind kernel_regression\. Use measure and data"):
        study.members(b_std=0.5)


def test_an_arm_without_a_mean_has_no_theory(measured, tmp_path):
    from emergent_equivariance.study import load_study

    file = tmp_path / "s.yaml"
    file.write_text(
        yaml.safe_dump(
            {**CONTENT, "sweep": {"training.optimizer": ["sgd"]}, "training": {"learning_rate": 0.1, "epochs": 1}}
        )
    )
    study = load_study(file, tmp_path)
    arm = study.arms[0]
    shard = store.read(measured.shard_path(measured.arm(NONE), 0, 1)).load()
    attributes = {**store.provenance(study, arm), "config_hash": arm.config_hash}
    store.write(shard, study.shard_path(arm, 0, 1), attributes)
    with pytest.raises(StudyError, match=r"optimizer~sgd has no analytic mean"):
        open_study(study.root).theory()
