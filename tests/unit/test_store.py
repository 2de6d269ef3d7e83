"""Stores: atomic, checksummed, refused by name when damaged or foreign."""

import errno
import json
import os

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance import store
from emergent_equivariance.errors import StoreError
from emergent_equivariance.groups import get_group, grid_action
from emergent_equivariance.settings import IsingTask
from emergent_equivariance.study import FORMAT
from emergent_equivariance.tasks.ising import build

ATTRIBUTES = {"format": FORMAT, "config_hash": "abc"}


@pytest.fixture
def dataset():
    values = np.random.default_rng(0).standard_normal((40, 3, 5)).astype(np.float32)
    values[7] = np.nan
    return xr.Dataset(
        {"prediction": (("member", "step", "sample"), values), "done": ("member", np.ones(40, bool))},
        {"member": np.arange(40), "split": ("sample", ["train", "train", "test", "ood-a", "ood-a"])},
        {"note": "x"},
    )


@pytest.mark.filterwarnings("error")
def test_round_trip(tmp_path, dataset):
    path = tmp_path / "deep" / "a.zarr.zip"
    store.write(dataset, path, ATTRIBUTES)
    back = store.read(path, config_hash="abc")
    xr.testing.assert_identical(back.load().drop_attrs(), dataset.drop_attrs())
    assert back.attrs["note"] == "x"
    assert [p.name for p in path.parent.iterdir()] == ["a.zarr.zip"], "no temporary file stays"


def test_two_writes_of_the_same_numbers_give_the_same_bytes(tmp_path, dataset):
    for name in "ab":
        store.write(dataset, tmp_path / name, ATTRIBUTES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_does_not_compress_takes_no_more_room_than_it_has(tmp_path, monkeypatch):
    """Chunks are written in full: 60 rows in chunks of at most 17 are 4 chunks of 15, not 4 of 17."""
    rng = np.random.default_rng(0)
    noise = xr.Dataset({"prediction": (("member", "value"), rng.normal(size=(60, 1000)).astype(np.float32))})
    monkeypatch.setattr(store, "BLOCK_BYTES", 2 * 17 * 4000)
    store.write(noise, tmp_path / "a.zarr.zip", {"format": FORMAT})
    assert (tmp_path / "a.zarr.zip").stat().st_size < 1.02 * noise["prediction"].nbytes
    xr.testing.assert_equal(store.read(tmp_path / "a.zarr.zip").load().drop_attrs(), noise)


def test_the_sign_of_nan_does_not_matter(tmp_path):
    """zarr drops a chunk of NaN and gives back positive ones."""
    negative = xr.Dataset({"a": ("x", np.copysign(np.full(3, np.nan), -1))})
    store.write(negative, tmp_path / "a.zarr.zip", ATTRIBUTES)
    assert store.read(tmp_path / "a.zarr.zip")["a"].isnull().all()


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "chunk lost"])
def test_damage_is_refused_by_name(tmp_path, dataset, damage):
    import zipfile

    path = tmp_path / "a.zarr.zip"
    store.write(dataset, path, ATTRIBUTES)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped":
        with zipfile.ZipFile(path) as archive:
            info = max(archive.infolist(), key=lambda entry: entry.file_size)
        at = info.header_offset + len(content[info.header_offset :][:30]) + len(info.filename) + 50
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    else:
        with zipfile.ZipFile(path) as archive:
            kept = {
                e.filename: archive.read(e) for e in archive.infolist() if not e.filename.startswith("prediction/c")
            }
        with zipfile.ZipFile(path, "w") as archive:
            for name, entry in kept.items():
                archive.writestr(name, entry)
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: is damaged.*Delete this file"):
        store.read(path)


def test_a_foreign_store_is_refused_by_name(tmp_path, dataset):
    path = tmp_path / "a.zarr.zip"
    store.write(dataset, path, ATTRIBUTES)
    with pytest.raises(StoreError, match=r"another version of the study.*abc.*expected other"):
        store.read(path, config_hash="other")
    store.write(dataset, path, {"format": FORMAT + 1})
    with pytest.raises(StoreError, match="format"):
        store.read(path)


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"none\.zarr\.zip: does not exist"):
        store.read(tmp_path / "none.zarr.zip")


def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path, dataset, monkeypatch):
    path = tmp_path / "a.zarr.zip"
    store.write(dataset, path, ATTRIBUTES)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        store.write(dataset.assign(prediction=dataset["prediction"] + 1), path, ATTRIBUTES)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.zip"]


def test_tasks_round_trip(tmp_path):
    group = get_group("c4")
    task = build(IsingTask(name="ising", target="local", train=5, test=4), group)
    path = tmp_path / "data.zarr.zip"
    store.write(store.task_to_dataset(task), path, {"format": FORMAT})
    back = store.task_from_dataset(store.read(path))
    for name in ("input", "target", "split"):
        np.testing.assert_array_equal(getattr(back, name), getattr(task, name))
    np.testing.assert_array_equal(back.output_action.source, grid_action(group, 5, 5).source)
    np.testing.assert_array_equal(back.readout.matrix, task.readout.matrix)
    assert json.dumps(back.provenance) == json.dumps(task.provenance)
    back.check()
