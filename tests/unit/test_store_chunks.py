"""Stores written chunk by chunk: the same file as far as a reader can tell, complete or not there."""

import zipfile

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance import store
from emergent_equivariance.errors import StoreError
from emergent_equivariance.study import FORMAT

CHUNK = (4, 3, 2)
VALUES = np.random.default_rng(0).standard_normal((10, 7, 2))
REGIONS = {(r, c, 0): (slice(4 * r, 4 * r + 4), slice(3 * c, 3 * c + 3)) for r in range(3) for c in range(3)}


def write(path, chunks):
    rest = xr.Dataset({"size": ("row", np.arange(10.0))}, {"row": np.arange(10), "name": ("row", list("abcdefghij"))})
    shapes = {"kernel": (("row", "column", "element"), VALUES.shape)}
    store.write_chunks(rest, shapes, CHUNK, chunks, path, {"format": FORMAT, "config_hash": "k"})


def chunks(indices=REGIONS):
    return [("kernel", index, VALUES[REGIONS[index]]) for index in indices]


@pytest.mark.filterwarnings("error")
def test_chunks_in_any_order_give_one_array(tmp_path):
    path = tmp_path / "a.zarr.zip"
    write(path, chunks(list(REGIONS)[::-1]))
    found = store.read(path, config_hash="k")
    np.testing.assert_array_equal(found["kernel"], VALUES)
    assert found["kernel"].encoding["chunks"] == CHUNK
    assert list(found["name"].values) == list("abcdefghij")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.zip"]
    assert found.attrs["checksum"] == store.checksum(found)


def test_the_checksum_does_not_depend_on_the_order_but_on_every_value(tmp_path):
    sums = []
    for number, given in enumerate((chunks(), chunks(list(REGIONS)[::-1]), chunks())):
        if number == 2:
            name, index, values = given[5]
            given[5] = (name, index, np.nextafter(values, 1))
        write(tmp_path / "a.zarr.zip", given)
        sums.append(store.read(tmp_path / "a.zarr.zip").attrs["checksum"])
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (chunks(list(REGIONS)[1:]), r"1 chunks of kernel are missing, the first is \(0, 0, 0\)"),
        ([*chunks(), chunks()[3]], r"chunk \(1, 0, 0\) of kernel comes twice"),
        ([("kernel", (2, 2, 0), np.zeros((4, 3, 2)))], r"chunk \(2, 2, 0\).*has the shape \(4, 3, 2\)"),
    ],
)
def test_nothing_is_written_unless_every_chunk_comes_once(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        write(tmp_path / "a.zarr.zip", given)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_chunk_is_noticed(tmp_path):
    path = tmp_path / "a.zarr.zip"
    write(path, chunks())
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != "kernel/c/1/1/0"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in kept.items():
            archive.writestr(name, entry)
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: is damaged"):
        store.read(path)
